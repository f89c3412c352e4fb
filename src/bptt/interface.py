"""The interface of the ground floor: what ``bptt.kernels`` and ``bptt.reference`` both offer.

For type checkers and readers; nothing here runs. Arrays are C-contiguous, aligned, in native byte order and
of one floating dtype: the caller has checked that, see ``checks``.
"""

from __future__ import annotations

from typing import Any, Protocol

from bptt.arrays import Array, Tokens, Weights


class Saved(Protocol):
    """What ``unroll`` keeps for ``bptt``. x and y are the arrays themselves, the weights are a copy."""

    @property
    def x(self) -> Array | Tokens:
        """Input (T, B, I), or token ids (T, B)."""

    @property
    def state(self) -> tuple[Array]:
        """Initial state (h_0,), h_0 (B, H)."""

    @property
    def y(self) -> Array:
        """State after every step, (T, B, H)."""

    @property
    def weights(self) -> Weights:
        """Parameters at the forward pass."""


class Stepper(Protocol):
    """The state of B sequences, and packed weights that carry it one time step on; for one thread."""

    #: (h,), h (B, H): a copy; another may be assigned.
    state: tuple[Array]

    def step(
        self,
        x: Any,  # (B, I), or (B,) int64 token ids
        out: Any = None,  # (B, H)
    ) -> Array | None:
        """Return h (B, H) one step on, a new array or `out`: the bits of ``unroll`` over the whole sequence.

        The caller has not checked x and `out`: None if they are not in a form taken, and nothing is done
        then. A checked x without `out` is taken; for B = 1, x and `out` without a batch axis may be.
        """


class Backend(Protocol):
    """A module of the ground floor."""

    def unroll(
        self,
        cell: str,  # "tanh", "relu", "sigmoid" or "identity"
        x: Array | Tokens,  # (T, B, I), or (T, B) int64 token ids in [0, I), standing for one-hot rows
        state: tuple[Array],  # (h_0,), h_0 (B, H)
        weights: Any,  # Weights, or what `pack` made for this cell and kind of x: then `keep` must be False
        *,
        keep: bool = True,
        threads: int = 1,
    ) -> tuple[Array, tuple[Array], Any]:
        """Return y (T, B, H), the final state (h_n,) with h_n (B, H), and a `Saved` (None unless `keep`)."""

    def pack(self, cell: str, weights: Weights, *, tokens: bool = False) -> Any:
        """Return a snapshot of the weights, made ready once for many forward passes over x of one kind."""

    def short_call(
        self,
        weights: Any,  # what `pack` made for floating-point x
        x: Any,  # (T, B, I)
        h_0: Any,  # (1, B, H), or None for zeros
    ) -> tuple[Array, Array] | None:
        """Return y (T, B, H) and h_n (1, B, H) of a call that is quickly done.

        The caller has not checked x and h_0: None if they are not in a form taken, or the call is not short.
        """

    def Stepper(
        self,
        cell: str,
        weights: Any,  # Weights, or what `pack` made for this cell and kind of x
        state: tuple[Array],  # (h_0,), h_0 (B, H), B >= 1; copied
        *,
        tokens: bool = False,
    ) -> Stepper:
        """Return a `Stepper`."""

    def bptt(
        self,
        cell: str,
        saved: Any,  # the Saved of this backend
        dy: Array | None,  # (T, B, H); None stands for zeros
        dfinal_state: tuple[Array] | None,  # (dh_n,), dh_n (B, H)
        *,
        depth: int | None = None,  # docs/equations.md, "Truncation"
        threads: int = 1,
    ) -> tuple[Array | None, tuple[Array], Weights]:
        """Return dx (T, B, I) (None for tokens), (dh_0,) with dh_0 (B, H), and the parameters' gradients."""

    def affine(
        self,
        x: Array,  # (N, K)
        weight: Array,  # (O, K)
        bias: Array | None,  # (O,)
        *,
        threads: int = 1,
    ) -> Array:
        """Return y = x W^T + b, (N, O)."""

    def affine_backward(
        self,
        x: Array,  # (N, K)
        weight: Array,  # (O, K)
        dy: Array,  # (N, O)
        *,
        threads: int = 1,
    ) -> tuple[Array, Array, Array]:
        """Return dx (N, K), dW (O, K) and db (O,)."""

"""The interface of the ground floor: what ``bptt.kernels`` and ``bptt.reference`` both offer.

For type checkers and readers; nothing here runs. Arrays are C-contiguous, aligned, in native byte order and
of one floating dtype: the caller has checked that, see ``checks``. Sizes are those of `bptt.arrays.Weights`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from bptt.arrays import Array, Mask, Noise, Tokens, Weights

#: (h,), for an LSTM (h, c): h (B, R), c (B, H).
State = tuple[Array, ...]


class Saved(Protocol):
    """What ``unroll`` keeps for ``bptt``. x and y are the arrays themselves, the weights are a copy."""

    @property
    def x(self) -> Array | Tokens:
        """Input (T, B, I), or token ids (T, B)."""
        ...

    @property
    def state(self) -> State:
        """Initial state."""
        ...

    @property
    def y(self) -> Array:
        """The state h after every step, (T, B, R); zero past a row's end."""
        ...

    @property
    def c(self) -> Array | None:
        """Cell state of an LSTM after every step, (T, B, H), zero past a row's end; None for other cells."""
        ...

    @property
    def gates(self) -> Mapping[str, Array]:
        """Views (T, B, H), zero past a row's end: i, f, g, o of an LSTM, r, z, n of a GRU, no others."""
        ...

    @property
    def weights(self) -> Weights:
        """Parameters at the forward pass."""
        ...


class Stepper(Protocol):
    """The state of B sequences, and packed weights that carry it one time step on; for one thread."""

    @property
    def state(self) -> State:
        """A copy; another may be assigned."""
        ...

    @state.setter
    def state(self, state: State) -> None: ...

    def step(
        self,
        x: Any,  # (B, I), or (B,) int64 token ids
        out: Any = None,  # (B, R)
    ) -> Array | None:
        """Return h (B, R) one step on, a new array or `out`: the bits of ``unroll`` over the whole sequence.

        The caller has not checked x and `out`: None if they are not in a form taken, and nothing is done
        then. A checked x without `out` is taken; for B = 1, x and `out` without a batch axis may be.
        """
        ...


class Backend(Protocol):
    """A module of the ground floor."""

    def unroll(
        self,
        cell: str,  # "tanh", "relu", "sigmoid", "identity", "lstm", "gru" or "gru_reset_before"
        x: Array | Tokens,  # (T, B, I), or (T, B) int64 token ids in [0, I), standing for one-hot rows
        state: State,
        weights: Any,  # Weights, or what `pack` made for this cell and kind of x, for `keep` with `backward`
        keep: bool = True,
        threads: int = 1,
        *,
        lengths: Tokens | None = None,  # (B,): each row's number of steps; below 0 none, above T all
        reset: Mask | None = None,  # (T, B): True where a row starts this step from its initial state
        reverse: bool = False,  # each row goes through its steps from the last to the first
        noise: Noise | None = None,
        begin: State | None = None,  # before the first step of a piece; resets go back to `state`
        y_to: Array | None = None,  # (T, B, R), C-contiguous: where to put y
        final: State | None = None,  # after the last step, where it is known: that step need not be made
    ) -> tuple[Array, State, Any]:
        """Return y (T, B, R), zero past a row's end, the state after each row's last step, and a `Saved`.

        The latter is None unless `keep`, which wants masks in `noise` wherever a rate is not 0.
        """
        ...

    def pack(self, cell: str, weights: Weights, *, tokens: bool = False, backward: bool = False) -> Any:
        """Return a snapshot of the weights, made ready once for many passes over x of one kind."""
        ...

    def remember(self, weights: Weights) -> Any:
        """Return something that `unroll` and `pack` take in place of the weights, whose arrays it refers to.

        For calls that may come again: it may keep them packed while no number is changed.
        """
        ...

    def large_empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """Return an array of any numbers; if it is large, in memory of earlier calls."""
        ...

    def release_memory(self) -> None:
        """Free what is kept of the memory of earlier calls."""
        ...

    def short_call(
        self,
        weights: Any,  # what `pack` made for floating-point x
        x: Any,  # (T, B, I)
        h_0: Any,  # (1, B, R), or None for zeros
        c_0: Any = None,  # (1, B, H), or None for zeros
    ) -> tuple[Array, ...] | None:
        """Return y (T, B, R), h_n (1, B, R) and for an LSTM c_n (1, B, H) of a call that is quickly done.

        The caller has not checked x, h_0 and c_0: None if they are not in a form taken, or the call is not
        short.
        """
        ...

    def Stepper(
        self,
        cell: str,
        weights: Any,  # Weights, or what `pack` made for this cell and kind of x
        state: State,  # B >= 1; copied
        *,
        tokens: bool = False,
        noise: Noise | None = None,  # rates of zoneout without masks
    ) -> Stepper:
        """Return a `Stepper`."""
        ...

    def bptt(
        self,
        cell: str,
        saved: Any,  # the Saved of this backend
        dy: Array | None,  # (T, B, R); None stands for zeros; past a row's end it is not looked at
        dfinal_state: tuple[Array | None, ...] | None,  # gradients of the final state; None stands for zeros
        depth: int | None = None,  # docs/gradients.md, "Truncation"
        threads: int = 1,
        *,
        squares: Array | None = None,  # (T, B) of float64: where to put the squared norm of dL/dh_t
        add_to: Weights | None = None,  # gradients of the steps after these, whose sums this goes on with
        initial_to: State | None = None,  # where to add what resets send to h_0, c_0; not with a depth
        input_grad: bool = True,  # whether dx is wanted
        dx_to: Array | None = None,  # (T, B, I), C-contiguous: where to put it
    ) -> tuple[Array | None, State, Weights]:
        """Return dx (T, B, I) (None for tokens), gradients of the state at the start and of the parameters.

        Zero past a row's end, where nothing is written to `squares`.
        """
        ...

    def chunk_bounds(self, T: int, B: int, lengths: Tokens | None = None) -> list[int]:
        """Return the steps at which the sums of `bptt` over time are cut, from T down to 0."""
        ...

    def step_back(
        self,
        saved: Any,  # the Saved of this backend
        s: int,  # counted in the order in which a row makes its steps
        dh: Array,  # (N, B, R), gradients with respect to h after the step; C-contiguous
        dc: Array | None = None,  # (N, B, H), of an LSTM: those with respect to c that don't come through h
        *,
        together: bool = False,  # in reverse: all rows at time T - 1 - s, instead of at a step of their own
    ) -> tuple[Array, Array | None, Array, Array, Array, Array]:
        """Return N gradients one time step further back: dh, dc, da_ih, da_hh, d_ih, d_hh.

        dh and dc (None but for an LSTM) are those with respect to the state before the step, zero where a
        reset cuts the row from it, and with `together` before a row's first step if another row has made
        steps by then. The others, (N, B, G*H), are those with respect to p and q, the two halves of the
        pre-activations, and with respect to W_ih x and W_hh h. For rows that don't have the step all are
        zero.
        """
        ...

    def affine(
        self,
        x: Array,  # (N, K)
        weight: Array,  # (O, K)
        bias: Array | None,  # (O,)
        *,
        threads: int = 1,
    ) -> Array:
        """Return y = x W^T + b, (N, O)."""
        ...

    def affine_backward(
        self,
        x: Array,  # (N, K)
        weight: Array,  # (O, K)
        dy: Array,  # (N, O)
        *,
        threads: int = 1,
    ) -> tuple[Array, Array, Array]:
        """Return dx (N, K), dW (O, K) and db (O,)."""
        ...

    def softmax_cross_entropy(
        self,
        logits: Array,  # (N, O)
        targets: Tokens,  # (N,) class ids in [0, O), or `ignore_index`
        *,
        ignore_index: int | None = None,
        threads: int = 1,
    ) -> tuple[float, int, Array]:
        """Return the sum over rows not ignored, their number, and dlogits (N, O), zero in ignored rows."""
        ...

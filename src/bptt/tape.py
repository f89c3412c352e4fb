"""What a recorded forward pass keeps, and the gradients that come from it."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np

from bptt import checks
from bptt.parameters import RNN_NAMES

if TYPE_CHECKING:
    import numpy.typing as npt

    from bptt.arrays import Array, Tokens
    from bptt.interface import Saved

    AnyArray = TypeVar("AnyArray", Array, Tokens, Array | Tokens)


class Gradients:
    """Gradients of a loss, as `Tape.backward` gives them.

    Attributes
    ----------
    x : ndarray or None
        dL/dx in the layout of x; None if x was token ids.
    h_0 : ndarray
        dL/dh_0, (1, B, H), or (1, H) unbatched.
    parameters : dict
        dL/dparameter under the names of the layer's parameters, summed over time and batch.
    """

    __slots__ = ("h_0", "parameters", "x")

    def __init__(self, x: Array | None, h_0: Array, parameters: dict[str, Array]) -> None:
        self.x = x
        self.h_0 = h_0
        self.parameters = parameters

    def __repr__(self) -> str:
        x = None if self.x is None else self.x.shape
        parameters = ", ".join(f"{name}: {value.shape}" for name, value in self.parameters.items())
        return f"Gradients(x={x}, h_0={self.h_0.shape}, parameters={{{parameters}}})"


class Tape:
    """What `RNN.record` keeps of a forward pass: input, states and a copy of the parameters.

    A tape is made by `RNN.record` only. It may be used for any number of backward passes, from any thread.

    Attributes
    ----------
    nonlinearity : str
        The activation f.
    backend : str
        ``"kernels"`` or ``"reference"``.
    batched : bool
        Whether x had a batch axis.
    batch_first : bool
        Whether the batch axis comes first in x and y.
    """

    __slots__ = ("_saved", "backend", "batch_first", "batched", "nonlinearity")

    def __init__(
        self, saved: Saved, *, nonlinearity: str, backend: str, batched: bool, batch_first: bool
    ) -> None:
        self._saved = saved
        self.nonlinearity = nonlinearity
        self.backend = backend
        self.batched = batched
        self.batch_first = batch_first

    @property
    def x(self) -> Array | Tokens:
        """The input in the layout it was given in, read-only."""
        return _read_only(self._outward(self._saved.x))

    @property
    def h_0(self) -> Array:
        """The initial state, (1, B, H), or (1, H) unbatched, read-only."""
        (h_0,) = self._saved.state
        return _read_only(self._outward_state(h_0))

    @property
    def y(self) -> Array:
        """The state after every step, in the layout `RNN.record` gave it in, read-only."""
        return _read_only(self._outward(self._saved.y))

    @property
    def parameters(self) -> dict[str, Array]:
        """The layer's parameters as they were at the forward pass, read-only."""
        named = zip(RNN_NAMES, self._saved.weights, strict=True)
        return {name: _read_only(value) for name, value in named if value is not None}

    def backward(
        self,
        dy: npt.ArrayLike | None = None,
        dh_n: npt.ArrayLike | None = None,
        *,
        depth: int | None = None,
        threads: int | None = None,
    ) -> Gradients:
        """Back-propagate through time: docs/equations.md, section "Backward".

        Parameters
        ----------
        dy : array_like, optional
            dL/dy, with the shape and dtype of y; zeros if not given.
        dh_n : array_like, optional
            dL/dh_n, with the shape and dtype of h_n, on top of what dy says of the last step; zeros if not
            given.
        depth : int, optional
            Truncation: the loss of step i reaches the parameters through steps i, i-1, ..., i-depth+1 only;
            h_0 stands at step 0 and dh_n acts on the last step. ``depth >= T + 1`` leaves nothing out. This
            is per-loss-step truncation (docs/equations.md, section "Truncation"), which is not the same as
            cutting the sequence into chunks and carrying the state. By default nothing is truncated.
        threads : int, optional
            How many threads may share the work; default ``BPTT_NUM_THREADS`` or else all usable cores. The
            result doesn't depend on it.

        Returns
        -------
        Gradients
            New arrays, of the layer's dtype.

        Raises
        ------
        TypeError
            If dy or dh_n has another dtype than y, or `depth` or `threads` is not an integer.
        ValueError
            If a shape is wrong, if neither dy nor dh_n is given, or if `depth` or `threads` is below 1.
        """
        if dy is None and dh_n is None:
            raise ValueError("backward: expected dy, dh_n or both, got neither")
        saved = self._saved
        y = saved.y
        T, B, H = y.shape
        if dy is not None and not (
            self.batched
            and not self.batch_first
            and type(dy) is np.ndarray
            and dy.shape == y.shape
            and checks.is_ready(dy, y.dtype)
        ):
            shape = checks.output_shape(T, B, H, self.batched, self.batch_first)
            dy = self._inward(checks.floats("dy", dy, shape, y.dtype))
        dfinal_state = None
        if dh_n is not None:
            shape = checks.state_shape(B, H, self.batched)
            dfinal_state = (checks.floats("dh_n", dh_n, shape, y.dtype).reshape(B, H),)

        dx, (dh_0,), dweights = checks.resolve_backend(self.backend).bptt(
            self.nonlinearity,
            saved,
            dy,
            dfinal_state,
            depth=None if depth is None else checks.integer("depth", depth),
            threads=checks.resolve_threads(threads),
        )

        return Gradients(
            None if dx is None else self._outward(dx),
            self._outward_state(dh_0),
            {name: d for name, d in zip(RNN_NAMES, dweights, strict=True) if d is not None},
        )

    def _outward(self, a: AnyArray) -> AnyArray:
        """From time-major (T, B, ...) to the user's layout; a view."""
        if not self.batched:
            return a[:, 0]
        return a.swapaxes(0, 1) if self.batch_first else a

    def _outward_state(self, h: Array) -> Array:
        """From (B, H) to (1, B, H), or (1, H) unbatched; a view."""
        return h[np.newaxis] if self.batched else h

    def _inward(self, a: Array) -> Array:
        """From the user's layout to time-major and C-contiguous (T, B, H)."""
        if not self.batched:
            return a[:, np.newaxis]
        return np.ascontiguousarray(a.swapaxes(0, 1)) if self.batch_first else a

    def __repr__(self) -> str:
        T, B, H = self._saved.y.shape
        x, weight_ih = self._saved.x, self._saved.weights.weight_ih
        tokens = ", tokens" if x.ndim == 2 else ""
        sizes = f"T={T}, B={B}, I={weight_ih.shape[1]}, H={H}"
        return f"Tape(nonlinearity={self.nonlinearity!r}, {sizes}{tokens}, dtype={self._saved.y.dtype})"


def _read_only(a: AnyArray) -> AnyArray:
    view = a.view()
    view.flags.writeable = False
    return view

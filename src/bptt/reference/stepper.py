"""One time step after another, with the interface of the compiled kernels."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .. import arrays
from ..arrays import Array, Weights
from .conversion import copied, from_states, to_lists, to_noise, to_states
from .records import Parameters
from .unroll import unroll


class Packed(NamedTuple):
    """Weights as nested lists."""

    cell: str
    tokens: bool
    dtype: np.dtype[Any]
    parameters: Parameters
    weights: Weights | None  # a copy, for recorded passes


def pack(cell: str, weights: Weights, *, tokens: bool = False, backward: bool = False) -> Packed:
    """Convert the weights once, for many calls of ``unroll`` or for a :class:`Stepper`.

    Parameters
    ----------
    cell : str
        One of ``CELLS``.
    weights : Weights
    tokens : bool
        For token ids instead of floats.
    backward : bool
        Also for calls of ``unroll`` with ``keep=True``.

    Returns
    -------
    Packed
        A snapshot.

    Raises
    ------
    ValueError
        For another cell, or weights that the cell does not have.
    """
    snapshot = copied(weights) if backward else None
    return Packed(cell, tokens, weights.weight_hh.dtype, to_lists(cell, weights), snapshot)


def remember(weights: Weights) -> Weights:
    """Return the weights: here nothing is kept of them."""
    return weights


def packed_for(cell: str, weights: Weights | Packed, tokens: bool, dtype: np.dtype[Any]) -> Parameters:
    """Return the weights as nested lists.

    Parameters
    ----------
    cell : str
        One of ``CELLS``.
    weights : Weights or Packed
    tokens : bool
        Whether x is token ids.
    dtype : dtype
        Of the state.

    Returns
    -------
    nested : Parameters

    Raises
    ------
    ValueError
        For another cell, weights that it does not have, or ones packed for something else.
    """
    if not isinstance(weights, Packed):
        return to_lists(cell, weights)
    if (weights.cell, weights.tokens, weights.dtype) != (cell, tokens, dtype):
        raise ValueError("weights: expected ones packed for this cell, dtype and kind of x, got others")
    return weights.parameters


class Stepper:
    """The state of B sequences, carried on one time step at a time.

    The state is kept in floats and not rounded to float32 from step to step, just as in ``unroll``.

    Parameters
    ----------
    cell : str
        One of ``CELLS``.
    weights : Weights or Packed
    state : tuple of ndarray
        (h,), for an LSTM (h, c): h (B, R), c (B, H); copied.
    tokens : bool
        Whether steps take token ids.
    noise : Noise or None
        Rates of zoneout without masks.

    Raises
    ------
    ValueError
        For another cell, weights that it does not have, or masks in the noise.
    """

    def __init__(
        self,
        cell: str,
        weights: Weights | Packed,
        state: tuple[Array, ...],
        *,
        tokens: bool = False,
        noise: arrays.Noise | None = None,
    ) -> None:
        if noise is not None and (noise.kept_h is not None or noise.kept_c is not None):
            raise ValueError("noise: expected rates of zoneout without masks for single steps, got masks")
        dtype = state[0].dtype
        self._cell, self._tokens = cell, tokens
        self._parameters = packed_for(cell, weights, tokens, dtype)
        self._noise = to_noise(cell, noise)
        x_dtype = np.dtype(np.int64) if tokens else dtype
        B, I = len(state[0]), len(self._parameters.weight_ih[0])
        self._x_form = ((B,) if tokens else (B, I)), x_dtype
        self._like = tuple(np.empty_like(array) for array in state)
        self._states = to_states(state)

    @property
    def state(self) -> tuple[Array, ...]:
        """(h,) or (h, c), a copy. Of another that is assigned, the rows that are the same stay unrounded."""
        return from_states(self._states, self._like)

    @state.setter
    def state(self, state: tuple[Array, ...]) -> None:
        now = self.state
        for b, new in enumerate(to_states(state)):
            # what was read is written back without loss: it would otherwise be rounded to the dtype
            if any(a[b].tobytes() != at[b].tobytes() for a, at in zip(state, now, strict=True)):
                self._states[b] = new

    def step(self, x: Any, out: Any = None) -> Array | None:
        """One time step.

        Parameters
        ----------
        x : ndarray
            (B, I), or (B,) int64 token ids in [0, I).
        out : None
            The kernels' place for h; not taken here.

        Returns
        -------
        ndarray or None
            h (B, R). None if an argument has another form; nothing was done then.
        """
        if out is not None or type(x) is not np.ndarray or (x.shape, x.dtype) != self._x_form:
            return None
        if self._tokens and not ((x >= 0) & (x < len(self._parameters.weight_ih[0]))).all():
            return None
        _, self._states = unroll(self._cell, [x.tolist()], self._states, self._parameters, noise=self._noise)
        return self.state[0]

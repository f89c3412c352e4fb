"""States of any recurrent layer, which are one array h or the pair (h, c) of an LSTM: taking them apart."""

from __future__ import annotations

from typing import Any

import numpy as np

from bptt.arrays import Array


def parts(state: Any) -> tuple[Array, ...]:
    """Return (h,), or (h, c) of an LSTM."""
    return state if isinstance(state, tuple) else (state,)


def whole(arrays: tuple[Array, ...]) -> Any:
    """Return a state as layers take and give it: the inverse of `parts`."""
    return arrays[0] if len(arrays) == 1 else arrays


def rows(state: Any, index: Any) -> Any:
    """Return the state (L*D, B, ...) of some batch rows, by a slice or an array of indices."""
    return whole(tuple(part[:, index] for part in parts(state)))


def last(state: Any, directions: int) -> Array:
    """Return h of the last layer, its directions side by side.

    Parameters
    ----------
    state : ndarray, or pair of them
        h is (L*D, B, R), or (L*D, R) unbatched.
    directions : int
        D.

    Returns
    -------
    ndarray
        (B, D*R) or (D*R,).
    """
    h = parts(state)[0]
    return h[-1] if directions == 1 else np.concatenate(h[-directions:], axis=-1)


def of_last(dlast: Array, state: Any, directions: int) -> Any:
    """Return the gradient of a state that comes of the gradient of its `last`.

    Parameters
    ----------
    dlast : ndarray
        (B, D*R), or (D*R,) unbatched.
    state : ndarray, or pair of them
        The state.
    directions : int
        D.

    Returns
    -------
    ndarray, or pair of an ndarray and None
        dL/dh, and None for dL/dc.
    """
    h, *others = parts(state)
    dh = np.zeros_like(h)
    dh[-directions:] = np.split(dlast, directions, axis=-1)
    return (dh, None) if others else dh

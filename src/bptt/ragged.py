"""Rows of different lengths: which entries count, and arrays of only those."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from bptt.arrays import Array, Mask


def within(lengths: npt.ArrayLike, steps: int, *, batch_first: bool = False) -> Mask:
    """Return where rows have steps.

    Parameters
    ----------
    lengths : array_like of integers
        (B,), or one integer for an unbatched sequence; checked.
    steps : int
        T.
    batch_first : bool
        Whether the result is (B, T).

    Returns
    -------
    ndarray of bool
        (T, B) or (B, T); (T,) for an unbatched sequence.
    """
    n, t = np.asarray(lengths), np.arange(steps)
    if n.ndim == 0:
        return np.asarray(t < n)
    return np.asarray(t < n[:, np.newaxis] if batch_first else t[:, np.newaxis] < n)


def blank(targets: npt.NDArray[Any], mask: Mask) -> npt.NDArray[Any]:
    """Return targets with zeros past the rows' ends, where anything may stand.

    Parameters
    ----------
    targets : ndarray
        Unchecked. Of another shape than the mask's they are returned as they are.
    mask : ndarray of bool
        What `within` returned.

    Returns
    -------
    ndarray
        Of the same shape and dtype.
    """
    if targets.shape[: mask.ndim] != mask.shape:
        return targets
    there = mask.reshape(mask.shape + (1,) * (targets.ndim - mask.ndim))
    return np.where(there, targets, np.zeros((), targets.dtype))


def spread(rows: Array, mask: Mask) -> Array:
    """Return rows (N, ...) in their places of an array of zeros: the inverse of ``a[mask]``."""
    spread = np.zeros((*mask.shape, *rows.shape[1:]), rows.dtype)
    spread[mask] = rows
    return spread

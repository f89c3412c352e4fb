"""Checks of what a loss compares outputs with: class ids or numbers, their shape, dtype and range."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from bptt import checks
from bptt.arrays import Tokens


def check_target(
    loss: str,
    target: npt.ArrayLike,
    s_shape: tuple[int, ...],
    dtype: npt.DTypeLike,
    *,
    ignore_index: int | None = None,
    name: str = "target",
) -> Any:
    """Check the targets of a loss and return them as the loss wants them.

    Parameters
    ----------
    loss : str
        A key of ``LOSSES``.
    target : array_like
        What the user gave.
    s_shape : tuple of int
        Shape of the outputs, (..., O).
    dtype : dtype
        float32 or float64, the outputs'.
    ignore_index : int, optional
        For ``softmax_cross_entropy``: the target of rows that do not count.
    name : str
        What to call the targets in a message.

    Returns
    -------
    ndarray
        For ``softmax_cross_entropy`` C-contiguous int64 of shape ``s_shape[:-1]``, else ``dtype`` of shape
        ``s_shape``.

    Raises
    ------
    ValueError
        For a wrong shape or a value out of range.
    TypeError
        For a wrong dtype.
    """
    y = np.asarray(target)
    if loss == "softmax_cross_entropy":
        return _class_ids(y, s_shape, check_ignore_index(ignore_index), name)
    dtype = np.dtype(dtype)
    if y.dtype.newbyteorder("=") != dtype and y.dtype.kind not in "iub":
        raise TypeError(
            f"{name}: expected {dtype} as the outputs are, or integers or bool, got {y.dtype}; "
            f"cast with {name}.astype(numpy.{dtype})"
        )
    if y.shape != s_shape:
        raise ValueError(f"{name}: expected shape {s_shape}, the outputs', got {y.shape}")
    y = y.astype(dtype, copy=False)
    if loss == "binary_cross_entropy" and y.size and not (y.min() >= 0 and y.max() <= 1):
        raise ValueError(f"{name}: expected values in [0, 1], got {y.min()} to {y.max()}")
    return y


def check_ignore_index(ignore_index: int | None) -> int | None:
    """Return ``ignore_index`` as an int that fits int64, or None.

    Parameters
    ----------
    ignore_index : int or None
        What the user gave.

    Returns
    -------
    int or None

    Raises
    ------
    ValueError
        If it does not fit int64.
    TypeError
        If it is neither an integer nor None.
    """
    if ignore_index is None:
        return None
    limits = np.iinfo(np.int64)
    value = checks.integer("ignore_index", ignore_index, limits.min)
    if value > limits.max:
        raise ValueError(f"ignore_index: expected an int64, got {value}")
    return value


def _class_ids(y: npt.NDArray[Any], s_shape: tuple[int, ...], ignore_index: int | None, name: str) -> Tokens:
    """Check class ids and return them as C-contiguous int64."""
    classes = s_shape[-1]
    if y.dtype.kind not in "iu":
        if y.size:
            raise TypeError(f"{name}: expected integer class ids, got {y.dtype}")
        y = y.astype(np.int64)  # an empty list is float64 to NumPy
    if y.shape != s_shape[:-1]:
        raise ValueError(f"{name}: expected shape {s_shape[:-1]}, one class id a row, got {y.shape}")
    counted = y if ignore_index is None else y[y != ignore_index]
    if counted.size and not (counted.min() >= 0 and counted.max() < classes):
        bad = int(counted.min()) if counted.min() < 0 else int(counted.max())
        also = "" if ignore_index is None else f" or ignore_index {ignore_index}"
        raise ValueError(f"{name}: expected class ids in [0, {classes}){also}, got {bad}")
    return np.ascontiguousarray(y, dtype=np.int64).reshape(y.shape)

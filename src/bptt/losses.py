"""Losses on raw outputs: each returns (loss, dloss/ds), with s the logits or outputs of the readout.

The prediction yhat = g(s) belongs to the loss: softmax for ``softmax_cross_entropy``, the logistic function
for ``binary_cross_entropy``, ``link`` for the two residuals, s itself for ``mean_squared_error``.

    ==========================  ==================================  =============================
    loss                        l per output                        dl/ds
    ==========================  ==================================  =============================
    softmax_cross_entropy       log sum_o e^(s_o) - s_target        yhat - onehot(target)
    binary_cross_entropy        max(s,0) - y s + log1p(e^-|s|)      yhat - y
    sum_squared_residuals       (y - yhat)^2                        -2 (y - yhat) g'(s)
    mean_squared_error          (y - s)^2                           -2 (y - s)
    residual                    y - yhat  (signed)                  -g'(s)
    ==========================  ==================================  =============================

``reduction="sum"`` adds l over everything; ``"mean"`` divides that sum and the gradient by the number of
terms (rows times outputs; for ``softmax_cross_entropy`` the rows that are not ignored).  The sum is taken in
float64 whatever s is; the gradient has the dtype of s.  A mean over nothing is NaN.

Source: docs/equations.md, section "Losses".
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import numpy as np
import numpy.typing as npt

from bptt import checks
from bptt.arrays import Array
from bptt.targets import check_ignore_index, check_target

Reduction = Literal["mean", "sum"]
Link = Literal["identity", "sigmoid"]
Backend = Literal["kernels", "reference"]

REDUCTIONS = ("mean", "sum")
LINKS = ("identity", "sigmoid")


def sigmoid(s: npt.ArrayLike) -> Array:
    """Logistic function 1 / (1 + e^-s), without overflow for any s.

    Parameters
    ----------
    s : array_like
        Any shape; float32 or float64.

    Returns
    -------
    ndarray
        Shape and dtype of ``s``, in [0, 1].

    Raises
    ------
    TypeError
        If ``s`` is not float32 or float64.
    """
    s = _outputs("s", s)
    with np.errstate(under="ignore"):
        e = np.exp(-np.abs(s))
        # 1 / (1 + e^-s) = e^s / (1 + e^s): the exponent is never positive
        return np.asarray(np.where(s >= 0, 1, e) / (1 + e), dtype=s.dtype)


def softmax(s: npt.ArrayLike) -> Array:
    """e^s / sum e^s over the last axis, with the row's maximum subtracted first.

    Parameters
    ----------
    s : array_like
        (..., O), O >= 1; float32 or float64.

    Returns
    -------
    ndarray
        (..., O), rows adding to 1.  A row that has a NaN or +inf, or nothing but -inf, gives NaN.

    Raises
    ------
    ValueError
        If ``s`` has no last axis or an empty one.
    TypeError
        If ``s`` is not float32 or float64.
    """
    s = _logits(s)
    with np.errstate(under="ignore", invalid="ignore"):
        e = np.exp(s - s.max(axis=-1, keepdims=True))
        return np.asarray(e / e.sum(axis=-1, keepdims=True))


def softmax_cross_entropy(
    s: npt.ArrayLike,
    target: npt.ArrayLike,
    *,
    reduction: Reduction = "mean",
    ignore_index: int | None = None,
    backend: Backend = "kernels",
    threads: int | None = None,
) -> tuple[float, Array]:
    """Cross-entropy of softmax(s) against class ids: log sum_o e^(s_o) - s_target a row.

    Parameters
    ----------
    s : array_like
        (..., O) logits, float32 or float64.
    target : array_like of int
        (...) class ids in [0, O), or ``ignore_index``.
    reduction : {"mean", "sum"}
        "mean" divides by the number of rows that are not ignored.
    ignore_index : int, optional
        Rows with this target add nothing to the loss and have gradient 0.
    backend : {"kernels", "reference"}
        Which ground floor computes it.
    threads : int, optional
        How many threads may share the work; the result doesn't depend on it.

    Returns
    -------
    loss : float
        In nats.
    ds : ndarray
        (..., O), softmax(s) - onehot(target), over the count for "mean".

    Raises
    ------
    ValueError
        For a shape, class id or option that does not fit.
    TypeError
        If ``s`` is not float32 or float64, or ``target`` or ``threads`` not of an integer type.
    """
    checks.choice("reduction", reduction, REDUCTIONS)
    s = _logits(s)
    ignore_index = check_ignore_index(ignore_index)
    ids = check_target("softmax_cross_entropy", target, s.shape, s.dtype, ignore_index=ignore_index)
    rows = np.ascontiguousarray(s).reshape(-1, s.shape[-1])  # (N, O)
    ground = checks.resolve_backend(backend)
    total, count, ds = ground.softmax_cross_entropy(
        rows, ids.reshape(-1), ignore_index=ignore_index, threads=checks.resolve_threads(threads)
    )
    return _reduce(total, ds.reshape(s.shape), count, reduction, s)


def binary_cross_entropy(
    s: npt.ArrayLike, target: npt.ArrayLike, *, reduction: Reduction = "mean"
) -> tuple[float, Array]:
    """Cross-entropy of sigmoid(s) against targets in [0, 1], each output by itself.

    Parameters
    ----------
    s : array_like
        (..., O) logits, float32 or float64.
    target : array_like
        (..., O) in [0, 1]; of the dtype of ``s``, integers or bool.
    reduction : {"mean", "sum"}
        "mean" divides by the number of outputs of all rows.

    Returns
    -------
    loss : float
        In nats.
    ds : ndarray
        (..., O), sigmoid(s) - y, over the count for "mean".

    Raises
    ------
    ValueError
        If the shapes differ, or a target lies outside [0, 1].
    TypeError
        If ``s`` is not float32 or float64, or ``target`` of another floating dtype.
    """
    checks.choice("reduction", reduction, REDUCTIONS)
    s = _outputs("s", s)
    y = check_target("binary_cross_entropy", target, s.shape, s.dtype)
    with np.errstate(under="ignore", invalid="ignore"):
        # l = max(s, 0) - y s + log(1 + e^-|s|)
        terms = np.maximum(s, 0) - y * s + np.log1p(np.exp(-np.abs(s)))
        # dl/ds = yhat - y
        ds = sigmoid(s) - y
    return _reduce(_total(terms), ds, s.size, reduction, s)


def sum_squared_residuals(
    s: npt.ArrayLike, target: npt.ArrayLike, *, reduction: Reduction = "sum", link: Link = "identity"
) -> tuple[float, Array]:
    """Sum of (y - yhat)^2 with yhat = s or sigmoid(s).

    Parameters
    ----------
    s : array_like
        (..., O) raw outputs, float32 or float64.
    target : array_like
        (..., O); of the dtype of ``s``, integers or bool.
    reduction : {"sum", "mean"}
        "mean" divides by the number of outputs of all rows.
    link : {"identity", "sigmoid"}
        g in yhat = g(s).

    Returns
    -------
    loss : float
        In squared units of the target.
    ds : ndarray
        (..., O), -2 (y - yhat) g'(s), over the count for "mean".

    Raises
    ------
    ValueError
        If the shapes differ, or for an unknown option.
    TypeError
        If ``s`` is not float32 or float64, or ``target`` of another floating dtype.
    """
    checks.choice("reduction", reduction, REDUCTIONS)
    s = _outputs("s", s)
    y = check_target("sum_squared_residuals", target, s.shape, s.dtype)
    yhat, slope = _linked(s, link)
    with np.errstate(under="ignore", over="ignore", invalid="ignore"):
        # l = (y - yhat)^2
        difference = y - yhat
        total = _total(np.square(difference, dtype=np.float64))
        # dl/ds = -2 (y - yhat) g'(s)
        ds = -2 * difference * slope
    return _reduce(total, ds, s.size, reduction, s)


def mean_squared_error(
    s: npt.ArrayLike, target: npt.ArrayLike, *, reduction: Reduction = "mean"
) -> tuple[float, Array]:
    """Mean of (y - s)^2 over rows and outputs.

    Parameters
    ----------
    s : array_like
        (..., O) raw outputs, float32 or float64.
    target : array_like
        (..., O); of the dtype of ``s``, integers or bool.
    reduction : {"mean", "sum"}
        "mean" divides by the number of outputs of all rows.

    Returns
    -------
    loss : float
        In squared units of the target.
    ds : ndarray
        (..., O), -2 (y - s), over the count for "mean".

    Raises
    ------
    ValueError
        If the shapes differ, or for an unknown option.
    TypeError
        If ``s`` is not float32 or float64, or ``target`` of another floating dtype.
    """
    return sum_squared_residuals(s, target, reduction=reduction)


def residual(
    s: npt.ArrayLike, target: npt.ArrayLike, *, reduction: Reduction = "sum", link: Link = "identity"
) -> tuple[float, Array]:
    """Signed residual y - yhat with yhat = s or sigmoid(s).

    It has no minimum at yhat = y, and its gradient does not depend on y: descent drives yhat upwards whatever
    the target is.  It is here to follow a derivation by hand, not to train with.

    Parameters
    ----------
    s : array_like
        (..., O) raw outputs, float32 or float64.
    target : array_like
        (..., O); of the dtype of ``s``, integers or bool.
    reduction : {"sum", "mean"}
        "mean" divides by the number of outputs of all rows.
    link : {"identity", "sigmoid"}
        g in yhat = g(s).

    Returns
    -------
    loss : float
        In units of the target; may be negative.
    ds : ndarray
        (..., O), -g'(s), over the count for "mean".

    Raises
    ------
    ValueError
        If the shapes differ, or for an unknown option.
    TypeError
        If ``s`` is not float32 or float64, or ``target`` of another floating dtype.
    """
    checks.choice("reduction", reduction, REDUCTIONS)
    s = _outputs("s", s)
    y = check_target("residual", target, s.shape, s.dtype)
    yhat, slope = _linked(s, link)
    with np.errstate(over="ignore", invalid="ignore"):
        # l = y - yhat,  dl/ds = -g'(s)
        total = _total(y - yhat)
    return _reduce(total, -slope, s.size, reduction, s)


#: Every loss by its name.
LOSSES: dict[str, Callable[..., tuple[float, Array]]] = {
    "softmax_cross_entropy": softmax_cross_entropy,
    "binary_cross_entropy": binary_cross_entropy,
    "sum_squared_residuals": sum_squared_residuals,
    "mean_squared_error": mean_squared_error,
    "residual": residual,
}


def _outputs(name: str, s: npt.ArrayLike) -> Array:
    """Check that s is float32 or float64 and return it in native byte order."""
    array = np.asarray(s)
    dtype = array.dtype.newbyteorder("=")
    if dtype not in (np.dtype(np.float32), np.dtype(np.float64)):
        raise TypeError(f"{name}: expected float32 or float64, got {array.dtype}")
    return array.astype(dtype, copy=False)


def _logits(s: npt.ArrayLike) -> Array:
    """Check that s has a last axis to run over."""
    array = _outputs("s", s)
    if array.ndim == 0 or array.shape[-1] == 0:
        raise ValueError(f"s: expected shape (..., O) with O >= 1, got {array.shape}")
    return array


def _linked(s: Array, link: str) -> tuple[Array, Array]:
    """Return yhat = g(s) and g'(s)."""
    checks.choice("link", link, LINKS)
    if link == "identity":
        return s, np.ones_like(s)
    yhat = sigmoid(s)
    # g'(s) = yhat (1 - yhat)
    return yhat, yhat * (1 - yhat)


def _total(terms: Array) -> float:
    # float64: a float32 sum of a million terms has lost three digits
    return float(np.sum(terms, dtype=np.float64))


def _reduce(total: float, ds: Array, count: int, reduction: str, s: Array) -> tuple[float, Array]:
    """Divide the sum and its gradient by the number of terms, if asked to."""
    ds = np.asarray(ds, dtype=s.dtype)  # NumPy gives scalars for s without axes
    if reduction == "sum":
        return total, ds
    if count == 0:
        return math.nan, ds
    with np.errstate(under="ignore"):
        return total / count, np.divide(ds, count, out=ds)

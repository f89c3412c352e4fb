"""Checks of sequences: input over time, one time step of it, lengths and resets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bptt.checks.arrays import as_array, check_float, check_shape, normalise

if TYPE_CHECKING:
    import numpy.typing as npt

    from bptt.arrays import Array, Mask, Tokens


def sequence(
    x: Any, input_size: int, dtype: np.dtype[Any], batch_first: bool, *, ready: bool = True
) -> tuple[Array | Tokens, bool]:
    """Return a layer's input time-major, and whether it had a batch axis.

    Parameters
    ----------
    x : array_like
        Features (T, B, I), (B, T, I) if `batch_first`, or (T, I); or integer token ids (T, B), (B, T) or
        (T,).
    input_size : int
        I, the number of features or of different tokens.
    dtype : numpy.dtype
        The layer's.
    batch_first : bool
        Whether the batch axis of a batched `x` comes first.
    ready : bool
        Whether it is to be C-contiguous, aligned and of exactly the dtype.

    Returns
    -------
    x : ndarray
        (T, B, I) of `dtype`, or (T, B) of int64. It shares memory with the argument where it can; if it need
        not be `ready`, always, except for a list.
    batched : bool

    Raises
    ------
    TypeError
        If the dtype is neither the layer's nor an integer one.
    ValueError
        If the shape is wrong, or a token id is not in [0, I).
    """
    a = as_array("x", x)
    if a.dtype.kind in "iu":
        return _tokens(a, input_size, dtype, batch_first, ready)
    check_float("x", x, a, dtype)
    if a.ndim not in (2, 3) or a.shape[-1] != input_size:
        I = input_size
        axes, names = ("B, T", "batch, time") if batch_first else ("T, B", "time, batch")
        raise ValueError(
            f"x: expected shape ({axes}, {I}) = ({names}, input_size), or (T, {I}) unbatched, got {a.shape}"
        )
    if a.ndim == 3 and batch_first:
        a = a.swapaxes(0, 1)
    whole = normalise(a, dtype) if ready else a
    return (whole, True) if a.ndim == 3 else (whole[:, np.newaxis], False)


def _tokens(
    a: npt.NDArray[Any], input_size: int, dtype: np.dtype[Any], batch_first: bool, ready: bool
) -> tuple[Tokens, bool]:
    if a.ndim not in (1, 2):
        axes, names = ("B, T", "batch, time") if batch_first else ("T, B", "time, batch")
        raise ValueError(
            f"x: expected integer token ids of shape ({axes}) = ({names}), or (T,) unbatched, got {a.shape}; "
            f"write x.astype(np.{dtype}) if these are features"
        )
    batched = a.ndim == 2
    if not batched:
        a = a[:, np.newaxis]
    elif batch_first:
        a = a.swapaxes(0, 1)
    # Checked before the cast, as a huge uint64 id would turn negative.
    if a.size and not _in_range(a, input_size):
        t, b = np.unravel_index(np.argmax((a < 0) | (a >= input_size)), a.shape)
        where = f"time step {t}, batch row {b}" if batched else f"time step {t}"
        raise ValueError(f"x: expected token ids in [0, {input_size}), got {a[t, b]} at {where}")
    return normalise(a, np.dtype(np.int64)) if ready else a, batched


def frame(x: Any, batch: int, input_size: int, dtype: np.dtype[Any]) -> tuple[Array | Tokens, bool]:
    """Return one time step's input as (B, I) of `dtype` or (B,) of int64, and whether it had a batch axis.

    For one sequence the batch axis may be left out. Errors are those of `sequence`.
    """
    a = as_array("x", x)
    if a.dtype.kind in "iu":
        if a.shape != (batch,) and not (a.ndim == 0 and batch == 1):
            raise ValueError(
                f"x: expected token ids of shape ({batch},) = (batch,){' or one id' if batch == 1 else ''}, "
                f"got {a.shape}; write x.astype(np.{dtype}) if these are features"
            )
        ids = a.reshape(batch)
        if not _in_range(ids, input_size):
            b = int(np.argmax((ids < 0) | (ids >= input_size)))
            where = f" at batch row {b}" if a.ndim else ""
            raise ValueError(f"x: expected token ids in [0, {input_size}), got {ids[b]}{where}")
        return normalise(ids, np.dtype(np.int64)), a.ndim == 1
    check_float("x", x, a, dtype)
    I = input_size
    if a.shape != (batch, I) and not (a.shape == (I,) and batch == 1):
        alone = f", or ({I},) unbatched" if batch == 1 else ""
        raise ValueError(f"x: expected shape ({batch}, {I}) = (batch, input_size){alone}, got {a.shape}")
    return normalise(a.reshape(batch, I), dtype), a.ndim == 2


def _in_range(a: npt.NDArray[Any], end: int) -> bool:
    """Whether every entry of a nonempty integer array is in [0, end)."""
    if a.dtype == np.int64:
        # As uint64 a negative id is a huge one, so that one pass will do: a microsecond less for a few ids.
        return bool(np.maximum.reduce(a.view(np.uint64), axis=None) < end)
    return bool(a.min() >= 0 and a.max() < end)


def lengths(value: Any, steps: int, batch: int, batched: bool) -> Tokens:
    """Return the number of steps of each row as (B,) int64, a copy.

    Parameters
    ----------
    value : array_like
        (B,) of any integer dtype, or for an unbatched sequence one integer; in [0, T].
    steps, batch : int
        T and B.
    batched : bool
        Whether x had a batch axis.

    Raises
    ------
    TypeError
        If the dtype is not an integer one.
    ValueError
        If the shape is wrong, or a length is not in [0, T].
    """
    a = as_array("lengths", value)
    if a.dtype.kind not in "iu" and (a.size or isinstance(value, np.ndarray)):  # [] is an array of float64
        cast = "; write lengths.astype(np.int64)" if hasattr(value, "astype") and a.dtype.kind in "fb" else ""
        raise TypeError(f"lengths: expected integers, got {a.dtype}{cast}")
    if batched:
        check_shape("lengths", a, ((batch,), "(batch,)"))
    else:
        check_shape("lengths", a, ((), "one integer for an unbatched sequence"))
    a = a.reshape(batch)
    if a.size and not (a.min() >= 0 and a.max() <= steps):
        b = int(np.argmax((a < 0) | (a > steps)))
        where = f" at batch row {b}" if batched else ""
        raise ValueError(f"lengths: expected integers in [0, {steps}], got {a[b]}{where}")
    return np.array(a, np.int64)


def reset(value: Any, steps: int, batch: int, batched: bool, batch_first: bool) -> Mask:
    """Return where rows begin again as a time-major (T, B) mask, a copy.

    Parameters
    ----------
    value : array_like of bool
        (T, B), (B, T) if `batch_first`, or (T,) for an unbatched sequence.
    steps, batch : int
        T and B.
    batched, batch_first : bool
        The layout of x.

    Raises
    ------
    TypeError
        If the dtype is not bool.
    ValueError
        If the shape is wrong.
    """
    a = as_array("reset", value)
    _check_bool("reset", value, a)
    if not batched:
        check_shape("reset", a, ((steps,), "(time,)"))
        a = a[:, np.newaxis]
    elif batch_first:
        check_shape("reset", a, ((batch, steps), "(batch, time)"))
        a = a.swapaxes(0, 1)
    else:
        check_shape("reset", a, ((steps, batch), "(time, batch)"))
    return np.array(a, np.bool_, order="C")


def rows_to_reset(value: Any, batch: int) -> Mask:
    """Return the rows (B,) that begin again before a time step; one bool stands for all of them."""
    a = as_array("reset", value)
    _check_bool("reset", value, a)
    if a.ndim:
        check_shape("reset", a, ((batch,), "(batch,)"))
    return np.broadcast_to(a, (batch,))


def _check_bool(name: str, value: Any, a: npt.NDArray[Any]) -> None:
    if a.dtype.kind != "b" and (a.size or isinstance(value, np.ndarray)):  # [] is an array of float64
        cast = f"; write {name}.astype(bool)" if hasattr(value, "astype") and a.dtype.kind in "iuf" else ""
        raise TypeError(f"{name}: expected bool, got {a.dtype}{cast}")

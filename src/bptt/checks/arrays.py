"""Checks of arrays of numbers: dtype, shape, names; the form that the ground floor takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from bptt.arrays import Array

#: The whole story of one expected array: its shape and what each of its axes is called.
Shape = tuple[tuple[int, ...], str]


def is_ready(a: Any, dtype: np.dtype[Any]) -> bool:
    """Whether `a` is a plain array that needs no conversion: the fast path's question."""
    return type(a) is np.ndarray and a.dtype == dtype and a.flags.carray


def as_array(name: str, value: Any) -> npt.NDArray[Any]:
    """Return `value` as an array of whatever dtype; unequal rows are a ValueError."""
    try:
        return np.asarray(value)
    except ValueError:
        raise ValueError(f"{name}: expected an array, got a {type(value).__name__} of unequal rows") from None


def normalise(a: npt.NDArray[Any], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Return `a` C-contiguous, aligned and of exactly this dtype."""
    return a if is_ready(a, dtype) else np.require(a, dtype, ["C", "A"])


def check_float(name: str, value: Any, a: npt.NDArray[Any], dtype: np.dtype[Any]) -> None:
    """Check the dtype of `a`, which was made from `value`."""
    got = a.dtype
    # newbyteorder: a byte-swapped float32 is a float32 too
    if got.kind != "f" or got.newbyteorder("=") != dtype:
        cast = ""
        if got.kind in "fiub":
            is_array = hasattr(value, "astype")
            cast = (
                f"; write {name}.astype(np.{dtype})"
                if is_array
                else f"; write np.asarray({name}, np.{dtype})"
            )
        raise TypeError(f"{name}: expected {dtype} (the layer's dtype), got {got}{cast}")


def float_array(name: str, a: Any) -> npt.NDArray[Any]:
    """Return `a`, which must be a float32 or float64 array in native byte order."""
    got = a.dtype if isinstance(a, np.ndarray) else type(a).__name__
    if not isinstance(a, np.ndarray) or a.dtype not in (np.dtype(np.float32), np.dtype(np.float64)):
        raise TypeError(f"{name}: expected a float32 or float64 array, got {got}")
    return a


def check_shape(name: str, a: npt.NDArray[Any], shape: Shape) -> None:
    """Check that `a` has this shape."""
    expected, legend = shape
    if a.shape != expected:
        raise ValueError(f"{name}: expected shape {expected} = {legend}, got {a.shape}")


def floats(name: str, value: Any, shape: Shape, dtype: np.dtype[Any]) -> Array:
    """Return `value` as an array of exactly this shape and floating dtype.

    Raises
    ------
    TypeError
        If its dtype is another one (float64 is never cast to float32 silently, nor the other way round).
    ValueError
        If its shape is another one.
    """
    a = as_array(name, value)
    check_float(name, value, a, dtype)
    check_shape(name, a, shape)
    return normalise(a, dtype)


def rows(name: str, value: Any, features: int, legend: str, dtype: np.dtype[Any]) -> Array:
    """Return `value` as an array of shape (..., features) and exactly this floating dtype."""
    a = as_array(name, value)
    check_float(name, value, a, dtype)
    if a.ndim < 1 or a.shape[-1] != features:
        raise ValueError(f"{name}: expected shape (..., {features}) = (..., {legend}), got {a.shape}")
    return normalise(a, dtype)


def output(name: str, a: Any, shape: Shape, dtype: np.dtype[Any]) -> None:
    """Check that a result can be written to `a` as it is."""
    if not isinstance(a, np.ndarray):
        raise TypeError(f"{name}: expected an array to write to, got {type(a).__name__}")
    if a.dtype != dtype:
        raise TypeError(f"{name}: expected {dtype} (the layer's dtype), got {a.dtype}")
    check_shape(name, a, shape)
    if not (a.flags.c_contiguous and a.flags.writeable):
        wrong = "a read-only one" if a.flags.c_contiguous else "another layout"
        raise ValueError(f"{name}: expected a writeable C-contiguous array, got {wrong}")


def named_arrays(
    owner: str, given: Any, shapes: Mapping[str, Shape], dtype: np.dtype[Any]
) -> dict[str, Array]:
    """Return the arrays of `given`, which must have exactly the names, shapes and dtype expected.

    Parameters
    ----------
    owner : str
        What to call the mapping in a message: ``"parameters"`` or ``"state_dict"``.
    given : mapping
        From name to array.
    shapes : mapping
        From name to expected shape, in the order of the result.
    dtype : numpy.dtype
        The layer's.

    Raises
    ------
    TypeError
        If `given` is not a mapping, or an array has another dtype.
    ValueError
        If a name is missing or surplus, or a shape is wrong.
    """
    try:
        names = list(given.keys())
    except AttributeError:
        raise TypeError(f"{owner}: expected a dict from name to array, got {type(given).__name__}") from None
    missing = [name for name in shapes if name not in names]
    surplus = [str(name) for name in names if name not in shapes]
    if missing or surplus:
        wrong = [f"no {name}" for name in missing] + [f"an unknown {name}" for name in surplus]
        raise ValueError(f"{owner}: expected the names {', '.join(shapes)}, got {' and '.join(wrong)}")
    return {name: floats(name, given[name], shape, dtype) for name, shape in shapes.items()}

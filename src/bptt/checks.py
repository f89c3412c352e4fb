"""Every check of an argument's type, shape, dtype and range, and the message when it fails.

A check returns the argument in the one form the ground floor takes (C-contiguous, aligned, native byte
order) or raises: TypeError for types and dtypes, ValueError for shapes and values, one sentence "name:
expected ..., got ...".
"""

from __future__ import annotations

import functools
import operator
import os
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    import numpy.typing as npt

    from bptt.arrays import Array, Tokens
    from bptt.interface import Backend

BACKENDS = ("kernels", "reference")
NONLINEARITIES = ("tanh", "relu", "sigmoid", "identity")
INITS = ("uniform", "orthogonal", "identity")

#: The whole story of one expected array: its shape and what each of its axes is called.
Shape = tuple[tuple[int, ...], str]


# ---------------------------------------------------------------------------------------------- options


@functools.cache  # asked in every call of a tape
def resolve_backend(name: str) -> Backend:
    """Return the module that does the work: ``bptt.kernels`` or ``bptt.reference``.

    Each is imported when first asked for, so that ``import bptt`` stays cheap.

    Raises
    ------
    ValueError
        If `name` is neither ``"kernels"`` nor ``"reference"``.
    """
    choice("backend", name, BACKENDS)
    if name == "kernels":
        from bptt import kernels

        return kernels
    from bptt import reference

    return reference


@functools.cache
def default_threads() -> int:
    """Return the thread count used where none is given; found out once in a process.

    It is the environment variable ``BPTT_NUM_THREADS`` if that is set, else the number of cores this
    process may run on.

    Raises
    ------
    ValueError
        If ``BPTT_NUM_THREADS`` is set to anything but an integer of at least 1.
    """
    given = os.environ.get("BPTT_NUM_THREADS", "").strip()
    if given:
        if not (given.isascii() and given.isdigit() and int(given) >= 1):
            raise ValueError(f"BPTT_NUM_THREADS: expected an integer of at least 1, got {given!r}")
        return int(given)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def resolve_threads(threads: int | None) -> int:
    """Return `threads`, or `default_threads` for None.

    Raises
    ------
    TypeError, ValueError
        If `threads` is not None and not an integer of at least 1, or if ``BPTT_NUM_THREADS`` is wrong.
    """
    if threads is None:
        return default_threads()
    if type(threads) is int and threads > 0:
        return threads
    return integer("threads", threads)


def integer(name: str, value: Any, minimum: int = 1) -> int:
    """Return `value` as an int of at least `minimum`; NumPy integers are welcome, bools are not."""
    if isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name}: expected an integer of at least {minimum}, got {value!r}")
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: expected an integer of at least {minimum}, got {value!r}") from None
    if number < minimum:
        raise ValueError(f"{name}: expected an integer of at least {minimum}, got {number}")
    return number


def choice(name: str, value: Any, options: Collection[str]) -> str:
    """Return `value`, which must be one of `options`."""
    if not isinstance(value, str) or value not in options:
        raise ValueError(f"{name}: expected one of {', '.join(map(repr, options))}, got {value!r}")
    return value


def flag(name: str, value: Any) -> bool:
    """Return `value` as a bool, which it must be."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name}: expected True or False, got {value!r}")
    return bool(value)


def seed(value: Any) -> int | None:
    """Return a seed: None (fresh entropy) or an integer of at least 0."""
    return None if value is None else integer("seed", value, 0)


def float_dtype(value: Any) -> np.dtype[Any]:
    """Return the dtype of a layer: float32 or float64 in native byte order."""
    got = str(value)
    if value is not None:  # np.dtype(None) would be float64
        try:
            dtype: np.dtype[Any] = np.dtype(value)
        except TypeError:
            pass  # not a dtype at all: told below, in our own words
        else:
            got = str(dtype)
            if dtype in (np.dtype(np.float32), np.dtype(np.float64)):
                return dtype
    raise TypeError(f"dtype: expected float32 or float64, got {got}")


# ---------------------------------------------------------------------------------------------- arrays


def is_ready(a: Any, dtype: np.dtype[Any]) -> bool:
    """Whether `a` is a plain array that needs no conversion: the fast path's question."""
    return type(a) is np.ndarray and a.dtype == dtype and a.flags.carray


def _as_array(name: str, value: Any) -> npt.NDArray[Any]:
    try:
        return np.asarray(value)
    except ValueError:
        raise ValueError(f"{name}: expected an array, got a {type(value).__name__} of unequal rows") from None


def _normalise(a: npt.NDArray[Any], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    return a if is_ready(a, dtype) else np.require(a, dtype, ["C", "A"])


def _check_float(name: str, value: Any, a: npt.NDArray[Any], dtype: np.dtype[Any]) -> None:
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


def _check_shape(name: str, a: npt.NDArray[Any], shape: Shape) -> None:
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
    a = _as_array(name, value)
    _check_float(name, value, a, dtype)
    _check_shape(name, a, shape)
    return _normalise(a, dtype)


def rows(name: str, value: Any, features: int, legend: str, dtype: np.dtype[Any]) -> Array:
    """Return `value` as an array of shape (..., features) and exactly this floating dtype."""
    a = _as_array(name, value)
    _check_float(name, value, a, dtype)
    if a.ndim < 1 or a.shape[-1] != features:
        raise ValueError(f"{name}: expected shape (..., {features}) = (..., {legend}), got {a.shape}")
    return _normalise(a, dtype)


def sequence(x: Any, input_size: int, dtype: np.dtype[Any], batch_first: bool) -> tuple[Array | Tokens, bool]:
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

    Returns
    -------
    x : ndarray
        (T, B, I) of `dtype`, or (T, B) of int64; C-contiguous. It shares memory with the argument where it
        can.
    batched : bool

    Raises
    ------
    TypeError
        If the dtype is neither the layer's nor an integer one.
    ValueError
        If the shape is wrong, or a token id is not in [0, I).
    """
    a = _as_array("x", x)
    if a.dtype.kind in "iu":
        return _tokens(a, input_size, dtype, batch_first)
    _check_float("x", x, a, dtype)
    if a.ndim not in (2, 3) or a.shape[-1] != input_size:
        I = input_size
        axes, names = ("B, T", "batch, time") if batch_first else ("T, B", "time, batch")
        raise ValueError(
            f"x: expected shape ({axes}, {I}) = ({names}, input_size), or (T, {I}) unbatched, got {a.shape}"
        )
    if a.ndim == 2:
        return _normalise(a, dtype)[:, np.newaxis], False
    return _normalise(a.swapaxes(0, 1) if batch_first else a, dtype), True


def _tokens(
    a: npt.NDArray[Any], input_size: int, dtype: np.dtype[Any], batch_first: bool
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
    return _normalise(a, np.dtype(np.int64)), batched


def frame(x: Any, batch: int, input_size: int, dtype: np.dtype[Any]) -> tuple[Array | Tokens, bool]:
    """Return one time step's input as (B, I) of `dtype` or (B,) of int64, and whether it had a batch axis.

    For one sequence the batch axis may be left out. Errors are those of `sequence`.
    """
    a = _as_array("x", x)
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
        return _normalise(ids, np.dtype(np.int64)), a.ndim == 1
    _check_float("x", x, a, dtype)
    I = input_size
    if a.shape != (batch, I) and not (a.shape == (I,) and batch == 1):
        alone = f", or ({I},) unbatched" if batch == 1 else ""
        raise ValueError(f"x: expected shape ({batch}, {I}) = (batch, input_size){alone}, got {a.shape}")
    return _normalise(a.reshape(batch, I), dtype), a.ndim == 2


def output(name: str, a: Any, shape: Shape, dtype: np.dtype[Any]) -> None:
    """Check that a result can be written to `a` as it is."""
    if not isinstance(a, np.ndarray):
        raise TypeError(f"{name}: expected an array to write to, got {type(a).__name__}")
    if a.dtype != dtype:
        raise TypeError(f"{name}: expected {dtype} (the layer's dtype), got {a.dtype}")
    _check_shape(name, a, shape)
    if not (a.flags.c_contiguous and a.flags.writeable):
        wrong = "a read-only one" if a.flags.c_contiguous else "another layout"
        raise ValueError(f"{name}: expected a writeable C-contiguous array, got {wrong}")


def _in_range(a: npt.NDArray[Any], end: int) -> bool:
    """Whether every entry of a nonempty integer array is in [0, end)."""
    if a.dtype == np.int64:
        # As uint64 a negative id is a huge one, so that one pass will do: a microsecond less for a few ids.
        return bool(np.maximum.reduce(a.view(np.uint64), axis=None) < end)
    return bool(a.min() >= 0 and a.max() < end)


def initial_state(h_0: Any, batch: int, hidden_size: int, dtype: np.dtype[Any], batched: bool) -> Array:
    """Return a given initial state as (B, H); it comes as (1, B, H), or (1, H) for an unbatched sequence."""
    return floats("h_0", h_0, state_shape(batch, hidden_size, batched), dtype).reshape(batch, hidden_size)


def state_shape(batch: int, hidden_size: int, batched: bool) -> Shape:
    """Return the shape of h_0 and h_n as the user sees them."""
    if batched:
        return (1, batch, hidden_size), "(num_layers, batch, hidden_size)"
    return (1, hidden_size), "(num_layers, hidden_size)"


def output_shape(steps: int, batch: int, hidden_size: int, batched: bool, batch_first: bool) -> Shape:
    """Return the shape of y as the user sees it."""
    if not batched:
        return (steps, hidden_size), "(time, hidden_size)"
    if batch_first:
        return (batch, steps, hidden_size), "(batch, time, hidden_size)"
    return (steps, batch, hidden_size), "(time, batch, hidden_size)"


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


def finite(x: Array | Tokens, h_0: Array, y: Array, batched: bool) -> None:
    """Raise FloatingPointError at the first time step where x or y isn't finite, or if h_0 isn't.

    x (T, B, I) or tokens (T, B), h_0 (B, H), y (T, B, H). With tanh or sigmoid an infinite x leaves y
    finite, which is why x is looked at too; where both are bad at one step, x is named.
    """
    bad_rows = ~np.isfinite(h_0).all(axis=1)
    if bad_rows.any():
        b = int(np.argmax(bad_rows))
        raise FloatingPointError(_finite_message("h_0", h_0[b], f"batch row {b}" if batched else ""))
    first: tuple[int, int, str, Array] | None = None
    for name, a in (("x", x), ("y", y)):
        if a.ndim != 3:
            continue  # token ids are finite
        bad = ~np.isfinite(a).all(axis=2)  # (T, B)
        if bad.any():
            t, b = divmod(int(np.argmax(bad)), bad.shape[1])
            if first is None or t < first[0]:
                first = (t, b, name, a[t, b])
    if first is not None:
        t, b, name, row = first
        where = f"time step {t}, batch row {b}" if batched else f"time step {t}"
        raise FloatingPointError(_finite_message(name, row, where))


def _finite_message(name: str, row: Array, where: str) -> str:
    value = row[~np.isfinite(row)][0]
    return f"{name}: expected finite values, got {value}{' at ' if where else ''}{where}"

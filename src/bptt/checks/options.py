"""Checks of options: numbers, flags, choices, dtypes, the backend and the number of threads."""

from __future__ import annotations

import functools
import math
import operator
import os
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Collection

    from bptt.interface import Backend

BACKENDS = ("kernels", "reference")
NONLINEARITIES = ("tanh", "relu", "sigmoid", "identity")
INITS = ("uniform", "orthogonal", "identity")
#: Threads beyond which more are not asked for: the ground floor sets memory aside for each.
MOST_THREADS = 1024


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


def usable_cores() -> int:
    """Count the cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@functools.cache
def default_threads() -> int:
    """Return the thread count used where none is given; found out once in a process.

    It is the environment variable ``BPTT_NUM_THREADS`` if that is set, else the number of cores this
    process may run on; at most `MOST_THREADS`.

    Raises
    ------
    ValueError
        If ``BPTT_NUM_THREADS`` is set to anything but an integer of at least 1.
    """
    given = os.environ.get("BPTT_NUM_THREADS", "").strip()
    if given:
        if not (given.isascii() and given.isdigit() and int(given) >= 1):
            raise ValueError(f"BPTT_NUM_THREADS: expected an integer of at least 1, got {given!r}")
        return min(int(given), MOST_THREADS)
    return min(usable_cores(), MOST_THREADS)


def resolve_threads(threads: int | None) -> int:
    """Return `threads`, or `default_threads` for None; at most `MOST_THREADS`.

    Raises
    ------
    TypeError, ValueError
        If `threads` is not None and not an integer of at least 1, or if ``BPTT_NUM_THREADS`` is wrong.
    """
    if threads is None:
        return default_threads()
    if type(threads) is int and 0 < threads <= MOST_THREADS:
        return threads
    return min(integer("threads", threads), MOST_THREADS)


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


def number(name: str, value: Any) -> float:
    """Return `value` as a finite float; bools are not welcome."""
    found = _real(value)
    if found is None:
        raise TypeError(f"{name}: expected a finite number, got {value!r}")
    if not math.isfinite(found):
        raise ValueError(f"{name}: expected a finite number, got {value!r}")
    return found


def not_negative(name: str, value: Any, *, below: float = math.inf, finite: bool = True) -> float:
    """Return `value` as a float in [0, below); infinity too unless `finite`."""
    found = _real(value)
    if found is None:
        raise TypeError(f"{name}: expected a number, got {type(value).__name__}")
    if not (0 <= found < below) and not (found == math.inf and not finite):
        bound = "of at least 0" if below == math.inf else f"in [0, {below:g})"
        kind = "a finite number" if finite else "a number"
        raise ValueError(f"{name}: expected {kind} {bound}, got {value!r}")
    return found


def rate(name: str, value: Any) -> float:
    """Return `value` as a float in [0, 1), the share of something that is left out."""
    found = _real(value)
    if found is None:
        raise TypeError(f"{name}: expected a number in [0, 1), got {value!r}")
    if not 0.0 <= found < 1.0:  # NaN too; and what is below 1 only until it is rounded
        raise ValueError(f"{name}: expected a number in [0, 1), got {value!r}")
    return found


def _real(value: Any) -> float | None:
    """Return a number as a float, infinity for one that is too large; None for anything else, bools too."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating)):
        return None
    try:
        return float(value)
    except OverflowError:  # of integers alone
        return math.inf if value > 0 else -math.inf


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

"""Gradient clipping by norm and by value, in place."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from bptt.arrays import Array


def clip_grad_norm(
    gradients: Mapping[str, Array], max_norm: float, *, error_if_nonfinite: bool = False
) -> float:
    """Scale all gradients in place so that their common Euclidean norm is at most ``max_norm``.

    Parameters
    ----------
    gradients : mapping of str to ndarray
        Writeable float32 or float64 arrays; multiplied by min(1, max_norm / (norm + 1e-6)), as in PyTorch.
    max_norm : float
        >= 0.
    error_if_nonfinite : bool
        Raise if the norm is NaN or infinite; otherwise the gradients become NaN or 0.

    Returns
    -------
    float
        The norm before clipping, accumulated in float64.

    Raises
    ------
    ValueError
        For a negative ``max_norm``, or a read-only gradient.
    TypeError
        For a gradient that is not float32 or float64.
    FloatingPointError
        For a norm that is not finite, if asked for; nothing is changed then.
    """
    max_norm = number("max_norm", max_norm, finite=False)
    arrays = _writeable(gradients)
    with np.errstate(under="ignore", over="ignore", invalid="ignore"):
        # einsum converts block by block, so float32 gradients need no float64 copy
        total = math.sqrt(
            sum(float(np.einsum("i,i->", a, a, dtype=np.float64)) for a in map(np.ravel, arrays))
        )
        if error_if_nonfinite and not math.isfinite(total):
            raise FloatingPointError(f"gradients: expected a finite norm, got {total}")
        scale = max_norm / (total + 1e-6)
        if not scale >= 1.0:  # so that NaN reaches the gradients
            for a in arrays:
                np.multiply(a, scale, out=a)
    return total


def clip_grad_value(gradients: Mapping[str, Array], clip_value: float) -> None:
    """Clip every gradient entry to [-clip_value, clip_value], in place.

    Parameters
    ----------
    gradients : mapping of str to ndarray
        Writeable float32 or float64 arrays.
    clip_value : float
        >= 0.

    Raises
    ------
    ValueError
        For a negative ``clip_value``, or a read-only gradient.
    TypeError
        For a gradient that is not float32 or float64.
    """
    clip_value = number("clip_value", clip_value, finite=False)
    for a in _writeable(gradients):
        # a float32 has no 1e300: its largest number then, as inf would let infinite entries through
        bound = clip_value if math.isinf(clip_value) else min(clip_value, float(np.finfo(a.dtype).max))
        np.clip(a, -bound, bound, out=a)


def _writeable(gradients: Mapping[str, Array]) -> list[Array]:
    """Check that gradients can be changed in place."""
    for name, a in gradients.items():
        float_array(f"gradients[{name!r}]", a)
        if not a.flags.writeable:
            raise ValueError(f"gradients[{name!r}]: expected a writeable array, got a read-only one")
    return list(gradients.values())


def float_array(name: str, a: Any) -> npt.NDArray[Any]:
    """Check that a is a float32 or float64 array in native byte order, and return it.

    Parameters
    ----------
    name : str
        What to call it in a message.
    a : object
        What the user gave.

    Returns
    -------
    ndarray

    Raises
    ------
    TypeError
        If it is anything else.
    """
    got = a.dtype if isinstance(a, np.ndarray) else type(a).__name__
    if not isinstance(a, np.ndarray) or a.dtype not in (np.dtype(np.float32), np.dtype(np.float64)):
        raise TypeError(f"{name}: expected a float32 or float64 array, got {got}")
    return a


def number(name: str, value: Any, *, below: float = math.inf, finite: bool = True) -> float:
    """Check a real number in [0, below) and return it as a float.

    Parameters
    ----------
    name : str
        What to call it in a message.
    value : object
        What the user gave.
    below : float
        Upper limit, excluded.
    finite : bool
        Whether infinity is refused.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If it is out of range or NaN.
    TypeError
        If it is not a number.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):  # NumPy's bool is none
        raise TypeError(f"{name}: expected a number, got {type(value).__name__}")
    result = float(value)
    if not (0 <= result < below) and not (result == math.inf and not finite):
        bound = "of at least 0" if below == math.inf else f"in [0, {below:g})"
        kind = "a finite number" if finite else "a number"
        raise ValueError(f"{name}: expected {kind} {bound}, got {value!r}")
    return result

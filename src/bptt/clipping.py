"""Gradient clipping by norm and by value, in place."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from bptt import checks
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
    max_norm = checks.not_negative("max_norm", max_norm, finite=False)
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
    clip_value = checks.not_negative("clip_value", clip_value, finite=False)
    for a in _writeable(gradients):
        # a float32 has no 1e300: its largest number then, as inf would let infinite entries through
        bound = clip_value if math.isinf(clip_value) else min(clip_value, float(np.finfo(a.dtype).max))
        np.clip(a, -bound, bound, out=a)


def _writeable(gradients: Mapping[str, Array]) -> list[Array]:
    """Check that gradients can be changed in place."""
    for name, a in gradients.items():
        checks.float_array(f"gradients[{name!r}]", a)
        if not a.flags.writeable:
            raise ValueError(f"gradients[{name!r}]: expected a writeable array, got a read-only one")
    return list(gradients.values())

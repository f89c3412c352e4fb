"""Checks of states: h of an Elman layer or a GRU, the pair of h and c of an LSTM."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bptt.checks.arrays import floats

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bptt.arrays import Array
    from bptt.checks.arrays import Shape


def state_parts(
    names: Sequence[str], value: Any, shapes: Sequence[Shape], dtype: np.dtype[Any]
) -> tuple[Array | None, ...]:
    """Return the arrays of a state, or of a gradient of one.

    Parameters
    ----------
    names : sequence of str
        What a message calls the arrays: one name, for an LSTM two. The first also stands for the pair.
    value : array_like, or pair of them
        Where two are expected, either may be None.
    shapes : sequence of Shape
        Theirs.
    dtype : numpy.dtype
        The layer's.

    Raises
    ------
    TypeError
        If a dtype is wrong, or one array comes where a pair is expected, or a pair where one array is.
    ValueError
        If a shape is wrong.
    """
    if len(shapes) == 1:
        if isinstance(value, tuple) and any(isinstance(part, np.ndarray) for part in value):
            raise TypeError(
                f"{names[0]}: expected one array, got a tuple of {len(value)}; only an LSTM's state is a pair"
            )
        return (floats(names[0], value, shapes[0], dtype),)
    if not isinstance(value, (tuple, list)) or len(value) != len(shapes):
        got = f"{len(value)} of them" if isinstance(value, (tuple, list)) else f"one {type(value).__name__}"
        raise TypeError(f"{names[0]}: expected a pair of arrays ({', '.join(names)}), got {got}")
    return tuple(
        None if part is None else floats(name, part, shape, dtype)
        for name, part, shape in zip(names, value, shapes, strict=True)
    )

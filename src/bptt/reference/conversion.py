"""Between arrays and nested lists of floats; the checks of what only some cells have.

The loops compute in Python floats, which are float64; results are cast to the dtype of what came in.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .. import arrays
from ..arrays import Array, Mask, Tokens, Weights
from .cells import CELLS, GATES
from .records import Gates, Parameters, State
from .unroll import Course, Noise


def to_array(nested: Any, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
    """Return nested lists of floats as an array; too large for float32 becomes inf, as in its arithmetic."""
    with np.errstate(over="ignore"):
        return np.array(nested, dtype=np.float64).reshape(shape).astype(dtype)


def to_lists(cell: str, weights: Weights) -> Parameters:
    """Return the weights of a cell as nested lists.

    Raises
    ------
    ValueError
        For another cell than those of ``CELLS``, or weights that it does not have.
    """
    if cell not in CELLS:
        raise ValueError(f"cell: expected one of {CELLS}, got {cell!r}")
    for name in ("weight_hr", "weight_ph"):
        if cell != "lstm" and getattr(weights, name) is not None:
            raise ValueError(f"{name}: expected None for the cell {cell!r}, got an array")
    for name in ("weight_ln_ih", "weight_ln_hh"):
        if cell == "gru_reset_before" and getattr(weights, name) is not None:
            raise ValueError(f"{name}: expected None for the cell {cell!r}, got an array")
    if (weights.weight_ln_ih is None) != (weights.weight_ln_hh is None):
        raise ValueError("weight_ln_ih, weight_ln_hh: expected both or neither, got one")
    nested: list[Any] = [None if array is None else array.tolist() for array in weights]
    return Parameters(*nested)


def to_weights(parameters: Parameters, like: Weights) -> Weights:
    """Return nested lists as weights in the shapes and the dtype of others."""
    values: list[Any] = [
        None if array is None else to_array(nested, array.shape, array.dtype)
        for nested, array in zip(parameters, like, strict=True)
    ]
    return Weights(*values)


def copied(fields: Any) -> Any:
    """Return a named tuple whose arrays a later edit of the caller's does not reach."""
    return type(fields)(*(value.copy() if isinstance(value, np.ndarray) else value for value in fields))


def to_states(state: tuple[Array, ...]) -> list[State]:
    """Return (h,) or (h, c), (B, ...) each, as one state a batch row."""
    return list(zip(*(array.tolist() for array in state), strict=True))


def from_states(states: list[State], like: tuple[Array, ...]) -> tuple[Array, ...]:
    """Return one state a batch row as (h,) or (h, c) in the shapes and the dtype of another."""
    return tuple(
        to_array([state[part] for state in states], array.shape, array.dtype)
        for part, array in enumerate(like)
    )


def sequence_of_states(y: Array, c: Array | None) -> list[list[State]]:
    """Return h (T, B, R) and c (T, B, H) of every step as one state a step and row."""
    parts = (y,) if c is None else (y, c)
    return [to_states(tuple(part[t] for part in parts)) for t in range(len(y))]


def sequence_of_gates(gates: Any, shape: tuple[int, ...]) -> list[list[Gates]]:
    """Return the gates (T, B, H) by name as one dictionary a step and row, of the shape (T, B)."""
    nested = {name: array.tolist() for name, array in gates.items()}
    T, B = shape
    return [[{name: array[t][b] for name, array in nested.items()} for b in range(B)] for t in range(T)]


def from_gates(
    cell: str, gates: list[list[Gates]], shape: tuple[int, ...], dtype: npt.DTypeLike
) -> dict[str, Array]:
    """Return the gates of every step and row as arrays (T, B, H) by name."""
    return {name: to_array([[at[name] for at in row] for row in gates], shape, dtype) for name in GATES[cell]}


def to_course(lengths: Tokens | None, reset: Mask | None, reverse: bool) -> Course:
    """Return how the rows go through time as lists."""
    return Course(
        None if lengths is None else lengths.tolist(), None if reset is None else reset.tolist(), reverse
    )


def to_noise(cell: str, noise: arrays.Noise | None) -> Noise:
    """Return recurrent dropout and zoneout as lists.

    Raises
    ------
    ValueError
        For zoneout of c in a cell that has none.
    """
    if noise is None:
        return Noise()
    if cell != "lstm" and (noise.zoneout_c != 0.0 or noise.kept_c is not None):
        raise ValueError(f"noise: expected no zoneout of c for the cell {cell!r}, got some")
    return Noise(
        None if noise.dropout is None else noise.dropout.tolist(),
        (noise.zoneout_h, noise.zoneout_c),
        tuple(None if kept is None else kept.tolist() for kept in (noise.kept_h, noise.kept_c)),
    )

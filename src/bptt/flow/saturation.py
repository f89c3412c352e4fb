"""Gates at the ends of their ranges, units that are never on, numbers that are not finite."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from bptt import kernels

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bptt.arrays import Array, Mask
    from bptt.stack import Pass

#: How near a bound a gate is saturated, as a share of its range: the range of sigmoid is 1, that of tanh 2.
NEAR = 0.01
#: Bounds of activations and of gates; a ReLU and the identity have none.
SIGMOID, TANH = (0.0, 1.0), (-1.0, 1.0)
BOUNDS = {
    "sigmoid": {"h": SIGMOID},
    "tanh": {"h": TANH},
    "lstm": {"i": SIGMOID, "f": SIGMOID, "g": TANH, "o": SIGMOID},
    "gru": {"r": SIGMOID, "z": SIGMOID, "n": TANH},
    "gru_reset_before": {"r": SIGMOID, "z": SIGMOID, "n": TANH},
}


class NonFinite(NamedTuple):
    """Where NaN or an infinity was met first.

    Attributes
    ----------
    what : {"state", "gradient"}
        In the forward pass, or on the way back.
    layer, direction, step : int
        Counted from 0; `step` is an index into time.
    """

    what: str
    layer: int
    direction: int
    step: int


def saturation(recorded: Pass, unit: int) -> dict[str, Array]:
    """Return the share of entries that are saturated at every step, for every gate.

    Parameters
    ----------
    recorded : Pass
    unit : int

    Returns
    -------
    dict
        (T,) of float64 each, over the units and the rows that have the step; NaN where none has it.
    """
    saved, cell = recorded.saved[unit], recorded.structure.cell
    alive = _alive(recorded)
    shares = {}
    for name, (low, high) in BOUNDS.get(cell, {}).items():
        gate = saved.y if name == "h" else saved.gates[name]
        margin = NEAR * (high - low)
        count = kernels.count_outside(gate, low + margin, high - margin).astype(np.float64)
        T, B, size = gate.shape
        if low == 0.0:  # past the ends of rows all is zero
            count -= (B - alive) * size
        shares[name] = np.divide(count, alive * size, out=np.full(T, np.nan), where=alive > 0)
    return shares


def dead(recorded: Pass, unit: int) -> Mask | None:
    """Return which ReLUs are 0 at every step of every row, (H,); None for other cells."""
    if recorded.structure.cell != "relu":
        return None
    never: Mask = ~(recorded.saved[unit].y != 0).any(axis=(0, 1))
    return never & bool(_alive(recorded).any())  # without steps nothing is known of them


def first_nonfinite(recorded: Pass, squares: Sequence[Array]) -> NonFinite | None:
    """Return where NaN or an infinity was met first: at the earliest step forwards, else on the way back.

    Parameters
    ----------
    recorded : Pass
    squares : sequence of ndarray
        (T, B) of every unit, squared norms of dL/dh_t. One that is beyond the largest float64 counts as
        infinite.

    Returns
    -------
    NonFinite or None
    """
    D = recorded.structure.directions
    # the layers in the order of the forward pass, and backwards in the opposite one
    for unit, saved in enumerate(recorded.saved):
        bad = np.zeros(len(saved.y), np.bool_)
        for state in (saved.y, saved.c):
            # one product tells in a fraction of the time that all is well
            if state is not None and not np.isfinite(np.vdot(state, state)):
                bad |= ~np.isfinite(state).all(axis=(1, 2))
        if bad.any():
            return NonFinite("state", unit // D, unit % D, _first(bad, back=unit % D == 1))
    for unit in reversed(range(len(squares))):
        beyond = ~np.isfinite(squares[unit].sum(axis=1))
        if beyond.any():
            return NonFinite("gradient", unit // D, unit % D, _first(beyond, back=unit % D == 0))
    return None


def _first(bad: Mask, *, back: bool) -> int:
    """Return the first index that is True, or going back the last one."""
    places = np.flatnonzero(bad)
    return int(places[-1 if back else 0])


def _alive(recorded: Pass) -> Array:
    """Return how many rows have each step, (T,)."""
    T, B, _ = recorded.y.shape
    if recorded.lengths is None:
        return np.full(T, B)
    alive: Array = (np.arange(T)[:, np.newaxis] < recorded.lengths).sum(axis=1)
    return alive

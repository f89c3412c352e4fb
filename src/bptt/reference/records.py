"""What goes into a step of one batch row and what comes out of it, as lists of Python floats.

Sizes: I inputs, H hidden units, R entries of the state h (H, or P with a projection), G gates. A token id may
stand for its one-hot input row. Source: docs/equations.md, "Notation".
"""

from __future__ import annotations

from typing import NamedTuple

from .algebra import Matrix, Row, zeros_like

#: One batch row of input: (I,) floats, or the token id of a one-hot row.
Input = Row | int
#: (h,), of an LSTM (h, c): h (R,), c (H,).
State = tuple[Row, ...]
#: The gates by name, (H,) each: i, f, g, o of an LSTM, r, z, n of a GRU, none of an Elman cell.
Gates = dict[str, Row]


class Parameters(NamedTuple):
    """Parameters of the recurrence, or their gradients."""

    weight_ih: Matrix  # (G*H, I)
    weight_hh: Matrix  # (G*H, R)
    bias_ih: Row | None = None  # (G*H,)
    bias_hh: Row | None = None  # (G*H,)
    weight_hr: Matrix | None = None  # (P, H), the projection of an LSTM
    weight_ph: Row | None = None  # (3*H,), the peepholes of an LSTM, of i, f and o
    weight_ln_ih: Row | None = None  # (G*H,), gain of the normalised W_ih x
    weight_ln_hh: Row | None = None  # (G*H,), gain of the normalised W_hh h


class StepNoise(NamedTuple):
    """Recurrent dropout and zoneout at one step of one batch row."""

    dropout: Row | None = None  # (R,), what h_{t-1} is multiplied by on its way into W_hh
    zoneout: tuple[float, ...] = (0.0, 0.0)  # the share of h and of c that stays as it was
    kept: tuple[list[bool] | None, ...] = (None, None)  # (R,) and (H,), where h and c stay; None: the mean


class Step(NamedTuple):
    """One step of one batch row as it was taken."""

    x: Input
    before: State
    after: State
    gates: Gates
    noise: StepNoise
    first: bool  # whether `before` is the initial state: at the row's first step, and at a reset


def zeros_of(weights: Parameters) -> Parameters:
    """Return zeros in the shapes of the parameters.

    Parameters
    ----------
    weights : Parameters

    Returns
    -------
    zeros : Parameters
        None where a parameter is None.
    """

    def row(a: Row | None) -> Row | None:
        return None if a is None else [0.0 for _ in a]

    return Parameters(
        zeros_like(weights.weight_ih),
        zeros_like(weights.weight_hh),
        row(weights.bias_ih),
        row(weights.bias_hh),
        None if weights.weight_hr is None else zeros_like(weights.weight_hr),
        row(weights.weight_ph),
        row(weights.weight_ln_ih),
        row(weights.weight_ln_hh),
    )

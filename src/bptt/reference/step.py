"""One time step of one batch row of any cell: what the cell proposes, and zoneout of it.

Source: docs/equations.md, "Dropout and zoneout".
"""

from __future__ import annotations

from . import elman, gru, lstm
from .algebra import Row, add
from .records import Gates, Input, Parameters, State, Step, StepNoise


def zoneout(before: Row, proposed: Row, rate: float, kept: list[bool] | None) -> Row:
    """Zoneout of h or c.

    Parameters
    ----------
    before, proposed : Row
        (K,) s_{t-1} and s~_t.
    rate : float
        The share that stays; of no account with a mask.
    kept : list of bool or None
        (K,), True where s stays as it was; None for the mean over all masks.

    Returns
    -------
    Row
        (K,) s_t.
    """
    if kept is not None:
        # s_t = s_{t-1} where kept, else s~
        return [b if keep else p for b, p, keep in zip(before, proposed, kept, strict=True)]
    if rate == 0.0:
        return proposed
    # s_t = s~ + zoneout (s_{t-1} - s~)
    return [p + rate * (b - p) for b, p in zip(before, proposed, strict=True)]


def zoneout_backward(dafter: Row, kept: list[bool] | None) -> tuple[Row, Row]:
    """Gradients of the loss with respect to s_{t-1} and s~_t.

    Parameters
    ----------
    dafter : Row
        (K,) gradient with respect to s_t.
    kept : list of bool or None
        (K,) the mask; None if the rate is 0.

    Returns
    -------
    dbefore, dproposed : Row
        (K,) each.
    """
    if kept is None:
        return [0.0 for _ in dafter], dafter
    return (
        [d if keep else 0.0 for d, keep in zip(dafter, kept, strict=True)],
        [0.0 if keep else d for d, keep in zip(dafter, kept, strict=True)],
    )


def step(cell: str, x: Input, before: State, weights: Parameters, noise: StepNoise) -> tuple[State, Gates]:
    """One time step.

    Parameters
    ----------
    cell : str
        One of ``cells.CELLS``.
    x : Row or int
        (I,) input x_t, or a token id.
    before : State
        State of step t - 1.
    weights : Parameters
    noise : StepNoise

    Returns
    -------
    after : State
        State of step t.
    gates : Gates
        (H,) each.
    """
    if cell == "lstm":
        proposed, gates = lstm.step(x, before, weights, noise.dropout)
    elif cell == "gru":
        proposed, gates = gru.step(x, before, weights, noise.dropout)
    elif cell == "gru_reset_before":
        proposed, gates = gru.step_reset_before(x, before, weights, noise.dropout)
    else:
        proposed, gates = elman.step(cell, x, before, weights, noise.dropout)
    # zip ends with h, if there is no c
    after = tuple(map(zoneout, before, proposed, noise.zoneout, noise.kept))
    return after, gates


def step_backward(
    cell: str, taken: Step, dafter: State, weights: Parameters, into: Parameters
) -> tuple[Row | None, State]:
    """One time step backwards: from the gradients of the state after it to those of the state before it.

    Parameters
    ----------
    cell : str
        One of ``cells.CELLS``.
    taken : Step
        With zoneout it has masks.
    dafter : State
        Gradients of the loss with respect to the state of step t.
    weights : Parameters
    into : Parameters
        What the parameters' gradients are added to.

    Returns
    -------
    dx : Row or None
        (I,) gradient with respect to x_t; None for a token id.
    dbefore : State
        Gradients with respect to the state of step t - 1.
    """
    parts = [zoneout_backward(d, kept) for d, kept in zip(dafter, taken.noise.kept, strict=False)]
    dproposed = tuple(part[1] for part in parts)
    if cell == "lstm":
        dx, dbefore = lstm.step_backward(taken, dproposed, weights, into)
    elif cell == "gru":
        dx, dbefore = gru.step_backward(taken, dproposed, weights, into)
    elif cell == "gru_reset_before":
        dx, dbefore = gru.step_reset_before_backward(taken, dproposed, weights, into)
    else:
        dx, dbefore = elman.step_backward(cell, taken, dproposed, weights, into)
    return dx, tuple(add(part[0], d) for part, d in zip(parts, dbefore, strict=True))

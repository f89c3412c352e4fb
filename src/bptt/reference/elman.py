"""The Elman cells: one time step of one batch row, forward and backward.

Source: docs/equations.md, "Forward" and "Backward".
"""

from __future__ import annotations

from .algebra import Row
from .cells import activation, through
from .preactivations import preactivations, preactivations_backward
from .records import Gates, Input, Parameters, State, Step


def step(cell: str, x: Input, before: State, weights: Parameters, dropout: Row | None) -> tuple[State, Gates]:
    """One time step: h~_t from x_t and h_{t-1}.

    Parameters
    ----------
    cell : {"tanh", "relu", "sigmoid", "identity"}
    x : Row or int
        (I,) input x_t, or a token id.
    before : State
        (h_{t-1},), (H,).
    weights : Parameters
    dropout : Row or None
        (H,), of h_{t-1} on its way into W_hh.

    Returns
    -------
    state : State
        (h~_t,), (H,).
    gates : Gates
        None.
    """
    (h,) = before
    # z = p + q
    p, q = preactivations(x, h, weights, dropout)
    # h~ = f(z)
    return ([activation(cell, p_j + q_j) for p_j, q_j in zip(p, q, strict=True)],), {}


def step_backward(
    cell: str, taken: Step, dstate: State, weights: Parameters, into: Parameters
) -> tuple[Row | None, State]:
    """One time step backwards.

    Parameters
    ----------
    cell : {"tanh", "relu", "sigmoid", "identity"}
    taken : Step
        Its `after` is h~_t where zoneout did not keep h; elsewhere no gradient reaches h~_t.
    dstate : State
        (dL/dh~_t,), (H,).
    weights : Parameters
    into : Parameters
        What the parameters' gradients are added to.

    Returns
    -------
    dx : Row or None
        (I,) gradient with respect to x_t; None for a token id.
    dbefore : State
        (dL/dh_{t-1},), (H,).
    """
    (dh,), (h,) = dstate, taken.after
    # dz = dh~ * f'(z),  dp = dq = dz
    dz = [through(cell, dh_j, h_j) for dh_j, h_j in zip(dh, h, strict=True)]
    dx, dh_before = preactivations_backward(taken, dz, dz, weights, into)
    return dx, (dh_before,)

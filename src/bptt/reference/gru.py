"""The GRU: one time step of one batch row, forward and backward; r after or before the product with W_hn.

Cho, van Merrienboer, Gulcehre et al. (2014), whose r comes before the product; after it in cuDNN and PyTorch.
Source: docs/equations.md, "GRU".
"""

from __future__ import annotations

import math

from .algebra import Row, add, add_to, multiply
from .cells import derivative, sigmoid
from .preactivations import (
    dropped,
    preactivation,
    preactivation_backward,
    preactivations,
    preactivations_backward,
)
from .records import Gates, Input, Parameters, State, Step


def _tail(row: Row | None, H: int) -> Row | None:
    """Return what belongs to n."""
    return None if row is None else row[2 * H :]


def _head(row: Row | None, H: int) -> Row | None:
    """Return what belongs to r and z."""
    return None if row is None else row[: 2 * H]


def _mix(z: Row, n: Row, h: Row) -> Row:
    # h~ = (1 - z) * n + z * h_{t-1}
    return [(1.0 - z_j) * n_j + z_j * h_j for z_j, n_j, h_j in zip(z, n, h, strict=True)]


def _mix_backward(taken: Step, dh: Row) -> tuple[Row, Row, Row]:
    """Return what reaches the pre-activations of z and n, and h_{t-1} by way of z."""
    (h,) = taken.before
    z, n = taken.gates["z"], taken.gates["n"]
    # dz_z = dh~ * (h_{t-1} - n) * sigmoid'
    dz_z = [
        dh_j * (h_j - n_j) * derivative("sigmoid", z_j)
        for dh_j, h_j, n_j, z_j in zip(dh, h, n, z, strict=True)
    ]
    # dz_n = dh~ * (1 - z) * tanh'
    dz_n = [dh_j * (1.0 - z_j) * derivative("tanh", n_j) for dh_j, z_j, n_j in zip(dh, z, n, strict=True)]
    # dh_{t-1} = dh~ * z
    return dz_z, dz_n, multiply(dh, z)


def _reset_backward(taken: Step, dr: Row) -> Row:
    # dz_r = dr * sigmoid'
    return [dr_j * derivative("sigmoid", r_j) for dr_j, r_j in zip(dr, taken.gates["r"], strict=True)]


def step(x: Input, before: State, weights: Parameters, dropout: Row | None) -> tuple[State, Gates]:
    """One time step: h~_t from x_t and h_{t-1}.

    Parameters
    ----------
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
        r, z, n, (H,) each.
    """
    (h,) = before
    H = len(h)
    p, q = preactivations(x, h, weights, dropout)
    # r = sigmoid(p_r + q_r),  z = sigmoid(p_z + q_z)
    r = [sigmoid(p_j + q_j) for p_j, q_j in zip(p[:H], q[:H], strict=True)]
    z = [sigmoid(p_j + q_j) for p_j, q_j in zip(p[H : 2 * H], q[H : 2 * H], strict=True)]
    # n = tanh(p_n + r * q_n)
    n = [math.tanh(p_j + r_j * q_j) for p_j, r_j, q_j in zip(p[2 * H :], r, q[2 * H :], strict=True)]
    return (_mix(z, n, h),), {"r": r, "z": z, "n": n}


def step_backward(
    taken: Step, dstate: State, weights: Parameters, into: Parameters
) -> tuple[Row | None, State]:
    """One time step backwards.

    Parameters
    ----------
    taken : Step
        Its `after` is not looked at.
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
    (h,) = taken.before
    H = len(h)
    _, q = preactivations(taken.x, h, weights, taken.noise.dropout)
    dz_z, dz_n, dh_kept = _mix_backward(taken, dstate[0])
    # dr = dz_n * q_n
    dz_r = _reset_backward(taken, multiply(dz_n, q[2 * H :]))
    # dp_n = dz_n,  dq_n = dz_n * r
    dp = dz_r + dz_z + dz_n
    dq = dz_r + dz_z + multiply(dz_n, taken.gates["r"])
    dx, dh_before = preactivations_backward(taken, dp, dq, weights, into)
    return dx, (add(dh_kept, dh_before),)


def step_reset_before(
    x: Input, before: State, weights: Parameters, dropout: Row | None
) -> tuple[State, Gates]:
    """One time step, r applied to h_{t-1} itself; arguments and results as in :func:`step`.

    Parameters
    ----------
    x : Row or int
    before : State
    weights : Parameters
        Without layer normalisation.
    dropout : Row or None

    Returns
    -------
    state : State
    gates : Gates
    """
    (h,) = before
    H = len(h)
    W_hh = weights.weight_hh
    masked = dropped(h, dropout)
    p = preactivation(x, weights.weight_ih, weights.bias_ih, None)
    q = preactivation(masked, W_hh[: 2 * H], _head(weights.bias_hh, H), None)
    # r = sigmoid(p_r + q_r),  z = sigmoid(p_z + q_z)
    r = [sigmoid(p_j + q_j) for p_j, q_j in zip(p[:H], q[:H], strict=True)]
    z = [sigmoid(p_j + q_j) for p_j, q_j in zip(p[H : 2 * H], q[H:], strict=True)]
    # q_n = W_hn (r * m * h_{t-1}) + b_hn
    q_n = preactivation(multiply(r, masked), W_hh[2 * H :], _tail(weights.bias_hh, H), None)
    # n = tanh(p_n + q_n)
    n = [math.tanh(p_j + q_j) for p_j, q_j in zip(p[2 * H :], q_n, strict=True)]
    return (_mix(z, n, h),), {"r": r, "z": z, "n": n}


def step_reset_before_backward(
    taken: Step, dstate: State, weights: Parameters, into: Parameters
) -> tuple[Row | None, State]:
    """One time step backwards of :func:`step_reset_before`; all else as in :func:`step_backward`.

    Parameters
    ----------
    taken : Step
    dstate : State
    weights : Parameters
    into : Parameters

    Returns
    -------
    dx : Row or None
    dbefore : State
    """
    (h,) = taken.before
    H = len(h)
    dropout, r = taken.noise.dropout, taken.gates["r"]
    masked = dropped(h, dropout)
    dz_z, dz_n, dh_kept = _mix_backward(taken, dstate[0])
    # dW_hn += dz_n (r * m * h_{t-1})^T,  d(r * m * h_{t-1}) = W_hn^T dz_n
    W_hh = weights.weight_hh
    dreset = preactivation_backward(
        multiply(r, masked), W_hh[2 * H :], None, dz_n, into.weight_hh[2 * H :], None, None
    )
    assert dreset is not None, "h is no token id"
    # dr = d(r * m * h_{t-1}) * m * h_{t-1}
    dz_r = _reset_backward(taken, multiply(dreset, masked))
    dgates = preactivation_backward(
        masked, W_hh[: 2 * H], None, dz_r + dz_z, into.weight_hh[: 2 * H], None, None
    )
    assert dgates is not None, "h is no token id"
    dz = dz_r + dz_z + dz_n
    if into.bias_hh is not None:
        # db_hh += dz
        add_to(into.bias_hh, dz)
    dx = preactivation_backward(taken.x, weights.weight_ih, None, dz, into.weight_ih, into.bias_ih, None)
    # d(m * h_{t-1}) = W_hr^T dz_r + W_hz^T dz_z + d(r * m * h_{t-1}) * r
    dmasked = add(dgates, multiply(dreset, r))
    return dx, (add(dh_kept, dropped(dmasked, dropout)),)

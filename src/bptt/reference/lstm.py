"""The LSTM: one time step of one batch row, forward and backward; with peepholes or a projection, or both.

Hochreiter and Schmidhuber (1997), with the forget gate of Gers, Schmidhuber and Cummins (2000), the peepholes
of Gers, Schraudolph and Schmidhuber (2002), the projection of Sak, Senior and Beaufays (2014).
Source: docs/equations.md, "LSTM".
"""

from __future__ import annotations

import math

from .algebra import Row, add, add_outer_to, add_to, multiply, product, product_backward
from .cells import derivative, sigmoid
from .preactivations import preactivations, preactivations_backward
from .records import Gates, Input, Parameters, State, Step


def _peepholes(weights: Parameters, H: int) -> tuple[Row | None, ...]:
    """Return w_i, w_f and w_o."""
    w = weights.weight_ph
    return (None, None, None) if w is None else (w[:H], w[H : 2 * H], w[2 * H :])


def _plus(a: Row, w: Row | None, b: Row) -> Row:
    """Return a + w * b; a if there are no peepholes w."""
    return a if w is None else add(a, multiply(w, b))


def _sigmoids(z: Row) -> Row:
    return [sigmoid(z_j) for z_j in z]


def _tanhs(z: Row) -> Row:
    return [math.tanh(z_j) for z_j in z]


def _slopes(activation: str, gate: Row) -> Row:
    """Return f'(z) from the gate f(z)."""
    return [derivative(activation, gate_j) for gate_j in gate]


def step(x: Input, before: State, weights: Parameters, dropout: Row | None) -> tuple[State, Gates]:
    """One time step: h~_t and c~_t from x_t, h_{t-1} and c_{t-1}.

    Parameters
    ----------
    x : Row or int
        (I,) input x_t, or a token id.
    before : State
        (h_{t-1}, c_{t-1}), (R,) and (H,).
    weights : Parameters
    dropout : Row or None
        (R,), of h_{t-1} on its way into W_hh.

    Returns
    -------
    state : State
        (h~_t, c~_t), (R,) and (H,).
    gates : Gates
        i, f, g, o, (H,) each.
    """
    h, c = before
    H = len(c)
    p, q = preactivations(x, h, weights, dropout)
    z = add(p, q)
    w_i, w_f, w_o = _peepholes(weights, H)
    # i = sigmoid(z_i + w_i * c_{t-1})
    i = _sigmoids(_plus(z[:H], w_i, c))
    # f = sigmoid(z_f + w_f * c_{t-1})
    f = _sigmoids(_plus(z[H : 2 * H], w_f, c))
    # g = tanh(z_g)
    g = _tanhs(z[2 * H : 3 * H])
    # c~ = f * c_{t-1} + i * g
    c_new = add(multiply(f, c), multiply(i, g))
    # o = sigmoid(z_o + w_o * c~)
    o = _sigmoids(_plus(z[3 * H :], w_o, c_new))
    # e = o * tanh(c~)
    e = multiply(o, _tanhs(c_new))
    # h~ = e, or W_hr e
    h_new = e if weights.weight_hr is None else product(weights.weight_hr, e)
    return (h_new, c_new), {"i": i, "f": f, "g": g, "o": o}


def step_backward(
    taken: Step, dstate: State, weights: Parameters, into: Parameters
) -> tuple[Row | None, State]:
    """One time step backwards.

    Parameters
    ----------
    taken : Step
        Its `after` is not looked at: c~ follows from the gates.
    dstate : State
        (dL/dh~_t, dL/dc~_t), (R,) and (H,); the latter without what comes by way of h~.
    weights : Parameters
    into : Parameters
        What the parameters' gradients are added to.

    Returns
    -------
    dx : Row or None
        (I,) gradient with respect to x_t; None for a token id.
    dbefore : State
        (dL/dh_{t-1}, dL/dc_{t-1}), (R,) and (H,).
    """
    dh, dc = dstate
    c = taken.before[1]
    i, f, g, o = (taken.gates[name] for name in "ifgo")
    w_i, w_f, w_o = _peepholes(weights, len(c))
    # c~ = f * c_{t-1} + i * g
    c_new = add(multiply(f, c), multiply(i, g))
    tanh_c = _tanhs(c_new)
    de = dh
    if weights.weight_hr is not None and into.weight_hr is not None:
        # dW_hr += dh~ e^T,  de = W_hr^T dh~,  e = o * tanh(c~)
        add_outer_to(into.weight_hr, dh, multiply(o, tanh_c))
        de = product_backward(weights.weight_hr, dh)
    # dz_o = de * tanh(c~) * sigmoid'
    dz_o = multiply(multiply(de, tanh_c), _slopes("sigmoid", o))
    # dc~ += de * o * tanh'(c~) + dz_o * w_o
    dc = _plus(add(dc, multiply(multiply(de, o), _slopes("tanh", tanh_c))), w_o, dz_o)
    # dz_i = dc~ * g * sigmoid',  dz_f = dc~ * c_{t-1} * sigmoid',  dz_g = dc~ * i * tanh'
    dz_i = multiply(multiply(dc, g), _slopes("sigmoid", i))
    dz_f = multiply(multiply(dc, c), _slopes("sigmoid", f))
    dz_g = multiply(multiply(dc, i), _slopes("tanh", g))
    # dc_{t-1} = dc~ * f + dz_i * w_i + dz_f * w_f
    dc_before = _plus(_plus(multiply(dc, f), w_i, dz_i), w_f, dz_f)
    if into.weight_ph is not None:
        # dw_i += dz_i * c_{t-1},  dw_f += dz_f * c_{t-1},  dw_o += dz_o * c~
        add_to(into.weight_ph, multiply(dz_i, c) + multiply(dz_f, c) + multiply(dz_o, c_new))
    # dp = dq = dz
    dz = dz_i + dz_f + dz_g + dz_o
    dx, dh_before = preactivations_backward(taken, dz, dz, weights, into)
    return dx, (dh_before, dc_before)

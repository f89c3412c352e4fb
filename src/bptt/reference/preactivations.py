"""The two halves of a pre-activation: p of the input and q of the state.

Both have one form, p = LN(W x) * gain + b, or W x + b without layer normalisation; for q, h_{t-1} stands
in the place of x.
Source: docs/equations.md, "Forward", "Layer normalisation".
"""

from __future__ import annotations

from .algebra import Matrix, Row, add, add_outer_to, add_to, dot, multiply, product_backward
from .normalise import normalise, normalise_backward
from .records import Input, Parameters, Step


def input_product(x: Input, w: Row) -> float:
    """Return x . w, where a token id stands for its one-hot row.

    The product is then one entry of w, and no zero is multiplied.

    Parameters
    ----------
    x : Row or int
        (I,) floats, or a token id in [0, I).
    w : Row
        (I,) one row of a weight.

    Returns
    -------
    float
    """
    return w[x] if isinstance(x, int) else dot(x, w)


def preactivation(x: Input, weight: Matrix, bias: Row | None, gain: Row | None) -> Row:
    """One half of the pre-activations of one batch row.

    Parameters
    ----------
    x : Row or int
        (K,) x_t, or a token id; or h_{t-1}.
    weight : Matrix
        (N, K).
    bias : Row or None
        (N,).
    gain : Row or None
        (N,), of the layer normalisation; None for none.

    Returns
    -------
    Row
        (N,).
    """
    # u = W x
    u = [input_product(x, w) for w in weight]
    if gain is not None:
        # u <- LN(u) * gain
        u = multiply(normalise(u), gain)
    # p = u + b
    return u if bias is None else add(u, bias)


def preactivation_backward(
    x: Input,
    weight: Matrix,
    gain: Row | None,
    dp: Row,
    dweight: Matrix,
    dbias: Row | None,
    dgain: Row | None,
) -> Row | None:
    """Gradients of one half of the pre-activations of one batch row.

    Parameters
    ----------
    x, weight, gain
        What :func:`preactivation` was given.
    dp : Row
        (N,), gradient of the loss with respect to its result.
    dweight, dbias, dgain : Matrix, Row or None, Row or None
        What the parameters' gradients are added to.

    Returns
    -------
    Row or None
        (K,), gradient with respect to x; None for a token id.
    """
    if dbias is not None:
        # db += dp
        add_to(dbias, dp)
    du = dp
    if gain is not None:
        u = [input_product(x, w) for w in weight]
        if dgain is not None:
            # dgain += dp * LN(u)
            add_to(dgain, multiply(dp, normalise(u)))
        # dLN = dp * gain
        du = normalise_backward(u, multiply(dp, gain))
    if isinstance(x, int):
        # the column of the token: dW[:, x] += du
        for row, du_j in zip(dweight, du, strict=True):
            row[x] += du_j
        return None
    # dW += du x^T
    add_outer_to(dweight, du, x)
    # dx = W^T du
    return product_backward(weight, du)


def dropped(h: Row, dropout: Row | None) -> Row:
    """Recurrent dropout: m * h_{t-1}.

    Parameters
    ----------
    h : Row
        (R,).
    dropout : Row or None
        (R,) m; None for ones.

    Returns
    -------
    Row
        (R,).
    """
    return h if dropout is None else multiply(dropout, h)


def preactivations(x: Input, h: Row, weights: Parameters, dropout: Row | None) -> tuple[Row, Row]:
    """Both halves of the pre-activations of one batch row.

    Parameters
    ----------
    x : Row or int
        (I,) x_t, or a token id.
    h : Row
        (R,) h_{t-1}.
    weights : Parameters
    dropout : Row or None
        (R,).

    Returns
    -------
    p, q : Row
        (G*H,) each.
    """
    # p = LN(W_ih x_t) * gain_ih + b_ih
    p = preactivation(x, weights.weight_ih, weights.bias_ih, weights.weight_ln_ih)
    # q = LN(W_hh (m * h_{t-1})) * gain_hh + b_hh
    q = preactivation(dropped(h, dropout), weights.weight_hh, weights.bias_hh, weights.weight_ln_hh)
    return p, q


def preactivations_backward(
    taken: Step, dp: Row, dq: Row, weights: Parameters, into: Parameters
) -> tuple[Row | None, Row]:
    """Gradients of both halves.

    Parameters
    ----------
    taken : Step
    dp, dq : Row
        (G*H,) each, gradients of the loss with respect to p and q.
    weights : Parameters
    into : Parameters
        What the parameters' gradients are added to.

    Returns
    -------
    dx : Row or None
        (I,); None for a token id.
    dh : Row
        (R,) gradient with respect to h_{t-1} by way of W_hh.
    """
    dx = preactivation_backward(
        taken.x, weights.weight_ih, weights.weight_ln_ih, dp, into.weight_ih, into.bias_ih, into.weight_ln_ih
    )
    masked = dropped(taken.before[0], taken.noise.dropout)
    dmasked = preactivation_backward(
        masked, weights.weight_hh, weights.weight_ln_hh, dq, into.weight_hh, into.bias_hh, into.weight_ln_hh
    )
    assert dmasked is not None, "h is no token id"
    return dx, dropped(dmasked, taken.noise.dropout)

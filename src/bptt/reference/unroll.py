"""Forward and backward loops over time, in plain Python floats: the equations and nothing else.

Sequences are nested lists indexed [t][b][j]. Index t of a list is step t + 1 of the equations, whose steps
run from 1 to T; h_0 stands before step 1. Source: docs/equations.md, "Forward", "Backward", "Truncation".
"""

from __future__ import annotations

from typing import NamedTuple

from .affine import Matrix, Row, add, product, transpose, zeros_like
from .cells import Input, step, step_backward

#: [t][b][j].
Sequence = list[Matrix]
#: [t][b] rows of floats, or [t][b] token ids.
Inputs = list[list[Input]]


class Parameters(NamedTuple):
    """Parameters of the recurrence, or their gradients."""

    weight_ih: Matrix  # (H, I)
    weight_hh: Matrix  # (H, H)
    bias_ih: Row | None  # (H,)
    bias_hh: Row | None  # (H,)


def unroll(cell: str, x: Inputs, h_0: Matrix, weights: Parameters) -> Sequence:
    """Forward pass.

    Parameters
    ----------
    cell : {"tanh", "relu", "sigmoid", "identity"}
    x : Inputs
        (T, B, I) floats or (T, B) token ids.
    h_0 : Matrix
        (B, H).
    weights : Parameters

    Returns
    -------
    Sequence
        (T, B, H) states h_1 .. h_T.
    """
    y = []
    h = h_0
    for x_t in x:
        # h_t = f(x_t W_ih^T + b_ih + h_{t-1} W_hh^T + b_hh)
        h = [step(cell, x_tb, h_b, *weights) for x_tb, h_b in zip(x_t, h, strict=True)]
        y.append(h)
    return y


def bptt(
    cell: str,
    x: Inputs,
    h_0: Matrix,
    y: Sequence,
    weights: Parameters,
    dy: Sequence | None,
    dh_n: Matrix | None,
    depth: int | None = None,
) -> tuple[Sequence | None, Matrix, Parameters]:
    """Backward pass.

    Parameters
    ----------
    cell : {"tanh", "relu", "sigmoid", "identity"}
    x : Inputs
        (T, B, I) floats or (T, B) token ids.
    h_0 : Matrix
        (B, H).
    y : Sequence
        (T, B, H) what :func:`unroll` gave.
    weights : Parameters
    dy : Sequence or None
        (T, B, H) gradient of the loss with respect to y; None for zeros.
    dh_n : Matrix or None
        (B, H) gradient with respect to the final state, that is the state of step T; None for zeros.
    depth : int or None
        None for the whole gradient. K >= 1 keeps of the loss of step i what passed through fewer than K
        state transitions: steps k with i - k < K, and h_0, which stands at k = 0, only if i < K.

    Returns
    -------
    dx : Sequence or None
        (T, B, I), or None when x is token ids.
    dh_0 : Matrix
        (B, H).
    dweights : Parameters
        Gradients in the parameters' shapes; None where a bias is None.

    Notes
    -----
    The whole gradient costs T backward steps of 2 B H^2 operations. A truncated one has no carry to share
    between loss steps, because each forgets at its own k, so it walks back from every step separately:
    T min(K, T) backward steps. The weight gradients after the loop cost the same in both.
    """
    if depth is None:
        da, dh_0 = _whole(cell, h_0, y, weights, dy, dh_n)
    else:
        da, dh_0 = _truncated(cell, h_0, y, weights, dy, dh_n, depth)
    return _input_gradient(x, weights, da), dh_0, _weight_gradients(x, h_0, y, weights, da)


def _zeros(y: Sequence) -> Sequence:
    return [zeros_like(y_t) for y_t in y]


def _add_rows(a: Matrix, b: Matrix) -> Matrix:
    return [add(a_b, b_b) for a_b, b_b in zip(a, b, strict=True)]


def _rows_backward(cell: str, h: Matrix, dh: Matrix, weight_hh_transposed: Matrix) -> tuple[Matrix, Matrix]:
    """Do one backward step for every batch row: (dL/dz_t, dL/dh_{t-1}), both (B, H)."""
    pairs = [step_backward(cell, h_b, dh_b, weight_hh_transposed) for h_b, dh_b in zip(h, dh, strict=True)]
    return [da for da, _ in pairs], [dh_previous for _, dh_previous in pairs]


def _whole(
    cell: str, h_0: Matrix, y: Sequence, weights: Parameters, dy: Sequence | None, dh_n: Matrix | None
) -> tuple[Sequence, Matrix]:
    """Return da (T, B, H) and dh_0 (B, H) of the whole gradient, in one sweep."""
    weight_hh_transposed = transpose(weights.weight_hh)
    da = _zeros(y)
    # carry_{T+1} = dL/dh_n
    carry = zeros_like(h_0) if dh_n is None else dh_n
    for t in reversed(range(len(y))):
        # dh_t = dL/dy_t + carry_{t+1}
        dh = carry if dy is None else _add_rows(dy[t], carry)
        # da_t = dh_t * f'(z_t),  carry_t = da_t W_hh
        da[t], carry = _rows_backward(cell, y[t], dh, weight_hh_transposed)
    # dh_0 = carry_1
    return da, carry


def _truncated(
    cell: str,
    h_0: Matrix,
    y: Sequence,
    weights: Parameters,
    dy: Sequence | None,
    dh_n: Matrix | None,
    depth: int,
) -> tuple[Sequence, Matrix]:
    """Return da (T, B, H) and dh_0 (B, H) of the gradient cut to a depth, one walk back a loss step."""
    weight_hh_transposed = transpose(weights.weight_hh)
    T = len(y)
    da = _zeros(y)
    dh_0 = zeros_like(h_0)
    for i in range(T + 1):
        # dh = dL_i/dh_i, the final state being that of step T (of step 0 when there is no step)
        sources = []
        if dy is not None and i > 0:
            sources.append(dy[i - 1])
        if dh_n is not None and i == T:
            sources.append(dh_n)
        if not sources:
            continue
        dh = sources[0] if len(sources) == 1 else _add_rows(*sources)
        # k = i .. 1 with i - k < K
        for k in range(i, max(0, i - depth), -1):
            # Gamma(i,k) = dL_i/dz_k = dh * f'(z_k),  then dh = Gamma(i,k) W_hh
            gamma, dh = _rows_backward(cell, y[k - 1], dh, weight_hh_transposed)
            # da_k = sum over i of Gamma(i,k)
            da[k - 1] = _add_rows(da[k - 1], gamma)
        # dh_0 = sum over i < K of dL_i/dh_0
        if i < depth:
            dh_0 = _add_rows(dh_0, dh)
    return da, dh_0


def _input_gradient(x: Inputs, weights: Parameters, da: Sequence) -> Sequence | None:
    """Return dx (T, B, I), or None for token ids."""
    if any(isinstance(x_tb, int) for x_t in x for x_tb in x_t):
        return None
    weight_ih_transposed = transpose(weights.weight_ih)
    # dx_t = da_t W_ih
    return [[product(weight_ih_transposed, da_tb) for da_tb in da_t] for da_t in da]


def _weight_gradients(x: Inputs, h_0: Matrix, y: Sequence, weights: Parameters, da: Sequence) -> Parameters:
    """Sum the gradients of all steps and rows, t ascending, then b."""
    dweight_ih = zeros_like(weights.weight_ih)
    dweight_hh = zeros_like(weights.weight_hh)
    dbias = [0.0 for _ in weights.weight_hh]
    h_previous = h_0
    for x_t, y_t, da_t in zip(x, y, da, strict=True):
        for x_tb, h_b, da_tb in zip(x_t, h_previous, da_t, strict=True):
            for j, da_tbj in enumerate(da_tb):
                # dW_ih[j][i] = sum over t, b of da_t[b][j] x_t[b][i]
                if isinstance(x_tb, int):
                    dweight_ih[j][x_tb] += da_tbj
                else:
                    for i, x_tbi in enumerate(x_tb):
                        dweight_ih[j][i] += da_tbj * x_tbi
                # dW_hh[j][p] = sum over t, b of da_t[b][j] h_{t-1}[b][p]
                for p, h_bp in enumerate(h_b):
                    dweight_hh[j][p] += da_tbj * h_bp
                # db[j] = sum over t, b of da_t[b][j], for both biases alike
                dbias[j] += da_tbj
        h_previous = y_t
    return Parameters(
        dweight_ih,
        dweight_hh,
        None if weights.bias_ih is None else list(dbias),
        None if weights.bias_hh is None else list(dbias),
    )

"""The four Elman cells: activations, their derivatives from the output, and one time step on one batch row.

A row is a list of Python floats. An input may also be a token id, which stands for its one-hot row: the
product with a weight row is then one entry of it, and no zero is multiplied.
Source: docs/equations.md, "Forward" and "Backward".
"""

from __future__ import annotations

import math

from .affine import Matrix, Row, dot, product

#: Names of the recurrences.
CELLS = ("tanh", "relu", "sigmoid", "identity")

#: One batch row of input: (I,) floats, or the token id of a one-hot row.
Input = Row | int


def sigmoid(z: float) -> float:
    """Return 1 / (1 + exp(-z)) without overflow.

    Parameters
    ----------
    z : float

    Returns
    -------
    float
        In [0, 1]; NaN for NaN.
    """
    # The exponent is never positive, so math.exp cannot overflow (it would raise OverflowError).
    if z >= 0.0:
        return 1.0 / (1.0 + math.exp(-z))
    e = math.exp(z)
    return e / (1.0 + e)


def relu(z: float) -> float:
    """Return max(z, 0), and NaN for NaN.

    Parameters
    ----------
    z : float

    Returns
    -------
    float
    """
    # z != z holds for NaN only; it must not turn into 0.
    return z if z > 0.0 or z != z else 0.0


def activation(cell: str, z: float) -> float:
    """Return f(z).

    Parameters
    ----------
    cell : {"tanh", "relu", "sigmoid", "identity"}
    z : float
        Pre-activation.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        For another cell.
    """
    if cell == "tanh":
        return math.tanh(z)
    if cell == "relu":
        return relu(z)
    if cell == "sigmoid":
        return sigmoid(z)
    if cell == "identity":
        return z
    raise ValueError(f"cell: expected one of {CELLS}, got {cell!r}")


def derivative(cell: str, h: float) -> float:
    """Return f'(z) as a function of h = f(z).

    Parameters
    ----------
    cell : {"tanh", "relu", "sigmoid", "identity"}
    h : float
        The cell's output.

    Returns
    -------
    float
        relu'(0) is 0; NaN for NaN, but for identity, whose derivative does not look at h.

    Raises
    ------
    ValueError
        For another cell.
    """
    if cell == "tanh":
        return 1.0 - h * h
    if cell == "relu":
        return 1.0 if h > 0.0 else 0.0 * h  # 0, or NaN for NaN
    if cell == "sigmoid":
        return h * (1.0 - h)
    if cell == "identity":
        return 1.0
    raise ValueError(f"cell: expected one of {CELLS}, got {cell!r}")


def through(cell: str, dh: float, h: float) -> float:
    """Return dL/dz = dL/dh f'(z).

    Parameters
    ----------
    cell : {"tanh", "relu", "sigmoid", "identity"}
    dh : float
        dL/dh.
    h : float
        The cell's output.

    Returns
    -------
    float
        For a ReLU that is off the gradient is cut, not multiplied by 0: an infinite dL/dh gives 0, as in
        PyTorch.
    """
    if cell == "relu" and h == 0.0:
        return 0.0
    return dh * derivative(cell, h)


def input_product(x: Input, w: Row) -> float:
    """Return x . w, where a token id stands for its one-hot row.

    Parameters
    ----------
    x : Row or int
        (I,) floats, or a token id in [0, I).
    w : Row
        (I,) one row of weight_ih.

    Returns
    -------
    float
    """
    return w[x] if isinstance(x, int) else dot(x, w)


def step(
    cell: str,
    x: Input,
    h: Row,
    weight_ih: Matrix,
    weight_hh: Matrix,
    bias_ih: Row | None,
    bias_hh: Row | None,
) -> Row:
    """One time step of one batch row: h_t from x_t and h_{t-1}.

    Parameters
    ----------
    cell : {"tanh", "relu", "sigmoid", "identity"}
    x : Row or int
        (I,) input x_t, or a token id.
    h : Row
        (H,) state h_{t-1}.
    weight_ih : Matrix
        (H, I).
    weight_hh : Matrix
        (H, H).
    bias_ih, bias_hh : Row or None
        (H,).

    Returns
    -------
    Row
        (H,) state h_t.
    """
    h_t = []
    for j in range(len(weight_hh)):
        # z_j = W_ih[j] . x + b_ih[j] + W_hh[j] . h + b_hh[j]
        z = input_product(x, weight_ih[j])
        if bias_ih is not None:
            z += bias_ih[j]
        z += dot(h, weight_hh[j])
        if bias_hh is not None:
            z += bias_hh[j]
        # h_j = f(z_j)
        h_t.append(activation(cell, z))
    return h_t


def step_backward(cell: str, h: Row, dh: Row, weight_hh_transposed: Matrix) -> tuple[Row, Row]:
    """One time step of one batch row, backwards: from dL/dh_t to dL/dz_t and on to dL/dh_{t-1}.

    Parameters
    ----------
    cell : {"tanh", "relu", "sigmoid", "identity"}
    h : Row
        (H,) the state h_t that :func:`step` gave.
    dh : Row
        (H,) gradient with respect to h_t.
    weight_hh_transposed : Matrix
        (H, H), row p holds weight_hh[:, p].

    Returns
    -------
    da : Row
        (H,) gradient with respect to the pre-activation z_t.
    dh_previous : Row
        (H,) gradient with respect to h_{t-1}.
    """
    # da = dh * f'(z)
    da = [through(cell, dh_j, h_j) for dh_j, h_j in zip(dh, h, strict=True)]
    # dh_{t-1} = W_hh^T da
    return da, product(weight_hh_transposed, da)

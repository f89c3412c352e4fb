"""The readout s = h W^T + b with its gradients, in plain Python floats.

Source: docs/equations.md, "Forward" and "Backward".
"""

from __future__ import annotations

from .algebra import Matrix, Row, add, add_outer_to, add_to, product, transpose, zeros_like


def affine(x: Matrix, weight: Matrix, bias: Row | None) -> Matrix:
    """Readout: s = x W^T + b.

    Parameters
    ----------
    x : Matrix
        (N, K).
    weight : Matrix
        (O, K).
    bias : Row or None
        (O,).

    Returns
    -------
    Matrix
        (N, O).
    """
    # s_n = W x_n + b
    if bias is None:
        return [product(weight, x_n) for x_n in x]
    return [add(product(weight, x_n), bias) for x_n in x]


def affine_backward(x: Matrix, weight: Matrix, dy: Matrix) -> tuple[Matrix, Matrix, Row]:
    """Gradients of the readout.

    Parameters
    ----------
    x : Matrix
        (N, K), what :func:`affine` was given.
    weight : Matrix
        (O, K), O >= 1.
    dy : Matrix
        (N, O), gradient of the loss with respect to the readout's output.

    Returns
    -------
    dx : Matrix
        (N, K).
    dweight : Matrix
        (O, K).
    dbias : Row
        (O,).
    """
    # dx_n = W^T dy_n
    columns = transpose(weight)
    dx = [product(columns, dy_n) for dy_n in dy]
    dweight = zeros_like(weight)
    dbias = [0.0 for _ in weight]
    for x_n, dy_n in zip(x, dy, strict=True):
        # dW = sum over n of dy_n x_n^T
        add_outer_to(dweight, dy_n, x_n)
        # db = sum over n of dy_n
        add_to(dbias, dy_n)
    return dx, dweight, dbias

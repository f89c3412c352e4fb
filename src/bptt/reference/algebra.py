"""Rows and matrices of plain Python floats: their sums and products.

A matrix is a list of rows. Every sum runs over its index in ascending order, one rounding a term.
"""

from __future__ import annotations

from collections.abc import Iterable

Row = list[float]
Matrix = list[Row]


def ascending_sum(values: Iterable[float]) -> float:
    """Return the sum of the values in the order given, one rounding a term.

    The built-in sum compensates rounding errors from Python 3.12 on, and so is not the same in every version.

    Parameters
    ----------
    values : iterable of float

    Returns
    -------
    float
        0.0 for no value.
    """
    total = 0.0
    for value in values:
        total += value
    return total


def dot(a: Row, b: Row) -> float:
    """Return the sum of a_k b_k over ascending k.

    Parameters
    ----------
    a, b : Row
        (K,) each.

    Returns
    -------
    float
    """
    total = 0.0
    for a_k, b_k in zip(a, b, strict=True):
        total += a_k * b_k
    return total


def product(matrix: Matrix, row: Row) -> Row:
    """Return ``matrix @ row``: (O, K) times (K,) is (O,).

    Parameters
    ----------
    matrix : Matrix
        (O, K).
    row : Row
        (K,).

    Returns
    -------
    Row
        (O,).
    """
    return [dot(row, w) for w in matrix]


def product_backward(matrix: Matrix, drow: Row) -> Row:
    """Return ``matrix^T @ drow``: what a gradient at ``matrix @ row`` is at the row.

    Parameters
    ----------
    matrix : Matrix
        (O, K), O >= 1.
    drow : Row
        (O,).

    Returns
    -------
    Row
        (K,).
    """
    return product(transpose(matrix), drow)


def transpose(matrix: Matrix) -> Matrix:
    """Return the transpose of a matrix that has at least one row.

    Parameters
    ----------
    matrix : Matrix
        (O, K), O >= 1.

    Returns
    -------
    Matrix
        (K, O).
    """
    return [list(column) for column in zip(*matrix, strict=True)]


def add(a: Row, b: Row) -> Row:
    """Return a + b, elementwise.

    Parameters
    ----------
    a, b : Row
        (K,) each.

    Returns
    -------
    Row
        (K,).
    """
    return [a_k + b_k for a_k, b_k in zip(a, b, strict=True)]


def multiply(a: Row, b: Row) -> Row:
    """Return a b, elementwise.

    Parameters
    ----------
    a, b : Row
        (K,) each.

    Returns
    -------
    Row
        (K,).
    """
    return [a_k * b_k for a_k, b_k in zip(a, b, strict=True)]


def add_to(into: Row, a: Row) -> None:
    """Add a row to another in place.

    Parameters
    ----------
    into : Row
        (K,), changed.
    a : Row
        (K,).
    """
    for k, a_k in enumerate(a):
        into[k] += a_k


def add_outer_to(into: Matrix, column: Row, row: Row) -> None:
    """Add the outer product of a column and a row to a matrix in place.

    Parameters
    ----------
    into : Matrix
        (O, K), changed.
    column : Row
        (O,).
    row : Row
        (K,).
    """
    for into_o, column_o in zip(into, column, strict=True):
        for k, row_k in enumerate(row):
            into_o[k] += column_o * row_k


def zeros_like(matrix: Matrix) -> Matrix:
    """Return a matrix of zeros in the shape of another.

    Parameters
    ----------
    matrix : Matrix
        (O, K).

    Returns
    -------
    Matrix
        (O, K).
    """
    return [[0.0 for _ in row] for row in matrix]

"""The names of the cells; activations and their derivatives from the output, for one number.

Source: docs/equations.md, "Forward" and "Backward".
"""

from __future__ import annotations

import math

#: Names of the Elman cells, after their activations.
ELMAN = ("tanh", "relu", "sigmoid", "identity")
#: Names of all cells, each with the names of its gates.
GATES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(ELMAN, ()),
    "lstm": ("i", "f", "g", "o"),
    "gru": ("r", "z", "n"),
    "gru_reset_before": ("r", "z", "n"),
}
#: Names of all cells.
CELLS = tuple(GATES)


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
    raise ValueError(f"cell: expected one of {ELMAN}, got {cell!r}")


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
    raise ValueError(f"cell: expected one of {ELMAN}, got {cell!r}")


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

"""The five losses on raw outputs or logits s, each with its gradient with respect to s, in plain floats.

Every function sums over rows and outputs; dividing by a count is the caller's business.
Source: docs/equations.md, "Losses".
"""

from __future__ import annotations

import math

from .algebra import Matrix, Row, ascending_sum
from .cells import relu, sigmoid


def _prediction(s: float, link: str) -> tuple[float, float]:
    """Return yhat = g(s) and dyhat/ds."""
    if link == "identity":
        return s, 1.0
    if link == "sigmoid":
        yhat = sigmoid(s)
        return yhat, yhat * (1.0 - yhat)
    raise ValueError(f"link: expected 'identity' or 'sigmoid', got {link!r}")


def residual(s: Matrix, y: Matrix, link: str = "identity") -> tuple[float, Matrix]:
    """Signed residual, the sum of y - yhat. It has no minimum at yhat = y.

    Parameters
    ----------
    s, y : Matrix
        (N, O) raw outputs and targets.
    link : {"identity", "sigmoid"}
        g in yhat = g(s).

    Returns
    -------
    loss : float
    ds : Matrix
        (N, O).

    Raises
    ------
    ValueError
        For another link.
    """
    loss = 0.0
    ds = []
    for s_n, y_n in zip(s, y, strict=True):
        row = []
        for s_no, y_no in zip(s_n, y_n, strict=True):
            yhat, slope = _prediction(s_no, link)
            # l = y - yhat,  dl/ds = -g'(s)
            loss += y_no - yhat
            row.append(-slope)
        ds.append(row)
    return loss, ds


def sum_squared_residuals(s: Matrix, y: Matrix, link: str = "identity") -> tuple[float, Matrix]:
    """Sum of (y - yhat)^2.

    Parameters
    ----------
    s, y : Matrix
        (N, O) raw outputs and targets.
    link : {"identity", "sigmoid"}
        g in yhat = g(s).

    Returns
    -------
    loss : float
    ds : Matrix
        (N, O).

    Raises
    ------
    ValueError
        For another link.
    """
    loss = 0.0
    ds = []
    for s_n, y_n in zip(s, y, strict=True):
        row = []
        for s_no, y_no in zip(s_n, y_n, strict=True):
            yhat, slope = _prediction(s_no, link)
            # l = (y - yhat)^2,  dl/ds = -2 (y - yhat) g'(s)
            loss += (y_no - yhat) * (y_no - yhat)
            row.append(-2.0 * (y_no - yhat) * slope)
        ds.append(row)
    return loss, ds


def mean_squared_error(s: Matrix, y: Matrix) -> tuple[float, Matrix]:
    """Mean of (y - s)^2 over rows and outputs.

    Parameters
    ----------
    s, y : Matrix
        (N, O) raw outputs and targets.

    Returns
    -------
    loss : float
        NaN when there is nothing to average.
    ds : Matrix
        (N, O).
    """
    count = sum(len(s_n) for s_n in s)
    loss, ds = sum_squared_residuals(s, y)
    # l = sum (y - s)^2 / n
    mean = loss / count if count else math.nan
    return mean, [[d / count for d in row] for row in ds]


def binary_cross_entropy(s: Matrix, y: Matrix) -> tuple[float, Matrix]:
    """Sum of -y log yhat - (1 - y) log(1 - yhat), yhat = sigmoid(s).

    Parameters
    ----------
    s, y : Matrix
        (N, O) logits and targets in [0, 1].

    Returns
    -------
    loss : float
    ds : Matrix
        (N, O).
    """
    loss = 0.0
    ds = []
    for s_n, y_n in zip(s, y, strict=True):
        row = []
        for s_no, y_no in zip(s_n, y_n, strict=True):
            # l = log(1 + e^s) - y s = max(s, 0) - y s + log(1 + e^-|s|)
            loss += relu(s_no) - y_no * s_no + math.log1p(math.exp(-abs(s_no)))
            # dl/ds = yhat - y
            row.append(sigmoid(s_no) - y_no)
        ds.append(row)
    return loss, ds


def softmax(s: Row) -> tuple[Row, float, float]:
    """Softmax of one row.

    Parameters
    ----------
    s : Row
        (O,) logits.

    Returns
    -------
    probabilities : Row
        (O,).
    largest : float
        max over o of s_o, NaN left out (it reaches the total all the same).
    total : float
        sum over o of exp(s_o - largest).
    """
    largest = -math.inf
    for s_o in s:
        if s_o > largest:
            largest = s_o
    # p_o = e^(s_o - m) / sum e^(s - m); no exponent is positive, so math.exp cannot overflow
    exponentials = [math.exp(s_o - largest) for s_o in s]
    total = ascending_sum(exponentials)
    return [e / total for e in exponentials], largest, total


def softmax_cross_entropy(
    logits: Matrix, targets: list[int], ignore_index: int | None = None
) -> tuple[float, int, Matrix]:
    """Sum of -log softmax(s)[target].

    Parameters
    ----------
    logits : Matrix
        (N, O), O >= 1.
    targets : list of int
        (N,) class ids in [0, O), or ``ignore_index``.
    ignore_index : int or None
        Rows with this target count for nothing.

    Returns
    -------
    loss : float
    count : int
        Rows not ignored.
    dlogits : Matrix
        (N, O), softmax - onehot; zero in ignored rows.
    """
    loss = 0.0
    count = 0
    dlogits = []
    for s_n, target in zip(logits, targets, strict=True):
        if target == ignore_index:
            dlogits.append([0.0 for _ in s_n])
            continue
        probabilities, largest, total = softmax(s_n)
        # l = log sum e^s - s_c = log sum e^(s - m) - (s_c - m)
        loss += math.log(total) - (s_n[target] - largest)
        count += 1
        # dl/ds_o = p_o - [o = c]
        dlogits.append([p - 1.0 if o == target else p for o, p in enumerate(probabilities)])
    return loss, count, dlogits

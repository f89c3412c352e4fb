"""Layer normalisation of a row: less its mean, over its standard deviation, and the way back.

Source: docs/equations.md, "Layer normalisation".
"""

from __future__ import annotations

import math

from .algebra import Row, ascending_sum, dot

#: What is added to the variance, so that a constant row divides by no zero.
EPSILON = 1e-5


def _centred(u: Row) -> tuple[Row, float]:
    """Return u less its mean, and its standard deviation."""
    mean = ascending_sum(u) / len(u)
    centred = [u_j - mean for u_j in u]
    # sigma = sqrt(mean of (u - mean)^2 + epsilon)
    return centred, math.sqrt(dot(centred, centred) / len(u) + EPSILON)


def normalise(u: Row) -> Row:
    """LN(u) = (u - mean) / sigma.

    Parameters
    ----------
    u : Row
        (K,), K >= 1.

    Returns
    -------
    Row
        (K,).
    """
    centred, sigma = _centred(u)
    return [u_j / sigma for u_j in centred]


def normalise_backward(u: Row, dnormalised: Row) -> Row:
    """Gradient of the loss with respect to u, from that with respect to LN(u).

    Parameters
    ----------
    u : Row
        (K,), what :func:`normalise` was given.
    dnormalised : Row
        (K,).

    Returns
    -------
    Row
        (K,).
    """
    centred, sigma = _centred(u)
    normalised = [u_j / sigma for u_j in centred]
    mean = ascending_sum(dnormalised) / len(u)
    along = dot(dnormalised, normalised) / len(u)
    # du = (dn - mean of dn - n (mean of dn n)) / sigma,  n = LN(u)
    return [(dn_j - mean - n_j * along) / sigma for dn_j, n_j in zip(dnormalised, normalised, strict=True)]

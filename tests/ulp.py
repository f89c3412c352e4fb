"""How far tanh, sigmoid and exp are from their exact values, in units in the last place."""

from __future__ import annotations

import math

import mpmath
import numpy as np

FUNCTIONS = ("tanh", "sigmoid", "exp")
#: What is allowed.
ULP = 4.0


def digits(function, x):
    """The function of a float to 50 digits."""
    with mpmath.workdps(50):
        x = mpmath.mpf(x)
        if abs(x) > 800:
            x = mpmath.sign(x) * 800  # the result's kind is settled, and the exponent stays a readable number
        if function == "tanh":
            return mpmath.tanh(x)
        return mpmath.exp(x) if function == "exp" else 1 / (1 + mpmath.exp(-x))


def wide(function, x):
    """The function of float32 values in float64, good to 2 ULP of float64."""
    x = x.astype(np.float64)
    with np.errstate(over="ignore"):
        if function == "tanh":
            return np.tanh(x)
        if function == "exp":
            return np.exp(x)
        e = np.exp(-np.abs(x))
        return np.where(x >= 0, 1.0, e) / (1.0 + e)


def rounded(value):
    """float64 values, 29 bits more than are looked at, to float32: r and what was rounded away in ULPs."""
    with np.errstate(over="ignore"):
        r = value.astype(np.float32)
    finite = np.isfinite(r)
    away = np.zeros(r.size)
    away[finite] = (value[finite] - r[finite]) / np.spacing(np.abs(r[finite])).astype(np.float64)
    return r, away


def errors(y, r, away):
    """Distance of y from r + away spacing(r) in ULPs of r; inf where one of y and r is infinite."""
    finite = np.isfinite(r) & np.isfinite(y)
    ulps = np.where(np.isfinite(r) == np.isfinite(y), 0.0, math.inf)
    difference = y[finite].astype(np.float64) - r[finite].astype(np.float64)
    ulps[finite] = np.abs(difference / np.spacing(np.abs(r[finite])).astype(np.float64) - away[finite])
    ulps[np.isnan(y)] = math.inf
    return ulps

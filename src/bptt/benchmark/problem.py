"""The numbers every implementation is given, and the float64 computation its results are checked against."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bptt.benchmark.rows import BACKWARD, FORWARD, STEP, Shape

Array = NDArray[Any]

# A single step carries its state from call to call; a check of several calls sees whether it does.  The other
# cases are called twice: gradients must not pile up in a buffer that is used again.
CALLS = {FORWARD: 2, BACKWARD: 2, STEP: 3}

# Relative to the largest entry; float32 times sqrt(K), K the length of the longest sum behind the entry.
TOLERANCE = {"float32": 2e-6, "float64": 1e-12}


class DisagreementError(AssertionError):
    """An implementation's result is outside the tolerance."""


@dataclass(frozen=True)
class Problem:
    """One tanh layer in PyTorch's layout, its input, and the gradient with respect to its output."""

    case: str
    shape: Shape
    dtype: str
    x: Array  # (T, B, I)
    h_0: Array  # (B, H)
    weight_ih: Array  # (H, I)
    weight_hh: Array  # (H, H)
    bias_ih: Array  # (H,)
    bias_hh: Array  # (H,)
    dy: Array  # (T, B, H)


@dataclass(frozen=True)
class Run:
    """One implementation made ready for one problem.

    ``call`` is what is timed.  ``arrays`` turns what it returned into named arrays and is not timed: ``y``
    (T, B, H) and ``h_n`` (B, H); for forward + backward ``y`` and ``d...`` for every input; for a single step
    ``h_n`` alone.
    """

    call: Callable[[], Any]
    arrays: Callable[[Any], Mapping[str, Array]]


@functools.lru_cache(maxsize=2)
def make(case: str, shape: Shape, dtype: str) -> Problem:
    """Draw a problem from a fixed seed: weights as PyTorch initialises them, x, h_0 and dy normal."""
    T, B, I, H = shape
    rng = np.random.default_rng(0)
    bound = 1 / math.sqrt(H)

    def uniform(*sizes: int) -> Array:
        return rng.uniform(-bound, bound, sizes).astype(dtype)

    def normal(*sizes: int) -> Array:
        return rng.standard_normal(sizes).astype(dtype)

    return Problem(
        case,
        shape,
        dtype,
        x=normal(T, B, I),
        h_0=np.tanh(normal(B, H)),
        weight_ih=uniform(H, I),
        weight_hh=uniform(H, H),
        bias_ih=uniform(H),
        bias_hh=uniform(H),
        dy=normal(T, B, H),
    )


@functools.lru_cache(maxsize=2)
def _truth(case: str, shape: Shape, dtype: str) -> dict[str, Array]:
    """Compute the results step by step in float64, plainly: no product hoisted or put off."""
    p = make(case, shape, dtype)
    x, dy, h_0 = (a.astype(np.float64) for a in (p.x, p.dy, p.h_0))
    W_ih, W_hh = p.weight_ih.astype(np.float64), p.weight_hh.astype(np.float64)
    b = p.bias_ih.astype(np.float64) + p.bias_hh

    if case == STEP:
        x = np.repeat(x, CALLS[STEP], axis=0)
    states = [h_0]  # h_0 ... h_T
    for x_t in x:
        # h_t = tanh(W_ih x_t + W_hh h_{t-1} + b)
        states.append(np.tanh(x_t @ W_ih.T + states[-1] @ W_hh.T + b))
    if case == STEP:
        return {"h_n": states[-1]}
    y = np.stack(states[1:])
    if case == FORWARD:
        return {"y": y, "h_n": states[-1]}

    dx = np.empty_like(x)
    dW_ih, dW_hh, db, dh = np.zeros_like(W_ih), np.zeros_like(W_hh), np.zeros_like(b), np.zeros_like(h_0)
    for t in reversed(range(shape.T)):
        # da_t = (dy_t + dh_t) (1 - h_t^2)
        da = (dy[t] + dh) * (1 - states[t + 1] ** 2)
        dW_ih += da.T @ x[t]
        dW_hh += da.T @ states[t]
        db += da.sum(axis=0)
        dx[t] = da @ W_ih
        dh = da @ W_hh
    return {
        "y": y,
        "dx": dx,
        "dh_0": dh,
        "dweight_ih": dW_ih,
        "dweight_hh": dW_hh,
        "dbias_ih": db,
        "dbias_hh": db,
    }


def tolerance(name: str, shape: Shape, dtype: str) -> float:
    """Return the error allowed in the array ``name``, relative to its largest entry."""
    T, B, I, H = shape
    K = {"y": I + H, "h_n": I + H, "dx": H, "dh_0": H}.get(name, T * B)
    return TOLERANCE[dtype] * (math.sqrt(K) if dtype == "float32" else 1)


def compare(name: str, problem: Problem, results: Mapping[str, Array]) -> float:
    """Compare one implementation's arrays with the float64 computation.

    Returns
    -------
    float
        The largest error as a fraction of the one allowed.

    Raises
    ------
    DisagreementError
        If an array is missing, or of the wrong shape or dtype, or outside the tolerance.
    """
    where = f"{name}: {problem.case} {problem.shape} {problem.dtype}"
    expected = _truth(problem.case, problem.shape, problem.dtype)
    if set(results) != set(expected):
        raise DisagreementError(f"{where}: expected arrays {sorted(expected)}, got {sorted(results)}")
    worst = 0.0
    for key, truth in expected.items():
        got = results[key]
        if got.shape != truth.shape or got.dtype != problem.dtype:
            raise DisagreementError(
                f"{where}: {key}: expected {problem.dtype} {truth.shape}, got {got.dtype} {got.shape}"
            )
        error = float(np.max(np.abs(got - truth)) / np.max(np.abs(truth)))
        allowed = tolerance(key, problem.shape, problem.dtype)
        if not error <= allowed:  # so written that NaN fails
            raise DisagreementError(
                f"{where}: {key}: expected an error of at most {allowed:.2g}, got {error:.2g}"
            )
        worst = max(worst, error / allowed)
    return worst


def check(name: str, problem: Problem, run: Run) -> float:
    """Call an implementation and compare what it returns; returns and raises as `compare`."""
    for _ in range(CALLS[problem.case]):
        result = run.call()
    return compare(name, problem, run.arrays(result))

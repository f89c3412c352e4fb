"""Random layers of a given shape for the tests of the kernels, and what float64 NumPy says of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy_rnn

from bptt import kernels
from bptt.arrays import Weights

#: Which of the two biases there are.
BIASES = {"both": (True, True), "ih": (True, False), "hh": (False, True), "none": (False, False)}
#: Threads of the pool start with a call of more operations than this, WORK_TO_SHARE in the kernels.
WORK_TO_SHARE = 20_000_000


@dataclass(frozen=True)
class Problem:
    """A call of unroll and of bptt."""

    cell: str
    x: np.ndarray  # (T, B, I), or tokens (T, B)
    h_0: np.ndarray  # (B, H)
    weights: Weights
    dy: np.ndarray | None  # (T, B, H)
    dh_n: np.ndarray | None  # (B, H)
    depth: int | None = None

    def __repr__(self):
        """Shapes and options; problem() draws the numbers again."""
        T, B = self.x.shape[:2]
        H, I = self.weights.weight_ih.shape
        there = {name: value is not None for name, value in self.weights._asdict().items() if "bias" in name}
        return (
            f"Problem({T}, {B}, {I}, {H}, {self.cell}, {self.h_0.dtype}, {there}, tokens={self.x.ndim == 2}, "
            f"dy={self.dy is not None}, dh_n={self.dh_n is not None}, depth={self.depth})"
        )

    @property
    def dense(self):
        """The input as numbers, (T, B, I) float64."""
        if self.x.ndim == 2:
            return np.eye(self.weights.weight_ih.shape[1])[self.x]
        return self.x.astype(np.float64)

    @property
    def dh(self):
        """dy and dh_n together, (T, B, H) float64."""
        d = np.zeros((len(self.x), *self.h_0.shape)) if self.dy is None else self.dy.astype(np.float64)
        if self.dh_n is not None and len(d):
            d = np.concatenate([d[:-1], d[-1:] + self.dh_n])
        return d


def weights_of(rng, I, H, dtype, bias="both", scale=1.0):
    bound = scale / math.sqrt(H)
    has_ih, has_hh = BIASES[bias]
    draw = lambda *shape: rng.uniform(-bound, bound, shape).astype(dtype)  # noqa: E731
    return Weights(draw(H, I), draw(H, H), draw(H) if has_ih else None, draw(H) if has_hh else None)


def problem(
    T,
    B,
    I,
    H,
    *,
    cell="tanh",
    dtype=np.float64,
    bias="both",
    tokens=False,
    dy=True,
    dh_n=True,
    depth=None,
    seed=0,
):
    """Weights as PyTorch draws them, everything else standard normal, no state zero."""
    rng = np.random.default_rng([seed, T, B, I, H])
    normal = lambda *shape: rng.normal(size=shape).astype(dtype)  # noqa: E731
    return Problem(
        cell,
        rng.integers(I, size=(T, B)) if tokens else normal(T, B, I),
        normal(B, H),
        weights_of(rng, I, H, dtype, bias),
        normal(T, B, H) if dy else None,
        normal(B, H) if dh_n else None,
        depth,
    )


def forward(p, *, module: Any = kernels, threads=1):
    """Return y, h_n, saved."""
    y, (h_n,), saved = module.unroll(p.cell, p.x, (p.h_0,), p.weights, threads=threads)
    return y, h_n, saved


def backward(p, saved, *, module: Any = kernels, threads=1):
    """Return every gradient by name; those that are not there are left out."""
    dh_n = None if p.dh_n is None else (p.dh_n,)
    dx, (dh_0,), dw = module.bptt(p.cell, saved, p.dy, dh_n, depth=p.depth, threads=threads)
    return present({"x": dx, "h_0": dh_0} | dw._asdict())


def present(arrays):
    return {name: array for name, array in arrays.items() if array is not None}


def results(p, *, module: Any = kernels, threads=1):
    """Every result of the forward and of the backward pass by name."""
    y, h_n, saved = forward(p, module=module, threads=threads)
    return {"y": y, "h_n": h_n} | backward(p, saved, module=module, threads=threads)


def numpy_forward(p):
    """Return y in float64 by the lines of numpy_rnn."""
    names = dict(zip(("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"), p.weights, strict=True))
    zeros = np.zeros(p.h_0.shape[1])
    parameters = {name: zeros if value is None else value for name, value in names.items()}
    rnn = SimpleNamespace(parameters=parameters, bias=True, nonlinearity=p.cell)
    return numpy_rnn.forward(rnn, p.dense, p.h_0)


def numpy_backward(p, y):
    """Gradients in float64 at the states y: chain by chain, from loss step i back to step k > i - depth.

    The states are those of the implementation under test: a relu whose argument rounds to the other side of 0
    has another derivative, which is no error of the backward pass.
    """
    x, dh, h_0 = p.dense, p.dh, p.h_0.astype(np.float64)
    weight_ih, weight_hh = (w.astype(np.float64) for w in p.weights[:2])
    states = np.concatenate([h_0[np.newaxis], y.astype(np.float64)])
    slope = numpy_rnn.DERIVATIVE[p.cell](states)
    da, T = np.zeros(y.shape), len(y)
    dh_0 = np.zeros(h_0.shape)
    if T == 0 and p.dh_n is not None:
        dh_0 += p.dh_n
    depth = T + 1 if p.depth is None else p.depth
    if depth > T:
        g = np.zeros(h_0.shape)
        for t in range(T, 0, -1):
            da[t - 1] = (dh[t - 1] + g) * slope[t]
            g = da[t - 1] @ weight_hh
        dh_0 += g
    else:
        for i in range(1, T + 1):
            g = dh[i - 1]
            for k in range(i, max(0, i - depth), -1):
                d = g * slope[k]
                da[k - 1] += d
                g = d @ weight_hh
            if i < depth:
                dh_0 += g
    bias = da.sum((0, 1))
    has_ih, has_hh = (b is not None for b in p.weights[2:])
    return present(
        {
            "x": da @ weight_ih if p.x.ndim == 3 else None,
            "h_0": dh_0,
            "weight_ih": np.einsum("tbh,tbi->hi", da, x, optimize=True),
            "weight_hh": np.einsum("tbh,tbi->hi", da, states[:-1], optimize=True),
            "bias_ih": bias if has_ih else None,
            "bias_hh": bias if has_hh else None,
        }
    )


def addends(p):
    """How many products are added up on the longest way to an entry of a result."""
    T, B = p.x.shape[:2]
    H, I = p.weights.weight_ih.shape
    return {"forward": I + H, "state": T * H, "parameter": T * B + T * H}


def close(name, actual, expected, K, *, double=2e-14, single=5e-7):
    """Equal to rounding: relative to the largest entry; float32 grows with the root of the sums' length."""
    assert actual.shape == np.shape(expected), name
    unit = double if actual.dtype == np.float64 else single * math.sqrt(max(K, 1))
    error = np.abs(actual.astype(np.float64) - expected).max(initial=0.0)
    bound = unit * np.abs(expected).max(initial=0.0)
    # not (error <= bound): a NaN must fail
    assert error <= bound, f"{name}: off by {error}, {bound} allowed"


def check_gradients(p, actual, expected):
    K = addends(p)
    assert actual.keys() == expected.keys()
    for name, value in actual.items():
        close(name, value, expected[name], K["state" if name in ("x", "h_0") else "parameter"])


def same(actual, expected):
    """The same bits, NaN and the sign of zero included."""
    assert actual.dtype == expected.dtype
    assert actual.shape == expected.shape
    return np.ascontiguousarray(actual).tobytes() == np.ascontiguousarray(expected).tobytes()


def differing(actual, expected):
    """Names of the results whose bits differ."""
    assert actual.keys() == expected.keys()
    return [name for name, value in actual.items() if not same(value, expected[name])]

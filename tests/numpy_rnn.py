"""The Elman layer in a few lines of float64 NumPy, written apart from the package, and a problem for it."""

from __future__ import annotations

import math

import numpy as np

F = {
    "tanh": np.tanh,
    "relu": lambda z: np.maximum(z, 0.0),
    "sigmoid": lambda z: 1.0 / (1.0 + np.exp(-z)),
    "identity": lambda z: z,
}
DERIVATIVE = {
    "tanh": lambda h: 1.0 - h * h,
    "relu": lambda h: (h > 0.0).astype(np.float64),
    "sigmoid": lambda h: h * (1.0 - h),
    "identity": np.ones_like,
}
T, B, I, H = 4, 3, 2, 5

#: The same values in memory layouts that a kernel does not take as they are; of any shape but ().
AWKWARD = {
    "strided": lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
    "negative": lambda a: np.flip(np.flip(a).copy()),
    "fortran": np.asfortranarray,
    "swapped": lambda a: a.astype(a.dtype.newbyteorder()),
    "unaligned": lambda a: np.frombuffer(b"." + a.tobytes(), a.dtype, a.size, 1).reshape(a.shape),
    "read-only": lambda a: np.frombuffer(a.tobytes(), a.dtype).reshape(a.shape),
}


def close(actual, expected, terms=T * B * H):
    """Equal to rounding: relative to the largest entry, by precision."""
    expected = np.asarray(expected)
    assert actual.shape == expected.shape
    unit = 1e-12 if actual.dtype == np.float64 else 2e-6 * math.sqrt(terms)
    atol = unit * np.abs(expected).max(initial=0.0)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=atol)


def forward(rnn, x, h_0):
    """Return y (T, B, H) in float64, from x (T, B, I) and h_0 (B, H)."""
    p = {name: value.astype(np.float64) for name, value in rnn.parameters.items()}
    h, y = h_0.astype(np.float64), []
    for x_t in x.astype(np.float64):
        z = x_t @ p["weight_ih_l0"].T + h @ p["weight_hh_l0"].T
        if rnn.bias:
            z = z + p["bias_ih_l0"] + p["bias_hh_l0"]
        h = F[rnn.nonlinearity](z)
        y.append(h)
    return np.array(y).reshape(len(x), *h_0.shape)


def backward(rnn, x, h_0, dy, dh_n, depth=None):
    """Return dx, dh_0, parameter gradients: all chains from loss step i to a step k > i - depth, summed."""
    y = forward(rnn, x, h_0)
    p = {name: value.astype(np.float64) for name, value in rnn.parameters.items()}
    states = np.concatenate([h_0[np.newaxis].astype(np.float64), y])
    steps = len(x)
    depth = steps + 1 if depth is None else depth
    dx = np.zeros(x.shape)
    dh_0 = np.zeros(h_0.shape)
    d = {name: np.zeros(value.shape) for name, value in p.items()}
    for i in range(1, steps + 1):
        g = dy[i - 1].astype(np.float64) + (dh_n if i == steps else 0.0)
        for k in range(i, max(0, i - depth), -1):
            da = g * DERIVATIVE[rnn.nonlinearity](states[k])
            dx[k - 1] += da @ p["weight_ih_l0"]
            d["weight_ih_l0"] += da.T @ x[k - 1]
            d["weight_hh_l0"] += da.T @ states[k - 1]
            for name in set(d) & {"bias_ih_l0", "bias_hh_l0"}:
                d[name] += da.sum(0)
            g = da @ p["weight_hh_l0"]
        if i < depth:
            dh_0 += g
    return dx, dh_0, d


def problem(dtype=np.float64, steps=T, batch=B):
    """Return x (T, B, I), h_0 (1, B, H), dy (T, B, H), dh_n (1, B, H)."""
    rng = np.random.default_rng(7)
    shapes = [(steps, batch, I), (1, batch, H), (steps, batch, H), (1, batch, H)]
    return [rng.normal(size=shape).astype(dtype) for shape in shapes]

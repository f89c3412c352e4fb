"""Agreement with torch.nn.RNN: outputs, final states and all gradients."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

import bptt

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.kernels

#: T, B, I, H: multiples of nothing, one of everything, whole vectors, several blocks of the backward pass.
SHAPES = [(1, 1, 1, 1), (7, 3, 5, 4), (12, 9, 17, 33), (5, 2, 40, 64), (70, 5, 3, 19), (4, 50, 8, 130)]


def cases():
    """Each set of options twice, with other shapes; relu and tanh, float32 and float64 in turn."""
    switches = [True, False]
    options = list(itertools.product(switches, switches, switches, switches, ["tanh", "relu"]))
    for n, option in enumerate(options + options[::-1]):
        dtype = "float32" if (n // 2 + n // 32) % 2 else "float64"
        yield *SHAPES[n % len(SHAPES)], *option, dtype, n


def close(name, actual, expected, K):
    """Both sides round: twice the tolerance against exact values, relative to the largest entry."""
    expected = expected.detach().numpy()
    assert actual.dtype == expected.dtype, name
    assert actual.shape == expected.shape, name
    unit = 4e-14 if actual.dtype == np.float64 else 1e-6 * math.sqrt(K)
    error = np.abs(actual - expected).max(initial=0.0)
    assert error <= unit * np.abs(expected).max(initial=0.0), f"{name}: off by {error}"


@pytest.mark.parametrize(
    ("T", "B", "I", "H", "bias", "batch_first", "unbatched", "state", "nonlinearity", "dtype", "seed"),
    list(cases()),
)
def test_agreement(T, B, I, H, bias, batch_first, unbatched, state, nonlinearity, dtype, seed):
    ours = bptt.RNN(
        I, H, nonlinearity=nonlinearity, bias=bias, batch_first=batch_first, dtype=dtype, seed=seed
    )
    theirs = torch.nn.RNN(
        I, H, nonlinearity=nonlinearity, bias=bias, batch_first=batch_first, dtype=getattr(torch, dtype)
    )
    # the names fit without conversion
    theirs.load_state_dict({name: torch.from_numpy(value.copy()) for name, value in ours.parameters.items()})
    rng = np.random.default_rng(seed)
    rows = (T,) if unbatched else (B, T) if batch_first else (T, B)
    states = (1, H) if unbatched else (1, B, H)
    shapes = ((*rows, I), states, (*rows, H), states)
    x, h_0, dy, dh_n = (rng.normal(size=shape).astype(dtype) for shape in shapes)
    x_t, h_0_t = (torch.from_numpy(a.copy()).requires_grad_() for a in (x, h_0))

    y, h_n, tape = ours.record(x, h_0 if state else None)
    y_t, h_n_t = theirs(x_t, h_0_t if state else None)
    close("y", y, y_t, I + H)
    close("h_n", h_n, h_n_t, I + H)

    gradients = tape.backward(dy, dh_n)
    torch.autograd.backward([y_t, h_n_t], [torch.from_numpy(dy), torch.from_numpy(dh_n)])
    close("x", gradients.x, x_t.grad, T * H)
    if state:
        close("h_0", gradients.h_0, h_0_t.grad, T * H)
    named = dict(theirs.named_parameters())
    assert gradients.parameters.keys() == named.keys()
    for name, parameter in named.items():
        close(name, gradients.parameters[name], parameter.grad, T * (B + H))

"""What only a GRU has: where its reset gate acts."""

from __future__ import annotations

import math

import numpy as np
import pytest
from errors import F4, F8, raises, zeros
from kernel_problems import same
from numpy_layers import B, H, I, T, make, problem
from numpy_rnn import close

import bptt


def test_names_and_shapes():
    layer = bptt.GRU(3, 5, num_layers=2, bidirectional=True, layer_norm=True)
    own = ["weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_ln_ih", "weight_ln_hh"]
    suffixes = ["_l0", "_l0_reverse", "_l1", "_l1_reverse"]
    assert list(layer.parameters) == [name + suffix for suffix in suffixes for name in own]
    found = {name: value.shape for name, value in layer.parameters.items()}
    assert found["weight_ih_l0_reverse"] == (15, 3)
    assert found["weight_ih_l1"] == (15, 10)
    assert found["weight_hh_l1_reverse"] == (15, 5)
    assert found["bias_hh_l0"] == found["weight_ln_hh_l1"] == (15,)
    assert layer.output_size == 10


def test_first_values():
    layer = bptt.GRU(30, 100, dtype=F8, seed=0)
    for value in layer.parameters.values():
        assert 0.095 < np.abs(value).max() <= 0.1
        assert value.std() == pytest.approx(0.2 / math.sqrt(12), rel=0.15)
    for name, value in bptt.GRU(30, 100, dtype=F8, seed=0, reset_after=False).parameters.items():
        assert same(value, layer.parameters[name])


def test_orthogonal_init():
    w = bptt.GRU(3, 8, init="orthogonal", seed=0, dtype=F8).parameters["weight_hh_l0"]
    blocks = np.split(w, 3)
    for block in blocks:
        np.testing.assert_allclose(block @ block.T, np.eye(8), rtol=0, atol=1e-14)
    assert len({block.tobytes() for block in blocks}) == 3


def test_the_two_kinds_differ_by_where_r_acts(backend):
    """Without recurrent weights of n they are the same but for b_hn; with r = 1 too."""
    after, before = make("GRU", backend=backend), make("reset_before", backend=backend)
    q = problem(after)
    assert not np.allclose(after(q.x, q.h_0)[0], before(q.x, q.h_0)[0])
    for layer in (after, before):
        layer.parameters["bias_ih_l0"][:H] = 100.0  # r = 1
    close(after(q.x, q.h_0)[0], before(q.x, q.h_0)[0])
    for layer in (after, before):
        layer.parameters["bias_ih_l0"][:H] = -1.0
        layer.parameters["weight_hh_l0"][2 * H :] = 0.0
        layer.parameters["bias_hh_l0"][2 * H :] = 0.0
    close(after(q.x, q.h_0)[0], before(q.x, q.h_0)[0])


def test_z_keeps_the_state(backend, dtype):
    layer = make("GRU", dtype=dtype, backend=backend)
    q = problem(layer)
    layer.parameters["bias_ih_l0"][H : 2 * H] = 1000.0
    y, h_n, tape = layer.record(q.x, q.h_0)
    close(y, np.broadcast_to(q.h_0, (T, B, H)))
    close(h_n, q.h_0)
    np.testing.assert_array_equal(tape.gates[0][0]["z"], 1.0)
    gradients = tape.backward(None, q.dh_n)
    close(gradients.h_0, q.dh_n)
    assert not gradients.x.any()


@pytest.mark.parametrize("kind", ["GRU", "reset_before"])
def test_depth(backend, kind):
    layer = make(kind, backend=backend)
    q = problem(layer)
    tape = layer.record(q.x, q.h_0)[2]
    whole, deep = tape.backward(q.dy, q.dh_n), tape.backward(q.dy, q.dh_n, depth=T + 1)
    close(deep.x, whole.x)
    close(deep.h_0, whole.h_0)
    h = np.concatenate([q.h_0, tape.h[0][0]])
    shallow = tape.backward(q.dy, depth=1)
    total = {name: np.zeros(value.shape) for name, value in layer.parameters.items()}
    for t in range(T):
        one = layer.record(q.x[t : t + 1], h[t : t + 1])[2].backward(q.dy[t : t + 1])
        close(shallow.x[t : t + 1], one.x)
        for name in total:
            total[name] += one.parameters[name]
    for name, value in total.items():
        close(deep.parameters[name], whole.parameters[name])
        close(shallow.parameters[name], value)


@pytest.mark.parametrize("reset_after", [True, False])
def test_a_state_carries(backend, dtype, reset_after):
    layer = bptt.GRU(I, H, num_layers=2, reset_after=reset_after, dtype=dtype, seed=0, backend=backend)
    q = problem(layer)
    whole, last = layer(q.x, q.h_0)
    first, middle = layer(q.x[:2], q.h_0)
    second, end = layer(q.x[2:], middle)
    if backend == "reference" and dtype == F4:
        # It computes in float64 and rounds a call's results, so that a cut rounds once more.
        close(np.concatenate([first, second]), whole)
        close(end, last)
    else:
        assert same(np.concatenate([first, second]), whole)
        assert same(end, last)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"reset_after": 0}, TypeError, "reset_after: expected True or False, got 0"),
        (
            {"reset_after": False, "layer_norm": True},
            ValueError,
            "layer_norm: expected False with reset_after=False, got True",
        ),
        ({"init": "identity"}, ValueError, "init: expected one of 'uniform', 'orthogonal', got 'identity'"),
        ({"num_layers": 2.0}, TypeError, "num_layers: expected an integer of at least 1, got 2.0"),
    ],
)
def test_options(options, error, message):
    with raises(error, message):
        bptt.GRU(**{"input_size": 3, "hidden_size": 4, "backend": "reference", **options})


def test_a_pair_is_refused(backend):
    pair = (zeros(1, B, H, dtype=F8), zeros(1, B, H, dtype=F8))
    message = "expected one array, got a tuple of 2; only an LSTM's state is a pair"
    for kind in ("GRU", "RNN"):
        layer = make(kind, backend=backend)
        q = problem(layer)
        tape = layer.record(q.x)[2]
        for call in (layer, layer.record, layer.freeze()):
            with raises(TypeError, f"h_0: {message}"):
                call(q.x, pair)
        with raises(TypeError, f"h_0: {message}"):
            layer.stream(B, pair)
        with raises(TypeError, f"dh_n: {message}"):
            tape.backward(q.dy, pair)


def test_reprs():
    layer = bptt.GRU(3, 4, num_layers=2, reset_after=False, seed=0, backend="reference")
    assert repr(layer) == (
        "GRU(3, 4, num_layers=2, reset_after=False, dtype=float32, seed=0, backend='reference')"
    )
    _, _, tape = layer.record(zeros(5, 2, dtype=int))
    assert repr(tape) == "Tape(cell='gru_reset_before', T=5, B=2, I=3, H=4, L=2, tokens, dtype=float32)"

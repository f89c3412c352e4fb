"""What only an LSTM has: projection, peepholes, the forget gate's bias, states in pairs."""

from __future__ import annotations

import math

import numpy as np
import pytest
from errors import F4, F8, raises, zeros
from kernel_problems import same
from numpy_layers import B, H, I, T, check_gradients, forward, make, masks_of, problem
from numpy_rnn import close

import bptt

# ------------------------------------------------------------------------------------- parameters


def shapes(layer):
    return {name: value.shape for name, value in layer.parameters.items()}


def test_names_and_shapes():
    assert shapes(bptt.LSTM(3, 5)) == {
        "weight_ih_l0": (20, 3),
        "weight_hh_l0": (20, 5),
        "bias_ih_l0": (20,),
        "bias_hh_l0": (20,),
    }
    everything = {"proj_size": 2, "peepholes": True, "layer_norm": True}
    layer = bptt.LSTM(3, 5, num_layers=2, bidirectional=True, **everything)
    own = ["weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr", "weight_ph", "weight_ln_ih"]
    own.append("weight_ln_hh")
    suffixes = ["_l0", "_l0_reverse", "_l1", "_l1_reverse"]
    assert list(layer.parameters) == [name + suffix for suffix in suffixes for name in own]
    found = shapes(layer)
    for suffix in suffixes:
        assert found[f"weight_ih{suffix}"] == (20, 3 if "l0" in suffix else 4)
        assert found[f"weight_hh{suffix}"] == (20, 2)
        assert found[f"weight_hr{suffix}"] == (2, 5)
        assert found[f"weight_ph{suffix}"] == (15,)
        assert found[f"weight_ln_ih{suffix}"] == found[f"weight_ln_hh{suffix}"] == (20,)
    assert layer.output_size == 4


def test_first_values():
    layer = bptt.LSTM(30, 100, proj_size=40, peepholes=True, layer_norm=True, dtype=F8, seed=0)
    for name, value in layer.parameters.items():
        if "ln" in name:
            np.testing.assert_array_equal(value, np.ones(400))
        else:
            assert 0.095 < np.abs(value).max() <= 0.1  # 1 / sqrt(H), with a projection too, as in PyTorch
            assert value.std() == pytest.approx(0.2 / math.sqrt(12), rel=0.15)


def test_options_leave_the_other_first_values_alone():
    """A seed gives the same weights with and without what doesn't change their shapes."""
    plain = bptt.LSTM(3, 4, seed=1).parameters
    for options in ({"bias": False}, {"layer_norm": True}, {"peepholes": True}, {"zoneout": 0.5}):
        for name, value in bptt.LSTM(3, 4, seed=1, **options).parameters.items():
            if name in plain:
                assert same(value, plain[name])


@pytest.mark.parametrize("forget_bias", [1, 1.0, 0.0, -2.5])
def test_forget_bias(forget_bias):
    layer = bptt.LSTM(3, 4, num_layers=2, bidirectional=True, forget_bias=forget_bias, seed=1)
    plain = bptt.LSTM(3, 4, num_layers=2, bidirectional=True, seed=1).parameters
    for name, value in layer.parameters.items():
        forget = slice(4, 8)
        if "bias" in name:
            np.testing.assert_array_equal(value[forget], forget_bias if "ih" in name else 0.0)
            assert not np.array_equal(plain[name][forget], value[forget])
            value, expected = np.delete(value, forget), np.delete(plain[name], forget)
        else:
            expected = plain[name]
        assert same(np.ascontiguousarray(value), np.ascontiguousarray(expected))
    assert layer.forget_bias == forget_bias


@pytest.mark.parametrize("proj_size", [0, 3])
def test_orthogonal_init(proj_size):
    layer = bptt.LSTM(3, 8, proj_size=proj_size, init="orthogonal", seed=0, dtype=F8, num_layers=2)
    R, blocks = proj_size or 8, []
    for level in range(2):
        w = layer.parameters[f"weight_hh_l{level}"]
        assert w.shape == (32, R)
        for block in np.split(w, 4):
            np.testing.assert_allclose(block.T @ block, np.eye(R), rtol=0, atol=1e-14)
            blocks.append(block.tobytes())
    assert len(set(blocks)) == 8


def test_state_dict_round_trip(backend):
    options = {"num_layers": 2, "bidirectional": True, "proj_size": 2, "peepholes": True, "layer_norm": True}
    a, b = (bptt.LSTM(I, H, **options, seed=seed, backend=backend) for seed in (1, 2))
    b.load_state_dict(a.state_dict())
    x = problem(a).x
    assert same(a(x)[0], b(x)[0])


# ------------------------------------------------------------------------------------- states


def test_a_pair_comes_and_goes(backend):
    layer = make("projected", num_layers=2, bidirectional=True, backend=backend)
    q = problem(layer)
    _, state = layer(q.x, q.h_0)
    assert isinstance(state, tuple)
    assert [part.shape for part in state] == [(4, B, 2), (4, B, H)]
    _, other, tape = layer.record(q.x, list(q.h_0))
    assert isinstance(other, tuple)
    for a, b in zip(other, state, strict=True):
        assert same(a, b)
    gradients = tape.backward(q.dy, list(q.dh_n))
    assert gradients.h_0.shape == (4, B, 2)
    assert gradients.c_0.shape == (4, B, H)
    assert repr(gradients).startswith(f"Gradients(x=({T}, {B}, {I}), h_0=(4, {B}, 2), c_0=(4, {B}, {H}), ")


@pytest.mark.parametrize("kind", ["LSTM", "projected"])
def test_a_state_carries(backend, dtype, kind):
    layer = make(kind, num_layers=2, dtype=dtype, backend=backend)
    q = problem(layer)
    whole, last = layer(q.x, q.h_0)
    first, middle = layer(q.x[:2], q.h_0)
    second, end = layer(q.x[2:], middle)
    pieces = np.concatenate([first, second])
    if backend == "reference" and dtype == F4:
        # It computes in float64 and rounds a call's results, so that a cut rounds once more.
        close(pieces, whole)
        for a, b in zip(end, last, strict=True):
            close(a, b)
    else:
        assert same(pieces, whole)
        for a, b in zip(end, last, strict=True):
            assert same(a, b)


def test_halves_of_the_final_gradient(backend):
    layer = make("peepholes", num_layers=2, bidirectional=True, backend=backend)
    q = problem(layer)
    tape = layer.record(q.x, q.h_0)[2]
    dh, dc = q.dh_n
    for given, whole in [((dh, None), (dh, np.zeros_like(dc))), ((None, dc), (np.zeros_like(dh), dc))]:
        for dy in (None, q.dy):
            a, b = tape.backward(dy, given), tape.backward(dy, whole)
            close(a.x, b.x)
            close(a.c_0, b.c_0)
            for name, value in b.parameters.items():
                close(a.parameters[name], value)
    nothing = tape.backward(q.dy, (None, None))
    close(nothing.x, tape.backward(q.dy).x)


def test_c_on_a_tape_carries_on(backend):
    """What a tape shows of c after a step is the state that goes on from there."""
    layer = make("projected", backend=backend)
    q = problem(layer)
    y, _, tape = layer.record(q.x, q.h_0)
    middle = np.ascontiguousarray(tape.h[0][0][1:2]), np.ascontiguousarray(tape.c[0][0][1:2])
    assert same(layer(q.x[2:], middle)[0], y[2:].copy())


# ------------------------------------------------------------------------------------- depth


@pytest.mark.parametrize("kind", ["LSTM", "projected", "peepholes"])
def test_depth(backend, kind):
    """Terms by depth: what depth K adds to depth K-1 is the loss of every step felt K-1 steps before."""
    layer = make(kind, backend=backend)
    q = problem(layer)
    tape = layer.record(q.x, q.h_0)[2]
    whole = tape.backward(q.dy, q.dh_n)
    deep = tape.backward(q.dy, q.dh_n, depth=T + 1)
    close(deep.x, whole.x)
    close(deep.c_0, whole.c_0)
    for name, value in whole.parameters.items():
        close(deep.parameters[name], value)
    # depth 1: of every step its own loss only, as if its initial state were the one before, held fixed
    h = np.concatenate([q.h_0[0], tape.h[0][0]])
    c = np.concatenate([q.h_0[1], tape.c[0][0]])
    total = {name: np.zeros(value.shape) for name, value in layer.parameters.items()}
    shallow = tape.backward(q.dy, depth=1)
    for t in range(T):
        one = layer.record(q.x[t : t + 1], (h[t : t + 1], c[t : t + 1]))[2].backward(q.dy[t : t + 1])
        close(shallow.x[t : t + 1], one.x)
        for name in total:
            total[name] += one.parameters[name]
    for name, value in total.items():
        close(shallow.parameters[name], value)
    assert not shallow.h_0.any()


# ------------------------------------------------------------------------------------- everything at once


def test_all_options_together(backend):
    options = {"num_layers": 3, "bidirectional": True, "dropout": 0.2, "recurrent_dropout": 0.2}
    layer = make("peepholes", **options, zoneout=(0.1, 0.2), layer_norm=True, backend=backend)
    q = problem(layer, tokens=True)
    over_time = {"lengths": [5, 3, 0, 4], "reset": np.random.default_rng(0).random((T, B)) < 0.3}
    y, _, tape = layer.record(q.x, q.h_0, seed=1, **over_time)
    masks = masks_of(tape)
    close(y, forward(layer, q.x, q.h_0, masks=masks, **over_time)[0])
    check_gradients(layer, q, tape.backward(q.dy, q.dh_n), masks=masks, **over_time)


# ------------------------------------------------------------------------------------- errors and reprs


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"proj_size": 4}, ValueError, "proj_size: expected less than the hidden_size, 4, got 4"),
        ({"proj_size": 9}, ValueError, "proj_size: expected less than the hidden_size, 4, got 9"),
        ({"proj_size": -1}, ValueError, "proj_size: expected an integer of at least 0, got -1"),
        ({"proj_size": 1.0}, TypeError, "proj_size: expected an integer of at least 0, got 1.0"),
        ({"proj_size": None}, TypeError, "proj_size: expected an integer of at least 0, got None"),
        ({"peepholes": 1}, TypeError, "peepholes: expected True or False, got 1"),
        ({"forget_bias": math.inf}, ValueError, "forget_bias: expected a finite number, got inf"),
        ({"forget_bias": math.nan}, ValueError, "forget_bias: expected a finite number, got nan"),
        (
            {"forget_bias": -(10**400)},
            ValueError,
            f"forget_bias: expected a finite number, got {-(10**400)}",
        ),
        ({"forget_bias": "1"}, TypeError, "forget_bias: expected a finite number, got '1'"),
        ({"forget_bias": True}, TypeError, "forget_bias: expected a finite number, got True"),
        (
            {"forget_bias": 1.0, "bias": False},
            ValueError,
            "forget_bias: expected None with bias=False, got 1.0",
        ),
        ({"init": "identity"}, ValueError, "init: expected one of 'uniform', 'orthogonal', got 'identity'"),
        ({"hidden_size": "4"}, TypeError, "hidden_size: expected an integer of at least 1, got '4'"),
        ({"num_layers": 0}, ValueError, "num_layers: expected an integer of at least 1, got 0"),
        ({"bidirectional": "no"}, TypeError, "bidirectional: expected True or False, got 'no'"),
        ({"layer_norm": None}, TypeError, "layer_norm: expected True or False, got None"),
    ],
)
def test_options(options, error, message):
    with raises(error, message):
        bptt.LSTM(**{"input_size": 3, "hidden_size": 4, "backend": "reference", **options})


PAIR = "expected a pair of arrays"


@pytest.mark.parametrize(
    ("state", "error", "message"),
    [
        (zeros(1, B, H, dtype=F8), TypeError, f"h_0: {PAIR} (h_0, c_0), got one ndarray"),
        (zeros(2, 1, B, H, dtype=F8), TypeError, f"h_0: {PAIR} (h_0, c_0), got one ndarray"),
        ((zeros(1, B, 2, dtype=F8),), TypeError, f"h_0: {PAIR} (h_0, c_0), got 1 of them"),
        ("hc", TypeError, f"h_0: {PAIR} (h_0, c_0), got one str"),
        (
            (zeros(1, B, H, dtype=F8), zeros(1, B, H, dtype=F8)),
            ValueError,
            f"h_0: expected shape (1, {B}, 2) = (num_layers, batch, proj_size), got (1, {B}, {H})",
        ),
        (
            (zeros(1, B, 2, dtype=F8), zeros(1, B, 2, dtype=F8)),
            ValueError,
            f"c_0: expected shape (1, {B}, {H}) = (num_layers, batch, hidden_size), got (1, {B}, 2)",
        ),
        (
            (zeros(1, B, 2, dtype=F8), zeros(1, B, H)),
            TypeError,
            "c_0: expected float64 (the layer's dtype), got float32; write c_0.astype(np.float64)",
        ),
    ],
)
def test_states(backend, state, error, message):
    layer = make("projected", backend=backend)
    x = problem(layer).x
    tape = layer.record(x)[2]
    for call in (layer, layer.record):
        with raises(error, message):
            call(x, state)
    gradient = message.replace("(h_0, c_0)", "(dh_n, dc_n)").replace("c_0.", "dc_n.")
    gradient = gradient.replace("h_0:", "dh_n:").replace("c_0:", "dc_n:")
    with raises(error, gradient):
        tape.backward(None, state)


def test_check_finite_sees_c(backend):
    layer = make("LSTM", num_layers=2, backend=backend)
    q = problem(layer)
    h_0, c_0 = q.h_0
    c_0[1, 2, 0] = np.inf
    with raises(FloatingPointError, "c_0: expected finite values, got inf at layer 1, batch row 2"):
        layer(q.x, (h_0, c_0), check_finite=True)
    bare = h_0[:, 2], c_0[:, 2]
    with raises(FloatingPointError, "c_0: expected finite values, got inf at layer 1"):
        layer(q.x[:, 2], bare, check_finite=True)
    c_0[1, 2, 0] = np.finfo(F8).max
    assert np.isfinite(layer(q.x, (h_0, c_0), check_finite=True)[1][1]).all()


def test_reprs():
    assert repr(bptt.LSTM(3, 4, seed=0)) == "LSTM(3, 4, dtype=float32, seed=0)"
    options = {"num_layers": 2, "bias": False, "batch_first": True, "dropout": 0.5, "bidirectional": True}
    options |= {"proj_size": 2, "peepholes": True, "recurrent_dropout": 0.25, "zoneout": (0.0, 0.5)}
    options |= {"layer_norm": True, "dtype": F8, "init": "orthogonal", "backend": "reference"}
    assert repr(bptt.LSTM(3, 4, **options)) == (
        "LSTM(3, 4, num_layers=2, bias=False, batch_first=True, dropout=0.5, bidirectional=True, "
        "proj_size=2, peepholes=True, recurrent_dropout=0.25, zoneout=(0.0, 0.5), layer_norm=True, "
        "dtype=float64, init='orthogonal', backend='reference')"
    )
    layer = bptt.LSTM(3, 4, forget_bias=1, num_layers=2, bidirectional=True, proj_size=2, backend="reference")
    assert "forget_bias=1.0" in repr(layer)
    _, _, tape = layer.record(zeros(5, 2, 3))
    assert repr(tape) == "Tape(cell='lstm', T=5, B=2, I=3, H=4, P=2, L=2, D=2, dtype=float32)"

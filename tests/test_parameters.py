"""Parameters of a layer: first values, editing, state_dict, copies; its options and reprs."""

from __future__ import annotations

import copy
import math
import pickle
import warnings

import numpy as np
import pytest
from numpy_rnn import H, I, close, forward, problem

import bptt


def test_parameters_are_read_afresh(backend):
    rnn = bptt.RNN(I, H, dtype=np.float64, seed=1, backend=backend)
    x, h_0, _, _ = problem()
    rnn(x, h_0)
    rnn.parameters["weight_hh_l0"][0, 0] += 1.0  # in place
    close(rnn(x, h_0)[0], forward(rnn, x, h_0[0]))
    transposed = np.random.default_rng(3).normal(size=(H, H)).T
    rnn.parameters["weight_hh_l0"] = transposed  # another array, of another layout
    close(rnn(x, h_0)[0], forward(rnn, x, h_0[0]))
    transposed[0, 0] += 1.0  # a copy of it must not have been remembered
    close(rnn(x, h_0)[0], forward(rnn, x, h_0[0]))
    rnn.parameters["bias_ih_l0"] = np.ones(H)
    close(rnn(x, h_0)[0], forward(rnn, x, h_0[0]))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_uniform_init(dtype):
    rnn = bptt.RNN(50, 100, dtype=dtype, seed=0, backend="reference")
    shapes = {name: value.shape for name, value in rnn.parameters.items()}
    assert shapes == {
        "weight_ih_l0": (100, 50),
        "weight_hh_l0": (100, 100),
        "bias_ih_l0": (100,),
        "bias_hh_l0": (100,),
    }
    for value in rnn.parameters.values():
        assert value.dtype == dtype
        assert value.flags.c_contiguous
        assert np.abs(value).max() <= 0.1
        assert np.abs(value).max() > 0.09
        assert abs(value.mean()) < 0.02
        assert value.std() == pytest.approx(0.2 / math.sqrt(12), rel=0.15)


def test_orthogonal_init():
    rnn = bptt.RNN(3, 16, dtype=np.float64, seed=0, init="orthogonal", backend="reference")
    w = rnn.parameters["weight_hh_l0"]
    np.testing.assert_allclose(w @ w.T, np.eye(16), atol=1e-14)
    assert np.abs(rnn.parameters["weight_ih_l0"]).max() <= 0.25
    assert rnn.parameters["bias_hh_l0"].any()
    # Without the sign fix the first entry of Q would be negative in every draw.
    corners = [bptt.RNN(1, 4, seed=s, init="orthogonal", backend="reference") for s in range(20)]
    assert {np.sign(rnn.parameters["weight_hh_l0"][0, 0]) for rnn in corners} == {-1.0, 1.0}


def test_identity_init():
    rnn = bptt.RNN(200, 16, nonlinearity="relu", seed=0, init="identity", backend="reference")
    np.testing.assert_array_equal(rnn.parameters["weight_hh_l0"], np.eye(16))
    assert not rnn.parameters["bias_ih_l0"].any()
    assert not rnn.parameters["bias_hh_l0"].any()
    assert rnn.parameters["weight_ih_l0"].std() == pytest.approx(0.001, rel=0.1)


def test_seeds():
    def layer(**options):
        return bptt.RNN(2, 3, backend="reference", **options).state_dict()

    def same(a, b):
        return all(np.array_equal(a[name], b[name]) for name in a)

    assert same(layer(seed=1), layer(seed=1))
    assert not same(layer(seed=1), layer(seed=2))
    assert not same(layer(), layer())
    single, double = layer(seed=1), layer(seed=1, dtype=np.float64)
    assert same(single, {name: value.astype(np.float32) for name, value in double.items()})
    assert set(layer(bias=False)) == {"weight_ih_l0", "weight_hh_l0"}
    assert same(layer(seed=1, bias=False), {k: v for k, v in layer(seed=1).items() if "bias" not in k})


@pytest.mark.parametrize("init", ["uniform", "orthogonal", "identity"])
def test_first_values_of_one_layer(init):
    """A seed's values, as they have been from the first version: saved runs rely on them."""
    p = bptt.RNN(2, 3, seed=0, init=init, dtype=np.float64).parameters
    rng, bound = np.random.default_rng(0), 1 / math.sqrt(3)
    expected = [rng.normal(0, 0.001, (3, 2)), np.eye(3), np.zeros((2, 3))]
    if init != "identity":
        rng = np.random.default_rng(0)
        expected = [rng.uniform(-bound, bound, (3, 2)), rng.uniform(-bound, bound, (3, 3))]
        if init == "orthogonal":
            rng = np.random.default_rng(0)
            rng.uniform(-bound, bound, (3, 2))
            q, r = np.linalg.qr(rng.standard_normal((3, 3)))
            expected[1] = q * np.sign(np.diagonal(r))
        expected.append(rng.uniform(-bound, bound, (2, 3)))
    for value, wanted in zip(p.values(), [*expected[:2], *expected[2]], strict=True):
        np.testing.assert_array_equal(value, wanted)


@pytest.mark.parametrize("layer", [bptt.RNN, bptt.LSTM, bptt.GRU])
def test_first_values_of_stacks(layer):
    def values(**options):
        return layer(3, 4, **options).parameters

    stack = values(seed=1, num_layers=2, bidirectional=True)
    assert len({value.tobytes() for value in stack.values()}) == 16  # every one its own
    for other in (values(seed=1), values(seed=1, num_layers=2, bidirectional=True, bias=False)):
        for name, value in other.items():
            np.testing.assert_array_equal(stack[name], value)
    rounded = values(seed=1, num_layers=2, bidirectional=True, dtype=np.float64)
    for name, value in rounded.items():
        np.testing.assert_array_equal(stack[name], value.astype(np.float32))


def test_names_in_pytorchs_order():
    rnn = bptt.RNN(3, 4, num_layers=2, bidirectional=True, layer_norm=True)
    own = ["weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_ln_ih", "weight_ln_hh"]
    suffixes = ["_l0", "_l0_reverse", "_l1", "_l1_reverse"]
    assert list(rnn.parameters) == list(rnn.state_dict()) == [name + end for end in suffixes for name in own]
    assert rnn.parameters["weight_ih_l0_reverse"].shape == (4, 3)
    assert rnn.parameters["weight_ih_l1"].shape == (4, 8)
    assert rnn.parameters["weight_ln_hh_l1_reverse"].shape == (4,)
    assert rnn.output_size == 8
    np.testing.assert_array_equal(rnn.parameters["weight_ln_ih_l1"], np.ones(4))


def test_state_dict_round_trip(backend):
    a = bptt.RNN(I, H, seed=1, backend=backend)
    b = bptt.RNN(I, H, seed=2, backend=backend)
    arrays = dict(b.parameters)
    state = a.state_dict()
    b.load_state_dict(state)
    x = problem(np.float32)[0]
    np.testing.assert_array_equal(b(x)[0], a(x)[0])
    for name, value in state.items():
        assert b.parameters[name] is arrays[name]  # copied into place: an optimiser may hold these arrays
        assert not np.shares_memory(value, a.parameters[name])


def test_state_dict_of_its_own_arrays():
    layer = bptt.GRU(I, H, bidirectional=True, seed=1)
    before = layer.state_dict()
    swapped = {
        name: name.removesuffix("_reverse") if name.endswith("_reverse") else f"{name}_reverse"
        for name in before
    }
    layer.load_state_dict({name: layer.parameters[other] for name, other in swapped.items()})
    for name, other in swapped.items():
        assert np.array_equal(layer.parameters[name], before[other])


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda rnn: pickle.loads(pickle.dumps(rnn))])
def test_pickle_and_copy(backend, dtype, duplicate):
    rnn = bptt.RNN(I, H, nonlinearity="relu", dtype=dtype, seed=1, backend=backend)
    x, h_0, _, _ = problem(dtype)
    y = rnn(x, h_0)[0]
    twin = duplicate(rnn)
    np.testing.assert_array_equal(twin(x, h_0)[0], y)
    assert repr(twin) == repr(rnn)
    twin.parameters["weight_hh_l0"][...] = 0
    np.testing.assert_array_equal(rnn(x, h_0)[0], y)


@pytest.mark.parametrize("layer", [bptt.RNN, bptt.LSTM, bptt.GRU])
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda rnn: pickle.loads(pickle.dumps(rnn))])
def test_pickle_and_copy_of_stacks(backend, layer, duplicate):
    options = {"num_layers": 2, "dropout": 0.5, "bidirectional": True, "recurrent_dropout": 0.1}
    options |= {"zoneout": 0.2, "layer_norm": True, "init": "orthogonal", "batch_first": True}
    original = layer(I, H, **options, seed=3, backend=backend)
    x = problem(np.float32)[0]
    original(x)
    twin = duplicate(original)
    assert repr(twin) == repr(original)
    assert list(twin.parameters) == list(original.parameters)
    y = original.record(x, seed=1)[0]
    np.testing.assert_array_equal(twin.record(x, seed=1)[0], y)
    twin.parameters["weight_hh_l1_reverse"][...] = 0
    np.testing.assert_array_equal(original.record(x, seed=1)[0], y)
    assert not np.array_equal(twin.record(x, seed=1)[0], y)


def test_a_subclass_may_have_attributes_of_its_own():
    class Named(bptt.RNN):
        pass

    rnn = Named(I, H, seed=1, backend="reference")
    rnn.label = "first"
    rnn.label = "second"
    twin = copy.copy(rnn)
    assert twin.label == "second"
    assert repr(twin).startswith("Named(2, 5,")


@pytest.mark.parametrize(
    "name", ["hidden_size", "input_size", "nonlinearity", "dtype", "batch_first", "parameters"]
)
def test_options_are_fixed(name):
    rnn = bptt.RNN(I, H, backend="reference")
    with pytest.raises(AttributeError, match=f"^{name}: fixed when the RNN is made"):
        setattr(rnn, name, {} if name == "parameters" else 7)
    assert rnn.hidden_size == H
    assert rnn.parameters
    for layer, option in [(bptt.LSTM, "proj_size"), (bptt.GRU, "reset_after"), (bptt.GRU, "dropout")]:
        with pytest.raises(AttributeError, match=f"^{option}: fixed when the {layer.__name__} is made"):
            setattr(layer(I, H, backend="reference"), option, 2)


def test_options_are_kept():
    rnn = bptt.RNN(np.int64(2), 3, nonlinearity="relu", bias=False, batch_first=True, dtype="float64", seed=4)
    assert (rnn.input_size, rnn.hidden_size, rnn.nonlinearity) == (2, 3, "relu")
    assert (rnn.bias, rnn.batch_first, rnn.dtype) == (False, True, np.float64)
    assert (rnn.seed, rnn.init, rnn.backend) == (4, "uniform", "kernels")
    assert (rnn.num_layers, rnn.bidirectional, rnn.layer_norm, rnn.output_size) == (1, False, False, 3)
    assert (rnn.dropout, rnn.recurrent_dropout, rnn.zoneout) == (0.0, 0.0, 0.0)
    lstm = bptt.LSTM(2, 3, num_layers=2, dropout=np.float32(0.5), zoneout=(0, 0.25), proj_size=np.int8(2))
    assert (lstm.dropout, lstm.zoneout, lstm.proj_size, lstm.output_size) == (0.5, (0.0, 0.25), 2, 2)
    assert (lstm.peepholes, lstm.forget_bias, lstm.bidirectional) == (False, None, False)
    gru = bptt.GRU(2, 3, bidirectional=np.True_, reset_after=False)
    assert (gru.bidirectional, gru.reset_after, gru.output_size) == (True, False, 6)


def test_reprs(backend):
    kernel_part = "" if backend == "kernels" else f", backend='{backend}'"
    rnn = bptt.RNN(3, 4, seed=0, backend=backend)
    assert repr(rnn) == f"RNN(3, 4, nonlinearity='tanh', dtype=float32, seed=0{kernel_part})"
    other = bptt.RNN(
        3, 4, nonlinearity="relu", bias=False, batch_first=True, init="identity", backend=backend
    )
    assert repr(other) == (
        "RNN(3, 4, nonlinearity='relu', bias=False, batch_first=True, dtype=float32, "
        f"init='identity'{kernel_part})"
    )
    y, _, tape = rnn.record(np.zeros((5, 2, 3), np.float32))
    assert repr(tape) == "Tape(nonlinearity='tanh', T=5, B=2, I=3, H=4, dtype=float32)"
    assert repr(tape.backward(y)) == (
        "Gradients(x=(5, 2, 3), h_0=(1, 2, 4), parameters={weight_ih_l0: (4, 3), weight_hh_l0: (4, 4), "
        "bias_ih_l0: (4,), bias_hh_l0: (4,)})"
    )
    stack = bptt.RNN(3, 4, num_layers=2, dropout=0.5, bidirectional=True, zoneout=0.1, backend=backend)
    assert repr(stack) == (
        "RNN(3, 4, num_layers=2, nonlinearity='tanh', dropout=0.5, bidirectional=True, zoneout=0.1, "
        f"dtype=float32{kernel_part})"
    )
    y, _, tape = rnn.record(np.zeros((5, 2), np.int64))
    assert repr(tape) == "Tape(nonlinearity='tanh', T=5, B=2, I=3, H=4, tokens, dtype=float32)"
    assert repr(tape.backward(y)).startswith("Gradients(x=None, ")


class TestChangedInPlace:
    """A layer knows its parameters by their identity, so the kernels look at their sizes."""

    @pytest.mark.parametrize("name", ["weight_ih_l0", "weight_hh_l0", "bias_hh_l0"])
    @pytest.mark.parametrize("kind", [bptt.RNN, bptt.LSTM, bptt.GRU])
    def test_another_size_is_refused(self, kind, name):
        layer = kind(3, 4, seed=0)
        x = np.ones((5, 2, 3), np.float32)
        layer(x)
        layer.parameters[name].resize((1, 2), refcheck=False)
        for call in (layer, layer.record):
            with pytest.raises(ValueError, match=r"^weights: expected shapes that fit each other"):
                call(x)

    def test_other_columns_are_refused(self):
        layer = bptt.RNN(4, 4, seed=0)
        layer(np.ones((5, 2, 4), np.float32))
        layer.parameters["weight_ih_l0"].resize((4, 3), refcheck=False)
        with pytest.raises(ValueError, match=r"^x: expected 3 numbers a row, as weight_ih has, got 4$"):
            layer(np.ones((5, 2, 4), np.float32))

    def test_another_type_is_refused(self):
        layer = bptt.RNN(4, 4, bias=False, seed=0)
        layer(np.ones((5, 2, 4), np.float32))
        for value in layer.parameters.values():
            value.resize((4, 8), refcheck=False)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                value.dtype = np.float64
        with pytest.raises(ValueError, match=r"^weights: expected numbers of 4 bytes, got others"):
            layer(np.ones((5, 2, 4), np.float32))

"""Every error of stacks of layers: states, depth, parameters, check_finite."""

from __future__ import annotations

import numpy as np
import pytest
from errors import F4, F8, raises, zeros
from kernel_problems import same
from numpy_layers import B, H, I, T, make, problem

import bptt

# ------------------------------------------------------------------------------------- states


@pytest.mark.parametrize(
    ("num_layers", "bidirectional", "expected"),
    [
        (2, False, f"(2, {B}, {H}) = (num_layers, batch, hidden_size)"),
        (1, True, f"(2, {B}, {H}) = (num_layers * directions, batch, hidden_size)"),
        (3, True, f"(6, {B}, {H}) = (num_layers * directions, batch, hidden_size)"),
    ],
)
@pytest.mark.parametrize("shape", [(1, B, H), (5, B, H), (2, 2, H), (B, H), (6, B, 2), (3, 2, B, H)])
def test_states_of_the_wrong_number_of_layers(backend, num_layers, bidirectional, expected, shape):
    options = {"num_layers": num_layers, "bidirectional": bidirectional, "backend": backend}
    gru, lstm = make("GRU", **options), make("LSTM", **options)
    q = problem(gru)
    wrong, right = zeros(*shape, dtype=F8), problem(lstm).h_0
    tape, pair_tape = gru.record(q.x)[2], lstm.record(q.x)[2]
    for call in (gru, gru.record, gru.freeze()):
        with raises(ValueError, f"h_0: expected shape {expected}, got {shape}"):
            call(q.x, wrong)
    with raises(ValueError, f"dh_n: expected shape {expected}, got {shape}"):
        tape.backward(q.dy, wrong)
    for call in (lstm, lstm.record, lstm.freeze()):
        with raises(ValueError, f"c_0: expected shape {expected}, got {shape}"):
            call(q.x, (right[0], wrong))
        with raises(ValueError, f"h_0: expected shape {expected}, got {shape}"):
            call(q.x, (wrong, right[1]))
    with raises(ValueError, f"dc_n: expected shape {expected}, got {shape}"):
        pair_tape.backward(None, (None, wrong))


def test_states_of_one_sequence(backend):
    layer = make("projected", num_layers=2, bidirectional=True, backend=backend)
    x = problem(layer).x[:, 0]
    state = zeros(4, 1, 2, dtype=F8), zeros(4, H, dtype=F8)
    with raises(
        ValueError, "h_0: expected shape (4, 2) = (num_layers * directions, proj_size), got (4, 1, 2)"
    ):
        layer(x, state)
    state = zeros(4, 2, dtype=F8), zeros(4, 2, dtype=F8)
    with raises(
        ValueError, f"c_0: expected shape (4, {H}) = (num_layers * directions, hidden_size), got (4, 2)"
    ):
        layer(x, state)


@pytest.mark.parametrize(
    ("kind", "bidirectional", "expected"),
    [
        ("RNN", True, f"({T}, {B}, {2 * H}) = (time, batch, 2 * hidden_size)"),
        ("projected", False, f"({T}, {B}, 2) = (time, batch, proj_size)"),
        ("projected", True, f"({T}, {B}, 4) = (time, batch, 2 * proj_size)"),
    ],
)
def test_dy(backend, kind, bidirectional, expected):
    layer = make(kind, num_layers=2, bidirectional=bidirectional, backend=backend)
    tape = layer.record(problem(layer).x)[2]
    with raises(ValueError, f"dy: expected shape {expected}, got ({T}, {B}, {H + 1})"):
        tape.backward(zeros(T, B, H + 1, dtype=F8))
    with raises(
        TypeError, "dy: expected float64 (the layer's dtype), got float32; write dy.astype(np.float64)"
    ):
        tape.backward(zeros(*tape.y.shape))


# ------------------------------------------------------------------------------------- depth


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_depth_is_refused_in_two_directions(kind):
    layer = make(kind, bidirectional=True, backend="reference")
    q = problem(layer)
    tape = layer.record(q.x, q.h_0)[2]
    with raises(
        ValueError,
        "depth: expected None for a bidirectional layer, whose steps feel the losses before them too, got 3",
    ):
        tape.backward(q.dy, depth=3)
    with raises(ValueError, "depth: expected an integer of at least 1, got 0"):
        tape.backward(q.dy, depth=0)
    assert tape.backward(q.dy).x.shape == q.x.shape


# ------------------------------------------------------------------------------------- parameters


def test_load_state_dict(backend):
    layer = make("projected", num_layers=2, bidirectional=True, backend=backend)
    before = layer.state_dict()
    good = {name: value + 1 for name, value in before.items()}
    names = ", ".join(before)
    reverse = "weight_hr_l1_reverse"
    wrong = [
        (
            {name: value for name, value in good.items() if name != reverse},
            ValueError,
            f"state_dict: expected the names {names}, got no {reverse}",
        ),
        (
            good | {"weight_hr_l2": zeros(2, H, dtype=F8)},
            ValueError,
            f"state_dict: expected the names {names}, got an unknown weight_hr_l2",
        ),
        (
            good | {"weight_ih_l1": zeros(4 * H, I, dtype=F8)},
            ValueError,
            f"weight_ih_l1: expected shape ({4 * H}, 4) = (4 * hidden_size, 2 * proj_size), "
            f"got ({4 * H}, {I})",
        ),
        (
            good | {reverse: zeros(H, 2, dtype=F8)},
            ValueError,
            f"{reverse}: expected shape (2, {H}) = (proj_size, hidden_size), got ({H}, 2)",
        ),
        (
            good | {"bias_hh_l0_reverse": zeros(4 * H)},
            TypeError,
            "bias_hh_l0_reverse: expected float64 (the layer's dtype), got float32; "
            "write bias_hh_l0_reverse.astype(np.float64)",
        ),
    ]
    for state, error, message in wrong:
        with raises(error, message):
            layer.load_state_dict(state)
        for name, value in layer.state_dict().items():
            assert same(value, before[name])  # all or nothing
    layer.load_state_dict(good)
    assert same(layer.parameters[reverse], good[reverse])


def test_edited_parameters(backend):
    layer = make("peepholes", num_layers=2, bidirectional=True, layer_norm=True, backend=backend)
    x = problem(layer).x
    y, _ = layer(x)
    kept = dict(layer.parameters)
    sizes = {
        "weight_ih_l0": ((4 * H, I), "(4 * hidden_size, input_size)"),
        "weight_ih_l1_reverse": ((4 * H, 4), "(4 * hidden_size, 2 * proj_size)"),
        "weight_hh_l0_reverse": ((4 * H, 2), "(4 * hidden_size, proj_size)"),
        "bias_ih_l1": ((4 * H,), "(4 * hidden_size,)"),
        "weight_ph_l1_reverse": ((3 * H,), "(3 * hidden_size,)"),
        "weight_ln_ih_l0": ((4 * H,), "(4 * hidden_size,)"),
        "weight_ln_hh_l1": ((4 * H,), "(4 * hidden_size,)"),
    }
    for name, (shape, legend) in sizes.items():
        layer.parameters[name] = zeros(1, 1, dtype=F8)
        for call in (layer, layer.record, lambda x: layer.freeze()):
            with raises(ValueError, f"{name}: expected shape {shape} = {legend}, got (1, 1)"):
                call(x)
        layer.parameters.update(kept)
    for name in kept:
        del layer.parameters[name]
        with pytest.raises(ValueError, match=f"got no {name}$"):
            layer(x)
        layer.parameters.update(kept)
    assert same(layer(x)[0], y)  # in another order


def test_a_parameter_under_anothers_name(backend):
    """The arrays of the last call under other names are other parameters."""
    layer, fresh = make("GRU", backend=backend), make("GRU", backend=backend)
    x = problem(layer).x
    y, _ = layer(x)
    p = layer.parameters
    p["bias_ih_l0"], p["bias_hh_l0"] = p["bias_hh_l0"], p["bias_ih_l0"]
    fresh.load_state_dict(layer.state_dict())
    assert same(layer(x)[0], fresh(x)[0])
    assert not same(layer(x)[0], y)
    p["weight_hh_l1"] = p.pop("bias_hh_l0")
    with pytest.raises(ValueError, match="got no bias_hh_l0 and an unknown weight_hh_l1"):
        layer(x)


# ------------------------------------------------------------------------------------- check_finite


@pytest.mark.parametrize("bidirectional", [False, True])
def test_check_finite_names_the_layer(backend, bidirectional):
    layer = make("RNN", num_layers=3, bidirectional=bidirectional, backend=backend)
    q = problem(layer)
    reverse = "_reverse" if bidirectional else ""
    layer.parameters[f"weight_hh_l1{reverse}"][...] = np.nan
    message = "y of layer 1: expected finite values, got nan at time step 0, batch row 0"
    for call in (layer, layer.record, layer.freeze()):
        with raises(FloatingPointError, message):
            call(q.x, q.h_0, check_finite=True)
    layer.parameters[f"weight_hh_l0{reverse}"][...] = np.nan
    with raises(FloatingPointError, message.replace("layer 1", "layer 0")):
        layer(q.x, q.h_0, check_finite=True)
    q.h_0[-1, 1] = np.inf
    where = f"layer 2{' reverse' if bidirectional else ''}"
    with raises(FloatingPointError, f"h_0: expected finite values, got inf at {where}, batch row 1"):
        layer(q.x, q.h_0, check_finite=True)


def test_check_finite_names_the_first_step(backend):
    """Layers from below at one step, but the earlier step first."""
    layer = bptt.RNN(1, 1, num_layers=2, nonlinearity="identity", bias=False, dtype=F8, backend=backend)
    for value in layer.parameters.values():
        value[...] = 1.0
    layer.parameters["weight_hh_l1"][...] = 1e200
    x = np.ones((5, 2, 1))
    x[:, 0] = 0.0
    x[4, 0] = np.nan
    with raises(FloatingPointError, "y: expected finite values, got inf at time step 2, batch row 1"):
        layer(x, check_finite=True)
    layer.parameters["weight_hh_l0"][...] = 1e200
    with raises(
        FloatingPointError, "y of layer 0: expected finite values, got inf at time step 2, batch row 1"
    ):
        layer(x, check_finite=True)
    x[2, 0] = -np.inf
    with raises(FloatingPointError, "x: expected finite values, got -inf at time step 2, batch row 0"):
        layer(x, check_finite=True)
    layer(x, check_finite=True, lengths=[2, 1])


def test_check_finite_in_both_directions(backend):
    """Going back, what is bad at a late step is bad at every step: the input is named."""
    layer = make("RNN", bidirectional=True, num_layers=2, backend=backend)
    q = problem(layer)
    q.x[3, 1, 0] = np.nan
    with raises(FloatingPointError, "x: expected finite values, got nan at time step 3, batch row 1"):
        layer(q.x, check_finite=True)
    layer(q.x, check_finite=True, lengths=[5, 3, 5, 5])


# ------------------------------------------------------------------------------------- the rest


@pytest.mark.parametrize("layer", [bptt.RNN, bptt.LSTM, bptt.GRU])
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_layers": 0}, ValueError, "num_layers: expected an integer of at least 1, got 0"),
        ({"num_layers": 1.0}, TypeError, "num_layers: expected an integer of at least 1, got 1.0"),
        ({"num_layers": True}, TypeError, "num_layers: expected an integer of at least 1, got True"),
        ({"bidirectional": 1}, TypeError, "bidirectional: expected True or False, got 1"),
        ({"layer_norm": "yes"}, TypeError, "layer_norm: expected True or False, got 'yes'"),
        ({"dtype": np.float16}, TypeError, "dtype: expected float32 or float64, got float16"),
        ({"backend": "gpu"}, ValueError, "backend: expected one of 'kernels', 'reference', got 'gpu'"),
        ({"seed": -1}, ValueError, "seed: expected an integer of at least 0, got -1"),
    ],
)
def test_options(layer, options, error, message):
    with raises(error, message):
        layer(2, 3, **{"backend": "reference", **options})


def test_x_of_a_stack(backend):
    layer = make("LSTM", num_layers=2, bidirectional=True, backend=backend)
    legend = f"(T, B, {I}) = (time, batch, input_size), or (T, {I}) unbatched"
    with raises(ValueError, f"x: expected shape {legend}, got (5, 3, {2 * H})"):
        layer(zeros(5, 3, 2 * H, dtype=F8))
    with raises(
        TypeError, "x: expected float64 (the layer's dtype), got float32; write x.astype(np.float64)"
    ):
        layer(zeros(5, 3, I, dtype=F4))

"""Every error of threads, backward, the readout and parameters: its type and its whole sentence."""

from __future__ import annotations

import copy
import os
import subprocess
import sys

import numpy as np
import pytest
from errors import F8, raises, zeros

import bptt
from bptt import checks


@pytest.fixture
def rnn(backend):
    return bptt.RNN(28, 8, seed=0, backend=backend)


@pytest.fixture
def turned(backend):
    return bptt.RNN(28, 8, seed=0, backend=backend, batch_first=True)


@pytest.fixture
def readout(backend):
    return bptt.Linear(8, 3, seed=0, backend=backend)


# ------------------------------------------------------------------------------------- threads


@pytest.mark.parametrize(
    ("threads", "error"),
    [(0, ValueError), (-1, ValueError), (1.5, TypeError), ("2", TypeError), (True, TypeError)],
)
def test_threads(rnn, readout, threads, error):
    message = f"threads: expected an integer of at least 1, got {threads!r}"
    y, _, tape = rnn.record(zeros(5, 3, 28))
    for call in (
        lambda: rnn(zeros(5, 3, 28), threads=threads),
        lambda: rnn.record(zeros(5, 3, 28), threads=threads),
        lambda: tape.backward(y, threads=threads),
        lambda: readout(y, threads=threads),
        lambda: readout.backward(y, readout(y), threads=threads),
    ):
        with raises(error, message):
            call()


@pytest.fixture
def fresh_default(monkeypatch):
    """Let the default thread count be found out anew, now and after the test."""
    checks.default_threads.cache_clear()
    yield monkeypatch
    checks.default_threads.cache_clear()


@pytest.mark.parametrize("given", ["0", "-2", "two", "1.5", "²", "2 3"])
def test_bad_environment_variable(fresh_default, rnn, given):
    fresh_default.setenv("BPTT_NUM_THREADS", given)
    with raises(ValueError, f"BPTT_NUM_THREADS: expected an integer of at least 1, got {given!r}"):
        rnn(zeros(5, 3, 28))
    assert rnn(zeros(5, 3, 28), threads=1)[0].shape == (5, 3, 8)


def test_environment_variable(fresh_default):
    fresh_default.setenv("BPTT_NUM_THREADS", " 3 ")
    assert checks.resolve_threads(None) == 3
    assert checks.resolve_threads(np.int32(2)) == 2


@pytest.mark.parametrize("given", [None, ""])
def test_default_is_the_usable_cores(fresh_default, given):
    if given is None:
        fresh_default.delenv("BPTT_NUM_THREADS", raising=False)
    else:
        fresh_default.setenv("BPTT_NUM_THREADS", given)
    fresh_default.setattr("os.sched_getaffinity", lambda pid: {0, 1, 2, 5, 7}, raising=False)
    assert checks.resolve_threads(None) == 5
    checks.default_threads.cache_clear()
    fresh_default.delattr("os.sched_getaffinity")
    fresh_default.setattr("os.cpu_count", lambda: 6)
    assert checks.resolve_threads(None) == 6
    checks.default_threads.cache_clear()
    fresh_default.setattr("os.cpu_count", lambda: None)
    assert checks.resolve_threads(None) == 1


@pytest.mark.parametrize("threads", [1025, 2**31, 10**30])
def test_threads_without_number_are_as_many_as_some(fresh_default, rnn, threads):
    assert checks.resolve_threads(1024) == 1024
    assert checks.resolve_threads(threads) == 1024
    fresh_default.setenv("BPTT_NUM_THREADS", str(threads))
    assert checks.resolve_threads(None) == 1024
    y, _, tape = rnn.record(zeros(5, 3, 28), threads=threads)  # too little work to start so many
    tape.backward(y, threads=threads)


def test_a_bad_environment_variable_does_not_stop_the_import():
    code = "import bptt; print(bptt.RNN(2, 3, backend='reference'))"
    env = {**os.environ, "BPTT_NUM_THREADS": "many"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    assert done.stdout.startswith("RNN(2, 3")


# ------------------------------------------------------------------------------------- backward


@pytest.fixture
def tape(rnn):
    return rnn.record(zeros(5, 3, 28))[2]


def test_backward_of_nothing(tape):
    with raises(ValueError, "backward: expected dy, dh_n or both, got neither"):
        tape.backward()


@pytest.mark.parametrize("shape", [(5, 3, 7), (3, 5, 8), (5, 8), (3, 8), ()])
def test_dy_shape(tape, shape):
    with raises(ValueError, f"dy: expected shape (5, 3, 8) = (time, batch, hidden_size), got {shape}"):
        tape.backward(zeros(*shape))


def test_dy_shape_in_other_layouts(rnn, turned):
    with raises(ValueError, "dy: expected shape (3, 5, 8) = (batch, time, hidden_size), got (5, 3, 8)"):
        turned.record(zeros(3, 5, 28))[2].backward(zeros(5, 3, 8))
    with raises(ValueError, "dy: expected shape (5, 8) = (time, hidden_size), got (5, 1, 8)"):
        rnn.record(zeros(5, 28))[2].backward(zeros(5, 1, 8))


@pytest.mark.parametrize("shape", [(3, 8), (1, 3, 7), (5, 3, 8)])
def test_dh_n_shape(tape, shape):
    with raises(
        ValueError, f"dh_n: expected shape (1, 3, 8) = (num_layers, batch, hidden_size), got {shape}"
    ):
        tape.backward(None, zeros(*shape))


def test_dh_n_shape_unbatched(rnn):
    with raises(ValueError, "dh_n: expected shape (1, 8) = (num_layers, hidden_size), got (1, 1, 8)"):
        rnn.record(zeros(5, 28))[2].backward(None, zeros(1, 1, 8))


def test_gradient_dtypes(tape):
    with raises(
        TypeError, "dy: expected float32 (the layer's dtype), got float64; write dy.astype(np.float32)"
    ):
        tape.backward(zeros(5, 3, 8, dtype=F8))
    with raises(
        TypeError, "dh_n: expected float32 (the layer's dtype), got int32; write dh_n.astype(np.float32)"
    ):
        tape.backward(zeros(5, 3, 8), zeros(1, 3, 8, dtype=np.int32))


@pytest.mark.parametrize(
    ("depth", "error"),
    [(0, ValueError), (-1, ValueError), (2.0, TypeError), (False, TypeError), ("all", TypeError)],
)
def test_depth(tape, depth, error):
    with raises(error, f"depth: expected an integer of at least 1, got {depth!r}"):
        tape.backward(zeros(5, 3, 8), depth=depth)


# ------------------------------------------------------------------------------------- readout


@pytest.mark.parametrize("shape", [(5, 3, 7), (), (8, 5)])
def test_h_shape(readout, shape):
    message = f"h: expected shape (..., 8) = (..., in_features), got {shape}"
    with raises(ValueError, message):
        readout(zeros(*shape))
    with raises(ValueError, message):
        readout.backward(zeros(*shape), zeros(5, 3, 3))


def test_h_dtype(readout):
    message = "h: expected float32 (the layer's dtype), got float64; write h.astype(np.float32)"
    with raises(TypeError, message):
        readout(zeros(5, 8, dtype=F8))
    with raises(TypeError, message):
        readout.backward(zeros(5, 8, dtype=F8), zeros(5, 3))


def test_ds(readout):
    with raises(
        ValueError,
        "ds: expected shape (5, 2, 3) = (..., out_features) with the leading axes of h, got (10, 3)",
    ):
        readout.backward(zeros(5, 2, 8), zeros(10, 3))
    with raises(
        TypeError, "ds: expected float32 (the layer's dtype), got float64; write ds.astype(np.float32)"
    ):
        readout.backward(zeros(5, 2, 8), zeros(5, 2, 3, dtype=F8))


# ------------------------------------------------------------------------------------- parameters


def test_edited_parameters(rnn):
    rnn, x = copy.deepcopy(rnn), zeros(5, 3, 28)
    rnn(x)
    kept = dict(rnn.parameters)

    rnn.parameters["weight_ih_l0"] = zeros(28, 8)
    with raises(ValueError, "weight_ih_l0: expected shape (8, 28) = (hidden_size, input_size), got (28, 8)"):
        rnn(x)
    rnn.parameters |= kept
    rnn.parameters["weight_hh_l0"] = zeros(8, 8, dtype=F8)
    with raises(
        TypeError,
        "weight_hh_l0: expected float32 (the layer's dtype), got float64; "
        "write weight_hh_l0.astype(np.float32)",
    ):
        rnn(x)
    rnn.parameters.update(kept)
    rnn.parameters["bias_ih_l0"] = zeros(1, 8)
    with raises(ValueError, "bias_ih_l0: expected shape (8,) = (hidden_size,), got (1, 8)"):
        rnn(x)
    rnn.parameters.update(kept)
    names = "weight_ih_l0, weight_hh_l0, bias_ih_l0, bias_hh_l0"
    rnn.parameters["weight_hh_10"] = zeros(8, 8)
    with raises(ValueError, f"parameters: expected the names {names}, got an unknown weight_hh_10"):
        rnn(x)
    del rnn.parameters["weight_hh_10"], rnn.parameters["bias_hh_l0"]
    with raises(ValueError, f"parameters: expected the names {names}, got no bias_hh_l0"):
        rnn.record(x)
    rnn.parameters.update(kept)
    assert rnn(x)[0].shape == (5, 3, 8)


def test_edited_parameters_of_a_readout(readout):
    readout, h = copy.deepcopy(readout), zeros(5, 8)
    readout(h)
    readout.parameters["weight"] = zeros(8, 3)
    with raises(ValueError, "weight: expected shape (3, 8) = (out_features, in_features), got (8, 3)"):
        readout(h)
    readout.parameters["weight"] = zeros(3, 8)
    readout.parameters["bias"] = zeros(8)
    with raises(ValueError, "bias: expected shape (3,) = (out_features,), got (8,)"):
        readout(h)


def test_load_state_dict(rnn):
    rnn = copy.deepcopy(rnn)
    before = rnn.state_dict()
    names = "weight_ih_l0, weight_hh_l0, bias_ih_l0, bias_hh_l0"
    good = {name: value + 1 for name, value in before.items()}
    missing = {name: value for name, value in good.items() if not name.startswith("bias")}
    for state, error, message in [
        (missing, ValueError, f"state_dict: expected the names {names}, got no bias_ih_l0 and no bias_hh_l0"),
        (
            {**missing, "bias_ih_l0": zeros(8), "bias": zeros(8)},
            ValueError,
            f"state_dict: expected the names {names}, got no bias_hh_l0 and an unknown bias",
        ),
        ({**good, 7: zeros(8)}, ValueError, f"state_dict: expected the names {names}, got an unknown 7"),
        (
            {**good, "bias_hh_l0": zeros(9)},
            ValueError,
            "bias_hh_l0: expected shape (8,) = (hidden_size,), got (9,)",
        ),
        (
            {**good, "bias_hh_l0": zeros(8, dtype=F8)},
            TypeError,
            "bias_hh_l0: expected float32 (the layer's dtype), got float64; "
            "write bias_hh_l0.astype(np.float32)",
        ),
        ([1, 2], TypeError, "state_dict: expected a dict from name to array, got list"),
    ]:
        with raises(error, message):
            rnn.load_state_dict(state)
        for name, value in rnn.state_dict().items():
            np.testing.assert_array_equal(value, before[name])  # all or nothing
    rnn.load_state_dict(good)
    np.testing.assert_array_equal(rnn.parameters["bias_hh_l0"], before["bias_hh_l0"] + 1)

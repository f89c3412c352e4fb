"""Every error of constructors and forward calls: its type and its whole sentence."""

from __future__ import annotations

import numpy as np
import pytest
from errors import F4, F8, raises, zeros

import bptt


@pytest.fixture
def rnn(backend):
    return bptt.RNN(28, 8, seed=0, backend=backend)


@pytest.fixture
def turned(backend):
    return bptt.RNN(28, 8, seed=0, backend=backend, batch_first=True)


# ------------------------------------------------------------------------------------- constructors


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"input_size": 0}, ValueError, "input_size: expected an integer of at least 1, got 0"),
        ({"hidden_size": -3}, ValueError, "hidden_size: expected an integer of at least 1, got -3"),
        ({"hidden_size": 2.0}, TypeError, "hidden_size: expected an integer of at least 1, got 2.0"),
        ({"hidden_size": "8"}, TypeError, "hidden_size: expected an integer of at least 1, got '8'"),
        ({"hidden_size": True}, TypeError, "hidden_size: expected an integer of at least 1, got True"),
        ({"input_size": None}, TypeError, "input_size: expected an integer of at least 1, got None"),
        (
            {"nonlinearity": "gelu"},
            ValueError,
            "nonlinearity: expected one of 'tanh', 'relu', 'sigmoid', 'identity', got 'gelu'",
        ),
        (
            {"nonlinearity": np.tanh},
            ValueError,
            "nonlinearity: expected one of 'tanh', 'relu', 'sigmoid', 'identity', got <ufunc 'tanh'>",
        ),
        (
            {"init": "zeros"},
            ValueError,
            "init: expected one of 'uniform', 'orthogonal', 'identity', got 'zeros'",
        ),
        ({"backend": "cuda"}, ValueError, "backend: expected one of 'kernels', 'reference', got 'cuda'"),
        ({"bias": 1}, TypeError, "bias: expected True or False, got 1"),
        ({"batch_first": None}, TypeError, "batch_first: expected True or False, got None"),
        ({"dtype": np.float16}, TypeError, "dtype: expected float32 or float64, got float16"),
        ({"dtype": ">f4"}, TypeError, "dtype: expected float32 or float64, got >f4"),
        ({"dtype": int}, TypeError, "dtype: expected float32 or float64, got int64"),
        ({"dtype": None}, TypeError, "dtype: expected float32 or float64, got None"),
        (
            {"dtype": "single precision"},
            TypeError,
            "dtype: expected float32 or float64, got single precision",
        ),
        ({"seed": -1}, ValueError, "seed: expected an integer of at least 0, got -1"),
        ({"seed": 0.5}, TypeError, "seed: expected an integer of at least 0, got 0.5"),
    ],
)
def test_rnn_options(options, error, message):
    with raises(error, message):
        bptt.RNN(**{"input_size": 2, "hidden_size": 3, "backend": "reference", **options})


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"in_features": 0}, ValueError, "in_features: expected an integer of at least 1, got 0"),
        ({"out_features": False}, TypeError, "out_features: expected an integer of at least 1, got False"),
        ({"bias": "yes"}, TypeError, "bias: expected True or False, got 'yes'"),
        ({"dtype": complex}, TypeError, "dtype: expected float32 or float64, got complex128"),
        ({"seed": "x"}, TypeError, "seed: expected an integer of at least 0, got 'x'"),
        ({"backend": "numpy"}, ValueError, "backend: expected one of 'kernels', 'reference', got 'numpy'"),
    ],
)
def test_linear_options(options, error, message):
    with raises(error, message):
        bptt.Linear(**{"in_features": 2, "out_features": 3, "backend": "reference", **options})


def test_options_that_do_not_exist_are_refused():
    for layer, option in [(bptt.RNN, "proj_size"), (bptt.GRU, "peepholes"), (bptt.LSTM, "nonlinearity")]:
        with pytest.raises(TypeError, match=f"unexpected keyword argument '{option}'"):
            layer(2, 3, **{option: 0})


# ------------------------------------------------------------------------------------- x


def both_calls(rnn, x, h_0=None, **options):
    yield lambda: rnn(x, h_0, **options)
    yield lambda: rnn.record(x, h_0, **options)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (
            zeros(5, 3, 27),
            "x: expected shape (T, B, 28) = (time, batch, input_size), or (T, 28) unbatched, got (5, 3, 27)",
        ),
        (
            zeros(28),
            "x: expected shape (T, B, 28) = (time, batch, input_size), or (T, 28) unbatched, got (28,)",
        ),
        (
            zeros(1, 5, 3, 28),
            "x: expected shape (T, B, 28) = (time, batch, input_size), or (T, 28) unbatched, "
            "got (1, 5, 3, 28)",
        ),
        (
            np.float32(1),
            "x: expected shape (T, B, 28) = (time, batch, input_size), or (T, 28) unbatched, got ()",
        ),
    ],
)
def test_x_shape(rnn, x, message):
    for call in both_calls(rnn, x):
        with raises(ValueError, message):
            call()


def test_x_shape_batch_first(turned):
    with raises(
        ValueError,
        "x: expected shape (B, T, 28) = (batch, time, input_size), or (T, 28) unbatched, got (5, 3, 27)",
    ):
        turned(zeros(5, 3, 27))
    with raises(
        ValueError,
        "x: expected integer token ids of shape (B, T) = (batch, time), or (T,) unbatched, got (5, 3, 28); "
        "write x.astype(np.float32) if these are features",
    ):
        turned(zeros(5, 3, 28, dtype=np.int64))


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (
            zeros(5, 3, 28, dtype=F8),
            "x: expected float32 (the layer's dtype), got float64; write x.astype(np.float32)",
        ),
        (
            zeros(5, 3, 28, dtype=np.float16),
            "x: expected float32 (the layer's dtype), got float16; write x.astype(np.float32)",
        ),
        (
            zeros(5, 3, 28, dtype=bool),
            "x: expected float32 (the layer's dtype), got bool; write x.astype(np.float32)",
        ),
        (zeros(5, 3, 28, dtype=complex), "x: expected float32 (the layer's dtype), got complex128"),
        (zeros(5, 3, 28, dtype=object), "x: expected float32 (the layer's dtype), got object"),
        (
            [[0.0] * 28],
            "x: expected float32 (the layer's dtype), got float64; write np.asarray(x, np.float32)",
        ),
        (None, "x: expected float32 (the layer's dtype), got object"),
        ("hello", "x: expected float32 (the layer's dtype), got <U5"),
    ],
)
def test_x_dtype(rnn, x, message):
    for call in both_calls(rnn, x):
        with raises(TypeError, message):
            call()


def test_x_dtype_of_a_float64_layer(backend):
    rnn = bptt.RNN(28, 8, dtype=F8, backend=backend)
    with raises(
        TypeError, "x: expected float64 (the layer's dtype), got float32; write x.astype(np.float64)"
    ):
        rnn(zeros(5, 3, 28))
    assert rnn([[0.0] * 28])[0].shape == (1, 8)  # a list of floats is float64


def test_x_ragged(rnn):
    with raises(ValueError, "x: expected an array, got a list of unequal rows"):
        rnn([[1.0, 2.0], [3.0]])


@pytest.mark.parametrize(
    ("dtype", "bad", "shown"),
    [
        (np.int64, 28, "28"),
        (np.int64, -1, "-1"),
        (np.int8, -128, "-128"),
        (np.uint8, 255, "255"),
        (np.uint64, 2**64 - 1, "18446744073709551615"),  # -1 if it were cast first
        (np.int64, -(2**63), "-9223372036854775808"),
    ],
)
def test_token_range(rnn, turned, dtype, bad, shown):
    ids = zeros(5, 3, dtype=dtype)
    ids[3, 1] = ids[4, 0] = bad
    for call in both_calls(rnn, ids):
        with raises(ValueError, f"x: expected token ids in [0, 28), got {shown} at time step 3, batch row 1"):
            call()
    with raises(ValueError, f"x: expected token ids in [0, 28), got {shown} at time step 3, batch row 1"):
        turned(ids.T)
    with raises(ValueError, f"x: expected token ids in [0, 28), got {shown} at time step 3"):
        rnn(ids[:, 1])


@pytest.mark.parametrize("shape", [(), (5, 3, 28)])
def test_token_shape(rnn, shape):
    with raises(
        ValueError,
        f"x: expected integer token ids of shape (T, B) = (time, batch), or (T,) unbatched, got {shape}; "
        "write x.astype(np.float32) if these are features",
    ):
        rnn(np.zeros(shape, np.int64))


# ------------------------------------------------------------------------------------- h_0


@pytest.mark.parametrize("shape", [(2, 8), (3, 8), (1, 3, 7), (2, 3, 8), (1, 2, 8), (8,), (1, 1, 3, 8)])
def test_h_0_shape(rnn, turned, shape):
    message = f"h_0: expected shape (1, 3, 8) = (num_layers, batch, hidden_size), got {shape}"
    for call in both_calls(rnn, zeros(5, 3, 28), zeros(*shape)):
        with raises(ValueError, message):
            call()
    with raises(ValueError, message):
        turned(zeros(3, 5, 28), zeros(*shape))
    with raises(ValueError, message):
        rnn(zeros(5, 3, dtype=np.int32), zeros(*shape))


def test_h_0_shape_unbatched(rnn):
    with raises(ValueError, "h_0: expected shape (1, 8) = (num_layers, hidden_size), got (1, 1, 8)"):
        rnn(zeros(5, 28), zeros(1, 1, 8))


def test_h_0_dtype(rnn):
    with raises(
        TypeError, "h_0: expected float32 (the layer's dtype), got float64; write h_0.astype(np.float32)"
    ):
        rnn(zeros(5, 3, 28), zeros(1, 3, 8, dtype=F8))
    with raises(
        TypeError, "h_0: expected float32 (the layer's dtype), got int64; write h_0.astype(np.float32)"
    ):
        rnn(zeros(5, 3, 28), zeros(1, 3, 8, dtype=np.int64))


# ------------------------------------------------------------------------------------- check_finite


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_check_finite_names_the_first_bad_step(rnn, turned, value):
    x = zeros(5, 3, 28)
    x[3, 1, 4] = x[3, 2, 0] = x[4, 0, 0] = value
    message = f"x: expected finite values, got {value} at time step 3, batch row 1"
    for call in both_calls(rnn, x, check_finite=True):
        with raises(FloatingPointError, message):
            call()
    with raises(FloatingPointError, message):
        turned(x.swapaxes(0, 1), check_finite=True)
    with raises(FloatingPointError, f"x: expected finite values, got {value} at time step 3"):
        rnn(x[:, 1], check_finite=True)
    rnn(x)  # unchecked, it flows through


def test_check_finite_h_0(rnn):
    h_0 = zeros(1, 3, 8)
    h_0[0, 2, 5] = np.nan
    with raises(FloatingPointError, "h_0: expected finite values, got nan at batch row 2"):
        rnn(zeros(5, 3, 28), h_0, check_finite=True)
    with raises(FloatingPointError, "h_0: expected finite values, got nan"):
        rnn(zeros(5, 28), h_0[:, 2], check_finite=True)


def test_check_finite_output(backend):
    """An output that overflows at step 2 comes before an input that is bad at step 4."""
    rnn = bptt.RNN(1, 1, nonlinearity="identity", bias=False, dtype=F8, backend=backend)
    rnn.parameters["weight_ih_l0"][...] = 1.0
    rnn.parameters["weight_hh_l0"][...] = 1e200
    x = np.ones((5, 2, 1))
    x[:, 0] = 0.0
    x[4, 0] = np.nan
    with raises(FloatingPointError, "y: expected finite values, got inf at time step 2, batch row 1"):
        rnn(x, check_finite=True)


def test_check_finite_of_finite_values(rnn, backend):
    x = np.random.default_rng(0).normal(size=(5, 3, 28)).astype(F4)
    np.testing.assert_array_equal(rnn(x, check_finite=True)[0], rnn(x)[0])
    assert rnn.record(zeros(5, 3, dtype=np.int64), check_finite=True)[0].shape == (5, 3, 8)
    assert rnn(zeros(0, 3, 28), check_finite=True)[0].shape == (0, 3, 8)
    assert rnn(zeros(5, 0, 28), check_finite=True)[0].shape == (5, 0, 8)
    broken = bptt.RNN(28, 8, seed=0, backend=backend)
    broken.parameters["weight_hh_l0"][3, 3] = np.nan
    with raises(FloatingPointError, "y: expected finite values, got nan at time step 0, batch row 0"):
        broken(zeros(5, 3, dtype=np.int64), check_finite=True)

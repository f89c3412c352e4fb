"""RNN, Tape and Gradients on both backends: values, layouts, what a tape holds."""

from __future__ import annotations

from array import array

import numpy as np
import pytest
from kernel_problems import WORK_TO_SHARE
from numpy_rnn import AWKWARD, B, H, I, T, backward, close, forward, problem

import bptt

# ------------------------------------------------------------------------------------- values


@pytest.mark.parametrize("nonlinearity", ["tanh", "relu", "sigmoid", "identity"])
@pytest.mark.parametrize("bias", [True, False])
def test_forward_and_backward(backend, dtype, nonlinearity, bias):
    rnn = bptt.RNN(I, H, nonlinearity=nonlinearity, bias=bias, dtype=dtype, seed=1, backend=backend)
    x, h_0, dy, dh_n = problem(dtype)
    y, h_n = rnn(x, h_0)
    expected = forward(rnn, x, h_0[0])
    assert y.dtype == h_n.dtype == dtype
    close(y, expected)
    close(h_n, expected[-1:])

    y2, h_n2, tape = rnn.record(x, h_0)
    np.testing.assert_array_equal(y2, y)
    np.testing.assert_array_equal(h_n2, h_n)
    gradients = tape.backward(dy, dh_n)
    dx, dh_0, d = backward(rnn, x, h_0[0], dy, dh_n[0])
    close(gradients.x, dx)
    close(gradients.h_0, dh_0[np.newaxis])
    assert list(gradients.parameters) == list(rnn.parameters)
    for name, value in d.items():
        close(gradients.parameters[name], value)
        assert gradients.parameters[name].dtype == dtype


@pytest.mark.parametrize("depth", [1, 2, T, T + 1, 100])
def test_depth(backend, depth):
    rnn = bptt.RNN(I, H, dtype=np.float64, seed=2, backend=backend)
    x, h_0, dy, dh_n = problem()
    _, _, tape = rnn.record(x, h_0)
    gradients = tape.backward(dy, dh_n, depth=depth)
    dx, dh_0, d = backward(rnn, x, h_0[0], dy, dh_n[0], depth)
    close(gradients.x, dx)
    close(gradients.h_0, dh_0[np.newaxis])
    for name, value in d.items():
        close(gradients.parameters[name], value)


def test_gradient_by_central_differences(backend):
    """The NumPy lines above could share a mistake with the package; a quotient can't."""
    rnn = bptt.RNN(I, H, dtype=np.float64, seed=3, backend=backend)
    x, h_0, dy, dh_n = problem()

    def loss():
        y, h_n = rnn(x, h_0)
        return float((y * dy).sum() + (h_n * dh_n).sum())

    _, _, tape = rnn.record(x.copy(), h_0)
    gradients = tape.backward(dy, dh_n)
    wanted = {"x": (x, gradients.x), "h_0": (h_0, gradients.h_0)}
    wanted |= {name: (value, gradients.parameters[name]) for name, value in rnn.parameters.items()}
    epsilon = 1e-5
    for name, (value, gradient) in wanted.items():
        for index in [(0,) * value.ndim, tuple(n - 1 for n in value.shape)]:
            kept = value[index]
            value[index] = kept + epsilon
            above = loss()
            value[index] = kept - epsilon
            below = loss()
            value[index] = kept
            assert gradient[index] == pytest.approx((above - below) / (2 * epsilon), rel=1e-7, abs=1e-8), name


def test_only_one_of_dy_and_dh_n(backend):
    rnn = bptt.RNN(I, H, dtype=np.float64, seed=4, backend=backend)
    x, h_0, dy, dh_n = problem()
    _, _, tape = rnn.record(x, h_0)
    zero_y, zero_h = np.zeros_like(dy), np.zeros_like(dh_n)
    for alone, both in [((dy, None), (dy, zero_h)), ((None, dh_n), (zero_y, dh_n))]:
        a, b = tape.backward(*alone), tape.backward(*both)
        close(a.x, b.x)
        close(a.h_0, b.h_0)
        for name in rnn.parameters:
            close(a.parameters[name], b.parameters[name])


def test_no_h_0_means_zeros(backend):
    rnn = bptt.RNN(I, H, seed=0, backend=backend)
    x = problem(np.float32)[0]
    y, h_n = rnn(x)
    y0, h_n0 = rnn(x, np.zeros((1, B, H), np.float32))
    np.testing.assert_array_equal(y, y0)
    np.testing.assert_array_equal(h_n, h_n0)


def test_state_carries(backend, dtype):
    rnn = bptt.RNN(I, H, dtype=dtype, seed=0, backend=backend)
    x, h_0, _, _ = problem(dtype)
    whole, last = rnn(x, h_0)
    first, h = rnn(x[:2], h_0)
    second, h = rnn(x[2:], h)
    if backend == "reference" and dtype == np.float32:
        # It computes in float64 and rounds a call's results, so that a cut rounds once more.
        close(np.concatenate([first, second]), whole)
        close(h, last)
    else:
        np.testing.assert_array_equal(np.concatenate([first, second]), whole)
        np.testing.assert_array_equal(h, last)


# ------------------------------------------------------------------------------------- layouts


def test_batch_first(backend):
    rnn = bptt.RNN(I, H, dtype=np.float64, seed=5, backend=backend)
    turned = bptt.RNN(I, H, dtype=np.float64, seed=5, backend=backend, batch_first=True)
    x, h_0, dy, dh_n = problem()
    y, h_n, tape = rnn.record(x, h_0)
    x_turned = np.ascontiguousarray(x.swapaxes(0, 1))
    y2, h_n2, tape2 = turned.record(x_turned, h_0)
    assert y2.shape == (B, T, H)
    np.testing.assert_array_equal(y2, y.swapaxes(0, 1))
    np.testing.assert_array_equal(turned(x_turned, h_0)[0], y2)
    np.testing.assert_array_equal(h_n2, h_n)
    a, b = tape.backward(dy, dh_n), tape2.backward(np.ascontiguousarray(dy.swapaxes(0, 1)), dh_n)
    np.testing.assert_array_equal(b.x, a.x.swapaxes(0, 1))
    np.testing.assert_array_equal(b.h_0, a.h_0)
    for name in rnn.parameters:
        np.testing.assert_array_equal(b.parameters[name], a.parameters[name])
    np.testing.assert_array_equal(tape2.x, x_turned)
    np.testing.assert_array_equal(tape2.y, y2)


@pytest.mark.parametrize("batch_first", [False, True])
def test_unbatched(backend, batch_first):
    rnn = bptt.RNN(I, H, dtype=np.float64, seed=5, backend=backend, batch_first=batch_first)
    plain = bptt.RNN(I, H, dtype=np.float64, seed=5, backend=backend)
    x, h_0, dy, dh_n = problem(batch=1)
    y, h_n, tape = plain.record(x, h_0)
    a = tape.backward(dy, dh_n)
    y1, h_n1, tape1 = rnn.record(x[:, 0], h_0[:, 0])
    assert y1.shape == (T, H)
    assert h_n1.shape == (1, H)
    np.testing.assert_array_equal(y1, y[:, 0])
    np.testing.assert_array_equal(h_n1, h_n[:, 0])
    b = tape1.backward(dy[:, 0], dh_n[:, 0])
    np.testing.assert_array_equal(b.x, a.x[:, 0])
    np.testing.assert_array_equal(b.h_0, a.h_0[:, 0])
    np.testing.assert_array_equal(tape1.x, x[:, 0])
    np.testing.assert_array_equal(tape1.h_0, h_0[:, 0])
    np.testing.assert_array_equal(tape1.y, y1)


@pytest.mark.parametrize("integer", [np.int64, np.int8, np.uint8, np.int32, np.uint64, np.dtype(">i4")])
def test_tokens_are_one_hot_rows(backend, integer):
    rnn = bptt.RNN(6, H, dtype=np.float64, seed=6, backend=backend)
    ids = np.random.default_rng(0).integers(0, 6, (T, B))
    _, h_0, dy, dh_n = problem()
    y, h_n, tape = rnn.record(ids.astype(integer), h_0)
    expected, expected_n, onehot_tape = rnn.record(np.eye(6)[ids], h_0)
    close(y, expected)
    close(h_n, expected_n)
    a, b = tape.backward(dy, dh_n), onehot_tape.backward(dy, dh_n)
    assert a.x is None
    close(a.h_0, b.h_0)
    for name in rnn.parameters:
        close(a.parameters[name], b.parameters[name])
    np.testing.assert_array_equal(tape.x, ids)


def test_token_layouts(backend):
    rnn = bptt.RNN(6, H, seed=6, backend=backend)
    turned = bptt.RNN(6, H, seed=6, backend=backend, batch_first=True)
    ids = np.random.default_rng(0).integers(0, 6, (T, B))
    y = rnn(ids)[0]
    np.testing.assert_array_equal(turned(ids.T)[0], y.swapaxes(0, 1))
    np.testing.assert_array_equal(rnn(ids[:, 0])[0], rnn(ids[:, :1])[0][:, 0])
    np.testing.assert_array_equal(rnn(ids[:, 0].tolist())[0], rnn(ids[:, :1])[0][:, 0])


@pytest.mark.parametrize("form", AWKWARD)
def test_memory_layouts(backend, dtype, form):
    rnn = bptt.RNN(I, H, dtype=dtype, seed=1, backend=backend)
    plain = problem(dtype)
    y, h_n, tape = rnn.record(*plain[:2])
    gradients = tape.backward(*plain[2:])
    x, h_0, dy, dh_n = (AWKWARD[form](a) for a in plain)
    y2, h_n2, tape2 = rnn.record(x, h_0)
    gradients2 = tape2.backward(dy, dh_n)
    np.testing.assert_array_equal(y2, y)
    np.testing.assert_array_equal(h_n2, h_n)
    np.testing.assert_array_equal(gradients2.x, gradients.x)
    np.testing.assert_array_equal(gradients2.h_0, gradients.h_0)
    for name in rnn.parameters:
        np.testing.assert_array_equal(gradients2.parameters[name], gradients.parameters[name])
    for given, kept in zip((x, h_0, dy, dh_n), plain, strict=True):
        np.testing.assert_array_equal(given, kept)  # nobody wrote to it


@pytest.mark.parametrize("form", AWKWARD)
@pytest.mark.parametrize("ids", [False, True])
def test_the_ground_floor_gets_plain_arrays(form, ids):
    """The reference would take anything; a kernel would read the wrong memory."""
    rnn = bptt.RNN(I, H, seed=1, backend="reference")
    given = []
    unroll = rnn._unroll

    def spy(cell, x, state, weights, *rest, **options):
        given.extend([x, *state, *weights[:4]])
        return unroll(cell, x, state, weights, *rest, **options)

    rnn._unroll = spy
    x, h_0, _, _ = problem(np.float32)
    if ids:
        x = np.random.default_rng(0).integers(0, I, (T, B))
    for name, value in rnn.parameters.items():
        rnn.parameters[name] = AWKWARD[form](value)
    rnn(AWKWARD[form](x), AWKWARD[form](h_0))
    assert [a.shape for a in given] == [x.shape, (B, H), (H, I), (H, H), (H,), (H,)]
    for a in given:
        assert type(a) is np.ndarray
        assert a.flags.c_contiguous
        assert a.flags.aligned
        assert a.dtype.isnative
        assert a.dtype == (np.int64 if ids and a is given[0] else np.float32)


@pytest.mark.parametrize("form", AWKWARD)
@pytest.mark.parametrize("batch_first", [False, True])
def test_the_ground_floor_gets_plain_gradients(monkeypatch, form, batch_first):
    rnn = bptt.RNN(I, H, seed=1, batch_first=batch_first, backend="reference")
    given = []
    ground = bptt.reference.bptt

    def spy(cell, saved, dy, dfinal_state, *rest, **options):
        given.extend([dy, *dfinal_state])
        return ground(cell, saved, dy, dfinal_state, *rest, **options)

    monkeypatch.setattr(bptt.reference, "bptt", spy)
    x, h_0, dy, dh_n = problem(np.float32)
    if batch_first:
        x, dy = x.swapaxes(0, 1), dy.swapaxes(0, 1).copy()
    tape = rnn.record(x, h_0)[2]
    tape.backward(AWKWARD[form](dy), AWKWARD[form](dh_n))
    assert [a.shape for a in given] == [(T, B, H), (B, H)]
    for a in given:
        assert a.flags.c_contiguous
        assert a.flags.aligned
        assert a.dtype.isnative


@pytest.mark.parametrize(("steps", "batch"), [(0, 3), (4, 0), (0, 0)])
def test_empty(backend, steps, batch):
    rnn = bptt.RNN(I, H, seed=1, backend=backend)
    x, h_0, dy, dh_n = problem(np.float32, steps, batch)
    y, h_n, tape = rnn.record(x, h_0)
    assert y.shape == (steps, batch, H)
    if steps == 0:
        np.testing.assert_array_equal(h_n, h_0)
    assert h_n.shape == h_0.shape
    gradients = tape.backward(dy, dh_n)
    assert gradients.x.shape == x.shape
    if steps == 0:
        np.testing.assert_array_equal(gradients.h_0, dh_n)
    assert gradients.h_0.shape == h_0.shape
    for name, value in rnn.parameters.items():
        np.testing.assert_array_equal(gradients.parameters[name], np.zeros_like(value))
    assert rnn(np.zeros((steps, batch), np.int64))[0].shape == (steps, batch, H)


def test_empty_unbatched(backend):
    rnn = bptt.RNN(I, H, seed=1, backend=backend)
    y, h_n = rnn(np.zeros((0, I), np.float32))
    assert y.shape == (0, H)
    np.testing.assert_array_equal(h_n, np.zeros((1, H)))


# ------------------------------------------------------------------------------------- what a tape holds


def test_y_of_a_record_is_read_only(backend):
    rnn = bptt.RNN(I, H, seed=1, backend=backend)
    x, h_0, _, _ = problem(np.float32)
    y, h_n, tape = rnn.record(x, h_0)
    for a in (y, tape.x, tape.h_0, tape.y, *tape.parameters.values()):
        with pytest.raises(ValueError, match="read-only"):
            a[...] = 0
    assert x.flags.writeable
    h_n[...] = 0
    y, _ = rnn(x, h_0)
    y[...] = 0


def test_tape_survives_changes_of_parameters_state_and_tokens(backend):
    rnn = bptt.RNN(6, H, dtype=np.float64, seed=1, backend=backend)
    ids = np.random.default_rng(0).integers(0, 6, (T, B))
    _, h_0, dy, dh_n = problem()
    _, h_n, tape = rnn.record(ids, h_0)
    before = tape.backward(dy, dh_n)
    old = rnn.state_dict()
    ids[...] = 1_000_000  # would index far outside weight_ih
    h_0[...] = 9
    h_n[...] = 9
    for value in rnn.parameters.values():
        value[...] = 9
    after = tape.backward(dy, dh_n)
    np.testing.assert_array_equal(after.h_0, before.h_0)
    for name in rnn.parameters:
        np.testing.assert_array_equal(after.parameters[name], before.parameters[name])
        np.testing.assert_array_equal(tape.parameters[name], old[name])


def test_tape_survives_changes_of_a_buffer_of_tokens(backend):
    """What is no ndarray may share its memory with the array that is made of it."""
    rnn = bptt.RNN(6, H, seed=1, backend=backend)
    ids = array("q", [3, 0, 5])
    y, _, tape = rnn.record(ids)
    before = tape.backward(np.ones_like(y))
    ids[:] = array("q", [2, 1, 4])
    after = tape.backward(np.ones_like(y))
    np.testing.assert_array_equal(tape.x, [3, 0, 5])
    for name in rnn.parameters:
        np.testing.assert_array_equal(after.parameters[name], before.parameters[name])


def test_gradients_are_new_arrays(backend):
    rnn = bptt.RNN(I, H, seed=1, backend=backend)
    x, h_0, dy, dh_n = problem(np.float32)
    _, _, tape = rnn.record(x, h_0)
    first = tape.backward(dy, dh_n)
    kept = [first.x.copy(), first.h_0.copy(), *(v.copy() for v in first.parameters.values())]
    for value in (first.x, first.h_0, *first.parameters.values()):
        value += 1
    second = tape.backward(dy, dh_n)
    for value, expected in zip((second.x, second.h_0, *second.parameters.values()), kept, strict=True):
        np.testing.assert_array_equal(value, expected)
    assert not np.shares_memory(first.parameters["bias_ih_l0"], first.parameters["bias_hh_l0"])


@pytest.mark.kernels
def test_threads_do_not_change_a_bit(dtype):
    rnn = bptt.RNN(70, 130, dtype=dtype, seed=1)
    rng = np.random.default_rng(0)
    x, dy = (rng.normal(size=(40, 33, size)).astype(dtype) for size in (70, 130))
    assert WORK_TO_SHARE < 2 * 40 * 33 * 130 * 200
    y, _, tape = rnn.record(x, threads=1)
    gradients = tape.backward(dy, threads=1)
    y2, _, tape2 = rnn.record(x, threads=3)
    gradients2 = tape2.backward(dy, threads=3)
    np.testing.assert_array_equal(y2, y)
    np.testing.assert_array_equal(gradients2.x, gradients.x)
    for name in rnn.parameters:
        np.testing.assert_array_equal(gradients2.parameters[name], gradients.parameters[name])

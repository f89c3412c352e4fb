"""Stream of an Elman layer: the bits of one call, step by step; layouts, state, copies."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from errors import F4, F8
from kernel_problems import same
from numpy_layers import make, problem
from numpy_rnn import B, H, I, T, close, forward
from numpy_rnn import problem as layer_problem

import bptt
from bptt.checks import NONLINEARITIES

# ------------------------------------------------------------------------------------- the same bits


@pytest.mark.parametrize("tokens", [False, True])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("cell", NONLINEARITIES)
def test_steps_are_the_whole_call(backend, dtype, cell, batch, tokens):
    rnn = make("RNN", nonlinearity=cell, dtype=dtype, backend=backend)
    p = problem(rnn, 6, batch, tokens)
    y, h_n = rnn(p.x, p.h_0)
    stream = rnn.stream(batch, p.h_0)
    for t, frame in enumerate(p.x):
        y_t = stream.step(frame)
        assert same(y_t, y[t])
        assert same(stream.state, y[t][np.newaxis])
    assert same(stream.state, h_n)


@pytest.mark.kernels
@pytest.mark.parametrize("cell", NONLINEARITIES)
def test_steps_of_every_size(cell, dtype):
    # widths around the tiles and the caches of every variant, and batches around the tile's height
    for hidden in (1, 3, 8, 16, 17, 33, 48, 64, 80, 96, 130, 257, 513):
        for batch in (1, 2, 3, 4, 5, 50, 100) if hidden < 257 else (1, 3, 4):
            for tokens in (False, True):
                rnn = make("RNN", 21, hidden, nonlinearity=cell, dtype=dtype)
                p = problem(rnn, 3, batch, tokens)
                y, _ = rnn(p.x, p.h_0)
                stream = rnn.stream(batch, p.h_0)
                for t, frame in enumerate(p.x):
                    assert same(stream.step(frame), y[t]), (hidden, batch, tokens, t)


def test_a_long_stream_against_numpy(backend):
    rnn = bptt.RNN(I, H, dtype=F8, seed=1, backend=backend)
    x, h_0, _, _ = layer_problem(F8, 40)
    stream = rnn.stream(B, h_0)
    close(np.stack([stream.step(frame) for frame in x]), forward(rnn, x, h_0[0]))


@pytest.mark.kernels
def test_infinities_and_nan_go_through():
    rnn = bptt.RNN(2, 3, seed=0)
    x = np.array([[1, np.inf], [np.nan, 1], [0, 0]], F4)
    stream = rnn.stream()
    y = np.stack([stream.step(frame) for frame in x])
    assert same(y, rnn(x)[0])
    assert np.isnan(y[1:]).all()


# ------------------------------------------------------------------------------------- frames


def test_one_sequence_without_its_batch_axis(backend, dtype):
    rnn = bptt.RNN(I, H, dtype=dtype, seed=1, backend=backend)
    x, h_0, _, _ = layer_problem(dtype, batch=1)
    y, _ = rnn(x[:, 0], h_0[:, 0])
    stream = rnn.stream(h_0=h_0[:, 0])
    for t, frame in enumerate(x[:, 0]):
        y_t = stream.step(frame)
        assert y_t.shape == (H,)
        assert same(y_t, y[t])
    assert stream.state.shape == (1, 1, H)


@pytest.mark.parametrize("integer", [np.int64, np.int8, np.uint8, np.uint64, np.dtype(">i4"), int])
def test_ids_of_any_integer_type(backend, integer):
    rnn = bptt.RNN(6, H, dtype=F8, seed=6, backend=backend)
    ids = [0, 5, 3, 3]
    y, _ = rnn(np.array(ids))
    one, batch = rnn.stream(), rnn.stream(1)
    for t, token in enumerate(ids):
        single = token if integer is int else np.array(token, integer)[()]
        many = [token] if integer is int else np.array([token], integer)
        y_one, y_batch = one.step(single), batch.step(many)
        assert (y_one.shape, y_batch.shape) == ((H,), (1, H))
        assert same(y_one, y[t])
        assert same(y_batch[0], y[t])


def test_frames_of_both_kinds(backend):
    """A step is a call of the layer, which takes either."""
    rnn = bptt.RNN(6, H, dtype=F8, seed=6, backend=backend)
    rng = np.random.default_rng(0)
    numbers, ids = rng.normal(size=(2, 2, 6)), rng.integers(6, size=(2, 2))
    stream, h = rnn.stream(2), None
    for frame in (numbers[0], ids[0], ids[1], numbers[1]):
        y, h = rnn(frame[np.newaxis], h)
        assert same(stream.step(frame), y[0])


FORMS = {
    "list": list,
    "strided": lambda a: np.repeat(a, 2, axis=1)[:, ::2],
    "fortran": np.asfortranarray,
    "swapped": lambda a: a.astype(a.dtype.newbyteorder()),
    "unaligned": lambda a: np.frombuffer(b"." + a.tobytes(), a.dtype, a.size, 1).reshape(a.shape),
    "read-only": lambda a: np.frombuffer(a.tobytes(), a.dtype).reshape(a.shape),
    "subclass": lambda a: a.view(np.recarray),
}


@pytest.mark.parametrize("form", FORMS)
def test_memory_layouts_of_a_frame(backend, dtype, form):
    rnn = bptt.RNN(I, H, dtype=dtype, seed=1, backend=backend)
    x, h_0, _, _ = layer_problem(dtype)
    stream = rnn.stream(B, h_0)
    y, _ = rnn(x, h_0)
    for t, frame in enumerate(x):
        result = stream.step(FORMS[form](frame))
        assert type(result) is np.ndarray
        assert same(result, y[t])


# ------------------------------------------------------------------------------------- out


def test_out(backend, dtype):
    rnn = bptt.RNN(I, H, dtype=dtype, seed=1, backend=backend)
    x, h_0, _, _ = layer_problem(dtype)
    y, _ = rnn(x, h_0)
    stream, out = rnn.stream(B, h_0), np.full((B, H), np.nan, dtype)
    for t, frame in enumerate(x):
        assert stream.step(frame, out) is out
        assert same(out, y[t])
    rows, stream = np.full((T, B, H), np.nan, dtype), rnn.stream(B, h_0)
    for frame, row in zip(x, rows, strict=True):
        stream.step(frame, out=row)
    assert same(rows, y)


def test_out_without_a_batch_axis(backend):
    rnn = bptt.RNN(5, H, dtype=F8, seed=1, backend=backend)
    stream, plain, out = rnn.stream(), rnn.stream(), np.empty(H)
    for frame in (np.arange(5.0), np.arange(5.0), 3, 2):
        assert stream.step(frame, out=out) is out
        assert same(out, plain.step(frame))


@pytest.mark.parametrize("shift", [0, 1, -1])
def test_out_may_share_memory_with_x(backend, dtype, shift):
    rnn = bptt.RNN(40, 40, dtype=dtype, seed=1, backend=backend)
    memory = np.random.default_rng(2).normal(size=(4, 40)).astype(dtype)
    plain, stream = rnn.stream(2), rnn.stream(2)
    for _ in range(2):  # the first step is another one than those that follow
        expected = plain.step(memory[1:3].copy())
        out = memory[1 + shift : 3 + shift]
        stream.step(memory[1:3], out=out)
        assert same(out, expected)
        assert same(stream.state, plain.state)


def test_out_as_a_subclass_and_unaligned(backend, tmp_path):
    rnn = bptt.RNN(I, H, dtype=F8, seed=1, backend=backend)
    x, h_0, _, _ = layer_problem(F8)
    expected, _ = rnn(x, h_0)
    mapped = np.memmap(tmp_path / "y", F8, "w+", shape=(B, H))
    unaligned = np.frombuffer(bytearray(B * H * 8 + 1), F8, B * H, 1).reshape(B, H)
    for out in (mapped, unaligned):
        stream = rnn.stream(B, h_0)
        for t in range(2):
            assert stream.step(x[t], out=out) is out
            assert same(np.asarray(out), expected[t])


def test_results_are_new_arrays(backend):
    rnn = bptt.RNN(I, H, seed=1, backend=backend)
    x = layer_problem(F4)[0]
    stream, twin = rnn.stream(B), rnn.stream(B)
    first = stream.step(x[0])
    kept = first.copy()
    stream.step(x[1])
    assert same(first, kept)
    state = stream.state
    first[...] = 9
    state[...] = 9  # neither is the stream's own
    twin.step(x[0])
    twin.step(x[1])
    assert same(stream.step(x[2]), twin.step(x[2]))


# ------------------------------------------------------------------------------------- state and snapshot


def test_reset_and_state(backend, dtype):
    rnn = bptt.RNN(I, H, dtype=dtype, seed=1, backend=backend)
    x, h_0, _, _ = layer_problem(dtype)
    stream = rnn.stream(B, h_0)
    assert same(stream.state, h_0)  # before the first step
    expected, _ = rnn(x[:1], h_0)
    h_0[...] = 0  # it was copied
    assert same(stream.step(x[0]), expected[0])
    stream.reset()
    assert same(stream.state, np.zeros((1, B, H), dtype))
    assert same(stream.step(x[0]), rnn(x)[0][0])
    middle = stream.state
    y1 = stream.step(x[1])
    expected = rnn(x[1:2], middle)[0][0]
    if backend == "kernels" or dtype == F8:  # else a state is rounded when it comes out
        assert same(y1, expected)
    stream.state = middle
    assert same(stream.step(x[1]), expected)
    stream.reset(middle.tolist() if dtype == F8 else middle)
    assert same(stream.step(x[1]), expected)


def test_a_stream_works_from_a_snapshot(backend):
    rnn = bptt.RNN(I, H, seed=1, backend=backend)
    x = layer_problem(F4)[0]
    before = rnn(x)[0]
    started, fresh = rnn.stream(B), rnn.stream(B)
    assert same(started.step(x[0]), before[0])
    rnn.parameters["weight_hh_l0"][...] = 0
    rnn.parameters["bias_ih_l0"] = np.ones(H, F4)
    for t in range(1, T):
        assert same(started.step(x[t]), before[t])
    assert same(np.stack([fresh.step(frame) for frame in x]), before)
    assert not same(rnn.stream(B).step(x[0]), before[0])


def pickled(stream):
    return pickle.loads(pickle.dumps(stream))


@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickled])
def test_copies_go_on_by_themselves(backend, steps, duplicate):
    rnn = bptt.RNN(I, H, dtype=F8, seed=1, backend=backend)
    x, h_0, _, _ = layer_problem(F8)
    stream = rnn.stream(B, h_0)
    for frame in x[:steps]:
        stream.step(frame)
    twin = duplicate(stream)
    stream.step(x[3])  # does not reach the twin
    assert same(np.stack([twin.step(frame) for frame in x[steps:]]), rnn(x, h_0)[0][steps:])
    assert repr(twin) == repr(stream)
    assert (twin.rnn is stream.rnn) == (duplicate is not pickled)


def test_repr():
    rnn = bptt.RNN(3, 4, seed=0, backend="reference")
    stream = rnn.stream(2)
    assert repr(stream) == f"Stream({rnn.freeze()!r}, batch_size=2)"
    assert stream.batch_size == 2
    with pytest.raises(AttributeError):
        stream.batch_size = 3

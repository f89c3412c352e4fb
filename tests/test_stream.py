"""Stream: the bits of one call of the layer, step by step; layouts, state, errors, memory, threads."""

from __future__ import annotations

import copy
import gc
import pickle
import threading
import time
import tracemalloc

import numpy as np
import pytest
from errors import F4, F8, raises, zeros
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_problems import problem, same
from numpy_rnn import B, H, I, T, close, forward
from numpy_rnn import problem as layer_problem

import bptt
from bptt import kernels, reference


def layer(p, backend="kernels"):
    """Make the RNN of a problem of kernel_problems."""
    hidden, features = p.weights.weight_ih.shape
    rnn = bptt.RNN(features, hidden, nonlinearity=p.cell, dtype=p.h_0.dtype, backend=backend)
    for value, given_ in zip(rnn.parameters.values(), p.weights, strict=True):
        value[...] = given_
    return rnn


# ------------------------------------------------------------------------------------- the same bits


@pytest.mark.parametrize("tokens", [False, True])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("cell", kernels.CELLS)
def test_steps_are_the_whole_call(backend, dtype, cell, batch, tokens):
    p = problem(6, batch, 4, 5, cell=cell, dtype=dtype, tokens=tokens)
    rnn = layer(p, backend)
    y, h_n = rnn(p.x, p.h_0[np.newaxis])
    stream = rnn.stream(batch, p.h_0[np.newaxis])
    for t, frame in enumerate(p.x):
        y_t = stream.step(frame)
        assert same(y_t, y[t])
        assert same(stream.state, y[t][np.newaxis])
    assert same(stream.state, h_n)


@pytest.mark.kernels
@pytest.mark.parametrize("cell", kernels.CELLS)
def test_steps_of_every_size(cell, dtype):
    # widths around the tiles and the caches of every variant, and batches around the tile's height
    for hidden in (1, 3, 8, 16, 17, 33, 48, 64, 80, 96, 130, 257, 513):
        for batch in (1, 2, 3, 4, 5, 50, 100) if hidden < 257 else (1, 3, 4):
            for tokens in (False, True):
                p = problem(3, batch, 21, hidden, cell=cell, dtype=dtype, tokens=tokens)
                rnn = layer(p)
                y, _ = rnn(p.x, p.h_0[np.newaxis])
                stream = rnn.stream(batch, p.h_0[np.newaxis])
                for t, frame in enumerate(p.x):
                    assert same(stream.step(frame), y[t]), (hidden, batch, tokens, t)


@pytest.mark.kernels
@settings(max_examples=60)
@given(
    data=st.data(),
    dtype=st.sampled_from([F4, F8]),
    cell=st.sampled_from(kernels.CELLS),
    size=st.sampled_from([1, 5, 16, 31, 64, 100, 150, 260]),
    steps=st.integers(1, 12),
    batch=st.sampled_from([1, 1, 2, 5]),
    tokens=st.booleans(),
)
def test_any_cut(data, dtype, cell, size, steps, batch, tokens):
    """Pieces by the layer, by its frozen copy and by a stream, in any order."""
    p = problem(steps, batch, 9, size, cell=cell, dtype=dtype, tokens=tokens)
    rnn = layer(p)
    frozen = rnn.freeze()
    whole, h_n = rnn(p.x, p.h_0[np.newaxis])
    cuts = sorted(data.draw(st.sets(st.integers(0, steps), max_size=4), label="cuts"))
    stream, h, y = frozen.stream(batch), p.h_0[np.newaxis], []
    for start, stop in zip([0, *cuts], [*cuts, steps], strict=True):
        way = data.draw(st.sampled_from(["layer", "frozen", "stream"]), label="way")
        if way == "stream":
            stream.reset(h)
            y += [stream.step(frame)[np.newaxis] for frame in p.x[start:stop]]
            h = stream.state
        else:
            piece, h = (rnn if way == "layer" else frozen)(p.x[start:stop], h)
            y.append(piece)
    assert same(np.concatenate(y), whole)
    assert same(h, h_n)


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


# ------------------------------------------------------------------------------------- errors

DTYPE = "x: expected float32 (the layer's dtype), got"
SHAPE = "(batch, input_size)"
IDS = "x: expected token ids in [0, 6), got"
FEATURES = "write x.astype(np.float32) if these are features"


@pytest.mark.parametrize(
    ("batch", "x", "error", "message"),
    [
        (2, zeros(2, 5), ValueError, f"x: expected shape (2, 6) = {SHAPE}, got (2, 5)"),
        (2, zeros(6), ValueError, f"x: expected shape (2, 6) = {SHAPE}, got (6,)"),
        (2, zeros(1, 2, 6), ValueError, f"x: expected shape (2, 6) = {SHAPE}, got (1, 2, 6)"),
        (1, zeros(5), ValueError, f"x: expected shape (1, 6) = {SHAPE}, or (6,) unbatched, got (5,)"),
        (2, zeros(2, 6, dtype=F8), TypeError, f"{DTYPE} float64; write x.astype(np.float32)"),
        (1, [0.0] * 6, TypeError, f"{DTYPE} float64; write np.asarray(x, np.float32)"),
        (1, True, TypeError, f"{DTYPE} bool; write np.asarray(x, np.float32)"),
        (1, "frame", TypeError, f"{DTYPE} <U5"),
        (1, None, TypeError, f"{DTYPE} object"),
        (1, np.zeros(6, "M8[s]"), TypeError, f"{DTYPE} datetime64[s]"),
        (1, 2**70, TypeError, f"{DTYPE} object"),
        (1, 6, ValueError, f"{IDS} 6"),
        (1, -1, ValueError, f"{IDS} -1"),
        (1, 2**62, ValueError, f"{IDS} {2**62}"),
        (1, np.uint64(2**64 - 1), ValueError, f"{IDS} {2**64 - 1}"),
        (2, np.array([5, 6]), ValueError, f"{IDS} 6 at batch row 1"),
        (2, np.array([-3, 0]), ValueError, f"{IDS} -3 at batch row 0"),
        (2, 3, ValueError, f"x: expected token ids of shape (2,) = (batch,), got (); {FEATURES}"),
        (
            1,
            np.zeros((1, 6), int),
            ValueError,
            f"x: expected token ids of shape (1,) = (batch,) or one id, got (1, 6); {FEATURES}",
        ),
    ],
)
def test_wrong_frames(backend, batch, x, error, message):
    rnn = bptt.RNN(6, 4, seed=0, backend=backend)
    for good in (None, np.ones((batch, 6), F4), np.zeros(batch, int)):  # new, for numbers, and for ids
        stream = rnn.stream(batch)
        if good is not None:
            stream.step(good)
        before = stream.state
        with raises(error, message):
            stream.step(x)
        assert same(stream.state, before)


OUT = "out: expected"
LAYOUT = f"{OUT} a writeable C-contiguous array, got"


@pytest.mark.parametrize(
    ("out", "error", "message"),
    [
        (zeros(2, 3), ValueError, f"{OUT} shape (2, 4) = (batch, hidden_size), got (2, 3)"),
        (zeros(8), ValueError, f"{OUT} shape (2, 4) = (batch, hidden_size), got (8,)"),
        (zeros(1, 2, 4), ValueError, f"{OUT} shape (2, 4) = (batch, hidden_size), got (1, 2, 4)"),
        (zeros(2, 4, dtype=F8), TypeError, f"{OUT} float32 (the layer's dtype), got float64"),
        (zeros(2, 4, dtype=">f4"), TypeError, f"{OUT} float32 (the layer's dtype), got >f4"),
        (zeros(2, 4, dtype=np.int32), TypeError, f"{OUT} float32 (the layer's dtype), got int32"),
        ([[0.0] * 4] * 2, TypeError, f"{OUT} an array to write to, got list"),
        (bytearray(32), TypeError, f"{OUT} an array to write to, got bytearray"),
        (zeros(4, 2).T, ValueError, f"{LAYOUT} another layout"),
        (zeros(2, 8)[:, ::2], ValueError, f"{LAYOUT} another layout"),
        (np.frombuffer(bytes(32), F4).reshape(2, 4), ValueError, f"{LAYOUT} a read-only one"),
    ],
)
def test_wrong_out(backend, out, error, message):
    rnn = bptt.RNN(6, 4, seed=0, backend=backend)
    x = np.ones((2, 6), F4)
    stream = rnn.stream(2)
    for _ in range(2):  # before the first step, and after it
        before = stream.state
        with raises(error, message):
            stream.step(x, out=out)
        assert same(stream.state, before)
        stream.step(x)


def test_out_has_the_batch_axis_of_x(backend):
    rnn = bptt.RNN(6, 4, seed=0, backend=backend)
    stream = rnn.stream()
    for _ in range(2):
        with raises(ValueError, "out: expected shape (4,) = (hidden_size,), got (1, 4)"):
            stream.step(np.ones(6, F4), out=zeros(1, 4))
        with raises(ValueError, "out: expected shape (1, 4) = (batch, hidden_size), got (4,)"):
            stream.step(np.ones((1, 6), F4), out=zeros(4))
        stream.step(np.ones(6, F4))


STATE = "(num_layers, batch, hidden_size)"


@pytest.mark.parametrize(
    ("batch", "h", "error", "message"),
    [
        (2, zeros(1, 3, 4), ValueError, f"shape (1, 2, 4) = {STATE}, got (1, 3, 4)"),
        (2, zeros(1, 4), ValueError, f"shape (1, 2, 4) = {STATE}, got (1, 4)"),
        (1, zeros(4), ValueError, f"shape (1, 1, 4) = {STATE}, got (4,)"),
        (1, zeros(2, 4), ValueError, "shape (1, 4) = (num_layers, hidden_size), got (2, 4)"),
        (
            1,
            zeros(1, 4, dtype=F8),
            TypeError,
            "float32 (the layer's dtype), got float64; write {}.astype(np.float32)",
        ),
    ],
)
def test_wrong_states(backend, batch, h, error, message):
    rnn = bptt.RNN(6, 4, seed=0, backend=backend)
    with raises(error, f"h_0: expected {message.format('h_0')}"):
        rnn.stream(batch, h)
    stream = rnn.stream(batch)
    for _ in range(2):
        with raises(error, f"h_0: expected {message.format('h_0')}"):
            stream.reset(h)
        with raises(error, f"state: expected {message.format('state')}"):
            stream.state = h
        stream.step(np.zeros(batch, int))


@pytest.mark.parametrize(
    ("size", "error"), [(0, ValueError), (-1, ValueError), (1.5, TypeError), (True, TypeError)]
)
def test_wrong_batch_sizes(size, error):
    with raises(error, f"batch_size: expected an integer of at least 1, got {size}"):
        bptt.RNN(6, 4, backend="reference").stream(size)


# ------------------------------------------------------------------------------------- memory and threads


def growth(call, times=100):
    """Bytes by which Python's memory grew at most during calls."""
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        for _ in range(times):
            call()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


@pytest.mark.kernels
@pytest.mark.parametrize("tokens", [False, True])
def test_no_memory_beyond_the_result(dtype, tokens):
    rnn = bptt.RNN(50, 1000, dtype=dtype, seed=0)
    stream = rnn.stream()
    frame = np.zeros(1, int) if tokens else np.ones((1, 50), dtype)
    out = stream.step(frame)
    stream.step(frame, out)
    assert growth(lambda: stream.step(frame, out)) < 600  # the tracing itself
    assert out.nbytes <= growth(lambda: stream.step(frame)) < out.nbytes + 1000


@pytest.mark.kernels
def test_one_thread_at_a_time():
    """Two threads on one stream: an error where they meet, never a crash."""
    rnn = bptt.RNN(600, 600, seed=0)
    stream, frame = rnn.stream(64), np.ones((64, 600), F4)
    refused, end = [], time.monotonic() + 20

    def work():
        while not refused and time.monotonic() < end:
            try:
                stream.step(frame)
            except RuntimeError as error:
                refused.append(str(error))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(refused) == {"step: expected one thread at a time, got a call while another one is under way"}
    stream.reset()
    assert same(stream.step(frame), rnn.stream(64).step(frame))


# ------------------------------------------------------------------------------------- the ground floor


@pytest.mark.parametrize("module", [kernels, reference])
def test_the_ground_floor_refuses_what_would_be_read_wrongly(module):
    p = problem(3, 2, 5, 7, dtype=F4)
    x, state = p.x, (p.h_0,)
    packed = module.pack("tanh", p.weights)
    misfit = "weights: expected ones packed for this cell, dtype and kind of x, got others"
    for cell, x_, state_ in (
        ("relu", x, state),
        ("tanh", np.zeros((3, 2), np.int64), state),
        ("tanh", x.astype(F8), (p.h_0.astype(F8),)),
    ):
        with raises(ValueError, misfit):
            module.unroll(cell, x_, state_, packed, keep=False)
        with raises(ValueError, misfit):
            module.Stepper(cell, packed, state_, tokens=x_.ndim == 2)
    with raises(
        TypeError,
        "weights: expected Weights for keep=True, got packed ones, which are for the forward pass only",
    ):
        module.unroll("tanh", x, state, packed)


@pytest.mark.parametrize("module", [kernels, reference])
@pytest.mark.parametrize("tokens", [False, True])
def test_a_stepper_does_nothing_with_other_frames(module, tokens):
    p = problem(1, 2, 5, 7, dtype=F4, tokens=tokens)
    stepper = module.Stepper("tanh", p.weights, (p.h_0,), tokens=tokens)
    wrong = [
        p.x[0].tolist(),
        p.x,
        p.x[0, :1],
        p.x[0].astype(F8),
        p.x[0].astype(">i8" if tokens else ">f4"),
        np.zeros(2, np.int32),
        np.array([0, 5]),
        np.array([-1, 0]),
        np.zeros((2, 6), F4),
        3,
        None,
    ]
    for x in wrong:
        assert stepper.step(x) is None
        assert same(stepper.state[0], p.h_0)
    assert same(stepper.step(p.x[0]), module.unroll("tanh", p.x, (p.h_0,), p.weights)[0][0])


@pytest.mark.kernels
def test_a_stepper_keeps_its_size():
    p = problem(1, 2, 5, 7, dtype=F4)
    stepper = kernels.Stepper("tanh", p.weights, (p.h_0,))
    for h in (p.h_0[:1], p.h_0.astype(F8)):
        with raises(ValueError, f"state: expected {p.h_0.nbytes} bytes, got {h.nbytes}"):
            stepper.state = (h,)
    with pytest.raises(TypeError):
        pickle.dumps(stepper)

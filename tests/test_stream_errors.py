"""Stream of an Elman layer: errors, memory, threads; what the ground floor refuses."""

from __future__ import annotations

import gc
import pickle
import threading
import time
import tracemalloc

import numpy as np
import pytest
from errors import F4, F8, raises, zeros
from kernel_problems import problem, same

import bptt
from bptt import kernels, reference

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
        (1, [[0.0], [0.0, 1.0]], ValueError, "an array, got a list of unequal rows"),
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
    stream.step(frame)  # the first one makes the stepper, and would be refused with another message
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
    p = problem(1, 2, 5, 7, cell="lstm", dtype=F4)
    stepper = kernels.Stepper("lstm", p.weights, p.state)
    h, c = p.state
    for one, other in ((h[:1], c), (h, c[:1]), (h.astype(F8), c.astype(F8))):
        with raises(
            ValueError,
            f"state: expected {h.nbytes} and {c.nbytes} bytes, got {one.nbytes} and {other.nbytes}",
        ):
            stepper.state = one, other
    with pytest.raises(TypeError):
        pickle.dumps(stepper)

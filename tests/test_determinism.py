"""The same bits: whatever the batch, the threads, the cuts of a stream, the memory or the run."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_problems import (
    WORK_TO_SHARE,
    Problem,
    backward,
    differing,
    forward,
    problem,
    results,
    same,
)

import bptt
from bptt import kernels

pytestmark = pytest.mark.kernels

DTYPES = st.sampled_from([np.float32, np.float64])
CELLS = st.sampled_from(kernels.CELLS)
WIDTHS = st.sampled_from([*range(1, 71), 95, 96, 97, 127, 128, 129, 144, 150, 176, 192, 200])


def of_rows(p, rows):
    """The same problem for some rows of the batch."""
    take = lambda a: None if a is None else np.ascontiguousarray(a[..., rows, :])  # noqa: E731
    x = np.ascontiguousarray(p.x[:, rows])
    return Problem(p.cell, x, take(p.h_0), p.weights, take(p.dy), take(p.dh_n), p.depth)


def of_steps(p, start, stop, h_0, dh_n):
    """The same problem for the steps start..stop-1, from a state and with the gradient of the last one."""
    cut = lambda a: None if a is None else np.ascontiguousarray(a[start:stop])  # noqa: E731
    return Problem(p.cell, cut(p.x), h_0, p.weights, cut(p.dy), dh_n, p.depth)


# ------------------------------------------------------------------------------------- (a) the batch


@settings(max_examples=120)
@given(data=st.data(), dtype=DTYPES, cell=CELLS, H=WIDTHS, tokens=st.booleans(), seed=st.integers(0, 99))
def test_a_sequence_in_any_batch(data, dtype, cell, H, tokens, seed):
    B = data.draw(st.sampled_from([*range(1, 20), 31, 47, 48, 49, 64, 96, 97, 130]), label="B")
    T = data.draw(st.sampled_from([1, 2, 5, 12]), label="T")
    I = data.draw(st.sampled_from([1, 3, 16, 40, 260]), label="I")
    depth = data.draw(st.sampled_from([None, 1, 3]), label="depth")
    p = problem(T, B, I, H, cell=cell, dtype=dtype, tokens=tokens, depth=depth, seed=seed)
    whole = results(p)
    # rows that stand elsewhere, alone or among others, in another order
    size = data.draw(st.sampled_from([1, 2, 3, 5, 7]), label="rows")
    rows = np.random.default_rng(seed).permutation(B)[:size]
    part = results(of_rows(p, rows))
    for name in ("y", "h_n", "h_0", *(() if tokens else ("x",))):
        assert same(part[name], whole[name][..., rows, :]), name


@pytest.mark.parametrize("cell", kernels.CELLS)
def test_every_batch_size(cell, dtype):
    """One sequence as the last of 1, 2, ..., 130."""
    for H in (1, 5, 16, 33, 64, 70, 130, 650):
        p = problem(3, 130, 6 if H < 650 else 620, H, cell=cell, dtype=dtype)
        alone = results(of_rows(p, np.array([129])))
        for B in (*range(1, 27), 47, 48, 49, 95, 96, 97, 98, 130) if H < 650 else (2, 5, 7, 97, 130):
            batch = results(of_rows(p, np.arange(130 - B, 130)))
            for name in ("y", "h_n", "x", "h_0"):
                assert same(batch[name][..., -1:, :], alone[name]), (name, H, B)


def test_a_row_of_the_readout_in_any_batch(dtype):
    rng = np.random.default_rng(0)
    for K, O in ((1, 1), (7, 33), (64, 130), (300, 65), (257, 512)):
        x, weight, bias, dy = (rng.normal(size=s).astype(dtype) for s in ((130, K), (O, K), (O,), (130, O)))
        y = kernels.affine(x, weight, bias)
        dx, _, _ = kernels.affine_backward(x, weight, dy)
        for first, last in ((0, 1), (129, 130), (3, 5), (50, 57), (1, 130), (17, 113)):
            assert same(kernels.affine(x[first:last], weight, bias), y[first:last])
            assert same(kernels.affine_backward(x[first:last], weight, dy[first:last])[0], dx[first:last])


# ------------------------------------------------------------------------------------- (b) threads


def pool_threads():
    return sum(thread.name == "bptt" for thread in threading.enumerate())


@pytest.mark.parametrize("cell", kernels.CELLS)
@pytest.mark.parametrize(
    ("T", "B", "I", "H", "tokens", "depth"),
    [
        (40, 33, 70, 130, False, None),
        (300, 7, 50, 65, False, None),
        (200, 2, 129, 150, False, None),
        (30, 100, 90, 100, True, None),
        (4, 330, 64, 96, False, None),
        (8, 70, 20, 650, False, None),  # weights too large for the nearest caches
        (20, 37, 80, 130, False, 4),
        (25, 50, 30, 130, True, 2),
    ],
)
def test_threads(T, B, I, H, tokens, depth, cell, dtype):
    assert 2 * T * B * H * (H + I) > WORK_TO_SHARE
    p = problem(T, B, I, H, cell=cell, dtype=dtype, tokens=tokens, depth=depth)
    alone = results(p)
    for threads in (2, 3, 5):
        assert differing(results(p, threads=threads), alone) == []
        assert pool_threads() >= min(threads, B) - 1


def helpers_seconds():
    """Processor time that the threads of the pool have used."""
    clocks = [time.pthread_getcpuclockid(t.ident) for t in threading.enumerate() if t.name == "bptt"]
    return sum(time.clock_gettime(clock) for clock in clocks)


@pytest.mark.skipif(not hasattr(time, "pthread_getcpuclockid"), reason="needs clocks of threads")
@pytest.mark.parametrize(("threads", "depth"), [(2, None), (3, None), (2, 3)])
def test_threads_that_did_some_of_the_work(threads, depth):
    p = problem(200, 60, 100, 150, dtype=np.float32, depth=depth)
    alone = results(p)
    for _ in range(50):
        before = helpers_seconds() if pool_threads() else 0.0
        assert differing(results(p, threads=threads), alone) == []
        if helpers_seconds() - before > 0.001:
            return
    pytest.fail("in no call a helper did anything to speak of")


def test_more_threads_than_rows(dtype):
    p = problem(1500, 1, 60, 100, dtype=dtype)
    assert WORK_TO_SHARE < 2 * 1500 * 100 * 160
    alone = results(p)
    for threads in (2, 3, 5):
        assert differing(results(p, threads=threads), alone) == []


def test_threads_of_the_readout(dtype):
    N, K, O = 700, 150, 130
    assert 2 * N * K * O > WORK_TO_SHARE
    rng = np.random.default_rng(1)
    x, weight, bias, dy = (rng.normal(size=s).astype(dtype) for s in ((N, K), (O, K), (O,), (N, O)))
    y, gradients = kernels.affine(x, weight, bias), kernels.affine_backward(x, weight, dy)
    for threads in (2, 3, 5):
        assert same(kernels.affine(x, weight, bias, threads=threads), y)
        for actual, expected in zip(
            kernels.affine_backward(x, weight, dy, threads=threads), gradients, strict=True
        ):
            assert same(actual, expected)
        assert pool_threads() >= threads - 1


# ------------------------------------------------------------------------------------- (c) cuts of a stream


@settings(max_examples=120)
@given(
    data=st.data(),
    dtype=DTYPES,
    cell=CELLS,
    H=WIDTHS,
    T=st.integers(2, 14) | st.sampled_from([97, 270]),
    B=st.sampled_from([1, 2, 5, 7, 48, 50]),
    I=st.sampled_from([1, 4, 17, 64]),
    tokens=st.booleans(),
)
def test_a_stream_cut_anywhere(data, dtype, cell, H, T, B, I, tokens):
    p = problem(T, B, I, H, cell=cell, dtype=dtype, tokens=tokens, dy=data.draw(st.booleans(), label="dy"))
    cuts = sorted(data.draw(st.sets(st.integers(0, T), max_size=4), label="cuts"))
    whole = results(p)
    pieces, h, y = [], p.h_0, []
    for start, stop in zip([0, *cuts], [*cuts, T], strict=True):
        piece = of_steps(p, start, stop, h, None)
        y_piece, h, saved = forward(piece)
        y.append(y_piece)
        pieces.append((start, stop, saved))
    assert same(np.concatenate(y), whole["y"])
    assert same(h, whole["h_n"])
    dh, dx = p.dh_n, []
    for start, stop, saved in reversed(pieces):
        gradients = backward(of_steps(p, start, stop, saved.state[0], dh), saved)
        dh = gradients["h_0"]
        dx.insert(0, gradients.get("x"))
    assert same(dh, whole["h_0"])
    if not tokens:
        assert same(np.concatenate(dx), whole["x"])


def test_a_stream_of_single_steps(dtype):
    for H in (1, 5, 16, 64, 150, 650):
        p = problem(30, 1, 7, H, dtype=dtype)
        whole, h = results(p), p.h_0
        for t in range(30):
            y, h, _ = forward(of_steps(p, t, t + 1, h, None))
            assert same(y[0], whole["y"][t])
            assert same(h, y[0])


# ------------------------------------------------------------------------------------- (e) a seed


def train(seed, dtype, threads):
    rnn = bptt.RNN(5, 24, dtype=dtype, seed=1)
    network = bptt.Network(rnn, bptt.Linear(24, 5, dtype=dtype, seed=2))
    rng = np.random.default_rng(3)
    tokens = rng.integers(5, size=(12, 20))
    history = network.fit(
        tokens[:-1],
        tokens[1:],
        epochs=3,
        optimizer=bptt.Adam(1e-2),
        batch_size=6,
        truncation=5,
        clip_norm=1.0,
        validation_data=(tokens[:-1, :4], tokens[1:, :4]),
        seed=seed,
        progress=False,
        threads=threads,
    )
    return network.parameters, {name: values for name, values in history.items() if name != "seconds"}


def test_a_seed_gives_the_same_training(dtype):
    parameters, history = train(4, dtype, 1)
    for threads in (1, 2):
        again, history_again = train(4, dtype, threads)
        assert differing(again, parameters) == []
        assert history_again == history
    other, _ = train(5, dtype, 1)
    assert differing(other, parameters)


# ------------------------------------------------------------------------------------- calls and memory


def test_repeated_calls(dtype):
    for T, B, I, H, depth in ((7, 5, 9, 33, None), (40, 33, 70, 130, None), (20, 37, 80, 130, 4)):
        p = problem(T, B, I, H, dtype=dtype, depth=depth)
        first = results(p, threads=2)
        for _ in range(4):
            assert differing(results(p, threads=2), first) == []


def moved(array, offset):
    """The same numbers, `offset` bytes after the start of a buffer of their own."""
    if array is None:
        return None
    buffer = bytearray(array.nbytes + offset)
    view = np.frombuffer(buffer, array.dtype, array.size, offset).reshape(array.shape)
    view[...] = array
    return view


@pytest.mark.parametrize("offset", [1, 3, 5, 8])
@pytest.mark.parametrize(("T", "B", "H"), [(5, 3, 17), (4, 7, 64), (3, 1, 130)])
def test_alignment(offset, T, B, H, dtype):
    """Arrays that start on any number, not on a vector or a cache line."""
    p = problem(T, B, 6, H, dtype=dtype)
    offset *= p.x.itemsize
    weights = type(p.weights)(*(moved(w, offset) for w in p.weights))
    x, h_0, dy, dh_n = (moved(a, offset) for a in (p.x, p.h_0, p.dy, p.dh_n))
    shifted = Problem(p.cell, x, h_0, weights, dy, dh_n)
    assert differing(results(shifted), results(p)) == []


@pytest.mark.parametrize("offset", [1, 2, 3, 4])
def test_alignment_between_numbers(offset, dtype):
    """A layer takes arrays that start on any byte."""
    p = problem(5, 3, 6, 17, dtype=dtype)
    rnn = bptt.RNN(6, 17, dtype=dtype, seed=0)
    answers = []
    for shift in (0, offset):
        x, h_0, dy = (moved(a, shift) for a in (p.x, p.h_0[np.newaxis], p.dy))
        y, h_n, tape = rnn.record(x, h_0)
        gradients = tape.backward(dy)
        answers.append({"y": y, "h_n": h_n, "x": gradients.x, "h_0": gradients.h_0} | gradients.parameters)
    assert differing(*answers) == []


def test_strides(dtype):
    """A layer gives the same bits for a view and for its copy."""
    p = problem(6, 8, 10, 17, dtype=dtype)
    rnn = bptt.RNN(5, 17, dtype=dtype, seed=0)
    view = p.x[::-2, 1::3, ::2]
    assert not view.flags.c_contiguous
    for actual, expected in zip(rnn(view), rnn(view.copy()), strict=True):
        assert same(actual, expected)

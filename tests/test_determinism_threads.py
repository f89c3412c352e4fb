"""The same bits, however many threads share the work."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from kernel_problems import (
    WORK_TO_SHARE,
    differing,
    extras,
    forward,
    problem,
    results,
    same,
    work,
)
from kernel_strategies import CELLS, DTYPES, features_for
from reference_problems import GATES

from bptt import kernels

pytestmark = pytest.mark.kernels


def pool_threads():
    return sum(thread.name == "bptt" for thread in threading.enumerate())


def check_threads(p):
    assert work(p) > WORK_TO_SHARE
    alone, rows = results(p), p.x.shape[1]
    for threads in (2, 3, 5):
        assert differing(results(p, threads=threads), alone) == []
        assert pool_threads() >= min(threads, rows) - 1


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
    H = H * 5 // 8 if cell in GATES else H
    check_threads(problem(T, B, I, H, cell=cell, dtype=dtype, tokens=tokens, depth=depth))


@pytest.mark.parametrize("cell", kernels.CELLS)
@pytest.mark.parametrize(("T", "B", "I", "H"), [(40, 33, 70, 130), (90, 9, 50, 161), (6, 200, 64, 96)])
def test_threads_with_options(T, B, I, H, cell, dtype):
    """Ends, resets and masks; and each kind of them by itself."""
    for features in (extras(cell), ["lengths"], ["reset", "reverse"], ["dropout"], ["zoneout"]):
        check_threads(problem(T, B, I, H, cell=cell, dtype=dtype, features=features))


@settings(max_examples=40)
@given(data=st.data(), dtype=DTYPES, cell=CELLS, seed=st.integers(0, 99))
def test_threads_and_any_shape(data, dtype, cell, seed):
    features = data.draw(features_for(cell), label="features")
    T, B = data.draw(st.integers(1, 60), label="T"), data.draw(st.integers(1, 90), label="B")
    I, H = data.draw(st.integers(1, 90), label="I"), data.draw(st.integers(1, 150), label="H")
    p = problem(T, B, I, H, cell=cell, dtype=dtype, features=features, seed=seed)
    if work(p) <= WORK_TO_SHARE:  # the steps that are missing
        T = int(T * WORK_TO_SHARE / work(p)) + 1
        assume(T <= 3000)
        p = problem(T, B, I, H, cell=cell, dtype=dtype, features=features, seed=seed)
    check_threads(p)


@pytest.mark.parametrize("cell", ["tanh", *GATES])
def test_threads_and_nothing_kept(cell, dtype):
    for features in ((), extras(cell)):
        p = problem(40, 33, 70, 130, cell=cell, dtype=dtype, features=features)
        y, final, _ = forward(p, keep=False)
        for threads in (2, 3, 5):
            shared_y, shared_final, _ = forward(p, keep=False, threads=threads)
            assert same(shared_y, y)
            for shared, part in zip(shared_final, final, strict=True):
                assert same(shared, part)


def helpers_seconds():
    """Processor time that the threads of the pool have used."""
    clocks = [time.pthread_getcpuclockid(t.ident) for t in threading.enumerate() if t.name == "bptt"]
    return sum(time.clock_gettime(clock) for clock in clocks)


@pytest.mark.skipif(not hasattr(time, "pthread_getcpuclockid"), reason="needs clocks of threads")
@pytest.mark.parametrize("cell", ["tanh", *GATES])
@pytest.mark.parametrize("way", ["plain", "depth", "options"])
@pytest.mark.parametrize("threads", [2, 3])
def test_threads_that_did_some_of_the_work(threads, way, cell):
    options = {"depth": 3} if way == "depth" else {"features": extras(cell)} if way == "options" else {}
    p = problem(200, 60, 100, 150 if cell == "tanh" else 60, cell=cell, dtype=np.float32, **options)
    alone = results(p)
    for _ in range(50):
        before = helpers_seconds() if pool_threads() else 0.0
        assert differing(results(p, threads=threads), alone) == []
        if helpers_seconds() - before > 0.001:
            return
    pytest.fail("in no call a helper did anything to speak of")


@pytest.mark.parametrize("cell", kernels.CELLS)
def test_more_threads_than_rows(cell, dtype):
    for features in ((), extras(cell)):
        p = problem(1500, 1, 60, 100, cell=cell, dtype=dtype, features=features)
        if "lengths" in features:
            p.options["lengths"][:] = 1500
        assert work(p) > WORK_TO_SHARE
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

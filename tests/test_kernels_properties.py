"""The compiled kernels against the reference and against float64 NumPy, over generated shapes and options."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_problems import (
    BIASES,
    addends,
    backward,
    check_gradients,
    close,
    forward,
    numpy_backward,
    numpy_forward,
    problem,
)

from bptt import kernels, reference

pytestmark = pytest.mark.kernels

#: Whole vectors, panels and blocks of the tile, one less and one more.
EDGES = [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 48, 63, 64, 65, 70]
CELLS = st.sampled_from(kernels.CELLS)
DTYPES = st.sampled_from([np.float32, np.float64])
OPTIONS = {
    "cell": CELLS,
    "dtype": DTYPES,
    "bias": st.sampled_from(sorted(BIASES)),
    "tokens": st.booleans(),
    "dy": st.integers(0, 9).map(bool),
    "dh_n": st.booleans(),
    "seed": st.integers(0, 999),
}


@st.composite
def problems(draw, *, steps, rows, inputs, hidden, work):
    """A problem of at most `work` products, at least a step of a row where `work` is less than that."""
    H, I = draw(hidden), draw(inputs)
    T, B = draw(steps), draw(rows)
    depth = draw(st.sampled_from([None, 1, 2, T, T + 1]))
    depth = None if depth is None else max(depth, 1)
    each = H * (H + I) * (1 if depth is None else min(depth, T + 1))
    B = min(B, max(work // (each * max(T, 1)), 1))
    T = min(T, max(work // (each * max(B, 1)), 1))
    return problem(T, B, I, H, depth=depth, **{name: draw(option) for name, option in OPTIONS.items()})


SMALL = problems(
    steps=st.sampled_from(range(13)),
    rows=st.sampled_from(range(10)),
    inputs=st.sampled_from(range(1, 41)),
    hidden=st.sampled_from(range(1, 71)) | st.sampled_from(EDGES),
    work=150_000,
)
ANY = problems(
    steps=st.sampled_from([*range(13), 40, 300]),
    rows=st.sampled_from([*range(10), 47, 48, 49, 50, 100]),
    inputs=st.sampled_from([*range(1, 41), *EDGES, 130, 257]),
    hidden=st.sampled_from(range(1, 71)) | st.sampled_from([*EDGES, 128, 129, 130, 200, 257]),
    work=20_000_000,
)


@settings(max_examples=150)
@given(SMALL)
def test_reference(p):
    y, h_n, saved = forward(p)
    expected, expected_h_n, _ = forward(p, module=reference)
    close("y", y, expected.astype(np.float64), addends(p)["forward"])
    close("h_n", h_n, expected_h_n.astype(np.float64), addends(p)["forward"])
    # at the kernels' own states: see numpy_backward
    at = reference.Saved(p.x, (p.h_0,), y, p.weights)
    check_gradients(p, backward(p, saved), backward(p, at, module=reference))


def check_against_numpy(p):
    y, h_n, saved = forward(p)
    expected = numpy_forward(p)
    close("y", y, expected, addends(p)["forward"])
    close("h_n", h_n, (expected[-1] if len(expected) else p.h_0).astype(np.float64), addends(p)["forward"])
    check_gradients(p, backward(p, saved), numpy_backward(p, y))


@settings(max_examples=150)
@given(ANY)
def test_numpy(p):
    check_against_numpy(p)


@pytest.mark.parametrize("cell", kernels.CELLS)
@pytest.mark.parametrize("depth", [None, 2])
@pytest.mark.parametrize(
    ("T", "B", "I", "H"),
    [
        (600, 1, 3, 5),  # three chunks of the backward pass, one row
        (65, 9, 40, 17),  # chunks that B does not divide
        (3, 300, 5, 33),  # more rows than a chunk holds
        (4, 50, 300, 200),  # sums over k in more than one block
        (3, 100, 20, 513),
        (5, 1, 1, 512),  # one row, panels in pairs
        (9, 70, 20, 650),  # weights too large for the nearest caches, three chunks
        (3, 2, 650, 900),
    ],
)
def test_large(T, B, I, H, cell, depth, dtype):
    check_against_numpy(problem(T, B, I, H, cell=cell, dtype=dtype, depth=depth))


@pytest.mark.parametrize("H", [*EDGES, 130, 200])
def test_every_width(H, dtype):
    """Every number of rows that a tile can have, at every width."""
    for B in range(1, 14):
        check_against_numpy(problem(3, B, 7, H, dtype=dtype))


def test_the_snapshot_of_the_weights(dtype):
    for I, H, bias, tokens in ((3, 17, "both", False), (40, 70, "ih", True), (17, 33, "hh", False)):
        p = problem(2, 3, I, H, dtype=dtype, bias=bias, tokens=tokens)
        given_weights = [None if w is None else w.copy() for w in p.weights]
        _, _, saved = forward(p)
        before = backward(p, saved)
        for w in p.weights:
            if w is not None:
                w += 1
        for kept, w in zip(saved.weights, given_weights, strict=True):
            np.testing.assert_array_equal(kept, w)
        for name, value in backward(p, saved).items():
            np.testing.assert_array_equal(value, before[name])


@st.composite
def readouts(draw, *, largest):
    """x (N, K), weight (O, K), bias, dy (N, O)."""
    N, K, O = draw(st.integers(0, 12)), draw(st.integers(1, largest)), draw(st.integers(1, largest))
    rng, dtype = np.random.default_rng(draw(st.integers(0, 999))), draw(DTYPES)
    x, weight, bias, dy = (rng.normal(size=s).astype(dtype) for s in ((N, K), (O, K), (O,), (N, O)))
    return x, weight, bias if draw(st.booleans()) else None, dy


@settings(max_examples=100)
@given(readouts(largest=40))
def test_affine_reference(readout):
    x, weight, bias, dy = readout
    K = sum(weight.shape)
    close("y", kernels.affine(x, weight, bias), reference.affine(x, weight, bias).astype(np.float64), K)
    actual, expected = kernels.affine_backward(x, weight, dy), reference.affine_backward(x, weight, dy)
    for name, a, e in zip(("dx", "dweight", "dbias"), actual, expected, strict=True):
        close(name, a, e.astype(np.float64), K + len(x))


@pytest.mark.parametrize(
    ("N", "K", "O"), [(300, 130, 65), (1, 512, 256), (97, 257, 3), (1000, 1, 1), (5, 600, 301)]
)
def test_affine_large(N, K, O, dtype):
    rng = np.random.default_rng(N)
    x, weight, bias, dy = (rng.normal(size=s).astype(dtype) for s in ((N, K), (O, K), (O,), (N, O)))
    wide = [v.astype(np.float64) for v in (x, weight, bias, dy)]
    close("y", kernels.affine(x, weight, bias), wide[0] @ wide[1].T + wide[2], K)
    dx, dweight, dbias = kernels.affine_backward(x, weight, dy)
    close("dx", dx, wide[3] @ wide[1], O)
    close("dweight", dweight, wide[3].T @ wide[0], N)
    close("dbias", dbias, wide[3].sum(0), N)


def check_cross_entropy(logits, targets, ignore_index=None):
    loss, count, ds = kernels.softmax_cross_entropy(logits, targets, ignore_index=ignore_index)
    expected = reference.softmax_cross_entropy(logits, targets, ignore_index=ignore_index)
    assert isinstance(loss, float)
    assert count == expected[1]
    unit = 1e-13 if logits.dtype == np.float64 else 4e-7
    assert ds.dtype == logits.dtype
    np.testing.assert_allclose(ds, expected[2].astype(np.float64), rtol=0, atol=unit)
    if math.isfinite(expected[0]):
        # a term is the difference of a logit and the largest one, and a logarithm of at most log O
        size = np.abs(logits.astype(np.float64)).max(initial=1.0) if logits.dtype == np.float32 else 1.0
        assert abs(loss - expected[0]) <= unit * max(abs(expected[0]), size * len(logits))
    else:
        np.testing.assert_equal(loss, expected[0])


@settings(max_examples=100)
@given(
    N=st.integers(0, 8),
    O=st.integers(1, 70),
    dtype=DTYPES,
    scale=st.sampled_from([0.0, 1e-3, 1.0, 30.0, 1e4, 1e30]),
    ignore_index=st.sampled_from([None, 0, -100]),
    seed=st.integers(0, 999),
)
def test_softmax_cross_entropy(N, O, dtype, scale, ignore_index, seed):
    rng = np.random.default_rng(seed)
    logits = (scale * rng.normal(size=(N, O))).astype(dtype)
    targets = rng.integers(O, size=N)
    if ignore_index is not None:
        targets[rng.random(N) < 0.4] = ignore_index
    check_cross_entropy(logits, targets, ignore_index)


@pytest.mark.parametrize("special", [math.nan, math.inf, -math.inf])
def test_softmax_cross_entropy_not_finite(special, dtype):
    for O in (1, 2, 17):
        for at in {0, O // 2, O - 1}:
            for target in {0, O - 1}:
                logits = np.linspace(-1, 1, 2 * O).reshape(2, O).astype(dtype)
                logits[0, at] = special
                check_cross_entropy(logits, np.array([target, 0]))


def test_softmax_cross_entropy_ignores_all(dtype):
    logits = np.full((3, 5), math.nan, dtype)
    loss, count, ds = kernels.softmax_cross_entropy(logits, np.full(3, -1), ignore_index=-1)
    assert (loss, count) == (0.0, 0)
    np.testing.assert_array_equal(ds, np.zeros((3, 5)))


@pytest.mark.parametrize("cell", kernels.CELLS)
@settings(max_examples=80)
@given(
    p=problems(
        steps=st.integers(1, 5),
        rows=st.integers(1, 7),
        inputs=st.integers(1, 9),
        hidden=st.integers(1, 20),
        work=15_000,
    ),
    data=st.data(),
)
def test_not_finite(p, data, cell):
    """NaN and infinities reach what they reach in the reference, and nothing else."""
    p = replace(p, cell=cell)
    arrays = [a for a in (p.x, p.h_0, *p.weights, p.dy, p.dh_n) if a is not None and a.dtype.kind == "f"]
    for _ in range(data.draw(st.integers(1, 3))):
        array = data.draw(st.sampled_from(arrays))
        # dy_1 w + dy_2 w w is not (dy_1 + dy_2 w) w for w = -inf: either is right, and the truncated
        # reference walks its chains one by one
        chains = array is p.weights.weight_hh and p.depth is not None
        special = data.draw(st.sampled_from([math.nan] if chains else [math.nan, math.inf, -math.inf]))
        array.flat[data.draw(st.integers(0, array.size - 1))] = special
    y, h_n, saved = forward(p)
    expected_y, expected_h_n, _ = forward(p, module=reference)
    at = reference.Saved(p.x, (p.h_0,), y, p.weights)
    actual = {"y": y, "h_n": h_n} | backward(p, saved)
    # the truncated reference does not even walk back from a step without dy, and 0 NaN is NaN
    p = replace(p, dy=np.zeros_like(y)) if p.dy is None else p
    expected = {"y": expected_y, "h_n": expected_h_n} | backward(p, at, module=reference)
    tolerance = 1e-12 if y.dtype == np.float64 else 1e-4
    for name, value in actual.items():
        atol = tolerance * np.abs(expected[name][np.isfinite(expected[name])]).max(initial=1e-30)
        np.testing.assert_allclose(value, expected[name], rtol=0, atol=atol, err_msg=name)


@pytest.mark.parametrize("cell", kernels.CELLS)
@pytest.mark.parametrize("tokens", [False, True])
@pytest.mark.parametrize(("T", "B"), [(0, 3), (3, 0), (0, 0)])
@pytest.mark.parametrize("depth", [None, 1])
def test_nothing(T, B, depth, tokens, cell, dtype):
    p = problem(T, B, 4, 5, cell=cell, dtype=dtype, tokens=tokens, depth=depth)
    y, h_n, saved = forward(p)
    assert y.shape == (T, B, 5)
    np.testing.assert_array_equal(h_n, p.h_0)
    assert h_n is not p.h_0
    gradients = backward(p, saved)
    assert ("x" in gradients) == (not tokens)
    np.testing.assert_array_equal(gradients.pop("h_0"), p.dh_n)
    for name, value in gradients.items():
        assert value.dtype == dtype
        assert not value.any(), name

"""The compiled readout and cross entropy against the reference and float64 NumPy, over generated shapes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_problems import close
from kernel_strategies import DTYPES

from bptt import kernels, reference

pytestmark = pytest.mark.kernels


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

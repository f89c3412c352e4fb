"""The reference at the edges: nothing to do, no bias, no gradient, and numbers that are not finite."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bptt import reference
from bptt.arrays import Array, Weights
from bptt.reference import cells, losses

inf, nan = math.inf, math.nan


def weights(I: int, H: int, dtype: type = np.float64) -> Weights:
    rng = np.random.default_rng(0)
    return Weights(*(rng.normal(size=s).astype(dtype) for s in ((H, I), (H, H), (H,), (H,))))


def present(w: Weights) -> list[Array]:
    return [array for array in w if array is not None]


@pytest.mark.parametrize("tokens", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("T", "B"), [(0, 2), (3, 0), (0, 0), (3, 2)])
def test_shapes_and_dtypes(T: int, B: int, dtype: type, tokens: bool) -> None:
    I, H = 3, 4
    w = weights(I, H, dtype)
    x = np.zeros((T, B), dtype=np.int64) if tokens else np.zeros((T, B, I), dtype=dtype)
    h_0 = np.full((B, H), 0.5, dtype=dtype)
    y, (h_n,), saved = reference.unroll("tanh", x, (h_0,), w)
    assert (y.shape, y.dtype, h_n.shape, h_n.dtype) == ((T, B, H), dtype, (B, H), dtype)
    assert not np.shares_memory(h_n, h_0)
    assert not np.shares_memory(h_n, y)
    assert saved is not None
    assert saved.x is x
    assert saved.y is y
    np.testing.assert_array_equal(h_n, y[-1] if T else h_0)
    for depth in (None, 1, 5):
        dx, (dh_0,), dw = reference.bptt("tanh", saved, y, (h_n,), depth=depth)
        if tokens:
            assert dx is None
        else:
            assert dx is not None
            assert (dx.shape, dx.dtype) == (x.shape, dtype)
        assert (dh_0.shape, dh_0.dtype) == (h_0.shape, dtype)
        for gradient, parameter in zip(present(dw), present(w), strict=True):
            assert (gradient.shape, gradient.dtype) == (parameter.shape, dtype)
        if T == 0:
            # The final state is the initial one.
            np.testing.assert_array_equal(dh_0, h_n)
        if T == 0 or B == 0:
            assert not any(np.any(gradient) for gradient in present(dw))
    assert reference.terms("tanh", saved, y)["weight_hh"].shape == (T, T, H, H)


def test_nothing_kept() -> None:
    y, _, saved = reference.unroll("tanh", np.ones((2, 1, 3)), (np.zeros((1, 4)),), weights(3, 4), keep=False)
    assert saved is None
    assert np.any(y)


@pytest.mark.parametrize("which", [("bias_ih",), ("bias_hh",), ("bias_ih", "bias_hh")])
def test_no_bias(which: tuple[str, ...]) -> None:
    w = weights(2, 3)
    zero = w._replace(**{name: np.zeros(3) for name in which})
    none = w._replace(**dict.fromkeys(which))
    x, h_0 = np.random.default_rng(1).normal(size=(3, 2, 2)), np.full((2, 3), 0.25)
    y, _, saved = reference.unroll("tanh", x, (h_0,), none)
    np.testing.assert_array_equal(y, reference.unroll("tanh", x, (h_0,), zero)[0])
    *_, dw = reference.bptt("tanh", saved, y, None)
    want = [name for name, array in none._asdict().items() if array is not None]
    assert [name for name, g in dw._asdict().items() if g is not None] == want
    assert list(reference.terms("tanh", saved, y)) == want


def test_no_gradient_in_gives_zeros() -> None:
    x = np.ones((3, 2, 2))
    _, _, saved = reference.unroll("relu", x, (np.ones((2, 3)),), weights(2, 3))
    for depth in (None, 2):
        dx, (dh_0,), dw = reference.bptt("relu", saved, None, None, depth=depth)
        assert not any(np.any(gradient) for gradient in (dx, dh_0, *present(dw)))


def test_both_bias_gradients_are_equal_and_separate() -> None:
    y, _, saved = reference.unroll("tanh", np.ones((3, 2, 2)), (np.ones((2, 3)),), weights(2, 3))
    *_, dw = reference.bptt("tanh", saved, y, None)
    assert dw.bias_ih is not None
    assert dw.bias_hh is not None
    np.testing.assert_array_equal(dw.bias_ih, dw.bias_hh)
    assert not np.shares_memory(dw.bias_ih, dw.bias_hh)


ACTIVATIONS = [
    ("tanh", {0.0: 0.0, 800.0: 1.0, -800.0: -1.0, inf: 1.0, -inf: -1.0, nan: nan}),
    ("relu", {0.0: 0.0, 2.0: 2.0, -2.0: 0.0, inf: inf, -inf: 0.0, nan: nan}),
    ("sigmoid", {0.0: 0.5, 800.0: 1.0, -800.0: 0.0, inf: 1.0, -inf: 0.0, nan: nan}),
    ("identity", {0.0: 0.0, -3.0: -3.0, inf: inf, -inf: -inf, nan: nan}),
]
DERIVATIVES = [
    ("tanh", {0.0: 1.0, 0.5: 0.75, 1.0: 0.0, nan: nan}),
    ("relu", {0.0: 0.0, 0.5: 1.0, inf: 1.0, nan: nan}),
    ("sigmoid", {0.0: 0.0, 0.25: 0.1875, 1.0: 0.0, nan: nan}),
    ("identity", {-2.0: 1.0, nan: 1.0}),
]


@pytest.mark.parametrize(("cell", "table"), ACTIVATIONS)
def test_activation(cell: str, table: dict[float, float]) -> None:
    np.testing.assert_array_equal([cells.activation(cell, z) for z in table], list(table.values()))


@pytest.mark.parametrize(("cell", "table"), DERIVATIVES)
def test_derivative(cell: str, table: dict[float, float]) -> None:
    np.testing.assert_array_equal([cells.derivative(cell, h) for h in table], list(table.values()))


def test_unknown_names() -> None:
    with pytest.raises(ValueError, match="cell: expected one of"):
        cells.activation("gelu", 0.0)
    with pytest.raises(ValueError, match="cell: expected one of"):
        cells.derivative("gelu", 0.0)
    with pytest.raises(ValueError, match="link: expected 'identity' or 'sigmoid', got 'softmax'"):
        losses.residual([[0.0]], [[1.0]], "softmax")


@pytest.mark.parametrize("cell", cells.ELMAN)
def test_nan_stays_in_its_row(cell: str) -> None:
    x = np.ones((3, 2, 2))
    x[1, 0, 0] = nan
    y, _, saved = reference.unroll(cell, x, (np.ones((2, 3)),), weights(2, 3))
    assert np.isnan(y[1:, 0]).all()
    assert np.isfinite(y[0, 0]).all()
    assert np.isfinite(y[:, 1]).all()
    dx, _, dw = reference.bptt(cell, saved, np.ones_like(y), None)
    assert dx is not None
    assert np.isfinite(dx[:, 1]).all()
    # x_t enters dW_ih, h_{t-1} enters dW_hh.
    assert np.isnan(dw.weight_ih).any()
    assert np.isnan(dw.weight_hh).all()


def test_token_multiplies_no_zero() -> None:
    # 0 times inf is NaN; a token id takes its own column alone.
    w = weights(3, 2)
    w.weight_ih[:, 2] = inf
    y, _, saved = reference.unroll("tanh", np.array([[0], [1]]), (np.zeros((1, 2)),), w)
    assert np.isfinite(y).all()
    *_, dw = reference.bptt("tanh", saved, np.ones_like(y), None)
    assert not np.any(dw.weight_ih[:, 2])
    assert np.all(dw.weight_ih[:, :2])
    assert not np.any(reference.terms("tanh", saved, np.ones_like(y))["weight_ih"][..., 2])


def test_overflow_in_float32_is_infinite() -> None:
    w = Weights(*(np.full(s, 1e30, np.float32) for s in ((1, 1), (1, 1), (1,), (1,))))
    y, _, _ = reference.unroll(
        "identity", np.full((2, 1, 1), 1e30, np.float32), (np.ones((1, 1), np.float32),), w
    )
    assert np.isposinf(y).all()


def test_extreme_logits() -> None:
    s = np.array([[1000.0, 0.0, -1000.0], [-1000.0, 0.0, 1000.0], [inf, 0.0, 0.0], [nan, 1000.0, 0.0]])
    loss, _, ds = reference.softmax_cross_entropy(s[:2], np.array([0, 0]))
    assert loss == 2000.0
    np.testing.assert_array_equal(ds, [[0.0, 0.0, 0.0], [-1.0, 0.0, 1.0]])
    for row in s[2:]:
        loss, _, ds = reference.softmax_cross_entropy(row[None], np.array([1]))
        assert math.isnan(loss)
        assert np.isnan(ds).any()
    loss, nested = losses.binary_cross_entropy([[1000.0, -1000.0, 1000.0]], [[0.0, 1.0, 1.0]])
    assert loss == 2000.0
    assert nested == [[1.0, -1.0, 0.0]]


def test_nothing_to_average() -> None:
    loss, count, ds = reference.softmax_cross_entropy(np.ones((2, 3)), np.array([7, 7]), ignore_index=7)
    assert (loss, count) == (0.0, 0)
    assert not np.any(ds)
    loss, nested = losses.mean_squared_error([], [])
    assert math.isnan(loss)
    assert nested == []

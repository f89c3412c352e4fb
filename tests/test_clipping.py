"""Clipping gradients, by their norm and by value."""

from __future__ import annotations

import math

import numpy as np
import pytest
from errors import raises

from bptt.optim import clip_grad_norm, clip_grad_value


class TestClipNorm:
    def test_scales_to_the_norm(self, dtype):
        gradients = {"a": np.array([3.0, 0.0], dtype), "b": np.array([[0.0], [4.0]], dtype)}
        assert clip_grad_norm(gradients, 1.0) == 5.0
        scale = 1.0 / (5.0 + 1e-6)
        np.testing.assert_allclose(gradients["a"], [3 * scale, 0], rtol=1e-6)
        np.testing.assert_allclose(gradients["b"], [[0], [4 * scale]], rtol=1e-6)
        assert gradients["a"].dtype == dtype

    def test_denominator(self):
        gradients = {"a": np.array([3e-6, 4e-6])}
        clip_grad_norm(gradients, 1e-6)
        # 1e-6 / (5e-6 + 1e-6) = 1/6: PyTorch's
        np.testing.assert_allclose(gradients["a"], [0.5e-6, 4e-6 / 6], rtol=1e-12)

    @pytest.mark.parametrize("max_norm", [5.1, math.inf])
    def test_short_gradients_keep_their_bits(self, max_norm):
        gradients = {"a": np.array([3.0, 4.0])}
        assert clip_grad_norm(gradients, max_norm) == 5.0
        np.testing.assert_array_equal(gradients["a"], [3, 4])

    def test_accumulates_in_float64(self):
        # 4096^2 is 2^24: in float32, adding 1 to it changes nothing
        gradients = {"a": np.array([4096.0] + [1.0] * 1000, np.float32)}
        assert clip_grad_norm(gradients, math.inf) == math.sqrt(2**24 + 1000)

    def test_squares_beyond_float32(self):
        assert clip_grad_norm({"a": np.array([1e30], np.float32)}, math.inf) == pytest.approx(1e30, rel=1e-6)

    def test_views(self):
        base = np.full((2, 4), 3.0)
        clip_grad_norm({"a": base[:, ::2]}, 0.0)
        np.testing.assert_array_equal(base, [[0, 3, 0, 3]] * 2)

    def test_nothing(self):
        assert clip_grad_norm({}, 1.0) == 0.0
        assert clip_grad_norm({"a": np.zeros((0, 3))}, 1.0) == 0.0

    @pytest.mark.parametrize("bad", [math.nan, math.inf])
    def test_not_finite(self, bad):
        gradients = {"a": np.array([bad, 1.0])}
        with raises(FloatingPointError, f"gradients: expected a finite norm, got {bad}"):
            clip_grad_norm(gradients, 1.0, error_if_nonfinite=True)
        assert gradients["a"][1] == 1.0
        clip_grad_norm(gradients, 1.0)
        assert np.isnan(gradients["a"][0])

    def test_against_torch(self):
        torch = pytest.importorskip("torch")
        rng = np.random.default_rng(0)
        gradients = {"weight": rng.normal(size=(3, 4)), "bias": rng.normal(size=5)}
        tensors = [torch.zeros(g.shape, dtype=torch.float64, requires_grad=True) for g in gradients.values()]
        for tensor, gradient in zip(tensors, gradients.values(), strict=True):
            tensor.grad = torch.tensor(gradient)
        expected = torch.nn.utils.clip_grad_norm_(tensors, 0.7)
        assert clip_grad_norm(gradients, 0.7) == pytest.approx(expected.item(), rel=1e-14)
        for tensor, gradient in zip(tensors, gradients.values(), strict=True):
            np.testing.assert_allclose(gradient, tensor.grad.numpy(), rtol=1e-14)


def test_clip_value(dtype):
    gradients = {"a": np.array([-3.0, -0.25, 0.5, np.inf, np.nan], dtype)}
    assert clip_grad_value(gradients, 0.5) is None
    np.testing.assert_array_equal(gradients["a"], [-0.5, -0.25, 0.5, 0.5, np.nan])
    assert gradients["a"].dtype == dtype


def test_clip_value_beyond_the_dtype():
    largest = np.finfo(np.float32).max
    gradients = {"a": np.array([1.0, np.inf, -np.inf], np.float32)}
    clip_grad_value(gradients, math.inf)
    np.testing.assert_array_equal(gradients["a"], [1, np.inf, -np.inf])
    clip_grad_value(gradients, 1e300)
    np.testing.assert_array_equal(gradients["a"], [1, largest, -largest])


@pytest.mark.parametrize("bad", [np.True_, np.complex128(1 + 1j), np.ones(1), np.ones(2), "1"])
def test_clip_limits_that_are_no_numbers(bad):
    with raises(TypeError, f"clip_value: expected a number, got {type(bad).__name__}"):
        clip_grad_value({"a": np.ones(2)}, bad)


@pytest.mark.parametrize("bad", [-1.0, math.nan])
def test_clip_limits(bad):
    with raises(ValueError, f"max_norm: expected a number of at least 0, got {bad}"):
        clip_grad_norm({}, bad)
    with raises(ValueError, f"clip_value: expected a number of at least 0, got {bad}"):
        clip_grad_value({}, bad)


@pytest.mark.parametrize("clip", [clip_grad_norm, clip_grad_value])
def test_clip_arrays(clip):
    with raises(TypeError, "gradients['p']: expected a float32 or float64 array, got int64"):
        clip({"p": np.ones(2, int)}, 1.0)
    frozen = np.ones(2)
    frozen.flags.writeable = False
    with raises(ValueError, "gradients['p']: expected a writeable array, got a read-only one"):
        clip({"q": np.ones(2), "p": frozen}, 0.1)

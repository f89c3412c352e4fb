"""The reference's gradients against central differences, its expansion against its backward loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from bptt import reference
from bptt.arrays import Array, Weights
from bptt.reference import expansion, losses

STEP = 2.0**-18  # truncation error about STEP^2 = 1e-11, rounding error about 1e-16 / STEP = 1e-11
NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def central_differences(f: Callable[[Array], float], at: Array) -> Array:
    """Return df/d(at), entry by entry."""
    result = np.zeros_like(at)
    for index in np.ndindex(*at.shape):
        moved = at.copy()
        moved[index] = at[index] + STEP
        above = f(moved)
        moved[index] = at[index] - STEP
        result[index] = (above - f(moved)) / (2.0 * STEP)
    return result


def close(actual: Any, numerical: Any) -> None:
    """Fail unless a gradient agrees with its central differences."""
    np.testing.assert_allclose(actual, numerical, rtol=1e-7, atol=1e-8)


def same(actual: Any, expected: Any) -> None:
    """Fail unless two ways of adding the same things agree to rounding."""
    np.testing.assert_allclose(actual, expected, rtol=1e-11, atol=1e-11)


class Problem:
    """A random layer, its input, and a linear loss of all states and the last one."""

    def __init__(self, cell: str, T: int, B: int, I: int, H: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.cell = cell
        self.x: Any = rng.normal(size=(T, B, I))
        self.h_0 = rng.normal(size=(B, H))
        self.weights = Weights(
            rng.normal(size=(H, I)), 0.7 * rng.normal(size=(H, H)), rng.normal(size=H), rng.normal(size=H)
        )
        self.dy = rng.normal(size=(T, B, H))
        self.dh_n = rng.normal(size=(B, H))

    def away_from_kinks(self) -> bool:
        """No pre-activation is so near zero that a step of central differences could cross it."""
        states = [self.h_0, *reference.unroll(self.cell, self.x, (self.h_0,), self.weights)[0]]
        for t, h in enumerate(states[:-1]):
            z = reference.unroll("identity", self.x[t : t + 1], (h,), self.weights)[0]
            if z.size and np.abs(z).min() < 1e-3:
                return False
        return True

    def saved(self) -> Any:
        return reference.unroll(self.cell, self.x, (self.h_0,), self.weights)[2]

    def loss(self, x: Array, h_0: Array, weights: Weights) -> float:
        """L = sum of dy y + sum of dh_n h_n."""
        y, (h_n,), _ = reference.unroll(self.cell, x, (h_0,), weights)
        return float((self.dy * y).sum() + (self.dh_n * h_n).sum())


shapes = st.tuples(st.integers(0, 4), st.integers(0, 3), st.integers(1, 3), st.integers(1, 4))
seeds = st.integers(0, 2**32 - 1)


@pytest.mark.parametrize("cell", reference.CELLS)
@settings(max_examples=12, deadline=None, derandomize=True)
@given(shape=shapes, seed=seeds)
def test_central_differences(cell: str, shape: tuple[int, int, int, int], seed: int) -> None:
    p = Problem(cell, *shape, seed)
    assume(cell != "relu" or p.away_from_kinks())
    dx, (dh_0,), dw = reference.bptt(cell, p.saved(), p.dy, (p.dh_n,))
    assert dx is not None
    close(dx, central_differences(lambda v: p.loss(v, p.h_0, p.weights), p.x))
    close(dh_0, central_differences(lambda v: p.loss(p.x, v, p.weights), p.h_0))
    for name in NAMES:

        def of_parameter(v: Array, name: str = name) -> float:
            return p.loss(p.x, p.h_0, p.weights._replace(**{name: v}))

        want = central_differences(of_parameter, getattr(p.weights, name))
        close(getattr(dw, name), want)


@pytest.mark.parametrize("cell", reference.CELLS)
@settings(max_examples=20, deadline=None, derandomize=True)
@given(shape=shapes, seed=seeds)
def test_gradients_are_linear_in_dy_and_dh_n(cell: str, shape: tuple[int, int, int, int], seed: int) -> None:
    p = Problem(cell, *shape, seed)
    saved = p.saved()
    for depth in (None, 2):
        both = reference.bptt(cell, saved, p.dy, (p.dh_n,), depth=depth)
        first = reference.bptt(cell, saved, p.dy, None, depth=depth)
        second = reference.bptt(cell, saved, None, (p.dh_n,), depth=depth)
        assert both[0] is not None
        assert first[0] is not None
        assert second[0] is not None
        same(both[0], first[0] + second[0])
        same(both[1][0], first[1][0] + second[1][0])
        for name in NAMES:
            want = getattr(first[2], name) + getattr(second[2], name)
            same(getattr(both[2], name), want)


@pytest.mark.parametrize("cell", reference.CELLS)
@settings(max_examples=20, deadline=None, derandomize=True)
@given(shape=shapes, seed=seeds, tokens=st.booleans())
def test_expansion_adds_up(cell: str, shape: tuple[int, int, int, int], seed: int, tokens: bool) -> None:
    p = Problem(cell, *shape, seed)
    T, B, I, H = shape
    if tokens:
        p.x = np.random.default_rng(seed).integers(0, I, size=(T, B))
    saved = p.saved()
    terms = reference.terms(cell, saved, p.dy)
    later = np.arange(T)[:, None] < np.arange(T)[None, :]  # k > i
    distance = np.arange(T)[:, None] - np.arange(T)[None, :]
    lists = expansion.terms(
        cell,
        p.x.tolist(),
        p.h_0.tolist(),
        saved.y.tolist(),
        p.weights.weight_ih.tolist(),
        p.weights.weight_hh.tolist(),
        p.dy.tolist(),
    )
    assert [(t.i, t.k) for t in lists] == [(i, k) for i in range(1, T + 1) for k in range(i, 0, -1)]
    for depth in (None, 1, 2, 3, T + 1):
        *_, dw = reference.bptt(cell, saved, p.dy, None, depth=depth)
        by_lists: dict[str, Any] = dict(
            zip(("weight_ih", "weight_hh", "bias"), expansion.total(lists, (I, H), depth), strict=True)
        )
        for name in NAMES:
            assert not np.any(terms[name][later])
            kept = (distance >= 0) & (distance < (T + 1 if depth is None else depth))
            want = terms[name][kept].sum(axis=0)
            same(getattr(dw, name), want)
            total = by_lists[name if name.startswith("weight") else "bias"]
            same(getattr(dw, name), total)


def untied_state(p: Problem, i: int, x: Array, h_0: Array, copies: list[Weights]) -> Array:
    """h_i of a network whose step k has parameters copies[k] of its own, one step at a time."""
    h = h_0
    for k in range(i):
        h = reference.unroll(p.cell, x[k : k + 1], (h,), copies[k])[1][0]
    return h


@pytest.mark.parametrize("cell", reference.CELLS)
def test_truncation_is_what_its_definition_says(cell: str) -> None:
    # Central differences of the loss of each step i with respect to the copy of each step k.
    T, B, I, H = 4, 2, 2, 3
    p = next(p for p in (Problem(cell, T, B, I, H, seed) for seed in range(100)) if p.away_from_kinks())
    shared = [p.weights] * T
    at_parameters: dict[str, dict[tuple[int, int], Array]] = {name: {} for name in NAMES}
    at_inputs: dict[tuple[int, int], Array] = {}
    at_start: dict[int, Array] = {}
    for i in range(1, T + 1):
        dh_i = p.dy[i - 1] + (p.dh_n if i == T else 0.0)

        def loss(x: Array, h_0: Array, copies: list[Weights], i: int = i, dh_i: Array = dh_i) -> float:
            return float((dh_i * untied_state(p, i, x, h_0, copies)).sum())

        def of_start(v: Array, f: Callable[..., float] = loss) -> float:
            return f(p.x, v, shared)

        at_start[i] = central_differences(of_start, p.h_0)
        for k in range(1, i + 1):

            def of_input(v: Array, k: int = k, f: Callable[..., float] = loss) -> float:
                x = p.x.copy()
                x[k - 1] = v
                return f(x, p.h_0, shared)

            at_inputs[i, k] = central_differences(of_input, p.x[k - 1])
            for name in NAMES:

                def of_copy(v: Array, k: int = k, name: str = name, f: Callable[..., float] = loss) -> float:
                    mine = p.weights._replace(**{name: v})
                    return f(p.x, p.h_0, [*shared[: k - 1], mine, *shared[k:]])

                at_parameters[name][i, k] = central_differences(of_copy, getattr(p.weights, name))

    for K in range(1, T + 2):
        dx, (dh_0,), dw = reference.bptt(cell, p.saved(), p.dy, (p.dh_n,), depth=K)
        assert dx is not None
        for name in NAMES:
            want = sum(term for (i, k), term in at_parameters[name].items() if i - k < K)
            close(getattr(dw, name), want)
        for m in range(1, T + 1):
            want = sum(term for (i, k), term in at_inputs.items() if k == m and i - k < K)
            close(dx[m - 1], want)
        want = np.sum([np.zeros_like(p.h_0), *(term for i, term in at_start.items() if i < K)], axis=0)
        close(dh_0, want)
    # K = T still leaves the last step's signal out of dh_0; K = T + 1 leaves nothing out.
    _, (dh_0,), _ = reference.bptt(cell, p.saved(), p.dy, (p.dh_n,))
    close(dh_0, sum(at_start.values()))

    terms = reference.terms(cell, p.saved(), p.dy + np.concatenate([np.zeros((T - 1, B, H)), p.dh_n[None]]))
    for name in NAMES:
        for (i, k), want in at_parameters[name].items():
            close(terms[name][i - 1, k - 1], want)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(N=st.integers(0, 4), K=st.integers(0, 3), O=st.integers(1, 4), seed=seeds)
def test_affine(N: int, K: int, O: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, weight, bias, dy = (rng.normal(size=s) for s in ((N, K), (O, K), (O,), (N, O)))
    y = reference.affine(x, weight, bias)
    same(y, np.einsum("nk,ok->no", x, weight) + bias)
    np.testing.assert_array_equal(reference.affine(x, weight, None), reference.affine(x, weight, 0.0 * bias))
    dx, dweight, dbias = reference.affine_backward(x, weight, dy)

    def loss(x: Array, weight: Array, bias: Array) -> float:
        return float((dy * reference.affine(x, weight, bias)).sum())

    close(dx, central_differences(lambda v: loss(v, weight, bias), x))
    close(dweight, central_differences(lambda v: loss(x, v, bias), weight))
    close(dbias, central_differences(lambda v: loss(x, weight, v), bias))


@pytest.mark.parametrize("ignore_index", [None, -100, 1])
def test_softmax_cross_entropy(ignore_index: int | None) -> None:
    rng = np.random.default_rng(3)
    s = 3.0 * rng.normal(size=(5, 4))
    targets = np.array([0, 1, 3, 1, 2])
    if ignore_index == -100:
        targets[[0, 3]] = -100
    rows = np.flatnonzero(targets != (ignore_index if ignore_index is not None else -1))
    loss, count, ds = reference.softmax_cross_entropy(s, targets, ignore_index=ignore_index)
    p = np.exp(s) / np.exp(s).sum(axis=1, keepdims=True)
    assert count == len(rows) == {None: 5, -100: 3, 1: 3}[ignore_index]
    assert loss == pytest.approx(-np.log(p[rows, targets[rows]]).sum(), rel=1e-13)
    assert not np.any(np.delete(ds, rows, axis=0))

    def of_logits(v: Array) -> float:
        return reference.softmax_cross_entropy(v, targets, ignore_index=ignore_index)[0]

    close(ds, central_differences(of_logits, s))


@pytest.mark.parametrize("link", ["identity", "sigmoid"])
def test_residual_losses(link: str) -> None:
    rng = np.random.default_rng(4)
    s, y = rng.normal(size=(2, 3, 2))
    yhat = s if link == "identity" else 1.0 / (1.0 + np.exp(-s))
    for function, want in (
        (losses.residual, (y - yhat).sum()),
        (losses.sum_squared_residuals, ((y - yhat) ** 2).sum()),
    ):
        loss, ds = function(s.tolist(), y.tolist(), link)
        assert loss == pytest.approx(want, rel=1e-13)
        numerical = central_differences(lambda v, f=function: f(v.tolist(), y.tolist(), link)[0], s)
        close(ds, numerical)


def test_mean_squared_error_and_binary_cross_entropy() -> None:
    rng = np.random.default_rng(5)
    s = 3.0 * rng.normal(size=(3, 2))
    y = rng.uniform(size=(3, 2))
    yhat = 1.0 / (1.0 + np.exp(-s))
    for function, want in (
        (losses.mean_squared_error, ((y - s) ** 2).mean()),
        (losses.binary_cross_entropy, -(y * np.log(yhat) + (1.0 - y) * np.log(1.0 - yhat)).sum()),
    ):
        loss, ds = function(s.tolist(), y.tolist())
        assert loss == pytest.approx(want, rel=1e-13)
        numerical = central_differences(lambda v, f=function: f(v.tolist(), y.tolist())[0], s)
        close(ds, numerical)

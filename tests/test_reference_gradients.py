"""The reference's gradients against central differences, its expansion against its backward loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from reference_problems import Problem, features_of, named, problem

from bptt import reference
from bptt.arrays import Array, Weights
from bptt.reference import boundary, conversion, expansion, losses

STEP = 2.0**-18  # truncation error about STEP^2 = 1e-11, rounding error about 1e-16 / STEP = 1e-11


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
    """Fail unless a gradient agrees with its central differences: STEP's errors, third derivatives times."""
    np.testing.assert_allclose(actual, numerical, rtol=1e-7, atol=1e-8)


def same(actual: Any, expected: Any) -> None:
    """Fail unless two ways of adding the same things agree to rounding."""
    np.testing.assert_allclose(actual, expected, rtol=1e-11, atol=1e-11)


def away_from_kinks(p: Problem) -> bool:
    """No pre-activation of a plain layer is so near zero that a step could cross it."""
    states = [p.state[0], *p.run()[0]]
    for t, h in enumerate(states[:-1]):
        z = reference.unroll("identity", p.x[t : t + 1], (h,), p.weights)[0]
        if z.size and np.abs(z).min() < 1e-3:
            return False
    return True


def loss(p: Problem, arrays: dict[str, Array]) -> float:
    """L = sum of dy y + sum of dfinal final, where there is a step."""
    state = tuple(arrays[name] for name in ("h_0", "c_0") if name in arrays)
    weights = Weights(*(arrays.get(name) for name in Weights._fields))
    y, final, _ = reference.unroll(p.cell, arrays.get("x", p.x), state, weights, **p.options)
    total = (p.dy * y)[p.there].sum()
    return float(total + sum((d * part).sum() for d, part in zip(p.dfinal, final, strict=True)))


def check_central_differences(p: Problem) -> None:
    arrays = p.arrays()
    for name, gradient in p.gradients().items():

        def of_this(v: Array, name: str = name) -> float:
            return loss(p, arrays | {name: v})

        want = central_differences(of_this, arrays[name])
        # x past a row's end is NaN, and moving it moves nothing
        close(gradient, want)


@st.composite
def problems(draw: st.DrawFn, cell: str, without: tuple[str, ...] = ()) -> Problem:
    """Draw sizes and features."""
    chosen = [name for name in features_of(cell) if name not in without and draw(st.booleans())]
    T, B, I, H = (draw(st.integers(low, high)) for low, high in ((0, 4), (0, 3), (1, 3), (1, 4)))
    return problem(cell, tuple(chosen), T=T, B=B, I=I, H=H, seed=draw(seeds))


seeds = st.integers(0, 2**32 - 1)


@pytest.mark.parametrize("cell", reference.CELLS)
@settings(max_examples=25)
@given(data=st.data())
def test_central_differences(cell: str, data: st.DataObject) -> None:
    # near a constant row the derivatives of a layer normalisation change within a step
    without = features_of(cell) if cell == "relu" else ("layer_norm",)
    p = data.draw(problems(cell, without))
    assume(cell != "relu" or away_from_kinks(p))
    check_central_differences(p)


@pytest.mark.parametrize("cell", [cell for cell in reference.CELLS if cell != "relu"])
@pytest.mark.parametrize("tokens", [False, True])
def test_central_differences_with_everything(cell: str, tokens: bool) -> None:
    features = tuple(name for name in features_of(cell) if name not in ("tokens", "no_bias"))
    check_central_differences(problem(cell, features + ("tokens",) * tokens, T=4))


@pytest.mark.parametrize("cell", reference.CELLS)
@settings(max_examples=20)
@given(data=st.data())
def test_gradients_are_linear_in_dy_and_dfinal(cell: str, data: st.DataObject) -> None:
    p = data.draw(problems(cell))
    saved = p.run()[2]
    for depth in (None, 2):
        both = named(*reference.bptt(cell, saved, p.dy, p.dfinal, depth=depth))
        parts = [named(*reference.bptt(cell, saved, p.dy, None, depth=depth))]
        for n in range(len(p.dfinal)):
            one = tuple(d if m == n else None for m, d in enumerate(p.dfinal))
            parts.append(named(*reference.bptt(cell, saved, None, one, depth=depth)))
        for name, gradient in both.items():
            same(gradient, sum(part[name] for part in parts))


@pytest.mark.parametrize("cell", reference.CELLS)
@settings(max_examples=20)
@given(data=st.data())
def test_expansion_adds_up(cell: str, data: st.DataObject) -> None:
    p = data.draw(problems(cell, ("lengths", "reset", "reverse")))
    T = len(p.x)
    saved = p.run()[2]
    terms = reference.terms(cell, saved, p.dy)
    later = np.arange(T)[:, None] < np.arange(T)[None, :]  # k > i
    distance = np.arange(T)[:, None] - np.arange(T)[None, :]
    weights = conversion.to_lists(cell, saved.weights)
    lists = expansion.terms(cell, boundary.as_run(cell, saved), weights, p.dy.tolist())
    assert [(t.i, t.k) for t in lists] == [(i, k) for i in range(1, T + 1) for k in range(i, 0, -1)]
    for depth in (None, 1, 2, 3, T + 1):
        *_, dw = reference.bptt(cell, saved, p.dy, None, depth=depth)
        for name, array in terms.items():
            assert not np.any(array[later])
            kept = (distance >= 0) & (distance < (T + 1 if depth is None else depth))
            same(getattr(dw, name), array[kept].sum(axis=0))


@settings(max_examples=20)
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


@pytest.mark.parametrize("cell", reference.CELLS)
def test_the_terms_of_a_piece_are_those_from_its_own_begin(cell: str) -> None:
    p = problem(cell)
    begin = tuple(part + 1 for part in p.state)
    alone = Problem(**(vars(p) | {"state": begin}))
    expected = reference.terms(cell, alone.run()[2], p.dy)
    for name, terms in reference.terms(cell, p.run(begin=begin)[2], p.dy).items():
        np.testing.assert_array_equal(terms, expected[name])

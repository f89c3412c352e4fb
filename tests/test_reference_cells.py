"""Every cell with every option and pair of options: results, gradients, truncation in 50-digit arithmetic."""

from __future__ import annotations

from typing import Any

import exact_cells
import mpmath
import numpy as np
import pytest
from exact_cells import STEP, exact
from reference_problems import Problem, combinations, problem

from bptt import reference
from bptt.arrays import Weights

#: What roundings in float64 may add up to, relative to what is added; the numbers on the way are about 1.
ROUNDING = 5e-15


@pytest.fixture(autouse=True)
def many_digits() -> Any:
    """50 digits in every test."""
    with mpmath.workdps(exact_cells.DIGITS):
        yield


def identifier(value: Any) -> str:
    return "+".join(value) if isinstance(value, tuple) else str(value)


def run(p: Problem, arrays: dict[str, Any], copies: list[Weights] | None = None) -> exact_cells.Result:
    """The exact pass at these arrays."""
    state = [exact(arrays[name]) for name in ("h_0", "c_0") if name in arrays]
    weights = Weights(*(None if name not in arrays else exact(arrays[name]) for name in Weights._fields))
    x = p.x if p.x.ndim == 2 else exact(np.nan_to_num(arrays["x"]))
    return exact_cells.forward(p.cell, x, state, copies or weights, **p.options)


def loss(p: Problem, arrays: dict[str, Any]) -> Any:
    result = run(p, arrays)
    total = (exact(np.nan_to_num(p.dy)) * result.y).sum()
    return total + sum((exact(d) * part).sum() for d, part in zip(p.dfinal, result.final, strict=True))


def direction(p: Problem, seed: int) -> dict[str, Any]:
    """A random direction in everything that there are gradients of."""
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=array.shape) for name, array in p.arrays().items()}


def along(p: Problem, d: dict[str, Any], by: Any) -> dict[str, Any]:
    arrays = p.arrays()
    if "x" in arrays:
        arrays["x"] = np.nan_to_num(arrays["x"])
    return {name: exact(a) + by * exact(d[name]) if name in d else exact(a) for name, a in arrays.items()}


def close(actual: Any, expected: Any) -> None:
    expected = np.asarray(expected, dtype=np.float64)
    np.testing.assert_allclose(
        actual, expected, rtol=0, atol=ROUNDING * max(1.0, np.abs(expected).max(initial=0))
    )


def close_along(gradients: dict[str, Any], d: dict[str, Any], derivative: Any) -> None:
    """Fail unless the gradients times a direction are the derivative along it."""
    products = np.concatenate([(gradients[name] * v).ravel() for name, v in d.items()])
    assert abs(products.sum() - float(derivative)) <= ROUNDING * max(1.0, np.abs(products).sum())


@pytest.mark.parametrize(("cell", "features"), combinations(), ids=identifier)
def test_results_and_gradients(cell: str, features: tuple[str, ...]) -> None:
    p = problem(cell, features)
    y, final, saved = p.run()
    want = run(p, p.arrays())
    close(y, want.y)
    for actual, expected in zip(final, want.final, strict=True):
        close(actual, expected)
    assert (saved.c is None) == (want.c is None)
    if want.c is not None:
        close(saved.c, want.c)
    assert saved.gates.keys() == want.gates.keys()
    for name, gate in want.gates.items():
        close(saved.gates[name], gate)

    gradients = p.gradients()
    arrays = p.arrays()
    assert {name: a.shape for name, a in gradients.items()} == {name: a.shape for name, a in arrays.items()}
    d = direction(p, 1)
    derivative = (loss(p, along(p, d, STEP)) - loss(p, along(p, d, -STEP))) / (2 * STEP)
    close_along(gradients, d, derivative)


def losses_by_step(p: Problem, result: exact_cells.Result) -> Any:
    """Loss of step i of each row as it takes its steps, (T + 1, B), the final state's with the last one's."""
    T, B = p.x.shape[:2]
    losses = exact(np.zeros((T + 1, B)))
    at = exact_cells.index(T, B, p.options.get("lengths"), p.options.get("reverse", False))
    for b in range(B):
        steps = int((at[:, b] >= 0).sum())
        for i in range(1, steps + 1):
            t = at[i - 1, b]
            losses[i, b] = (exact(p.dy[t, b]) * result.y[t, b]).sum()
        for d, part in zip(p.dfinal, result.final, strict=True):
            losses[steps, b] += (exact(d[b]) * part[b]).sum()
    return losses


def by_copy(p: Problem, d: dict[str, Any], k: int) -> Any:
    """Derivatives (T + 1, B) of the losses along a direction in input and parameters of step k alone."""
    T, B = p.x.shape[:2]
    at = exact_cells.index(T, B, p.options.get("lengths"), p.options.get("reverse", False))[k - 1]
    rows = np.flatnonzero(at >= 0)
    losses = []
    for by in (STEP, -STEP):
        arrays = along(p, d, by)
        mine = Weights(*(arrays.get(name) for name in Weights._fields))
        others = along(p, {}, by)
        shared = Weights(*(others.get(name) for name in Weights._fields))
        if "x" in others:
            others["x"][at[rows], rows] = arrays["x"][at[rows], rows]
        losses.append(losses_by_step(p, run(p, others, [mine if s == k - 1 else shared for s in range(T)])))
    return (losses[0] - losses[1]) / (2 * STEP)


def by_initial_state(p: Problem, d: dict[str, Any]) -> Any:
    """Derivatives (T + 1, B) of the losses along a direction in the initial state."""
    only = {name: v for name, v in d.items() if name in ("h_0", "c_0")}
    above, below = (losses_by_step(p, run(p, along(p, only, by))) for by in (STEP, -STEP))
    return (above - below) / (2 * STEP)


def distance_to_start(p: Problem) -> Any:
    """How many steps lie between the state after step i and the initial state it came from, (T + 1, B)."""
    T, B = p.x.shape[:2]
    at = exact_cells.index(T, B, p.options.get("lengths"), p.options.get("reverse", False))
    reset = p.options.get("reset", np.zeros((T, B), bool))
    distance = np.zeros((T + 1, B), int)
    for i in range(1, T + 1):
        again = reset[at[i - 1], np.arange(B)]
        distance[i] = np.where(again, 1, distance[i - 1] + 1)
    return distance


@pytest.mark.parametrize(("cell", "features"), combinations(most=1), ids=identifier)
def test_truncation_is_what_its_definition_says(cell: str, features: tuple[str, ...]) -> None:
    p = problem(cell, features, T=4, B=3 if "lengths" in features else 2, seed=2)
    T = len(p.x)
    d = direction(p, 3)
    # [k - 1][i, b]: the loss of step i by the parameters and the input of step k
    copies = np.array([by_copy(p, d, k) for k in range(1, T + 1)])
    starts, distance = by_initial_state(p, d), distance_to_start(p)
    assert np.any(starts)
    i, k = np.arange(T + 1)[np.newaxis], np.arange(1, T + 1)[:, np.newaxis]
    for K in range(1, T + 2):
        gradients = p.gradients(K)
        state = {name: v for name, v in d.items() if name in ("h_0", "c_0")}
        others = {name: v for name, v in d.items() if name not in state}
        kept = (i - k >= 0) & (i - k < K)
        close_along(gradients, others, copies[kept].sum())
        close_along(gradients, state, starts[distance < K].sum())
    # K = T + 1 leaves nothing out
    whole = p.gradients()
    for name, gradient in p.gradients(T + 1).items():
        close(gradient, whole[name])


PLAIN = [case for case in combinations(most=1) if not {"lengths", "reset", "reverse"} & set(case[1])]


@pytest.mark.parametrize(("cell", "features"), PLAIN, ids=identifier)
def test_terms(cell: str, features: tuple[str, ...]) -> None:
    p = problem(cell, features, T=4, B=2, seed=4)
    T = len(p.x)
    d = {name: v for name, v in direction(p, 5).items() if name in Weights._fields}
    saved = p.run()[2]
    terms = reference.terms(cell, saved, p.dy)
    assert terms.keys() == d.keys()
    whole = reference.bptt(cell, saved, p.dy, None)[2]._asdict()
    for name, v in d.items():
        assert terms[name].shape == (T, T, *v.shape)
        assert not np.any(terms[name][np.triu_indices(T, 1)])
        close(terms[name].sum((0, 1)), whole[name])
    # dfinal is none of the terms'
    alone = Problem(**{**vars(p), "dfinal": tuple(np.zeros_like(f) for f in p.dfinal)})
    for k in range(1, T + 1):
        derivatives = by_copy(alone, d, k).sum(axis=1)
        for i in range(k, T + 1):
            close_along({name: a[i - 1, k - 1] for name, a in terms.items()}, d, derivatives[i])

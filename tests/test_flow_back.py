"""One step backwards for several gradients, and norms on the way: the kernels and the reference agree."""

from __future__ import annotations

import numpy as np
import pytest
from reference_problems import combinations, problem

from bptt import kernels, reference

pytestmark = pytest.mark.kernels
CASES = combinations(most=2)


def ids(cases):
    return ["-".join((cell, *features)) for cell, features in cases]


def both(p):
    """What each implementation has saved."""
    of_kernels = kernels.unroll(p.cell, p.x, p.state, p.weights, **p.options)[2]
    return of_kernels, p.run()[2]


def gradients(p, count, *, dc=True, seed=3):
    """Gradients (N, B, ...) of the state."""
    rng = np.random.default_rng(seed)
    found = [rng.normal(size=(count, *part.shape)).astype(part.dtype) for part in p.state]
    return found if dc else found[:1]


@pytest.mark.parametrize(("cell", "features"), CASES, ids=ids(CASES))
@pytest.mark.parametrize("together", [False, True])
def test_step_back(cell, features, together):
    p = problem(cell, features, T=3, B=3)
    saved = both(p)
    lengths = p.options.get("lengths", np.full(3, 3))
    for s in range(3):
        there = lengths > (2 - s if together and "reverse" in features else s)
        for count, dc in ((1, False), (3, True)):
            given = gradients(p, count, dc=dc)
            kept = [part.copy() for part in given]
            results = [
                module.step_back(one, s, *given, together=together)
                for module, one in zip((kernels, reference), saved, strict=True)
            ]
            assert all(np.array_equal(a, b) for a, b in zip(given, kept, strict=True))
            assert (results[0][1] is None) == (cell != "lstm")
            for actual, expected in zip(*results, strict=True):
                if expected is not None:
                    np.testing.assert_allclose(actual, expected, rtol=0, atol=2e-12)
                    assert not expected[:, ~there].any()
                    assert not actual[:, ~there].any()


@pytest.mark.parametrize("cell", reference.CELLS)
@pytest.mark.parametrize("features", [(), ("reset",), ("lengths", "reset", "reverse")])
def test_the_first_step_of_a_piece_begins_where_the_piece_does(cell, features):
    p = problem(cell, features, T=4, B=3)
    begin = tuple(part + 1 for part in p.state)
    saved = [
        module.unroll(p.cell, p.x, p.state, p.weights, begin=begin, **p.options)[2]
        for module in (kernels, reference)
    ]
    for s in range(4):
        given = gradients(p, 2)
        results = [
            module.step_back(one, s, *given) for module, one in zip((kernels, reference), saved, strict=True)
        ]
        for actual, expected in zip(*results, strict=True):
            if expected is not None:
                np.testing.assert_allclose(actual, expected, rtol=0, atol=2e-12)


@pytest.mark.parametrize("cell", reference.CELLS)
def test_rows_together_are_those_of_their_own_steps(cell):
    # in reverse: a row's step s is at time length - 1 - s, which is step T - length + s of all together
    p = problem(cell, ("lengths", "reset", "reverse"), T=4, B=3)
    given = gradients(p, 2)
    for module, saved in zip((kernels, reference), both(p), strict=True):
        for row, length in enumerate(p.options["lengths"]):
            for s in range(length):
                own = module.step_back(saved, s, *given)
                together = module.step_back(saved, 4 - length + s, *given, together=True)
                for number, (one, other) in enumerate(zip(own, together, strict=True)):
                    if one is None:
                        continue
                    if number < 2 and s == 0 < 4 - length:  # the way ends in the initial state
                        assert not other[:, row].any()
                    else:
                        assert np.array_equal(one[:, row], other[:, row])


@pytest.mark.parametrize("cell", reference.CELLS)
@pytest.mark.parametrize("reset", [False, True])
def test_a_walk_back_gives_what_bptt_gives(cell, reset):
    # one gradient, through all steps: dL/dh_0, unless a reset cuts the way, and the gradients of the biases
    p = problem(cell, ("reset",) if reset else (), T=4, B=2)
    for module, saved in zip((kernels, reference), both(p), strict=True):
        _, dinitial, dweights = module.bptt(cell, saved, None, p.dfinal)
        state = [part[np.newaxis] for part in p.dfinal]
        biases = np.zeros((2, len(p.weights.weight_hh)))
        for s in reversed(range(4)):
            dh, dc, da_ih, da_hh, _, _ = module.step_back(saved, s, *state)
            state = [dh] if dc is None else [dh, dc]
            biases += da_ih[0].sum(axis=0), da_hh[0].sum(axis=0)
        np.testing.assert_allclose(biases, dweights[2:4], rtol=0, atol=1e-12)
        if not reset:
            for part, expected in zip(state, dinitial, strict=True):
                np.testing.assert_allclose(part[0], expected, rtol=0, atol=1e-12)


def test_in_float32():
    p = problem("lstm", ("zoneout", "dropout"), dtype=np.float32)
    results = [
        module.step_back(saved, 1, *gradients(p, 2))
        for module, saved in zip((kernels, reference), both(p), strict=True)
    ]
    for actual, expected in zip(*results, strict=True):
        assert actual.dtype == expected.dtype == np.float32
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize(("cell", "features"), CASES, ids=ids(CASES))
def test_squares(cell, features):
    p = problem(cell, features, T=3, B=3)
    found = []
    for module, saved in zip((kernels, reference), both(p), strict=True):
        squares = np.full((3, 3), -1.0)
        module.bptt(cell, saved, p.dy, p.dfinal, squares=squares)
        found.append(squares)
    np.testing.assert_allclose(*found, rtol=1e-11)
    assert (found[1][~p.there] == -1).all()  # nothing is written past a row's end
    assert (found[1][p.there] >= 0).all()


@pytest.mark.parametrize("cell", reference.CELLS)
def test_squares_of_a_truncated_gradient(cell):
    p = problem(cell, T=5)
    found = []
    for module, saved in zip((kernels, reference), both(p), strict=True):
        squares = np.empty((5, 3))
        module.bptt(cell, saved, p.dy, p.dfinal, depth=2, squares=squares)
        found.append(squares)
    np.testing.assert_allclose(*found, rtol=1e-11)


def test_squares_are_those_of_the_gradient():
    # dL/dh_t is dL/dh_0 of the sequence that begins after step t, plus dy_t
    p = problem("tanh", T=4)
    for module, saved in zip((kernels, reference), both(p), strict=True):
        squares = np.empty((4, 3))
        module.bptt("tanh", saved, p.dy, p.dfinal, squares=squares)
        y = saved.y
        for t in range(3):
            rest = module.unroll("tanh", p.x[t + 1 :].copy(), (y[t].copy(),), p.weights)[2]
            (carry,) = module.bptt("tanh", rest, p.dy[t + 1 :].copy(), p.dfinal)[1]
            np.testing.assert_allclose(squares[t], np.square(p.dy[t] + carry).sum(axis=1), rtol=1e-12)
        np.testing.assert_allclose(squares[3], np.square(p.dy[3] + p.dfinal[0]).sum(axis=1), rtol=1e-12)


def test_squares_without_steps():
    p = problem("gru", T=0)
    for module, saved in zip((kernels, reference), both(p), strict=True):
        squares = np.empty((0, 3))
        assert module.bptt("gru", saved, p.dy, p.dfinal, squares=squares)[1][0].shape == (3, 3)

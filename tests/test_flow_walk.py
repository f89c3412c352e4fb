"""Norms of all terms by one walk of the kernels, beside those found step by step."""

from __future__ import annotations

import numpy as np
import pytest
from errors import F4, F8, zeros
from numpy_layers import LAYERS, B, T, make, problem
from reference_problems import problem as ground_problem

import bptt
from bptt import kernels, reference
from bptt.flow import expansion

pytestmark = pytest.mark.kernels
OPTIONS = {
    "alone": {},
    "no bias": {"bias": False},
    "noise": {"recurrent_dropout": 0.3, "zoneout": 0.3},
    "two ways": {"bidirectional": True, "zoneout": 0.2},
}
OVER_TIME = {
    "whole": {},
    "lengths": {"lengths": [2, 5, 0, 3]},
    "reset": {"reset": np.random.default_rng(0).random((T, B)) < 0.3},
}


def both(monkeypatch, tape, dy):
    """By the walk, and without it: whether there was one, and the norms of each."""
    walks, walk = [], expansion.walked

    def spy(*arguments):
        walks.append(arguments)
        return walk(*arguments)

    monkeypatch.setattr(expansion, "walked", spy)
    found = tape.terms(dy, reduce="norm")
    monkeypatch.setattr(expansion, "can_walk", lambda *_: False)
    expected = tape.terms(dy, reduce="norm")
    monkeypatch.undo()
    return len(walks) == 1, found, expected


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("over_time", OVER_TIME)
def test_against_steps_one_by_one(monkeypatch, dtype, kind, options, over_time):
    layer = make(kind, **OPTIONS[options], dtype=dtype)
    q = problem(layer)
    tape = layer.record(q.x, q.h_0, seed=5, **OVER_TIME[over_time])[2]
    dy = q.dy.copy()
    dy[1] = 0
    walked, found, expected = both(monkeypatch, tape, dy)
    assert walked == (kind not in ("projected", "peepholes"))
    assert list(found) == list(expected)
    for name, norms in expected.items():
        size = norms.max(initial=0)
        np.testing.assert_allclose(found[name], norms, rtol=0, atol=8 * np.finfo(dtype).eps * size)


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_threads_and_groups_change_no_bit(monkeypatch, kind):
    layer = getattr(bptt, kind)(5, 33, seed=0)
    rng = np.random.default_rng(0)
    tape = layer.record(rng.normal(size=(40, 3, 5)).astype(F4))[2]
    dy = rng.normal(size=(40, 3, 33)).astype(F4)
    expected = tape.terms(dy, reduce="norm", threads=1)
    for size, threads in ((1, 1), (1, 3), (1 << 12, 2), (1 << 30, 2)):
        monkeypatch.setattr(expansion, "STEP_BYTES", size)
        for name, norms in tape.terms(dy, reduce="norm", threads=threads).items():
            assert np.array_equal(norms, expected[name])


def test_rows_that_cancel_and_rows_that_are_tiny(monkeypatch):
    layer = bptt.RNN(2, 20, dtype=F4, seed=0)
    rng = np.random.default_rng(0)
    x = np.repeat(rng.normal(size=(30, 1, 2)), 2, axis=1).astype(F4)
    dy = rng.normal(size=(30, 2, 20)).astype(F4)
    dy[:, 1] = -dy[:, 0]
    left = layer.record(x)[2].terms(dy, reduce="norm")
    dy[:, 1] = 0
    for name, norms in layer.record(x)[2].terms(dy, reduce="norm").items():
        assert (left[name] <= 1e-6 * norms).all()
    for scale in (1e-30, 1e30):
        walked, found, expected = both(monkeypatch, layer.record(x)[2], dy * F4(scale))
        assert walked
        for name, norms in expected.items():
            np.testing.assert_allclose(found[name], norms, rtol=2e-6)


@pytest.mark.parametrize(
    ("layer", "options", "scale"),
    [
        (bptt.RNN, {}, 1e-4),
        (bptt.LSTM, {}, 1e-4),
        (bptt.GRU, {}, 1e-4),
        (bptt.RNN, {"nonlinearity": "identity"}, 50),
    ],
)
def test_gradients_beyond_the_range_of_floats(monkeypatch, layer, options, scale):
    single, double = (layer(5, 37, seed=0, dtype=dtype, **options) for dtype in (F4, F8))
    for name, value in single.parameters.items():
        value *= scale if "hh" in name else 1e-3
        if "bias" in name:
            value[37:74] = -8  # an LSTM and a GRU would keep what is there
        double.parameters[name][:] = value
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 3, 5)).astype(F4) if scale < 1 else zeros(60, 3, 5)
    dy = rng.normal(size=(60, 3, 37)).astype(F4)
    if scale > 1:
        single.parameters["bias_ih_l0"][:] = double.parameters["bias_ih_l0"][:] = 0
        single.parameters["bias_hh_l0"][:] = double.parameters["bias_hh_l0"][:] = 0
    tapes = [one.record(x.astype(one.dtype), lengths=[60, 44, 51])[2] for one in (single, double)]
    walked, found, expected = both(monkeypatch, tapes[0], dy)
    assert walked
    exact = tapes[1].terms(dy.astype(F8), reduce="norm")
    for name, norms in exact.items():
        # a gradient in float32 is a product of up to 60 matrices, each rounded
        np.testing.assert_allclose(found[name], norms, rtol=5e-5, atol=1e-300)
        np.testing.assert_allclose(found[name], expected[name], rtol=2e-6, atol=1e-300)
    norms = exact["bias_hh_l0"]
    assert norms[norms > 0].min() < 1e-60 if scale < 1 else norms.max() > 1e60


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_not_finite(bad):
    tape = bptt.GRU(2, 3, seed=0).record(np.ones((6, 2, 2), F4))[2]
    dy = np.ones((6, 2, 3), F4)
    dy[4, 1, 1] = bad
    for norms in tape.terms(dy, reduce="norm").values():
        assert not np.isfinite(norms[4, 1:5]).any()
        assert np.isfinite(norms[[0, 1, 2, 3, 5]]).all()


@pytest.mark.parametrize("cell", ["gru_reset_before", "lstm", "tanh"])
def test_many_gradients_of_large_states_at_once(cell):
    # whose working memory is beyond what a backward pass of so few rows has
    features = ("dropout", "zoneout")
    p = ground_problem(cell, features if cell != "gru_reset_before" else (), T=3, B=3, H=40)
    saved = kernels.unroll(p.cell, p.x, p.state, p.weights, **p.options)[2]
    rng = np.random.default_rng(0)
    given = [rng.normal(size=(400, *part.shape)) for part in p.state]
    whole = kernels.step_back(saved, 1, *given)
    for n in (0, 399):
        alone = kernels.step_back(saved, 1, *(part[n : n + 1].copy() for part in given))
        for one, of_all in zip(alone, whole, strict=True):
            assert one is None or np.array_equal(one[0], of_all[n])
    slow = reference.step_back(p.run()[2], 1, *(part[:1].copy() for part in given))
    np.testing.assert_allclose(whole[0][:1], slow[0], rtol=0, atol=1e-11)


@pytest.mark.parametrize("cell", [cell for cell in kernels.CELLS if "gru" in cell])
def test_columns_of_both_gradients(cell):
    """All of them, those of r and z, those of n."""
    H = 5
    p = ground_problem(cell, T=3, B=2, H=H)
    saved = kernels.unroll(p.cell, p.x, p.state, p.weights)[2]
    rng = np.random.default_rng(0)
    columns = [(0, 3 * H), (0, 2 * H), (2 * H, 3 * H)]
    spans = np.array([(side, *span) for side in (0, 1) for span in columns])
    factors = rng.normal(size=(3, len(spans), 2))
    loss = rng.normal(size=(1, *p.state[0].shape))
    totals, exponents = np.zeros((1, 3, len(spans))), np.zeros((1, 3), np.int64)
    kernels.walk(saved, loss, np.array([2]), 1, factors, spans, totals, exponents)
    d = kernels.step_back(saved, 2, loss)[2:4]
    for m, (side, first, last) in enumerate(spans):
        expected = ((factors[2, m] @ d[side][0][:, first:last]) ** 2).sum()
        np.testing.assert_allclose(totals[0, 2, m], expected, rtol=1e-12)

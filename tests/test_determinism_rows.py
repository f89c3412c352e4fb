"""The same bits of a sequence, whatever batch it is in and where it stands."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_problems import differing, extras, forward, of_rows, problem, results, same
from kernel_strategies import CELLS, DTYPES, WIDTHS, features_for

from bptt import kernels

pytestmark = pytest.mark.kernels

#: Results that have a row for each sequence.
OF_ROWS = ("y", "h_n", "c_n", "x", "h_0", "c_0")


def other_rows(part, whole, rows):
    """Names of the results of some rows whose bits are others than in the whole batch."""
    names = [name for name in OF_ROWS if name in whole]
    of_whole = {name: np.ascontiguousarray(whole[name][..., rows, :]) for name in names}
    return differing({name: part[name] for name in names}, of_whole)


@settings(max_examples=250)
@given(data=st.data(), dtype=DTYPES, cell=CELLS, H=WIDTHS, tokens=st.booleans(), seed=st.integers(0, 99))
def test_a_sequence_in_any_batch(data, dtype, cell, H, tokens, seed):
    features = data.draw(features_for(cell), label="features")
    B = data.draw(st.sampled_from([*range(1, 20), 31, 47, 48, 49, 64, 65, 96, 97, 130]), label="B")
    T = data.draw(st.sampled_from([1, 2, 5, 12]), label="T")
    I = data.draw(st.sampled_from([1, 3, 16, 40, 260]), label="I")
    depth = data.draw(st.sampled_from([None, 1, 3]), label="depth")
    P = data.draw(st.integers(1, H), label="P") if "projection" in features else None
    options = {"cell": cell, "dtype": dtype, "tokens": tokens, "depth": depth, "features": features, "P": P}
    p = problem(T, B, I, H, seed=seed, **options)
    # rows that stand elsewhere, alone or among others, in another order
    size = data.draw(st.sampled_from([1, 2, 3, 5, 7]), label="rows")
    rows = np.random.default_rng(seed).permutation(B)[:size]
    assert other_rows(results(of_rows(p, rows)), results(p), rows) == []


@pytest.mark.parametrize("cell", kernels.CELLS)
def test_every_batch_size(cell, dtype):
    """One sequence as the last of 1, 2, ..., 130."""
    for H in (1, 5, 16, 33, 64, 70, 130, 650):
        p = problem(3, 130, 6 if H < 650 else 620, H, cell=cell, dtype=dtype)
        alone = results(of_rows(p, np.array([129])))
        for B in (*range(1, 27), 47, 48, 49, 95, 96, 97, 98, 130) if H < 650 else (2, 5, 7, 97, 130):
            batch = results(of_rows(p, np.arange(130 - B, 130)))
            assert other_rows(alone, batch, [B - 1]) == [], (H, B)


@pytest.mark.parametrize(
    ("cell", "H", "P"),
    [
        *(("tanh", H, None) for H in (40, 48, 56, 80, 96, 112)),
        *(("gru_reset_before", H, None) for H in (24, 40, 48, 80)),
        *(("lstm", H, P) for H in (10, 12, 14, 20, 24, 28) for P in (None, 9)),
    ],
)
def test_matrices_of_two_panels(cell, H, P, dtype):
    """A row alone goes through both at once."""
    features = frozenset({"projection"}) if P else frozenset()
    p = problem(3, 40, 5, H, cell=cell, dtype=dtype, features=features, P=P)
    alone = results(of_rows(p, np.array([39])))
    for B in (2, 3, 7, 17, 40):
        assert other_rows(alone, results(of_rows(p, np.arange(40 - B, 40))), [B - 1]) == [], B


@pytest.mark.parametrize("features", [(), ("layer_norm",), ("layer_norm", "lengths")])
@pytest.mark.parametrize("cell", ["tanh", "lstm", "gru"])
def test_more_kept_than_the_caches_hold(cell, features, dtype):
    """What goes past the caches is what three rows alone leave in them: more than 4 MiB, and little."""
    p = problem(20, 900 if cell == "tanh" else 230, 5, 64, cell=cell, dtype=dtype, features=features)
    rows = np.array([0, 100, 229])
    assert other_rows(results(of_rows(p, rows)), results(p), rows) == []


@pytest.mark.parametrize("cell", kernels.CELLS)
def test_every_batch_size_with_options(cell, dtype):
    """A sequence as one of 1, 2, ..., 130 that end, begin anew and are dropped elsewhere."""
    for H in (5, 33, 70):
        p = problem(6, 130, 9, H, cell=cell, dtype=dtype, features=extras(cell))
        p.options["lengths"][129] = 5
        alone = results(of_rows(p, np.array([129])))
        for B in (*range(1, 27), 47, 48, 49, 64, 65, 66, 95, 96, 97, 128, 129, 130):
            batch = results(of_rows(p, np.arange(130 - B, 130)))
            assert other_rows(alone, batch, [B - 1]) == [], (H, B)


@pytest.mark.parametrize("cell", kernels.CELLS)
@pytest.mark.parametrize("B", [64, 65, 66, 67, 95, 97, 129, 131])
def test_nothing_kept(B, cell, dtype):
    """The bits are those of a pass that is kept, whatever the number of rows in a block."""
    for features in ((), extras(cell)):
        p = problem(9, B, 5, 9, cell=cell, dtype=dtype, features=features)
        y, final, _ = forward(p)
        bare_y, bare_final, nothing = forward(p, keep=False)
        assert nothing is None
        assert same(bare_y, y)
        for bare, part in zip(bare_final, final, strict=True):
            assert same(bare, part)


def test_a_row_of_the_readout_in_any_batch(dtype):
    rng = np.random.default_rng(0)
    for K, O in ((1, 1), (7, 33), (64, 130), (300, 65), (257, 512)):
        x, weight, bias, dy = (rng.normal(size=s).astype(dtype) for s in ((130, K), (O, K), (O,), (130, O)))
        y = kernels.affine(x, weight, bias)
        dx, _, _ = kernels.affine_backward(x, weight, dy)
        for first, last in ((0, 1), (129, 130), (3, 5), (50, 57), (1, 130), (17, 113)):
            assert same(kernels.affine(x[first:last], weight, bias), y[first:last])
            assert same(kernels.affine_backward(x[first:last], weight, dy[first:last])[0], dx[first:last])

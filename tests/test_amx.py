"""Weight gradients on the AMX unit: as accurate as on the tile, and numbers that the unit can't take."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from kernel_problems import error, problem, results, widened
from thresholds import EVERYWHERE

from bptt import kernels

pytestmark = [
    pytest.mark.kernels,
    pytest.mark.thread_unsafe("says for the whole process what the unit is used for"),
    pytest.mark.skipif(not kernels.amx, reason="not in use"),
]

#: Gradients that come from products the unit can take.
PRODUCTS = ("weight_ih", "weight_hh")


@pytest.fixture(autouse=True)
def as_before():
    yield
    kernels.use_amx(True, **EVERYWHERE)


def on_unit(p, numbers=1, rows=1):
    """With nothing in whole numbers."""
    kernels.use_amx(True, numbers=numbers, rows=rows, terms=10**9)
    return results(p)


def on_tile(p):
    kernels.use_amx(False)
    return results(p)


def exact(p):
    """In float64."""
    return results(widened(p))


@pytest.mark.parametrize("cell", ["tanh", "lstm", "gru"])
def test_a_state_of_zeros_normalised(cell):
    """The gradient of the first pre-activations is hundreds of times the next ones', and adds nothing."""
    p = problem(8, 32, 70, 80, cell=cell, dtype=np.float32, features=("layer_norm",))
    p.weights.weight_hh[...] *= 8
    for state in p.state:
        state[...] = 0
    unit, tile, wanted = (got["weight_hh"] for got in (on_unit(p), on_tile(p), exact(p)))
    assert (unit != tile).mean() > 0.5  # or the tile has taken it
    assert error(unit, wanted) <= 1.5 * error(tile, wanted)


@pytest.mark.parametrize("cell", kernels.CELLS)
@pytest.mark.parametrize("sizes", [(9, 33, 70, 80), (40, 3, 200, 112), (3, 300, 33, 48), (300, 8, 33, 48)])
def test_no_less_accurate_than_the_tile(cell, sizes):
    """Sums over 80 to 2400 terms; 3 x 300: a step that is more than one block of rows."""
    p = problem(*sizes, cell=cell, dtype=np.float32)
    unit, tile, wanted = on_unit(p), on_tile(p), exact(p)
    differs = 0
    for name in PRODUCTS:
        assert error(unit[name], wanted[name]) <= 1.5 * error(tile[name], wanted[name]), name
        differs += not np.array_equal(unit[name], tile[name])
    assert differs == 2  # or the unit has not been used
    for name in unit.keys() - set(PRODUCTS):
        assert np.array_equal(unit[name], tile[name]), name


@pytest.mark.parametrize("factor", [1e-36, 1e-30, 1e12, 1e25])
@pytest.mark.parametrize("cell", ["tanh", "lstm", "gru"])
def test_gradients_out_of_range(cell, factor):
    """Units and what numbers are multiplied by are in range for numbers from 2^-96 to 2^96 only."""
    p = problem(6, 11, 40, 48, cell=cell, dtype=np.float32)
    p = replace(p, dy=p.dy * np.float32(factor), dfinal=None)
    unit, wanted = on_unit(p), exact(p)
    for name in PRODUCTS:
        assert error(unit[name], wanted[name]) < 1e-5, name


@pytest.mark.parametrize("value", [1e-36, 1e20, 3e38])
def test_operands_out_of_range(value):
    """A part of 64 columns of x is beyond the unit, the others are not."""
    p = problem(5, 9, 150, 40, cell="identity", dtype=np.float32)
    x, weight = p.x.copy(), p.weights.weight_ih.copy()
    x[..., 130:] *= np.float32(value / 4 if value > 1e30 else value)
    weight[:, 130:] = 0  # so that the states are ordinary
    p = replace(p, x=x, weights=p.weights._replace(weight_ih=weight), dy=p.dy * np.float32(1e-3), dfinal=None)
    unit, wanted = on_unit(p)["weight_ih"], exact(p)["weight_ih"]
    assert np.isfinite(unit).all()
    for columns in (slice(0, 130), slice(130, None)):
        assert error(unit[..., columns], wanted[..., columns]) < 1e-5


def fading(p, kept):
    """The problem with a loss at the last step only; of unit i kept[i] h goes on to the next step."""
    dy = np.zeros_like(p.dy)
    dy[-1] = p.dy[-1]
    weights = p.weights._replace(weight_hh=np.diag(kept).astype(np.float32))
    return replace(p, dy=dy, weights=weights, dfinal=None)


def test_what_is_left_of_a_gradient_that_fades():
    """Each column of x is 0 but for six steps: what the gradient is then is all of its own gradient."""
    p = problem(240, 1, 40, 48, cell="identity", dtype=np.float32)
    x = np.zeros_like(p.x)
    for column in range(40):
        x[6 * column : 6 * column + 6, :, column] = 1
    p = fading(replace(p, x=x), np.full(48, 0.9))
    unit, wanted = on_unit(p)["weight_ih"], exact(p)["weight_ih"]
    assert np.abs(wanted[:, 0]).max() < 1e-8 * np.abs(wanted[:, -1]).max()
    for column in range(40):
        assert error(unit[:, column], wanted[:, column]) < 1e-5, column


@pytest.mark.parametrize("cell", ["identity", "gru"])
def test_only_units_whose_gradient_fades_are_left_to_the_tile(cell):
    kept = np.ones(48)
    kept[16:32] = 0.9
    p = problem(240, 1, 40, 48, cell=cell, dtype=np.float32)
    if cell == "identity":
        p = fading(p, kept)
        on_the_tile = np.arange(16, 32)
    else:  # no gradient reaches the units but in the last steps, and little is kept from one to the next
        weight_hh, dy = p.weights.weight_hh.copy(), p.dy.copy()
        dy[:-8, :, 16:32] = 0
        weight_hh[:, 16:32] = 0
        bias = p.weights.bias_ih.copy()
        bias[48 + 16 : 48 + 32] = -4  # of z
        weights = p.weights._replace(weight_hh=weight_hh, bias_ih=bias)
        p = replace(p, dy=dy, weights=weights, dfinal=None)
        on_the_tile = np.concatenate([np.arange(16, 32) + 48 * gate for gate in range(3)])
    unit, tile, wanted = on_unit(p), on_tile(p), exact(p)
    others = np.setdiff1d(np.arange(len(unit["weight_ih"])), on_the_tile)
    for name in PRODUCTS:
        assert np.array_equal(unit[name][on_the_tile], tile[name][on_the_tile]), name
        for group in others.reshape(-1, 16):
            assert not np.array_equal(unit[name][group], tile[name][group]), name
        assert error(unit[name], wanted[name]) <= 1.5 * error(tile[name], wanted[name]), name


def test_a_column_with_one_large_number():
    """As of a value that stands for none, where there is no gradient: the other numbers keep their digits."""
    p = problem(40, 6, 100, 48, cell="tanh", dtype=np.float32)
    x, dy = p.x.copy(), p.dy.copy()
    x[-1, :, 70:] = -9999
    dy[-1] = 0
    p = replace(p, x=x, dy=dy, dfinal=None)
    unit, tile, wanted = on_unit(p)["weight_ih"], on_tile(p)["weight_ih"], exact(p)["weight_ih"]
    assert np.array_equal(unit[:, 64:], tile[:, 64:])  # the panel that the columns are in
    assert not np.array_equal(unit[:, :64], tile[:, :64])
    assert error(unit[:, 70:], wanted[:, 70:]) <= 1.5 * error(tile[:, 70:], wanted[:, 70:])


def test_small_matrices_and_few_rows_are_left_to_the_tile():
    p = problem(8, 5, 40, 48, cell="lstm", dtype=np.float32)
    tile = on_tile(p)
    for name, value in on_unit(p, numbers=10**6).items():
        assert np.array_equal(value, tile[name]), name
    for name, value in on_unit(p, rows=1000).items():
        assert np.array_equal(value, tile[name]), name


def test_float64_never_goes_there():
    p = problem(8, 5, 40, 48, cell="gru", dtype=np.float64)
    unit, tile = on_unit(p), on_tile(p)
    for name, value in unit.items():
        assert np.array_equal(value, tile[name]), name

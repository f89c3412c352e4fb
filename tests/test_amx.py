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
    """Parts of numbers below 2^-110 would be denormal, which the unit takes for 0."""
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

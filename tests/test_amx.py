"""Products on the AMX unit: as accurate as those of the tile, and numbers that the unit can't take."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from kernel_problems import problem, results

from bptt import kernels

pytestmark = [
    pytest.mark.kernels,
    pytest.mark.thread_unsafe("says for the whole process what the unit is used for"),
    pytest.mark.skipif(not kernels.amx, reason="not in use"),
]

#: Gradients that come from products the unit can take.
PRODUCTS = ("x", "weight_ih", "weight_hh")


@pytest.fixture(autouse=True)
def as_before():
    yield
    kernels.use_amx(True, numbers=256, rows=1)


def on_unit(p, **least):
    kernels.use_amx(True, **({"numbers": 1, "rows": 1} | least))
    return results(p)


def on_tile(p):
    kernels.use_amx(False)
    return results(p)


def exact(p):
    """In float64."""

    def wide(array):
        return None if array is None else array.astype(np.float64)

    return results(
        replace(
            p,
            x=wide(p.x),
            state=tuple(map(wide, p.state)),
            weights=type(p.weights)(*map(wide, p.weights)),
            dy=wide(p.dy),
            dfinal=p.dfinal and tuple(map(wide, p.dfinal)),
        )
    )


def error(result, wanted):
    """Largest difference, relative to the largest entry."""
    return np.abs(result - wanted).max() / np.abs(wanted).max()


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
    assert differs >= 2  # or the unit has not been used
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


def test_rows_out_of_range_change_no_other():
    """dx of one row is beyond the unit; its neighbours' bits stay those they have without it."""
    p = problem(4, 20, 40, 48, cell="tanh", dtype=np.float32)
    p = replace(p, dfinal=None)
    far = replace(p, dy=p.dy.copy())
    far.dy[:, 7] *= np.float32(1e-36)
    usual, mixed, wanted = on_unit(p)["x"], on_unit(far)["x"], exact(far)["x"]
    others = np.arange(20) != 7
    assert np.array_equal(mixed[:, others], usual[:, others])
    assert error(mixed[:, 7], wanted[:, 7]) < 1e-5


@pytest.mark.parametrize("value", [1e-36, 1e20, 3e38])
@pytest.mark.parametrize("where", ["x", "weight_ih"])
def test_operands_out_of_range(where, value):
    """A part of 64 columns of x or of W_ih is beyond the unit, the others are not."""
    p = problem(5, 9, 150, 40, cell="identity", dtype=np.float32)
    if where == "x":
        x = p.x.copy()
        x[..., 130:] *= np.float32(value / 4 if value > 1e30 else value)
        p = replace(p, x=x, state=tuple(np.zeros_like(s) for s in p.state))
        weight = p.weights.weight_ih.copy()
        weight[:, 130:] = 0  # so that the states are ordinary
    else:
        weight = p.weights.weight_ih.copy()
        weight[:, 130:] *= np.float32(value / 4 if value > 1e30 else value)
        x = p.x.copy()
        x[..., 130:] = 0
        p = replace(p, x=x)
    p = replace(p, weights=p.weights._replace(weight_ih=weight), dy=p.dy * np.float32(1e-3), dfinal=None)
    unit, wanted = on_unit(p), exact(p)
    name = "weight_ih" if where == "x" else "x"
    assert np.isfinite(unit[name]).all()
    for columns in (slice(0, 130), slice(130, None)):
        assert error(unit[name][..., columns], wanted[name][..., columns]) < 1e-5


def test_not_a_number_stays_where_it_is():
    """A row with inf or NaN has them in dx where the tile has them, and no other row has any."""
    p = problem(3, 10, 40, 48, cell="tanh", dtype=np.float32)
    p = replace(p, dy=p.dy.copy(), dfinal=None)
    p.dy[1, 4], p.dy[0, 6] = np.inf, np.nan
    unit, tile = on_unit(p)["x"], on_tile(p)["x"]
    assert np.array_equal(np.isnan(unit), np.isnan(tile))
    assert np.array_equal(np.isinf(unit), np.isinf(tile))
    assert np.isfinite(np.delete(unit, [4, 6], axis=1)).all()


def test_small_matrices_and_few_rows_are_left_to_the_tile():
    p = problem(8, 5, 40, 48, cell="lstm", dtype=np.float32)
    tile = on_tile(p)
    for name, value in on_unit(p, numbers=10**6).items():
        assert np.array_equal(value, tile[name]), name
    few = on_unit(p, rows=1000)
    assert np.array_equal(few["weight_ih"], tile["weight_ih"])
    assert np.array_equal(few["weight_hh"], tile["weight_hh"])
    assert not np.array_equal(few["x"], tile["x"])


def test_float64_never_goes_there():
    p = problem(8, 5, 40, 48, cell="gru", dtype=np.float64)
    unit, tile = on_unit(p), on_tile(p)
    for name, value in unit.items():
        assert np.array_equal(value, tile[name]), name

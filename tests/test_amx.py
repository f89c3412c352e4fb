"""Products on the AMX unit: as accurate as those of the tile, and numbers that the unit can't take.

The problems are small; what goes to the unit is said in each test, mostly weight gradients and dx alone.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from kernel_problems import of_rows, problem, results

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
    kernels.use_amx(True, numbers=256, rows=1, input_numbers=256, step_numbers=256)


def on_unit(p, **least):
    kernels.use_amx(True, **({"numbers": 1, "rows": 1, "input_numbers": 1, "step_numbers": 10**9} | least))
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


def everywhere(p):
    """With the products of every step on the unit too."""
    return on_unit(p, step_numbers=1)


@pytest.mark.parametrize("cell", kernels.CELLS)
@pytest.mark.parametrize("sizes", [(9, 33, 70, 80), (7, 1, 200, 112), (5, 17, 33, 300), (2, 200, 33, 48)])
def test_every_step_is_no_less_accurate_than_on_the_tile(cell, sizes):
    """Rows for one, two and many tiles of the unit; panels of all widths."""
    p = problem(*sizes, cell=cell, dtype=np.float32)
    unit, tile, wanted = everywhere(p), on_tile(p), exact(p)
    for name in unit.keys() & wanted.keys():
        assert error(unit[name], wanted[name]) <= 1.5 * error(tile[name], wanted[name]) + 2e-7, name
    assert not np.array_equal(unit["y"], tile["y"])  # or the unit has not been used


@pytest.mark.parametrize("cell", ["tanh", "lstm", "gru", "gru_reset_before"])
def test_a_row_alone_has_the_bits_that_it_has_among_others(cell):
    """1 row, few rows and many go to different pieces of code."""
    p = problem(4, 70, 150, 90, cell=cell, dtype=np.float32)
    kernels.use_amx(True, numbers=1, rows=1, input_numbers=1, step_numbers=1)
    whole = results(p)
    for rows in (slice(0, 1), slice(5, 7), slice(3, 18), slice(20, 36), slice(1, 40)):
        some = results(of_rows(p, rows))
        for name in ("y", "h_n", "x", "h_0"):
            axis = 1 if whole[name].ndim == 3 else 0
            assert np.array_equal(some[name], whole[name].take(range(70)[rows], axis)), (name, rows)


@pytest.mark.parametrize("value", [1e-36, 1e20])
@pytest.mark.parametrize("name", ["weight_ih", "weight_hh"])
def test_weights_out_of_range_at_every_step(name, value):
    p = problem(5, 9, 70, 40, cell="identity", dtype=np.float32)
    weight = getattr(p.weights, name).copy()
    weight[7] *= np.float32(value)
    weight[7, 1:] = 0
    p = replace(p, weights=p.weights._replace(**{name: weight}), x=p.x[:1], dy=p.dy[:1], dfinal=None)
    unit, wanted = everywhere(p), exact(p)
    for column in range(40):
        assert error(unit["y"][..., column], wanted["y"][..., column]) < 1e-5, column


@pytest.mark.parametrize("cell", ["relu", "lstm", "gru"])
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e-38, 1e30, 0])
def test_a_row_out_of_range_at_every_step_changes_no_other(cell, value):
    p = problem(3, 20, 40, 48, cell=cell, dtype=np.float32)
    usual = everywhere(p)
    p.x[1, 7] = value
    other, tile = everywhere(p), on_tile(p)
    rest = np.arange(20) != 7
    for name in ("y", "x"):
        assert np.array_equal(other[name][:, rest], usual[name][:, rest])
        assert np.array_equal(np.isnan(other[name]), np.isnan(tile[name]))
        assert np.array_equal(np.isinf(other[name]), np.isinf(tile[name]))
        finite = np.isfinite(tile[name])
        assert np.allclose(other[name][finite], tile[name][finite], rtol=1e-3, atol=1e-5)


def test_small_matrices_and_few_rows_are_left_to_the_tile():
    p = problem(8, 5, 40, 48, cell="lstm", dtype=np.float32)
    tile = on_tile(p)
    for name, value in on_unit(p, numbers=10**6, input_numbers=10**6).items():
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

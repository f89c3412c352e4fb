"""Products in whole numbers: as accurate as on the tile, a row's bits anywhere, numbers they don't suit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from kernel_problems import error, of_rows, problem, results, widened
from thresholds import EVERYWHERE

from bptt import kernels

pytestmark = [
    pytest.mark.kernels,
    pytest.mark.thread_unsafe("says for the whole process what is made in whole numbers"),
    pytest.mark.skipif(not kernels.amx, reason="not in use"),
]

#: What the products are wanted for: outputs, dx, and dL/dh of the recurrence.
PRODUCTS = {"forward_numbers": "y", "input_numbers": "x", "back_numbers": "h_0"}


@pytest.fixture(autouse=True)
def as_before():
    yield
    kernels.use_amx(True, **EVERYWHERE)


def whole(p, **least):
    """Weight gradients are left to the tile."""
    kernels.use_amx(True, **({"numbers": 10**9, "terms": 1} | (least or dict.fromkeys(PRODUCTS, 1))))
    return results(p)


def on_tile(p):
    kernels.use_amx(False)
    return results(p)


def with_weights(p, **weights):
    return replace(p, weights=p.weights._replace(**weights))


@pytest.mark.parametrize("cell", kernels.CELLS)
@pytest.mark.parametrize("sizes", [(9, 33, 70, 80), (7, 1, 200, 112), (5, 17, 33, 300), (2, 200, 33, 48)])
def test_no_less_accurate_than_the_tile(cell, sizes):
    """Rows for the vector instruction, for one, two and many tiles of the unit; columns of all remainders.

    A sum of few terms is rounded at the size of its largest factors, which the tile does better; the second
    bound is for those.
    """
    p = problem(*sizes, cell=cell, dtype=np.float32)
    ours, tile, wanted = whole(p), on_tile(p), results(widened(p))
    for name in ours.keys() & wanted.keys():
        bound = max(1.5 * error(tile[name], wanted[name]), 8e-7)
        assert error(ours[name], wanted[name]) <= bound, name
    for name in PRODUCTS.values():
        assert not np.array_equal(ours[name], tile[name]), name  # or they have not been used


def test_small_matrices_and_short_sums_are_left_to_the_tile():
    p = problem(4, 5, 40, 48, cell="lstm", dtype=np.float32)
    tile = on_tile(p)
    for least in ({"terms": 10**6}, dict.fromkeys(PRODUCTS, 10**6)):
        for name, value in whole(p, **least).items():
            assert np.array_equal(value, tile[name]), name
    for least, name in PRODUCTS.items():
        some = whole(p, **(dict.fromkeys(PRODUCTS, 10**6) | {least: 1}))
        assert not np.array_equal(some[name], tile[name])
        assert least == "forward_numbers" or np.array_equal(some["y"], tile["y"])


def test_float64_never_is():
    p = problem(8, 5, 40, 48, cell="gru", dtype=np.float64)
    ours, tile = whole(p), on_tile(p)
    for name, value in ours.items():
        assert np.array_equal(value, tile[name]), name


@pytest.mark.parametrize("cell", ["tanh", "lstm", "gru", "gru_reset_before"])
def test_a_row_alone_has_the_bits_that_it_has_among_others(cell):
    """1 row, few rows, many, and a few more than whole tiles go to different pieces of code."""
    p = problem(4, 70, 150, 90, cell=cell, dtype=np.float32)
    p.x[:, 6, 20:] *= np.float32(1e-4)  # a row that is taken twice
    usual = whole(p)
    few = (slice(0, 1), slice(6, 7), slice(5, 7), slice(3, 18), slice(20, 36), slice(1, 40))
    over = (slice(20, 37), slice(2, 19), slice(0, 20), slice(30, 64), slice(6, 57))
    for rows in few + over:
        some = results(of_rows(p, rows))
        for name in ("y", "h_n", "x", "h_0"):
            axis = 1 if usual[name].ndim == 3 else 0
            assert np.array_equal(some[name], usual[name].take(range(70)[rows], axis)), (name, rows)


@pytest.mark.parametrize("B", [1, 5, 40])
@pytest.mark.parametrize("power", [2, 40])
def test_features_of_other_sizes_whose_weights_make_up_for_it(power, B):
    """Powers of two change no bit: what is rounded is rounded as before."""
    p = problem(3, B, 70, 48, cell="tanh", dtype=np.float32)
    scale = np.float32(2.0) ** np.random.default_rng(0).integers(-power, power, 70).astype(np.float32)
    other = replace(with_weights(p, weight_ih=p.weights.weight_ih / scale), x=p.x * scale)
    assert np.array_equal(whole(other)["y"], whole(p)["y"])


@pytest.mark.parametrize("B", [1, 40])
@pytest.mark.parametrize("power", [2, 40])
def test_units_of_other_sizes_whose_gradients_make_up_for_it(power, B):
    p = problem(1, B, 70, 48, cell="identity", dtype=np.float32)
    p = replace(p, dfinal=None)
    scale = np.float32(2.0) ** np.random.default_rng(0).integers(-power, power, 48).astype(np.float32)
    weight = p.weights.weight_ih / scale[:, np.newaxis]
    other = replace(with_weights(p, weight_ih=weight), dy=p.dy * scale)
    assert np.array_equal(whole(other)["x"], whole(p)["x"])


@pytest.mark.parametrize("largest", [1e3, 1e6, 1e9])
def test_a_row_of_numbers_of_many_sizes(largest):
    """Each unit reads one feature, so none may lose by what the others are."""
    p = problem(1, 9, 64, 64, cell="identity", dtype=np.float32)
    p.x[..., 5] = largest
    p.state[0][:] = 0
    eye, none = np.eye(64, dtype=np.float32), np.zeros(64, np.float32)
    y = whole(with_weights(p, weight_ih=eye, bias_ih=none, bias_hh=none))["y"]
    assert np.abs(y - p.x).max(axis=(0, 1))[np.arange(64) != 5].max() < largest * 2**-46 + 2**-21
    assert np.abs(y[..., 5] / largest - 1).max() < 3e-7


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("name", ["weight_ih", "weight_hh"])
def test_a_matrix_of_numbers_of_many_sizes_is_left_to_the_tile(name, axis):
    p = problem(3, 5, 80, 80, cell="tanh", dtype=np.float32)
    weight = getattr(p.weights, name).copy()
    weight[(7, 9) if axis else (9, 7)] *= 1e4
    p = with_weights(p, **{name: weight})
    rest = {"weight_ih": "weight_hh", "weight_hh": "weight_ih"}[name]
    p = with_weights(p, **{rest: np.zeros_like(weight)})  # whose products are exact either way
    assert np.array_equal(whole(p, forward_numbers=1)["y"], on_tile(p)["y"])


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("apart", [4, 64])
@pytest.mark.parametrize("name", ["weight_ih", "weight_hh"])
def test_rows_or_columns_of_other_sizes(name, apart, axis):
    """The largest weights of all features and of all units share a power of two; or those of one do not."""
    p = problem(4, 6, 80, 72, cell="tanh", dtype=np.float32)
    weight = getattr(p.weights, name)
    scale = np.geomspace(1 / apart, 1, weight.shape[axis]).astype(np.float32)
    p = with_weights(p, **{name: weight * (scale if axis else scale[:, np.newaxis])})
    ours, tile, wanted = whole(p), on_tile(p), results(widened(p))
    for result in PRODUCTS.values():
        bound = max(1.5 * error(tile[result], wanted[result]), 8e-7)
        assert error(ours[result], wanted[result]) <= bound, result
        assert not np.array_equal(ours[result], tile[result]), result


@pytest.mark.parametrize("value", [1e-36, 1e20])
@pytest.mark.parametrize("name", ["weight_ih", "weight_hh"])
def test_weights_out_of_range(name, value):
    p = problem(5, 9, 70, 40, cell="identity", dtype=np.float32)
    weight = getattr(p.weights, name).copy()
    weight[7] *= np.float32(value)
    weight[7, 1:] = 0
    p = replace(with_weights(p, **{name: weight}), x=p.x[:1], dy=p.dy[:1], dfinal=None)
    ours, wanted = whole(p), results(widened(p))
    for column in range(40):
        assert error(ours["y"][..., column], wanted["y"][..., column]) < 1e-5, column


@pytest.mark.parametrize("cell", ["relu", "lstm", "gru"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e-38, 1e30, 0])
def test_a_row_out_of_range_changes_no_other(cell, value):
    p = problem(3, 20, 40, 48, cell=cell, dtype=np.float32)
    usual = whole(p)
    p.x[1, 7] = value
    other, tile = whole(p), on_tile(p)
    rest = np.arange(20) != 7
    for name in ("y", "x"):
        assert np.array_equal(other[name][:, rest], usual[name][:, rest])
        assert np.array_equal(np.isnan(other[name]), np.isnan(tile[name]))
        assert np.array_equal(np.isinf(other[name]), np.isinf(tile[name]))
        finite = np.isfinite(tile[name])
        assert np.allclose(other[name][finite], tile[name][finite], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("factor", [1e-36, 1e-30, 1e12, 1e25])
@pytest.mark.parametrize("cell", ["tanh", "lstm", "gru"])
def test_gradients_out_of_range(cell, factor):
    p = problem(6, 11, 40, 48, cell=cell, dtype=np.float32)
    p = replace(p, dy=p.dy * np.float32(factor), dfinal=None)
    ours, wanted = whole(p), results(widened(p))
    for name in ("x", "h_0"):
        assert error(ours[name], wanted[name]) < 1e-5, name


def test_a_gradient_that_is_no_number_stays_where_it_is():
    p = problem(3, 10, 40, 48, cell="tanh", dtype=np.float32)
    p = replace(p, dy=p.dy.copy(), dfinal=None)
    p.dy[1, 4], p.dy[0, 6] = np.inf, np.nan
    ours, tile = whole(p)["x"], on_tile(p)["x"]
    assert np.array_equal(np.isnan(ours), np.isnan(tile))
    assert np.array_equal(np.isinf(ours), np.isinf(tile))
    assert np.isfinite(np.delete(ours, [4, 6], axis=1)).all()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_weight_that_is_no_number(value):
    p = problem(2, 5, 40, 48, cell="tanh", dtype=np.float32)
    p.weights.weight_hh[3, 4] = value
    ours, tile = whole(p, forward_numbers=1), on_tile(p)
    assert np.array_equal(np.isnan(ours["y"]), np.isnan(tile["y"]))


@pytest.mark.parametrize(("I", "used"), [(16384, True), (16385, False)])
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("B", [1, 3, 20])
def test_the_longest_sum(I, used, sign, B):
    """All digits are as large as they can be; one more term might leave the range of 32 bits."""
    p = problem(1, B, I, 8, cell="identity", dtype=np.float32)
    p.x[:], p.state[0][:] = 1, 0
    weight, none = np.full((8, I), sign, np.float32), np.zeros(8, np.float32)
    p = with_weights(p, weight_ih=weight, bias_ih=none, bias_hh=none)
    y = whole(p, forward_numbers=1)["y"]
    assert np.abs(y * np.float32(sign) / I - 1).max() < 3e-7
    p.x[:] = np.random.default_rng(0).standard_normal(p.x.shape)
    assert np.array_equal(whole(p, forward_numbers=1)["y"], on_tile(p)["y"]) != used

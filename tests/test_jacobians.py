"""Products of the state Jacobians: against backward, closed forms, golden values; norms and exponents."""

from __future__ import annotations

import numpy as np
import pytest
from errors import F4, F8, raises, zeros
from golden_cases import load
from numpy_layers import LAYERS, B, H, T, make, parts_of, problem, size_of_h
from numpy_rnn import close

import bptt
from bptt.flow import jacobians

NOISE = {"recurrent_dropout": 0.3, "zoneout": 0.3}


def recorded(kind, *, options=None, over_time=None, backend="kernels", dtype=F8):
    layer = make(kind, **(options or {}), backend=backend, dtype=dtype)
    q = problem(layer)
    return layer, q, layer.record(q.x, q.h_0, seed=5, **(over_time or {}))[2]


def by_unit_gradients(layer, q, i):
    """ds_i/ds_0 (B, S, S) of one layer: row by row what backward gives for the initial state."""
    tape = layer.record(q.x[:i], q.h_0, seed=5)[2]
    sizes = [part.shape[2] for part in parts_of(q.h_0)]
    rows = []
    for number, size in enumerate(sizes):
        for entry in range(size):
            unit = [np.zeros((1, B, other), q.x.dtype) for other in sizes]
            unit[number][0, :, entry] = 1
            g = tape.backward(dh_n=unit[0] if len(unit) == 1 else tuple(unit))
            parts = [g.h_0] if g.c_0 is None else [g.h_0, g.c_0]
            rows.append(np.concatenate([part[0] for part in parts], axis=1))
    return np.array(rows).transpose(1, 0, 2)


# ------------------------------------------------------------------------------------- products


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (kind, options)
        for kind in LAYERS
        for options in ({}, {"recurrent_dropout": 0.3}, {"layer_norm": True})
        if (kind, options) != ("reset_before", {"layer_norm": True})
    ],
)
def test_products_are_what_backward_gives(backend, kind, options):
    layer, q, tape = recorded(kind, options=options, backend=backend)
    products = tape.jacobian_products()
    S = size_of_h(layer) + (H if isinstance(layer, bptt.LSTM) else 0)
    assert (products.steps, products.size) == (T, S)
    for i in (1, 3, T):
        product = products.product(i, 0)
        assert product.shape == (B, S, S)
        close(product, by_unit_gradients(layer, q, i))


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("over_time", [{}, {"reset": np.random.default_rng(1).random((T, B)) < 0.3}])
def test_products_multiply(backend, kind, over_time):
    _, _, tape = recorded(kind, options=NOISE, over_time=over_time, backend=backend)
    products = tape.jacobian_products()
    S = products.size
    whole = np.broadcast_to(np.eye(S), (B, S, S))
    for t in range(1, T + 1):
        whole = products.jacobian(t) @ whole
        close(products.product(t, 0), whole)
        assert np.array_equal(products.product(t, t), np.broadcast_to(np.eye(S), (B, S, S)))
    close(products.product(4, 1), products.jacobian(4) @ products.jacobian(3) @ products.jacobian(2))
    v = np.random.default_rng(0).normal(size=(3, B, S))
    close(products.apply(v, 4, 1), np.einsum("nbq,bqp->nbp", v, products.product(4, 1)))
    if over_time:
        cut = np.argwhere(over_time["reset"][1:])
        assert len(cut)
        for t, row in cut:
            assert not products.jacobian(t + 2)[row].any()


def test_layers_and_directions():
    layer, _, tape = recorded("GRU", options={"num_layers": 2, "bidirectional": True})
    for level in range(2):
        for direction in range(2):
            products = tape.jacobian_products(layer=level, direction=direction)
            # alone, the unit is a layer of its own, fed with what it was fed with here
            suffix = f"_l{level}" + ("_reverse" if direction else "")
            x = tape.x if level == 0 else np.concatenate(tape.h[0], axis=2)
            alone = bptt.GRU(x.shape[2], H, dtype=F8)
            for name in alone.parameters:
                alone.parameters[name] = layer.parameters[name.replace("_l0", suffix)]
            h_0 = tape.h_0[2 * level + direction][np.newaxis]
            order = slice(None, None, -1) if direction else slice(None)
            expected = alone.record(x[order], h_0)[2].jacobian_products()
            for t in range(1, T + 1):
                close(products.jacobian(t), expected.jacobian(t))
    last = tape.jacobian_products(direction=1)
    assert np.array_equal(last.jacobian(2), tape.jacobian_products(layer=1, direction=1).jacobian(2))
    assert np.array_equal(
        tape.jacobian_products(layer=-2).jacobian(2), tape.jacobian_products(layer=0).jacobian(2)
    )


def test_unbatched():
    layer = make("LSTM")
    q = problem(layer, batch=1)
    batched = layer.record(q.x, q.h_0)[2].jacobian_products()
    alone = layer.record(q.x[:, 0], tuple(part[:, 0] for part in q.h_0))[2].jacobian_products()
    assert np.array_equal(alone.product(3, 1), batched.product(3, 1)[0])
    assert np.array_equal(alone.jacobian(1), batched.jacobian(1)[0])
    assert np.array_equal(alone.singular_values(), batched.singular_values()[:, 0])
    assert np.array_equal(alone.singular_values(row=0), batched.singular_values()[:, 0])
    assert np.array_equal(alone.norms(), batched.norms()[:, 0])
    assert np.array_equal(alone.lyapunov(), batched.lyapunov()[0])
    v = np.random.default_rng(0).normal(size=(2, 8))
    assert np.array_equal(alone.apply(v, 3, 1), batched.apply(v[:, np.newaxis], 3, 1)[:, 0])


def test_golden(backend):
    case = load("seed002_T10_vanish")
    rnn = bptt.RNN(1, 1, bias=False, dtype=F8, backend=backend)
    rnn.parameters["weight_ih_l0"][:] = 0.8
    rnn.parameters["weight_hh_l0"][:] = 0.9
    products = rnn.record(case.x)[2].jacobian_products()
    expected = case.expected["vanishing"]
    factors = [products.jacobian(t).item() for t in range(2, 11)]
    np.testing.assert_allclose(factors, expected["factors_fprime_times_wh_t2_to_t10"], rtol=1e-14)
    whole = [products.product(t, 1).item() for t in range(2, 11)]
    np.testing.assert_allclose(whole, expected["do_t_do_1_t2_to_t10"], rtol=1e-14)
    assert products.bound**9 == pytest.approx(expected["bound_abs_wh_pow_9"], rel=1e-14)
    assert products.norms()[1, 0] == pytest.approx(whole[-1], rel=1e-14)


# ------------------------------------------------------------------------------------- what is measured


@pytest.mark.parametrize("kind", LAYERS)
def test_singular_values_and_norms(kind, monkeypatch):
    _, _, tape = recorded(kind, options=NOISE)
    products = tape.jacobian_products()
    for i in (None, 3):
        n = T if i is None else i
        expected = np.array([np.linalg.svd(products.product(n, k), compute_uv=False) for k in range(n + 1)])
        close(products.singular_values(i), expected)
        close(products.norms(i), expected[..., 0])
        close(products.singular_values(i, row=2), expected[:, 2])
        close(products.norms(i, row=2), expected[:, 2, 0])
        monkeypatch.setattr(jacobians, "SINGULAR_VALUES_UP_TO", 0)
        np.testing.assert_allclose(products.norms(i), expected[..., 0], rtol=1e-4)
        assert (products.norms(i) <= expected[..., 0] * (1 + 1e-12)).all()
        np.testing.assert_allclose(products.norms(i, row=1), expected[:, 1, 0], rtol=1e-4)
        monkeypatch.undo()


def test_norms_beyond_floats():
    # 17 steps of 1e-10 or 10^7.5 in float32
    for exponent in (-40, 30):
        rnn = bptt.RNN(1, 2, nonlinearity="identity", bias=False, dtype=F4)
        rnn.parameters["weight_hh_l0"][:] = np.eye(2) * 10.0 ** (exponent / 4)
        products = rnn.record(zeros(17, 1, 1))[2].jacobian_products()
        expected = 10.0 ** (np.arange(17, -1, -1) * exponent / 4)
        np.testing.assert_allclose(products.norms()[:, 0], expected, rtol=1e-5)


# of ReLUs that are off nothing is left
@pytest.mark.parametrize("kind", [kind for kind in LAYERS if kind != "relu"])
def test_lyapunov_exponents(backend, kind):
    products = recorded(kind, backend=backend)[2].jacobian_products()
    exponents = products.lyapunov()
    assert exponents.shape == (B, products.size)
    assert (exponents[:, :-1] >= exponents[:, 1:]).all()
    volumes = sum(np.linalg.slogdet(products.jacobian(t))[1] for t in range(1, T + 1)) / T
    np.testing.assert_allclose(exponents.sum(axis=1), volumes, rtol=0, atol=1e-10)


def test_exponents_of_a_constant_map():
    # h_t = W h_{t-1}: the logarithms of the sizes of the eigenvalues of W
    rnn = bptt.RNN(1, 4, nonlinearity="identity", bias=False, dtype=F8)
    rng = np.random.default_rng(0)
    basis = rng.normal(size=(4, 4))
    rnn.parameters["weight_hh_l0"][:] = basis @ np.diag([1.2, 0.7, 0.4, 0.1]) @ np.linalg.inv(basis)
    products = rnn.record(zeros(3000, 1, 1, dtype=F8))[2].jacobian_products()
    # until a direction has turned to its eigenvector it counts for another one: a share of the steps
    np.testing.assert_allclose(products.lyapunov()[0], np.log([1.2, 0.7, 0.4, 0.1]), rtol=0, atol=5e-4)
    np.testing.assert_allclose(products.lyapunov(2)[0], np.log([1.2, 0.7]), rtol=0, atol=5e-4)


def test_a_reset_forgets_everything():
    reset = np.zeros((T, B), bool)
    reset[2, 1] = True
    products = recorded("RNN", over_time={"reset": reset})[2].jacobian_products()
    exponents = products.lyapunov()
    assert (exponents[1] == -np.inf).all()
    assert np.isfinite(exponents[[0, 2, 3]]).all()
    norms = products.norms()
    assert not norms[:3, 1].any()
    assert norms[3:, 1].all()


@pytest.mark.parametrize("kind", ["RNN", "LSTM"])
@pytest.mark.parametrize("direction", [0, 1])
def test_ragged_rows_have_ends_of_their_own(backend, kind, direction):
    lengths = [2, 5, 0, 3]
    options = {"bidirectional": direction == 1}
    layer, q, tape = recorded(kind, options=options, over_time={"lengths": lengths}, backend=backend)
    products = tape.jacobian_products(direction=direction)
    norms, values, exponents = products.norms(), products.singular_values(), products.lyapunov()
    for row, length in enumerate(lengths):
        assert np.isnan(norms[length + 1 :, row]).all()
        assert np.isnan(values[length + 1 :, row]).all()
        if length == 0:
            assert norms[0, row] == 1
            assert np.isnan(exponents[row]).all()
            continue
        state = tuple(part[:, row : row + 1] for part in parts_of(q.h_0))
        alone = layer.record(q.x[:length, row : row + 1], state if len(state) == 2 else state[0])[2]
        expected = alone.jacobian_products(direction=direction)
        close(norms[: length + 1, row], expected.norms()[:, 0])
        close(values[: length + 1, row], expected.singular_values()[:, 0])
        close(products.singular_values(row=row), expected.singular_values()[:, 0])
        close(exponents[row], expected.lyapunov()[0])
    with raises(ValueError, "i: expected at most the length of the shortest row, 0, got 1"):
        products.product(1, 0)


def test_bounds():
    for kind in ("RNN", "relu"):
        layer, _, tape = recorded(kind)
        bound = tape.jacobian_products().bound
        assert bound == pytest.approx(np.linalg.norm(layer.parameters["weight_hh_l0"], 2), rel=1e-12)
    layer = bptt.RNN(2, 3, nonlinearity="sigmoid", seed=0)
    bound = layer.record(zeros(2, 1, 2))[2].jacobian_products().bound
    assert bound == pytest.approx(np.linalg.norm(layer.parameters["weight_hh_l0"], 2) / 4, rel=1e-6)
    layer, _, tape = recorded("RNN", options={"recurrent_dropout": 0.5})
    products = tape.jacobian_products()
    assert products.bound == pytest.approx(2 * np.linalg.norm(layer.parameters["weight_hh_l0"], 2), rel=1e-12)
    bounds = products.bound ** np.arange(T, -1, -1)[:, np.newaxis]
    assert (products.norms() <= bounds * (1 + 1e-12)).all()
    for kind, options in (
        ("LSTM", {}),
        ("GRU", {}),
        ("RNN", {"layer_norm": True}),
        ("RNN", {"zoneout": 0.3}),
    ):
        assert recorded(kind, options=options)[2].jacobian_products().bound is None


def test_without_steps():
    products = bptt.RNN(2, 3, seed=0).record(zeros(0, 2, 2))[2].jacobian_products()
    assert np.array_equal(products.norms(), np.ones((1, 2)))
    assert np.array_equal(products.product(0, 0), np.broadcast_to(np.eye(3, dtype=F4), (2, 3, 3)))
    assert np.isnan(products.lyapunov()).all()
    assert bptt.RNN(2, 3, seed=0).record(zeros(2, 0, 2))[2].jacobian_products().norms().shape == (3, 0)


# ------------------------------------------------------------------------------------- errors


def test_errors():
    tape = bptt.RNN(2, 3, seed=0).record(zeros(4, 2, 2))[2]
    with raises(ValueError, "layer: expected -1 to 0, got 1"):
        tape.jacobian_products(layer=1)
    with raises(ValueError, "layer: expected an integer of at least -1, got -2"):
        tape.jacobian_products(layer=-2)
    with raises(ValueError, "direction: expected 0, got 1"):
        tape.jacobian_products(direction=1)
    with raises(TypeError, "direction: expected an integer of at least 0, got 1.0"):
        tape.jacobian_products(direction=1.0)
    products = tape.jacobian_products()
    with raises(ValueError, "t: expected an integer of at least 1, got 0"):
        products.jacobian(0)
    with raises(ValueError, "t: expected at most the number of steps, 4, got 5"):
        products.jacobian(5)
    with raises(ValueError, "k: expected at most i, 2, got 3"):
        products.product(2, 3)
    with raises(ValueError, "i: expected an integer of at least 0, got -1"):
        products.product(-1, 0)
    with raises(ValueError, "v: expected shape (N, batch, state size), got (2, 3)"):
        products.apply(zeros(2, 3), 2, 1)
    with raises(ValueError, "v: expected shape (1, 2, 3) = (N, batch, state size), got (1, 2, 4)"):
        products.apply(zeros(1, 2, 4), 2, 1)
    with raises(ValueError, "count: expected at most the state's size, 3, got 4"):
        products.lyapunov(4)
    with raises(ValueError, "row: expected at most 1, got 2"):
        products.norms(row=2)
    assert repr(products) == "JacobianProducts(steps=4, size=3)"
    layer = bptt.GRU(2, 3, seed=0, bidirectional=True)
    with raises(ValueError, "direction: expected 0 or 1, got 2"):
        layer.record(zeros(4, 2, 2))[2].jacobian_products(direction=2)


def test_numbers_that_are_not_finite():
    rnn = bptt.RNN(1, 2, nonlinearity="relu", dtype=F8, seed=0)
    rnn.parameters["weight_hh_l0"][:] = np.inf
    rnn.parameters["bias_ih_l0"][:] = 1
    products = rnn.record(np.ones((3, 1, 1)))[2].jacobian_products()
    for measure in (products.norms, products.singular_values):
        with raises(ValueError, "the Jacobian at step 3: expected finite numbers, got others"):
            measure()
    assert np.isnan(products.lyapunov()).all()

"""The gradient's terms: against copies of the parameters in NumPy, the double sum, and backward."""

from __future__ import annotations

import itertools

import numpy as np
import numpy_layers
import pytest
from errors import F4, F8, raises, zeros
from numpy_layers import LAYERS, B, I, T, forward, make, masks_of, problem
from numpy_rnn import close

import bptt
from bptt import reference
from bptt.flow import expansion

E = 1e-30  # of derivatives by complex numbers, see numpy_layers
STACKS = {
    "alone": {},
    "no bias": {"bias": False},
    "stack": {"num_layers": 2},
    "noisy stack": {"num_layers": 2, "dropout": 0.3, "recurrent_dropout": 0.3, "zoneout": 0.3},
    "two ways": {"num_layers": 2, "bidirectional": True, "dropout": 0.3, "zoneout": 0.2},
    "normal": {"layer_norm": True, "zoneout": 0.2, "recurrent_dropout": 0.3},
}
RAGGED = {"lengths": [2, 5, 0, 3], "reset": np.random.default_rng(0).random((T, B)) < 0.3}
CASES = [
    (kind, stack)
    for kind, stack in itertools.product(LAYERS, STACKS)
    if (kind, stack) != ("reset_before", "normal")
]
OF_ONE_LAYER = [
    (kind, options)
    for kind in LAYERS
    for options in ({}, {"recurrent_dropout": 0.3, "zoneout": 0.3}, {"layer_norm": True})
    if (kind, options) != ("reset_before", {"layer_norm": True})
]


def recorded(layer, ragged=False, tokens=False):
    q = problem(layer, tokens=tokens)
    tape = layer.record(q.x, q.h_0, seed=5, **(RAGGED if ragged else {}))[2]
    dy = q.dy.copy()
    if ragged:
        dy[np.arange(T)[:, np.newaxis] >= np.array(RAGGED["lengths"])] = np.nan  # not looked at
    return q, tape, dy


def copies(monkeypatch, layer, q, masks, options, name, along):
    """Derivatives of every L_i along a direction in the copy of a parameter that step k uses, (T, T)."""
    level = int(name.split("_l")[-1].split("_")[0])
    field, reverse = name.split(f"_l{level}")[0], name.endswith("_reverse")
    directions = 2 if layer.bidirectional else 1
    unit = level * directions + reverse
    original, found = numpy_layers.step, np.zeros((T, T))
    for k in range(T):
        calls = itertools.count()

        def step(layer, p, *arguments, k=k, calls=calls):
            at, s = divmod(next(calls), T)
            t = T - 1 - s if at % directions else s
            if (at, t) == (unit, k):
                p = {**p, field: p[field] + E * 1j * along}
            return original(layer, p, *arguments)

        monkeypatch.setattr(numpy_layers, "step", step)
        y, _, _ = forward(layer, q.x, q.h_0, masks=masks, **options)
        found[:, k] = (np.where(y == 0, 0.0, q.dy) * y).sum(axis=(1, 2)).imag / E
    monkeypatch.setattr(numpy_layers, "step", original)
    return found


# ------------------------------------------------------------------------------------- values


@pytest.mark.parametrize(("kind", "stack"), CASES)
@pytest.mark.parametrize("ragged", [False, True])
def test_against_copies_in_numpy(monkeypatch, kind, stack, ragged):
    layer = make(kind, **STACKS[stack])
    q, tape, dy = recorded(layer, ragged, tokens=ragged)
    terms = tape.terms(dy)
    assert list(terms) == list(layer.parameters)
    rng = np.random.default_rng(2)
    for name, term in terms.items():
        along = rng.normal(size=term.shape[2:])
        axes = tuple(range(2, term.ndim))
        expected = copies(monkeypatch, layer, q, masks_of(tape), RAGGED if ragged else {}, name, along)
        size = np.abs(term * along).sum(axis=axes).max(initial=1e-3)
        np.testing.assert_allclose((term * along).sum(axis=axes), expected, rtol=0, atol=1e-12 * size)


@pytest.mark.parametrize(("kind", "options"), OF_ONE_LAYER)
def test_against_the_double_sum(backend, kind, options):
    layer = make(kind, **options, backend=backend)
    q, tape, dy = recorded(layer)
    double = make(kind, **options, backend="reference")
    other = double.record(q.x, q.h_0, seed=5)[2]
    expected = reference.terms(other.cell, other._pass.saved[0], dy)
    terms = tape.terms(dy)
    assert list(terms) == [f"{name}_l0" for name in expected]
    for name, term in expected.items():
        close(terms[f"{name}_l0"], term)


@pytest.mark.parametrize(("kind", "stack"), CASES)
@pytest.mark.parametrize("ragged", [False, True])
def test_sum_to_the_gradient(dtype, kind, stack, ragged):
    layer = make(kind, **STACKS[stack], dtype=dtype)
    _, tape, dy = recorded(layer, ragged)
    gradients = tape.backward(dy).parameters
    for name, term in tape.terms(dy).items():
        assert term.dtype == dtype
        close(term.sum(axis=(0, 1)), gradients[name])
    # those of one loss step to its own gradient
    alone = np.zeros_like(dy)
    alone[3] = dy[3]
    gradients = tape.backward(alone).parameters
    for name, term in tape.terms(dy).items():
        close(term[3].sum(axis=0), gradients[name])


@pytest.mark.parametrize("stack", STACKS)
def test_on_the_reference(stack):
    fast, slow = (make("LSTM", **STACKS[stack], backend=backend) for backend in ("kernels", "reference"))
    _, tape, dy = recorded(fast, True)
    _, other, _ = recorded(slow, True)
    for name, term in tape.terms(dy).items():
        close(term, other.terms(dy)[name])


# ------------------------------------------------------------------------------------- what is asked for


@pytest.mark.parametrize(("kind", "stack"), CASES)
@pytest.mark.parametrize("ragged", [False, True])
def test_sums_norms_and_rows(kind, stack, ragged):
    layer = make(kind, **STACKS[stack])
    _, tape, dy = recorded(layer, ragged, tokens=not ragged)
    whole = tape.terms(dy)
    by_row = tape.terms(dy, rows=True)
    for name, term in whole.items():
        assert by_row[name].shape == (T, T, B, *layer.parameters[name].shape)
        close(by_row[name].sum(axis=2), term)

    def norms(a, name):
        return np.sqrt(np.square(a).sum(axis=tuple(range(-layer.parameters[name].ndim, 0))))

    for by, axis in ((None, ()), ("injection", 0), ("loss", 1)):
        for rows, terms in ((False, whole), (True, by_row)):
            sums = tape.terms(dy, by=by, rows=rows)
            sizes = tape.terms(dy, by=by, rows=rows, reduce="norm")
            for name, term in terms.items():
                expected = term.sum(axis=axis)
                close(sums[name], expected)
                close(sizes[name], norms(expected, name))


def test_batch_first():
    layer = make("LSTM", batch_first=True)
    q = problem(layer)
    terms = layer.record(q.x.swapaxes(0, 1), q.h_0)[2].terms(q.dy.swapaxes(0, 1))
    expected = make("LSTM").record(q.x, q.h_0)[2].terms(q.dy)
    for name, term in expected.items():
        assert np.array_equal(terms[name], term)


@pytest.mark.parametrize("by", [None, "injection", "loss"])
@pytest.mark.parametrize("reduce", [None, "norm"])
def test_unbatched(by, reduce):
    layer = make("GRU")
    q = problem(layer, batch=1)
    batched = layer.record(q.x, q.h_0)[2]
    tape = layer.record(q.x[:, 0], q.h_0[:, 0])[2]
    whole = batched.terms(q.dy, by=by, reduce=reduce)
    for rows in (False, True):
        terms = tape.terms(q.dy[:, 0], by=by, reduce=reduce, rows=rows)
        for name, term in whole.items():
            assert terms[name].shape == term.shape
            close(terms[name], term)


def test_some_parameters_only():
    layer = make("LSTM", num_layers=2)
    _, tape, dy = recorded(layer)
    whole = tape.terms(dy)
    some = tape.terms(dy, parameters=["weight_hh_l1", "bias_ih_l0"])
    assert list(some) == ["bias_ih_l0", "weight_hh_l1"]
    for name, term in some.items():
        assert np.array_equal(term, whole[name])
    assert tape.terms(dy, parameters=[]) == {}


def test_function_and_method_are_one():
    assert bptt.terms is bptt.Tape.terms
    assert bptt.jacobian_products is bptt.Tape.jacobian_products
    assert bptt.gradient_flow is bptt.Tape.gradient_flow


# ------------------------------------------------------------------------------------- edges


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("by", [None, "loss"])
def test_blocks(monkeypatch, stack, by):
    layer = make("LSTM", **STACKS[stack])
    _, tape, dy = recorded(layer)
    expected = tape.terms(dy, by=by), tape.terms(dy, by=by, reduce="norm")
    monkeypatch.setattr(expansion, "STEP_BYTES", 1)
    found = tape.terms(dy, by=by), tape.terms(dy, by=by, reduce="norm")
    for one, other in zip(found, expected, strict=True):
        for name, term in other.items():
            close(one[name], term)


def test_steps_without_a_loss_have_no_terms():
    layer = make("RNN")
    _, tape, dy = recorded(layer)
    dy[[0, 1, 3]] = 0
    for name, term in tape.terms(dy).items():
        assert not term[[0, 1, 3]].any()
        close(term.sum(axis=(0, 1)), tape.backward(dy).parameters[name])
    for by in (None, "injection", "loss"):
        for reduce in (None, "norm"):
            for term in tape.terms(np.zeros_like(dy), by=by, reduce=reduce).values():
                assert not term.any()


@pytest.mark.parametrize("shape", [(0, 2), (3, 0), (1, 1)])
@pytest.mark.parametrize("by", [None, "injection", "loss"])
@pytest.mark.parametrize("reduce", [None, "norm"])
def test_empty_passes(shape, by, reduce):
    layer = make("LSTM", num_layers=2)
    steps, batch = shape
    tape = layer.record(np.ones((steps, batch, I)))[2]
    terms = tape.terms(np.ones((steps, batch, 4)), by=by, reduce=reduce)
    for name, term in terms.items():
        times = (steps, steps) if by is None else (steps,)
        assert term.shape == times + (() if reduce else layer.parameters[name].shape)
        assert term.any() == (steps == batch == 1 and "weight_hh" not in name)  # h_0 is 0


def test_norms_far_below_the_smallest_float():
    # 0.5^(i-k): in float32 from 2^-149 on nothing would be left, and of squares from 2^-75 on
    layer = bptt.RNN(1, 1, nonlinearity="identity", bias=False, dtype=F4)
    layer.parameters["weight_ih_l0"][:] = 1
    layer.parameters["weight_hh_l0"][:] = 0.5
    steps = 300
    tape = layer.record(np.ones((steps, 1, 1), F4))[2]
    norms = tape.terms(np.ones((steps, 1, 1), F4), reduce="norm")["weight_ih_l0"]
    i, k = np.indices((steps, steps))
    expected = np.where(k <= i, np.exp2(np.minimum(k - i, 0).astype(float)), 0)
    assert np.array_equal(norms, expected)
    # and as large ones
    layer.parameters["weight_hh_l0"][:] = 4
    dy = np.zeros((60, 1, 1), F4)
    dy[-1] = 1
    norms = layer.record(np.ones((60, 1, 1), F4))[2].terms(dy, reduce="norm")["weight_ih_l0"]
    assert np.array_equal(norms[-1], np.exp2(2.0 * np.arange(59, -1, -1)))


def test_a_pass_that_is_not_finite():
    layer = bptt.RNN(1, 2, nonlinearity="relu", dtype=F8, seed=0)
    layer.parameters["weight_hh_l0"][:] = 1e200
    layer.parameters["bias_ih_l0"][:] = 1
    tape = layer.record(np.ones((6, 1, 1)))[2]
    for reduce in (None, "norm"):
        for term in tape.terms(np.ones((6, 1, 2)), reduce=reduce).values():
            assert not np.isfinite(term).all()


def test_more_rows_than_units():
    # then the norms are those of the terms' own factors
    layer = bptt.GRU(2, 3, dtype=F8, seed=0)
    rng = np.random.default_rng(0)
    x, dy = rng.normal(size=(4, 9, 2)), rng.normal(size=(4, 9, 3))
    tape = layer.record(x)[2]
    for name, norms in tape.terms(dy, reduce="norm").items():
        whole = tape.terms(dy)[name]
        close(norms, np.sqrt(np.square(whole).sum(axis=tuple(range(2, whole.ndim)))))


def test_memory_of_norms():
    # T squared times a weight matrix would be 160 MB
    import tracemalloc

    layer = bptt.RNN(32, 32, seed=0)
    x = np.random.default_rng(0).normal(size=(200, 2, 32)).astype(F4)
    tape = layer.record(x)[2]
    tracemalloc.start()
    tape.terms(x, reduce="norm")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8e6


# ------------------------------------------------------------------------------------- errors


@pytest.fixture
def tape():
    return bptt.RNN(2, 3, seed=0).record(zeros(4, 2, 2))[2]


def test_errors(tape):
    dy = zeros(4, 2, 3)
    with raises(ValueError, "dy: expected shape (4, 2, 3) = (time, batch, hidden_size), got (4, 2, 2)"):
        tape.terms(zeros(4, 2, 2))
    with pytest.raises(TypeError, match=r"^dy: expected float32 \(the layer's dtype\), got float64"):
        tape.terms(zeros(4, 2, 3, dtype=F8))
    with raises(ValueError, "reduce: expected one of 'norm', got 'sum'"):
        tape.terms(dy, reduce="sum")
    with raises(ValueError, "by: expected one of 'injection', 'loss', got 'row'"):
        tape.terms(dy, by="row")
    with raises(TypeError, "rows: expected True or False, got 1"):
        tape.terms(dy, rows=1)
    with raises(ValueError, "threads: expected an integer of at least 1, got 0"):
        tape.terms(dy, threads=0)
    with pytest.raises(ValueError, match=r"^parameters: expected one of 'weight_ih_l0', .*, got 'W'$"):
        tape.terms(dy, parameters=["W"])

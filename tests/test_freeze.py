"""FrozenRNN: called like its layer, the same bits; a snapshot; shared between threads; copies."""

from __future__ import annotations

import copy
import pickle
import threading

import numpy as np
import pytest
from errors import F4, F8, raises, zeros
from kernel_problems import WORK_TO_SHARE, same
from numpy_rnn import AWKWARD, B, H, I, T, problem

import bptt
from bptt.checks import NONLINEARITIES


def both(rnn, *arguments, **options):
    """Return what a frozen copy gives, which must be the bits that the layer gives."""
    expected, frozen = rnn(*arguments, **options), rnn.freeze()
    for _ in range(2):  # the first call packs
        results = frozen(*arguments, **options)
        for actual, plain in zip(results, expected, strict=True):
            assert same(actual, plain)
    return results


# ------------------------------------------------------------------------------------- the same bits


@pytest.mark.parametrize("nonlinearity", NONLINEARITIES)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
def test_layouts(backend, dtype, nonlinearity, bias, batch_first):
    options = {"nonlinearity": nonlinearity, "bias": bias, "batch_first": batch_first}
    rnn = bptt.RNN(I, H, **options, dtype=dtype, seed=1, backend=backend)
    x, h_0, _, _ = problem(dtype)
    if batch_first:
        x = np.ascontiguousarray(x.swapaxes(0, 1))
    y, h_n = both(rnn, x, h_0)
    assert y.shape == (*x.shape[:2], H)
    assert h_n.shape == (1, B, H)
    both(rnn, x)
    both(rnn, np.asfortranarray(x), h_0)
    y, h_n = both(rnn, x[0], h_0[:, 0])
    assert y.shape == (len(x[0]), H)
    assert h_n.shape == (1, H)
    ids = np.random.default_rng(0).integers(I, size=x.shape[:2])
    both(rnn, ids, h_0)
    both(rnn, ids[0].tolist(), h_0[:, 0])


@pytest.mark.parametrize(("steps", "batch"), [(0, 3), (4, 0), (0, 0)])
def test_empty(backend, steps, batch):
    rnn = bptt.RNN(I, H, seed=1, backend=backend)
    x, h_0, _, _ = problem(F4, steps, batch)
    y, h_n = both(rnn, x, h_0)
    assert y.shape == (steps, batch, H)
    assert h_n.shape == (1, batch, H)


@pytest.mark.kernels
@pytest.mark.parametrize("cell", NONLINEARITIES)
@pytest.mark.parametrize("tokens", [False, True])
def test_sizes(cell, tokens, dtype):
    rng = np.random.default_rng(3)
    for hidden in (1, 5, 16, 33, 64, 130, 300):
        rnn = bptt.RNN(20, hidden, nonlinearity=cell, dtype=dtype, seed=0)
        frozen = rnn.freeze()
        for steps, batch in ((1, 1), (1, 3), (1, 7), (1, 100), (2, 1), (5, 1), (7, 5), (3, 60)):
            x = rng.integers(20, size=(steps, batch))
            if not tokens:
                x = rng.normal(size=(steps, batch, 20)).astype(dtype)
            for _ in range(2):  # every other call walks the weights the other way round
                for plain, other in zip(rnn(x), frozen(x), strict=True):
                    assert same(other, plain), (hidden, steps, batch)


@pytest.mark.kernels
def test_threads_share_a_call(dtype):
    rnn = bptt.RNN(70, 130, dtype=dtype, seed=0)
    frozen = rnn.freeze()
    x = np.random.default_rng(0).normal(size=(40, 33, 70)).astype(dtype)
    assert WORK_TO_SHARE < 2 * 40 * 33 * 130 * 200
    y, _ = rnn(x, threads=1)
    for threads in (1, 2, 3):
        assert same(frozen(x, threads=threads)[0], y)


@pytest.mark.parametrize("given", ["x", "h_0"])
@pytest.mark.parametrize("form", [*AWKWARD, "list"])
def test_memory_layouts(backend, form, given):
    frozen = bptt.RNN(I, H, dtype=F8, seed=1, backend=backend).freeze()
    x, h_0, _, _ = problem(F8)
    expected = frozen(x, h_0)
    awkward = AWKWARD.get(form, np.ndarray.tolist)
    results = frozen(awkward(x), h_0) if given == "x" else frozen(x, awkward(h_0))
    for actual, plain in zip(results, expected, strict=True):
        assert same(actual, plain)


def test_results_are_new_arrays(backend):
    frozen = bptt.RNN(I, H, seed=1, backend=backend).freeze()
    x, h_0, _, _ = problem(F4)
    kept_0 = h_0.copy()
    frozen(x, h_0)
    y, h_n = frozen(x, h_0)
    kept = y.copy(), h_n.copy()
    assert not np.shares_memory(y, h_n)
    y2, h_n2 = frozen(x + 1, h_n)
    assert not same(y2, y)
    y2[...] = h_n2[...] = 9
    assert same(y, kept[0])
    assert same(h_n, kept[1])
    assert same(h_0, kept_0)


def test_check_finite(backend):
    frozen = bptt.RNN(I, H, seed=1, backend=backend).freeze()
    x, h_0, _, _ = problem(F4)
    frozen(x, h_0, check_finite=True)
    x[2, 1, 0] = np.inf
    with raises(FloatingPointError, "x: expected finite values, got inf at time step 2, batch row 1"):
        frozen(x, h_0, check_finite=True)


# ------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        ((zeros(4, 3, 7),), {}),
        ((zeros(4, 3, 3, 6),), {}),
        ((zeros(4, 3, 6), zeros(3, 5)), {}),
        ((zeros(4, 3, 6), zeros(1, 3, 6)), {}),
        ((zeros(4, 3, 6), zeros(2, 3, 5)), {}),
        ((zeros(4, 3, 6), zeros(1, 3, 5, dtype=">f8")), {}),
        ((zeros(4, 3, 6, dtype=F8),), {}),
        ((np.full((4, 3), 6),), {}),
        ((zeros(4, 3, 6), zeros(1, 2, 5)), {}),
        ((zeros(4, 3, 6), zeros(1, 3, 5, dtype=F8)), {}),
        ((zeros(4, 3, 6),), {"threads": 0}),
        ((zeros(4, 3, 6),), {"threads": 1.5}),
        (("x",), {}),
    ],
)
def test_errors_are_those_of_the_layer(backend, arguments, options):
    rnn = bptt.RNN(6, 5, seed=0, backend=backend)
    with pytest.raises((TypeError, ValueError)) as expected:
        rnn(*arguments, **options)
    frozen = rnn.freeze()
    for _ in range(2):
        with raises(expected.type, str(expected.value)):
            frozen(*arguments, **options)
        frozen(zeros(4, 3, 6))  # packs


def test_what_a_frozen_layer_does_not_do():
    frozen = bptt.RNN(6, 5, seed=0, backend="reference").freeze()
    assert not hasattr(frozen, "record")
    with raises(TypeError, "rnn: expected an RNN, LSTM or GRU, got FrozenRNN"):
        bptt.Network(frozen, bptt.Linear(5, 2, backend="reference"))
    with raises(AttributeError, "hidden_size: fixed when the FrozenRNN is made"):
        frozen.hidden_size = 7
    with raises(AttributeError, "parameters: fixed when the FrozenRNN is made; freeze the RNN again"):
        frozen.parameters = {}
    with pytest.raises(TypeError, match="does not support item assignment"):
        frozen.parameters["weight_hh_l0"] = np.zeros((5, 5), F4)
    with pytest.raises(ValueError, match="read-only"):
        frozen.parameters["weight_hh_l0"][0, 0] = 1


# ------------------------------------------------------------------------------------- a snapshot


def test_a_snapshot(backend):
    rnn = bptt.RNN(I, H, seed=1, backend=backend)
    x = problem(F4)[0]
    ids = np.random.default_rng(0).integers(I, size=(T, B))
    expected, expected_ids = rnn(x)[0], rnn(ids)[0]
    called, fresh = rnn.freeze(), rnn.freeze()
    assert same(called(x)[0], expected)
    old = rnn.state_dict()
    rnn.parameters["weight_hh_l0"][...] = 0
    rnn.parameters["bias_ih_l0"] = np.ones(H, F4)
    for frozen in (called, fresh):
        assert same(frozen(x)[0], expected)
        assert same(frozen(ids)[0], expected_ids)
        assert list(frozen.parameters) == list(old)
        for name, value in frozen.parameters.items():
            assert same(value, old[name])
    assert not same(rnn.freeze()(x)[0], expected)


def test_awkward_parameters(backend, dtype):
    """The layer takes arrays in any memory layout as its parameters."""
    rnn = bptt.RNN(I, H, dtype=dtype, seed=1, backend=backend)
    x, h_0, _, _ = problem(dtype)
    y, _ = rnn(x, h_0)
    parameters = rnn.parameters
    parameters["weight_ih_l0"] = np.repeat(parameters["weight_ih_l0"], 2, axis=1)[:, ::2]
    parameters["weight_hh_l0"] = np.asfortranarray(parameters["weight_hh_l0"])
    parameters["bias_ih_l0"] = parameters["bias_ih_l0"].astype(np.dtype(dtype).newbyteorder())
    assert same(rnn.freeze()(x, h_0)[0], y)
    assert same(rnn.stream(B, h_0).step(x[0]), y[0])


def test_packed_once(monkeypatch):
    packed = []
    pack = bptt.reference.pack

    def spy(cell, weights, *, tokens):
        packed.append(tokens)
        return pack(cell, weights, tokens=tokens)

    monkeypatch.setattr(bptt.reference, "pack", spy)
    frozen = bptt.RNN(I, H, seed=1, backend="reference").freeze()
    x = problem(F4)[0]
    for _ in range(2):
        frozen(x)
        frozen.stream(B).step(x[0])
    assert packed == [False]
    for _ in range(2):
        frozen.stream(2).step(np.zeros(2, int))
        frozen(np.zeros(3, int))
    assert packed == [False, True]


# ------------------------------------------------------------------------------------- sharing and copies


@pytest.mark.kernels
def test_threads_share_a_frozen_layer(dtype):
    rnn = bptt.RNN(60, 200, dtype=dtype, seed=0)
    rng = np.random.default_rng(1)
    sequences = [rng.normal(size=(30, 8, 60)).astype(dtype) for _ in range(6)]
    expected = [rnn(x, threads=1)[0] for x in sequences]
    frozen, right, start = rnn.freeze(), [], threading.Barrier(6)

    def work(x, y):
        start.wait()
        for _ in range(3):
            stream = frozen.stream(8)
            steps = np.stack([stream.step(frame) for frame in x])
            whole, _ = frozen(x)
            right.extend((same(steps, y), same(whole, y)))

    workers = [threading.Thread(target=work, args=pair) for pair in zip(sequences, expected, strict=True)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert right == [True] * 6 * 3 * 2


def test_copies_and_pickles(backend, dtype):
    options = {"nonlinearity": "relu", "bias": False, "batch_first": True}
    rnn = bptt.RNN(I, H, **options, dtype=dtype, seed=1, backend=backend)
    x, h_0, _, _ = problem(dtype)
    x = np.ascontiguousarray(x.swapaxes(0, 1))
    y, _ = rnn(x, h_0)
    called, fresh = rnn.freeze(), rnn.freeze()
    called(x, h_0)
    for frozen in (called, fresh):
        assert copy.copy(frozen) is copy.deepcopy(frozen) is frozen
        twin = pickle.loads(pickle.dumps(frozen))
        assert repr(twin) == repr(frozen)
        assert same(twin(x, h_0)[0], y)
        with pytest.raises(ValueError, match="read-only"):
            twin.parameters["weight_hh_l0"][0, 0] = 1


def test_repr():
    options = {"nonlinearity": "relu", "bias": False, "batch_first": True, "dtype": F8}
    frozen = bptt.RNN(3, 4, **options, seed=5, backend="reference").freeze()
    assert repr(frozen) == (
        "FrozenRNN(3, 4, nonlinearity='relu', bias=False, batch_first=True, dtype=float64, "
        "backend='reference')"
    )
    assert {name: getattr(frozen, name) for name in options} == options
    assert (frozen.input_size, frozen.hidden_size) == (3, 4)

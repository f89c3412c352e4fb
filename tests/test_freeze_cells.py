"""Frozen copies of every cell and of stacks: called like their layer, the same bits; copies; reprs."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from errors import F8, raises, zeros
from kernel_problems import same
from numpy_layers import LAYERS, B, I, T, make, parts_of, problem

import bptt

FROZEN = {bptt.RNN: bptt.FrozenRNN, bptt.LSTM: bptt.FrozenLSTM, bptt.GRU: bptt.FrozenGRU}


def both(layer, frozen, *arguments, **options):
    """Hold what a frozen copy gives against what the layer gives."""
    y, h_n = layer(*arguments, **options)
    for _ in range(2):  # the first call packs
        y2, h_n2 = frozen(*arguments, **options)
        assert same(y2, y)
        assert isinstance(h_n2, tuple) == isinstance(h_n, tuple)
        for actual, expected in zip(parts_of(h_n2), parts_of(h_n), strict=True):
            assert same(actual, expected)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize(("num_layers", "bidirectional"), [(1, False), (2, False), (1, True), (2, True)])
@pytest.mark.parametrize("batch_first", [True, False])
def test_layouts(backend, dtype, kind, num_layers, bidirectional, batch_first):
    options = {"num_layers": num_layers, "bidirectional": bidirectional, "batch_first": batch_first}
    layer = make(kind, **options, dtype=dtype, backend=backend)
    frozen, q = layer.freeze(), problem(layer)
    assert type(frozen) is FROZEN[type(layer)]
    x = np.ascontiguousarray(q.x.swapaxes(0, 1)) if batch_first else q.x
    both(layer, frozen, x, q.h_0)
    both(layer, frozen, x)
    both(layer, frozen, x.tolist() if dtype == F8 else np.asfortranarray(x), q.h_0)
    bare = tuple(part[:, 0] for part in parts_of(q.h_0))
    both(layer, frozen, x[0], bare if len(bare) == 2 else bare[0])
    ids = np.random.default_rng(0).integers(I, size=x.shape[:2])
    both(layer, frozen, ids, q.h_0)
    both(layer, frozen, ids[0].tolist())
    both(layer, frozen, x, q.h_0, lengths=np.arange(1, x.shape[0 if batch_first else 1] + 1))
    both(layer, frozen, x, q.h_0, reset=np.random.default_rng(0).random(x.shape[:2]) < 0.4)
    both(layer, frozen, x, q.h_0, check_finite=True)


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
@pytest.mark.parametrize(
    "options", [{"zoneout": 0.3}, {"layer_norm": True}, {"recurrent_dropout": 0.4}, {"bias": False}]
)
def test_options(backend, kind, options):
    layer = make(kind, **options, backend=backend)
    q = problem(layer)
    both(layer, layer.freeze(), q.x, q.h_0)
    both(layer, layer.freeze(), q.x)


def test_an_lstm_with_zoneout_of_one_part(backend):
    plain = make("LSTM", backend=backend)
    q = problem(plain)
    seen = {plain(q.x)[0].tobytes()}
    for zoneout in ((0.3, 0.0), (0.0, 0.3), (0.3, 0.3)):
        layer = make("LSTM", zoneout=zoneout, backend=backend)
        both(layer, layer.freeze(), q.x, q.h_0)
        seen.add(layer(q.x)[0].tobytes())
    assert len(seen) == 4


@pytest.mark.kernels
@pytest.mark.parametrize("kind", ["LSTM", "projected", "peepholes", "GRU", "reset_before"])
def test_sizes(kind, dtype):
    for hidden in (3, 5, 16, 33, 64, 130):
        layer = make(kind, 20, hidden, dtype=dtype)
        frozen = layer.freeze()
        for steps, batch in ((1, 1), (1, 3), (1, 7), (1, 100), (2, 1), (5, 1), (7, 5), (3, 60)):
            q = problem(layer, steps, batch)
            both(layer, frozen, q.x, q.h_0)
            both(layer, frozen, q.x)


@pytest.mark.parametrize("state", ["awkward", "half", "list"])
def test_forms_of_a_pair(backend, state):
    layer = make("LSTM", backend=backend)
    q, frozen = problem(layer), layer.freeze()
    h_0, c_0 = q.h_0
    frozen(q.x)
    given = {
        "awkward": (np.asfortranarray(h_0), c_0.astype(">f8")),
        "half": (None, c_0),
        "list": [h_0, c_0.tolist()],
    }[state]
    both(layer, frozen, q.x, given)


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        ((zeros(T, B, 7, dtype=F8),), {}),
        ((zeros(T, B, I),), {}),
        ((zeros(T, B, I, dtype=F8), zeros(1, B, 4, dtype=F8)), {}),
        ((zeros(T, B, I, dtype=F8), (zeros(1, B, 4, dtype=F8),) * 3), {}),
        ((zeros(T, B, I, dtype=F8), (zeros(1, B, 4, dtype=F8), zeros(1, B, 5, dtype=F8))), {}),
        ((zeros(T, B, I, dtype=F8), (zeros(2, B, 4, dtype=F8), zeros(1, B, 4, dtype=F8))), {}),
        ((zeros(T, B, I, dtype=F8), (zeros(1, B, 4), zeros(1, B, 4, dtype=F8))), {}),
        ((zeros(T, B, I, dtype=F8),), {"lengths": [9] * B}),
        ((zeros(T, B, I, dtype=F8),), {"reset": [True]}),
        ((zeros(T, B, I, dtype=F8),), {"threads": 0}),
    ],
)
def test_errors_are_those_of_the_layer(backend, arguments, options):
    layer = make("LSTM", backend=backend)
    with pytest.raises((TypeError, ValueError)) as expected:
        layer(*arguments, **options)
    frozen = layer.freeze()
    for _ in range(2):
        with raises(expected.type, str(expected.value)):
            frozen(*arguments, **options)
        frozen(zeros(T, B, I, dtype=F8))  # packs


def test_only_the_first_layer_is_packed_for_tokens(monkeypatch):
    packed = []
    pack = bptt.reference.pack

    def spy(cell, weights, *, tokens):
        packed.append((cell, weights.weight_ih.shape[1], tokens))
        return pack(cell, weights, tokens=tokens)

    monkeypatch.setattr(bptt.reference, "pack", spy)
    frozen = make("GRU", 3, 5, num_layers=2, backend="reference").freeze()
    for _ in range(2):
        frozen(np.zeros((T, B), int))
        frozen.stream(B).step(np.zeros(B, int))
    assert packed == [("gru", 3, True), ("gru", 5, False)]
    for _ in range(2):
        frozen(zeros(T, B, 3, dtype=F8))
        frozen.stream(B).step(zeros(B, 3, dtype=F8))
    assert packed == [("gru", 3, True), ("gru", 5, False), ("gru", 3, False)]


@pytest.mark.parametrize("kind", LAYERS)
def test_copies_and_pickles(backend, kind):
    layer = make(kind, num_layers=2, bidirectional=True, zoneout=0.1, bias=False, backend=backend)
    q = problem(layer)
    y, _ = layer(q.x, q.h_0)
    called, fresh = layer.freeze(), layer.freeze()
    called(q.x, q.h_0)
    layer.parameters["weight_hh_l1_reverse"][...] = 0
    for frozen in (called, fresh):
        assert copy.copy(frozen) is copy.deepcopy(frozen) is frozen
        twin = pickle.loads(pickle.dumps(frozen))
        assert repr(twin) == repr(frozen)
        assert list(twin.parameters) == list(layer.parameters)
        assert same(twin(q.x, q.h_0)[0], y)
        with pytest.raises(ValueError, match="read-only"):
            twin.parameters["weight_hh_l0"][0, 0] = 1


def test_reprs():
    lstm = bptt.LSTM(3, 4, num_layers=2, dropout=0.5, proj_size=2, peepholes=True, zoneout=(0.1, 0.0), seed=3)
    assert repr(lstm.freeze()) == (
        "FrozenLSTM(3, 4, num_layers=2, proj_size=2, peepholes=True, zoneout=(0.1, 0.0), dtype=float32)"
    )
    gru = bptt.GRU(3, 4, bidirectional=True, reset_after=False, recurrent_dropout=0.5, backend="reference")
    assert repr(gru.freeze()) == (
        "FrozenGRU(3, 4, bidirectional=True, reset_after=False, dtype=float32, backend='reference')"
    )
    assert repr(bptt.RNN(3, 4, layer_norm=True).freeze()) == (
        "FrozenRNN(3, 4, nonlinearity='tanh', layer_norm=True, dtype=float32)"
    )
    assert repr(lstm.stream(2)) == f"Stream({lstm.freeze()!r}, batch_size=2)"


def test_fixed():
    for layer in (bptt.LSTM, bptt.GRU):
        frozen = layer(3, 4, backend="reference").freeze()
        name = layer.__name__
        with raises(AttributeError, f"num_layers: fixed when the Frozen{name} is made"):
            frozen.num_layers = 7
        with raises(
            AttributeError, f"parameters: fixed when the Frozen{name} is made; freeze the {name} again"
        ):
            frozen.parameters = {}
        assert frozen.output_size == 4
        assert not hasattr(frozen, "dropout")

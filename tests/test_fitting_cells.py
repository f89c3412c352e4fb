"""Network.fit with every cell: carried states, masks of dropout and zoneout from its seed, going on."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from errors import raises
from networks import LAYERS, QUIET, Hand, assert_different, assert_same, data_set, small

from bptt import SGD, Adam

NOISE = {"num_layers": 2, "dropout": 0.3, "recurrent_dropout": 0.2, "zoneout": 0.25}


@pytest.mark.parametrize("kind", LAYERS)
def test_chunks_carry_the_state(kind, backend):
    network = small(backend, kind=kind, layer={"num_layers": 2})
    other = copy.deepcopy(network)
    x, targets = data_set(network)
    history = network.fit(x, targets, truncation=2, optimizer=SGD(0.5), **QUIET)
    hand, state = Hand(other, SGD(0.5)), None
    for part in (slice(0, 2), slice(2, 4), slice(4, 5)):
        state = hand.step(x[part], targets[part], state)
    assert_same(network, other)
    assert history["loss"] == [pytest.approx(np.dot(hand.losses, [8, 8, 4]) / 20, rel=1e-14)]


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("truncation", [2, 5])
def test_many_to_one_chunks(kind, truncation, backend):
    network = small(backend, kind=kind, layer={"num_layers": 2}, many_to_one=True)
    other = copy.deepcopy(network)
    x, targets = data_set(network)
    network.fit(x, targets, truncation=truncation, optimizer=SGD(0.5), **QUIET)
    state = None if truncation == 5 else other(x[:3])[1]
    Hand(other, SGD(0.5)).step(x[-truncation:], targets, state)
    assert_same(network, other)


@pytest.mark.parametrize("kind", ["tanh", "lstm", "gru"])
@pytest.mark.parametrize("many_to_one", [False, True])
def test_truncated_evaluation_is_the_loss(kind, many_to_one, backend):
    network = small(backend, kind=kind, layer={"num_layers": 2, "zoneout": 0.2}, many_to_one=many_to_one)
    x, targets = data_set(network)
    expected = network.loss(x, targets)
    for truncation in (None, 1, 2, 4):
        result = network.evaluate(x, targets, truncation=truncation, batch_size=3)
        assert result["loss"] == pytest.approx(expected, rel=1e-13)


class TestMasks:
    @pytest.mark.parametrize("kind", ["tanh", "lstm", "gru"])
    def test_a_seed_gives_the_same_bits(self, kind, backend):
        networks = [small(backend, kind=kind, layer=NOISE) for _ in range(3)]
        x, targets = data_set(networks[0])
        keywords = {"epochs": 2, "batch_size": 3, "truncation": 2}
        histories = [
            network.fit(x, targets, **keywords, seed=seed, optimizer=Adam(0.1))
            for network, seed in zip(networks, (5, 5, 6), strict=True)
        ]
        assert_same(networks[0], networks[1])
        assert histories[0]["loss"] == histories[1]["loss"]
        assert_different(networks[0], networks[2])

    @pytest.mark.parametrize("kind", ["tanh", "lstm"])
    def test_every_chunk_has_its_own(self, kind, backend):
        network = small(backend, kind=kind, layer=NOISE)
        other = copy.deepcopy(network)
        x, targets = data_set(network)
        network.fit(x, targets, truncation=2, batch_size=3, seed=7, optimizer=SGD(0.5), **QUIET)
        hand = Hand(other, SGD(0.5), seed=7)
        for rows in (slice(0, 3), slice(3, 4)):
            state = None
            for part in (slice(0, 2), slice(2, 4), slice(4, 5)):
                state = hand.step(x[part, rows], targets[part, rows], state)
        assert_same(network, other)
        seeds = Hand(other, SGD(0.5), seed=7)
        assert len({seeds.seed() for _ in range(6)}) == 6

    def test_chunks_without_a_loss_have_them_too(self, backend):
        """A state that training goes on from is one of training."""
        network = small(backend, kind="lstm", layer=NOISE, many_to_one=True)
        other = copy.deepcopy(network)
        x, targets = data_set(network)
        network.fit(x, targets, truncation=3, seed=7, optimizer=SGD(0.5), **QUIET)
        hand = Hand(other, SGD(0.5), seed=7)
        _, state, _ = other.rnn.record(x[:2], seed=hand.seed())
        hand.step(x[2:], targets, state)
        assert_same(network, other)

    def test_they_do_not_change_the_order_of_the_rows(self, backend):
        orders = []
        for layer in ({}, {"recurrent_dropout": 0.5}):
            network, seen = small(backend, layer=layer, many_to_one=True), []
            x = np.zeros((1, 8, 2))
            x[0, :, 0] = np.arange(8)
            original = network.loss_and_gradients

            def spy(data, *rest, original=original, seen=seen, **keywords):
                seen.extend(data[0, :, 0])
                return original(data, *rest, **keywords)

            network.loss_and_gradients = spy
            network.fit(x, np.arange(8) % 3, epochs=2, batch_size=3, seed=1)
            orders.append(seen)
        assert orders[0] == orders[1]
        assert sorted(orders[0][:8]) == list(range(8))

    def test_validation_has_none(self, backend):
        network = small(backend, kind="gru", layer=NOISE)
        x, targets = data_set(network)
        history = network.fit(x, targets, validation_data=(x, targets), seed=1)
        assert history["validation_loss"] == [network.evaluate(x, targets)["loss"]]
        assert network.evaluate(x, targets)["loss"] == pytest.approx(network.loss(x, targets), rel=1e-14)


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_several_calls_with_one_generator_are_one_call(kind, backend):
    once, often = (small(backend, kind=kind, layer=NOISE) for _ in range(2))
    x, targets = data_set(once, B=7)
    keywords = {"batch_size": 3, "truncation": 2}
    once.fit(x, targets, epochs=3, **keywords, optimizer=Adam(0.1), seed=4)
    optimizer, rng = Adam(0.1), np.random.default_rng(4)
    for _ in range(2):
        often.fit(x, targets, **keywords, optimizer=optimizer, seed=rng)
    # what is stored for another process to go on from
    state, moments = rng.bit_generator.state, optimizer.state_dict()
    rng, optimizer = np.random.default_rng(), Adam()
    rng.bit_generator.state = state
    optimizer.load_state_dict(moments)
    often.fit(x, targets, **keywords, optimizer=optimizer, seed=rng)
    assert_same(once, often)


@pytest.mark.parametrize("call", ["fit", "evaluate"])
def test_chunks_of_both_directions(call, backend):
    network = small(backend, kind="gru", layer={"bidirectional": True})
    message = (
        "truncation: expected None with a bidirectional layer, whose reverse direction starts from the end, "
        "got 2"
    )
    with raises(ValueError, message):
        getattr(network, call)(*data_set(network), truncation=2)
    assert_same(network, small(backend, kind="gru", layer={"bidirectional": True}))


def test_depth(backend):
    network = small(backend, kind="lstm", layer={"bidirectional": True})
    message = (
        "depth: expected None for a bidirectional layer, whose steps feel the losses before them too, got 2"
    )
    with raises(ValueError, message):
        network.fit(*data_set(network), depth=2)
    assert_same(network, small(backend, kind="lstm", layer={"bidirectional": True}))

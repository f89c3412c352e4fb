"""Network.fit: against loops written out with loss_and_gradients, and repeatable."""

from __future__ import annotations

import copy
import math
from itertools import chain

import numpy as np
import pytest
from networks import QUIET, assert_different, assert_same, data_set, small

from bptt import RNN, SGD, Adam, Linear, Network, clip_grad_norm, clip_grad_value


def by_hand(network, optimizer, pieces, **keywords):
    """One step for every (x, targets), carrying the state where targets say so."""
    losses, h = [], None
    for x, targets, fresh in pieces:
        loss, gradients = network.loss_and_gradients(x, targets, None if fresh else h, **keywords)
        optimizer.step(network.parameters, gradients.parameters)
        losses.append(loss)
        h = gradients.h_n
    return losses


class TestSteps:
    @pytest.mark.parametrize("many_to_one", [False, True])
    def test_batches(self, backend, many_to_one):
        network = small(backend, many_to_one=many_to_one)
        other = copy.deepcopy(network)
        x, targets = data_set(network, B=5)
        history = network.fit(x, targets, epochs=2, batch_size=2, optimizer=Adam(0.1), **QUIET)
        parts = [slice(0, 2), slice(2, 4), slice(4, 5)]
        pieces = [(x[:, part], targets[..., part], True) for part in parts]
        losses = by_hand(other, Adam(0.1), pieces * 2)
        assert_same(network, other)
        weights = np.array([2, 2, 1]) / 5
        np.testing.assert_allclose(history["loss"], [weights @ losses[:3], weights @ losses[3:]], rtol=1e-14)

    def test_chunks_carry_the_state(self, backend):
        network = small(backend)
        other = copy.deepcopy(network)
        x, targets = data_set(network)
        network.fit(x, targets, truncation=2, optimizer=SGD(0.5), **QUIET)
        pieces = [
            (x[part], targets[part], part.start == 0) for part in (slice(0, 2), slice(2, 4), slice(4, 5))
        ]
        by_hand(other, SGD(0.5), pieces)
        assert_same(network, other)

    def test_the_state_is_not_carried_between_batches(self, backend):
        network = small(backend)
        other = copy.deepcopy(network)
        x, targets = data_set(network, T=2)
        network.fit(x, targets, truncation=1, batch_size=2, optimizer=SGD(0.5), **QUIET)
        pieces = [
            (x[t : t + 1, part], targets[t : t + 1, part], t == 0)
            for part in (slice(0, 2), slice(2, 4))
            for t in (0, 1)
        ]
        by_hand(other, SGD(0.5), pieces)
        assert_same(network, other)

    @pytest.mark.parametrize("truncation", [1, 2, 5, 7])
    def test_many_to_one_chunks_are_depth(self, truncation, backend):
        """The last chunk alone goes back, which is the truncation to that depth."""
        network = small(backend, many_to_one=True)
        other = copy.deepcopy(network)
        x, targets = data_set(network)
        network.fit(x, targets, truncation=truncation, optimizer=SGD(0.5), **QUIET)
        by_hand(other, SGD(0.5), [(x, targets, True)], depth=truncation)
        for name, value in network.parameters.items():
            np.testing.assert_allclose(value, other.parameters[name], rtol=1e-13, atol=1e-15)

    def test_depth(self, backend):
        network = small(backend)
        other, full = copy.deepcopy(network), copy.deepcopy(network)
        x, targets = data_set(network)
        network.fit(x, targets, depth=2, optimizer=SGD(0.5), **QUIET)
        full.fit(x, targets, optimizer=SGD(0.5), **QUIET)
        by_hand(other, SGD(0.5), [(x, targets, True)], depth=2)
        assert_same(network, other)
        assert_different(network, full)

    def test_clipping(self, backend):
        network = small(backend)
        other = copy.deepcopy(network)
        x, targets = data_set(network)
        network.fit(x, targets, clip_value=0.05, clip_norm=0.1, optimizer=SGD(0.5), **QUIET)
        _, gradients = other.loss_and_gradients(x, targets)
        clip_grad_value(gradients.parameters, 0.05)
        assert clip_grad_norm(gradients.parameters, 0.1) > 0.1
        SGD(0.5).step(other.parameters, gradients.parameters)
        assert_same(network, other)

    @pytest.mark.parametrize("many_to_one", [False, True])
    @pytest.mark.parametrize("truncation", [None, 2])
    def test_batch_first(self, many_to_one, truncation, backend):
        plain = small(backend, many_to_one=many_to_one)
        turned = small(backend, many_to_one=many_to_one, batch_first=True)
        keywords = {"batch_size": 3, "truncation": truncation, "seed": 4, "optimizer": SGD(0.5)}
        plain.fit(*data_set(plain), **keywords)
        turned.fit(*data_set(turned), **keywords)
        for name, value in plain.parameters.items():
            np.testing.assert_allclose(turned.parameters[name], value, rtol=1e-11, atol=1e-14)

    def test_one_unbatched_sequence(self, backend):
        network, other = small(backend), small(backend)
        x, targets = data_set(network, B=1)
        network.fit(x[:, 0], targets[:, 0], truncation=2, optimizer=SGD(0.5))
        other.fit(x, targets, truncation=2, optimizer=SGD(0.5))
        assert_same(network, other)

    def test_token_input(self, backend):
        network, other = small(backend), small(backend)
        tokens = np.array([[0, 1, 1], [1, 0, 1]], np.uint8)
        _, targets = data_set(network, T=2, B=3)
        network.fit(tokens, targets, batch_size=2, optimizer=SGD(0.5), **QUIET)
        other.fit(np.eye(2)[tokens], targets, batch_size=2, optimizer=SGD(0.5), **QUIET)
        for name, value in network.parameters.items():
            np.testing.assert_allclose(value, other.parameters[name], rtol=1e-12, atol=1e-15)

    def test_chunks_without_terms_make_no_step(self, backend):
        network = small(backend, loss_options={"ignore_index": -1})
        other = copy.deepcopy(network)
        x, targets = data_set(network, T=6)
        targets[2:4] = -1
        history = network.fit(x, targets, truncation=2, optimizer=SGD(0.5, momentum=0.9), **QUIET)
        optimizer = SGD(0.5, momentum=0.9)
        loss, gradients = other.loss_and_gradients(x[:2], targets[:2])
        optimizer.step(other.parameters, gradients.parameters)
        _, h = other(x[2:4], gradients.h_n)
        last, gradients = other.loss_and_gradients(x[4:], targets[4:], h)
        optimizer.step(other.parameters, gradients.parameters)
        assert_same(network, other)
        assert history["loss"] == [pytest.approx((loss + last) / 2, rel=1e-14)]

    def test_nothing_but_ignored_targets(self, backend):
        network = small(backend, loss_options={"ignore_index": -1})
        x, targets = data_set(network)
        history = network.fit(x, np.full_like(targets, -1), **QUIET)
        assert_same(network, small(backend))
        assert math.isnan(history["loss"][0])

    def test_no_time_steps(self, backend):
        network = small(backend)
        history = network.fit(np.zeros((0, 3, 2)), np.zeros((0, 3), int), truncation=4, **QUIET)
        assert_same(network, small(backend))
        assert math.isnan(history["loss"][0])

    def test_sum_reduction_adds_up(self, backend):
        network = small(backend, reduction="sum")
        other = copy.deepcopy(network)
        x, targets = data_set(network)
        history = network.fit(x, targets, batch_size=3, optimizer=SGD(0.01), **QUIET)
        losses = by_hand(
            other, SGD(0.01), [(x[:, part], targets[:, part], True) for part in (slice(0, 3), slice(3, 4))]
        )
        assert history["loss"] == [pytest.approx(sum(losses), rel=1e-14)]

    def test_default_optimiser(self, backend):
        network, other = small(backend), small(backend)
        x, targets = data_set(network)
        network.fit(x, targets, epochs=3)
        other.fit(x, targets, epochs=3, optimizer=Adam(1e-3))
        assert_same(network, other)

    def test_an_optimiser_keeps_its_moments_between_calls(self, backend):
        network, other = small(backend), small(backend)
        x, targets = data_set(network)
        optimizer = Adam(0.1)
        for _ in range(3):
            network.fit(x, targets, optimizer=optimizer)
        other.fit(x, targets, epochs=3, optimizer=Adam(0.1))
        assert_same(network, other)

    def test_it_learns(self, backend):
        rnn = RNN(4, 6, seed=0, backend=backend)
        network = Network(rnn, Linear(6, 4, seed=0, backend=backend))
        h, e, l, o = range(4)
        x, targets = np.array([h, e, l, l]), np.array([e, l, l, o])
        history = network.fit(x, targets, epochs=60, optimizer=Adam(0.05))
        assert history["loss"][-1] < 0.1 < 1 < history["loss"][0]
        assert network.evaluate(x, targets)["accuracy"] == 1.0
        assert network.sample([h], 4, temperature=0).tolist() == [e, l, l, o]


class TestRepeatable:
    def test_a_seed_gives_the_same_bits(self, backend):
        networks = [small(backend) for _ in range(3)]
        x, targets = data_set(networks[0], B=7)
        histories = [
            network.fit(x, targets, epochs=2, batch_size=2, seed=seed, optimizer=Adam(0.1))
            for network, seed in zip(networks, (5, 5, 6), strict=True)
        ]
        assert_same(networks[0], networks[1])
        assert histories[0]["loss"] == histories[1]["loss"]
        assert_different(networks[0], networks[2])

    def test_every_epoch_has_all_rows_in_another_order(self, backend):
        network = small(backend, many_to_one=True)
        x = np.zeros((1, 8, 2))
        x[0, :, 0] = np.arange(8)
        seen = []

        def spy(data, targets, *rest, **keywords):
            seen.append(data[0, :, 0].astype(int).tolist())
            assert targets.tolist() == [n % 3 for n in seen[-1]]  # rows stay with their targets
            return original(data, targets, *rest, **keywords)

        original = network.loss_and_gradients
        network.loss_and_gradients = spy
        network.fit(x, np.arange(8) % 3, epochs=2, batch_size=3, seed=0)
        assert [len(rows) for rows in seen] == [3, 3, 2] * 2
        first, second = list(chain(*seen[:3])), list(chain(*seen[3:]))
        assert sorted(first) == sorted(second) == list(range(8))
        assert first != second != list(range(8)) != first

    def test_without_shuffling_no_seed_matters(self, backend):
        networks = [small(backend) for _ in range(2)]
        x, targets = data_set(networks[0])
        for network, seed in zip(networks, (1, 2), strict=True):
            network.fit(x, targets, batch_size=2, seed=seed, shuffle=False)
        assert_same(*networks)

    def test_data_are_not_changed(self, backend):
        network = small(backend)
        x, targets = data_set(network)
        for array in (x, targets):
            array.flags.writeable = False
        before = x.copy(), targets.copy()
        network.fit(x, targets, epochs=2, batch_size=2, truncation=2)
        np.testing.assert_array_equal(x, before[0])
        np.testing.assert_array_equal(targets, before[1])

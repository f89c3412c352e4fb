"""Drawing a token, and Network.sample: greedy, seeded, frequencies, limits, errors."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
from errors import raises
from networks import LAYERS, small

from bptt import GRU, RNN, Linear, Network
from bptt.sampling import draw


def language(backend, kind="tanh", *, seed=3, **options):
    """Return a network over five tokens."""
    made, own = LAYERS[kind]
    rnn = made(5, 6, **own, **options, dtype=np.float64, seed=seed, backend=backend)
    readout = Linear(rnn.output_size, 5, dtype=np.float64, seed=seed, backend=backend)
    for parameters in (rnn.parameters, readout.parameters):
        for value in parameters.values():
            value *= 4  # predictions far from uniform
    return Network(rnn, readout)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draw_frequencies(temperature):
    logits = np.array([0.0, 1.0, -1.0, 2.5])
    p = np.exp(logits / temperature)
    p /= p.sum()
    rng = np.random.default_rng(5)
    counts = np.bincount([draw(logits, temperature, rng) for _ in range(4000)], minlength=4)
    chi_squared = ((counts - 4000 * p) ** 2 / (4000 * p)).sum()
    assert chi_squared < 16.3  # 3 degrees of freedom: exceeded once in a thousand


def test_draw_near_temperature_0():
    rng = np.random.default_rng(0)
    logits = np.array([1.0, 3.0, 2.0])
    assert {draw(logits, t, rng) for t in (0, 5e-324, 1e-300, 1e-5) for _ in range(20)} == {1}


@pytest.mark.parametrize(("u", "expected"), [(0.0, 1), (0.5, 2), (1 - 2**-53, 2)])
def test_draw_takes_no_class_without_weight(u, expected):
    """At either end of what a generator gives; the first and the last class underflow."""
    rng = SimpleNamespace(random=lambda: u)
    assert draw(np.array([-2000.0, 0.0, 1.0, -2000.0]), 1.0, rng) == expected


class TestSample:
    def test_greedy_is_the_likeliest_token_each_time(self, backend):
        network = language(backend)
        prompt = [1, 4, 2]
        tokens = list(prompt)
        for _ in range(8):
            s, _ = network(np.array(tokens))
            tokens.append(int(s[-1].argmax()))
        sampled = network.sample(prompt, 8, temperature=0)
        assert sampled.dtype == np.int64
        assert sampled.tolist() == tokens[3:]
        assert len(set(tokens[3:])) > 1

    @pytest.mark.parametrize("kind", LAYERS)
    @pytest.mark.parametrize("num_layers", [1, 2])
    def test_every_cell(self, kind, num_layers, backend):
        """What the whole sequence so far, given anew each time, would make it draw."""
        network = language(backend, kind=kind, num_layers=num_layers, zoneout=0.25)
        tokens, rng = [1, 4, 2], np.random.default_rng(5)
        for _ in range(20):
            s, _ = network(np.array(tokens))
            tokens.append(draw(s[-1], 0.7, rng))
        assert network.sample([1, 4, 2], 20, temperature=0.7, seed=5).tolist() == tokens[3:]
        assert len(set(tokens)) > 3

    def test_dropout_does_not_act(self, backend):
        plain = language(backend, kind="lstm", num_layers=2)
        network = language(backend, kind="lstm", num_layers=2, dropout=0.5, recurrent_dropout=0.5)
        np.testing.assert_array_equal(network.sample([1], 20, seed=0), plain.sample([1], 20, seed=0))

    @pytest.mark.parametrize("many_to_one", [False, True])
    def test_both_directions(self, many_to_one):
        rnn = GRU(5, 6, bidirectional=True, backend="reference")
        network = Network(rnn, Linear(12, 5, backend="reference"), many_to_one=many_to_one)
        message = (
            "sample: expected a layer of one direction, got bidirectional=True, "
            "which needs the whole sequence"
        )
        with raises(ValueError, message):
            network.sample([0], 1)

    def test_seed(self, backend):
        network = language(backend)
        first, again, other = (network.sample([0], 40, seed=seed) for seed in (1, 1, 2))
        np.testing.assert_array_equal(first, again)
        assert not np.array_equal(first, other)

    @pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
    def test_frequencies(self, temperature, backend):
        network = language(backend)
        for value in network.rnn.parameters.values():
            value[:] = 0  # every prediction is softmax(bias)
        bias = np.array([0.0, 1.0, -1.0, 2.0, 0.5])
        network.parameters["readout.bias"][:] = bias
        weights = [math.exp(b / temperature) for b in bias.tolist()]
        n = 1500
        counts = np.bincount(network.sample([0], n, temperature=temperature, seed=7), minlength=5)
        for count, weight in zip(counts, weights, strict=True):
            p = weight / sum(weights)
            assert abs(count - n * p) < 4.5 * math.sqrt(n * p * (1 - p))

    def test_the_smallest_temperature_is_greedy(self, backend):
        network = language(backend)
        greedy = network.sample([2], 10, temperature=0)
        np.testing.assert_array_equal(network.sample([2], 10, temperature=1e-310, seed=0), greedy)

    def test_a_huge_temperature_is_uniform_noise(self, backend):
        assert set(language(backend).sample([2], 100, temperature=1e300, seed=0)) == set(range(5))

    def test_many_to_one_and_batch_first_make_no_difference(self, backend):
        network = language(backend)
        other = Network(network.rnn, network.readout, many_to_one=True)
        np.testing.assert_array_equal(other.sample([1, 2], 9, seed=0), network.sample([1, 2], 9, seed=0))
        turned = RNN(5, 6, dtype=np.float64, batch_first=True, backend=backend)
        turned.load_state_dict(network.rnn.parameters)
        third = Network(turned, network.readout)
        np.testing.assert_array_equal(third.sample([1, 2], 9, seed=0), network.sample([1, 2], 9, seed=0))

    def test_nothing(self, backend):
        assert language(backend).sample([0], 0).shape == (0,)

    @pytest.mark.parametrize(
        ("keywords", "error", "message"),
        [
            ({"prompt": []}, ValueError, "prompt: expected shape (P,) with P >= 1, got (0,)"),
            ({"prompt": [[1]]}, ValueError, "prompt: expected shape (P,) with P >= 1, got (1, 1)"),
            ({"prompt": [0.5]}, TypeError, "prompt: expected integer token ids, got float64"),
            ({"length": -1}, ValueError, "length: expected an integer of at least 0, got -1"),
            ({"length": 1.5}, TypeError, "length: expected an integer of at least 0, got 1.5"),
            (
                {"temperature": -0.1},
                ValueError,
                "temperature: expected a finite number of at least 0, got -0.1",
            ),
            (
                {"temperature": math.nan},
                ValueError,
                "temperature: expected a finite number of at least 0, got nan",
            ),
            (
                {"temperature": math.inf},
                ValueError,
                "temperature: expected a finite number of at least 0, got inf",
            ),
            ({"seed": -1}, ValueError, "seed: expected an integer of at least 0, got -1"),
        ],
    )
    def test_errors(self, keywords, error, message):
        with raises(error, message):
            language("reference").sample(**({"prompt": [0], "length": 1} | keywords))

    def test_token_range(self):
        for token in (5, -1):
            with raises(ValueError, f"prompt: expected token ids in [0, 5), got {token}"):
                language("reference").sample([0, token], 0)

    def test_not_a_token_network(self):
        message = "sample: expected softmax_cross_entropy and as many outputs as tokens, 2, got {} and {}"
        with raises(ValueError, message.format("softmax_cross_entropy", 3)):
            small("reference").sample([0], 1)
        with raises(ValueError, message.format("mean_squared_error", 2)):
            small("reference", loss="mean_squared_error", outputs=2).sample([0], 1)

    def test_not_finite(self, backend):
        network = language(backend)
        network.parameters["readout.bias"][0] = np.nan
        with raises(ValueError, "sample: expected finite logits, got NaN or infinity from the network"):
            network.sample([0], 1)

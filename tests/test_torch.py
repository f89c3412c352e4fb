"""Agreement with the recurrent layers of PyTorch: outputs, final states and all gradients."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch_problems
from torch_problems import Configuration, both, our_results, their_results

import bptt

torch = pytest.importorskip("torch")

pytestmark = [
    pytest.mark.kernels,
    # said once, of what PyTorch does then
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning"),
]

CONFIGURATIONS = torch_problems.configurations(400)


def close(name, actual, expected, K):
    """Both sides round: twice the tolerance against exact values, relative to the largest entry."""
    assert actual.dtype == expected.dtype, name
    assert actual.shape == expected.shape, name
    unit = 4e-14 if actual.dtype == np.float64 else 1e-6 * math.sqrt(K)
    error = np.abs(actual - expected).max(initial=0.0)
    assert error <= unit * np.abs(expected).max(initial=0.0), f"{name}: off by {error}"


def test_the_configurations_cover_every_pair_of_options():
    assert len(set(CONFIGURATIONS)) == 400
    assert torch_problems.pairs() <= torch_problems.covered(CONFIGURATIONS)


@pytest.mark.parametrize("configuration", CONFIGURATIONS, ids=torch_problems.label)
def test_agreement(configuration: Configuration):
    q = both(torch, configuration)
    ours = our_results(q, configuration.state)
    theirs = their_results(torch, q, configuration.state)
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        close(name, ours[name], expected, q.addends)


@pytest.mark.parametrize("layer", torch_problems.LAYERS)
def test_the_names_fit(layer, dtype):
    """State dicts load in both directions, the parameters in the same order."""
    choices = {name: values[-1] for name, values in torch_problems.CHOICES.items() if name != "layer"}
    configuration = Configuration(layer=layer, seed=0, **choices | {"bias": True, "dtype": dtype.__name__})
    q = both(torch, configuration)
    assert [*q.ours.parameters] == [name for name, _ in q.theirs.named_parameters()]
    name, options = torch_problems.LAYERS[layer]
    other = getattr(bptt, name)(
        q.ours.input_size,
        q.ours.hidden_size,
        num_layers=q.ours.num_layers,
        bidirectional=q.ours.bidirectional,
        dtype=dtype,
        seed=1,
        **{option: getattr(q.ours, option) for option in options},
    )
    q.theirs.load_state_dict({key: torch.from_numpy(value) for key, value in other.state_dict().items()})
    for key, value in q.theirs.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), other.parameters[key])


@pytest.mark.parametrize("layer", torch_problems.LAYERS)
def test_longer_sequences(layer, dtype):
    """500 steps, in both directions."""
    choices = {"num_layers": 1, "bidirectional": True, "bias": True, "batch": "time first", "lengths": True}
    configuration = Configuration(
        layer=layer, shape=(500, 3, 6, 20), state=True, dtype=dtype.__name__, seed=3, **choices
    )
    q = both(torch, configuration)
    ours, theirs = our_results(q, True), their_results(torch, q, True)
    for name, expected in theirs.items():
        close(name, ours[name], expected, q.addends)

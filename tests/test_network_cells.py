"""Network with every cell, in stacks and both directions: gradients, last states, what is carried."""

from __future__ import annotations

import numpy as np
import pytest
from networks import LAYERS, data_set, initial_state, problem, small

from bptt import RNN, Adam, Linear, Network
from bptt.states import parts

STACKS = [{}, {"num_layers": 2}, {"num_layers": 2, "bidirectional": True}]
NOISE = {"dropout": 0.3, "recurrent_dropout": 0.2, "zoneout": 0.25}


def slopes(loss, arrays, gradients):
    """Compare a gradient with differences of the loss, along a random direction of each array."""
    rng = np.random.default_rng(3)
    step = 1e-6
    for name, array in arrays.items():
        direction, before, around = rng.normal(size=array.shape), array.copy(), []
        for sign in (1, -1):
            array[...] = before + sign * step * direction
            around.append(loss())
        array[...] = before
        slope = (around[0] - around[1]) / (2 * step)
        assert np.vdot(gradients[name], direction) == pytest.approx(slope, rel=1e-6, abs=1e-9), name


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("many_to_one", [False, True])
def test_gradients_are_difference_quotients(kind, stack, many_to_one):
    network = small("reference", kind=kind, layer=stack, many_to_one=many_to_one)
    x, targets = problem(network, T=4, B=2)
    state = initial_state(network, B=2)
    loss, gradients = network.loss_and_gradients(x, targets, state)
    assert loss == network.loss(x, targets, state)
    arrays = network.parameters | {"x": x} | dict(zip(("h_0", "c_0"), parts(state), strict=False))
    derivatives = gradients.parameters | {"x": gradients.x, "h_0": gradients.h_0, "c_0": gradients.c_0}
    assert gradients.parameters.keys() == network.parameters.keys()
    assert (gradients.c_0 is None) == (len(parts(state)) == 1)
    slopes(lambda: network.loss(x, targets, state), arrays, derivatives)


@pytest.mark.parametrize("kind", ["tanh", "lstm", "projected", "gru"])
@pytest.mark.parametrize("many_to_one", [False, True])
def test_gradients_with_masks(kind, many_to_one):
    """Those of one seed are a function to differentiate like any other."""
    layer = {"num_layers": 2, "bidirectional": True, "layer_norm": True, **NOISE}
    network = small("reference", kind=kind, layer=layer, many_to_one=many_to_one)
    x, targets = problem(network, T=4, B=2)

    def loss():
        return network.loss_and_gradients(x, targets, seed=8)[0]

    _, gradients = network.loss_and_gradients(x, targets, seed=8)
    slopes(loss, network.parameters | {"x": x}, gradients.parameters | {"x": gradients.x})


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("many_to_one", [False, True])
def test_the_readout_sees_the_last_layer(kind, stack, many_to_one, backend):
    network = small(backend, kind=kind, layer=stack, many_to_one=many_to_one)
    x, _ = problem(network)
    state = initial_state(network)
    y, h_n = network.rnn(x, state)
    s, final = network(x, state)
    for actual, expected in zip(parts(final), parts(h_n), strict=True):
        np.testing.assert_array_equal(actual, expected)
    seen = y
    if many_to_one:
        h = parts(h_n)[0]
        seen = np.concatenate([h[-2], h[-1]], axis=1) if "bidirectional" in stack else h[-1]
        R = h.shape[2]
        np.testing.assert_array_equal(seen[:, :R], y[-1, :, :R])
        np.testing.assert_array_equal(
            seen[:, R:], y[0, :, R:]
        )  # the reverse direction ends at the first step
    np.testing.assert_array_equal(s, network.readout(seen))


@pytest.mark.parametrize("kind", LAYERS)
def test_carried_state_gives_the_same_outputs(kind, backend):
    network = small(backend, kind=kind, layer={"num_layers": 2})
    x, _ = problem(network)
    whole, h_n = network(x)
    first, state = network(x[:2])
    rest, state = network(x[2:], state)
    np.testing.assert_array_equal(np.concatenate([first, rest]), whole)
    for actual, expected in zip(parts(state), parts(h_n), strict=True):
        np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("kind", ["lstm", "gru"])
@pytest.mark.parametrize("many_to_one", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
def test_unbatched(kind, many_to_one, batch_first, backend):
    layer = {"num_layers": 2, "bidirectional": True}
    network = small(backend, kind=kind, layer=layer, many_to_one=many_to_one, batch_first=batch_first)
    x, targets = data_set(network, B=1)
    loss, gradients = network.loss_and_gradients(x, targets)
    row = 0 if batch_first else (slice(None), 0)
    alone, gradients_alone = network.loss_and_gradients(x[row], targets[0 if many_to_one else row])
    assert alone == loss
    assert gradients_alone.h_0.shape == (4, 4)
    np.testing.assert_array_equal(gradients_alone.x, gradients.x[row])
    for name, value in gradients.parameters.items():
        np.testing.assert_array_equal(gradients_alone.parameters[name], value)
    s, h_n = network(x[row])
    assert s.shape == ((3,) if many_to_one else (5, 3))
    assert [part.shape for part in parts(h_n)] == [(4, 4)] * len(parts(h_n))


@pytest.mark.parametrize("kind", ["tanh", "lstm", "gru"])
def test_masks_act_in_training_only(kind, backend):
    network = small(backend, kind=kind, layer={"num_layers": 2, "dropout": 0.5, "recurrent_dropout": 0.5})
    plain = small(backend, kind=kind, layer={"num_layers": 2})
    x, targets = problem(network)
    assert network.loss(x, targets) == plain.loss(x, targets)
    assert network.evaluate(x, targets) == plain.evaluate(x, targets)
    np.testing.assert_array_equal(network.predict(x), plain.predict(x))
    one, same, other = (network.loss_and_gradients(x, targets, seed=seed)[0] for seed in (1, 1, 2))
    assert one == same != other != plain.loss(x, targets)
    fresh = {network.loss_and_gradients(x, targets)[0] for _ in range(3)}
    assert len(fresh) == 3


def test_token_input_of_an_lstm(backend):
    network = small(backend, kind="lstm", layer={"num_layers": 2})
    tokens = np.array([[0, 1], [1, 1], [1, 0]])
    targets = np.array([[0, 2], [1, 0], [2, 2]])
    loss, gradients = network.loss_and_gradients(tokens, targets)
    dense, dense_gradients = network.loss_and_gradients(np.eye(2)[tokens], targets)
    assert loss == pytest.approx(dense, rel=1e-14)
    assert gradients.x is None
    for name, value in dense_gradients.parameters.items():
        np.testing.assert_allclose(gradients.parameters[name], value, rtol=1e-12, atol=1e-15)


def test_repr(backend):
    network = small(backend, kind="lstm", layer={"num_layers": 2})
    assert repr(network).startswith("Network(LSTM(2, 4, num_layers=2, ")
    _, gradients = network.loss_and_gradients(*problem(network))
    assert repr(gradients).startswith(
        "NetworkGradients(x=(5, 3, 2), h_0=(2, 3, 4), c_0=(2, 3, 4), parameters={rnn.weight_ih_l0: (16, 2), "
    )


def test_a_bidirectional_classifier_learns(backend):
    """Whether the first token comes again at the end: either direction alone sees one of them last."""
    rng = np.random.default_rng(0)
    x = rng.integers(3, size=(6, 64))
    targets = (x[0] == x[-1]).astype(int)
    rnn = RNN(3, 12, bidirectional=True, seed=0, backend=backend)
    network = Network(rnn, Linear(24, 2, seed=1, backend=backend), many_to_one=True)
    network.fit(x, targets, epochs=60, batch_size=64, optimizer=Adam(0.02), seed=0)
    assert network.evaluate(x, targets)["accuracy"] > 0.95

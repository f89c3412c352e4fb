"""Small networks and data that several test files share."""

from __future__ import annotations

import numpy as np

from bptt import GRU, LSTM, RNN, Linear, Network

#: How each kind of layer is made.
LAYERS = {
    "tanh": (RNN, {}),
    "lstm": (LSTM, {}),
    "projected": (LSTM, {"proj_size": 2, "peepholes": True}),
    "gru": (GRU, {}),
    "reset_before": (GRU, {"reset_after": False}),
}


#: Arguments of ``fit`` that leave the order of the rows, and standard error, alone.
QUIET = {"shuffle": False, "progress": False}


def small(
    backend,
    *,
    kind="tanh",
    loss="softmax_cross_entropy",
    outputs=3,
    batch_first=False,
    dtype=np.float64,
    seed=1,
    layer=None,
    **options,
):
    """Return a network of two inputs and four hidden units; `layer`: further options of the layer."""
    made, own = LAYERS[kind]
    rnn = made(2, 4, **own, **(layer or {}), batch_first=batch_first, dtype=dtype, seed=seed, backend=backend)
    readout = Linear(rnn.output_size, outputs, dtype=dtype, seed=seed + 1, backend=backend)
    return Network(rnn, readout, loss=loss, **options)


def initial_state(network, B=3, seed=5):
    """Return an initial state of the network's layer, of B rows."""
    rng, rnn = np.random.default_rng(seed), network.rnn
    units = rnn.num_layers * (2 if rnn.bidirectional else 1)
    h = rng.normal(size=(units, B, getattr(rnn, "proj_size", 0) or rnn.hidden_size)).astype(rnn.dtype)
    if not isinstance(rnn, LSTM):
        return h
    return h, rng.normal(size=(units, B, rnn.hidden_size)).astype(rnn.dtype)


def problem(network, T=5, B=3, seed=0):
    """Input and targets, time-major."""
    rng = np.random.default_rng(seed)
    outputs = network.readout.out_features
    x = rng.normal(size=(T, B, 2)).astype(network.rnn.dtype)
    leading = (B,) if network.many_to_one else (T, B)
    if network.objective.loss == "softmax_cross_entropy":
        return x, rng.integers(outputs, size=leading)
    return x, rng.integers(2, size=(*leading, outputs)).astype(network.rnn.dtype)


EACH_LOSS = [
    ("softmax_cross_entropy", {}),
    ("softmax_cross_entropy", {"ignore_index": 1}),
    ("binary_cross_entropy", {}),
    ("mean_squared_error", {}),
    ("sum_squared_residuals", {"link": "sigmoid"}),
    ("residual", {"link": "sigmoid"}),
]


def data_set(network, T=5, B=4, seed=0):
    """Input and targets in the network's layout."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(T, B, 2))
    targets = rng.integers(3, size=(B,) if network.many_to_one else (T, B))
    if network.objective.loss != "softmax_cross_entropy":
        targets = np.eye(3)[targets]
    if not network.rnn.batch_first:
        return x, targets
    return x.swapaxes(0, 1), targets if network.many_to_one else targets.swapaxes(0, 1)


def assert_same(network, other):
    for name, value in network.parameters.items():
        np.testing.assert_array_equal(value, other.parameters[name])


def assert_different(network, other):
    assert any(
        not np.array_equal(value, other.parameters[name]) for name, value in network.parameters.items()
    )


class Hand:
    """Training written out: one optimiser step for every call, with the seeds that ``fit`` would draw."""

    def __init__(self, network, optimizer, seed=0):
        self.network, self.optimizer = network, optimizer
        self.rng = np.random.default_rng(seed)
        self.losses = []

    def seed(self):
        return int(self.rng.integers(2**63))

    def step(self, x, targets, state=None, **keywords):
        """Return the final state."""
        loss, gradients = self.network.loss_and_gradients(x, targets, state, seed=self.seed(), **keywords)
        self.optimizer.step(self.network.parameters, gradients.parameters)
        self.losses.append(loss)
        return gradients.h_n

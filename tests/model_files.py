"""A good model file, and what several test files look at in others."""

from __future__ import annotations

import numpy as np
import pytest

from bptt import LSTM, RNN, Linear, Network
from bptt.files import ModelFileError, load_model


def network(backend="reference", *, dtype=np.float32, bias=True, seed=0, **options):
    rnn = RNN(3, 4, dtype=dtype, bias=bias, seed=seed, nonlinearity="relu", batch_first=True, backend=backend)
    readout = Linear(4, 2, bias=bias, dtype=dtype, seed=seed, backend=backend)
    return Network(rnn, readout, **options)


def assert_same(one, other):
    assert one.parameters.keys() == other.parameters.keys()
    for name, value in one.parameters.items():
        assert value.dtype == other.parameters[name].dtype
        np.testing.assert_array_equal(value, other.parameters[name])


def content():
    """Return tensors and configuration of a good file of version 1, which had Elman layers only."""
    rnn, readout = network().rnn, network().readout
    tensors = {f"rnn.{name}": value for name, value in rnn.parameters.items()}
    tensors |= {f"readout.{name}": value for name, value in readout.parameters.items()}
    return tensors, {
        "format": "bptt.network",
        "version": 1,
        "rnn": {"input_size": 3, "hidden_size": 4, "nonlinearity": "relu", "bias": True, "batch_first": True},
        "readout": {"out_features": 2, "bias": True},
        "dtype": "float32",
        "loss": {
            "loss": "softmax_cross_entropy",
            "loss_options": {},
            "reduction": "mean",
            "many_to_one": False,
        },
        "extra": {},
    }


def lstm_content():
    """Return tensors and configuration of a good file of version 2."""
    rnn = LSTM(
        3,
        4,
        num_layers=2,
        bidirectional=True,
        proj_size=2,
        peepholes=True,
        dropout=0.5,
        zoneout=(0.25, 0.125),
        layer_norm=True,
        seed=0,
        backend="reference",
    )
    readout = Linear(4, 2, seed=0, backend="reference")
    tensors = {f"rnn.{name}": value for name, value in rnn.parameters.items()}
    tensors |= {f"readout.{name}": value for name, value in readout.parameters.items()}
    return tensors, {
        "format": "bptt.network",
        "version": 2,
        "rnn": {
            "cell": "lstm",
            "input_size": 3,
            "hidden_size": 4,
            "num_layers": 2,
            "bias": True,
            "batch_first": False,
            "dropout": 0.5,
            "bidirectional": True,
            "recurrent_dropout": 0.0,
            "zoneout": [0.25, 0.125],
            "layer_norm": True,
            "proj_size": 2,
            "peepholes": True,
        },
        "readout": {"out_features": 2, "bias": True},
        "dtype": "float32",
        "loss": {
            "loss": "softmax_cross_entropy",
            "loss_options": {},
            "reduction": "mean",
            "many_to_one": True,
        },
        "extra": {},
    }


def rejected(path, message):
    """Loading gives one sentence that begins with the path."""
    with pytest.raises(ModelFileError) as raised:
        load_model(path, backend="reference")
    text = str(raised.value)
    assert text.startswith(f"{path}: {message}")
    assert text.isprintable()
    assert len(text) < len(str(path)) + 310
    assert raised.value.__suppress_context__


def leftovers(folder):
    return sorted(path.name for path in folder.iterdir())

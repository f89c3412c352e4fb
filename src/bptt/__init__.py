"""Recurrent neural networks on the CPU, with every gradient in the open.

    rnn = bptt.RNN(input_size, hidden_size, seed=0)
    y, h_n = rnn(x, h_0)                     inference: keeps nothing
    y, h_n, tape = rnn.record(x, h_0)        training: an explicit tape
    gradients = tape.backward(dy, dh_n)      .x, .h_0, .parameters["weight_hh_l0"], ...
    y_t = stream.step(x_t)                   one time step of stream = rnn.stream(), which carries the state

The map, from the ground up; each floor uses only those under it:

    kernels, reference     unroll (forward over time) and bptt (backward over time): compiled; plain Python
    layers, tape, readout  RNN, what it records, the Linear readout
    frozen, stream         inference-only copy with packed weights; one time step at a time
    losses                 each returns (loss, dloss/ds)
    network, optim         recurrence + readout + loss with fit, evaluate, sample; SGD, Adam, clipping
    cli                    bptt train | sample | bench | info

The notation, here and in docs/equations.md:

    T, B, I, H, O    time steps, batch rows, input features (or different tokens), hidden units, outputs
    x (T, B, I)      input; or token ids (T, B).  (B, T, ...) with batch_first, (T, ...) unbatched
    y (T, B, H)      hidden state after every step; h_0 and h_n (1, B, H) are the first and the last one
    s (..., O)       outputs of the readout, before softmax or sigmoid
    dx, dy, ...      gradient of the loss with respect to x, y, ...
    depth            steps that a loss is traced back through (truncation); by default all
    weight_ih_l0 (H, I), weight_hh_l0 (H, H), bias_ih_l0 (H,), bias_hh_l0 (H,)    as PyTorch's

float32 (default) and float64 are never mixed silently. Work may be shared among ``threads``: by default the
environment variable BPTT_NUM_THREADS, else all usable cores. ``bptt.info()`` tells which processor variant
runs and why.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from bptt.frozen import FrozenRNN
from bptt.layers import RNN
from bptt.readout import Linear
from bptt.stream import Stream
from bptt.tape import Gradients, Tape

if TYPE_CHECKING:
    from bptt.kernels import info
    from bptt.losses import (
        LOSSES,
        binary_cross_entropy,
        mean_squared_error,
        residual,
        sigmoid,
        softmax,
        softmax_cross_entropy,
        sum_squared_residuals,
    )
    from bptt.network import Network
    from bptt.optim import SGD, Adam, AdamW, clip_grad_norm, clip_grad_value

    __version__: str

__all__ = [
    "LOSSES",
    "RNN",
    "SGD",
    "Adam",
    "AdamW",
    "FrozenRNN",
    "Gradients",
    "Linear",
    "Network",
    "Stream",
    "Tape",
    "__version__",
    "binary_cross_entropy",
    "clip_grad_norm",
    "clip_grad_value",
    "info",
    "mean_squared_error",
    "residual",
    "sigmoid",
    "softmax",
    "softmax_cross_entropy",
    "sum_squared_residuals",
]

# Imported when first asked for, so that `import bptt` costs little more than `import numpy`.
_LAZY = {
    "kernels": ("info",),
    "losses": (
        "LOSSES",
        "binary_cross_entropy",
        "mean_squared_error",
        "residual",
        "sigmoid",
        "softmax",
        "softmax_cross_entropy",
        "sum_squared_residuals",
    ),
    "network": ("Network",),
    "optim": ("SGD", "Adam", "AdamW", "clip_grad_norm", "clip_grad_value"),
}
_HOME = {name: module for module, names in _LAZY.items() for name in names}

if not TYPE_CHECKING:  # a type checker would take any misspelt name for granted

    def __getattr__(name: str) -> object:
        if name == "__version__":
            from importlib.metadata import version

            value = version("bptt")
        elif name in _HOME:
            value = getattr(importlib.import_module(f"bptt.{_HOME[name]}"), name)
        else:
            raise AttributeError(f"module 'bptt' has no attribute {name!r}")
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

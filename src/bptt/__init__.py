"""Recurrent neural networks on the CPU, with every gradient in the open.

    rnn = bptt.RNN(input_size, hidden_size, num_layers=2, bidirectional=True, seed=0)      also LSTM, GRU
    y, h_n = rnn(x, h_0)                     inference: keeps nothing
    y, h_n, tape = rnn.record(x, h_0)        training: an explicit tape
    gradients = tape.backward(dy, dh_n)      .x, .h_0, .parameters["weight_hh_l0"], ...
    y_t = stream.step(x_t)                   one time step of stream = rnn.stream(), which carries the state
    print(tape.gradient_flow(dy))            how far back the loss reaches; also .terms, .jacobian_products

The map, from the ground up; each floor uses only those under it:

    kernels, reference     unroll (forward over time) and bptt (backward over time) of one direction of one
                           layer: compiled; plain Python
    layers, lstm, gru      RNN, LSTM, GRU: options, parameters and their first values (initial)
    structure, stack       what the options come to; the loop over layers and directions
    recurrent, noise       a call in any layout; masks of dropout and zoneout
    tape, readout          what a layer records; the Linear readout
    truncation             backward passes cut into windows of time
    checkpointed           tapes within a memory budget
    flow                   looking at a gradient: its terms, its Jacobians, how far it reaches
    frozen, stream         inference-only copy with packed weights; one time step at a time
    losses                 each returns (loss, dloss/ds)
    network, optim         recurrence + readout + loss with fit, evaluate, sample; SGD, Adam, clipping
    cli, plots             bptt train | sample | flow | bench | info; pictures

The notation, here and in docs/equations.md:

    T, B, I, H, O    time steps, batch rows, input features (or different tokens), hidden units, outputs
    L, D             num_layers, directions (1 or 2)
    P, R             proj_size of an LSTM; the size of h, P with a projection, else H
    x (T, B, I)      input; or token ids (T, B).  (B, T, ...) with batch_first, (T, ...) unbatched
    y (T, B, D*R)    h after every step, of the last layer
    h_0, h_n         first and last state, (L*D, B, R), of an LSTM a pair with c_0, c_n (L*D, B, H)
    s (..., O)       outputs of the readout, before softmax or sigmoid
    dx, dy, ...      gradient of the loss with respect to x, y, ...
    depth            steps that a loss is traced back through (truncation); by default all
    weight_ih_l0, weight_hh_l0, bias_ih_l0, bias_hh_l0, weight_ih_l0_reverse, ...    as PyTorch's

float32 (default) and float64 are never mixed silently. Work may be shared among ``threads``: by default the
environment variable BPTT_NUM_THREADS, else all usable cores. ``bptt.info()`` tells which processor variant
runs and why.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from bptt.frozen import FrozenGRU, FrozenLSTM, FrozenRNN
from bptt.gru import GRU
from bptt.layers import RNN
from bptt.lstm import LSTM
from bptt.readout import Linear
from bptt.stream import Stream
from bptt.tape import Gradients, Tape

if TYPE_CHECKING:
    from bptt.flow import gradient_flow, jacobian_products, terms
    from bptt.flow.gradient import GradientFlow
    from bptt.flow.jacobians import JacobianProducts
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
    "GRU",
    "LOSSES",
    "LSTM",
    "RNN",
    "SGD",
    "Adam",
    "AdamW",
    "FrozenGRU",
    "FrozenLSTM",
    "FrozenRNN",
    "GradientFlow",
    "Gradients",
    "JacobianProducts",
    "Linear",
    "Network",
    "Stream",
    "Tape",
    "__version__",
    "binary_cross_entropy",
    "clip_grad_norm",
    "clip_grad_value",
    "gradient_flow",
    "info",
    "jacobian_products",
    "mean_squared_error",
    "residual",
    "sigmoid",
    "softmax",
    "softmax_cross_entropy",
    "sum_squared_residuals",
    "terms",
]

# Imported when first asked for, so that `import bptt` costs little more than `import numpy`.
_LAZY = {
    "flow": ("gradient_flow", "jacobian_products", "terms"),
    "flow.gradient": ("GradientFlow",),
    "flow.jacobians": ("JacobianProducts",),
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

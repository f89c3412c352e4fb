"""What fixes a training run of a character model besides its text, and the network that this makes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from bptt.gru import GRU
from bptt.layers import RNN, Layer
from bptt.lstm import LSTM
from bptt.network import Network
from bptt.optim import SGD, Adam
from bptt.readout import Linear

OPTIMIZERS = {"adam": Adam, "sgd": SGD}
DEFAULT_LR = {"adam": 2e-3, "sgd": 1.0}
#: Layers by the names of their cells; the rest are nonlinearities of an Elman layer.
GATED: dict[str, type[Layer[Any, Any]]] = {"lstm": LSTM, "gru": GRU}
CELLS = ("tanh", "relu", "sigmoid", "identity", *GATED)


@dataclass(frozen=True)
class Settings:
    """What fixes a run besides its text.

    Parameters
    ----------
    cell : str
        "tanh", "relu", "sigmoid" or "identity" for an Elman layer, "lstm" or "gru".
    hidden : int
        Hidden units of each layer, H.
    layers : int
        Layers, L.
    dropout, recurrent_dropout, zoneout : float
        As in ``RNN``, each in [0, 1); the first one between layers.
    layer_norm : bool
        As in ``RNN``.
    steps_per_chunk : int
        Time steps that a gradient goes back at most.
    stride : int or None
        Time steps between two updates, at most `steps_per_chunk`: the loss is that of these, and its gradient
        goes back over those before them too. None: `steps_per_chunk`.
    batch : int
        Streams side by side, B.
    optimizer : str
        "adam" or "sgd".
    lr : float
        Learning rate.
    clip : float
        Largest gradient norm (2-norm over all parameters); 0: no limit.
    seed : int
        Of initial weights, of where each pass over the text begins, and of dropout's and zoneout's masks.
    """

    cell: str = "tanh"
    hidden: int = 256
    layers: int = 1
    dropout: float = 0.0
    recurrent_dropout: float = 0.0
    zoneout: float = 0.0
    layer_norm: bool = False
    steps_per_chunk: int = 64
    stride: int | None = None
    batch: int = 32
    optimizer: str = "adam"
    lr: float = 2e-3
    clip: float = 1.0
    seed: int = 0

    @property
    def steps_per_update(self) -> int:
        """Time steps between two updates."""
        return self.steps_per_chunk if self.stride is None else self.stride

    def mask_seed(self, step: int) -> int:
        """Seed of the masks of this step, so that they depend on nothing that a run would have to keep."""
        return int(np.random.SeedSequence(self.seed, spawn_key=(step,)).generate_state(1, np.uint64)[0])


@dataclass(frozen=True)
class Limit:
    """When a run is done: after so many passes over the text, or so many seconds; one of the two.

    Both count from the beginning of the run, whatever it was resumed from.  Seconds include all evaluations.
    """

    epochs: int | None = None
    seconds: float | None = None


def layer_options(settings: Settings) -> dict[str, Any]:
    """Return the options of the layer that settings ask for, those apart that say how it begins."""
    options = {
        "hidden_size": settings.hidden,
        "num_layers": settings.layers,
        "dropout": settings.dropout,
        "recurrent_dropout": settings.recurrent_dropout,
        "zoneout": settings.zoneout,
        "layer_norm": settings.layer_norm,
    }
    return options if settings.cell in GATED else options | {"nonlinearity": settings.cell}


def state_shapes(settings: Settings) -> tuple[tuple[int, int, int], ...]:
    """Return the shape (L, B, H) of h and, for an LSTM, of c."""
    return ((settings.layers, settings.batch, settings.hidden),) * (2 if settings.cell == "lstm" else 1)


def new_network(settings: Settings, characters: int, seeds: tuple[int, int], backend: str) -> Network:
    """Make the network of a run: float32, recurrent weights orthogonal, all else as PyTorch initialises.

    Parameters
    ----------
    settings : Settings
    characters : int
        Size of the vocabulary.
    seeds : tuple of int
        Of the layer and of the readout.
    backend : str
        "kernels" or "reference".

    Raises
    ------
    ValueError
        If a setting is out of its range.
    """
    layer: Any = GATED.get(settings.cell, RNN)
    rnn = layer(characters, **layer_options(settings), init="orthogonal", seed=seeds[0], backend=backend)
    readout = Linear(settings.hidden, characters, seed=seeds[1], backend=backend)
    return Network(rnn, readout, loss="softmax_cross_entropy")

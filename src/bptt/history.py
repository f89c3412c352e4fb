"""What training tells: an epoch's or a step's report to callbacks, and the history of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from bptt.arrays import Array

if TYPE_CHECKING:
    from bptt.network import Network


class Steps(Protocol):
    """What ``fit`` asks of an optimiser."""

    def step(self, parameters: Mapping[str, Array], gradients: Mapping[str, Array], /) -> None:
        """Update parameters in place."""


@dataclass(frozen=True)
class Epoch:
    """What a callback is told after an epoch.

    Attributes
    ----------
    epoch : int
        Counted from 1.
    loss : float
        Training loss of the epoch, measured before each update.
    validation_loss, validation_accuracy : float or None
        None without validation data; the accuracy also for losses that have none.
    seconds : float
        What the epoch took, validation included.
    network, optimizer : object
        The ones being trained.
    """

    epoch: int
    loss: float
    validation_loss: float | None
    validation_accuracy: float | None
    seconds: float
    network: Network
    optimizer: Steps


@dataclass(frozen=True)
class Step:
    """What a callback's ``on_step`` is told after an optimiser step.

    Attributes
    ----------
    epoch, step : int
        Counted from 1; steps go on over epochs.
    loss : float
        Loss of the batch or chunk, before the update.
    gradient_norm : float or None
        Norm before clipping; None without ``clip_norm``.
    network, optimizer : object
        The ones being trained.
    """

    epoch: int
    step: int
    loss: float
    gradient_norm: float | None
    network: Network
    optimizer: Steps


class History(dict[str, list[float]]):
    """Curves of a training run: a dictionary of lists with one number for each finished epoch.

    Keys are "epoch", "loss" and "seconds"; with validation data "validation_loss" and, where it means
    something, "validation_accuracy".

    Attributes
    ----------
    best_epoch : int or None
        Epoch of the lowest validation loss, counted from 1; None without validation data.
    stopped_by : str
        "epochs", "early_stopping" or "callback".
    """

    def __init__(self) -> None:
        super().__init__(epoch=[], loss=[], seconds=[])
        self.best_epoch: int | None = None
        self.stopped_by = "epochs"

    def note(self, report: Epoch) -> None:
        """Append an epoch."""
        for key in ("epoch", "loss", "validation_loss", "validation_accuracy", "seconds"):
            value = getattr(report, key)
            if value is not None:
                self.setdefault(key, []).append(value)

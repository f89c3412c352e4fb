"""The training loop behind ``Network.fit``.

Every chunk of every batch is one call of ``Network.loss_and_gradients``, clipping, and one optimiser step.
The state passes from a chunk to the next within its batch as a value, without a gradient
(docs/gradients.md, section "Truncation").  All chance in a run, the order of the rows and the masks of
dropout and zoneout, comes from one generator.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bptt import checks, states
from bptt.arrays import Array
from bptt.batches import Batch, training_batches, validation_batches
from bptt.chunks import Chunk, check_stride, check_truncation, chunks, count_terms, outward, start
from bptt.clipping import clip_grad_norm, clip_grad_value
from bptt.evaluation import evaluate, whole_loss
from bptt.history import Epoch, History, Step, Steps
from bptt.optim import Adam
from bptt.truncation import check as truncated

if TYPE_CHECKING:
    from bptt.network import Network


@dataclass(frozen=True)
class Options:
    """What one optimiser step needs to know."""

    optimizer: Steps
    truncation: int | None
    stride: int | None
    depth: int | None
    clip_norm: float | None
    clip_value: float | None
    rng: np.random.Generator
    threads: int | None


def fit(
    network: Network,
    data: tuple[Any, Any, Any, Any],
    *,
    epochs: int,
    optimizer: Steps | None,
    batch_size: int | None,
    truncation: int | None,
    stride: int | None,
    depth: int | None,
    clip_norm: float | None,
    clip_value: float | None,
    validation_data: Any,
    callbacks: Sequence[Callable[[Epoch], object]],
    early_stopping: int | None,
    shuffle: bool,
    seed: int | np.random.Generator | None,
    progress: bool | None,
    threads: int | None,
) -> History:
    """Check the arguments of ``Network.fit``, which documents them, and train.

    ``data`` are its x, targets, lengths and reset.
    """
    checked_epochs = checks.integer("epochs", epochs, 0)
    rows = None if batch_size is None else checks.integer("batch_size", batch_size)
    patience = None if early_stopping is None else checks.integer("early_stopping", early_stopping)
    if patience is not None and validation_data is None:
        raise ValueError("early_stopping: expected validation_data with it, got none")
    given: Any = callbacks
    told: tuple[Any, ...] = tuple(given) if isinstance(given, Iterable) else (None,)
    if callable(given) or not all(map(callable, told)):
        raise TypeError("callbacks: expected a sequence of callables, got something else")
    steps = Adam() if optimizer is None else optimizer
    if isinstance(steps, type) or not callable(getattr(steps, "step", None)):
        got = f"the class {steps.__name__}" if isinstance(steps, type) else type(steps).__name__
        raise TypeError(f"optimizer: expected an object of SGD, Adam or AdamW, got {got}")
    length = check_truncation(network, truncation)
    cut = None if depth is None else truncated(depth, None, network.rnn._structure)
    options = Options(
        optimizer=steps,
        truncation=length,
        stride=check_stride(stride, length, cut and cut[0]),
        depth=cut and cut[0],
        clip_norm=None if clip_norm is None else checks.not_negative("clip_norm", clip_norm, finite=False),
        clip_value=None
        if clip_value is None
        else checks.not_negative("clip_value", clip_value, finite=False),
        rng=seed if isinstance(seed, np.random.Generator) else np.random.default_rng(checks.seed(seed)),
        threads=threads,
    )
    order = options.rng if checks.flag("shuffle", shuffle) else None
    every = options.truncation and (options.stride or options.truncation)
    source, count = training_batches(network, data, rows, order, every, checked_epochs)
    validation = None if validation_data is None else validation_batches(network, validation_data, rows)
    bar = progress_bar(progress, None if count is None else count * checked_epochs)
    try:
        return train(
            network,
            source,
            validation,
            options,
            epochs=checked_epochs,
            patience=patience,
            callbacks=told,
            bar=bar,
        )
    finally:
        if bar is not None:
            bar.close()


def train(
    network: Network,
    data: Callable[[], Iterator[Batch]],
    validation: Callable[[], Iterator[Batch]] | None,
    options: Options,
    *,
    epochs: int,
    patience: int | None,
    callbacks: Sequence[Callable[[Epoch], object]],
    bar: Any,
) -> History:
    """Train over epochs; see ``fit``, which checks the arguments.

    Parameters
    ----------
    network : Network
        Changed in place.
    data, validation : callable
        Give the batches of one epoch.
    options : Options
        Of every step.
    epochs : int
        At most.
    patience : int or None
        Epochs without a better validation loss after which to stop.
    callbacks : sequence of callable
        Told of every epoch, and of every step if they have ``on_step``.
    bar : tqdm or None
        Moved on at every step.

    Returns
    -------
    History
    """
    history, best, done = History(), _Best(network), 0
    told: Sequence[Any] = callbacks
    listeners = [callback.on_step for callback in told if hasattr(callback, "on_step")]
    for epoch in range(1, epochs + 1):
        begin = time.perf_counter()
        total, count, stop = 0.0, 0, False
        for step, terms in _steps(network, data(), options, epoch, done):
            done = step.step
            total += step.loss * (terms if network.objective.reduction == "mean" else 1)
            count += terms
            if bar is not None:
                bar.set_postfix_str(f"epoch {epoch}/{epochs}, loss {step.loss:.4g}", refresh=False)
                bar.update()
            if _told(listeners, step):
                stop = True
                break
        measured = (
            {} if validation is None else evaluate(network, validation(), options.truncation, options.threads)
        )
        report = Epoch(
            epoch=epoch,
            loss=whole_loss(network, total, count),
            validation_loss=measured.get("loss"),
            validation_accuracy=measured.get("accuracy"),
            seconds=time.perf_counter() - begin,
            network=network,
            optimizer=options.optimizer,
        )
        history.note(report)
        if report.validation_loss is not None and report.validation_loss < best.loss:
            best.note(report.validation_loss, epoch, keep=patience is not None)
        if _told(callbacks, report) or stop:
            history.stopped_by = "callback"
            break
        if patience is not None and epoch - best.epoch >= patience:
            history.stopped_by = "early_stopping"
            break
    history.best_epoch = best.epoch or None
    best.restore()
    return history


def _steps(
    network: Network, data: Iterator[Batch], options: Options, epoch: int, done: int
) -> Iterator[tuple[Step, int]]:
    """Train for one epoch, reporting every step with the number of its loss terms."""
    empty = True
    for batch in data:
        empty = False
        state: Any = None
        stride = None if options.truncation is None else options.stride
        for chunk in chunks(network, batch, options.truncation, stride):
            chunk, state, rows = start(chunk, state)
            step = _step(network, chunk, state, options)
            state = step.state if rows is None else states.rows(step.state, rows)
            if step.terms:
                done += 1
                report = Step(epoch, done, step.loss, step.norm, network, options.optimizer)
                yield report, step.terms
    if empty:
        raise ValueError(f"x: expected at least one batch, got none in epoch {epoch}")


@dataclass(frozen=True)
class _Stepped:
    """What one chunk gave."""

    state: Any
    terms: int = 0
    loss: float = math.nan
    norm: float | None = None


def _step(network: Network, chunk: Chunk, state: Any, options: Options) -> _Stepped:
    """Make one optimiser step on one chunk, or only run over it if it has no loss."""
    x, targets, ragged = outward(network, chunk)
    # drawn whether there are masks or not, so that the rows' order doesn't depend on that
    keywords = {**ragged, "seed": int(options.rng.integers(2**63)), "threads": options.threads}
    terms = count_terms(network, chunk)
    if not terms:
        # without a loss there is no gradient, and momentum alone should not move anything
        _, after, tape = network.rnn.record(x, state, **keywords)
        return _Stepped(after if chunk.carry is None else tape._state_after(chunk.carry))
    if chunk.carry is not None:
        del keywords["reset"]
        loss, gradients = network._loss_of_the_end(
            x, targets, state, skip=chunk.skip, carry=chunk.carry, **keywords
        )
    else:
        stride = None if options.depth is None else options.stride
        loss, gradients = network.loss_and_gradients(
            x, targets, state, depth=options.depth, stride=stride, **keywords
        )
    norm = None
    if options.clip_value is not None:
        clip_grad_value(gradients.parameters, options.clip_value)
    if options.clip_norm is not None:
        norm = clip_grad_norm(gradients.parameters, options.clip_norm)
    options.optimizer.step(network.parameters, gradients.parameters)
    return _Stepped(gradients.h_n, terms, loss, norm)


class _Best:
    """The epoch of the lowest validation loss, and its parameters if they are to be restored."""

    def __init__(self, network: Network) -> None:
        self.loss, self.epoch = math.inf, 0
        self._network = network
        self._kept: dict[str, Array] = {}

    def note(self, loss: float, epoch: int, *, keep: bool) -> None:
        self.loss, self.epoch = loss, epoch
        if keep:
            self._kept = {name: value.copy() for name, value in self._network.parameters.items()}

    def restore(self) -> None:
        parameters = self._network.parameters
        for name, value in self._kept.items():
            np.copyto(parameters[name], value)


def _told(listeners: Iterable[Callable[[Any], object]], report: Epoch | Step) -> bool:
    """Tell every listener, and return whether one of them wants to stop."""
    answers = [listener(report) for listener in listeners]
    # only a bool: a lambda that returns what a call inside it happened to return means nothing by it
    return any(isinstance(answer, (bool, np.bool_)) and bool(answer) for answer in answers)


def progress_bar(progress: bool | None, total: int | None) -> Any:
    """Make a progress bar on standard error.

    Parameters
    ----------
    progress : bool or None
        None: only if standard error is a terminal and tqdm is installed.
    total : int or None
        Steps, if known.

    Returns
    -------
    tqdm or None

    Raises
    ------
    ImportError
        For ``progress=True`` without tqdm.
    """
    if progress is not None:
        progress = checks.flag("progress", progress)
    elif sys.stderr is None or not sys.stderr.isatty():
        progress = False
    if progress is False:
        return None
    try:
        from tqdm import tqdm
    except ImportError:
        if progress is None:
            return None
        raise ImportError("progress: expected tqdm for a bar, got none; pip install 'bptt[cli]'") from None
    return tqdm(total=total, unit="step", desc="fit", file=sys.stderr)

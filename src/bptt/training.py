"""Training a character model as a run that can stop anywhere and go on with the same bits.

A run is its settings, its text and its state: parameters, optimiser, the layer's carried state, place in the
text, random generator and counters.  What it is after n steps depends on settings, text and n alone: not on
time, not on threads, and not on how often it was saved and loaded on the way.  Gradients stop at the state
that a chunk is given (docs/gradients.md, section "Truncation").
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import numpy as np

from bptt import states
from bptt.arrays import Array, Tokens
from bptt.clipping import clip_grad_norm
from bptt.network import Network, NetworkGradients
from bptt.optim import SGD, Adam
from bptt.settings import OPTIMIZERS, Limit, Settings, new_network, state_shapes
from bptt.text import EVALUATED, Streams, Vocabulary, bits_per_character, held_out_length, needed_length

#: Weight of the newest chunk in the running mean of the training loss.
NEWEST = 0.02
#: Characters trained for each one evaluated, at least: evaluations cost a few percent of the time.
TRAINED_PER_EVALUATED = 20
#: Seconds between two saves of a run under way.
SAVE_EVERY = 30.0

ADVICE = "try a smaller --lr"


class DivergedError(ArithmeticError):
    """The loss or its gradient is no longer finite; the run stands as it was before that step."""


@dataclass
class Counters:
    """How far a run has got.

    Attributes
    ----------
    epoch, chunk : int
        Finished passes over the training text, and finished chunks of the present one.
    offset : int
        Character of the training text at which the present pass begins.
    steps, characters : int
        Updates made, and characters trained on.
    seconds : float
        Time spent.
    training_bits : float or None
        Running mean of the training loss, in bits per character.
    validation_bits, best_bits : float or None
        Last and lowest validation loss, in bits per character.
    validated_steps, best_steps : int
        Steps at which these were measured; -1: never.
    """

    epoch: int = 0
    chunk: int = 0
    offset: int = 0
    steps: int = 0
    characters: int = 0
    seconds: float = 0.0
    training_bits: float | None = None
    validation_bits: float | None = None
    validated_steps: int = -1
    best_bits: float | None = None
    best_steps: int = -1


@dataclass
class Run:
    """A training run of a character model.

    Make one with :func:`new_run`, or :func:`bptt.run_files.load_run`.

    Attributes
    ----------
    settings : Settings
    limit : Limit
    vocabulary : Vocabulary
    text_digest : str
        SHA-256 of the text in UTF-8.
    text_length : int
        Its length in characters.
    network : Network
    optimizer : Adam or SGD
    state : tuple of ndarray
        (h,), for an LSTM (h, c), (L, B, H) each: before the first step that the next chunk's gradient goes
        back to.
    rng : numpy.random.Generator
    counters : Counters
    streams : Streams
        The training part of the text.
    validation : ndarray of int64
        The last training character and the held-out ones, 200,000 at most.
    """

    settings: Settings
    limit: Limit
    vocabulary: Vocabulary
    text_digest: str
    text_length: int
    network: Network
    optimizer: Adam | SGD
    state: tuple[Array, ...]
    rng: np.random.Generator
    streams: Streams
    validation: Tokens
    counters: Counters = field(default_factory=Counters)

    @property
    def evaluation_interval(self) -> int:
        """Chunks between two evaluations within a pass; one is due at the start of every pass besides."""
        chunk = self.settings.batch * self.settings.steps_per_update
        return min(self.streams.chunks, -(-TRAINED_PER_EVALUATED * len(self.validation) // chunk))

    @property
    def evaluation_due(self) -> bool:
        """Whether the validation loss is to be measured before the next step."""
        counters = self.counters
        return counters.validated_steps != counters.steps and counters.chunk % self.evaluation_interval == 0

    @property
    def total_steps(self) -> int | None:
        """Steps until the limit, from the beginning of the run; None if the limit is a time."""
        return None if self.limit.epochs is None else self.limit.epochs * self.streams.chunks

    def evaluate(self, threads: int | None = None) -> float:
        """Measure the validation loss in bits per character; changes nothing."""
        return bits_per_character(self.network, self.validation, threads=threads)

    def note_validation(self, bits: float) -> None:
        """Enter a validation loss measured now.

        Raises
        ------
        DivergedError
            If it is NaN or infinite; nothing is changed then.
        """
        counters = self.counters
        if not math.isfinite(bits):
            raise DivergedError(f"{self._diverged}: expected a finite validation loss, got {bits}; {ADVICE}")
        counters.validation_bits, counters.validated_steps = bits, counters.steps
        if counters.best_bits is None or bits < counters.best_bits:
            counters.best_bits, counters.best_steps = bits, counters.steps

    def gradients(self, threads: int | None = None) -> tuple[float, NetworkGradients]:
        """Compute the mean loss over the next chunk in nats, and its gradients; changes nothing."""
        streams, index, settings = self.streams, self.counters.chunk, self.settings
        state, seed = states.whole(self.state), settings.mask_seed(self.counters.steps)
        if settings.steps_per_update == settings.steps_per_chunk:
            inputs, targets = streams.chunk(index, self.counters.offset)  # (T, B) each
            return self.network.loss_and_gradients(inputs, targets, state, seed=seed, threads=threads)
        # the state stands before the first step that this gradient goes back to
        first = streams.first(index, settings.steps_per_chunk)
        inputs, targets = streams.chunk(index, self.counters.offset, first)
        carry = streams.first(index + 1, settings.steps_per_chunk) - first
        return self.network._loss_of_the_end(
            inputs,
            targets,
            state,
            skip=len(inputs) - len(targets),
            carry=carry,
            lengths=None,
            seed=seed,
            threads=threads,
        )

    def update(self, loss: float, gradients: NetworkGradients) -> None:
        """Make the step whose loss and gradients :meth:`gradients` gave, and move on to the next chunk.

        Raises
        ------
        DivergedError
            If loss or gradient norm is NaN or infinite; nothing is changed then.
        """
        counters = self.counters
        norm = clip_grad_norm(gradients.parameters, self.settings.clip or math.inf)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise DivergedError(
                f"{self._diverged}: expected a finite loss and gradient, got loss {loss:.4g} and "
                f"gradient norm {norm:.4g}; {ADVICE}"
            )
        self.optimizer.step(self.network.parameters, gradients.parameters)
        self.state = states.parts(gradients.h_n)
        start, stop = self.streams.bounds(counters.chunk)
        bits = loss / math.log(2)
        mean = counters.training_bits
        counters.training_bits = bits if mean is None else mean + NEWEST * (bits - mean)
        counters.characters += (stop - start) * self.streams.batch
        counters.steps += 1
        counters.chunk += 1
        if counters.chunk == self.streams.chunks:
            counters.epoch += 1
            self.begin_pass()

    @property
    def _diverged(self) -> str:
        return f"training diverged at step {self.counters.steps + 1} (epoch {self.counters.epoch + 1})"

    def begin_pass(self) -> None:
        """Begin a pass over the training text: another place to start from, and the zero state."""
        self.counters.chunk = 0
        self.counters.offset = int(self.rng.integers(len(self.streams.tokens)))
        self.state = zero_state(self.settings)


def prepare(settings: Settings, text: str, vocabulary: Vocabulary) -> tuple[Streams, Tokens]:
    """Cut a text into training streams and validation tokens.

    Parameters
    ----------
    settings : Settings
    text : str
    vocabulary : Vocabulary
        With all characters of `text`.

    Returns
    -------
    streams : Streams
        All but the last 5% of the text.
    validation : ndarray of int64
        The character before the last 5%, as context, and the last 5%, cut off after 200,000 characters.

    Raises
    ------
    ValueError
        If the text is too short for one chunk of every stream.
    """
    needed = needed_length(settings.batch, settings.steps_per_update)
    if len(text) < needed:
        raise ValueError(
            f"text: expected at least {needed:,} characters for {settings.batch} streams of "
            f"{settings.steps_per_update} steps and 5% to validate on, got {len(text):,}"
        )
    tokens = vocabulary.encode(text)
    cut = len(tokens) - held_out_length(len(tokens))
    return Streams(tokens[:cut], settings.batch, settings.steps_per_update), tokens[cut - 1 : cut + EVALUATED]


def zero_state(settings: Settings) -> tuple[Array, ...]:
    """State that every pass over the text begins with: (h,), for an LSTM (h, c)."""
    return tuple(np.zeros(shape, np.float32) for shape in state_shapes(settings))


def digest(text: str) -> str:
    """SHA-256 of a text in UTF-8, in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def new_run(settings: Settings, limit: Limit, text: str, *, backend: str = "kernels") -> Run:
    """Begin a run.

    Parameters
    ----------
    settings : Settings
    limit : Limit
    text : str
        Its last 5% is held out.
    backend : str
        "kernels" or "reference".

    Returns
    -------
    Run

    Raises
    ------
    ValueError
        If the text is too short, or a setting is out of its range.
    """
    vocabulary = Vocabulary.from_text(text)
    streams, validation = prepare(settings, text, vocabulary)
    of_layer, of_readout, of_run = map(int, np.random.SeedSequence(settings.seed).generate_state(3))
    run = Run(
        settings=settings,
        limit=limit,
        vocabulary=vocabulary,
        text_digest=digest(text),
        text_length=len(text),
        network=new_network(settings, len(vocabulary), (of_layer, of_readout), backend),
        optimizer=OPTIMIZERS[settings.optimizer](lr=settings.lr),
        state=zero_state(settings),
        rng=np.random.default_rng(of_run),
        streams=streams,
        validation=validation,
    )
    run.begin_pass()
    return run


def train(
    run: Run,
    *,
    threads: int | None = None,
    started: float | None = None,
    report: Callable[[Run], None] = lambda run: None,
    save: Callable[[Run], None] = lambda run: None,
    interruptible: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> None:
    """Train until the run's limit, the final validation included.

    Parameters
    ----------
    run : Run
        Changed in place.  After a KeyboardInterrupt it stands at the end of the last whole step.
    threads : int, optional
        Threads for the kernels; the result doesn't depend on it.
    started : float, optional
        ``time.monotonic()`` at which this part of the run began; default now.
    report : callable
        Called with the run before every step and at the end.
    save : callable
        Called with the run every 30 seconds.
    interruptible : callable
        Makes a context manager around work that changes nothing, in which KeyboardInterrupt may be raised.

    Raises
    ------
    DivergedError
        If the loss is no longer finite.
    """
    counters, limit = run.counters, run.limit
    begin = (time.monotonic() if started is None else started) - counters.seconds
    saved = time.monotonic()
    evaluation = step = 0.0  # seconds that each takes

    def measure() -> float:
        before = time.monotonic()
        with interruptible():
            bits = run.evaluate(threads)
        run.note_validation(bits)
        counters.seconds = time.monotonic() - begin
        return time.monotonic() - before

    def done() -> bool:
        if limit.seconds is not None:
            return counters.seconds + 1.5 * evaluation + 2 * step >= limit.seconds
        return limit.epochs is not None and counters.epoch >= limit.epochs

    if limit.seconds is not None:  # how long an evaluation takes is needed to end in time
        evaluation = measure()
    while True:
        if run.evaluation_due:
            evaluation = measure()
        report(run)
        if done():
            break
        before = time.monotonic()
        with interruptible():
            loss, gradients = run.gradients(threads)
        run.update(loss, gradients)
        now = time.monotonic()
        step, counters.seconds = now - before, now - begin
        if now - saved > SAVE_EVERY:
            save(run)
            saved = time.monotonic()
    if counters.validated_steps != counters.steps:
        measure()
        report(run)

"""Text for character models: vocabulary, corpus, held-out part, contiguous streams, evaluation, continuation.

A character model reads one character a step and predicts the next, so a text of N characters gives N - 1
loss terms.  Everything here is free of run state; :mod:`bptt.training` holds what changes during a run.
"""

from __future__ import annotations

import math
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bptt import states
from bptt.arrays import Tokens
from bptt.sampling import continuation

if TYPE_CHECKING:
    from bptt.network import Network

#: The last twentieth of a text is held out for validation.
HELD_OUT = 20
#: At most this many held-out characters are evaluated, so that an evaluation's cost has a limit.
EVALUATED = 200_000
#: Streams that an evaluation runs side by side, and the least length that makes another one worth while.
STREAMS, STREAM_LENGTH = 16, 256
#: Steps per call in an evaluation: bounds its memory.
EVALUATION_STEPS = 256


@dataclass(frozen=True)
class Vocabulary:
    """The characters a model knows; a character's place is its token id.

    Parameters
    ----------
    characters : sequence of str
        Single characters in strictly ascending order of code point.

    Raises
    ------
    TypeError
        If an entry is not a string.
    ValueError
        If there is no character, an entry is not a single encodable character, or the order is wrong.
    """

    characters: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.characters:
            raise ValueError("vocabulary: expected at least one character, got none")
        for character in self.characters:
            if not isinstance(character, str):
                raise TypeError(f"vocabulary: expected single characters, got {type(character).__name__}")
            if len(character) != 1 or 0xD800 <= ord(character) <= 0xDFFF:
                raise ValueError(f"vocabulary: expected single characters, got {character[:20]!r}")
        if any(a >= b for a, b in zip(self.characters, self.characters[1:], strict=False)):
            raise ValueError(
                "vocabulary: expected different characters in ascending order, got another order"
            )

    @classmethod
    def from_text(cls, text: str) -> Vocabulary:
        """All characters that occur in `text`."""
        return cls(tuple(sorted(set(text))))

    def __len__(self) -> int:
        return len(self.characters)

    def encode(self, text: str, *, name: str = "text") -> Tokens:
        """Token ids of `text`.

        Parameters
        ----------
        text : str
            Characters of this vocabulary.
        name : str
            What the error message calls `text`.

        Returns
        -------
        ndarray of int64, shape (len(text),)

        Raises
        ------
        ValueError
            If a character is not in the vocabulary; the message names up to five.
        """
        known = _code_points("".join(self.characters))
        codes = _code_points(text)
        tokens = np.searchsorted(known, codes)
        unknown = known[np.minimum(tokens, len(known) - 1)] != codes
        if unknown.any():
            strangers = sorted({chr(code) for code in codes[unknown]})
            some = ", ".join(repr(c) if c.isprintable() else ascii(c) for c in strangers[:5])
            more = f" and {len(strangers) - 5} more" if len(strangers) > 5 else ""
            raise ValueError(f"{name}: expected characters that the model knows, got {some}{more}")
        return np.asarray(tokens, dtype=np.int64)

    def decode(self, tokens: Sequence[int] | Tokens) -> str:
        """Text of token ids: the inverse of :meth:`encode`."""
        return "".join(self.characters[int(token)] for token in tokens)


def _code_points(text: str) -> npt.NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")


def default_corpus() -> str:
    """English that every CPython ships: the help texts of :mod:`pydoc_data.topics`, joined by newlines.

    Returns
    -------
    str
        465,048 characters, 103 different ones, on CPython 3.11; other versions differ a little.
    """
    from pydoc_data.topics import topics

    return "\n".join(topics[name] for name in sorted(topics))


def read_text(path: str | Path) -> str:
    """Read the whole of a UTF-8 text file; line ends are kept as they are, a byte order mark is dropped.

    Parameters
    ----------
    path : str or Path
        A file or a pipe.

    Returns
    -------
    str
        At least one character.

    Raises
    ------
    ValueError
        If it is a directory or a device, is empty, or is not UTF-8 (the message gives the byte).
    OSError
        If it can't be opened or read.
    """
    mode = Path(path).stat().st_mode
    if stat.S_ISDIR(mode):
        raise ValueError(f"{path}: expected a text file, got a directory")
    if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
        raise ValueError(f"{path}: expected a text file, got a device")
    data = Path(path).read_bytes()
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: expected UTF-8 text, got byte 0x{data[error.start]:02x} at offset {error.start}"
        ) from error
    text = text.removeprefix("\ufeff")
    if not text:
        raise ValueError(f"{path}: expected some text, got an empty file")
    return text


def held_out_length(length: int) -> int:
    """Characters at the end of a text of `length` characters that are kept for validation: 5%, at least 1."""
    return max(1, length // HELD_OUT)


def needed_length(batch: int, steps: int) -> int:
    """Fewest characters a text must have to fill `batch` streams with one chunk of `steps` steps each."""
    training = batch * steps + 1
    # length - max(1, length // 20) >= training
    return max(training + 1, HELD_OUT * (training - 1) // (HELD_OUT - 1) + 1)


@dataclass(frozen=True)
class Streams:
    """A text as B contiguous streams read side by side, cut into chunks of at most `steps` steps.

    With N characters each stream has n = (N - 1) // B steps: stream b begins at character b n.  The n steps
    are cut into ceil(n / steps) chunks whose lengths differ by one at most, so no step of a stream is left
    out; the last (N - 1) % B characters are.  The text is read as a ring from `offset` on, so that another
    offset puts the cuts elsewhere.

    Parameters
    ----------
    tokens : ndarray of int64, shape (N,)
    batch : int
        B, the number of streams.
    steps : int
        Longest chunk, in time steps.

    Raises
    ------
    ValueError
        If the text has fewer than B steps + 1 characters.
    """

    tokens: Tokens
    batch: int
    steps: int

    def __post_init__(self) -> None:
        if self.length < self.steps:
            raise ValueError(
                f"tokens: expected at least {self.batch * self.steps + 1}, got {len(self.tokens)}"
            )

    @property
    def length(self) -> int:
        """Time steps of each stream, n."""
        return (len(self.tokens) - 1) // self.batch

    @property
    def chunks(self) -> int:
        """Chunks per pass over the text."""
        return -(-self.length // self.steps)

    def bounds(self, index: int) -> tuple[int, int]:
        """First step of chunk `index`, and the step after its last."""
        return index * self.length // self.chunks, (index + 1) * self.length // self.chunks

    def first(self, index: int, steps: int) -> int:
        """First of the `steps` time steps with which chunk `index` ends, or of as many as there are.

        Parameters
        ----------
        index : int
            0 to ``chunks``; that of ``chunks`` ends where the streams do.
        steps : int
            At least those of a chunk.
        """
        stop = self.length if index == self.chunks else self.bounds(index)[1]
        return max(0, stop - steps)

    def chunk(self, index: int, offset: int = 0, first: int | None = None) -> tuple[Tokens, Tokens]:
        """Cut out inputs and targets of one chunk.

        Parameters
        ----------
        index : int
            0 to ``chunks - 1``.
        offset : int
            Character of the text at which stream 0 begins.
        first : int, optional
            Step from which on to return inputs; by default the chunk's first.

        Returns
        -------
        inputs, targets : ndarray of int64, shape (T, B)
            The targets are the chunk's inputs one character later.
        """
        start, stop = self.bounds(index)
        t = np.arange(start if first is None else first, stop)[:, np.newaxis]
        b = np.arange(self.batch)[np.newaxis, :]
        places = offset + b * self.length + t  # (T, B)
        own = places[len(t) - (stop - start) :]
        return self.tokens.take(places, mode="wrap"), self.tokens.take(own + 1, mode="wrap")


def bits_per_character(network: Network, tokens: Tokens, *, threads: int | None = None) -> float:
    """Mean of -log2 p(character | those before it) over ``tokens[1:]``, each predicted exactly once.

    To be fast the text is read as up to 16 contiguous streams side by side, each starting from the zero state
    and carrying its state from its first character to its last; their starts cost a little, so one single
    stream would give a slightly smaller number.  How the text is cut depends on its length alone.

    Parameters
    ----------
    network : Network
        A token network with the loss ``softmax_cross_entropy``.
    tokens : ndarray of int64, shape (N,)
        N >= 2.
    threads : int, optional
        Threads for the kernels.

    Returns
    -------
    float
        Bits per character.

    Raises
    ------
    ValueError
        For fewer than two tokens.
    """
    terms = len(tokens) - 1
    if terms < 1:
        raise ValueError(f"tokens: expected at least 2, got {len(tokens)}")
    streams = min(STREAMS, max(1, terms // STREAM_LENGTH))
    length = terms // streams
    inputs = np.ascontiguousarray(tokens[: streams * length].reshape(streams, length).T)  # (n, B)
    targets = np.ascontiguousarray(tokens[1 : streams * length + 1].reshape(streams, length).T)
    total, state = 0.0, None  # the state is h (L, B, R), for an LSTM (h, c)
    for start in range(0, length, EVALUATION_STEPS):
        part = slice(start, start + EVALUATION_STEPS)
        loss, state = _summed_loss(network, inputs[part], targets[part], state, threads)
        total += loss
    if streams * length < terms:  # what the division left over belongs to the last stream
        rest = slice(streams * length, terms)
        loss, _ = _summed_loss(
            network,
            tokens[rest, np.newaxis],
            tokens[1:][rest, np.newaxis],
            states.rows(state, slice(-1, None)),
            threads,
        )
        total += loss
    return total / terms / math.log(2)


def _summed_loss(
    network: Network, inputs: Tokens, targets: Tokens, state: Any, threads: int | None
) -> tuple[float, Any]:
    """Sum of the losses in nats over a piece (T, B) of the streams, and the state after it."""
    logits, state = network(inputs, state, threads=threads)
    return network.objective(logits, targets, reduction="sum", threads=threads)[0], state


def continue_text(
    network: Network,
    vocabulary: Vocabulary,
    prompt: str,
    length: int,
    *,
    temperature: float = 1.0,
    seed: int | None = None,
) -> Iterator[str]:
    """Check the arguments, and return an iterator that draws the characters after `prompt`, one by one.

    Parameters
    ----------
    network : Network
        A token network with ``len(vocabulary)`` inputs and outputs.
    vocabulary : Vocabulary
    prompt : str
        Text to continue.  An empty one continues a line break, or a space if the model knows none.
    length : int
        Characters to draw.
    temperature : float
        Logits are divided by it: under 1 more cautious, over 1 bolder, 0 always the likeliest character.
    seed : int, optional
        Same seed, same text.

    Returns
    -------
    iterator of str
        Of single characters. It raises ValueError if the model's outputs are not finite.

    Raises
    ------
    ValueError
        If the prompt has a character that the model doesn't know, `length`, `temperature` or `seed` is
        negative, or `temperature` is not finite.
    TypeError
        If one of these three is of another type.
    """
    start = next((c for c in "\n " if c in vocabulary.characters), vocabulary.characters[0])
    tokens = vocabulary.encode(prompt or start, name="prompt")
    drawn = continuation(network, tokens, length, temperature, seed)
    return (vocabulary.characters[token] for token in drawn)

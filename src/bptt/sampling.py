"""Drawing tokens from a network's predictions, each from the one after those before it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from bptt import checks, states

if TYPE_CHECKING:
    from bptt.arrays import Array, Tokens
    from bptt.network import Network


def draw(s: Array, temperature: float, rng: np.random.Generator) -> int:
    """Draw a class with probability softmax(s / temperature).

    Parameters
    ----------
    s : ndarray
        (O,) logits.
    temperature : float
        0 takes the largest logit, the first of several equal ones, and draws nothing.
    rng : numpy.random.Generator

    Returns
    -------
    int
        In [0, O).

    Raises
    ------
    ValueError
        If a logit is not finite.
    """
    if not np.isfinite(s).all():
        raise ValueError("sample: expected finite logits, got NaN or infinity from the network")
    if temperature == 0:
        return int(s.argmax())
    s64 = s.astype(np.float64)
    with np.errstate(over="ignore", under="ignore"):
        # the maximum is subtracted first, so that no temperature makes an exponent overflow
        cumulative = np.exp((s64 - s64.max()) / temperature).cumsum()
    # the first class whose cumulative weight exceeds u, u uniform in [0, total)
    return int(np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right"))


def continuation(
    network: Network, prompt: Tokens, length: int, temperature: float, seed: int | None
) -> Iterator[int]:
    """Check the arguments, and return an iterator that draws the tokens after a prompt, one by one.

    Parameters
    ----------
    network : Network
        Of as many outputs as inputs, with a layer of one direction. A snapshot of the layer is taken at the
        first token.
    prompt : ndarray of integers
        (P,) token ids, P >= 1.
    length : int
        Tokens to draw, at least 0.
    temperature : float
        As in `draw`; finite, at least 0.
    seed : int or None
        Of the drawing; None takes fresh entropy.

    Returns
    -------
    iterator of int

    Raises
    ------
    ValueError
        For a token id, length, temperature or seed out of range.
    TypeError
        For one of another type.
    """
    known = network.rnn.input_size
    if not (prompt.min() >= 0 and prompt.max() < known):
        bad = int(prompt.min()) if prompt.min() < 0 else int(prompt.max())
        raise ValueError(f"prompt: expected token ids in [0, {known}), got {bad}")
    steps = checks.integer("length", length, 0)
    rng = np.random.default_rng(checks.seed(seed))
    return _drawn(network, prompt, steps, checks.not_negative("temperature", temperature), rng)


def _drawn(
    network: Network, prompt: Tokens, length: int, temperature: float, rng: np.random.Generator
) -> Iterator[int]:
    """Draw the tokens."""
    if length < 1:
        return
    _, state = network.rnn(prompt, threads=1)  # h (L, R), for an LSTM (h, c)
    stream, h = network.rnn.stream(h_0=state), states.last(state, 1)
    for n in range(length):
        token = draw(network.readout(h, threads=1), temperature, rng)
        yield token
        if n + 1 < length:
            h = stream.step(token)

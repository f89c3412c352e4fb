"""A batch in chunks of time steps: what each of them holds, and from which state its rows start."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from bptt import checks, ragged, states
from bptt.arrays import Mask, Tokens
from bptt.batches import Batch
from bptt.truncation import windows

if TYPE_CHECKING:
    from bptt.network import Network


class Chunk(NamedTuple):
    """Some time steps of a batch, time-major."""

    x: npt.NDArray[Any]  # (T, B, I), or token ids (T, B)
    targets: npt.NDArray[Any] | None  # (T, B) or (T, B, O); many-to-one (B,) or (B, O); None: no loss
    lengths: Tokens | None  # (B,)
    reset: Mask | None  # (T, B)
    skip: int = 0  # steps at the start that have no targets, nor a loss
    carry: int | None = None  # steps after which the next chunk starts; None: all


def check_stride(stride: int | None, truncation: int | None, depth: int | None) -> int | None:
    """Return the number of time steps between two optimiser steps, or None for those of a chunk.

    Parameters
    ----------
    stride : int or None
        What the user gave.
    truncation, depth : int or None
        Checked.

    Raises
    ------
    ValueError, TypeError
        If it is not an integer of at least 1, more than the truncation, or without a truncation and a depth.
    """
    if stride is None:
        return None
    steps = checks.integer("stride", stride)
    limit = depth if truncation is None else truncation
    if limit is None:
        raise ValueError(f"stride: expected None without truncation or depth, got {steps}")
    if steps > limit:
        name = "depth" if truncation is None else "truncation"
        raise ValueError(f"stride: expected at most {limit}, the {name}, got {steps}")
    if truncation is not None and depth is not None:
        raise ValueError(f"stride: expected None with both truncation and depth, got {steps}")
    return steps


def check_truncation(network: Network, truncation: int | None) -> int | None:
    """Return the number of time steps a chunk, or None for all of them.

    Parameters
    ----------
    network : Network
        Which is to be run over the chunks.
    truncation : int or None
        What the user gave.

    Raises
    ------
    ValueError, TypeError
        If it is not an integer of at least 1, or the layer can't carry its state on.
    """
    if truncation is None:
        return None
    steps = checks.integer("truncation", truncation)
    if network.rnn.bidirectional:
        raise ValueError(
            "truncation: expected None with a bidirectional layer, whose reverse direction starts from the "
            f"end, got {steps}"
        )
    return steps


def chunks(
    network: Network, batch: Batch, truncation: int | None, stride: int | None = None
) -> Iterator[Chunk]:
    """Cut a batch into chunks of time steps.

    Parameters
    ----------
    network : Network
        Whose data they are.
    batch : Batch
    truncation : int or None
        Time steps a chunk; None for one chunk.  Many-to-one: every row is cut from its end, so that its last
        chunk, the only one with a loss, is a whole one.
    stride : int or None
        Time steps of a chunk that have a loss, its last ones: chunks then overlap.  None: all.  Many-to-one:
        no difference.

    Yields
    ------
    Chunk
        From all but the first the state is carried on, see `start`.
    """
    steps = len(batch.x)
    if truncation is not None and stride not in (None, truncation) and not network.many_to_one:
        yield from _overlapping(batch, truncation, stride)
    elif truncation is None or steps <= truncation:
        yield Chunk(*batch)
    elif not network.many_to_one:
        yield from _from_the_start(batch, truncation)
    elif batch.lengths is None and batch.reset is None:
        # cut from the end: starts ..., steps - 2 truncation, steps - truncation
        for begin in range(-(-steps % truncation), steps, truncation):
            stop = begin + truncation
            yield Chunk(batch.x[max(begin, 0) : stop], batch.targets if stop == steps else None, None, None)
    else:
        yield from _from_the_end(batch, truncation)


def _from_the_start(batch: Batch, truncation: int) -> Iterator[Chunk]:
    """Cut all rows at the same steps, and stop where the longest one ends."""
    x, targets, lengths, reset = batch
    steps = len(x) if lengths is None else int(lengths.max(initial=0))
    for begin in range(0, steps, truncation):
        part = slice(begin, begin + truncation)
        piece = x[part]
        own = None if lengths is None else np.clip(lengths - begin, 0, len(piece))
        yield Chunk(piece, targets[part], own, None if reset is None else reset[part])


def _overlapping(batch: Batch, truncation: int, stride: int) -> Iterator[Chunk]:
    """Cut all rows at the same steps into blocks, each with what comes before it within the truncation."""
    x, targets, lengths, reset = batch
    if reset is not None:
        raise ValueError(f"stride: expected None with reset, as chunks would overlap, got {stride}")
    steps = len(x) if lengths is None else int(lengths.max(initial=0))
    for window in windows(steps, truncation, stride):
        piece = x[window.first : window.last]
        own = None if lengths is None else np.clip(lengths - window.first, 0, len(piece))
        carry = max(0, window.end + stride - truncation) - window.first
        skip = window.loss - window.first
        yield Chunk(piece, targets[window.loss : window.last], own, None, skip, min(carry, len(piece)))


def _from_the_end(batch: Batch, truncation: int) -> Iterator[Chunk]:
    """Cut each row at its own steps, counted from its end; steps before its last reset don't matter."""
    x, targets, lengths, reset = batch
    steps, rows = x.shape[:2]
    n = np.full(rows, steps) if lengths is None else lengths
    first = np.zeros(rows, np.int64)
    if reset is not None:
        t = np.arange(steps)[:, np.newaxis]
        first = np.where(reset & (t < n), t, 0).max(axis=0)
    before = np.maximum(n - first - truncation, 0)  # steps before the last chunk
    for done in range(0, int(before.max(initial=0)), truncation):
        own = np.clip(before - done, 0, truncation)
        yield Chunk(_window(x, first + done, truncation), None, own, None)
    own = n - first - before
    yield Chunk(_window(x, first + before, int(own.max(initial=0))), targets, own, None)


def _window(a: npt.NDArray[Any], first: Tokens, steps: int) -> npt.NDArray[Any]:
    """Return so many steps of each row from its own `first` on; past the array's end any."""
    t = np.minimum(first + np.arange(steps)[:, np.newaxis], len(a) - 1)
    return np.asarray(a[t, np.arange(a.shape[1])])


def start(chunk: Chunk, state: Any) -> tuple[Chunk, Any, Tokens | None]:
    """Return a chunk with the state it starts from, where rows that are reset begin at zero.

    The layer takes a row that is reset back to the state that the call begins with.  In a chunk that goes on
    from another, that would be the carried one.  So a row that is reset there comes in two: its steps before
    the first reset, and those from it on as one more row, which begins at zero.

    Parameters
    ----------
    chunk : Chunk
    state : ndarray, or pair of them, or None
        That after the chunk before; None for the first one.

    Returns
    -------
    chunk : Chunk
        With more rows, if it must be.
    state : ndarray, or pair of them, or None
        Theirs.
    rows : ndarray or None
        Which rows of the final state belong to the batch's; None for all of them.
    """
    x, targets, lengths, reset, *_ = chunk
    if state is None or reset is None:
        return chunk, state, None
    assert targets is not None, "many-to-one chunks have no reset"
    steps, batch = reset.shape
    n = np.full(batch, steps) if lengths is None else lengths
    first = np.where(reset.any(axis=0), reset.argmax(axis=0), steps)  # step of the first reset
    at_once = first == 0
    parts = [
        np.where(at_once[:, np.newaxis], part.dtype.type(0), part) for part in states.parts(state)
    ]  # (L, B, ...)
    cut = np.flatnonzero(~at_once & (first < n))
    if not cut.size:
        return chunk, states.whole(tuple(parts)), None
    rest = first[cut]

    def with_rest(a: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return np.concatenate((a, _window(a[:, cut], rest, steps)), axis=1)

    own = np.concatenate((n, n[cut] - rest))
    own[cut] = rest
    rows = np.arange(batch)
    rows[cut] = batch + np.arange(cut.size)
    longer = [np.pad(part, ((0, 0), (0, cut.size), (0, 0))) for part in parts]
    more = Chunk(with_rest(x), with_rest(targets), own, with_rest(reset))
    return more, states.whole(tuple(longer)), rows


def count_terms(network: Network, chunk: Chunk) -> int:
    """Return how many terms the loss of a chunk has."""
    targets, lengths = chunk.targets, chunk.lengths
    if targets is None:
        return 0
    if lengths is not None and not network.many_to_one:
        targets = targets[ragged.within(lengths - chunk.skip, len(targets))]
    return network.objective.count(targets)


def outward(network: Network, chunk: Chunk) -> tuple[Any, Any, dict[str, Any]]:
    """Return x and targets of a chunk in the layer's layout, and its lengths and reset by name."""
    x, targets, lengths, reset, *_ = chunk
    if network.rnn.batch_first:
        x = x.swapaxes(0, 1)
        if targets is not None and not network.many_to_one:
            targets = targets.swapaxes(0, 1)
        if reset is not None:
            reset = reset.swapaxes(0, 1)
    return x, targets, {"lengths": lengths, "reset": reset}

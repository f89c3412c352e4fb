"""A data set in batches of rows: the arrays or the iterable that a user gave, checked and cut."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from bptt import checks, ragged
from bptt.arrays import Mask, Tokens

if TYPE_CHECKING:
    from bptt.network import Network

#: What a batch of an iterable may be.
FORMS = "(x, targets), (x, targets, lengths) or (x, targets, lengths, reset)"


class Batch(NamedTuple):
    """Sequences side by side, checked and time-major."""

    x: npt.NDArray[Any]  # (T, B, I), or token ids (T, B)
    targets: npt.NDArray[Any]  # (T, B) or (T, B, O); many-to-one (B,) or (B, O)
    lengths: Tokens | None = None  # (B,)
    reset: Mask | None = None  # (T, B)


def prepare(network: Network, x: Any, targets: Any, lengths: Any = None, reset: Any = None) -> Batch:
    """Check a whole data set before anything is computed with it.

    Parameters
    ----------
    network : Network
        Whose layouts and loss they must fit.
    x, targets, lengths, reset : array_like
        As ``Network.fit`` takes them.

    Returns
    -------
    Batch
        Of views where that goes; with the batch axis and the axis O that may have been left out.

    Raises
    ------
    ValueError, TypeError
        For a shape, dtype or value that does not fit.
    """
    rnn = network.rnn
    # a view, as each batch is brought to the form that the ground floor takes
    x, batched = checks.sequence(x, rnn.input_size, rnn.dtype, rnn.batch_first, ready=False)
    T, B = x.shape[:2]
    batch_first = batched and rnn.batch_first
    network._refuse(reset)
    if lengths is not None:
        lengths = checks.lengths(lengths, T, B, batched)
    if reset is not None:
        reset = checks.reset(reset, T, B, batched, rnn.batch_first)
    leading: tuple[int, ...] = (B, T) if batch_first else (T, B)[: 2 if batched else 1]
    mask = None
    if network.many_to_one:
        leading = (B,) if batched else ()
    elif lengths is not None:
        mask = ragged.within(lengths if batched else lengths[0], T, batch_first=batch_first)
    targets = network.objective.check(targets, (*leading, network.readout.out_features), rnn.dtype, mask)
    if not batched:
        targets = targets[np.newaxis if network.many_to_one else (slice(None), None)]
    elif batch_first and not network.many_to_one:
        targets = targets.swapaxes(0, 1)
    return Batch(x, targets, lengths, reset)


def batches(
    network: Network, data: Batch, batch_size: int | None, rng: np.random.Generator | None
) -> Iterator[Batch]:
    """Cut a data set into batches of rows.

    Parameters
    ----------
    network : Network
        Whose data they are.
    data : Batch
        All of them.
    batch_size : int or None
        Rows a batch; None for all.  The last batch may have fewer.
    rng : numpy.random.Generator or None
        Draws the order of the rows; None keeps it.

    Yields
    ------
    Batch
    """
    B = data.x.shape[1]
    if batch_size is None or batch_size >= B:
        yield data  # nothing to choose: the order of rows within a batch means nothing
        return
    rows = np.arange(B) if rng is None else rng.permutation(B)
    for start in range(0, B, batch_size):
        some = rows[start : start + batch_size]
        yield Batch(
            np.take(data.x, some, axis=1),
            np.take(data.targets, some, axis=0 if network.many_to_one else 1),
            None if data.lengths is None else data.lengths[some],
            None if data.reset is None else data.reset[:, some],
        )


def pairs(network: Network, source: Iterable[Any], name: str = "x") -> Iterator[Batch]:
    """Take batches from a user's iterable, and check each.

    Parameters
    ----------
    network : Network
        Whose layouts and loss they must fit.
    source : iterable
        Of tuples or lists as in ``FORMS``.
    name : str
        What to call it in a message.

    Yields
    ------
    Batch

    Raises
    ------
    TypeError
        If an element is no such tuple.
    """
    for number, batch in enumerate(source):
        if not isinstance(batch, (tuple, list)) or not 2 <= len(batch) <= 4:
            raise TypeError(f"{name}: expected batches {FORMS}, got {_kind(batch)} as batch {number}")
        yield prepare(network, *batch)


def _kind(value: Any) -> str:
    """Say what somebody gave for a batch."""
    many = f" of {len(value)}" if isinstance(value, (tuple, list)) else ""
    return f"{type(value).__name__}{many}"


def step_count(network: Network, data: Batch, batch_size: int | None, truncation: int | None) -> int:
    """How many optimiser steps an epoch over arrays takes at most: chunks without loss terms make none.

    Parameters
    ----------
    network : Network
        Whose data they are.
    data : Batch
        All of them.
    batch_size, truncation : int or None
        As in ``fit``.

    Returns
    -------
    int
    """
    T, B = data.x.shape[:2]
    rows = 1 if batch_size is None else -(-B // batch_size)
    return rows if truncation is None or network.many_to_one else rows * max(1, -(-T // truncation))


def training_batches(
    network: Network,
    given: tuple[Any, Any, Any, Any],
    batch_size: int | None,
    rng: np.random.Generator | None,
    truncation: int | None,
    epochs: int,
) -> tuple[Callable[[], Iterator[Batch]], int | None]:
    """Return what gives an epoch's batches, and the steps of an epoch if they are known.

    Parameters
    ----------
    network : Network
        Whose layouts and loss they must fit.
    given : tuple
        x, targets, lengths and reset as in ``Network.fit``.
    batch_size, truncation : int or None
        As in ``Network.fit``.
    rng : numpy.random.Generator or None
        Draws the order of the rows anew every epoch; None keeps it.
    epochs : int
        How often the batches will be asked for.

    Returns
    -------
    source : callable
    steps : int or None

    Raises
    ------
    ValueError, TypeError
        For data that do not fit, or that would be used up too early.
    """
    x, targets = given[:2]
    if targets is None:
        check_iterable(*given)
        if isinstance(x, Iterator) and epochs > 1:
            raise ValueError(
                f"x: expected an iterable that can be gone through {epochs} times, such as a list of "
                f"batches, got an iterator ({type(x).__name__}), which is used up after one epoch"
            )
        return lambda: pairs(network, x), None
    data = prepare(network, *given)
    if data.x.shape[1] == 0:
        raise ValueError(f"x: expected at least one sequence, got shape {np.shape(x)}")
    return lambda: batches(network, data, batch_size, rng), step_count(network, data, batch_size, truncation)


def check_iterable(x: Any, targets: None, lengths: Any, reset: Any) -> None:
    """Check that x without targets is an iterable of batches, and that these bring all that there is.

    Parameters
    ----------
    x, targets, lengths, reset
        As in ``Network.fit``.

    Raises
    ------
    ValueError
        If they are not.
    """
    if isinstance(x, np.ndarray) or not isinstance(x, Iterable):
        raise ValueError("targets: expected an array with an array x, got None")
    for name, value in (("lengths", lengths), ("reset", reset)):
        if value is not None:
            raise ValueError(
                f"{name}: expected None with an iterable of batches, which bring their own, "
                f"got {type(value).__name__}"
            )


def validation_batches(network: Network, given: Any, batch_size: int | None) -> Callable[[], Iterator[Batch]]:
    """Return what gives the batches of a validation set.

    Parameters
    ----------
    network : Network
        Whose layouts and loss they must fit.
    given : tuple or iterable
        As in ``Network.fit``.
    batch_size : int or None
        Rows a batch.

    Returns
    -------
    callable

    Raises
    ------
    ValueError, TypeError
        For data that do not fit.
    """
    if isinstance(given, tuple):
        if not 2 <= len(given) <= 4:
            raise ValueError(f"validation_data: expected {FORMS}, got a tuple of {len(given)}")
        data = prepare(network, *given)
        return lambda: batches(network, data, batch_size, None)
    if isinstance(given, (np.ndarray, Iterator)) or not isinstance(given, Iterable):
        raise TypeError(
            f"validation_data: expected (x, targets), or a list of such batches, got {type(given).__name__}"
        )
    return lambda: pairs(network, given, "validation_data")


def evaluation_batches(
    network: Network, given: tuple[Any, Any, Any, Any], batch_size: int | None
) -> Iterator[Batch]:
    """Return the batches of ``Network.evaluate``.

    Parameters
    ----------
    network : Network
        Whose layouts and loss they must fit.
    given : tuple
        x, targets, lengths and reset as in ``Network.evaluate``.
    batch_size : int or None
        Rows a batch.

    Returns
    -------
    iterator

    Raises
    ------
    ValueError, TypeError
        For data that do not fit.
    """
    if given[1] is not None:
        return batches(network, prepare(network, *given), batch_size, None)
    check_iterable(*given)
    return pairs(network, given[0])

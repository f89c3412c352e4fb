"""Cuts of a data set: an epoch into batches of rows, a batch into chunks of time steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bptt import checks

if TYPE_CHECKING:
    from bptt.network import Network

#: One batch: x and its targets.
Batch = tuple[npt.NDArray[Any], npt.NDArray[Any]]


def prepare(network: Network, x: Any, targets: Any) -> Batch:
    """Check a whole data set before anything is computed with it.

    Parameters
    ----------
    network : Network
        Whose layouts and loss they must fit.
    x, targets : array_like
        As ``Network.fit`` takes them.

    Returns
    -------
    tuple of ndarray
        x and targets; the latter with the axis O that may have been left out.

    Raises
    ------
    ValueError, TypeError
        For a shape, dtype or value that does not fit.
    """
    x = np.asarray(x)
    rnn = network.rnn
    if x.dtype.kind in "iu" or x.ndim not in (2, 3):
        # All token ids are looked at; a float array of the wrong dtype or width shows in the first batch.
        checks.sequence(x, rnn.input_size, rnn.dtype, rnn.batch_first)
    leading = x.shape[: 2 if batched(x) else 1]
    if network.many_to_one:
        axis = batch_axis(network, x)
        leading = () if axis is None else (x.shape[axis],)
    s_shape = (*leading, network.readout.out_features)
    return x, network.objective.check(targets, s_shape, rnn.dtype)


def batched(x: npt.NDArray[Any]) -> bool:
    """Whether x has a batch axis."""
    return x.ndim == (2 if x.dtype.kind in "iu" else 3)


def batch_axis(network: Network, x: npt.NDArray[Any]) -> int | None:
    """Axis of the batch rows of x; None if x is one unbatched sequence."""
    if not batched(x):
        return None
    return 0 if network.rnn.batch_first else 1


def time_axis(network: Network, x: npt.NDArray[Any]) -> int:
    """Axis of the time steps of x, and of many-to-many targets."""
    return 1 if batched(x) and network.rnn.batch_first else 0


def batches(
    network: Network, data: Batch, batch_size: int | None, rng: np.random.Generator | None
) -> Iterator[Batch]:
    """Cut arrays into batches of rows.

    Parameters
    ----------
    network : Network
        Whose layouts they have.
    data : tuple of ndarray
        x and targets.
    batch_size : int or None
        Rows a batch; None for all.  The last batch may have fewer.
    rng : numpy.random.Generator or None
        Draws the order of the rows; None keeps it.

    Yields
    ------
    tuple of ndarray
        x and targets of a batch.
    """
    x, targets = data
    axis = batch_axis(network, x)
    if axis is None or batch_size is None or x.shape[axis] <= batch_size:
        yield data  # nothing to choose: the order of rows within a batch means nothing
        return
    rows = np.arange(x.shape[axis]) if rng is None else rng.permutation(x.shape[axis])
    target_axis = 0 if network.many_to_one else axis
    for start in range(0, len(rows), batch_size):
        some = rows[start : start + batch_size]
        yield np.take(x, some, axis=axis), np.take(targets, some, axis=target_axis)


def chunks(network: Network, data: Batch, truncation: int | None) -> Iterator[tuple[Any, Any]]:
    """Cut a batch into chunks of time steps.

    Parameters
    ----------
    network : Network
        Whose layouts they have.
    data : tuple of ndarray
        x and targets of a batch.
    truncation : int or None
        Time steps a chunk; None for one chunk.  Many-to-one: cut from the end, so that the last chunk, the
        only one with a loss, is a whole one.

    Yields
    ------
    tuple
        x of the chunk, and its targets or None if it has no loss.
    """
    x, targets = data
    axis = time_axis(network, x)
    steps = x.shape[axis]
    if truncation is None or steps <= truncation:
        yield data
        return
    # cut from the end: starts ..., steps - 2 truncation, steps - truncation
    begin = -(-steps % truncation) if network.many_to_one else 0
    for start in range(begin, steps, truncation):
        stop = start + truncation
        part = (slice(None),) * axis + (slice(max(start, 0), stop),)
        if network.many_to_one:
            yield x[part], targets if stop == steps else None
        else:
            yield x[part], targets[part]


def pairs(network: Network, source: Iterable[Any], name: str = "x") -> Iterator[Batch]:
    """Take batches from a user's iterable, and check each.

    Parameters
    ----------
    network : Network
        Whose layouts and loss they must fit.
    source : iterable
        Of pairs (x, targets).
    name : str
        What to call it in a message.

    Yields
    ------
    tuple of ndarray
        x and targets.

    Raises
    ------
    TypeError
        If an element is not a pair.
    """
    for number, batch in enumerate(source):
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            raise TypeError(
                f"{name}: expected batches (x, targets), got {type(batch).__name__} as batch {number}"
            )
        yield prepare(network, *batch)


def step_count(network: Network, data: Batch, batch_size: int | None, truncation: int | None) -> int:
    """How many optimiser steps an epoch over arrays takes, chunks without loss terms included.

    Parameters
    ----------
    network : Network
        Whose layouts they have.
    data : tuple of ndarray
        x and targets.
    batch_size, truncation : int or None
        As in ``fit``.

    Returns
    -------
    int
    """
    x, _ = data
    axis, steps = batch_axis(network, x), x.shape[time_axis(network, x)]
    rows = 1 if axis is None or batch_size is None else -(-x.shape[axis] // batch_size)
    return rows if truncation is None or network.many_to_one else rows * max(1, -(-steps // truncation))


def training_batches(
    network: Network,
    x: Any,
    targets: Any,
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
    x, targets
        As in ``Network.fit``.
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
    if targets is None:
        if isinstance(x, np.ndarray) or not isinstance(x, Iterable):
            raise ValueError("targets: expected an array with an array x, got None")
        if isinstance(x, Iterator) and epochs > 1:
            raise ValueError(
                f"x: expected an iterable that can be gone through {epochs} times, such as a list of "
                f"batches, got an iterator ({type(x).__name__}), which is used up after one epoch"
            )
        return lambda: pairs(network, x), None
    data = prepare(network, x, targets)
    axis = batch_axis(network, data[0])
    if axis is not None and data[0].shape[axis] == 0:
        raise ValueError(f"x: expected at least one sequence, got shape {data[0].shape}")
    return lambda: batches(network, data, batch_size, rng), step_count(network, data, batch_size, truncation)


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
        if len(given) != 2:
            raise ValueError(f"validation_data: expected (x, targets), got a tuple of {len(given)}")
        data = prepare(network, *given)
        return lambda: batches(network, data, batch_size, None)
    if isinstance(given, (np.ndarray, Iterator)) or not isinstance(given, Iterable):
        raise TypeError(
            f"validation_data: expected (x, targets), or a list of such batches, got {type(given).__name__}"
        )
    return lambda: pairs(network, given, "validation_data")


def evaluation_batches(network: Network, x: Any, targets: Any, batch_size: int | None) -> Iterator[Batch]:
    """Return the batches of ``Network.evaluate``.

    Parameters
    ----------
    network : Network
        Whose layouts and loss they must fit.
    x, targets
        As in ``Network.evaluate``.
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
    if targets is not None:
        return batches(network, prepare(network, x, targets), batch_size, None)
    if isinstance(x, np.ndarray) or not isinstance(x, Iterable):
        raise ValueError("targets: expected an array with an array x, got None")
    return pairs(network, x)

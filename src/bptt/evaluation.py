"""The counting behind ``Network.evaluate``: loss and accuracy of a data set, batch by batch."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from bptt import states
from bptt.batches import Batch
from bptt.chunks import chunks, outward, start

if TYPE_CHECKING:
    from bptt.network import Network


def evaluate(
    network: Network, data: Iterable[Batch], truncation: int | None, threads: int | None
) -> dict[str, float]:
    """Loss over all batches as if they were one, and accuracy; see ``Network.evaluate``.

    Parameters
    ----------
    network : Network
        Not changed.
    data : iterable of Batch
    truncation : int or None
        Time steps computed at a time, which bounds memory and changes no result.
    threads : int or None
        How many threads may share the work; None for the default.

    Returns
    -------
    dict
        "loss", and "accuracy" for the two cross-entropies.
    """
    objective = network.objective
    total, count, right = 0.0, 0, 0
    for batch in data:
        state: Any = None
        for chunk in chunks(network, batch, truncation):
            chunk, state, rows = start(chunk, state)
            x, targets, ragged = outward(network, chunk)
            if targets is not None:
                s, y, state = network._terms(x, targets, state, **ragged, threads=threads)
                total += objective(s, y, reduction="sum", threads=threads)[0]
                count += objective.count(y)
                right += objective.right(s, y) if objective.has_accuracy else 0
            else:
                _, state = network.rnn(x, state, **ragged, threads=threads)
            state = state if rows is None else states.rows(state, rows)
    result = {"loss": whole_loss(network, total, count)}
    if objective.has_accuracy:
        result["accuracy"] = right / count if count else math.nan
    return result


def whole_loss(network: Network, total: float, count: int) -> float:
    """Reduce the sum of all terms of a data set to its loss.

    Parameters
    ----------
    network : Network
        Whose loss it is.
    total : float
        Sum over the terms.
    count : int
        How many there are.

    Returns
    -------
    float
    """
    if network.objective.reduction == "sum":
        return total
    return total / count if count else math.nan

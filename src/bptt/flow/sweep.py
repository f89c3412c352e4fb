"""Many gradients at once, step by step from the last layer to the first: docs/gradients.md, "Expansion".

The loss steps are divided among sources; each source has a gradient of its own, that of the sum of its
losses. As a gradient goes back it may shrink or grow beyond what a float holds, so each carries a power of
two.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy.typing as npt

    from bptt.arrays import Array
    from bptt.stack import Pass

    #: int32, which is what ldexp has a loop for on every platform.
    Exponents = npt.NDArray[np.int32]

    #: The ground floor's ``step_back``, see `bptt.interface`.
    StepBack = Callable[..., tuple[Any, ...]]

#: Every so many steps gradients that have gone beyond 2^-NEAR or 2^NEAR are brought back near 1. With that,
#: one that shrinks by a thousand a step stays clear of the numbers under the smallest normal float32, which
#: lose digits and take many times as long.
RESCALED_EVERY, NEAR = 4, 24


class Block(NamedTuple):
    """Gradients of the sources number first, first + 1, ...: values times two to the power of exponents."""

    first: int
    values: Array  # (n, B, K)
    exponents: Exponents  # (n,)


class Moment(NamedTuple):
    """Gradients of the sources number first, first + 1, ... at one step of one unit, scaled as in `Block`."""

    unit: int
    t: int  # index into time
    first: int
    exponents: Exponents  # (n,)
    dh: Array  # (n, B, R), with respect to h after the step
    da_ih: Array  # (n, B, G*H), with respect to p and q, ...
    da_hh: Array
    d_ih: Array  # ... to W_ih x and W_hh h
    d_hh: Array

    @property
    def sources(self) -> slice:
        """Which they are."""
        return slice(self.first, self.first + len(self.exponents))


def cleared(recorded: Pass, a: Any) -> Array:
    """Return zeros past the ends of rows, where x and dy may be anything.

    Parameters
    ----------
    recorded : Pass
    a : ndarray
        (T, B, K).

    Returns
    -------
    ndarray
        (T, B, K); `a` itself without lengths.
    """
    result: Array = a
    if recorded.lengths is not None:
        there = np.arange(len(a))[:, np.newaxis] < recorded.lengths
        result = np.where(there[..., np.newaxis], a, a.dtype.type(0))
    return result


def sweep(back: StepBack, recorded: Pass, dy: Array, owner: Sequence[int]) -> Iterator[Moment]:
    """Take the gradients of all sources back through all layers and time steps.

    Parameters
    ----------
    back : callable
    recorded : Pass
    dy : ndarray
        (T, B, D*R), zero past the ends of rows.
    owner : sequence of int
        (T,), the source that the loss of each step belongs to; -1 for none.

    Yields
    ------
    Moment
        Of each unit at each step, the last layer first, in the order opposite to that in which the unit made
        its steps; none where no source has a gradient.
    """
    structure, saved = recorded.structure, recorded.saved
    T, D, R = len(dy), structure.directions, structure.state_size
    # what arrives at h of a layer from above, (n, B, D*R) at each step
    above: list[Block | None] = [
        None if owner[t] < 0 else Block(owner[t], dy[t][np.newaxis], np.zeros(1, np.int32)) for t in range(T)
    ]
    for layer in reversed(range(structure.num_layers)):
        below: list[Block | None] = [None] * T
        for direction in range(D):
            unit = layer * D + direction
            columns = slice(direction * R, (direction + 1) * R)
            weight_ih = saved[unit].weights.weight_ih  # a copy each time
            for moment in _unit(back, recorded, unit, above, columns):
                yield moment
                if layer > 0:
                    arriving = Block(moment.first, moment.d_ih @ weight_ih, moment.exponents)
                    below[moment.t] = _sum(below[moment.t], _dropped(recorded, layer - 1, moment.t, arriving))
        above = below


def _unit(
    back: StepBack, recorded: Pass, unit: int, above: Sequence[Block | None], columns: slice
) -> Iterator[Moment]:
    """Take gradients back through the steps of one unit."""
    saved, T = recorded.saved[unit], len(above)
    reverse = unit % recorded.structure.directions == 1
    carry: Block | None = None  # of h, and of c side by side
    dc: Array | None = None
    for s in reversed(range(T)):
        t = T - 1 - s if reverse else s
        arriving = above[t]
        if arriving is not None:
            whole = carry
            carry = _sum(carry, arriving._replace(values=arriving.values[:, :, columns]))
            dc = _aligned(dc, whole, carry)
        if carry is None:
            continue
        dh, dc_before, *halves = back(saved, s, np.ascontiguousarray(carry.values), dc, together=True)
        yield Moment(unit, t, carry.first, carry.exponents, carry.values, *halves)
        carry, dc = carry._replace(values=dh), dc_before
        if s % RESCALED_EVERY == 0:
            carry, dc = _rescaled(carry, dc)


def _dropped(recorded: Pass, layer: int, t: int, block: Block) -> Block:
    """Return a gradient after the dropout that follows a layer, on its way to that layer."""
    masks = recorded.masks
    if masks is None or not masks.dropout:
        return block
    return block._replace(
        values=block.values * (masks.dropout[layer][t] * block.values.dtype.type(masks.scale))
    )


def scaled(values: Array, exponents: Exponents) -> Array:
    """Return values times two to the power of exponents, along the first axis; exact unless it underflows.

    Parameters
    ----------
    values : ndarray
        (n, ...).
    exponents : ndarray
        (n,).

    Returns
    -------
    ndarray
        (n, ...); `values` itself if there is nothing to do.
    """
    if not exponents.any():
        return values
    powers = exponents.reshape(-1, *(1,) * (values.ndim - 1))
    with np.errstate(over="ignore"):  # beyond the largest float it is infinite, as in any backward pass
        if np.abs(powers).max() < 120:  # a float32 then, and a product takes a tenth of ldexp's time
            result: Array = values * np.ldexp(values.dtype.type(1), powers)
        else:
            result = np.ldexp(values, powers)
    return result


def _sum(a: Block | None, b: Block) -> Block:
    """Add two blocks; the result has the sources of both."""
    if a is None:
        return b
    if b.first + len(b.values) == a.first:  # another source begins
        exponents: Exponents = np.concatenate([b.exponents, a.exponents])
        return Block(b.first, np.concatenate([b.values, a.values]), exponents)
    first = min(a.first, b.first)
    n = max(a.first + len(a.values), b.first + len(b.values)) - first
    parts = [(slice(part.first - first, part.first - first + len(part.values)), part) for part in (a, b)]
    # the larger power of the two where both are, so that nothing overflows
    least = np.iinfo(np.int32).min
    exponents = np.full(n, least, np.int32)
    for where, part in parts:
        exponents[where] = np.maximum(exponents[where], part.exponents)
    exponents[exponents == least] = 0
    values = np.zeros((n, *a.values.shape[1:]), a.values.dtype)
    for where, part in parts:
        values[where] += scaled(part.values, part.exponents - exponents[where])
    return Block(first, values, exponents)


def _aligned(dc: Array | None, before: Block | None, after: Block) -> Array | None:
    """Bring the gradients of c to the sources and powers that those of h have now."""
    if dc is None or before is None:
        return None
    start = before.first - after.first
    where = slice(start, start + len(dc))
    result = np.zeros((len(after.values), *dc.shape[1:]), dc.dtype)
    result[where] = scaled(dc, before.exponents - after.exponents[where])
    return result


def _rescaled(carry: Block, dc: Array | None) -> tuple[Block | None, Array | None]:
    """Bring gradients that have gone far from it near 1; None if all are zero."""
    largest = np.zeros(len(carry.values))
    for gradient in (carry.values, dc):
        if gradient is not None:
            flat = gradient.reshape(len(gradient), -1)
            largest = np.maximum(
                largest, np.maximum(flat.max(axis=1, initial=0), -flat.min(axis=1, initial=0))
            )
    if not largest.any():  # NaN counts as something
        return None, None
    shift = np.where(np.isfinite(largest), np.frexp(largest)[1], 0).astype(np.int32)
    if np.abs(shift).max() < NEAR:
        return carry, dc
    dc = None if dc is None else scaled(dc, -shift)
    return Block(carry.first, scaled(carry.values, -shift), carry.exponents + shift), dc

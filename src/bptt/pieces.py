"""Some time steps of a recorded pass by themselves, from the states before them: forward, and back.

What truncated and checkpointed backward passes are made of: docs/gradients.md, "Truncation", "Checkpoints".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bptt import stack
from bptt.arrays import Weights

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bptt.arrays import Array, Mask, Noise, Tokens
    from bptt.interface import Saved, State
    from bptt.noise import Masks
    from bptt.structure import Structure


class Lane(NamedTuple):
    """Units that a piece goes through one after the other: all of a stack, or one direction of one layer.

    Its steps are counted in the order in which the rows make them.
    """

    structure: Structure
    units: tuple[int, ...]  # whose layers follow each other
    initial: tuple[State, ...]  # of each of these units
    lengths: Tokens | None = None  # (B,)
    reset: Mask | None = None  # (T, B), True where the row's state is not that of the step before
    masks: Callable[[int, int, Sequence[int]], Masks] | None = None
    reverse: bool = False

    def take(self, a: Any, first: int, last: int) -> Any:
        """Return steps first..last-1 of an array (T, B, ...); a view where it can be one.

        Past a row's end anything.
        """
        if not self.reverse:
            return a[first:last]
        if self.lengths is None:
            return a[len(a) - last : len(a) - first][::-1]
        t = self.lengths - 1 - np.arange(first, last)[:, np.newaxis]
        return a[np.maximum(t, 0), np.arange(a.shape[1])]

    def put(self, a: Any, first: int, last: int, values: Any, *, add: bool = False) -> None:
        """Write steps first..last-1 to an array (T, B, ...), or add them; nothing past a row's end."""
        if self.reverse and self.lengths is not None:
            t = self.lengths - 1 - np.arange(first, last)[:, np.newaxis]
            s, b = np.nonzero(t >= 0)
            place: Any = (t[s, b], b)
            values = values[s, b]
        elif self.reverse:
            place, values = slice(len(a) - last, len(a) - first), values[::-1]
        else:
            place = slice(first, last)
        if add:
            a[place] += values
        else:
            a[place] = values

    def noise(self, first: int, last: int, steps: int) -> Masks | None:
        """Return what acts in steps first..last-1 of T, `Masks.noise` in the order of the steps."""
        if self.masks is None:
            return None
        if not self.reverse:
            return self.masks(first, last, self.units)
        if self.lengths is None:
            found = self.masks(steps - last, steps - first, self.units)
            return found._replace(noise=tuple(_turned(noise) for noise in found.noise))
        return self._gathered(self.masks, first, last)

    def _gathered(self, masks: Callable[[int, int, Sequence[int]], Masks], first: int, last: int) -> Masks:
        """Return the noise where every row has its steps at times of its own, drawn block by block."""
        assert self.lengths is not None, "rows of one length are read as they stand"
        t = self.lengths - 1 - np.arange(first, last)[:, np.newaxis]
        begin, end = max(int(t.min(initial=0)), 0), int(t.max(initial=-1)) + 1
        found = masks(begin, begin, self.units)
        noise = list(found.noise)
        for unit in self.units:
            own = noise[unit]
            if own is not None:
                blank = [
                    None if kept is None else np.zeros((*t.shape, kept.shape[2]), np.bool_)
                    for kept in (own.kept_h, own.kept_c)
                ]
                noise[unit] = own._replace(kept_h=blank[0], kept_c=blank[1])
        for start in range(begin, end, last - first):
            stop = min(end, start + last - first)
            drawn = masks(start, stop, self.units)
            s, b = np.nonzero((start <= t) & (t < stop))
            for unit in self.units:
                into, block = noise[unit], drawn.noise[unit]
                if into is None or block is None:
                    continue
                for to, kept in ((into.kept_h, block.kept_h), (into.kept_c, block.kept_c)):
                    if to is not None and kept is not None:
                        to[s, b] = kept[t[s, b] - start, b]
        return found._replace(noise=tuple(noise))


def _turned(noise: Noise | None) -> Noise | None:
    """Return the noise of some time steps for the way back."""
    if noise is None:
        return None
    turned = [None if kept is None else np.ascontiguousarray(kept[::-1]) for kept in noise[3:]]
    return noise._replace(kept_h=turned[0], kept_c=turned[1])


class Piece(NamedTuple):
    """A piece that went forward, and what it takes to go back."""

    saved: tuple[Saved, ...]  # of every unit of the lane
    masks: Masks | None
    began: bool  # whether some row goes back to its initial state in it, so that it was told `begin`


def forward(
    unroll: Callable[..., Any],
    lane: Lane,
    weights: Sequence[Any],
    x: Array | Tokens,
    first: int,
    state: Sequence[State],
    steps: int,
    *,
    keep: bool,
    threads: int,
    y_to: Array | None = None,
    final: Sequence[State] | None = None,
) -> tuple[Array, list[State], Piece | None]:
    """Run some steps through the units of a lane.

    Parameters
    ----------
    unroll : callable
        The ground floor's, see `bptt.interface`.
    lane : Lane
    weights : sequence
        What `unroll` takes as weights, of every unit of the stack.
    x : ndarray
        (N, B, I) or token ids (N, B): the input of steps first..first+N-1; C-contiguous.
    first : int
    state : sequence of State
        Before these steps, of every unit of the lane.
    steps : int
        T, of the whole sequence.
    keep : bool
        Whether to return what `backward` needs.
    threads : int
    y_to : ndarray or None
        (N, B, R), where to put y; C-contiguous.
    final : sequence of State or None
        After these steps, of every unit of the lane, where it is known.

    Returns
    -------
    y : ndarray
        (N, B, R), of the last unit.
    state : list of State
        After these steps; of a row that has ended that after its last one.
    piece : Piece or None
    """
    last = first + len(x)
    common: dict[str, Any] = {}
    if lane.lengths is not None:
        common["lengths"] = lane.lengths - first
    reset = None
    if lane.reset is not None:
        reset = np.ascontiguousarray(lane.take(lane.reset, first, last))
        reset = reset if reset.any() else None
    masks = lane.noise(first, last, steps)
    after, kept = [], []
    for n, unit in enumerate(lane.units):
        own = common
        if masks is not None and masks.noise[unit] is not None:
            own = {**own, "noise": masks.noise[unit]}
        start = state[n]
        if reset is not None:
            own, start = {**own, "reset": reset, "begin": start}, lane.initial[n]
        if n == len(lane.units) - 1 and y_to is not None:
            own = {**own, "y_to": y_to}
        if final is not None:
            own = {**own, "final": final[n]}
        y, end, saved = unroll(
            lane.structure.cell, x, start, weights[unit], keep=keep, threads=threads, **own
        )
        after.append(end)
        kept.append(saved)
        if n < len(lane.units) - 1:
            x = stack.dropped(y, masks, unit // lane.structure.directions)
    return y, after, Piece(tuple(kept), masks, reset is not None) if keep else None


class Back(NamedTuple):
    """Where a backward pass through pieces has got to."""

    dstate: list[tuple[Array | None, ...] | None]  # dL/d(state before the last piece), of every unit
    dweights: list[Weights | None]  # sums so far; None for nothing yet
    dinitial: list[State] | None  # what went to the initial states at resets; None without resets


def backward(
    bptt: Callable[..., Any],
    lane: Lane,
    piece: Piece,
    dy: Array | None,
    back: Back,
    *,
    input_grad: bool,
    threads: int,
    dx_to: Array | None = None,
) -> Array | None:
    """Take gradients back through a piece.

    Parameters
    ----------
    bptt : callable
        The ground floor's, see `bptt.interface`.
    lane : Lane
    piece : Piece
    dy : ndarray or None
        dL/dy of its steps, (N, B, R); None for zeros.
    back : Back
        From the piece after this one; moved on.
    input_grad : bool
        Whether dx is wanted.
    threads : int
    dx_to : ndarray or None
        (N, B, I), where to put it; C-contiguous.

    Returns
    -------
    ndarray or None
        dx (N, B, I); None for token ids.
    """
    for n in reversed(range(len(lane.units))):
        if n < len(lane.units) - 1 and dy is not None:
            dy = stack.dropped(dy, piece.masks, lane.units[n] // lane.structure.directions)
        options: dict[str, Any] = {}
        if back.dinitial is not None and piece.began:
            options["initial_to"] = back.dinitial[n]
        if n == 0 and dx_to is not None:
            options["dx_to"] = dx_to
        dy, back.dstate[n], back.dweights[n] = bptt(
            lane.structure.cell,
            piece.saved[n],
            dy,
            back.dstate[n],
            threads=threads,
            add_to=back.dweights[n],
            input_grad=input_grad or n > 0,
            **options,
        )
    return dy


def zeros(like: Weights) -> Weights:
    """Return gradients of no steps."""
    return Weights(*[None if array is None else np.zeros_like(array) for array in like])  # type: ignore[arg-type]


def slices(masks: Masks) -> Callable[[int, int, Sequence[int]], Masks]:
    """Return `Lane.masks` from all masks of a pass."""

    def between(first: int, last: int, units: Sequence[int]) -> Masks:
        noise = [
            None
            if own is None
            else own._replace(
                kept_h=None if own.kept_h is None else own.kept_h[first:last],
                kept_c=None if own.kept_c is None else own.kept_c[first:last],
            )
            for own in masks.noise
        ]
        return masks._replace(noise=tuple(noise), dropout=tuple(mask[first:last] for mask in masks.dropout))

    return between

"""Recorded passes of which only some states are kept: docs/gradients.md, "Checkpoints".

The pass goes over the sequence piece by piece, see `bptt.pieces`, and a schedule says before which pieces the
state is kept. The backward pass runs the pieces again from these states, the last one first. Pieces end where
the sums of the ground floor do, so that the gradients have the bits of a pass that keeps everything.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bptt import checks, pieces, stack

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bptt.arrays import Array, Mask, Tokens, Weights
    from bptt.interface import Backend, State
    from bptt.noise import Draws
    from bptt.pieces import Back, Lane, Piece
    from bptt.schedule import Schedule
    from bptt.structure import Structure

#: Bytes of y over which a piece that is only run through is cut: there is nothing to gain by longer ones.
RUN_THROUGH = 1 << 19


class Recipe(NamedTuple):
    """What a pass is a function of, everything time-major."""

    ground: Backend
    structure: Structure
    weights: Sequence[Any]  # of every unit, packed for both ways
    shapes: Sequence[Weights]  # arrays of the parameters' shapes, of every unit, that are not looked at
    x: Any  # (T, B, I) or token ids (T, B), in any layout
    dtype: np.dtype[Any]
    initial: tuple[Array, ...]  # h_0 (L*D, B, R), for an LSTM c_0 (L*D, B, H) too
    lengths: Tokens | None  # (B,)
    reset: Mask | None  # (T, B)
    draws: Draws | None

    def array(self, shape: tuple[int, ...]) -> Array:
        """Return an array for all steps, of zeros where two directions put or add theirs."""
        if self.structure.directions == 2:
            return np.zeros(shape, self.dtype)
        return self.ground.large_empty(shape, self.dtype)

    @property
    def stepless(self) -> Mask:
        """The rows without steps, (B,)."""
        T, B = self.x.shape[:2]
        return np.full(B, T == 0) if self.lengths is None else np.asarray(self.lengths == 0)


class Path(NamedTuple):
    """The states kept at one time, the first being the initial one, and the last piece if it is taped."""

    firsts: list[int]  # the chunks they stand before
    states: list[Sequence[State]]
    taped: list[Piece]  # one or none


def lanes(recipe: Recipe) -> list[Lane]:
    """Return the lanes of a pass: one of all units, or one for each direction of each layer."""
    structure, reset = recipe.structure, recipe.reset
    starts: list[State] = list(zip(*recipe.initial, strict=True))
    masks = None if recipe.draws is None else recipe.draws.masks
    if structure.directions == 1:
        units = tuple(range(structure.num_layers))
        return [pieces.Lane(structure, units, tuple(starts), recipe.lengths, reset, masks)]
    back = None if reset is None else stack.going_back(reset)
    return [
        pieces.Lane(
            structure,
            (unit,),
            (start,),
            recipe.lengths,
            back if unit % 2 else reset,
            masks,
            reverse=unit % 2 == 1,
        )
        for unit, start in enumerate(starts)
    ]


class Walk:
    """One lane of a pass on its way through the pieces."""

    def __init__(self, recipe: Recipe, lane: Lane, schedule: Schedule, x: Any, threads: int) -> None:
        self._recipe, self._lane, self._schedule, self._x = recipe, lane, schedule, x
        self._threads = threads
        self._longest = int(np.diff(schedule.bounds).max(initial=0))
        self._ends: list[int] = schedule.bounds.tolist()
        self._taped = 0  # steps of the piece that was taped last
        # whether a step takes no memory but that of its output
        lone = len(lane.units) == 1 and lane.masks is None and lane.reset is None and not lane.reverse
        ready = x.ndim == 3 and x.dtype == recipe.dtype and x.flags.c_contiguous and x.flags.aligned
        self._in_place = lone and ready
        # whether besides a state is its step's output
        self._shown = self._in_place and recipe.structure.gates == 1 and lane.lengths is None

    def read(self, first: int, last: int) -> Any:
        """Return x of some steps, C-contiguous."""
        part = self._lane.take(self._x, first, last)
        if part.ndim == 3:
            return checks.normalise(part, self._recipe.dtype)
        ids = np.array(part, np.int64, order="C")
        vocabulary = self._recipe.structure.input_size
        if ids.size and not (ids.min() >= 0 and ids.max() < vocabulary):
            raise ValueError(f"x: expected token ids in [0, {vocabulary}) as when recorded, got others")
        return ids

    def _forward(
        self,
        first: int,
        last: int,
        state: Sequence[State],
        keep: bool,
        y_to: Array | None = None,
        final: Sequence[State] | None = None,
    ) -> tuple[Array, list[State], Piece | None]:
        recipe = self._recipe
        return pieces.forward(
            recipe.ground.unroll,
            self._lane,
            recipe.weights,
            self.read(first, last),
            first,
            state,
            len(self._x),
            keep=keep,
            threads=self._threads,
            y_to=y_to,
            final=final,
        )

    def run(
        self,
        first: int,
        stop: int,
        state: Sequence[State],
        put: Callable[[int, int, Array], None] | None = None,
        y_to: Array | None = None,
    ) -> Sequence[State]:
        """Run over steps first..stop-1 and return the state after them; y as for `down`."""
        structure, B = self._recipe.structure, self._x.shape[1]
        most = stop - first
        if y_to is None or not self._in_place:
            # a step that is not taped needs less than a state and the gates: these are less than a chunk
            each = max(1, B * structure.hidden_size * self._recipe.dtype.itemsize)
            most = max(1, min(RUN_THROUGH // each, self._longest * structure.gates))
        while first < stop:
            last = min(first + most, stop)
            y, state, _ = self._forward(first, last, state, False, None if y_to is None else y_to[first:last])
            if put is not None:
                put(first, last, y)
            first = last
        return state

    def down(
        self,
        path: Path,
        last: int,
        put: Callable[[int, int, Array], None] | None = None,
        y_to: Array | None = None,
        final: Sequence[State] | None = None,
        *,
        tape: bool,
    ) -> Sequence[State]:
        """Run from the last state kept to before chunk `last`, keeping states as the schedule says.

        Parameters
        ----------
        path : Path
            Lengthened.
        last : int
        put : callable or None
            Told of y of all steps.
        y_to : ndarray or None
            (T, B, R), where y goes straight away; then nobody is told.
        final : sequence of State or None
            After the last piece, where it is known.
        tape : bool
            Whether to tape the last piece.

        Returns
        -------
        sequence of State
            After the last piece.
        """
        ends, at = self._ends, len(path.firsts)
        while (first := path.firsts[-1]) < last:
            ahead = self._schedule.advance(first, last, len(path.firsts) - 1)
            if not ahead:
                break
            path.firsts.append(first + ahead)
        cuts = [ends[first] for first in path.firsts[at - 1 :]]
        if y_to is not None and self._shown:
            # one call for all pieces
            self.run(cuts[0], cuts[-1], path.states[-1], put, y_to)
            path.states.extend([[(y_to[cut - 1].copy(),)] for cut in cuts[1:]])
        else:
            for begin, end in itertools.pairwise(cuts):
                path.states.append(self.run(begin, end, path.states[-1], put, y_to))
        state = path.states[-1]
        if first == last:
            return state
        begin, end = ends[first], ends[last]
        if not tape:
            return self.run(begin, end, state, put, y_to)
        steps = end - begin
        if self._taped and not 0.8 * self._taped <= steps <= self._taped:
            # blocks of memory of this size will not be found among those that are kept
            self._recipe.ground.release_memory()
        self._taped = steps
        y, after, piece = self._forward(begin, end, state, True, final=final)
        assert piece is not None, "it was to be kept"
        path.taped.append(piece)
        if put is not None:
            put(begin, end, y)
        if y_to is not None:
            # the piece keeps its own, which nobody can change
            y_to[begin:end] = y
        return after

    def back(
        self,
        path: Path,
        back: Back,
        dy: Callable[[int, int], Array | None],
        put: Callable[[int, int, Array], None] | None,
        dx_to: Array | None = None,
    ) -> None:
        """Take gradients back over the whole lane; `path` is used up.

        Parameters
        ----------
        path : Path
            Of the states from the beginning.
        back : Back
            With the final state's gradients; moved on.
        dy : callable
            Gives dL/dy of some steps; None for zeros.
        put : callable or None
            Told of dx of all steps, if it is wanted.
        dx_to : ndarray or None
            (T, B, I), where dx goes straight away; then nobody is told.
        """
        ends = self._ends
        last = len(ends) - 1
        final = None
        while path.firsts and last:
            if not path.taped:
                self.down(path, last, final=final, tape=True)
            first, stop = ends[path.firsts[-1]], ends[last]
            self._taped = stop - first
            dx = pieces.backward(
                self._recipe.ground.bptt,
                self._lane,
                path.taped.pop(),
                dy(first, stop),
                back,
                input_grad=put is not None or dx_to is not None,
                threads=self._threads,
                dx_to=None if dx_to is None else dx_to[first:stop],
            )
            if put is not None and dx is not None:
                put(first, stop, dx)
            del dx
            last = path.firsts.pop()
            final = path.states.pop()

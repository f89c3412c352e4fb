"""A checkpointed pass through all lanes of a stack, forward and back: docs/gradients.md, "Checkpoints"."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bptt import checks, pieces, stack
from bptt.checkpointing import Path, Recipe, Walk, lanes

if TYPE_CHECKING:
    from collections.abc import Callable

    from bptt.arrays import Array, Weights
    from bptt.interface import State
    from bptt.pieces import Lane
    from bptt.schedule import Schedule

#: Bytes of y that are dropped at once.
DROPPED = 1 << 19


class Recorded(NamedTuple):
    """A checkpointed pass."""

    recipe: Recipe
    schedule: Callable[[], Schedule]
    beside_dy: Callable[[], Schedule] | None  # for copies of dy; None: they fit into that of `schedule`
    inputs: list[Any]  # of every group of lanes: x, in two directions also y of the layers below
    paths: list[list[Path]]  # of every lane at most one, which the first backward pass uses up
    last: bool  # whether there is only the last step of y


def _groups(recipe: Recipe) -> tuple[tuple[tuple[int, Lane], ...], ...]:
    """Return the lanes with their numbers, those together that go through the same input."""
    return recipe.structure.by_layer(enumerate(lanes(recipe)))


def record(
    recipe: Recipe,
    schedule: Callable[[], Schedule],
    beside_dy: Callable[[], Schedule] | None,
    *,
    last: bool,
    threads: int,
) -> tuple[Array, tuple[Array, ...], Recorded]:
    """Run a sequence through all layers, keeping some states.

    Parameters
    ----------
    recipe : Recipe
    schedule : callable
        Makes a schedule.
    beside_dy : callable or None
        Makes one that leaves room for copies of dy, if the other doesn't.
    last : bool
        Whether only the last step of y is wanted: of each row its own, zero for a row without steps.
    threads : int

    Returns
    -------
    y : ndarray
        (T, B, D*R), or (B, D*R) of the last steps.
    final : tuple of ndarray
        h_n, for an LSTM c_n too; like `Recipe.initial`.
    recorded : Recorded
    """
    (T, B), structure = recipe.x.shape[:2], recipe.structure
    D, R = structure.directions, structure.state_size
    inputs, finals = [recipe.x], []
    groups = _groups(recipe)
    paths: list[list[Path]] = [[] for group in groups for _ in group]
    for layer, group in enumerate(groups):
        ends = last and layer == len(groups) - 1
        y = np.zeros((B, D * R), recipe.dtype) if ends else recipe.array((T, B, D * R))
        for number, lane in group:
            own = y[..., R * lane.reverse : R * lane.reverse + R]
            plan, path = schedule(), Path([0], [lane.initial], [])
            # of a single direction y is written where it belongs
            put = None
            if D == 2:
                put = _catcher(own) if ends and lane.reverse else None if ends else _writer(lane, own)
            walk = Walk(recipe, lane, plan, inputs[layer], threads)
            # of two directions the last pieces would be in the way of each other
            y_to = own if D == 1 and not ends else None
            after = walk.down(path, len(plan.bounds) - 1, put, y_to, tape=D == 1)
            if ends and not lane.reverse:
                own[...] = after[-1][0]
            finals += list(after)
            paths[number].append(path)
        if layer < len(groups) - 1:
            _drop(recipe, layer, y)
            inputs.append(y)
    if last:
        y[recipe.stepless] = 0
    final = tuple([np.stack(parts) for parts in zip(*finals, strict=True)])
    return y, final, Recorded(recipe, schedule, beside_dy, inputs, paths, last)


def _writer(lane: Lane, y: Array) -> Callable[[int, int, Array], None]:
    """Return what puts steps where they belong in an array (T, B, ...)."""
    return lambda first, last, part: lane.put(y, first, last, part)


def _adder(lane: Lane, y: Array) -> Callable[[int, int, Array], None]:
    """Return what adds steps to those in an array (T, B, ...)."""
    return lambda first, last, part: lane.put(y, first, last, part, add=True)


def _catcher(y: Array) -> Callable[[int, int, Array], None]:
    """Return what puts a lane's first step into an array (B, ...)."""

    def put(first: int, last: int, part: Array) -> None:
        if first == 0:
            y[...] = part[0]

    return put


def _drop(recipe: Recipe, layer: int, y: Array) -> None:
    """Drop entries of y of a layer, or of its gradient, in place."""
    if recipe.draws is None or not recipe.draws.rates.dropout:
        return
    each = max(1, DROPPED // max(y[0].nbytes, 1)) if len(y) else 1
    for first in range(0, len(y), each):
        part = y[first : first + each]
        masks = recipe.draws.masks(first, first + len(part), (layer * recipe.structure.directions,))
        part *= masks.scale
        part *= masks.dropout[layer]


def backward(
    recorded: Recorded,
    dy: Array | None,
    dfinal: tuple[Array | None, ...] | None,
    *,
    input_grad: bool,
    threads: int,
) -> tuple[Array | None, tuple[Array, ...], list[Weights]]:
    """Take gradients back through all layers.

    Parameters
    ----------
    recorded : Recorded
    dy : ndarray or None
        dL/dy, (T, B, D*R) in any layout or, of the last steps, (B, D*R); None for zeros.
    dfinal : tuple or None
        dL/dh_n, for an LSTM dL/dc_n too, like `Recipe.initial`; None for zeros, also in place of one.
    input_grad : bool
        Whether dL/dx is wanted.
    threads : int

    Returns
    -------
    dx : ndarray or None
        (T, B, I); None for token ids.
    dinitial : tuple of ndarray
        dL/dh_0, for an LSTM dL/dc_0 too.
    dweights : list of Weights
        Of every unit.
    """
    recipe, structure = recorded.recipe, recorded.recipe.structure
    R, units = structure.state_size, structure.num_layers * structure.directions
    dstates: list[Any] = [None] * units
    if dfinal is not None:
        dstates = [stack.of_unit(dfinal, unit) for unit in range(units)]
    ends = None
    if recorded.last and dy is not None:
        dy, ends = None, np.array(dy, recipe.dtype)
        ends[recipe.stepless] = 0
    schedule = recorded.schedule
    if dy is not None and recorded.beside_dy is not None and not _as_read(dy, recipe.dtype):
        schedule = recorded.beside_dy
        forget(recorded)
    dweights: list[Any] = [None] * units
    dx: Array | None = None
    groups = _groups(recipe)
    for layer, group in reversed(list(enumerate(groups))):
        x = recorded.inputs[layer]
        if layer < len(groups) - 1:
            dy, ends = dx, None
            if dy is not None:
                _drop(recipe, layer, dy)
        wanted = x.ndim == 3 and (input_grad or layer > 0)
        dx = recipe.array(x.shape) if wanted else None
        for number, lane in group:
            part = slice(R * lane.reverse, R * lane.reverse + R)
            end = None if ends is None else np.ascontiguousarray(ends[:, part])
            if end is not None and not lane.reverse:
                # a row's last output is its final state
                top = lane.units[-1]
                dstates[top], end = _with_h(dstates[top], end, len(recipe.initial)), None
            zeros = [tuple([np.zeros_like(array) for array in state]) for state in lane.initial]
            resets = None if lane.reset is None else zeros
            back = pieces.Back([dstates[unit] for unit in lane.units], [None] * len(lane.units), resets)
            # of a single direction dx is written where it belongs
            put = None
            if dx is not None and structure.directions == 2:
                put = _adder(lane, dx) if lane.reverse else _writer(lane, dx)
            dx_to = dx if put is None else None
            given = None if dy is None else dy[:, :, part]
            walk = Walk(recipe, lane, schedule(), x, threads)
            walk.back(_taken(recorded, number, lane), back, _reader(recipe, lane, given, end), put, dx_to)
            for n, unit in enumerate(lane.units):
                dstates[unit] = _sums(zeros[n], back.dstate[n])
                dweights[unit] = back.dweights[n] or pieces.zeros(recipe.shapes[unit])
    return dx, tuple([np.stack(parts) for parts in zip(*dstates, strict=True)]), dweights


def forget(recorded: Recorded) -> None:
    """Let go of what `record` left, where the backward pass needs its room: it starts from the beginning."""
    for paths in recorded.paths:
        paths.clear()
    recorded.recipe.ground.release_memory()


def _as_read(dy: Array, dtype: np.dtype[Any]) -> bool:
    """Whether pieces of dy are what the ground floor reads, so that none is copied."""
    return dy.dtype == dtype and dy.flags.c_contiguous and dy.flags.aligned


def _taken(recorded: Recorded, number: int, lane: Lane) -> Path:
    """Return what `record` left of a lane, if nobody has taken it, or the beginning."""
    try:
        return recorded.paths[number].pop()
    except IndexError:
        return Path([0], [lane.initial], [])


def _reader(
    recipe: Recipe, lane: Lane, dy: Array | None, at_first: Array | None
) -> Callable[[int, int], Array | None]:
    """Return what gives dL/dy of some steps, C-contiguous: of all of them, or of a lane's first alone."""

    def read(first: int, last: int) -> Array | None:
        if dy is not None:
            return checks.normalise(lane.take(dy, first, last), recipe.dtype)
        if at_first is None or first > 0:
            return None
        part = np.zeros((last, *at_first.shape), recipe.dtype)
        part[0] = at_first
        return part

    return read


def with_last(recipe: Recipe, dfinal: tuple[Array | None, ...] | None, dy: Array) -> tuple[Array | None, ...]:
    """Return gradients of the final states with those of the last outputs, in one direction.

    Parameters
    ----------
    recipe : Recipe
    dfinal : tuple or None
        As for `backward`.
    dy : ndarray
        (B, R).
    """
    h, *others = (None,) * len(recipe.initial) if dfinal is None else dfinal
    ends = np.zeros_like(recipe.initial[0]) if h is None else h.copy()
    ends[-1] += np.where(recipe.stepless[:, np.newaxis], dy.dtype.type(0), dy)
    return (ends, *others)


def _with_h(dstate: Any, dh: Array, parts: int) -> tuple[Array | None, ...]:
    """Return the gradient of a state with more of that of h."""
    h, *others = (None,) * parts if dstate is None else dstate
    return (dh if h is None else h + dh, *others)


def _sums(resets: State, dstart: Any) -> State:
    """Return what resets and the beginning send to an initial state."""
    if dstart is None:
        return resets
    return tuple([a if b is None else a + b for a, b in zip(resets, dstart, strict=True)])

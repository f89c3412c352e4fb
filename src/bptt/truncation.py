"""Truncated backward passes in windows: docs/gradients.md, "Truncation".

Time is cut into blocks of S steps. The loss of a block goes back by itself through the K steps that end with
it, a window: the window's forward pass is made again from the states before it, and its gradients are added
to those of the others. Source: Williams and Peng, 1990, BPTT(h; h').
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bptt import checks, pieces, stack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from bptt.arrays import Array, Tokens, Weights
    from bptt.interface import Backend, State
    from bptt.pieces import Lane
    from bptt.stack import Pass
    from bptt.structure import Structure


class Window(NamedTuple):
    """Some steps, counted from 0, and which of their losses count."""

    first: int
    loss: int  # the block's first step
    last: int  # where the window ends: one past its last step
    end: int  # where the block would end if time went on


def windows(steps: int, depth: int, stride: int) -> Iterator[Window]:
    """Cut time into blocks, and yield the window of each.

    Parameters
    ----------
    steps : int
        T.
    depth, stride : int
        K and S.
    """
    for loss in range(0, steps, stride):
        end = loss + stride
        yield Window(max(0, end - depth), loss, min(end, steps), end)


def check(depth: Any, stride: Any, structure: Structure) -> tuple[int, int] | None:
    """Return K and S from what the user gave; None without truncation.

    Raises
    ------
    TypeError
        If one of them is not an integer.
    ValueError
        If one is below 1, K below S, or there is a stride alone or truncation in two directions.
    """
    if depth is None:
        if stride is not None:
            raise ValueError(f"stride: expected None without a depth, got {stride!r}")
        return None
    K = checks.integer("depth", depth)
    S = 1 if stride is None else checks.integer("stride", stride)
    if K < S:
        raise ValueError(
            f"depth: expected at least stride={S}, since the loss of a block's first step would not reach "
            f"that step otherwise, got {K}"
        )
    if structure.directions == 2:
        raise ValueError(
            "depth: expected None for a bidirectional layer, whose steps feel the losses before them too, "
            f"got {K}"
        )
    return K, S


def is_whole(cut: tuple[int, int], steps: int) -> bool:
    """Return whether K and S leave nothing out; with S = 1 the initial state stands one step further back."""
    return cut[0] >= steps + (cut[1] == 1)


def propagate(
    ground: Backend,
    bptt: Callable[..., Any],
    recorded: Pass,
    dy: Array | None,
    dfinal: tuple[Array | None, ...] | None,
    cut: tuple[int, int],
    *,
    input_grad: bool,
    threads: int,
) -> tuple[Array | None, tuple[Array, ...], list[Weights]]:
    """Take truncated gradients back through a recorded pass.

    Parameters
    ----------
    ground : Backend
    bptt : callable
        Its `bptt`, or one that does more.
    recorded, dy, dfinal
        As for `stack.backward`, which has the results.
    cut : tuple
        K and S, which leave something out: see `is_whole`.
    input_grad : bool
        Whether dx is wanted.
    threads : int
    """
    depth, stride = cut
    structure, saved = recorded.structure, recorded.saved
    lengths, reset = stack.course(recorded.lengths, recorded.reset, len(recorded.y))
    if len(saved) == 1 and stride == 1:
        noisy = recorded.masks is not None and any(recorded.masks.noise)
        if lengths is None and reset is None and not noisy:
            # the ground floor's own: it makes no forward pass again
            return stack.backward(
                bptt, recorded, dy, dfinal, depth=depth, threads=threads, input_grad=input_grad
            )
    units = tuple(range(len(saved)))
    initial = tuple(zip(*recorded.initial, strict=True))
    masks = None if recorded.masks is None else pieces.slices(recorded.masks)
    lane = pieces.Lane(structure, units, initial, lengths, reset, masks)

    def before(first: int) -> Sequence[State]:
        if first == 0:
            return initial
        return [
            (own.y[first - 1],) if own.c is None else (own.y[first - 1], own.c[first - 1]) for own in saved
        ]

    x = saved[0].x
    weights = [own.weights for own in saved]
    return backward(
        ground.unroll,
        bptt,
        lane,
        [
            ground.pack(structure.cell, own, tokens=x.ndim == 2 and unit == 0, backward=True)
            for unit, own in enumerate(weights)
        ],
        lambda first, last: x[first:last],
        x,
        before,
        dy,
        dfinal,
        weights,
        depth=depth,
        stride=stride,
        input_grad=input_grad,
        threads=threads,
    )


def backward(
    unroll: Callable[..., Any],
    bptt: Callable[..., Any],
    lane: Lane,
    weights: Sequence[Any],
    read: Callable[[int, int], Array | Tokens],
    x: Array | Tokens,
    before: Callable[[int], Sequence[State]],
    dy: Array | None,
    dfinal: tuple[Array | None, ...] | None,
    like: Sequence[Weights],
    *,
    depth: int,
    stride: int,
    input_grad: bool,
    threads: int,
) -> tuple[Array | None, tuple[Array, ...], list[Weights]]:
    """Back-propagate window by window.

    Parameters
    ----------
    unroll, bptt : callable
        The ground floor's, see `bptt.interface`.
    lane : Lane
        All units of a stack in one direction.
    weights : sequence
        What `unroll` takes as weights, of every unit.
    read : callable
        Gives the input of some steps, C-contiguous.
    x : ndarray
        (T, B, I), or token ids (T, B), of which only the form matters.
    before : callable
        Gives the states before a step, of every unit; it is asked for steps in ascending order.
    dy : ndarray or None
        dL/dy (T, B, R); None for zeros.
    dfinal : tuple or None
        dL/d(final state), (L, B, R), for an LSTM of c too; None for zeros, also in place of an array.
    like : sequence of Weights
        Arrays of the parameters' shapes, of every unit.
    depth, stride : int
        K and S, K >= S.
    input_grad : bool
        Whether dx is wanted.
    threads : int

    Returns
    -------
    dx : ndarray or None
        (T, B, I); None for token ids.
    dinitial : tuple of ndarray
        As `dfinal`.
    dweights : list of Weights
        Of every unit.
    """
    steps, batch = x.shape[:2]
    ends = np.full(batch, steps) if lane.lengths is None else lane.lengths
    dinitial = [tuple([np.zeros_like(part) for part in state]) for state in lane.initial]
    dends = None
    if dfinal is not None:
        count = range(len(lane.units))
        dends = [stack.of_unit(dfinal, unit) for unit in count]
        # the final state of a row without steps is its initial one
        _add_rows(dinitial, dends, ends == 0)
    reset = None if lane.reset is None else lane.reset.copy()
    lane = lane._replace(reset=reset)
    back = pieces.Back([], [None for _ in lane.units], None if reset is None else dinitial)
    dtype = lane.initial[0][0].dtype
    dx: Array | None = np.zeros(x.shape, dtype) if input_grad and x.ndim == 3 else None
    for window in windows(int(ends.max(initial=0)), depth, stride):
        first, last = window.first, window.last
        # a row's final state has its loss in the block of the row's last step
        ending = (window.loss < ends) & (ends <= window.end)
        back.dstate[:] = _of_rows(dends, ending) if dends is not None else [None for _ in lane.units]
        if dy is None and (dends is None or not ending.any()):
            continue
        anew = np.full(batch, first == 0)
        state = before(first)
        if reset is not None:
            # here the window begins for all rows: a reset at its first step cuts nothing more
            flagged = reset[first].copy()
            anew |= flagged
            reset[first] = False
            state = [
                tuple(np.where(flagged[:, np.newaxis], own, part) for own, part in zip(*pair, strict=True))
                for pair in zip(lane.initial, state, strict=True)
            ]
        _, _, piece = pieces.forward(
            unroll, lane, weights, read(first, last), first, state, steps, keep=True, threads=threads
        )
        assert piece is not None, "it was to be kept"
        dx_window = pieces.backward(
            bptt, lane, piece, _of_block(dy, window), back, input_grad=dx is not None, threads=threads
        )
        if dx is not None and dx_window is not None:
            dx[first:last] += dx_window
        # with S = 1 the initial state stands one step before the first: docs/gradients.md, "Truncation"
        if stride > 1 or (first == 0 and window.end < depth):
            _add_rows(dinitial, back.dstate, anew)
        del piece, dx_window  # before the next are made
    dweights = [total or pieces.zeros(shapes) for total, shapes in zip(back.dweights, like, strict=True)]
    return dx, tuple([np.stack(parts) for parts in zip(*dinitial, strict=True)]), dweights


def _of_block(dy: Array | None, window: Window) -> Array | None:
    """Return dL/dy of a window's steps where only the block's losses count."""
    if dy is None or window.loss == window.first:
        return None if dy is None else np.ascontiguousarray(dy[window.first : window.last])
    own = np.zeros((window.last - window.first, *dy.shape[1:]), dy.dtype)
    own[window.loss - window.first :] = dy[window.loss : window.last]
    return own


def _of_rows(dstate: Sequence[tuple[Array | None, ...]], rows: Any) -> list[tuple[Array | None, ...] | None]:
    """Return gradients of states where only some batch rows count."""
    chosen = rows[:, np.newaxis]
    return [
        tuple([None if part is None else np.where(chosen, part, part.dtype.type(0)) for part in own])
        for own in dstate
    ]


def _add_rows(into: Sequence[State], dstate: Sequence[Any], rows: Any) -> None:
    """Add gradients of states to others in some batch rows."""
    for totals, own in zip(into, dstate, strict=True):
        for total, part in zip(totals, own, strict=True):
            if part is not None:
                total[rows] += part[rows]

"""The loop over the layers and directions of a stack: docs/equations.md, "Stacks and directions"."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bptt.arrays import Array, Mask, Tokens, Weights
    from bptt.interface import Saved
    from bptt.noise import Masks
    from bptt.structure import Structure


class Pass:
    """One recorded forward pass, everything time-major.

    Not a named tuple, which takes longer to make and to read: a third of a microsecond in a training step.

    Attributes
    ----------
    structure : Structure
    y : ndarray
        (T, B, D*R), of the last layer.
    saved : sequence of Saved
        Of every unit.
    initial : tuple of ndarray
        h_0 (L*D, B, R), for an LSTM c_0 (L*D, B, H) too.
    lengths : ndarray or None
        (B,).
    reset : ndarray or None
        (T, B).
    masks : Masks or None
    """

    __slots__ = ("initial", "lengths", "masks", "reset", "saved", "structure", "y")

    def __init__(
        self,
        structure: Structure,
        y: Array,
        saved: Sequence[Saved],
        initial: tuple[Array, ...],
        lengths: Tokens | None,
        reset: Mask | None,
        masks: Masks | None,
    ) -> None:
        self.structure = structure
        self.y = y
        self.saved = saved
        self.initial = initial
        self.lengths = lengths
        self.reset = reset
        self.masks = masks


def forward(
    unroll: Callable[..., Any],
    structure: Structure,
    weights: Sequence[Any],
    x: Array | Tokens,
    initial: tuple[Array, ...],
    *,
    lengths: Tokens | None = None,
    reset: Mask | None = None,
    masks: Masks | None = None,
    keep: bool,
    threads: int,
    outputs: list[Array] | None = None,
) -> tuple[Array, tuple[Array, ...], Sequence[Any]]:
    """Run a sequence through all layers.

    Parameters
    ----------
    unroll : callable
        The ground floor's, see `bptt.interface`.
    structure : Structure
    weights : sequence
        What `unroll` takes as weights, of every unit.
    x : ndarray
        (T, B, I), or (T, B) token ids.
    initial : tuple of ndarray
        h_0 (L*D, B, R), for an LSTM c_0 (L*D, B, H) too.
    lengths : ndarray, optional
        (B,), each row's number of steps.
    reset : ndarray, optional
        (T, B), True where a row begins again from its initial state before the step.
    masks : Masks, optional
    keep : bool
        Whether to return what `backward` needs.
    threads : int
    outputs : list, optional
        Where to put y of every layer.

    Returns
    -------
    y : ndarray
        (T, B, D*R), of the last layer.
    final : tuple of ndarray
        h_n, for an LSTM c_n too; like `initial`.
    saved : sequence of Saved
        Of every unit; of None without `keep`.
    """
    cell, D = structure.cell, structure.directions
    ways = _ways(D, lengths, reset)
    states = zip(*initial, strict=True)
    finals, kept = [], []
    for unit, state in enumerate(states):
        options = ways[unit % D]
        if masks is not None and masks.noise[unit] is not None:
            options = {**options, "noise": masks.noise[unit]}
        y, final, saved = unroll(cell, x, state, weights[unit], keep=keep, threads=threads, **options)
        finals.append(final)
        kept.append(saved)
        if D == 2:
            if unit % 2 == 0:
                ahead = y
                continue
            y = np.concatenate((ahead, y), axis=2)
        if outputs is not None:
            outputs.append(y)
        if unit < len(weights) - 1:
            x = dropped(y, masks, unit // D)
    if len(finals) == 1:
        return y, of_alone(finals[0]), kept
    return y, tuple([np.stack(parts) for parts in zip(*finals, strict=True)]), kept


def _ways(directions: int, lengths: Tokens | None, reset: Mask | None) -> tuple[dict[str, Any], ...]:
    """Return what `unroll` is told of time, for each direction."""
    ahead: dict[str, Any] = {}
    if lengths is not None:
        ahead["lengths"] = lengths
    if directions == 1:
        return (ahead if reset is None else {**ahead, "reset": reset},)
    back = {**ahead, "reverse": True}
    if reset is not None:
        ahead, back = {**ahead, "reset": reset}, {**back, "reset": going_back(reset)}
    return ahead, back


def going_back(reset: Mask) -> Mask:
    """Return where rows that are cut before step t begin again in the reverse direction: at step t - 1."""
    shifted = np.zeros_like(reset)
    shifted[:-1] = reset[1:]
    return shifted


def of_unit(parts: tuple[Array | None, ...], unit: int) -> tuple[Array | None, ...]:
    """Return what arrays (L*D, ...) hold for one unit."""
    return tuple([None if part is None else part[unit] for part in parts])


def of_alone(state: tuple[Array, ...]) -> tuple[Array, ...]:
    """Return the state of a single unit as that of all of them: (1, B, ...); views."""
    return (state[0][None],) if len(state) == 1 else (state[0][None], state[1][None])


def dropped(y: Array, masks: Masks | None, layer: int) -> Array:
    """Return y, or a gradient of it, after the dropout that follows a layer."""
    if masks is None or not masks.dropout:
        return y
    # twice as fast as one product with a mask of floats, which would have to be made
    scaled = y * masks.scale
    scaled *= masks.dropout[layer]
    return scaled


def course(lengths: Tokens | None, reset: Mask | None, steps: int) -> tuple[Tokens | None, Mask | None]:
    """Return lengths and reset of T steps, each None where it says nothing: `unroll` is faster then."""
    return (
        None if lengths is None or (lengths == steps).all() else lengths,
        None if reset is None or not reset[1:].any() else reset,
    )


def last_steps(lengths: Tokens | None, steps: int, batch: int) -> tuple[Tokens, Tokens]:
    """Return the batch rows that have steps, and the time of the last step of each.

    Parameters
    ----------
    lengths : ndarray or None
        (B,); None for T.
    steps, batch : int
        T and B.

    Returns
    -------
    rows, times : ndarray of int64
    """
    ends = np.full(batch, steps) if lengths is None else lengths
    rows = np.flatnonzero(ends)
    return rows, ends[rows] - 1


def backward(
    bptt: Callable[..., Any],
    recorded: Pass,
    dy: Array | None,
    dfinal: tuple[Array | None, ...] | None,
    *,
    depth: int | None,
    threads: int,
    input_grad: bool = True,
) -> tuple[Array | None, tuple[Array, ...], list[Weights]]:
    """Take gradients back through all layers.

    Parameters
    ----------
    bptt : callable
        The ground floor's, see `bptt.interface`.
    recorded : Pass
    dy : ndarray or None
        dL/dy (T, B, D*R); None for zeros.
    dfinal : tuple or None
        dL/dh_n, for an LSTM dL/dc_n too, like `Pass.initial`; None for zeros, also in place of one.
    depth : int or None
        For one unit only.
    threads : int
    input_grad : bool
        Whether dx is wanted.

    Returns
    -------
    dx : ndarray or None
        (T, B, I); None for token ids.
    dinitial : tuple of ndarray
        dL/dh_0, for an LSTM dL/dc_0 too; like `Pass.initial`.
    dweights : list of Weights
        Of every unit.
    """
    structure, saved = recorded.structure, recorded.saved
    units = len(saved)
    if units == 1:  # the loop's single round, 1 us sooner
        if dfinal is not None:
            dfinal = of_unit(dfinal, 0)
        if input_grad:  # the default: to name it costs 0.2 us
            dx, dinitial, dweight = bptt(structure.cell, saved[0], dy, dfinal, depth, threads)
        else:
            dx, dinitial, dweight = bptt(
                structure.cell, saved[0], dy, dfinal, depth, threads, input_grad=False
            )
        return dx, of_alone(dinitial), [dweight]

    D, R = structure.directions, structure.state_size
    dinitials: list[Any] = [None] * units
    dweights: list[Any] = [None] * units
    dx = dy
    options: dict[str, Any] = {}
    for layer in reversed(range(structure.num_layers)):
        dy, dx = dx, None
        if layer == 0 and not input_grad:
            options["input_grad"] = False
        if dy is not None and layer < structure.num_layers - 1:
            dy = dropped(dy, recorded.masks, layer)
        for direction in range(D):
            unit = layer * D + direction
            dh = dy
            if dy is not None and D == 2:
                dh = np.ascontiguousarray(dy[:, :, direction * R : (direction + 1) * R])
            dstate = None
            if dfinal is not None:
                dstate = of_unit(dfinal, unit)
            dbelow, dinitials[unit], dweights[unit] = bptt(
                structure.cell, saved[unit], dh, dstate, threads=threads, **options
            )
            if dx is None:
                dx = dbelow
            elif dbelow is not None:
                dx += dbelow
    return dx, tuple([np.stack(parts) for parts in zip(*dinitials, strict=True)]), dweights

"""The gradient as a sum over loss steps i and injection steps k: docs/gradients.md, "Expansion"."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bptt.flow.norms import grouped, tables
from bptt.flow.parts import parts_of, rows_of
from bptt.flow.sweep import cleared, scaled, sweep
from bptt.flow.walks import can_walk, walked
from bptt.structure import named, unit_names

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from bptt.arrays import Array
    from bptt.flow.parts import Part
    from bptt.flow.sweep import Moment, StepBack
    from bptt.stack import Pass

#: Bytes that the gradients of the sources taken together may fill: of one step, which should stay in a
#: processor's cache, and of all steps, where a layer hands them to the one below.
STEP_BYTES, LAYER_BYTES = 1 << 17, 1 << 26


class Wanted(NamedTuple):
    """What shall be told of the terms."""

    norms: bool  # the norm of each, and not its entries
    by: str | None  # None for all (i, k); "injection" or "loss" for one sum out of the two
    rows: bool  # of each row of the batch by itself
    parameters: frozenset[str]  # by name


def terms_of(
    back: StepBack,
    walk: Callable[..., None] | None,
    recorded: Pass,
    dy: Array,
    wanted: Wanted,
    threads: int,
) -> dict[str, Array]:
    """Return all terms of a recorded pass, or what is wanted of them.

    Parameters
    ----------
    back : callable
        The ground floor's ``step_back``.
    walk : callable or None
        Its ``walk``, which goes all the way by itself; None if it has none.
    recorded : Pass
    dy : ndarray
        (T, B, D*R).
    wanted : Wanted
    threads : int
        At most so many share a walk.

    Returns
    -------
    dict
        Under the names of the parameters: (T, T), (T,) of `by`, then (B,) of `rows`, then the parameter's
        shape without `norms`. Norms are float64.
    """
    dy = cleared(recorded, dy)
    T, B, _ = dy.shape
    shapes = {
        name: (B,) * wanted.rows + array.shape
        for name, array in named(recorded.structure, (saved.weights for saved in recorded.saved)).items()
        if name in wanted.parameters
    }
    parts = _parts(recorded, wanted)
    # without a loss there are no terms
    steps = np.flatnonzero(dy.any(axis=(1, 2)))
    sources = [steps] if wanted.by == "injection" else [steps[i : i + 1] for i in range(len(steps))]
    most = _sources_together(recorded, wanted, shapes)
    blocks = [sources[first : first + most] for first in range(0, len(sources), most)]
    direct = wanted.norms and wanted.by != "loss"
    groups = [grouped(recorded, of_unit, wanted.rows) for of_unit in parts] if direct else []
    plain = wanted.norms and wanted.by is None and not wanted.rows
    if walk is not None and plain and can_walk(recorded, groups):
        with np.errstate(invalid="ignore", over="ignore"):
            return walked(walk, recorded, dy, steps, groups, most, threads)
    outer = (1 if wanted.by == "injection" else T, *(() if wanted.by == "loss" else (T,)))
    results: dict[str, Array] = {
        name: np.zeros((*outer, *shape[: int(wanted.rows)]))
        if wanted.norms
        else np.zeros((*outer, *shape), dy.dtype)
        for name, shape in shapes.items()
    }
    for block in blocks:
        owner = np.full(T, -1)
        for source, owned in enumerate(block):
            owner[owned] = source
        # a pass may be infinite, and so are its terms then
        with np.errstate(invalid="ignore", over="ignore"):
            moments = sweep(back, recorded, dy, owner.tolist())
            if direct:
                found = tables(moments, recorded, groups, len(block), wanted.rows)
            else:
                found = _entries(moments, recorded, parts, (len(block), *outer[1:]), shapes, wanted)
        where: Any = slice(1) if wanted.by == "injection" else np.concatenate(block)
        for name, array in found.items():
            results[name][where] = array
    return {name: result[0] if wanted.by == "injection" else result for name, result in results.items()}


def _parts(recorded: Pass, wanted: Wanted) -> list[list[Part]]:
    """Return the parts of every unit's parameters."""
    parts = []
    structure = recorded.structure
    for unit, names in enumerate(unit_names(structure.num_layers, structure.directions)):
        fields = dict(zip(recorded.saved[unit].weights._fields, names, strict=True))
        parts.append(parts_of(recorded, unit, {f: n for f, n in fields.items() if n in wanted.parameters}))
    return parts


def _entries(
    moments: Iterable[Moment],
    recorded: Pass,
    parts: list[list[Part]],
    outer: tuple[int, ...],
    shapes: dict[str, tuple[int, ...]],
    wanted: Wanted,
) -> dict[str, Array]:
    """Return the terms of one block of sources, or their sums over all steps; or the norms of those."""
    lead = int(wanted.rows)
    parameters = named(recorded.structure, (saved.weights for saved in recorded.saved))
    sums: dict[str, Array] = {
        name: np.zeros((*outer, *shape), recorded.y.dtype) for name, shape in shapes.items()
    }
    for moment in moments:
        at: Any = moment.sources if wanted.by == "loss" else (moment.sources, moment.t)
        for part in parts[moment.unit]:
            value = _value(part, moment, recorded, parameters[part.name], wanted.rows)
            sums[part.name][at][(slice(None),) * (1 + lead) + (part.rows,)] += scaled(value, moment.exponents)
    return {name: _norms(sum_, lead) if wanted.norms else sum_ for name, sum_ in sums.items()}


def _value(part: Part, moment: Moment, recorded: Pass, parameter: Array, rows: bool) -> Array:
    """Return what a moment adds to the gradient of some rows of a parameter, scaled as it is."""
    d = part.gradient(moment, recorded)
    if part.operand is None:
        value = d if part.factor is None else d * part.factor[moment.t]
        return value if rows else value.sum(axis=1)
    operand = rows_of(part.operand, moment.t, parameter)
    if rows:
        return d[..., np.newaxis] * operand[:, np.newaxis]
    return d.transpose(0, 2, 1) @ operand


def _norms(sums: Array, lead: int) -> Array:
    """Return the Frobenius norms over all but the first axis, and the second with `lead`."""
    flat = sums.reshape(*sums.shape[: 1 + lead], -1)
    largest = np.abs(flat).max(axis=-1, initial=0, keepdims=True).astype(np.float64)
    safe = np.where((largest > 0) & np.isfinite(largest), largest, 1)
    norms: Array = np.sqrt(np.square(flat / safe).sum(axis=-1)) * safe[..., 0]
    return norms


def _sources_together(recorded: Pass, wanted: Wanted, shapes: dict[str, tuple[int, ...]]) -> int:
    """Return how many sources to take back at a time."""
    structure, (T, B, _), size = recorded.structure, recorded.y.shape, recorded.y.dtype.itemsize
    step = B * structure.gates * structure.hidden_size * size
    bounds = [STEP_BYTES // max(1, step)]
    if structure.num_layers > 1:
        bounds.append(LAYER_BYTES // max(1, T * B * structure.output_size * size))
    if wanted.by == "loss":
        bounds.append(LAYER_BYTES // max(1, size * sum(int(np.prod(shape)) for shape in shapes.values())))
    return max(1, int(min(bounds)))

"""Norms of all terms of one layer, by the ground floor's ``walk``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from bptt.arrays import Array, Tokens
    from bptt.flow.norms import Group
    from bptt.stack import Pass


def can_walk(recorded: Pass, groups: list[list[Group]]) -> bool:
    """Return whether the terms of a pass are products with the gradients of the pre-activations alone.

    Parameters
    ----------
    recorded : Pass
    groups : list of list of Group
        Of every unit, of all rows together.

    Returns
    -------
    bool
        Not so of several layers, layer normalisation, projections and peepholes.
    """
    parts = [group.part for of_unit in groups for group in of_unit]
    return recorded.structure.num_layers == 1 and all(
        part.factor is None and part.of in ("da_ih", "da_hh") for part in parts
    )


def walked(
    walk: Callable[..., None],
    recorded: Pass,
    dy: Array,
    steps: Tokens,
    groups: list[list[Group]],
    each: int,
    threads: int,
) -> dict[str, Array]:
    """Return the norms of the terms.

    Parameters
    ----------
    walk : callable
        The ground floor's.
    recorded : Pass
        That `can_walk` takes.
    dy : ndarray
        (T, B, D*R), zero past the ends of rows.
    steps : ndarray
        Indices into time of the losses, ascending.
    groups : list of list of Group
    each : int
        How many losses to take back side by side.
    threads : int

    Returns
    -------
    dict
        Under the names of the parameters, (T, T) of float64.
    """
    T, D, R = len(dy), recorded.structure.directions, recorded.structure.state_size
    result: dict[str, Array] = {}
    for unit, (saved, of_unit) in enumerate(zip(recorded.saved, groups, strict=True)):
        if not of_unit:
            continue
        # in the order in which the unit makes its steps
        reverse = unit % D == 1
        order = steps[::-1] if reverse else steps
        losses = np.ascontiguousarray(dy[order][:, :, unit * R : (unit + 1) * R])
        factors = np.concatenate([group.factors for group in of_unit], axis=1)
        spans = np.array([_span(group) for group in of_unit for _ in range(group.factors.shape[1])], np.int64)
        totals = np.zeros((len(order), T, len(spans)))
        exponents = np.zeros((len(order), T), np.int64)
        at = np.ascontiguousarray(T - 1 - order if reverse else order)
        walk(saved, losses, at, each, factors, spans, totals, exponents, threads=threads)
        powers = exponents.astype(np.int32)[:, :, np.newaxis]
        first = 0
        for group in of_unit:
            assert group.belongs is not None, "rows are together"
            last = first + len(group.belongs)
            norms = np.ldexp(np.sqrt(totals[:, :, first:last] @ group.belongs.astype(np.float64)), powers)
            for column, name in enumerate(group.names):
                one = np.zeros((T, T))
                one[order] = norms[..., column]
                # of several parts, which are norms of their own
                result[name] = np.hypot(result[name], one) if name in result else one
            first = last
    return result


def _span(group: Group) -> tuple[int, int, int]:
    """Return of which of the two gradients a group takes which columns."""
    columns = group.part.columns
    return int(group.part.of == "da_hh"), columns.start, columns.stop

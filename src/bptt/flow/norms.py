"""Frobenius norms of the terms, without the terms themselves.

At one step the term of a matrix is d^T x with d (B, K) and x (B, J). With x^T = Q R, Q having orthonormal
columns, its norm is that of d^T R^T, which has B or J columns, whichever are fewer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bptt.arrays import Array
    from bptt.flow.parts import Part
    from bptt.flow.sweep import Moment
    from bptt.stack import Pass

#: Sums of float32 squares between these have lost nothing to underflow and are finite.
SAFE = (1e-28, 1e37)


class Group(NamedTuple):
    """Parts of one unit that take the same gradient d, whose norms are found together."""

    part: Part  # the first of them
    names: tuple[str, ...]  # of all their parameters, P
    #: (T, M, B): the R of all parts, one upon another; of rows by themselves (T, B, P), squared norms of x.
    factors: Array
    #: (M, P), 1 where a row of R belongs to a part; None of rows by themselves.
    belongs: Array | None


def grouped(recorded: Pass, parts: list[Part], rows: bool) -> list[Group]:
    """Make ready what the norms of the terms of one unit are found from.

    Parameters
    ----------
    recorded : Pass
    parts : list of Part
        Of the unit.
    rows : bool
        Whether rows of the batch are kept apart.

    Returns
    -------
    list of Group
    """
    T, B, _ = recorded.y.shape
    dtype = recorded.y.dtype
    together: dict[Any, list[Part]] = {}
    for number, part in enumerate(parts):
        alone = number if part.factor is not None else None
        together.setdefault((part.of, part.columns.start, part.columns.stop, alone), []).append(part)
    groups = []
    for members in together.values():
        operands: list[Any] = [part.operand for part in members]
        if rows:
            # |d_b x_b^T|^2 = |d_b|^2 |x_b|^2
            one = np.ones((T, B))
            sizes = [one if x is None or x.ndim == 2 else squares(x) for x in operands]
            factors, belongs = np.stack(sizes, axis=2).astype(np.float64), None
        else:
            # the two biases have one R
            distinct = {id(x): x for x in operands}
            same = np.array([[id(x) == key for x in operands] for key in distinct], dtype)
            ones = np.ones((T, 1, B), dtype)
            triangles = [ones if x is None else compressed(x, dtype) for x in distinct.values()]
            factors = np.concatenate(triangles, axis=1)
            belongs = np.repeat(same, [r.shape[1] for r in triangles], axis=0)
        groups.append(Group(members[0], tuple(part.name for part in members), factors, belongs))
    return groups


def tables(
    moments: Iterable[Moment], recorded: Pass, groups: list[list[Group]], sources: int, rows: bool
) -> dict[str, Array]:
    """Return the norms of all terms of some sources.

    Parameters
    ----------
    moments : iterable of Moment
    recorded : Pass
    groups : list of list of Group
        Of every unit.
    sources : int
        How many there are.
    rows : bool
        As for `grouped`.

    Returns
    -------
    dict
        Under the names of the parameters, (sources, T) or (sources, T, B) of float64.
    """
    T, B, _ = recorded.y.shape
    shape = (sources, T, B) if rows else (sources, T)
    # squared norms, and powers of two that the norms are to be multiplied by: the roots are taken at the end
    totals = [[np.zeros((*shape, len(group.names))) for group in of_unit] for of_unit in groups]
    exponents = np.zeros((len(groups), sources, T), np.int32)
    # what is made anew in every step costs more than the product itself
    buffers: dict[tuple[int, int], Array] = {}
    for moment in moments:
        t, where = moment.t, moment.sources
        exponents[moment.unit, where, t] = moment.exponents
        for number, group in enumerate(groups[moment.unit]):
            d = group.part.gradient(moment, recorded)
            if group.part.factor is not None:
                d = d * group.part.factor[t]
            if rows:
                found = squares(d)[:, :, np.newaxis] * group.factors[t]
            else:
                key = (moment.unit, number)
                if key not in buffers:
                    buffers[key] = np.empty((sources, group.factors.shape[1], d.shape[2]), d.dtype)
                product = np.matmul(group.factors[t], d, out=buffers[key][: len(d)])
                found = squares(product, group.belongs)
            totals[moment.unit][number][where, t] = found
    result: dict[str, Array] = {}
    for of_unit, totals_of_unit, powers in zip(groups, totals, exponents, strict=True):
        for group, total in zip(of_unit, totals_of_unit, strict=True):
            table = np.ldexp(np.sqrt(total), powers.reshape(*powers.shape, *(1,) * (total.ndim - 2)))
            for column, name in enumerate(group.names):
                # of several parts, which are norms of their own
                one = table[..., column]
                result[name] = np.hypot(result[name], one) if name in result else one
    return result


def compressed(operand: Any, dtype: Any) -> Array:
    """Return R of x^T = Q R at every step.

    Parameters
    ----------
    operand : ndarray
        (T, B, J), or (T, B) tokens that stand for rows of zeros with a one.
    dtype : dtype
        Of the result.

    Returns
    -------
    ndarray
        (T, min(B, J), B); of tokens (T, B, B).
    """
    if operand.ndim == 2:
        # a row for each token at its first place: the others are orthogonal to it
        same = operand[:, :, np.newaxis] == operand[:, np.newaxis, :]
        first = same.argmax(axis=2) == np.arange(operand.shape[1])
        tokens: Array = (same & first[:, :, np.newaxis]).astype(dtype)
        return tokens
    turned: Array = operand.transpose(0, 2, 1)  # (T, J, B)
    if turned.shape[1] <= turned.shape[2]:
        return np.ascontiguousarray(turned)
    triangles: Any = np.linalg.qr(turned, mode="r")
    return triangles  # type: ignore[no-any-return]


def squares(a: Array, belongs: Array | None = None) -> Array:
    """Return the sums of squares over the last axis, also where those of float32 under- or overflow.

    Parameters
    ----------
    a : ndarray
        (..., M, K).
    belongs : ndarray, optional
        (M, P) of a's dtype: sums over some M together.

    Returns
    -------
    ndarray
        (..., M), or (..., P); float64 where that of float32 doesn't do.
    """
    sums = _squares(a, belongs)
    if a.dtype == np.float64:
        return sums
    if sums.size and not (SAFE[0] < sums.min() and sums.max() < SAFE[1]):  # so for NaN too
        unsafe: Any = ~((sums > SAFE[0]) & (sums < SAFE[1]))
        wide = None
        if belongs is not None:
            unsafe, wide = unsafe.any(axis=-1), belongs.astype(np.float64)
        sums = sums.astype(np.float64)
        sums[unsafe] = _squares(a[unsafe].astype(np.float64), wide)
    return sums


def _squares(a: Array, belongs: Array | None) -> Array:
    sums: Array = np.einsum("...k,...k->...", a, a)
    return sums if belongs is None else sums @ belongs

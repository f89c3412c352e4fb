"""Dropout and zoneout: their masks for one recorded pass, drawn from its seed.

An entry is decided by 16 random bits, so that a rate is in effect the nearest multiple of 2^-16 other than
0 and 1; the factor 1/(1-p) is that of the rate as given. Sources: docs/equations.md, "Dropout and zoneout";
one mask for all time steps, Gal and Ghahramani, 2016; zoneout, Krueger et al., 2017.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bptt.arrays import Noise

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bptt.arrays import Array, Mask
    from bptt.structure import Structure


class Rates(NamedTuple):
    """The shares that are left out, each in [0, 1)."""

    dropout: float = 0.0  # of the entries of y between layers
    recurrent_dropout: float = 0.0  # of the entries of h on their way into W_hh
    zoneout_h: float = 0.0  # of the entries of h that stay as they were
    zoneout_c: float = 0.0


class Masks(NamedTuple):
    """What acts on the units of a stack in one pass, and between its layers."""

    noise: tuple[Noise | None, ...]  # of every unit
    #: (T, B, D*R) for every layer but the last, True where y goes on to the next; none without dropout.
    dropout: tuple[Mask, ...] = ()
    scale: float = 1.0  # what such a y is multiplied by, 1 / (1 - rate)


def zoneouts(zoneout: float | tuple[float, float], structure: Structure) -> tuple[float, float]:
    """Return the rates of zoneout of h and of c, from a layer's option."""
    h, c = zoneout if isinstance(zoneout, tuple) else (zoneout, zoneout)
    return h, c if structure.has_c else 0.0


def mean(structure: Structure, rates: Rates) -> Masks | None:
    """Return what acts in inference, zoneout's mean over all its masks; None for nothing."""
    if not (rates.zoneout_h or rates.zoneout_c):
        return None
    noise = Noise(zoneout_h=rates.zoneout_h, zoneout_c=rates.zoneout_c)
    return Masks((noise,) * (structure.num_layers * structure.directions))


class Draws(NamedTuple):
    """The masks of one pass, to be drawn for any of its time steps."""

    structure: Structure
    rates: Rates
    steps: int  # T
    batch: int  # B
    dtype: np.dtype[Any]
    bits: np.random.PCG64  # where they begin; left alone

    def masks(self, first: int, last: int, units: Sequence[int] | None = None) -> Masks:
        """Return the masks of time steps first..last-1.

        Parameters
        ----------
        first, last : int
        units : sequence of int, optional
            Of which units to draw what `Masks.noise` has, the others are None; and dropout, if there is the
            first direction of a layer among them. Default all.
        """
        return self._read(copy.copy(self.bits), first, last, units)

    def _read(self, bits: np.random.PCG64, first: int, last: int, units: Sequence[int] | None) -> Masks:
        """Read masks from a generator that stands where they begin."""
        structure, rates, T, B = self.structure, self.rates, self.steps, self.batch
        R, H, D = structure.state_size, structure.hidden_size, structure.directions
        reader, noise, dropout = _Reader(bits), [], []
        for layer in range(structure.num_layers):
            for unit in range(layer * D, (layer + 1) * D):
                wanted = any(rates[1:]) and (units is None or unit in units)
                recurrent: Array | None = None
                if rates.recurrent_dropout:
                    gone = reader.true(rates.recurrent_dropout, (1, B, R), 0, 1, wanted)
                    if gone is not None:
                        scale = 1.0 / (1.0 - rates.recurrent_dropout)
                        recurrent = np.multiply(~gone[0], scale, dtype=self.dtype)
                kept_h = reader.true(rates.zoneout_h, (T, B, R), first, last, wanted)
                kept_c = reader.true(rates.zoneout_c, (T, B, H), first, last, wanted)
                found = Noise(recurrent, rates.zoneout_h, rates.zoneout_c, kept_h, kept_c)
                noise.append(found if wanted else None)
            if rates.dropout and layer < structure.num_layers - 1:
                wanted = units is None or layer * D in units
                gone = reader.true(rates.dropout, (T, B, structure.output_size), first, last, wanted)
                dropout.append(np.zeros((0, B, 0), np.bool_) if gone is None else ~gone)
        return Masks(tuple(noise), tuple(dropout), 1.0 / (1.0 - rates.dropout))


def draws(
    structure: Structure, rates: Rates, steps: int, batch: int, dtype: np.dtype[Any], seed: int | None
) -> Draws | None:
    """Choose the masks of one pass; None for nothing.

    Parameters
    ----------
    structure : Structure
    rates : Rates
    steps, batch : int
        T and B.
    dtype : numpy.dtype
        The layer's.
    seed : int or None
        The masks are a function of it and of the sizes; None takes fresh entropy.
    """
    if not any(rates):
        return None
    return Draws(structure, rates, steps, batch, dtype, np.random.PCG64(seed))


def draw(
    structure: Structure, rates: Rates, steps: int, batch: int, dtype: np.dtype[Any], seed: int | None
) -> Masks | None:
    """Draw the masks of one pass, see `draws`; None for nothing."""
    chosen = draws(structure, rates, steps, batch, dtype, seed)
    return None if chosen is None else chosen._read(chosen.bits, 0, steps, None)


class _Reader:
    """The masks that a bit generator gives one after the other, or the wanted parts of them."""

    def __init__(self, bits: np.random.PCG64) -> None:
        self._bits = bits

    def true(self, rate: float, shape: tuple[int, ...], first: int, last: int, wanted: bool) -> Mask | None:
        """Return entries first..last-1 of a mask of this shape, True with probability `rate`.

        The rate is the nearest multiple of 2^-16 between 0 and 1. Nothing is read for a rate of 0; of a mask
        that isn't wanted the words are passed over.
        """
        if not rate:
            return None
        each = int(np.prod(shape[1:]))
        words = (shape[0] * each + 3) // 4
        if not wanted:
            self._bits.advance(words)
            return None
        begin, end = first * each, last * each
        threshold = min(max(round(rate * 65536), 1), 65535)
        # The generator's own words cut in four: half the time of Generator.integers, 0.4 ns an entry.
        skip, stop = begin // 4, (end + 3) // 4
        if skip:
            self._bits.advance(skip)
        drawn: Any = self._bits.random_raw(stop - skip)
        if stop < words:
            self._bits.advance(words - stop)
        cut = drawn.view(np.uint16)[begin - 4 * skip : end - 4 * skip]
        mask: Mask = cut < np.uint16(threshold)
        return mask.reshape(last - first, *shape[1:])

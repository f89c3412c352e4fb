"""Dropout and zoneout: their masks for one recorded pass, drawn from its seed.

An entry is decided by 16 random bits, so that a rate is in effect the nearest multiple of 2^-16 other than
0 and 1; the factor 1/(1-p) is that of the rate as given. Sources: docs/equations.md, "Dropout and zoneout";
one mask for all time steps, Gal and Ghahramani, 2016; zoneout, Krueger et al., 2017.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bptt.arrays import Noise

if TYPE_CHECKING:
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


def draw(
    structure: Structure, rates: Rates, steps: int, batch: int, dtype: np.dtype[Any], seed: int | None
) -> Masks | None:
    """Draw the masks of one pass; None for nothing.

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
    bits = np.random.PCG64(seed)
    T, B, R, H = steps, batch, structure.state_size, structure.hidden_size
    noise: list[Noise | None] = []
    dropout: list[Mask] = []
    for layer in range(structure.num_layers):
        for _ in range(structure.directions):
            recurrent: Array | None = None
            if rates.recurrent_dropout:
                kept = ~_true(bits, rates.recurrent_dropout, (B, R))
                recurrent = np.multiply(kept, 1.0 / (1.0 - rates.recurrent_dropout), dtype=dtype)
            kept_h = _true(bits, rates.zoneout_h, (T, B, R)) if rates.zoneout_h else None
            kept_c = _true(bits, rates.zoneout_c, (T, B, H)) if rates.zoneout_c else None
            unit = Noise(recurrent, rates.zoneout_h, rates.zoneout_c, kept_h, kept_c)
            noise.append(unit if any(rates[1:]) else None)
        if rates.dropout and layer < structure.num_layers - 1:
            dropout.append(~_true(bits, rates.dropout, (T, B, structure.output_size)))
    return Masks(tuple(noise), tuple(dropout), 1.0 / (1.0 - rates.dropout))


def _true(bits: np.random.BitGenerator, rate: float, shape: tuple[int, ...]) -> Mask:
    """Return a mask, True with probability `rate`: the nearest multiple of 2^-16 between 0 and 1."""
    size = int(np.prod(shape))
    threshold = min(max(round(rate * 65536), 1), 65535)
    # The generator's own words cut in four: half the time of Generator.integers, 0.4 ns an entry.
    words: Any = bits.random_raw((size + 3) // 4)
    mask: Mask = words.view(np.uint16)[:size] < np.uint16(threshold)
    return mask.reshape(shape)

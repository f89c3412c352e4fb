"""How many bytes a checkpointed pass takes: what is there all the time, a kept state, a taped time step.

The working memory of the ground floor is counted as that of the compiled kernels, with every array of
theirs at its largest. Source of the terms: docs/gradients.md, "Checkpoints".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from bptt.noise import Rates
    from bptt.structure import Structure

#: Rows (t, b) of one chunk of the kernels' sums, if a time step has not more.
CHUNK = 256
#: Rows of pre-activations that the kernels compute ahead of a W_ih that is large, else a third of it.
AHEAD, LARGE = 384, 200_000
#: Numbers of a float32 matrix from which the kernels may take operands of its gradients as whole numbers for
#: the AMX unit (of three bytes and some units), and from which they may pack it as such (for so many rows).
SPLIT, BYTES, DIGITS, DIGITS_ROWS = 10_000, 3.25, 16_000, 224
#: Batch rows that they take through time together.
TOGETHER = 96
#: Batch rows whose sums are one with layer normalisation, at least.
SUMMED = 4
#: Numbers by which they lengthen a row at most.
PADDING = 64
#: Bytes of Python objects: of all that there is once, and of one state.
OBJECTS, OBJECTS_OF_STATE = 1 << 16, 512


class Situation(NamedTuple):
    """What of a pass matters to its memory beside `Structure`."""

    steps: int  # T
    batch: int  # B
    itemsize: int  # bytes of a number
    tokens: bool
    ragged: bool  # lengths
    reset: bool
    rates: Rates
    copied: bool  # pieces of x, y and dy have to be copied
    chunks: int
    threads: int


class Costs(NamedTuple):
    """Bytes."""

    fixed: int
    state: int  # of all units, kept between two pieces
    step: int  # of a time step that is taped and taken back
    dy: int  # of a time step's dL/dy, where it is copied and `step` doesn't count that
    dx: int  # of a time step's dL/dx in a window, which is added to the caller's


def costs(structure: Structure, now: Situation) -> Costs:
    """Count the memory of a checkpointed pass.

    Parameters
    ----------
    structure : Structure
    now : Situation
    """
    z, B, D = now.itemsize, now.batch, structure.directions
    units = structure.num_layers * D
    states = sum(structure.state_sizes)
    state = units * (B * states * z + OBJECTS_OF_STATE)
    weights = sum(_weights(structure, unit, now.tokens, z) for unit in range(units))
    scratch = max(_scratch(structure, unit, now) for unit in range(units))
    fixed = OBJECTS + 64 * now.chunks + 9 * state + (weights + scratch) * z
    if now.reset:
        fixed += D * now.steps * B
    if D == 2 and structure.num_layers > 1:
        # y of all layers but the last, dy and dx of one
        fixed += (structure.num_layers + 1) * now.steps * B * structure.output_size * z
    lanes = [range(units)] if D == 1 else [range(unit, unit + 1) for unit in range(units)]
    step = max(_step(structure, lane, now) for lane in lanes)
    dy = 0 if now.copied or D == 2 else B * structure.output_size * z
    dx = 0 if now.tokens else B * structure.input_size * z
    return Costs(int(fixed), int(state), step, dy, dx)


def _sizes(structure: Structure, unit: int) -> tuple[int, int, int, int, int]:
    """Return I, H, R, S and N = G*H of a unit: what the kernels call so. W_hh h has at most N columns."""
    H = structure.hidden_size
    I = structure.input_size if unit < structure.directions else structure.output_size
    S = H if structure.gates == 1 else 4 * H
    return I, H, structure.state_size, S, structure.gates * H


def _weights(structure: Structure, unit: int, tokens: bool, itemsize: int) -> int:
    """Return the numbers in a unit's packed weights, for both ways, and in its gradients."""
    I, H, R, _, N = _sizes(structure, unit)
    own = N * (I + R + 4) + R * H + 3 * H
    packed = (N + PADDING) * (I + R + 4) + (R + PADDING) * H
    back = N * (I + PADDING) + N * (R + PADDING) + (H + PADDING) * (R + H) + 7 * N + 3 * H
    tables = 2 * N * I + I * (N + PADDING) if tokens and unit < structure.directions else 0
    if itemsize == 4 and N * max(I, R) >= DIGITS:
        # forwards what they take more than panels; backwards beside panels
        packed += max(_digits(I, N) - N * I, 0) + max(_digits(R, N) - N * R, 0)
        back += _digits(N, I) + _digits(N, R)
    return own + packed + back + tables


def _digits(K: int, N: int) -> int:
    """Return the numbers in a (K, N) matrix as kernels/_columns.h packs it: three bytes and a little each."""
    padded = -(-K // 64) * 64
    return padded + -(-N // 16) * (80 + 12 * padded)


def _digits_of_rows(K: int) -> int:
    """Return the numbers in the digits of rows of K that meet it."""
    return DIGITS_ROWS * (-(-K // 64) * 48 + 16) + K + 96


def _scratch(structure: Structure, unit: int, now: Situation) -> int:
    """Return the numbers in the kernels' working memory for a unit, on the way there or back."""
    I, H, R, S, N = _sizes(structure, unit)
    B, C = now.batch, max(CHUNK, now.batch)
    rows = min(B, TOGETHER)
    ahead = max(AHEAD if I * N >= LARGE else AHEAD // 3, rows)
    apart = now.ragged or now.reset or any(now.rates[1:])
    tokens = now.tokens and unit < structure.directions
    normal = 2 * N if structure.layer_norm else 0
    there = (ahead * S if apart or structure.gates > 1 else 0) + rows * (2 * H + N + R)
    # of several threads some begin the next chunk's recurrence while others are at the last one's products
    sets = 2 if now.threads > 1 else 1
    back = B * (R + H) + sets * C * (S + normal) + S + N + (C * (S + normal) if S > CHUNK else 0)
    back += sets * C * ((R if structure.proj_size else 0) + H)
    if structure.layer_norm:
        # sums over some rows each, in double
        back += sets * -(-B // SUMMED) * (S + 2 * N) * 8 // now.itemsize
    worker = CHUNK * PADDING + 3 * rows * (R + H)
    if now.itemsize == 4 and N * max(I, R) >= SPLIT:
        # a panel of x or h; all of da
        worker += int(BYTES / 4 * (C + PADDING) * PADDING)
        back += int(BYTES / 4 * (C + PADDING) * (S + normal + PADDING))
    if now.itemsize == 4 and N * max(I, R) >= DIGITS:
        there += _digits_of_rows(max(I, R))
        worker += 2 * _digits_of_rows(N)
    if apart:
        there += ahead * ((0 if tokens else I) + N + 1) + rows * (3 * R + 2 * H + N + 1)
        back += sets * C * (R + (2 if tokens else I)) + (0 if tokens else C * I)
    return max(now.threads * there, now.threads * worker + back)


def _step(structure: Structure, lane: range, now: Situation) -> int:
    """Return the bytes of a time step in the units that are taped at once."""
    z, B, rates = now.itemsize, now.batch, now.rates
    numbers = masks = 0
    widest = 0
    for unit in lane:
        I, H, R, S, N = _sizes(structure, unit)
        numbers += R + (H if structure.has_c else 0) + (S if structure.gates > 1 else 0)
        numbers += 2 * N + 2 if structure.layer_norm else 0
        # of each mask its entries, the random words they come of, and a copy in the other order
        masks += 4 * ((R if rates.zoneout_h else 0) + (H if rates.zoneout_c else 0))
        if rates.dropout and unit != lane[-1]:
            numbers, masks = numbers + R, masks + 4 * R
        # dx of the lowest unit is the caller's too
        into = 0 if structure.directions == 1 and unit == lane[0] else I
        into = 0 if now.tokens and unit < structure.directions else into
        # dy of the last unit is the caller's
        widest = max(widest, into if unit == lane[-1] else into + R + (R if rates.dropout else 0))
    I, R = _sizes(structure, lane[0])[0], structure.state_size
    turned = structure.directions == 2
    if now.copied or turned:
        numbers += (0 if now.tokens else I) + 2 * R
    if turned:
        numbers += (0 if now.tokens else I) + R
    bytes_of_tokens = 16 * B if now.tokens else 0
    return B * (numbers + widest) * z + B * masks + bytes_of_tokens + 2 * B + 32

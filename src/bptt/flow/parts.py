"""What the gradient of each parameter is a sum of products of: docs/equations.md, from "Backward" on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bptt.flow.sweep import cleared

if TYPE_CHECKING:
    from bptt.arrays import Array, Tokens
    from bptt.flow.sweep import Moment
    from bptt.interface import Saved
    from bptt.stack import Pass

#: What is added to the variance in layer normalisation.
EPSILON = 1e-5


class Part(NamedTuple):
    """Some rows of a parameter, and what their gradient is made of at every step.

    With d the gradient that `of` names, (B, K): of a matrix d^T operand, of a vector Σ_b d * factor.
    """

    name: str  # of the parameter
    rows: slice  # which
    of: str  # attribute of `Moment`, or "dh_made"
    columns: slice  # of that gradient
    operand: Array | Tokens | None = None  # of a matrix: (T, B, J), or tokens (T, B) that stand for such rows
    factor: Array | None = None  # (T, B, K), of a vector; ones if there is none

    def gradient(self, moment: Moment, recorded: Pass) -> Array:
        """Return d, (n, B, K), scaled as the moment is."""
        if self.of == "dh_made":
            return made(moment, recorded)
        gradient: Array = getattr(moment, self.of)[:, :, self.columns]
        return gradient


def made(moment: Moment, recorded: Pass) -> Array:
    """Return the gradient with respect to what the cell makes for h, before zoneout; (n, B, R)."""
    masks = recorded.masks
    noise = None if masks is None else masks.noise[moment.unit]
    if noise is None or noise.kept_h is None:
        return moment.dh
    proposed: Array = moment.dh * ~noise.kept_h[moment.t]
    return proposed


def parts_of(recorded: Pass, unit: int, names: dict[str, str]) -> list[Part]:
    """Return the parts of the parameters of one unit.

    Parameters
    ----------
    recorded : Pass
    unit : int
    names : dict
        What a field of `Weights` is called among the parameters of the layer; others are left out.

    Returns
    -------
    list of Part
        In the order of the fields. Operands and factors are zero past a row's end.
    """
    saved: Saved = recorded.saved[unit]
    weights, cell = saved.weights, recorded.structure.cell
    GH, H = len(weights.weight_hh), recorded.structure.hidden_size
    masked = _before(recorded, unit, 0)
    masks = recorded.masks
    noise = None if masks is None else masks.noise[unit]
    if noise is not None and noise.dropout is not None:
        masked = masked * noise.dropout
    x = saved.x if saved.x.ndim == 2 else cleared(recorded, saved.x)
    every = slice(0, GH)
    # without layer normalisation p, W_ih x, q and W_hh h have one gradient, but for a GRU's, whose r is in
    # between
    normal = weights.weight_ln_ih is not None
    q = "da_hh" if cell == "gru" else "da_ih"
    ih, hh = ("d_ih", "d_hh") if normal else ("da_ih", q)
    parts = {
        "weight_ih": [Part("", every, ih, every, operand=x)],
        "weight_hh": [Part("", every, hh, every, operand=masked)],
        "bias_ih": [Part("", every, "da_ih", every)],
        "bias_hh": [Part("", every, q, every)],
    }
    if cell == "gru_reset_before":
        gates, n = slice(0, 2 * H), slice(2 * H, 3 * H)
        parts["weight_hh"] = [
            Part("", gates, hh, gates, operand=masked),
            Part("", n, hh, n, operand=saved.gates["r"] * masked),
        ]
    if cell == "lstm":
        parts |= _lstm_parts(recorded, unit)
    if normal:
        u = np.ascontiguousarray(weights.weight_ih.T)
        for field, of, product in (
            ("weight_ln_ih", "da_ih", u[_known(x, len(u))] if x.ndim == 2 else x @ u),
            ("weight_ln_hh", q, masked @ weights.weight_hh.T),
        ):
            parts[field] = [Part("", every, of, every, factor=_normalised(product))]
    return [
        part._replace(name=names[field])
        for field in weights._fields
        if getattr(weights, field) is not None and field in names
        for part in parts[field]
    ]


def _lstm_parts(recorded: Pass, unit: int) -> dict[str, list[Part]]:
    """Return the parts of the projection and of the peepholes."""
    saved, H = recorded.saved[unit], recorded.structure.hidden_size
    i, f, g, o = (saved.gates[name] for name in "ifgo")
    before = _before(recorded, unit, 1)
    made = f * before + i * g
    h = slice(0, recorded.structure.state_size)
    projection = [Part("", h, "dh_made", h, operand=o * np.tanh(made))]
    peepholes = [
        Part("", slice(row * H, (row + 1) * H), "da_ih", slice(gate * H, (gate + 1) * H), factor=factor)
        for row, (gate, factor) in enumerate(((0, before), (1, before), (3, made)))
    ]
    return {"weight_hr": projection, "weight_ph": peepholes}


def rows_of(operand: Any, t: int, like: Array) -> Array:
    """Return the operand of a matrix at one step, (B, J); J is the second size of `like`, the matrix."""
    if operand.ndim == 3:
        entries: Array = operand[t]
        return entries
    rows = np.zeros((operand.shape[1], like.shape[1]), like.dtype)
    rows[np.arange(len(rows)), _known(operand[t], like.shape[1])] = 1
    return rows


def _known(tokens: Any, count: int) -> Tokens:
    """Return token ids in range; past a row's end there may be others."""
    known: Tokens = np.clip(tokens, 0, count - 1)
    return known


def _before(recorded: Pass, unit: int, part: int) -> Array:
    """Return h (part 0) or c (part 1) before every step, (T, B, ...); zero past a row's end."""
    saved = recorded.saved[unit]
    after = saved.y if part == 0 else saved.c
    assert after is not None, "c of a cell that has none"
    initial = saved.state[part]
    before = np.empty_like(after)
    reset = recorded.reset
    if unit % recorded.structure.directions == 1:
        before[:-1], before[-1:] = after[1:], initial
        if reset is not None:
            # going back, a row that is cut before step t begins again at step t - 1
            np.copyto(before[:-1], initial, where=reset[1:, :, np.newaxis])
        if recorded.lengths is not None:
            (rows,) = np.nonzero(recorded.lengths)
            before[recorded.lengths[rows] - 1, rows] = initial[rows]
    else:
        before[1:], before[:1] = after[:-1], initial
        if reset is not None:
            np.copyto(before, initial, where=reset[:, :, np.newaxis])
    return cleared(recorded, before)


def _normalised(product: Array) -> Array:
    """Return LN of a product, (T, B, G*H)."""
    centred = product - product.mean(axis=2, keepdims=True)
    variance = (centred * centred).mean(axis=2, keepdims=True)
    result: Array = centred / np.sqrt(variance + product.dtype.type(EPSILON))
    return result

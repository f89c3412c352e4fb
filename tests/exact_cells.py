"""Every cell and option in 50-digit arithmetic, written apart from the package.

Arrays of mpmath numbers, all batch rows at once; a row's steps are numbered as it takes them. With 50 digits
a difference over 1e-15 is a derivative to about 30 digits, so that gradients can be checked to the last bits
of float64, at the kinks of relu too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import mpmath
import numpy as np

from bptt.arrays import Noise, Weights

#: Decimal digits of every computation here.
DIGITS = 50
STEP = mpmath.mpf(10) ** -15

exact = np.vectorize(mpmath.mpf, otypes=[object])
_tanh = np.vectorize(mpmath.tanh, otypes=[object])
_exp = np.vectorize(mpmath.exp, otypes=[object])
_sqrt = np.vectorize(mpmath.sqrt, otypes=[object])


def _sigmoid(z: Any) -> Any:
    return 1 / (1 + _exp(-z))


_ACTIVATIONS: dict[str, Any] = {
    "tanh": _tanh,
    "sigmoid": _sigmoid,
    "relu": lambda z: np.where(z > 0, z, 0 * z),
    "identity": lambda z: z,
}


class Result(NamedTuple):
    """What a pass gives; object arrays of exact numbers."""

    y: Any  # (T, B, R)
    c: Any  # (T, B, H), or None
    gates: dict[str, Any]  # (T, B, H)
    final: tuple[Any, ...]


def _half(x: Any, weight: Any, bias: Any, gain: Any) -> Any:
    """LN(x W^T) gain + b of rows x (B, K)."""
    u = x @ weight.T
    if gain is not None:
        n = u.shape[1]
        u = u - (u.sum(axis=1) / n)[:, np.newaxis]
        variance = (u * u).sum(axis=1) / n
        u = u / _sqrt(variance + mpmath.mpf(1e-5))[:, np.newaxis] * gain
    return u if bias is None else u + bias


def _propose(cell: str, x: Any, h: Any, c: Any, w: Weights, m: Any) -> tuple[Any, Any, dict[str, Any]]:
    """h~, c~ and the gates of one step of all rows."""
    hm = h if m is None else h * m
    p = _half(x, w.weight_ih, w.bias_ih, w.weight_ln_ih)
    if cell == "gru_reset_before":
        H = h.shape[1]
        W_r, W_z, W_n = w.weight_hh.reshape(3, H, H)
        b_r, b_z, b_n = (0, 0, 0) if w.bias_hh is None else w.bias_hh.reshape(3, H)
        p_r, p_z, p_n = np.split(p, 3, axis=1)
        r, z = _sigmoid(p_r + hm @ W_r.T + b_r), _sigmoid(p_z + hm @ W_z.T + b_z)
        n = _tanh(p_n + (r * hm) @ W_n.T + b_n)
        return n - z * n + z * h, None, {"r": r, "z": z, "n": n}
    q = _half(hm, w.weight_hh, w.bias_hh, w.weight_ln_hh)
    if cell == "gru":
        (p_r, p_z, p_n), (q_r, q_z, q_n) = np.split(p, 3, axis=1), np.split(q, 3, axis=1)
        r, z = _sigmoid(p_r + q_r), _sigmoid(p_z + q_z)
        n = _tanh(p_n + r * q_n)
        return n - z * n + z * h, None, {"r": r, "z": z, "n": n}
    if cell == "lstm":
        w_i, w_f, w_o = (0, 0, 0) if w.weight_ph is None else w.weight_ph.reshape(3, -1)
        z_i, z_f, z_g, z_o = np.split(p + q, 4, axis=1)
        i, f, g = _sigmoid(z_i + w_i * c), _sigmoid(z_f + w_f * c), _tanh(z_g)
        c_new = f * c + i * g
        o = _sigmoid(z_o + w_o * c_new)
        h_new = o * _tanh(c_new)
        if w.weight_hr is not None:
            h_new = h_new @ w.weight_hr.T
        return h_new, c_new, {"i": i, "f": f, "g": g, "o": o}
    return _ACTIVATIONS[cell](p + q), None, {}


def _stay(before: Any, new: Any, rate: float, kept: Any) -> Any:
    if kept is None:
        share = mpmath.mpf(rate)
        return share * before + (1 - share) * new
    return np.where(kept, before, new)


def index(T: int, B: int, lengths: Any, reverse: bool) -> Any:
    """Where in time the s-th step of each row is: (T, B) integers; -1 where it has no such step."""
    lengths = np.full(B, T) if lengths is None else np.asarray(lengths)
    s = np.arange(T)[:, np.newaxis]
    at = lengths - 1 - s if reverse else s + 0 * lengths
    return np.where(s < lengths, at, -1)


def forward(
    cell: str,
    x: Any,
    state: Sequence[Any],
    weights: Weights | list[Weights],
    *,
    lengths: Any = None,
    reset: Any = None,
    reverse: bool = False,
    noise: Noise | None = None,
) -> Result:
    """Run a layer whose parameters are exact; a list of them is one set for each step as it is taken."""
    T, B = x.shape[:2]
    copies = weights if isinstance(weights, list) else [weights] * T
    noise = Noise() if noise is None else noise
    start = [part.copy() for part in state]
    now = [part.copy() for part in state]
    history = [exact(np.zeros((T, *part.shape))) for part in state]
    gates: dict[str, Any] = {}
    for s, at in enumerate(index(T, B, lengths, reverse)):
        rows = np.flatnonzero(at >= 0)
        if not len(rows):
            break
        when = at[rows]
        if reset is not None:
            again = rows[reset[when, rows]]
            for part, first in zip(now, start, strict=True):
                part[again] = first[again]
        w = copies[s]
        x_s = x[when, rows] if x.ndim == 3 else exact(np.eye(w.weight_ih.shape[1]))[x[when, rows]]
        before = [part[rows] for part in now]
        m = None if noise.dropout is None else exact(noise.dropout[rows])
        *proposed, fresh = _propose(cell, x_s, before[0], before[-1], w, m)
        rates = (noise.zoneout_h, noise.zoneout_c)
        masks = [None if kept is None else kept[when, rows] for kept in (noise.kept_h, noise.kept_c)]
        for n, part in enumerate(now):
            part[rows] = _stay(before[n], proposed[n], rates[n], masks[n])
            history[n][when, rows] = part[rows]
        for name, gate in fresh.items():
            gates.setdefault(name, exact(np.zeros((T, B, gate.shape[1]))))[when, rows] = gate
    return Result(history[0], history[1] if len(history) > 1 else None, gates, tuple(now))

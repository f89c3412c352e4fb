"""Every cell with every option in float64 NumPy, all rows of a batch at once, written apart from the package.

One direction of one layer, for large shapes. Rows are looked at in the order in which they take their steps:
step s of row b stands at time s, or at length - 1 - s in reverse.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
from numpy_rnn import DERIVATIVE, F


class Steps:
    """A problem in float64, its arrays (T, B, ...) in the order of the steps; past a row's end they are 0."""

    def __init__(self, p):
        self.cell, self.depth, self.dtype = p.cell, p.depth, np.float64
        self.T, self.B = p.x.shape[:2]
        self.w = SimpleNamespace(**{name: wide(value) for name, value in p.weights._asdict().items()})
        lengths = p.options.get("lengths", np.full(self.B, self.T))
        s = np.arange(self.T)[:, np.newaxis]
        self.alive = s < lengths  # (T, B)
        self.last = s == lengths - 1
        self.at = np.where(self.alive, lengths - 1 - s, 0) if p.options.get("reverse") else s + 0 * lengths
        self.state = [wide(part) for part in p.state]
        self.x = self.ordered(np.eye(p.weights.weight_ih.shape[1])[p.x] if p.x.ndim == 2 else p.x)
        self.dy = np.zeros((self.T, *p.state[0].shape)) if p.dy is None else self.ordered(p.dy)
        given = p.dfinal or [None] * len(self.state)
        self.dfinal = [
            np.zeros_like(like) if d is None else wide(d) for d, like in zip(given, self.state, strict=True)
        ]
        reset = p.options.get("reset")
        self.starts = np.zeros((self.T, self.B), bool) if reset is None else self.ordered(reset).astype(bool)
        self.starts[:1] = True
        noise = p.options.get("noise")
        self.mask = 1.0 if noise is None or noise.dropout is None else wide(noise.dropout)
        #: For h and c what of it stays as it was, at every step: an array of 0 and 1, or a rate
        self.stays = [0.0 if noise is None else noise.zoneout_h, 0.0 if noise is None else noise.zoneout_c]
        for n, kept in enumerate(() if noise is None else (noise.kept_h, noise.kept_c)):
            if kept is not None:
                self.stays[n] = self.ordered(kept)

    def ordered(self, array):
        taken = np.take_along_axis(array, self.at.reshape(*self.at.shape, *[1] * (array.ndim - 2)), axis=0)
        return np.where(self.alive.reshape(self.at.shape + (1,) * (array.ndim - 2)), wide(taken), 0.0)

    def by_time(self, array):
        """The other way round."""
        result = np.zeros_like(array)
        s, b = np.nonzero(self.alive)
        result[self.at[s, b], b] = array[s, b]
        return result

    def staying(self, n, s):
        """What of h (n = 0) or c (n = 1) stays as it was at step s."""
        share = self.stays[n]
        return share[s] if isinstance(share, np.ndarray) else share


def wide(array):
    return None if array is None else array.astype(np.float64)


def normalised(v, gain):
    """Return LN(v) gain, LN(v) and its 1 / sqrt(variance + 1e-5); v where there is no gain."""
    if gain is None:
        return v, None, None
    rate = 1 / np.sqrt(v.var(axis=1, keepdims=True) + 1e-5)
    normal = (v - v.mean(axis=1, keepdims=True)) * rate
    return normal * gain, normal, rate


def normalised_backward(d, gain, normal, rate, dw, name):
    if gain is None:
        return d
    dw[name] += (d * normal).sum(0)
    d = d * gain
    return rate * (d - d.mean(axis=1, keepdims=True) - normal * (d * normal).mean(axis=1, keepdims=True))


def step(q, s, state):
    """One time step of all rows: h~ and c~ as `new`, and what goes with them."""
    w, h = q.w, state[0]
    H = w.weight_ih.shape[0] // {"lstm": 4, "gru": 3, "gru_reset_before": 3}.get(q.cell, 1)
    masked = q.mask * h
    a, *at_a = normalised(q.x[s] @ w.weight_ih.T, w.weight_ln_ih)
    b, *at_b = normalised(masked @ w.weight_hh.T, w.weight_ln_hh)
    a = a if w.bias_ih is None else a + w.bias_ih
    b = b if w.bias_hh is None else b + w.bias_hh
    made = SimpleNamespace(h=h, masked=masked, at_a=at_a, at_b=at_b, gates={})
    gate = lambda v, k: v[:, k * H : (k + 1) * H]  # noqa: E731
    sigmoid = F["sigmoid"]
    if q.cell in F:
        made.new = [F[q.cell](a + b)]
    elif q.cell == "lstm":
        z, c = a + b, state[1]
        w_i, w_f, w_o = np.split(np.zeros(3 * H) if w.weight_ph is None else w.weight_ph, 3)
        i, f, g = sigmoid(gate(z, 0) + w_i * c), sigmoid(gate(z, 1) + w_f * c), np.tanh(gate(z, 2))
        made.c, made.new_c = c, f * c + i * g
        o = sigmoid(gate(z, 3) + w_o * made.new_c)
        made.e = o * np.tanh(made.new_c)
        made.new = [made.e if w.weight_hr is None else made.e @ w.weight_hr.T, made.new_c]
        made.gates, made.peepholes = {"i": i, "f": f, "g": g, "o": o}, (w_i, w_f, w_o)
    else:
        r, z = sigmoid(gate(a, 0) + gate(b, 0)), sigmoid(gate(a, 1) + gate(b, 1))
        made.q_n = gate(b, 2)
        if q.cell == "gru":
            n = np.tanh(gate(a, 2) + r * made.q_n)
        else:
            b_hn = 0.0 if w.bias_hh is None else w.bias_hh[2 * H :]
            n = np.tanh(gate(a, 2) + (r * masked) @ w.weight_hh[2 * H :].T + b_hn)
        made.new, made.gates = [(1 - z) * n + z * h], {"r": r, "z": z, "n": n}
    return made


def forward(p):
    """Return y, c, gates by name, all (T, B, ...), and the final state."""
    q, state, history = Steps(p), [], []
    for s in range(q.T):
        before = [start(q, s, part, n) for n, part in enumerate(state or q.state)]
        made = step(q, s, before)
        new = [
            q.staying(n, s) * old + (1 - q.staying(n, s)) * part
            for n, (old, part) in enumerate(zip(before, made.new, strict=True))
        ]
        alive = q.alive[s][:, np.newaxis]
        state = [np.where(alive, part, old) for part, old in zip(new, state or q.state, strict=True)]
        history.append({"h": state[0], "c": state[-1], **made.gates})
    past = ~q.alive[:, :, np.newaxis]
    over_time = {
        name: q.by_time(np.where(past, 0.0, np.array([at[name] for at in history])))
        for name in (history[0] if history else ())
    }
    y = over_time.pop("h", np.zeros((q.T, *q.state[0].shape)))
    return y, over_time.pop("c", None), over_time, state or q.state


def start(q, s, part, n):
    return np.where(q.starts[s][:, np.newaxis], q.state[n], part)


def step_backward(q, s, made, slope, dstate, dw):
    """Return dL/dx_t and dL/dstate_{t-1} from dL/dh~ and dL/dc~; add the parameters' gradients to dw."""
    w, dh = q.w, dstate[0]
    straight, dmasked = 0.0, 0.0
    if q.cell in F:
        da = db = dh * slope
    elif q.cell == "lstm":
        i, f, g, o = made.gates.values()
        w_i, w_f, w_o = made.peepholes
        de = dh
        if w.weight_hr is not None:
            dw["weight_hr"] += dh.T @ made.e
            de = dh @ w.weight_hr
        tanh_c = np.tanh(made.new_c)
        dz_o = de * tanh_c * o * (1 - o)
        dc = dstate[1] + de * o * (1 - tanh_c**2) + dz_o * w_o
        dz_i, dz_f, dz_g = dc * g * i * (1 - i), dc * made.c * f * (1 - f), dc * i * (1 - g * g)
        if w.weight_ph is not None:
            terms = [dz_i * made.c, dz_f * made.c, dz_o * made.new_c]
            dw["weight_ph"] += np.concatenate(terms, axis=1).sum(0)
        da = db = np.concatenate([dz_i, dz_f, dz_g, dz_o], axis=1)
        dc = dc * f + dz_i * w_i + dz_f * w_f
    else:
        r, z, n = made.gates.values()
        dz_z, dz_n, straight = dh * (made.h - n) * z * (1 - z), dh * (1 - z) * (1 - n * n), dh * z
        H = r.shape[1]
        if q.cell == "gru":
            dz_r, dq_n = dz_n * made.q_n * r * (1 - r), dz_n * r
        else:
            ds = dz_n @ w.weight_hh[2 * H :]
            dw["weight_hh"][2 * H :] += dz_n.T @ (r * made.masked)
            dz_r, dmasked, dq_n = ds * made.masked * r * (1 - r), ds * r, dz_n
        da = np.concatenate([dz_r, dz_z, dz_n], axis=1)
        db = np.concatenate([dz_r, dz_z, dq_n], axis=1)
    for name, d in (("bias_ih", da), ("bias_hh", db)):
        if getattr(w, name) is not None:
            dw[name] += d.sum(0)
    da = normalised_backward(da, w.weight_ln_ih, *made.at_a, dw, "weight_ln_ih")
    db = normalised_backward(db, w.weight_ln_hh, *made.at_b, dw, "weight_ln_hh")
    if q.cell == "gru_reset_before":
        db[:, 2 * H :] = 0.0  # W_hn has had its share
    dw["weight_ih"] += da.T @ q.x[s]
    dw["weight_hh"] += db.T @ made.masked
    dh = (db @ w.weight_hh + dmasked) * q.mask + straight
    return da @ w.weight_ih, [dh] if q.cell != "lstm" else [dh, dc]


def backward(p, y, c=None):
    """Gradients by name at the states y and c: chain by chain, from loss step i back to step k > i - depth.

    The states are those of the implementation under test: a relu whose argument rounds to the other side of 0
    has another derivative, which is no error of the backward pass.
    """
    q = Steps(p)
    states = [q.ordered(part) for part in (y, c) if part is not None]
    dw = {name: np.zeros_like(value) for name, value in vars(q.w).items() if value is not None}
    dx, dstart = np.zeros(q.x.shape), [np.zeros_like(part) for part in q.state]
    zeros = [np.zeros_like(part) for part in q.state]
    made = []
    for s in range(q.T):
        before = [start(q, s, part[s - 1], n) for n, part in enumerate(states)]
        made.append(step(q, s, before))

    def back(s, d, starts_count):
        """One step of a chain; what goes on to the step before."""
        alive = q.alive[s][:, np.newaxis]
        d = [np.where(alive, part, 0.0) for part in d]
        through = [q.staying(n, s) * part for n, part in enumerate(d)]
        d = [part - kept for part, kept in zip(d, through, strict=True)]
        slope = DERIVATIVE[q.cell](states[0][s]) if q.cell in F else None
        dx_s, before = step_backward(q, s, made[s], slope, d, dw)
        dx[s] += dx_s
        before = [part + kept for part, kept in zip(before, through, strict=True)]
        at_start = q.starts[s][:, np.newaxis]
        for total, part in zip(dstart, before, strict=True):
            total += np.where(at_start, part, 0.0) * starts_count
        return [np.where(at_start, 0.0, part) for part in before]

    def ending(s):
        """The final state's gradients of the rows whose last step this is."""
        return [np.where(q.last[s][:, np.newaxis], part, 0.0) for part in q.dfinal]

    if q.depth is None:
        d = zeros
        for s in reversed(range(q.T)):
            d = [part + end for part, end in zip(d, ending(s), strict=True)]
            d[0] = d[0] + q.dy[s]
            d = back(s, d, True)
    else:
        for i in range(q.T):
            d = ending(i)
            d[0] = d[0] + q.dy[i]
            for s in range(i, max(-1, i - q.depth), -1):
                d = back(s, d, i - s + 1 < q.depth)
    nothing = ~q.alive.any(axis=0)[:, np.newaxis]
    dstart = [total + np.where(nothing, end, 0.0) for total, end in zip(dstart, q.dfinal, strict=True)]
    found = {"x": q.by_time(dx)} if p.x.ndim == 3 else {}
    return found | dict(zip(("h_0", "c_0"), dstart, strict=False)) | dw

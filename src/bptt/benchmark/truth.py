"""The results in float64, computed step by step and plainly: no product hoisted or put off.

The equations are in docs/equations.md. Arrays are float64 throughout; a row is a row of the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bptt.arrays import Mask, Noise
from bptt.benchmark.rows import BACKWARD, STEP, Task

Array = NDArray[np.float64]
State = tuple[Array, ...]  # (h,), for an LSTM (h, c)
Named = dict[str, Array]
Saved = tuple[Any, ...]

_EPSILON = 1e-5  # of layer normalisation


class Masks(NamedTuple):
    """What a training pass has drawn, in the form of the tape's properties."""

    dropout: Sequence[Mask] | None = None
    recurrent_dropout: Sequence[Sequence[NDArray[Any]]] | None = None
    zoneout_h: Sequence[Sequence[Mask]] | None = None
    zoneout_c: Sequence[Sequence[Mask]] | None = None

    def noise(self, layer: int, direction: int) -> Noise:
        """Return what acts on the state of one direction of one layer."""
        of: list[Any] = [None if masks is None else masks[layer][direction] for masks in self[1:]]
        return Noise(dropout=of[0], kept_h=of[1], kept_c=of[2])

    def between(self, layer: int, rate: float) -> Any:
        """Return what y of this layer is multiplied by on its way to the next."""
        return 1.0 if self.dropout is None else self.dropout[layer] / (1 - rate)


NO_MASKS = Masks()


def _sigmoid(a: Array) -> Array:
    return 0.5 + 0.5 * np.tanh(0.5 * a)


def _blocks(a: Array, gates: int) -> list[Array]:
    return np.split(a, gates, axis=-1)


def _normalise(u: Array, gain: Array) -> tuple[Array, Saved]:
    """Normalise every row and multiply it by the gain."""
    deviation = np.sqrt(u.var(axis=-1, keepdims=True) + _EPSILON)
    scaled = (u - u.mean(axis=-1, keepdims=True)) / deviation
    return scaled * gain, (scaled, deviation)


def _normalise_back(d: Array, gain: Array, saved: Saved) -> tuple[Array, Array]:
    """Return the gradients with respect to u and to the gain."""
    scaled, deviation = saved
    ds = d * gain
    centred = ds - ds.mean(axis=-1, keepdims=True) - scaled * (ds * scaled).mean(axis=-1, keepdims=True)
    return centred / deviation, (d * scaled).sum(axis=0)


# A cell: from p = W_ih x + b_ih, q = W_hh h + b_hh and the state to the new state; and from the new state's
# gradient to those of p and q and what goes straight to the old state.


def _rnn(p: Array, q: Array, state: State) -> tuple[State, Saved]:
    h = np.tanh(p + q)
    return (h,), (h,)


def _rnn_back(d: State, saved: Saved) -> tuple[Array, Array, State]:
    (h,) = saved
    da = d[0] * (1 - h**2)
    return da, da, (np.zeros_like(h),)


def _lstm(p: Array, q: Array, state: State) -> tuple[State, Saved]:
    a_i, a_f, a_g, a_o = _blocks(p + q, 4)
    i, f, g, o = _sigmoid(a_i), _sigmoid(a_f), np.tanh(a_g), _sigmoid(a_o)
    c = f * state[1] + i * g
    return (o * np.tanh(c), c), (i, f, g, o, c, state[1])


def _lstm_back(d: State, saved: Saved) -> tuple[Array, Array, State]:
    i, f, g, o, c, c_before = saved
    dh, dc = d
    dc = dc + dh * o * (1 - np.tanh(c) ** 2)
    parts = (
        dc * g * i * (1 - i),
        dc * c_before * f * (1 - f),
        dc * i * (1 - g**2),
        dh * np.tanh(c) * o * (1 - o),
    )
    da = np.concatenate(parts, axis=-1)
    return da, da, (np.zeros_like(dh), dc * f)


def _gru(p: Array, q: Array, state: State) -> tuple[State, Saved]:
    (p_r, p_z, p_n), (q_r, q_z, q_n) = _blocks(p, 3), _blocks(q, 3)
    r, z = _sigmoid(p_r + q_r), _sigmoid(p_z + q_z)
    n = np.tanh(p_n + r * q_n)
    return ((1 - z) * n + z * state[0],), (r, z, n, q_n, state[0])


def _gru_back(d: State, saved: Saved) -> tuple[Array, Array, State]:
    r, z, n, q_n, h_before = saved
    (dh,) = d
    dn = dh * (1 - z) * (1 - n**2)
    dz = dh * (h_before - n) * z * (1 - z)
    dr = dn * q_n * r * (1 - r)
    return np.concatenate([dr, dz, dn], axis=-1), np.concatenate([dr, dz, dn * r], axis=-1), (dh * z,)


_FORWARD: dict[str, Callable[[Array, Array, State], tuple[State, Saved]]] = {
    "rnn": _rnn,
    "lstm": _lstm,
    "gru": _gru,
}
_BACKWARD: dict[str, Callable[[State, Saved], tuple[Array, Array, State]]] = {
    "rnn": _rnn_back,
    "lstm": _lstm_back,
    "gru": _gru_back,
}


class _Direction:
    """One direction of one layer; its weights by PyTorch's names without the suffix."""

    def __init__(self, cell: str, weights: Named, noise: Noise, active: Array, *, reverse: bool) -> None:
        self.cell, self.weights, self.noise, self.active = cell, weights, noise, active
        T = len(active)
        self.times = range(T - 1, -1, -1) if reverse else range(T)
        self.saved: list[Saved] = [()] * T

    def _choose(self, t: int, new: State, old: State) -> State:
        """Return the state after step t: the old one by zoneout, and past a row's end."""
        over = self.active[t] == 0
        kept: list[Mask] = [
            over if mask is None else over | mask[t] for mask in (self.noise.kept_h, self.noise.kept_c)
        ]
        return tuple(np.where(k, o, n) for k, o, n in zip(kept, old, new, strict=False))

    def forward(self, x: Array, state: State) -> tuple[Array, State]:
        """Return y (T, B, H) and the final state."""
        W = self.weights
        self.x = x
        y = np.zeros((len(x), *state[0].shape))
        for t in self.times:
            h = state[0] if self.noise.dropout is None else self.noise.dropout * state[0]
            u, v = x[t] @ W["weight_ih"].T, h @ W["weight_hh"].T
            norms: Saved = ()
            if "weight_ln_ih" in W:
                u, norm_ih = _normalise(u, W["weight_ln_ih"])
                v, norm_hh = _normalise(v, W["weight_ln_hh"])
                norms = norm_ih, norm_hh
            new, saved = _FORWARD[self.cell](u + W["bias_ih"], v + W["bias_hh"], state)
            self.saved[t] = (h, norms, saved)
            state = self._choose(t, new, state)
            y[t] = self.active[t] * state[0]
        return y, state

    def backward(self, dy: Array) -> tuple[Array, State, Named]:
        """Return the gradients of x, of the initial state, and of the weights."""
        W = self.weights
        grads = {name: np.zeros_like(weight) for name, weight in W.items()}
        dx = np.zeros_like(self.x)
        d: State = (np.zeros_like(dy[0]),) * (2 if self.cell == "lstm" else 1)
        zeros = tuple(np.zeros_like(part) for part in d)
        for t in reversed(self.times):
            h, norms, saved = self.saved[t]
            d = (d[0] + self.active[t] * dy[t], *d[1:])
            dp, dq, straight = _BACKWARD[self.cell](self._choose(t, d, zeros), saved)
            beside = self._choose(t, zeros, d)
            grads["bias_ih"] += dp.sum(axis=0)
            grads["bias_hh"] += dq.sum(axis=0)
            if norms:
                dp, gain_ih = _normalise_back(dp, W["weight_ln_ih"], norms[0])
                dq, gain_hh = _normalise_back(dq, W["weight_ln_hh"], norms[1])
                grads["weight_ln_ih"] += gain_ih
                grads["weight_ln_hh"] += gain_hh
            grads["weight_ih"] += dp.T @ self.x[t]
            grads["weight_hh"] += dq.T @ h
            dx[t] = dp @ W["weight_ih"]
            dh = dq @ W["weight_hh"]
            if self.noise.dropout is not None:
                dh = dh * self.noise.dropout
            d = tuple(a + b for a, b in zip(beside, straight, strict=True))
            d = (d[0] + dh, *d[1:])
        return dx, d, grads


def compute(
    task: Task,
    x: NDArray[Any],
    states: Sequence[NDArray[Any]],
    parameters: Mapping[str, NDArray[Any]],
    dy: NDArray[Any],
    masks: Masks = NO_MASKS,
) -> dict[str, Array]:
    """Compute what the task asks for.

    Parameters
    ----------
    task : Task
        Cell, setup and case.
    x : ndarray
        (T, B, I); for a single step as many as there are calls.
    states : sequence of ndarray
        Initial h, for an LSTM h and c, each (L*D, B, H).
    parameters : mapping
        From PyTorch's names.
    dy : ndarray
        (T, B, D*H).
    masks : Masks, optional
        What a training pass has drawn; not given, there is neither dropout nor zoneout.

    Returns
    -------
    dict
        ``y``, ``h_n`` and for an LSTM ``c_n``; for forward + backward ``y`` and ``d...`` of every input; for
        a single step the state alone.
    """
    y, units, finals = _forward(task, x.astype(np.float64), states, parameters, masks)
    letters = "hc"[: len(states)]
    if task.case == BACKWARD:
        gradients = _backward(task, dy.astype(np.float64), units, letters, masks)
        return {"y": y} | {f"d{name}": gradient for name, gradient in gradients.items()}
    state = {
        f"{letter}_n": np.stack(parts)
        for letter, parts in zip(letters, zip(*finals, strict=True), strict=True)
    }
    return state if task.case == STEP else {"y": y} | state


def _forward(
    task: Task,
    y: Array,
    states: Sequence[NDArray[Any]],
    parameters: Mapping[str, NDArray[Any]],
    masks: Masks,
) -> tuple[Array, list[_Direction], list[State]]:
    """Return the last layer's y, and every unit with its final state."""
    T, B, _ = y.shape
    lengths = np.full(B, T) if task.lengths is None else task.lengths
    active = (np.arange(T)[:, None] < lengths).astype(np.float64)[:, :, None]
    D, rate = task.options.directions, task.options.dropout
    units: list[_Direction] = []
    finals: list[State] = []
    outputs: list[Array] = []
    for number, suffix in enumerate(task.suffixes):
        layer, direction = divmod(number, D)
        if direction == 0 and layer:
            y = np.concatenate(outputs, axis=-1) * masks.between(layer - 1, rate)
            outputs = []
        weights = {
            name.removesuffix(suffix): weight.astype(np.float64)
            for name, weight in parameters.items()
            if name.endswith(suffix)
        }
        unit = _Direction(task.cell, weights, masks.noise(layer, direction), active, reverse=direction == 1)
        output, final = unit.forward(y, tuple(state[number].astype(np.float64) for state in states))
        units.append(unit)
        outputs.append(output)
        finals.append(final)
    return np.concatenate(outputs, axis=-1), units, finals


def _backward(
    task: Task, d: Array, units: Sequence[_Direction], letters: str, masks: Masks
) -> dict[str, Array]:
    """Return the gradients of x, of the initial states and of the parameters, given that of y."""
    D, rate = task.options.directions, task.options.dropout
    suffixes = task.suffixes
    gradients: dict[str, Array] = {}
    initial: list[State] = []
    for layer in reversed(range(task.options.num_layers)):
        below: list[Array] = []
        found: list[State] = []
        for number, part in zip(range(layer * D, layer * D + D), _blocks(d, D), strict=True):
            dx, dstate, dweights = units[number].backward(part)
            below.append(dx)
            found.append(dstate)
            gradients |= {f"{name}{suffixes[number]}": dweight for name, dweight in dweights.items()}
        initial = found + initial
        d = np.sum(below, axis=0)
        if layer:
            d = d * masks.between(layer - 1, rate)
    states = {
        f"{letter}_0": np.stack(parts)
        for letter, parts in zip(letters, zip(*initial, strict=True), strict=True)
    }
    return {"x": d} | states | gradients

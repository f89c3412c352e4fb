"""Stacks of every cell in NumPy, written apart from the package, and gradients without differences.

`forward` takes complex parameters as well: the imaginary part of a loss at theta + i e v, divided by e, is
its derivative along v to the last digit: there is no difference that could cancel (Squire and Trapp, 1998).
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
from kernel_problems import same

import bptt

ELMAN = {
    "tanh": np.tanh,
    "relu": lambda z: z * (z.real > 0),
    "sigmoid": lambda z: 1 / (1 + np.exp(-z)),
    "identity": lambda z: z,
}
sigmoid = ELMAN["sigmoid"]

#: How each kind of layer is made.
LAYERS = {
    "RNN": (bptt.RNN, {}),
    "relu": (bptt.RNN, {"nonlinearity": "relu"}),
    "LSTM": (bptt.LSTM, {}),
    "projected": (bptt.LSTM, {"proj_size": 2}),
    "peepholes": (bptt.LSTM, {"peepholes": True, "proj_size": 2}),
    "GRU": (bptt.GRU, {}),
    "reset_before": (bptt.GRU, {"reset_after": False}),
}
#: Those that have layer normalisation.
NORMED = [kind for kind in LAYERS if kind != "reset_before"]
T, B, I, H = 5, 4, 3, 4


def make(kind, input_size=I, hidden_size=H, **options):
    """Return a layer of this kind, its parameters larger than usual so that nothing is nearly linear."""
    layer, own = LAYERS[kind]
    made = layer(input_size, hidden_size, **{"dtype": np.float64, "seed": 1, **own, **options})
    for name, value in made.parameters.items():
        value *= 1.5
        if "ln" in name:
            value += np.random.default_rng(len(name)).normal(size=value.shape) * 0.1
    return made


def problem(layer, steps=T, batch=B, tokens=False, seed=7):
    """Return x (T, B, I), the initial state, dy and the final state's gradient, as `layer` takes them."""
    rng = np.random.default_rng(seed)
    units = layer.num_layers * (2 if layer.bidirectional else 1)
    sizes = [size_of_h(layer), layer.hidden_size] if isinstance(layer, bptt.LSTM) else [size_of_h(layer)]

    def state():
        parts = tuple(rng.normal(size=(units, batch, size)).astype(layer.dtype) for size in sizes)
        return parts if len(parts) == 2 else parts[0]

    x = rng.normal(size=(steps, batch, layer.input_size)).astype(layer.dtype)
    if tokens:
        x = rng.integers(layer.input_size, size=(steps, batch))
    width = size_of_h(layer) * (2 if layer.bidirectional else 1)
    dy = rng.normal(size=(steps, batch, width)).astype(layer.dtype)
    return SimpleNamespace(x=x, h_0=state(), dy=dy, dh_n=state())


def size_of_h(layer):
    return getattr(layer, "proj_size", 0) or layer.hidden_size


def parts_of(state):
    """Return (h,) or (h, c)."""
    return state if isinstance(state, tuple) else (state,)


def initial_of(gradients):
    """Return (dL/dh_0,), of an LSTM (dL/dh_0, dL/dc_0)."""
    return tuple(part for part in (gradients.h_0, gradients.c_0) if part is not None)


def alike(a, b):
    """Whether two states are the same bits."""
    return all(same(x, y) for x, y in zip(parts_of(a), parts_of(b), strict=True))


def masks_of(tape):
    """Return the masks on a tape of a time-major pass."""
    names = ("dropout", "recurrent_dropout", "zoneout_h", "zoneout_c")
    return SimpleNamespace(**{name: getattr(tape, name) for name in names})


def forward(layer, x, h_0, *, parameters=None, lengths=None, reset=None, masks=None):
    """Return y, the parts of the final state, and h, c and gates of every unit, layer by layer.

    masks: those of a tape, see `masks_of`; None is inference.
    """
    p = layer.parameters if parameters is None else parameters
    steps, batch = x.shape[:2]
    lengths = np.full(batch, steps) if lengths is None else np.asarray(lengths)
    reset = np.zeros((steps, batch), bool) if reset is None else np.asarray(reset)
    if x.ndim == 2:
        x = np.eye(layer.input_size)[x]
    states, directions = parts_of(h_0), 2 if layer.bidirectional else 1
    units = []
    for level in range(layer.num_layers):
        for direction in range(directions):
            unit = level * directions + direction
            own = {
                name.split(f"_l{level}")[0]: value
                for name, value in p.items()
                if belongs(name, level, direction)
            }
            noise = noise_of(layer, masks, level, direction)
            start = [part[unit] for part in states]
            units.append(one_unit(layer, own, x, start, lengths, reset, direction, noise))
        x = y = np.concatenate([unit.h for unit in units[-directions:]], axis=2)
        if masks is not None and masks.dropout is not None and level < layer.num_layers - 1:
            x = y * masks.dropout[level] / (1 - layer.dropout)
    final = tuple(np.array([unit.final[n] for unit in units]) for n in range(len(states)))
    return y, final, units


def belongs(name, level, direction):
    return name.endswith(f"_l{level}_reverse" if direction else f"_l{level}")


def noise_of(layer, masks, level, direction):
    """Return the recurrent mask and the shares of h and c that stay, as arrays or numbers."""
    rates = layer.zoneout if isinstance(layer.zoneout, tuple) else (layer.zoneout, layer.zoneout)
    if masks is None:
        return 1.0, *rates
    found = [masks.recurrent_dropout, masks.zoneout_h, masks.zoneout_c]
    m, h, c = (None if of is None else of[level][direction] for of in found)
    return 1.0 if m is None else m, 0.0 if h is None else h, 0.0 if c is None else c


def one_unit(layer, p, x, start, lengths, reset, reverse, noise):
    """Return h (T, B, R), c (T, B, H), gates by name and the final state of one direction of one layer."""
    steps, m, shares = len(x), noise[0], noise[1:]
    state = [part + 0.0 for part in start]
    history, gate_history = [None] * steps, [None] * steps
    for t in reversed(range(steps)) if reverse else range(steps):
        active = (t < lengths)[:, np.newaxis]
        cut = t + 1 if reverse else t  # a row is cut before this step
        again = active & reset[cut][:, np.newaxis] if cut < steps else False
        state = [np.where(again, first, part) for first, part in zip(start, state, strict=True)]
        new, gates = step(layer, p, x[t], state, m)
        kept = [share[t] if isinstance(share, np.ndarray) else share for share in shares]
        new = [s * old + (1 - s) * a for s, old, a in zip(kept, state, new, strict=False)]
        state = [np.where(active, a, old) for a, old in zip(new, state, strict=True)]
        history[t] = [np.where(active, a, 0.0) for a in state]
        gate_history[t] = {name: np.where(active, gate, 0.0) for name, gate in gates.items()}
    over_time = [np.array([at[n] for at in history]) for n in range(len(start))]
    gates = {name: np.array([at[name] for at in gate_history]) for name in gate_history[0]} if steps else {}
    return SimpleNamespace(h=over_time[0], c=over_time[-1], gates=gates, final=state)


def normalised(z, gain):
    if gain is None:
        return z
    centred = z - z.mean(axis=1, keepdims=True)
    return centred / np.sqrt((centred * centred).mean(axis=1, keepdims=True) + 1e-5) * gain


def step(layer, p, x, state, m):
    """Return the new state and the gates by name."""
    h, size, zero = state[0], layer.hidden_size, np.zeros(1)
    b_ih, b_hh = p.get("bias_ih", zero), p.get("bias_hh", zero)
    before = isinstance(layer, bptt.GRU) and not layer.reset_after
    a = normalised(x @ p["weight_ih"].T, p.get("weight_ln_ih")) + b_ih
    b = normalised((m * h) @ p["weight_hh"].T, p.get("weight_ln_hh")) + b_hh
    if isinstance(layer, bptt.RNN):
        return [ELMAN[layer.nonlinearity](a + b)], {}
    a, b = np.split(a, a.shape[1] // size, axis=1), np.split(b, b.shape[1] // size, axis=1)
    if isinstance(layer, bptt.GRU):
        r, z = sigmoid(a[0] + b[0]), sigmoid(a[1] + b[1])
        last = r * b[2]
        if before:
            last = (r * m * h) @ p["weight_hh"][2 * size :].T + (b_hh[2 * size :] if layer.bias else 0.0)
        n = np.tanh(a[2] + last)
        return [(1 - z) * n + z * h], {"r": r, "z": z, "n": n}
    c = state[1]
    w_i, w_f, w_o = np.split(p["weight_ph"], 3) if layer.peepholes else (zero, zero, zero)
    i, f = sigmoid(a[0] + b[0] + w_i * c), sigmoid(a[1] + b[1] + w_f * c)
    g = np.tanh(a[2] + b[2])
    c = f * c + i * g
    o = sigmoid(a[3] + b[3] + w_o * c)
    h = o * np.tanh(c)
    if layer.proj_size:
        h = h @ p["weight_hr"].T
    return [h, c], {"i": i, "f": f, "g": g, "o": o}


def derivatives(layer, q, **options):
    """Return the loss's derivative along a direction for every input, and those directions, by name.

    The loss is dy . y + dh_n . h_n, for an LSTM + dc_n . c_n. q: of `problem`. options: as for `forward`.
    """
    inputs = dict(layer.parameters)
    inputs |= dict(zip(("h_0", "c_0"), parts_of(q.h_0), strict=False))
    if q.x.ndim == 3:
        inputs["x"] = q.x
    rng = np.random.default_rng(11)
    directions = {name: rng.normal(size=value.shape) for name, value in inputs.items()}
    found = {}
    for name, along in directions.items():
        moved = {**inputs, name: inputs[name] + 1e-30j * along}
        state = tuple(moved.pop(part) for part in ("h_0", "c_0") if part in moved)
        x = moved.pop("x", q.x)
        y, final, _ = forward(layer, x, state, parameters=moved, **options)
        loss = (np.where(y == 0, 0.0, q.dy) * y).sum()  # past a row's end dy means nothing
        for gradient, part in zip(parts_of(q.dh_n), final, strict=True):
            loss = loss + (gradient * part).sum()
        found[name] = loss.imag / 1e-30
    return found, directions


def check_gradients(layer, q, gradients, **options):
    """Hold every gradient against the derivative along a direction."""
    found, directions = derivatives(layer, q, **options)
    actual = {"h_0": gradients.h_0, "c_0": gradients.c_0, "x": gradients.x, **gradients.parameters}
    assert set(found) == {name for name, value in actual.items() if value is not None}
    for name, derivative in found.items():
        terms = actual[name].astype(np.float64) * directions[name]
        unit = 1e-12 if layer.dtype == np.float64 else 1e-5
        scale = max(np.abs(terms).sum(), 1e-3)
        assert abs(terms.sum() - derivative) <= unit * scale, (name, terms.sum(), derivative)

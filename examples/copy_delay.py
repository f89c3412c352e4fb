"""Remember a symbol for so many steps: why an LSTM learns it and an Elman network does not.

The first token of a sequence is one of four symbols, those after it are noise; the answer, after the last
one, is the symbol. Both networks have 32 units, the same data and the same optimiser. What an untrained
network's gradient has left when it arrives at the first step tells which one will learn. With --out FILE.png
also a picture.
"""

from __future__ import annotations

import numpy as np
from _show import arguments, note, table, title

import bptt

SYMBOLS, NOISE, HIDDEN = 4, 4, 32
UPDATES = 600


def network(kind: str, backend: str) -> bptt.Network:
    """Make an untrained network; the LSTM's forget gate starts at σ(4) = 0.98, nearly open."""
    if kind == "LSTM":
        rnn: bptt.RNN | bptt.LSTM = bptt.LSTM(
            SYMBOLS + NOISE, HIDDEN, forget_bias=4.0, seed=0, backend=backend
        )
    else:
        rnn = bptt.RNN(SYMBOLS + NOISE, HIDDEN, seed=0, backend=backend)
    return bptt.Network(rnn, bptt.Linear(HIDDEN, SYMBOLS, seed=1, backend=backend), many_to_one=True)


def sequences(delay: int, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw tokens (T, B), T = 1 + delay, and the symbols (B,)."""
    x = rng.integers(SYMBOLS, SYMBOLS + NOISE, size=(1 + delay, count))
    x[0] = rng.integers(SYMBOLS, size=count)
    return x, x[0].copy()


def gradient_flow(net: bptt.Network, x: np.ndarray, y: np.ndarray) -> bptt.GradientFlow:
    """Follow the gradient of the loss, which stands at the last step."""
    h, _, tape = net.rnn.record(x)
    _, ds = bptt.softmax_cross_entropy(net.readout(h[-1]), y)
    dy = np.zeros_like(h)
    dy[-1], _ = net.readout.backward(h[-1], ds)
    return tape.gradient_flow(dy)


def trained(net: bptt.Network, delay: int) -> tuple[str, float]:
    """Train until 256 unseen sequences are right; return after how many updates, and how many are."""
    rng, optimizer = np.random.default_rng(0), bptt.Adam(lr=0.003)
    test, answers = sequences(delay, 256, np.random.default_rng(1))
    right = 0.0
    for update in range(1, UPDATES + 1):
        net.fit([sequences(delay, 32, rng)], optimizer=optimizer, clip_norm=1.0, progress=False)
        if update % 20 == 0:
            right = float(np.mean(net.predict(test).argmax(axis=1) == answers))
            if right == 1:
                return str(update), right
    return f"not in {UPDATES}", right


if __name__ == "__main__":
    options_ = arguments(
        __doc__,
        notes=False,
        out={"metavar": "FILE.png", "help": "draw how far the untrained gradients reach"},
    )
    delays = (5, 40) if options_.quick else (5, 10, 20, 40, 80)
    title("Left of the gradient at the first step, untrained; updates until all is right; right at the end")
    rows = []
    for delay_ in delays:
        row = [str(delay_)]
        for kind_ in ("Elman", "LSTM"):
            net_ = network(kind_, options_.backend)
            left = (
                gradient_flow(net_, *sequences(delay_, 32, np.random.default_rng(2))).reach[0][0].profile[-1]
            )
            updates, right_ = trained(net_, delay_)
            row += [f"{left:.0e}", updates, f"{right_:.2f}"]
        rows.append(row)
    table(["delay", "Elman", "updates", "right", "LSTM", "updates", "right"], rows)
    note("Chance is 0.25.")
    flows = {}
    for kind_ in ("Elman", "LSTM"):
        title(f"{kind_}, untrained, delay 40")
        flows[kind_] = gradient_flow(
            network(kind_, options_.backend), *sequences(40, 32, np.random.default_rng(2))
        )
        for line in str(flows[kind_]).splitlines():
            note(line)
    if options_.out:
        from bptt import plots

        ax = None
        for kind_, flow in flows.items():
            ax = plots.reach(flow, ax=ax, label=kind_)
        ax.set_title("Untrained, 40 steps of delay")
        ax.figure.savefig(options_.out)
        print(f"\n  picture: {options_.out}")

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

KINDS = ("Elman", "LSTM")
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


def picture(
    path: str,
    flows: dict[str, bptt.GradientFlow],
    delays: tuple[int, ...],
    shares: dict[str, list[float]],
) -> None:
    """Draw how far the untrained gradients reach, and what training comes to."""
    from matplotlib.figure import Figure

    from bptt import plots

    figure = Figure(figsize=(11, 4), dpi=100, layout="constrained")
    left, right = figure.subplots(1, 2)
    for number, (kind, flow) in enumerate(flows.items()):
        plots.reach(flow, ax=left, label=kind)
        style = {"color": plots.COLOURS[number], "linestyle": plots.DASHES[number]}
        right.plot(delays, np.array(shares[kind]) * 100, marker="o", label=kind, **style)
    left.set_title("Untrained, delay 40: how far the loss reaches")
    right.axhline(100 / SYMBOLS, color="#666666", linewidth=0.8, linestyle=":", label="chance")
    right.set(
        title=f"After at most {UPDATES} updates",
        xlabel="delay (steps)",
        ylabel="right answers (%)",
        ylim=(0, 103),
        xscale="log",
        xticks=delays,
        xticklabels=map(str, delays),
    )
    right.minorticks_off()
    right.grid(alpha=0.25)
    right.legend(fontsize="small", loc="center left")
    figure.savefig(path)
    print(f"\n  picture: {path}")


if __name__ == "__main__":
    options_ = arguments(
        __doc__,
        notes=False,
        out={"metavar": "FILE.png", "help": "draw how far the untrained gradients reach, and who learns"},
    )
    delays = (5, 40) if options_.quick else (5, 10, 20, 40, 80)
    title("Left of the gradient at the first step, untrained; updates until all is right; right at the end")
    rows, shares = [], {kind: [] for kind in KINDS}
    for delay_ in delays:
        row = [str(delay_)]
        for kind_ in KINDS:
            net_ = network(kind_, options_.backend)
            flow_ = gradient_flow(net_, *sequences(delay_, 32, np.random.default_rng(2)))
            updates, right_ = trained(net_, delay_)
            shares[kind_].append(right_)
            row += [f"{flow_.reach[0][0].profile[-1]:.0e}", updates, f"{right_:.2f}"]
        rows.append(row)
    table(["delay", "Elman", "updates", "right", "LSTM", "updates", "right"], rows)
    note("Chance is 0.25.")
    flows = {}
    for kind_ in KINDS:
        title(f"{kind_}, untrained, delay 40")
        flows[kind_] = gradient_flow(
            network(kind_, options_.backend), *sequences(40, 32, np.random.default_rng(2))
        )
        for line in str(flows[kind_]).splitlines():
            note(line)
    if options_.out:
        picture(options_.out, flows, delays, shares)

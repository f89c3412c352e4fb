"""Notes 001: a character RNN reads "hell" and predicts "ello".

    a(t) = tanh[w_aa a(t-1) + w_ax x(t) + b_a],  a(0) = 0      y(t) = softmax(net_y),  net_y = w_ya a(t) + b_y
    L = Σ_t L(t),  L(t) = -ŷ(t) log y(t)

In these notes y is the prediction and ŷ the target, the reverse of the other notes (E-001-14). They print
a(t) for x(t) inside the tanh (E-001-1). η is not given; here 0.1. Vectors are columns, as in the notes.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from _show import Golden, arguments, brackets, check_brackets, note, show, table, title

import bptt

VOCABULARY = "helo"
X = np.array([[VOCABULARY.index(c)] for c in "hell"])  # (T, B) token ids: the same as one-hot columns
TARGET = np.array([[VOCABULARY.index(c)] for c in "ello"])
ONE_HOT = np.eye(4)


def system(backend: str) -> tuple[bptt.RNN, bptt.Linear]:
    rnn = bptt.RNN(4, 3, nonlinearity="tanh", dtype=np.float64, backend=backend)
    rnn.parameters["bias_hh_l0"][:] = 0  # PyTorch's second bias, which the notes do not have
    readout = bptt.Linear(3, 4, dtype=np.float64, backend=backend)
    weights = parameters(rnn, readout)
    weights["w_ax"][:] = [[-0.6, 0.4, -0.8, 0.2], [0, 1, -0.2, 0.8], [0.6, -0.6, 0.4, -0.8]]
    weights["w_aa"][:] = [[-0.2, 0.6, -0.4], [-0.6, 0.2, -0.8], [0.8, -0.2, 0.6]]
    weights["b_a"][:] = [-0.1, 0.1, -0.2]
    weights["w_ya"][:] = [[-1, 0.2, -1.2], [0, 1.2, -0.2], [1, -0.4, 0.8], [-0.6, 0.6, -0.8]]
    weights["b_y"][:] = [-0.1, 0.2, -0.2, 0.1]
    return rnn, readout


def parameters(rnn: bptt.RNN, readout: bptt.Linear) -> dict[str, np.ndarray]:
    """Give the arrays the notes' names."""
    p, q = rnn.parameters, readout.parameters
    return {
        "w_ax": p["weight_ih_l0"],
        "w_aa": p["weight_hh_l0"],
        "b_a": p["bias_ih_l0"],
        "w_ya": q["weight"],
        "b_y": q["bias"],
    }


GOLDEN_NAMES = {"w_ax": "W_xh", "w_aa": "W_hh", "b_a": "b_h", "w_ya": "W_hy", "b_y": "b_y"}


def exact(y: np.ndarray, target: np.ndarray) -> np.ndarray:
    """∂L/∂net_j = y_j - ŷ_j, the softmax with all its off-diagonal derivatives."""
    return y - target


def printed(y: np.ndarray, target: np.ndarray) -> np.ndarray:
    """∂L/∂net_j = -ŷ_j (1 - y_j), the notes' diagonal alone: rows with ŷ_j = 0 get nothing (E-001-3)."""
    return -target * (1 - y)


def gradients(
    rnn: bptt.RNN, readout: bptt.Linear, delta: Callable[..., np.ndarray], depth: int | None
) -> dict[str, np.ndarray]:
    """dL/dθ with the given ∂L/∂net; `depth` truncates b_a and w_ax, w_aa always gets the whole double sum."""
    a, _, tape = rnn.record(X)
    da, d_readout = readout.backward(a, delta(bptt.softmax(readout(a)), ONE_HOT[TARGET]))
    full = tape.backward(da).parameters
    cut = tape.backward(da, depth=depth).parameters
    return {
        "w_ax": cut["weight_ih_l0"],
        "w_aa": full["weight_hh_l0"],
        "b_a": cut["bias_ih_l0"],
        "w_ya": d_readout["weight"],
        "b_y": d_readout["bias"],
    }


def loss_of(rnn: bptt.RNN, readout: bptt.Linear) -> float:
    return bptt.softmax_cross_entropy(readout(rnn(X)[0]), TARGET, reduction="sum", backend=rnn.backend)[0]


def check_all(golden: Golden, values: dict[str, np.ndarray], path: str) -> None:
    for name, value in values.items():
        golden.check(f"{path} {name}", value.T, f"{path}.{GOLDEN_NAMES[name]}")


def notes(backend: str) -> None:
    golden = Golden("seed001_hello_charrnn")
    rnn, readout = system(backend)
    a, _ = rnn(X)
    y = bptt.softmax(readout(a))
    step_losses = [-float(np.log(y[t, 0, TARGET[t, 0]])) for t in range(4)]

    title("Forward")
    for t in range(4):
        show(f"a({t + 1}) after {'hell'[t]!r}", a[t])
    for t in range(4):
        show(f"y({t + 1}) over h, e, l, o", y[t], f"target {'ello'[t]!r}, L({t + 1}) = {step_losses[t]:.9f}")
    loss = loss_of(rnn, readout)
    show("L", loss)
    golden.check("a(t)", a, "expected.h")
    golden.check("y(t)", y, "expected.yhat")
    golden.check("L", loss, "expected.loss")
    for t, value in enumerate(step_losses, start=1):
        golden.check(f"L({t})", value, f"expected.loss_per_step.{t}")

    title("Brackets of ∂L/∂θ = Σ_i Σ_{k≤i} term(i, k): loss of step i, parameter's copy at step k")
    da, _ = readout.backward(a, exact(y, ONE_HOT[TARGET]))
    terms = brackets(rnn, ONE_HOT[X], da)
    for i in range(4):
        for k in range(i, -1, -1):
            show(f"i = {i + 1}, k = {k + 1}: b_a", terms["b_h"][i, k])
            for key, name in (("W_hh", "w_aa"), ("W_xh", "w_ax")):
                for n, row in enumerate(terms[key][i, k].T):
                    show(f"                {name} row {n + 1}", row)
    check_brackets(golden, terms)
    note(
        'Slips in these formulas: "1/π" before ∂a(m)/∂a(m-1) is the product Π over m = k+1..i (E-001-6); '
        "stray factors stand before the brackets of t = 3 (E-001-5) and of ∂L/∂w_ya (E-001-2), and ∂net/∂a "
        'is missing at t = 1 (E-001-4); ∂L/∂y(i) has ŷ(t) for ŷ(i) (E-001-7); "~" and "N" stand for a '
        'square (E-001-8), "n" for η (E-001-12); ∂L/∂w_ax = -Σ should be +Σ (E-001-11). '
        "The scan lost the drawing of the unrolled graph (E-001-13)."
    )

    title("Gradients: exact, and as the notes print them")
    variants: dict[str, tuple[Callable[..., np.ndarray], int | None]] = {
        "exact": (exact, None),
        "depth 1": (exact, 1),
        "printed": (printed, 1),
    }
    results = {name: gradients(rnn, readout, *options) for name, options in variants.items()}
    for name, value in results["exact"].items():
        show(f"∂L/∂{name}", value)
    note(
        "In the notes w_aa gets the double sum, but b_a and w_ax only k = i (depth 1, E-001-10), and "
        "∂L/∂net is -ŷ(1-y), the diagonal of the softmax, 0 in every row but the target's (E-001-3):"
    )
    for name, result in results.items():
        show(f"∂L/∂b_a, {name}", result["b_a"])
    da_printed, _ = readout.backward(a, printed(y, ONE_HOT[TARGET]))
    tanh_twice = np.sum(da_printed * (1 - np.tanh(a) ** 2), axis=(0, 1))
    show("∂L/∂b_a, printed, 1 - tanh(a)²", tanh_twice, "a is already a tanh (E-001-9)")
    check_all(golden, results["exact"], "expected.grads")
    for name in ("w_ax", "b_a"):
        path = f"expected.notes.depth1_exact_softmax.{GOLDEN_NAMES[name]}"
        golden.check(f"{name} at depth 1", results["depth 1"][name].T, path)
    check_all(golden, results["printed"], "expected.notes.literal_target_neuron_only")
    golden.check("tanh twice", tanh_twice, "expected.notes.literal_b_a_with_tanh_of_a.b_h")
    _, _, tape = rnn.record(X)
    for depth in (1, 2, 3, 4):
        cut = tape.backward(da, depth=depth).parameters
        for key, name in (("W_xh", "weight_ih_l0"), ("W_hh", "weight_hh_l0"), ("b_h", "bias_ih_l0")):
            golden.check(f"{key} at depth {depth}", cut[name].T, f"expected.truncated.{depth}.{key}")

    title("One update, w <- w + Δw with Δw = -η ∂L/∂w, η = 0.1, by each of them")
    paths = {
        "exact": "expected.sgd",
        "depth 1": "expected.notes.sgd_with_depth1_exact_softmax",
        "printed": "expected.notes.sgd_with_literal",
    }
    rows = [("before", loss)]
    for name, path in paths.items():
        rnn, readout = system(backend)
        bptt.SGD(lr=0.1).step(parameters(rnn, readout), results[name])
        if name == "exact":
            for parameter, value in parameters(rnn, readout).items():
                show(f"{parameter} after", value)
        rows.append((name, loss_of(rnn, readout)))
        check_all(golden, parameters(rnn, readout), f"{path}.weights_after")
        golden.check(f"loss after {name}", rows[-1][1], f"{path}.loss_after")
    table(["gradient", "L"], rows)
    golden.done()


def spell(word: str, backend: str, quick: bool) -> None:
    """Train on word[:-1] -> word[1:] and let the network write the word back from its first letter."""
    vocabulary = "".join(dict.fromkeys(word))
    ids = np.array([[vocabulary.index(c)] for c in word])
    rnn = bptt.RNN(len(vocabulary), 8, dtype=np.float64, seed=1, backend=backend)
    net = bptt.Network(rnn, bptt.Linear(8, len(vocabulary), dtype=np.float64, seed=2, backend=backend))
    optimizer = bptt.Adam(lr=0.03)

    def text(tokens: np.ndarray) -> str:
        return word[0] + "".join(vocabulary[i] for i in tokens)

    for epoch in range(150 if quick else 300):
        loss, gradients_ = net.loss_and_gradients(ids[:-1], ids[1:])
        optimizer.step(net.parameters, gradients_.parameters)
        written = text(net.sample(ids[0], len(word) - 1, temperature=0))  # always the likeliest letter
        if epoch in (0, 4, 9, 19, 49) or epoch % 100 == 99:
            print(f"  after {epoch + 1:3} updates: loss {loss:.6f}, from {word[0]!r} it writes {written!r}")
    print(f"  sampled: {text(net.sample(ids[0], len(word) - 1, seed=0))}")
    if written != word:
        raise SystemExit(f"expected the network to write {word!r}, it wrote {written!r}")


if __name__ == "__main__":
    options_ = arguments(__doc__)
    notes(options_.backend)
    title('Trained: "hell" -> "ello", then "neur" -> "euro", the notes\' other word')
    spell("hello", options_.backend, options_.quick)
    spell("neuro", options_.backend, options_.quick)

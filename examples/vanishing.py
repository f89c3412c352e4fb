"""Notes 002: what happens to a gradient on its way back through w_h = 0.9, and through w_h = 1.6.

    o_t = tanh(x_t w_i + o_{t-1} w_h),  o_0 = 0        ∂o_T/∂o_k = Π_{t=k+1..T} f'(z_t) w_h

Ten steps as in the notes, with the products and the terms of the gradient; then forty steps and a verdict.
With --out FILE.png also a picture of both.
"""

from __future__ import annotations

import numpy as np
from _show import Golden, arguments, note, show, table, title

import bptt

WEIGHTS = (0.9, 1.6)  # w_h


def inputs(steps: int) -> np.ndarray:
    """Return x (T, B, I) of the golden file, and its continuation."""
    return np.array([((3 * t) % 7 - 3) / 10 for t in range(1, steps + 1)]).reshape(steps, 1, 1)


def recorded(w_h: float, steps: int, backend: str) -> bptt.Tape:
    """Run the network with one unit."""
    rnn = bptt.RNN(1, 1, bias=False, dtype=np.float64, backend=backend)
    rnn.parameters["weight_ih_l0"][:] = 0.8
    rnn.parameters["weight_hh_l0"][:] = w_h
    return rnn.record(inputs(steps))[2]


def ten_steps(backend: str) -> None:
    golden = Golden("seed002_T10_vanish")  # of w_h = 0.9
    rows = {}
    for w_h in WEIGHTS:
        products = recorded(w_h, 10, backend).jacobian_products()
        factors = [products.jacobian(t).item() for t in range(2, 11)]
        norms = products.norms()[:, 0]  # |∂o_10/∂o_k|, k = 0 .. 10
        rows[w_h] = factors, norms, products.bound
        if w_h == 0.9:
            golden.check("factors", factors, "expected.vanishing.factors_fprime_times_wh_t2_to_t10")
            first = [products.product(t, 1).item() for t in range(2, 11)]
            golden.check("products", first, "expected.vanishing.do_t_do_1_t2_to_t10")
            golden.check("bound", products.bound**9, "expected.vanishing.bound_abs_wh_pow_9")
    title("Ten steps: the factors f'(z_t) w_h, and what is left at step k of a gradient at step 10")
    header = ["k", *(f"{what}, {w_h}" for w_h in WEIGHTS for what in ("f'(z_k) w_h", "∂o_10/∂o_k", "bound"))]
    lines = [
        [
            k,
            *(
                x
                for f, n, b in rows.values()
                for x in (f[k - 2] if k > 1 else "", float(n[k]), float(b ** (10 - k)))
            ),
        ]
        for k in range(10, 0, -1)
    ]
    table(header, lines)
    note(
        "With w_h = 0.9 the bound 0.9^(10-k) makes sure that the product vanishes. With 1.6 it allows 68, "
        "and yet the product is smaller: the state leaves 0, where tanh is steepest, and f' falls below "
        "1/1.6. [0-1] in the notes bounds f', not f' w_h (E-002-8)."
    )

    title("The terms (10, k) of ∂L/∂w_h, with ∂L/∂o_10 as in the golden file")
    tape = recorded(0.9, 10, backend)
    dy = np.zeros((10, 1, 1))
    dy[-1] = golden["expected.dL_dh_total"][-1]
    terms = tape.terms(dy)["weight_hh_l0"][-1].reshape(10)
    wanted = {term["k"]: term["W_hh"].item() for term in golden["expected.terms"]}
    golden.compare("terms", terms, [wanted[k] for k in range(1, 11)])
    for k in range(10, 0, -1):
        show(f"k = {k}", terms[k - 1], {1: "0, since o_0 = 0", 2: "0, since x_1 = 0 and so o_1"}.get(k, ""))
    show("sum", terms.sum())
    golden.compare("sum", terms.sum(), golden["expected.grads.W_hh"].item())
    golden.done()


def forty_steps(backend: str) -> dict[float, tuple[bptt.Tape, bptt.GradientFlow]]:
    title("Forty steps, one loss at the last")
    flows = {}
    dy = np.zeros((40, 1, 1))
    dy[-1] = 1
    for w_h in WEIGHTS:
        tape = recorded(w_h, 40, backend)
        flows[w_h] = tape, tape.gradient_flow(dy)
        exponent = tape.jacobian_products().lyapunov().item()
        print(
            f"\n  w_h = {w_h}: ∂o_40/∂o_0 = {np.exp(40 * exponent):.3e}, "
            f"Lyapunov exponent {exponent:.4f} a step"
        )
        for line in str(flows[w_h][1]).splitlines():
            note(line)
    return flows


def picture(path: str, flows: dict[float, tuple[bptt.Tape, bptt.GradientFlow]]) -> None:
    """Draw for both weights how far the loss reaches, and all terms if every step had a loss."""
    from matplotlib.figure import Figure

    from bptt import plots

    figure = Figure(figsize=(10, 7.5), dpi=100, layout="constrained")
    axes = figure.subplots(2, 2)
    for (w_h, (tape, flow)), column in zip(flows.items(), axes.T, strict=True):
        plots.reach(flow, ax=column[0]).set_title(f"w_h = {w_h}: how far a loss at step 40 reaches")
        terms = tape.terms(np.ones((40, 1, 1)), reduce="norm")["weight_hh_l0"]
        plots.heat_map(terms, ax=column[1], title=f"w_h = {w_h}: terms of ∂L/∂w_h")
    figure.savefig(path)
    print(f"\n  picture: {path}")


if __name__ == "__main__":
    options_ = arguments(__doc__, out={"metavar": "FILE.png", "help": "draw a picture"})
    ten_steps(options_.backend)
    flows_ = forty_steps(options_.backend)
    if options_.out:
        picture(options_.out, flows_)

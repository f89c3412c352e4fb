"""Notes 000: four inputs, one output, and every bracket of back-propagation through time.

    O_t = f(x_1t w + O_{t-1} w' + b),  t = 1..4,  O_0 = 0        ŷ = σ(O_4 w'')        L = y - ŷ

The notes do not name f, α or the numbers; here f = tanh and α = 0.1. One input, one hidden unit.
"""

from __future__ import annotations

import numpy as np
from _show import Golden, arguments, brackets, check_brackets, note, show, table, title

import bptt


def system(backend: str, w_out: float) -> tuple[bptt.RNN, bptt.Linear]:
    rnn = bptt.RNN(1, 1, nonlinearity="tanh", dtype=np.float64, backend=backend)
    rnn.parameters["weight_ih_l0"][:] = 0.6  # w
    rnn.parameters["weight_hh_l0"][:] = 0.9  # w'
    rnn.parameters["bias_ih_l0"][:] = 0.1  # b
    rnn.parameters["bias_hh_l0"][:] = 0.0  # PyTorch's second bias, which the notes do not have
    readout = bptt.Linear(1, 1, bias=False, dtype=np.float64, backend=backend)
    readout.parameters["weight"][:] = w_out  # w''
    return rnn, readout


X = np.array([0.5, -1.2, 0.8, 0.3]).reshape(4, 1, 1)  # (T, B, I)
Y = np.array([[1.0]])  # (B, O)


def forward_and_gradients(rnn: bptt.RNN, readout: bptt.Linear, loss_name: str) -> dict[str, np.ndarray]:
    O, _, tape = rnn.record(X)
    s = readout(O[-1])
    options = {} if loss_name == "binary_cross_entropy" else {"link": "sigmoid"}  # ŷ = σ(s)
    loss, ds = bptt.LOSSES[loss_name](s, Y, reduction="sum", **options)
    dO_4, d_readout = readout.backward(O[-1], ds)
    gradients = tape.backward(dh_n=dO_4[np.newaxis])  # (1, B, H): only the last state is read
    return {
        "O": O,
        "s": s,
        "loss": loss,
        "terms": brackets(rnn, X, dO_4),
        "dw''": d_readout["weight"],
        "dw": gradients.parameters["weight_ih_l0"],
        "dw'": gradients.parameters["weight_hh_l0"],
        "db": gradients.parameters["bias_ih_l0"],
    }


def notes(backend: str) -> None:
    golden = Golden("seed000_scalar_residual")
    rnn, readout = system(backend, w_out=1.4)
    r = forward_and_gradients(rnn, readout, "residual")
    O, y_hat = r["O"], bptt.sigmoid(r["s"])

    title("Forward")
    table(["t", "x_1t", "O_t"], [(t + 1, float(X[t, 0, 0]), float(O[t, 0, 0])) for t in range(4)])
    show("ŷ = σ(O_4 w'')", y_hat, "the notes print w_i' here, the recurrent weight (E-000-1)")
    show("L = y - ŷ", r["loss"], "signed: no minimum at ŷ = y (E-000-2)")
    golden.check("O_t", O, "expected.h")
    golden.check("ŷ", y_hat, "expected.yhat")
    golden.check("L", r["loss"], "expected.loss")

    title("The factors")
    w_rec, w_out = rnn.parameters["weight_hh_l0"].item(), readout.parameters["weight"].item()
    slope = 1 - O.ravel() ** 2  # f'(z_t) = 1 - O_t²
    sigma_slope = (y_hat * (1 - y_hat)).item()
    factors = {
        "dL_dyhat": ("∂L/∂ŷ", -1.0),
        "dyhat_do4": ("∂ŷ/∂O_4 = ŷ(1-ŷ) w''", sigma_slope * w_out),
        "dyhat_dwo": ("∂ŷ/∂w'' = ŷ(1-ŷ) O_4", sigma_slope * O[-1].item()),
        "do4_do3": ("∂O_4/∂O_3 = f'(z_4) w'", slope[3] * w_rec),
        "do3_do2": ("∂O_3/∂O_2 = f'(z_3) w'", slope[2] * w_rec),
        "do2_do1": ("∂O_2/∂O_1 = f'(z_2) w'", slope[1] * w_rec),
    }
    for key, (name, value) in factors.items():
        show(name, value)
        golden.check(name, value, f"expected.chain_factors.{key}")

    title("The four brackets (the last factor of each is the immediate derivative, O_{t-1} held fixed)")
    terms = r["terms"]
    names = {"dw'": "W_hh", "dw": "W_xh", "db": "b_h"}
    columns = {name: terms[key][3, ::-1].ravel() for name, key in names.items()}  # loss at step 4, t = 4..1
    table(
        ["t", "of dL/dw'", "of dL/dw", "of dL/db"],
        [(4 - n, *(float(c[n]) for c in columns.values())) for n in range(4)]
        + [("sum", *(float(c.sum()) for c in columns.values()))],
    )
    note("The bracket t = 1 of w' is 0, since O_0 = 0 (E-000-3).")
    for name, key in names.items():
        golden.check(f"brackets of {name}", columns[name], f"expected.brackets_t_4_3_2_1.{key}")
    check_brackets(golden, terms)

    title("Gradients by the backward loop: the same sums")
    for name, key in {**names, "dw''": "W_hy"}.items():
        show(f"dL/{name}", r[name])
        golden.check(name, r[name].T, f"expected.grads.{key}")
    note("The notes never update b, and call both w and w'' \"w_old\" (E-000-2).")

    title("One update, w <- w - α dL/dw with α = 0.1, for w, w' and w''")
    weights = {
        "w": rnn.parameters["weight_ih_l0"],
        "w'": rnn.parameters["weight_hh_l0"],
        "w''": readout.parameters["weight"],
    }
    bptt.SGD(lr=0.1).step(weights, {name: r[f"d{name}"] for name in weights})
    for (name, value), key in zip(weights.items(), ["W_xh", "W_hh", "W_hy"], strict=True):
        show(name, value)
        golden.check(f"{name} after the update", value, f"expected.sgd.weights_after.{key}")
    after = forward_and_gradients(rnn, readout, "residual")["loss"]
    show("L after the update", after)
    golden.check("L after the update", after, "expected.sgd.loss_after")

    title("The same system under two proper losses")
    for short, name in {"ssr": "sum_squared_residuals", "bce": "binary_cross_entropy"}.items():
        r = forward_and_gradients(*system(backend, w_out=1.4), name)
        show(f"{name}: L, dL/dw'", [r["loss"], r["dw'"].item()])
        golden.check(name, r["loss"], f"expected.alternative_losses.{short}.loss")
        for grad, key in {**names, "dw''": "W_hy"}.items():
            golden.check(f"{name} {grad}", r[grad].T, f"expected.alternative_losses.{short}.grads.{key}")
    golden.done()


def tied(backend: str) -> None:
    title("Read literally: the readout weight is w' itself (E-000-1)")
    golden = Golden("seed000_tied_readout")
    rnn, readout = system(backend, w_out=0.9)
    r = forward_and_gradients(rnn, readout, "residual")
    w, w_prime = rnn.parameters["weight_ih_l0"], rnn.parameters["weight_hh_l0"]
    show("the notes' four brackets", r["dw'"])
    show("the readout term they miss", r["dw''"])
    show("dL/dw'", r["dw'"] + r["dw''"])
    golden.check("L", r["loss"], "expected.loss")
    golden.check("four brackets", r["dw'"].item(), "expected.tied.four_brackets_sum")
    golden.check("readout term", r["dw''"].item(), "expected.tied.missing_readout_term")
    golden.check("dL/dw'", (r["dw'"] + r["dw''"]).item(), "expected.tied.dL_dw_prime")
    bptt.SGD(lr=0.1).step({"w": w, "w'": w_prime}, {"w": r["dw"], "w'": r["dw'"] + r["dw''"]})
    readout.parameters["weight"][:] = w_prime
    after = forward_and_gradients(rnn, readout, "residual")["loss"]
    show("w, w', L after the update", [w.item(), w_prime.item(), after])
    golden.check("L after the update", after, "expected.tied.sgd.loss_after")
    golden.done()


def train(backend: str, quick: bool) -> None:
    """Train four hidden units on a task with right answers: two proper losses, then the signed residual."""
    title("Trained: is x_4 larger than x_3? 400 sequences, a fifth held out, three losses")
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4, 400, 1))
    y = (x[3] > x[2]).astype(np.float64)  # (B, 1)
    train_x, train_y, test_x, test_y = x[:, :320], y[:320], x[:, 320:], y[320:]
    rows = []
    for name in ("binary_cross_entropy", "sum_squared_residuals", "residual"):
        rnn = bptt.RNN(1, 4, dtype=np.float64, seed=0, backend=backend)
        readout = bptt.Linear(4, 1, dtype=np.float64, seed=0, backend=backend)
        options = {} if name == "binary_cross_entropy" else {"link": "sigmoid"}
        net = bptt.Network(rnn, readout, loss=name, loss_options=options, many_to_one=True, reduction="sum")
        optimizer = bptt.SGD(lr=0.0005)
        for _ in range(500 if quick else 2000):
            loss, gradients = net.loss_and_gradients(train_x, train_y)
            optimizer.step(net.parameters, gradients.parameters)
        y_hat = bptt.sigmoid(readout(rnn(test_x)[0][-1]))
        right = float(np.mean((y_hat > 0.5) == (test_y > 0.5)))
        rows.append((name, loss / len(train_y), float(y_hat.min()), float(y_hat.max()), right))
    table(["loss", "per sequence", "smallest ŷ", "largest ŷ", "held-out accuracy"], rows, digits=4)
    note(
        "The signed residual can only push ŷ up: it runs away to ŷ = 1 for every sequence, whatever y is, "
        f"and its value falls through 0 towards mean(y) - 1 = {train_y.mean() - 1:.3f} (E-000-2)."
    )


if __name__ == "__main__":
    arguments_ = arguments(__doc__)
    notes(arguments_.backend)
    tied(arguments_.backend)
    train(arguments_.backend, arguments_.quick)

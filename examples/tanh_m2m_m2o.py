"""Notes 003: a tanh RNN with an output at every step, then one with a single output and its updates.

    many-to-many    h_t = tanh(W_x x_t + W_h h_{t-1} + b)          y_t = W_y h_t + b_y
    many-to-one     O_t = tanh(x_it w_i + O_{t-1} w_h + b_t)       ŷ = σ(O_3 w_o),  t = 1..3,  η = 0.001

The notes give no loss; here the sum of squared residuals for the first and the cross-entropy of notes 002
for the second (E-003-5). O_0 is 0.25 here, so that no bracket is zero.
"""

from __future__ import annotations

import numpy as np
from _show import Golden, arguments, brackets, check_brackets, note, show, table, title

import bptt

W_X = np.array([[-0.6, 0.4], [0, 1], [0.6, -0.6]])  # (H, I)
W_H = np.array([[-0.2, 0.6, -0.4], [-0.6, 0.2, -0.8], [0.8, -0.2, 0.6]])  # (H, H)
NAMES = {"w_i": "W_xh", "w_h": "W_hh", "w_o": "W_hy"}  # the notes' names, the golden files'


def layers(
    backend: str, w_i: object, w_h: object, b: object, w_o: object, b_y: object = None
) -> tuple[bptt.RNN, bptt.Linear]:
    """Make a tanh layer and a readout with the given weights, row = to, column = from."""
    weight, out = np.atleast_2d(w_i), np.atleast_2d(w_o)
    rnn = bptt.RNN(weight.shape[1], weight.shape[0], nonlinearity="tanh", dtype=np.float64, backend=backend)
    rnn.parameters["weight_ih_l0"][:] = weight
    rnn.parameters["weight_hh_l0"][:] = w_h
    rnn.parameters["bias_ih_l0"][:] = b
    rnn.parameters["bias_hh_l0"][:] = 0  # PyTorch's second bias, which the notes do not have
    readout = bptt.Linear(out.shape[1], out.shape[0], bias=b_y is not None, dtype=np.float64, backend=backend)
    readout.parameters["weight"][:] = out
    if b_y is not None:
        readout.parameters["bias"][:] = b_y
    return rnn, readout


def many_to_many(backend: str) -> None:
    golden = Golden("seed003_m2m_linear_readout")
    x, target = golden["inputs"], golden["targets"]  # (4, 2, 2) each: multiples of a fifth
    W_y, b, b_y = [[-1, 0.2, -1.2], [0, 1.2, -0.2]], [-0.1, 0.1, -0.2], [-0.1, 0.2]
    rnn, readout = layers(backend, W_X, W_H, b, W_y, b_y)
    h, _, tape = rnn.record(x)
    y = readout(h)
    loss, dy = bptt.sum_squared_residuals(y, target)
    title("Many-to-many, two samples")
    for t in range(4):
        show(f"h_{t + 1}, from x_{t + 1} and h_{t}", h[t])
        show(f"y_{t + 1} = W_y h_{t + 1} + b_y", y[t])
    note('The notes label the arrow from h_{t-1} "previous input": it is the previous state (E-003-1).')
    show("L = Σ (target - y)²", loss)
    golden.check("h_t", h, "expected.h")
    golden.check("y_t", y, "expected.yhat")
    golden.check("L", loss, "expected.loss")

    dh, d_readout = readout.backward(h, dy)
    terms = brackets(rnn, x, dh)
    print("  Ten brackets each; those of b:")
    for i in range(4):
        for k in range(i, -1, -1):
            show(f"i = {i + 1}, k = {k + 1}", terms["b_h"][i, k])
    check_brackets(golden, terms)
    g = tape.backward(dh).parameters
    gradients = {
        "W_x": g["weight_ih_l0"],
        "W_h": g["weight_hh_l0"],
        "b": g["bias_ih_l0"],
        "W_y": d_readout["weight"],
        "b_y": d_readout["bias"],
    }
    weights = {
        "W_x": rnn.parameters["weight_ih_l0"],
        "W_h": rnn.parameters["weight_hh_l0"],
        "b": rnn.parameters["bias_ih_l0"],
        "W_y": readout.parameters["weight"],
        "b_y": readout.parameters["bias"],
    }
    bptt.SGD(lr=0.001).step(weights, gradients)
    for name, key in zip(weights, ["W_xh", "W_hh", "b_h", "W_hy", "b_y"], strict=True):
        show(f"dL/d{name}", gradients[name])
        golden.check(f"dL/d{name}", gradients[name].T, f"expected.grads.{key}")
        golden.check(f"{name} after", weights[name].T, f"expected.sgd.weights_after.{key}")
    after = bptt.sum_squared_residuals(readout(rnn(x)[0]), target)[0]
    show("L after one update of all five", after)
    golden.check("L after", after, "expected.sgd.loss_after")
    golden.done()


def many_to_one(
    name: str,
    x: np.ndarray,
    h_0: np.ndarray,
    y: np.ndarray,
    rnn: bptt.RNN,
    readout: bptt.Linear,
    steps: int = 1,
) -> None:
    """Show brackets, gradients and `steps` updates of w_i, w_h and w_o; the golden file has the first."""
    golden = Golden(name)
    weights = {
        "w_i": rnn.parameters["weight_ih_l0"],
        "w_h": rnn.parameters["weight_hh_l0"],
        "w_o": readout.parameters["weight"],
    }
    history = []
    for step in range(steps + 1):
        O, _, tape = rnn.record(x, h_0)
        s = readout(O[-1])
        loss, ds = bptt.binary_cross_entropy(s, y, reduction="sum")
        history.append((step, loss, *(float(w.ravel()[0]) for w in weights.values())))
        if step == 1:
            golden.check("L after", loss, "expected.sgd.loss_after")
            for key, w in weights.items():
                golden.check(f"{key} after", w.T, f"expected.sgd.weights_after.{NAMES[key]}")
        dO_3, d_readout = readout.backward(O[-1], ds)
        g = tape.backward(dh_n=dO_3[np.newaxis]).parameters
        gradients = {"w_i": g["weight_ih_l0"], "w_h": g["weight_hh_l0"], "w_o": d_readout["weight"]}
        if step == 0:
            terms = brackets(rnn, x, dO_3, h_0[0])
            for t in range(3):
                show(f"O_{t + 1}", O[t])
            show("ŷ = σ(O_3 w_o)", bptt.sigmoid(s))
            show("L", loss)
            for key, term in (("w_h", "W_hh"), ("w_i", "W_xh")):
                for t in (3, 2, 1):
                    show(f"t = {t}: bracket of ∂L/∂{key}", terms[term][2, t - 1])
                show(f"∂L/∂{key}", gradients[key].T)
            show("∂L/∂w_o (step 1, missing: E-003-5)", gradients["w_o"].T)
            golden.check("O_t", O, "expected.h")
            golden.check("L", loss, "expected.loss")
            check_brackets(golden, terms)
            for key, value in gradients.items():
                golden.check(f"∂L/∂{key}", value.T, f"expected.grads.{NAMES[key]}")
            if "dL_db_1_2_3" in golden["expected"]:
                per_step = terms["b_h"][2].ravel()
                show("∂L/∂b_1, b_2, b_3", per_step, "for a shared b their sum (E-003-2)")
                golden.check("∂L/∂b_t", per_step, "expected.dL_db_1_2_3")
                printed = dO_3.item() + gradients["w_h"].item()
                show("t = 3 as printed, '+' and ∂L/∂w_h", printed, "for '*' and ∂o_3/∂w_h (E-003-3)")
                golden.check("line 90", printed, "expected.line90_as_printed.value_of_t3_bracket_with_plus")
        bptt.SGD(lr=0.001).step(weights, gradients)
    print("  Updates w <- w - 0.001 ∂L/∂w (first entry of each):")
    table(["update", "L", *weights], history)
    golden.done()


def notes(backend: str) -> None:
    many_to_many(backend)
    x, h_0, y = np.array([0.9, -0.4, 0.7]).reshape(3, 1, 1), np.array([[[0.25]]]), np.array([[1.0]])
    title('Many-to-one, a shared bias b = 0.15 (the notes\' "initial weights" are input weights, E-003-4)')
    many_to_one("seed003_m2o_scalar", x, h_0, y, *layers(backend, 0.5, -0.8, 0.15, 1.2), steps=5)
    title("Many-to-one with the notes' b_1, b_2, b_3: a one-hot clock beside x_t makes them input weights")
    clock = np.concatenate([x, np.eye(3)[:, np.newaxis]], axis=2)  # (T, B, 1 + T)
    biases = layers(backend, [0.5, 0.15, -0.05, 0.3], -0.8, 0, 1.2)
    many_to_one("seed003_m2o_scalar_time_biases", clock, h_0, y, *biases)
    title("Many-to-one with three hidden units and two samples")
    vector = np.array([[[-0.8, 0.6], [0.2, -0.6]], [[-0.2, -1.0], [0.8, 0.0]], [[0.4, -0.4], [-0.8, 0.6]]])
    many_to_one(
        "seed003_m2o_vector",
        vector,
        np.array([[[-0.2, 0, 0.2], [-0.1, 0.1, -0.2]]]),
        np.array([[1.0], [0.0]]),
        *layers(backend, W_X, W_H, [-0.1, 0.1, -0.2], [-1, 0.2, -1.2]),
    )


def recordings(count: int, steps: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return noisy readings and the true positions, both (T, B, 1), each swing with its own period."""
    t = np.arange(steps)[:, np.newaxis]
    true = np.sin(2 * np.pi * (t / rng.uniform(15, 40, count) + rng.random(count)))[:, :, np.newaxis]
    return true + 0.5 * rng.standard_normal(true.shape), true


def follow(backend: str, quick: bool) -> None:
    title("Trained: follow a swinging object through a noisy sensor, an estimate at every step")
    rng = np.random.default_rng(0)
    reading, true = recordings(256, 60, rng)
    test_reading, test_true = recordings(100, 60, rng)
    rnn = bptt.RNN(1, 32, dtype=np.float64, init="orthogonal", seed=0, backend=backend)
    readout = bptt.Linear(32, 1, dtype=np.float64, seed=0, backend=backend)
    net = bptt.Network(rnn, readout, loss="mean_squared_error")
    net.fit(
        reading,
        true,
        epochs=10 if quick else 60,
        optimizer=bptt.Adam(lr=3e-3),
        clip_norm=1.0,
        seed=0,
        progress=False,
    )

    def rmse(estimate: np.ndarray) -> float:
        return float(np.sqrt(np.mean((estimate - test_true)[10:] ** 2)))  # after ten steps to get going

    smooth = {}
    for alpha in (0.2, 0.4, 0.6, 0.8):  # the best of the classical filters, chosen on the test set itself
        estimate = np.zeros_like(test_reading)
        for t in range(60):
            estimate[t] = alpha * test_reading[t] + (1 - alpha) * estimate[t - 1]  # estimate[-1] is still 0
        smooth[alpha] = rmse(estimate)
    rows = [
        ("the reading itself", rmse(test_reading)),
        ("best exponential smoothing", min(smooth.values())),
        ("the trained RNN", rmse(net.predict(test_reading))),
    ]
    table(["held-out root mean squared error", ""], rows, digits=3)


if __name__ == "__main__":
    options_ = arguments(__doc__)
    notes(options_.backend)
    follow(options_.backend, options_.quick)

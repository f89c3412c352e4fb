"""Notes 004: from yesterday's and today's value to tomorrow's, with ReLU and in the linear unrolled form.

    h_t = ReLU(x_t w1 + 0.0 + h_{t-1} w2),  h_0 = 0        Predicted = h_T w3 + 0.0
    SSR = Σ_i (observed_i - predicted_i)²                  w1 = 1.8, w2 = -0.5, w3 = 1.1

Then the same recurrence, with more units, forecasts a real series: sunspots, a year ahead.
"""

from __future__ import annotations

import numpy as np
from _show import Golden, arguments, brackets, check_brackets, note, show, table, title

import bptt

NAMES = {"w1": "W_xh", "w2": "W_hh", "w3": "W_hy"}  # the notes' names, the golden files'


def system(backend: str, nonlinearity: str, w3: float) -> tuple[bptt.RNN, bptt.Linear, dict[str, np.ndarray]]:
    rnn = bptt.RNN(1, 1, nonlinearity=nonlinearity, dtype=np.float64, backend=backend)
    readout = bptt.Linear(1, 1, dtype=np.float64, backend=backend)
    weights = {
        "w1": rnn.parameters["weight_ih_l0"],
        "w2": rnn.parameters["weight_hh_l0"],
        "w3": readout.parameters["weight"],
    }
    for bias in (rnn.parameters["bias_ih_l0"], rnn.parameters["bias_hh_l0"], readout.parameters["bias"]):
        bias[:] = 0.0
    for name, value in zip(weights, (1.8, -0.5, w3), strict=True):
        weights[name][:] = value
    return rnn, readout, weights


def days(*rows: list[float]) -> np.ndarray:
    """(T, B, 1) from one list a day, the oldest first, one column a sequence."""
    return np.array(rows)[:, :, np.newaxis]


def run(rnn: bptt.RNN, readout: bptt.Linear, x: np.ndarray, observed: np.ndarray) -> dict[str, np.ndarray]:
    h, _, tape = rnn.record(x)
    predicted = readout(h[-1])
    ssr, ds = bptt.sum_squared_residuals(predicted, observed)
    dh_T, d_readout = readout.backward(h[-1], ds)
    g = tape.backward(dh_n=dh_T[np.newaxis])
    return {
        "h": h,
        "predicted": predicted,
        "ssr": ssr,
        "ds": ds,
        "terms": brackets(rnn, x, dh_T),
        "w1": g.parameters["weight_ih_l0"],
        "w2": g.parameters["weight_hh_l0"],
        "b": g.parameters["bias_ih_l0"],
        "w3": d_readout["weight"],
    }


def update(
    golden: Golden, system_: tuple, r: dict, x: np.ndarray, observed: np.ndarray, names: list[str], lr: float
) -> None:
    rnn, readout, weights = system_
    bptt.SGD(lr=lr).step({n: weights[n] for n in names}, {n: r[n] for n in names})
    after = bptt.sum_squared_residuals(readout(rnn(x)[0][-1]), observed)[0]
    show(f"{', '.join(names)}, SSR after η = {lr}", [*(weights[n].item() for n in names), after])
    for name in names:
        golden.check(f"{name} after", weights[name], f"expected.sgd.weights_after.{NAMES[name]}")
    golden.check("SSR after", after, "expected.sgd.loss_after")


def relu(backend: str) -> None:
    golden = Golden("seed004_relu_four_sequences")
    x, observed = days([0, 0, 1, 1], [0, 0.5, 0.5, 1]), np.array([[0.0], [1.0], [0.0], [1.0]])
    parts = system(backend, "relu", w3=1.1)
    r = run(*parts[:2], x, observed)
    title("ReLU, four sequences (the notes hold one of them and the end of another)")
    table(
        ["yesterday", "today", "h_1", "h_2", "predicted", "observed"],
        np.column_stack([*x[:, :, 0], *r["h"][:, :, 0], r["predicted"], observed]).tolist(),
    )
    note(
        "The notes follow (1, 0.5) to h_2 = 0 and then print 0.9 × 1.1 ≈ 1: that is (0, 0.5) or (1, 1) "
        "(E-004-1), and it is 0.99 (E-004-5); (1, 0.5) gives 0 × 1.1 = 0."
    )
    golden.check("h", r["h"], "expected.h")
    golden.check("predicted", r["predicted"], "expected.yhat")
    golden.check("SSR", r["ssr"], "expected.loss")

    title("Brackets of dSSR/dw1 and dSSR/dw2, a sequence at a time")
    rows = []
    for b, sequence in enumerate(golden["expected.per_sequence"]):
        one = run(*parts[:2], x[:, b : b + 1].copy(), observed[b : b + 1])
        w1, w2 = (one["terms"][key][1, ::-1].ravel() for key in ("W_xh", "W_hh"))
        name = f"({x[0, b, 0]:g}, {x[1, b, 0]:g})"
        rows.append((name, *map(float, [*w1, *w2, one["w3"].item()])))
        golden.compare("brackets of w1", w1, sequence["terms_w1_t2_t1"])
        golden.compare("brackets of w2", w2, sequence["terms_w2_t2_t1"])
        golden.compare("dSSR/dw3", one["w3"].item(), sequence["dSSR_dw3"])
    table(["sequence", "w1, t = 2", "w1, t = 1", "w2, t = 2", "w2, t = 1", "w3"], rows)
    check_brackets(golden, r["terms"])
    show("SSR", r["ssr"])
    for name, key in NAMES.items():
        show(f"dSSR/d{name}", r[name])
        golden.check(f"dSSR/d{name}", r[name], f"expected.grads.{key}")
    golden.check("dSSR/db", r["b"].item(), "expected.db_h_one_sided.left")
    update(golden, parts, r, x, observed, ["w1", "w2", "w3"], 0.1)
    golden.done()

    title("On the kink: (1, 0.5) has z_2 = 0 exactly; suppose 1 was observed")
    golden = Golden("seed004_relu_kink")
    x, observed = days([1], [0.5]), np.array([[1.0]])
    # Left of z = 0 ReLU's slope is 0, which is also the convention at 0; right of it ReLU is the identity.
    left, right = (run(*system(backend, f, w3=1.1)[:2], x, observed) for f in ("relu", "identity"))
    keys = {"w1": "w1", "w2": "w2", "w3": "w3", "b": "b_h"}
    table(["", "slope 0", "slope 1"], [(f"dSSR/d{n}", left[n].item(), right[n].item()) for n in keys])
    for name, key in keys.items():
        golden.check(f"left {name}", left[name].item(), f"expected.one_sided.{key}.left")
        golden.check(f"right {name}", right[name].item(), f"expected.one_sided.{key}.right")
    golden.done()


def linear(backend: str) -> None:
    """Check the unrolled formulas, which silently drop ReLU, w3 and the biases (E-004-7)."""
    table_x = [[0.2, 1.0, 0.4], [0.6, 0.5, 0.9], [1.0, 0.2, 0.3]]  # day before yesterday, yesterday, today
    observed = np.array([[0.8], [-0.1], [0.5]])
    w1, w2 = 1.8, -0.5
    older, yesterday, today = map(np.array, table_x)
    closed = {
        1: ("Today w1", "Today", today),
        2: ("Yest w1 w2 + Today w1", "Yest w2 + Today", yesterday * w2 + today),
        3: (
            "DBY w1 w2² + Yest w1 w2 + Today w1",
            "DBY w2² + Yest w2 + Today",
            older * w2**2 + yesterday * w2 + today,
        ),
    }
    for T, (formula, derivative, value) in closed.items():
        title(f"Linear, {T} day{'s'[: T > 1]}: Predicted = {formula}")
        golden = Golden(f"seed004_linear_{T}day")
        x = days(*table_x[3 - T :])
        parts = system(backend, "identity", w3=1.0)
        r = run(*parts[:2], x, observed)
        show("Predicted", r["predicted"].T, "three sequences")
        show(f"dPredicted/dw1 = {derivative}", value)
        show("SSR, dSSR/dw1, dSSR/dw2", [r["ssr"], r["w1"].item(), r["w2"].item()])
        for t in range(T, 0, -1):
            pair = [r["terms"][key][T - 1, t - 1].item() for key in ("W_xh", "W_hh")]
            show(f"bracket t = {t} of w1, of w2", pair)
        golden.compare("Predicted by the formula", w1 * value, r["predicted"].ravel())
        golden.compare("dSSR/dw1 by the formula", np.sum(r["ds"].ravel() * value), r["w1"].item())
        golden.check("Predicted", r["predicted"].ravel(), "expected.closed_form.predicted")
        golden.check("dPredicted/dw1", value, "expected.closed_form.dPredicted_dw1")
        golden.check("SSR", r["ssr"], "expected.closed_form.SSR")
        golden.check("dSSR/dw1", r["w1"].item(), "expected.closed_form.dSSR_dw1")
        golden.check("dSSR/dw2", r["w2"].item(), "expected.closed_form.dSSR_dw2")
        check_brackets(golden, r["terms"])
        product = float(r["ds"].sum() * value.sum())
        show("product of the two sums", product, "as printed, with a Σ in each factor: wrong (E-004-2)")
        path = "expected.as_printed_line_76.sum_dSSR_dPredicted_times_sum_dPredicted_dw1"
        golden.check("product of sums", product, path)
        if T == 2:
            printed = w1 * today + w2 * yesterday
            show("w1 Today + w2 Yesterday", printed, "as printed: Yesterday lacks w1 (E-004-3)")
            show("its derivative, Today", today, "right for that model only")
            golden.check("printed", printed, "expected.as_printed_lines_105_108.predicted")
            golden.check("derivative", today, "expected.as_printed_lines_105_108.dPredicted_dw1")
        if T == 3:
            printed = older * w1 * w2 + yesterday * w1 * w2 + today * w1
            show("[(DBY w1 w2) + (Yest w1) w2] + ...", printed, "as printed: one w2 short for DBY (E-004-4)")
            golden.check("printed", printed, "expected.as_printed_line_122.predicted")
        update(golden, parts, r, x, observed, ["w1", "w2"], 0.01)
        golden.done()

    note("Two fragments at the end of the notes, with 9.226, could not be read (E-004-6).")
    title("How often is an input multiplied by w2? In dPredicted/dw1, once for each unrolling after it")
    golden = Golden("seed004_unrolling_exponents")
    for T in range(1, 7):
        rnn, _, _ = system(backend, "identity", w3=1.0)
        ones, dy = np.ones((T, 1, 1)), np.zeros((T, 1, 1))
        dy[-1] = 1
        terms = brackets(rnn, ones, dy)["W_xh"][T - 1].ravel()
        exponents = golden["expected.exponent_of_w2_in_dPredicted_dw1_for_x_1_to_x_T"][str(T)]
        golden.compare(f"T = {T}", terms, w2 ** np.array(exponents, dtype=float))
        print(f"  T = {T}: exponents of w2 for x_1..x_{T}: {exponents}")
    golden.done()


def sunspots(backend: str, quick: bool, out: str) -> None:
    """Forecast the yearly sunspot number a year ahead and plot the years that training never saw."""
    title("Trained: the sunspot number of next year from the last 22 years")
    try:
        from matplotlib.figure import Figure
        from statsmodels.datasets import sunspots as data
    except ModuleNotFoundError as error:
        note(
            f"This part needs statsmodels and matplotlib, and {error.name} is not installed: "
            "pip install statsmodels matplotlib"
        )
        return
    frame = data.load_pandas().data
    year, series = frame["YEAR"].to_numpy().astype(int), frame["SUNACTIVITY"].to_numpy() / 100
    span, held_out = 22, 1960
    windows = np.lib.stride_tricks.sliding_window_view(series, span)[:-1]  # (years, span)
    x = np.ascontiguousarray(windows.T)[:, :, np.newaxis]  # (T, B, 1)
    target, target_year = series[span:, np.newaxis], year[span:]
    past, future = target_year < held_out, target_year >= held_out
    forecast = np.zeros_like(target)
    for seed in range(2 if quick else 5):  # the average of a few starts: less luck in it
        same: dict = {"dtype": np.float64, "seed": seed, "backend": backend}
        rnn = bptt.RNN(1, 16, nonlinearity="relu", init="orthogonal", **same)
        net = bptt.Network(rnn, bptt.Linear(16, 1, **same), loss="mean_squared_error", many_to_one=True)
        net.fit(
            x[:, past],
            target[past],
            epochs=30 if quick else 100,
            optimizer=bptt.Adam(lr=2e-3),
            clip_norm=1.0,
            seed=seed,
            progress=False,
        )
        forecast += net.predict(x) / (2 if quick else 5)

    def rmse(guess: np.ndarray) -> float:
        return float(100 * np.sqrt(np.mean((guess - target)[future] ** 2)))

    persistence = x[-1]  # next year as this year
    design = np.column_stack([np.ones(len(target)), windows])
    regression = design @ np.linalg.lstsq(design[past], target[past], rcond=None)[0]
    first, last = target_year[future][[0, -1]]
    table(
        [f"root mean squared error {first}-{last}, never trained on", "sunspots"],
        [
            ("as this year (persistence)", rmse(persistence)),
            ("linear regression on the same 22 years", rmse(regression)),
            ("the RNN", rmse(forecast)),
        ],
        digits=2,
    )

    axes = (figure := Figure(figsize=(9, 4), layout="constrained")).subplots()
    shown = target_year >= 1900
    axes.axvspan(first - 0.5, last + 0.5, color="0.93", label="held out")
    axes.plot(target_year[shown], 100 * target[shown, 0], color="black", label="observed")
    axes.plot(target_year[shown], 100 * forecast[shown, 0], color="tab:red", label="RNN, a year ahead")
    axes.plot(
        target_year[future], 100 * persistence[future, 0], "--", color="tab:blue", lw=0.8, label="persistence"
    )
    axes.set(xlabel="year", ylabel="sunspot number", title="Yearly sunspots, forecast one year ahead")
    axes.legend(loc="upper left", ncols=2, fontsize="small")
    figure.savefig(out, dpi=120)
    print(f"  Forecast and truth are plotted in {out}")


if __name__ == "__main__":
    options = arguments(__doc__, out={"default": "sunspots.png", "help": "the plot, default %(default)s"})
    relu(options.backend)
    linear(options.backend)
    sunspots(options.backend, options.quick, options.out)

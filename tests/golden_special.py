"""Checks of what single golden files say beyond the common part: brackets, misreadings, closed forms.

The formulas "as printed" in the lecture notes are evaluated where they are defined by numbers, and shown to
differ from the gradient.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from golden_cases import SYMBOLIC, Case, load, read
from golden_checks import (
    Backward,
    Forward,
    Parameters,
    Subject,
    backward,
    check_update,
    forward,
    loss_and_ds,
    state_jacobian,
    whole,
)

from bptt.arrays import Array
from bptt.reference import cells

COMMON_KEYS = {
    "z",
    "h",
    "s",
    "yhat",
    "loss",
    "loss_per_step",
    "loss_per_sample",
    "dL_ds",
    "dL_dh_total",
    "grads",
}
COMMON_KEYS |= {"terms", "readout_terms", "truncated", "sgd", "jacobians"}
#: What each file has besides; every key is checked below.
EXTRA_KEYS = {
    "seed000_scalar_residual": {"brackets_t_4_3_2_1", "chain_factors", "alternative_losses"},
    "seed000_tied_readout": {"tied"},
    "seed001_hello_charrnn": {"notes"},
    "seed002_T10_vanish": {"vanishing"},
    "seed002_m2o_bce": {"misreadings"},
    "seed003_m2o_scalar": {"dL_db_1_2_3", "brackets_t_3_2_1", "line90_as_printed"},
    "seed003_m2o_scalar_time_biases": {"dL_db_1_2_3", "brackets_t_3_2_1", "line90_as_printed", "sgd_w_only"},
    "seed004_linear_1day": {"closed_form", "as_printed_line_76"},
    "seed004_linear_2day": {"closed_form", "as_printed_line_76", "as_printed_lines_105_108"},
    "seed004_linear_3day": {"closed_form", "as_printed_line_76", "as_printed_line_122"},
    "seed004_relu_four_sequences": {"per_sequence", "db_h_one_sided"},
    "seed004_relu_kink": {"one_sided"},
}


def cumulated(subject: Subject, case: Case, run: Forward, back: Backward) -> list[dict[str, Array]]:
    """Gradients truncated to depth 1 .. T: of a many-to-one loss, the running sums of its brackets."""
    result = []
    for depth in range(1, len(case.x) + 1):
        *_, dw = subject.backend.bptt(case.cell, run.saved, back.dh, None, depth=depth)
        result.append({"W_xh": dw.weight_ih, "W_hh": dw.weight_hh, "b_h": dw.bias_ih})
    return result


def scalar(array: Array) -> float:
    """Return the only entry."""
    assert array.size == 1
    return float(array.ravel()[0])


def check_brackets(
    subject: Subject, case: Case, sums: list[dict[str, Array]], want: dict[str, Array]
) -> None:
    """Check the notes' brackets (t descending) through their running sums."""
    for name, brackets in want.items():
        key = {"w_h": "W_hh", "w_i": "W_xh"}.get(name, name)
        subject.check(f"brackets {name}", [s[key].ravel()[0] for s in sums], np.cumsum(brackets), case)


def check_seed000_brackets_and_factors(subject: Subject) -> None:
    """Four brackets, chain factors; the same system under two other losses."""
    case = load("seed000_scalar_residual")
    want = case.expected
    parameters, run, _, _, back = whole(subject, case)
    check_brackets(subject, case, cumulated(subject, case, run, back), want["brackets_t_4_3_2_1"])

    slope = run.yhat * (1.0 - run.yhat)
    dyhat_do4, dyhat_dwo, _ = subject.backend.affine_backward(run.h_n, parameters.W_hy, subject.cast(slope))
    # A unit of yhat has the signed residual's gradient -1.
    factors = {"dL_dyhat": scalar(back.dh[-1]) / scalar(dyhat_do4)}
    factors |= {"dyhat_do4": scalar(dyhat_do4), "dyhat_dwo": scalar(dyhat_dwo)}
    for t in (4, 3, 2):
        factors[f"do{t}_do{t - 1}"] = scalar(
            state_jacobian(subject, case, t - 1, t, case.expected["h"][t - 2])
        )
    assert factors.keys() == want["chain_factors"].keys()
    for name, value in want["chain_factors"].items():
        subject.check(name, factors[name], value, case)

    for name, other in want["alternative_losses"].items():
        loss, ds = loss_and_ds(subject, name, "sigmoid", run.s, case.targets)
        subject.check(f"{name} loss", loss, other["loss"], case)
        back = backward(subject, case, parameters, run, ds)
        for key, value in other["grads"].items():
            subject.check(f"{name} {key}", back.gradients[key], value, case)
        check_brackets(subject, case, cumulated(subject, case, run, back), other["brackets_t_4_3_2_1"])


def check_seed000_tied(subject: Subject) -> None:
    """One weight w' in the recurrence and in the readout: four brackets and a readout term."""
    case = load("seed000_tied_readout")
    want = case.expected["tied"]
    parameters, _, _, _, back = whole(subject, case)
    assert parameters.W_hh == parameters.W_hy
    brackets, missing = scalar(back.gradients["W_hh"]), scalar(back.gradients["W_hy"])
    subject.check("four brackets", brackets, want["four_brackets_sum"], case)
    subject.check("readout term", missing, want["missing_readout_term"], case)
    subject.check("dL/dw'", brackets + missing, want["dL_dw_prime"], case)

    tied = {**back.gradients}
    tied["W_hh"] = tied["W_hy"] = back.gradients["W_hh"] + back.gradients["W_hy"]
    new = parameters.updated(tied, ("W_xh", "W_hh", "W_hy"), want["sgd"]["learning_rate"])
    subject.check("w after", scalar(new.W_xh), want["sgd"]["w_after"], case)
    subject.check("w' after", scalar(new.W_hh), want["sgd"]["w_prime_after"], case)
    loss, _ = loss_and_ds(subject, case.loss, case.readout, forward(subject, case, new).s, case.targets)
    subject.check("loss after", loss, want["sgd"]["loss_after"], case)


def check_seed001_variants(subject: Subject) -> None:
    """The notes' closed forms: b_a and w_ax cut to depth 1, the softmax derivative's diagonal alone."""
    case = load("seed001_hello_charrnn")
    notes = case.expected["notes"]
    parameters, run, _, ds, back = whole(subject, case)

    first = backward(subject, case, parameters, run, ds, depth=1).gradients
    mixed = {**back.gradients, "W_xh": first["W_xh"], "b_h": first["b_h"]}
    for name in ("W_xh", "b_h"):
        subject.check(f"depth 1 {name}", mixed[name], notes["depth1_exact_softmax"][name], case)
        assert np.abs(mixed[name] - back.gradients[name]).max() > 0.05
    check_update(subject, case, parameters, mixed, notes["sgd_with_depth1_exact_softmax"])

    # dL/dnet_j = -target_j (1 - prediction_j)
    diagonal = subject.cast(-case.targets * (1.0 - run.yhat))
    whole_way = backward(subject, case, parameters, run, diagonal)
    first = backward(subject, case, parameters, run, diagonal, depth=1).gradients
    literal = {**whole_way.gradients, "W_xh": first["W_xh"], "b_h": first["b_h"]}
    for name in ("W_xh", "W_hh", "b_h", "W_hy", "b_y"):
        subject.check(f"literal {name}", literal[name], notes["literal_target_neuron_only"][name], case)
        assert np.abs(literal[name] - back.gradients[name]).max() > 0.05
    check_update(subject, case, parameters, literal, notes["sgd_with_literal"])

    # As printed, tanh once more: the sum over t of the readout's signal times 1 - tanh(a(t))^2.
    twice = (whole_way.dh * (1.0 - np.tanh(run.h) ** 2)).sum(axis=(0, 1))
    subject.check("literal b_a", twice, notes["literal_b_a_with_tanh_of_a"]["b_h"], case)


def check_seed002_misreadings(subject: Subject) -> None:
    """All partials total, all immediate, and the output weight as printed."""
    case = load("seed002_m2o_bce")
    misread = case.expected["misreadings"]
    _, run, _, _, back = whole(subject, case)
    sums = cumulated(subject, case, run, back)
    T = len(sums)
    for name in ("W_xh", "W_hh"):
        # sum over k of (T - k + 1) term(T,k) = T S_T - S_{T-1} - .. - S_1, S_K the running sums
        total = T * sums[-1][name] - sum(s[name] for s in sums[:-1])
        want = misread["all_partials_total (term k counted T-k+1 times)"][name]
        subject.check(f"all total {name}", total, want, case)
        want = misread["all_partials_immediate (only k = 3 survives)"][name]
        subject.check(f"all immediate {name}", sums[0][name], want, case)
        assert np.abs(total - back.gradients[name]).max() > 0.05
        assert np.abs(sums[0][name] - back.gradients[name]).max() > 0.05
    # o_3 does not depend on w_o: as printed the gradient is 0, and it is not.
    printed = misread["dL_dwo_as_printed (do3/dwo = 0)"]
    assert not np.any(printed)
    assert np.abs(back.gradients["W_hy"].ravel() - printed.ravel()).min() > 0.5


def check_seed002_vanishing(subject: Subject) -> None:
    """The product of nine Jacobians, its factors and its bound."""
    case = load("seed002_T10_vanish")
    want = case.expected["vanishing"]
    _, run, _, _, _ = whole(subject, case)
    slopes = [cells.derivative("tanh", h) for h in run.h.ravel().tolist()[1:]]
    subject.check("f'", slopes, want["fprime_t2_to_t10"], case)
    h = case.expected["h"]
    factors = [scalar(state_jacobian(subject, case, t - 1, t, h[t - 2])) for t in range(2, 11)]
    subject.check("f' w_h", factors, want["factors_fprime_times_wh_t2_to_t10"], case)
    products = [scalar(state_jacobian(subject, case, 1, t, h[0])) for t in range(2, 11)]
    subject.check("do_t/do_1", products, want["do_t_do_1_t2_to_t10"], case)
    bound = abs(scalar(case.weights.weight_hh)) ** 9
    subject.check("bound", bound, want["bound_abs_wh_pow_9"], case)
    assert abs(products[-1]) < bound


def check_line_90(subject: Subject, case: Case, back: Backward) -> None:
    """The bracket printed with a plus: dL/dyhat dyhat/do_3 + dL/dw_h."""
    printed = scalar(back.dh[-1]) + scalar(back.gradients["W_hh"])
    subject.check(
        "line 90", printed, case.expected["line90_as_printed"]["value_of_t3_bracket_with_plus"], case
    )
    assert abs(printed - case.expected["brackets_t_3_2_1"]["w_h"][0]) > 0.2


def check_seed003_shared_bias(subject: Subject) -> None:
    """Brackets; the gradient of a bias of step k alone is the term (3, k)."""
    case = load("seed003_m2o_scalar")
    _, run, _, _, back = whole(subject, case)
    sums = cumulated(subject, case, run, back)
    check_brackets(subject, case, sums, case.expected["brackets_t_3_2_1"])
    check_brackets(subject, case, sums, {"b_h": case.expected["dL_db_1_2_3"][::-1]})
    check_line_90(subject, case, back)


def check_seed003_time_biases(subject: Subject) -> None:
    """Biases b_1, b_2, b_3 as rows of W_xh that a one-hot clock drives."""
    case = load("seed003_m2o_scalar_time_biases")
    want = case.expected
    parameters, run, _, _, back = whole(subject, case)
    np.testing.assert_array_equal(case.x[:, 0, 1:], np.eye(3))
    subject.check("dL/db_1..3", back.gradients["W_xh"][0, 1:], want["dL_db_1_2_3"], case)
    check_brackets(
        subject,
        case,
        [{"W_hh": s["W_hh"]} for s in cumulated(subject, case, run, back)],
        {"w_h": want["brackets_t_3_2_1"]["w_h"]},
    )
    # Column 0 of W_xh is w_i.
    w_i = [{"W_xh": s["W_xh"][:, :1]} for s in cumulated(subject, case, run, back)]
    check_brackets(subject, case, w_i, {"w_i": want["brackets_t_3_2_1"]["w_i"]})
    check_line_90(subject, case, back)
    new = parameters.updated(back.gradients, ("W_xh", "W_hh", "W_hy"), case.learning_rate)
    after = want["sgd_w_only"]
    subject.check("w_i", new.W_xh[0, 0], after["w_i"], case)
    subject.check("w_h", scalar(new.W_hh), after["w_h"], case)
    subject.check("w_o", scalar(new.W_hy), after["w_o"], case)


def check_seed004_closed_forms(subject: Subject) -> None:
    """One, two and three days of the linear network, and three formulas as printed."""
    for days, name in enumerate(
        ("seed004_linear_1day", "seed004_linear_2day", "seed004_linear_3day"), start=1
    ):
        case = load(name)
        closed = case.expected["closed_form"]
        _, run, loss, ds, back = whole(subject, case)
        subject.check("predicted", run.s[:, 0], closed["predicted"], case)
        subject.check("SSR", loss, closed["SSR"], case)
        subject.check("dSSR/dw1", scalar(back.gradients["W_xh"]), closed["dSSR_dw1"], case)
        subject.check("dSSR/dw2", scalar(back.gradients["W_hh"]), closed["dSSR_dw2"], case)
        # dPredicted/dw1 of each sequence: a unit gradient at its prediction alone.
        slopes = []
        for b in range(case.x.shape[1]):
            unit = np.zeros_like(run.h)
            unit[-1, b] = 1.0
            *_, dw = subject.backend.bptt(case.cell, run.saved, unit, None)
            slopes.append(scalar(dw.weight_ih))
        subject.check("dPredicted/dw1", slopes, closed["dPredicted_dw1"], case)

        # Line 76 puts the sum inside the outer derivative: a product of two sums.
        printed = case.expected["as_printed_line_76"]["sum_dSSR_dPredicted_times_sum_dPredicted_dw1"]
        subject.check("line 76", float(ds.sum()) * sum(slopes), printed, case)
        assert abs(printed - closed["dSSR_dw1"]) > 0.1

        w1, w2 = scalar(case.weights.weight_ih), scalar(case.weights.weight_hh)
        x = case.x[:, :, 0]
        if days == 2:
            lines = case.expected["as_printed_lines_105_108"]
            subject.check("line 105", w1 * x[1] + w2 * x[0], lines["predicted"], case)
            subject.check("line 108", x[1], lines["dPredicted_dw1"], case)
            assert np.abs(lines["predicted"] - closed["predicted"]).min() > 0.1
            assert np.abs(lines["dPredicted_dw1"] - closed["dPredicted_dw1"]).min() > 0.1
        if days == 3:
            lines = case.expected["as_printed_line_122"]
            printed = x[0] * w1 * w2 + x[1] * w1 * w2 + x[2] * w1
            subject.check("line 122", printed, lines["predicted"], case)
            assert np.abs(lines["predicted"] - closed["predicted"]).max() > 0.1


def check_seed004_sequences(subject: Subject) -> None:
    """Each of the four sequences by itself."""
    case = load("seed004_relu_four_sequences")
    assert len(case.expected["per_sequence"]) == case.x.shape[1]
    for b, want in enumerate(case.expected["per_sequence"]):
        alone = replace(
            case, x=case.x[:, b : b + 1], h_0=case.h_0[b : b + 1], targets=case.targets[b : b + 1]
        )
        assert alone.x.ravel().tolist() == [want["yesterday"], want["today"]]
        assert scalar(alone.targets) == want["observed"]
        _, run, loss, _, back = whole(subject, alone)
        subject.check("h", run.h.ravel(), want["h"], case)
        # With these values ReLU keeps every z: none is negative.
        subject.check("z", run.h.ravel(), want["z"], case)
        subject.check("predicted", scalar(run.s), want["predicted"], case)
        subject.check("squared residual", loss, want["squared_residual"], case)
        for key, name in (("dSSR_dw1", "W_xh"), ("dSSR_dw2", "W_hh"), ("dSSR_dw3", "W_hy")):
            subject.check(key, scalar(back.gradients[name]), want[key], case)
        sums = cumulated(subject, alone, run, back)
        terms = {"W_xh": want["terms_w1_t2_t1"], "W_hh": want["terms_w2_t2_t1"]}
        check_brackets(subject, case, sums, terms)


def check_seed004_unrolling_exponents(subject: Subject) -> None:
    """Powers of w2, read off exactly with w2 = 2: x = one at step t gives dPredicted/dw1 = 2^(T-t)."""
    table = read(SYMBOLIC)["expected"]["exponent_of_w2_in_dPredicted_dw1_for_x_1_to_x_T"]
    assert list(table) == ["1", "2", "3", "4", "5", "6"]
    w1, w2 = 3.0, 2.0
    template = load("seed004_linear_1day")
    for T, exponents in ((int(T), exponents) for T, exponents in table.items()):
        assert len(exponents) == T
        for t, exponent in enumerate(exponents, start=1):
            x = np.zeros((T, 1, 1))
            x[t - 1] = 1.0
            case = replace(template, x=x, h_0=np.zeros((1, 1)))
            parameters = replace(
                Parameters.of(subject, case), W_xh=subject.cast([[w1]]), W_hh=subject.cast([[w2]])
            )
            run = forward(subject, case, parameters)
            gradients = backward(subject, case, parameters, run, subject.cast([[1.0]])).gradients
            assert scalar(run.s) == w1 * w2**exponent
            assert scalar(gradients["W_xh"]) == w2**exponent
            # dPredicted/dw2 = w1 (T-t) w2^(T-t-1): the notes' rule does not hold for it
            assert scalar(gradients["W_hh"]) == w1 * exponent * w2 ** (exponent - 1)


def one_sided(subject: Subject, case: Case, name: str, sign: float) -> float:
    """One-sided derivative of a loss that is quadratic on that side: two steps, exact but for rounding."""
    parameters = Parameters.of(subject, case)

    def loss(step: float) -> float:
        moved = replace(parameters, **{name: getattr(parameters, name) + sign * step})
        return loss_and_ds(subject, case.loss, case.readout, forward(subject, case, moved).s, case.targets)[0]

    e = 2.0**-6
    return sign * (4.0 * (loss(e) - loss(0.0)) - (loss(2.0 * e) - loss(0.0))) / (2.0 * e)


def check_kink(subject: Subject) -> None:
    """On the kink of relu the gradient is the left derivative, f'(0) being 0; float64 only."""
    case = load("seed004_relu_kink")
    _, _, _, _, back = whole(subject, case)
    names: dict[str, Any] = {"w1": "W_xh", "w2": "W_hh", "b_h": "b_h", "w3": "W_hy"}
    assert case.expected["one_sided"].keys() == names.keys()
    for key, want in case.expected["one_sided"].items():
        assert abs(one_sided(subject, case, names[key], -1.0) - want["left"]) < 1e-12
        assert abs(one_sided(subject, case, names[key], 1.0) - want["right"]) < 1e-12
        assert scalar(back.gradients[names[key]]) == want["left"] == 0.0


def check_bias_of_four_sequences(subject: Subject) -> None:
    """dSSR/db_h depends on f'(0): the gradient is the left derivative; float64 only."""
    case = load("seed004_relu_four_sequences")
    want = case.expected["db_h_one_sided"]
    _, _, _, _, back = whole(subject, case)
    assert abs(one_sided(subject, case, "b_h", -1.0) - want["left"]) < 1e-12
    assert abs(one_sided(subject, case, "b_h", 1.0) - want["right"]) < 1e-12
    subject.check("db_h", scalar(back.gradients["b_h"]), want["left"], case)


#: Checks of single files in any precision.
SPECIAL = (
    check_seed000_brackets_and_factors,
    check_seed000_tied,
    check_seed001_variants,
    check_seed002_misreadings,
    check_seed002_vanishing,
    check_seed003_shared_bias,
    check_seed003_time_biases,
    check_seed004_closed_forms,
    check_seed004_sequences,
    check_seed004_unrolling_exponents,
)
#: Checks by finite steps, whose rounding only float64 can bear.
ONE_SIDED = (check_kink, check_bias_of_four_sequences)

"""The reference against the golden values: float64 as tight as rounding allows, float32 through its casts."""

from __future__ import annotations

from collections.abc import Callable

import golden_checks
import golden_special
import numpy as np
import pytest
from golden_cases import CASES, FILES, SYMBOLIC, Case, load, read
from golden_checks import Subject, elementwise, relative_to_largest

from bptt import reference

FLOAT64 = Subject("float64", reference, np.float64, elementwise(3e-15))
FLOAT32 = Subject("float32", reference, np.float32, relative_to_largest(2e-6, grows=True))
SUBJECTS = pytest.mark.parametrize("subject", [FLOAT64, FLOAT32], ids=lambda s: s.name)


@SUBJECTS
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("check", golden_checks.COMMON, ids=lambda c: c.__name__)
def test_common(check: Callable[[Subject, Case], None], name: str, subject: Subject) -> None:
    check(subject, load(name))


@SUBJECTS
@pytest.mark.parametrize("check", golden_special.SPECIAL, ids=lambda c: c.__name__)
def test_special(check: Callable[[Subject], None], subject: Subject) -> None:
    check(subject)


@pytest.mark.parametrize("check", golden_special.ONE_SIDED, ids=lambda c: c.__name__)
def test_one_sided(check: Callable[[Subject], None]) -> None:
    check(FLOAT64)


@pytest.mark.parametrize("name", CASES)
def test_terms_one_by_one(name: str) -> None:
    case = load(name)
    _, run, _, _, back = golden_checks.whole(FLOAT64, case)
    got = reference.terms(case.cell, run.saved, back.dh)
    assert got.keys() == {"weight_ih", "weight_hh", "bias_ih", "bias_hh"}
    seen = np.zeros((len(case.x), len(case.x)), dtype=bool)
    for entry in case.expected["terms"]:
        i, k = int(entry["i"]) - 1, int(entry["k"]) - 1
        seen[i, k] = True
        what = f"term ({i + 1}, {k + 1})"
        FLOAT64.check(f"{what} W_xh", got["weight_ih"][i, k], entry["W_xh"], case)
        FLOAT64.check(f"{what} W_hh", got["weight_hh"][i, k], entry["W_hh"], case)
        FLOAT64.check(f"{what} b_ih", got["bias_ih"][i, k], entry["b_h"], case)
        FLOAT64.check(f"{what} b_hh", got["bias_hh"][i, k], entry["b_h"], case)
    # Steps without a loss, and steps after the loss, have no term.
    for array in got.values():
        assert not np.any(array[~seen])


def test_relative_error_of_the_cancelling_residual() -> None:
    # 1 - 0.99 cancels: about 1e-14 relative is all that float64 can give there.
    case = load("seed004_relu_four_sequences")
    _, _, loss, ds, _ = golden_checks.whole(FLOAT64, case)
    assert loss == pytest.approx(case.expected["loss"], rel=3e-14, abs=0.0)
    np.testing.assert_allclose(ds, case.expected["dL_ds"], rtol=3e-14, atol=0.0)


def test_every_file_is_used() -> None:
    assert len(FILES) == 19
    assert sorted([*CASES, SYMBOLIC]) == FILES
    extra = {name: set(load(name).expected) - golden_special.COMMON_KEYS for name in CASES}
    assert {name: keys for name, keys in extra.items() if keys} == golden_special.EXTRA_KEYS


def _formula(name: str, *index: int) -> float:
    if name == "W_xh":
        i, j = index
        return (((5 * i + 3 * j + 2) % 11) - 5) / 5
    if name == "W_hh":
        p, q = index
        return (((4 * p + 7 * q + 3) % 9) - 4) / 5
    if name == "W_hy":
        p, o = index
        return (((6 * p + 5 * o + 1) % 13) - 6) / 5
    if name == "b_h":
        return (((2 * index[0] + 1) % 5) - 2) / 10
    if name == "b_y":
        return (((3 * index[0] + 2) % 7) - 3) / 10
    if name == "inputs[t][b][i]":
        t, b, i = index
        return (((3 * t + 5 * b + 7 * i + 1) % 11) - 5) / 5
    if name == "inputs[t]":  # t from 1
        return (((3 * (index[0] + 1)) % 7) - 3) / 10
    assert name == "initial_state[b][j]"
    b, j = index
    return (((b + 2 * j) % 5) - 2) / 10


@pytest.mark.parametrize("name", [name for name in CASES if "weight_formula" in read(name)])
def test_inputs_follow_their_formulas(name: str) -> None:
    # The layout of the loader: an index swapped somewhere gives other numbers than the formulas'.
    raw, case = read(name), load(name)
    found = {
        "W_xh": case.weights.weight_ih.T,
        "W_hh": case.weights.weight_hh.T,
        "b_h": case.weights.bias_ih,
        "W_hy": case.W_hy.T,
        "b_y": case.b_y,
        "inputs[t][b][i]": case.x,
        "inputs[t]": case.x,
        "initial_state[b][j]": case.h_0,
    }
    for key in raw["weight_formula"]:
        if key.startswith("targets"):
            continue
        array = found[key]
        assert array is not None
        want = np.array([_formula(key, *index) for index in np.ndindex(*array.shape)]).reshape(array.shape)
        np.testing.assert_array_equal(array, want)


def test_tokens_are_one_hot_rows() -> None:
    case = load("seed001_hello_charrnn")
    tokens = case.x.argmax(axis=2)
    assert tokens.tolist() == [[0], [1], [2], [2]]  # h e l l
    parameters = golden_checks.Parameters.of(FLOAT64, case)
    y, _, saved = reference.unroll("tanh", tokens, (case.h_0,), parameters.recurrent())
    FLOAT64.check("h", y, case.expected["h"], case)
    _, run, _, _, back = golden_checks.whole(FLOAT64, case)
    np.testing.assert_array_equal(y, run.h)
    for depth in (None, 1, 2):
        dx, (dh_0,), dw = reference.bptt("tanh", saved, back.dh, None, depth=depth)
        _, (want_dh_0,), want = reference.bptt("tanh", run.saved, back.dh, None, depth=depth)
        assert dx is None
        np.testing.assert_array_equal(dh_0, want_dh_0)
        np.testing.assert_array_equal(dw.weight_ih, want.weight_ih)
    got, want_terms = (reference.terms("tanh", s, back.dh) for s in (saved, run.saved))
    for key, value in want_terms.items():
        np.testing.assert_array_equal(got[key], value)

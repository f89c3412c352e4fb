"""The compiled kernels against the golden values, in both precisions."""

from __future__ import annotations

from collections.abc import Callable

import golden_checks
import golden_special
import numpy as np
import pytest
from golden_cases import CASES, Case, load
from golden_checks import Subject, relative_to_largest

from bptt import kernels

pytestmark = pytest.mark.kernels

FLOAT64 = Subject("float64", kernels, np.float64, relative_to_largest(1e-12))
FLOAT32 = Subject("float32", kernels, np.float32, relative_to_largest(2e-6, grows=True))
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


@SUBJECTS
def test_tokens_are_one_hot_rows(subject: Subject) -> None:
    case = load("seed001_hello_charrnn")
    tokens = case.x.argmax(axis=2)
    parameters, _, _, _, back = golden_checks.whole(subject, case)
    y, _, saved = kernels.unroll("tanh", tokens, (subject.cast(case.h_0),), parameters.recurrent())
    subject.check("h", y, case.expected["h"], case)
    for depth in (None, 1, 2, 3, 4):
        dx, (dh_0,), dw = kernels.bptt("tanh", saved, back.dh, None, depth=depth)
        want = case.expected["grads"] if depth is None else case.expected["truncated"][str(depth)]
        assert dx is None
        for name, got in (("W_xh", dw.weight_ih), ("W_hh", dw.weight_hh), ("b_h", dw.bias_ih)):
            subject.check(
                f"{name} at depth {depth}", got, want[name], case, golden_checks.addends(case, name)
            )
        if depth is None:
            subject.check("h0", dh_0, case.expected["grads"]["h0"], case)

"""The bench checks every result before it is timed: what is wrong is caught."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from bptt.benchmark import peers, problem, rows


def _results(case: str, cell: str = "rnn") -> tuple[problem.Problem, dict[str, Any]]:
    """One problem and the arrays that the NumPy peer computes for it."""
    shape = rows.Shape(1 if case == "single_step" else 3, 2, 3, 5)
    numbers = problem.make(rows.Task(case, shape, cell=cell))
    made = peers.load(["numpy"])[0]["numpy"].build(numbers, 1)
    for _ in range(problem.CALLS[case]):
        result = made.call()
    return numbers, {name: array.copy() for name, array in made.arrays(result).items()}


@pytest.mark.parametrize("cell", rows.CELLS)
def test_a_wrong_entry_is_caught(cell: str) -> None:
    numbers, arrays = _results("forward_backward", cell)
    assert 0 < problem.compare("numpy", numbers, arrays) <= 1
    for name, array in arrays.items():
        for wrong in (array.flat[-1] + 1e-3, np.nan):
            changed = array.copy()
            changed.flat[-1] = wrong
            with pytest.raises(problem.DisagreementError, match=f"{name}: expected an error of at most"):
                problem.compare("numpy", numbers, arrays | {name: changed})


def test_a_wrong_form_is_caught() -> None:
    numbers, arrays = _results("forward")
    with pytest.raises(
        problem.DisagreementError, match=r"h_n: expected float32 \(1, 2, 5\), got float64 \(1, 2, 5\)"
    ):
        problem.compare("numpy", numbers, arrays | {"h_n": arrays["h_n"].astype(np.float64)})
    with pytest.raises(
        problem.DisagreementError, match=r"y: expected float32 \(3, 2, 5\), got float32 \(2, 5\)"
    ):
        problem.compare("numpy", numbers, arrays | {"y": arrays["y"][0]})
    with pytest.raises(problem.DisagreementError, match=r"expected arrays \['h_n', 'y'\], got \['y'\]"):
        problem.compare("numpy", numbers, {"y": arrays["y"]})


@pytest.mark.parametrize("cell", rows.CELLS)
def test_a_step_that_forgets_its_state_is_caught(cell: str) -> None:
    numbers, carried = _results("single_step", cell)
    assert 0 < problem.compare("numpy", numbers, carried) <= 1
    forgetful = dataclasses.replace(numbers, task=dataclasses.replace(numbers.task, case="forward"))
    made = peers.load(["numpy"])[0]["numpy"].build(forgetful, 1)
    after_one = made.arrays(made.call())
    for name, array in carried.items():
        with pytest.raises(problem.DisagreementError, match=f"{name}: expected an error"):
            problem.compare("numpy", numbers, carried | {name: after_one[name]})
        assert array.shape == after_one[name].shape


def test_gradients_that_pile_up_are_caught() -> None:
    numbers, arrays = _results("forward_backward")
    sums = {name: np.zeros_like(array) for name, array in arrays.items()}

    def call() -> dict[str, Any]:
        for name, array in arrays.items():
            sums[name] += array
        return sums

    with pytest.raises(problem.DisagreementError):
        problem.check("piling", numbers, problem.Run(call, lambda result: result))

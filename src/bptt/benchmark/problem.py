"""The numbers every implementation is given, and what its results are checked against."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bptt.benchmark import truth
from bptt.benchmark.rows import BACKWARD, FORWARD, STEP, Task

Array = NDArray[Any]

# A single step carries its state from call to call; a check of several calls sees whether it does.  The other
# cases are called twice: gradients must not pile up in a buffer that is used again.
CALLS = {FORWARD: 2, BACKWARD: 2, STEP: 3}

# Relative to the largest entry; float32 times sqrt(K), K the length of the longest sum behind the entry.
TOLERANCE = {"float32": 2e-6, "float64": 1e-12}

WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


class DisagreementError(AssertionError):
    """An implementation's result is outside the tolerance."""


@dataclass(frozen=True)
class Problem:
    """Recurrent layers in PyTorch's layout, their input, and the gradient with respect to their output."""

    task: Task
    x: Array  # (T, B, I)
    states: tuple[Array, ...]  # initial h, for an LSTM h and c, each (L*D, B, H)
    parameters: Mapping[str, Array]  # in PyTorch's names and layout
    dy: Array  # (T, B, D*H)

    @property
    def weights(self) -> tuple[Array, ...]:
        """Return weight_ih, weight_hh, bias_ih and bias_hh of the first layer."""
        return tuple(self.parameters[f"{name}_l0"] for name in WEIGHTS)


@dataclass(frozen=True)
class Run:
    """One implementation made ready for one problem.

    ``call`` is what is timed.  ``arrays`` turns what it returned into named arrays and is not timed: ``y``
    (T, B, D*H), ``h_n`` and for an LSTM ``c_n`` (L*D, B, H); for forward + backward ``y`` and ``d...`` for
    every input, the parameters in PyTorch's names; for a single step the state alone.  ``masks`` gives those
    that the call has drawn, if it draws any; ``solves`` is the problem if it isn't the one given.
    """

    call: Callable[[], Any]
    arrays: Callable[[Any], Mapping[str, Array]]
    masks: Callable[[Any], truth.Masks] | None = None
    solves: Problem | None = None


@functools.lru_cache(maxsize=2)
def make(task: Task) -> Problem:
    """Draw a problem from a fixed seed: weights as PyTorch initialises them, x and dy normal.

    The gains of layer normalisation are about 1/2: with 1 an LSTM's rounding errors grow from step to step.
    """
    T, B, I, H = task.shape
    D, rows = task.options.directions, task.gates * H
    rng = np.random.default_rng(0)
    bound = 1 / math.sqrt(H)

    def uniform(*sizes: int) -> Array:
        return rng.uniform(-bound, bound, sizes).astype(task.dtype)

    def normal(*sizes: int) -> Array:
        return rng.standard_normal(sizes).astype(task.dtype)

    units = task.suffixes
    states = [np.tanh(normal(len(units), B, H))]
    if task.cell == "lstm":
        states.append(normal(len(units), B, H))
    parameters: dict[str, Array] = {}
    for number, suffix in enumerate(units):
        sizes = ((rows, I if number < D else D * H), (rows, H), (rows,), (rows,))
        parameters |= {f"{name}{suffix}": uniform(*size) for name, size in zip(WEIGHTS, sizes, strict=True)}
        if task.options.layer_norm:
            parameters |= {
                f"{name}{suffix}": 0.5 + uniform(rows) for name in ("weight_ln_ih", "weight_ln_hh")
            }
    return Problem(task, normal(T, B, I), tuple(states), parameters, normal(T, B, D * H))


def _truth(problem: Problem, masks: truth.Masks) -> dict[str, Array]:
    x = problem.x
    if problem.task.case == STEP:
        x = np.repeat(x, CALLS[STEP], axis=0)
    return truth.compute(problem.task, x, problem.states, problem.parameters, problem.dy, masks)


@functools.lru_cache(maxsize=2)
def _truth_without_masks(task: Task) -> dict[str, Array]:
    return _truth(make(task), truth.NO_MASKS)


def tolerance(name: str, task: Task) -> float:
    """Return the error allowed in the array ``name``, relative to its largest entry."""
    T, B, I, H = task.shape
    D = task.options.directions
    inputs = I if task.options.num_layers == 1 else max(I, D * H)
    forward, backward = inputs + H, D * task.gates * H
    sums: dict[str, int] = dict.fromkeys(("y", "h_n", "c_n"), forward)
    sums.update(dict.fromkeys(("dx", "dh_0", "dc_0"), backward))
    return TOLERANCE[task.dtype] * (math.sqrt(sums.get(name, T * B)) if task.dtype == "float32" else 1)


def _check_masks(where: str, task: Task, masks: truth.Masks) -> None:
    """Raise unless the setup's masks are there, and no others, and leave out as much as they should."""
    setup = task.options
    rates = {
        "dropout": setup.dropout,
        "recurrent_dropout": setup.recurrent_dropout,
        "zoneout_h": setup.zoneout,
        "zoneout_c": setup.zoneout if task.cell == "lstm" else 0.0,
    }
    for name, rate in rates.items():
        drawn = getattr(masks, name)
        if (drawn is None) != (rate == 0):
            got = "none" if drawn is None else "some"
            raise DisagreementError(f"{where}: {name}: expected masks at a rate of {rate}, got {got}")
        if drawn is not None:
            ones = np.ravel(drawn) != 0  # all layers and directions alike
            share = float(np.mean(ones if name.startswith("zoneout") else ~ones))
            if abs(share - rate) > 6 * math.sqrt(rate * (1 - rate) / ones.size):  # six standard deviations
                raise DisagreementError(f"{where}: {name}: expected a share of {rate}, got {share:.3g}")


def compare(
    name: str, problem: Problem, results: Mapping[str, Array], masks: truth.Masks = truth.NO_MASKS
) -> float:
    """Compare one implementation's arrays with the float64 computation.

    Parameters
    ----------
    name : str
        Of the implementation.
    problem : Problem
        What was computed.
    results : mapping
        Name to array, see `Run`.
    masks : Masks
        What the implementation has drawn.

    Returns
    -------
    float
        The largest error as a fraction of the one allowed.

    Raises
    ------
    DisagreementError
        If an array is missing, or of the wrong shape or dtype, or outside the tolerance; or if masks were not
        drawn at the setup's rates.
    """
    task = problem.task
    where = f"{name}: {task}"
    _check_masks(where, task, masks)
    expected = _truth(problem, masks) if task.options.random else _truth_without_masks(task)
    if set(results) != set(expected):
        raise DisagreementError(f"{where}: expected arrays {sorted(expected)}, got {sorted(results)}")
    worst = 0.0
    for key, array in expected.items():
        got = results[key]
        if got.shape != array.shape or got.dtype != task.dtype:
            raise DisagreementError(
                f"{where}: {key}: expected {task.dtype} {array.shape}, got {got.dtype} {got.shape}"
            )
        error = float(np.max(np.abs(got - array)) / np.max(np.abs(array)))
        allowed = tolerance(key, task)
        if not error <= allowed:  # so written that NaN fails
            raise DisagreementError(
                f"{where}: {key}: expected an error of at most {allowed:.2g}, got {error:.2g}"
            )
        worst = max(worst, error / allowed)
    return worst


def check(name: str, problem: Problem, run: Run) -> float:
    """Call an implementation and compare what it returns; returns and raises as `compare`."""
    problem = run.solves or problem
    for _ in range(CALLS[problem.task.case]):
        result = run.call()
    masks = truth.NO_MASKS if run.masks is None else run.masks(result)
    return compare(name, problem, run.arrays(result), masks)

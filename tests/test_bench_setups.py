"""The bench's stacks, lengths and options: everything installed agrees, and what is wrong is caught."""

from __future__ import annotations

import dataclasses
import itertools
import json
from typing import Any

import numpy as np
import pytest
from bench_scripts import BENCH, run

from bptt.benchmark import peers, problem, rows, truth
from bptt.benchmark.rows import CELLS, SETUPS, Shape, Task

OPTIONS = ("dropout", "recurrent_dropout", "zoneout", "layer_norm")
SHAPE = Shape(4, 3, 2, 5)


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    """Output and JSON of a comparison of everything installed, on one tiny shape in all setups."""
    path = tmp_path_factory.mktemp("bench") / "times.json"
    shapes = "+".join(f"{SHAPE}:{setup}" for setup in SETUPS if setup != "plain")
    quick = ("--rounds", "1", "--seconds", "0.001", "--threads", "1", "--dtypes", "float32")
    names = ",".join((*peers.PEERS, "bptt", "bptt-without-option", "reference"))
    result = run(BENCH / "compare.py", "--shapes", shapes, "--peers", names, *quick, "--json", path)
    assert result.returncode == 0, result.stderr
    return result.stdout, json.loads(path.read_text())


def test_installed_implementations_agree(compared: tuple[str, dict[str, Any]]) -> None:
    # compare.py has checked every result before timing it; here: that nothing was left out without a word.
    infos = [entry["extra_info"] for entry in compared[1]["benchmarks"]]
    installed = compared[1]["machine_info"]["bench"]["versions"]
    assert all(0 < info["error_over_tolerance"] <= 1 for info in infos)
    ran = {tuple(info[key] for key in ("implementation", "cell", "setup", "case")) for info in infos}
    wanted = set()
    for cell, setup in itertools.product(CELLS, SETUPS):
        if setup in OPTIONS:
            names = {"bptt", "bptt-without-option", "reference"}
            wanted |= {(name, cell, setup, "forward_backward") for name in names}
        elif setup != "plain":
            names = {"bptt", "reference", "torch"} & {*installed, "reference"}
            wanted |= set(itertools.product(names, (cell,), (setup,), ("forward", "forward_backward")))
    assert ran == wanted


def test_the_table_names_the_setup(compared: tuple[str, dict[str, Any]]) -> None:
    for cell, setup in itertools.product(CELLS, OPTIONS):
        starts = f"| {cell} {setup} | forward backward | float32 | 1 | {SHAPE} |"
        (line,) = [line for line in compared[0].splitlines() if line.startswith(starts)]
        assert " (bptt-without-option / bptt) |" not in line  # there is no bar on this shape
    assert "numpy: one layer in one direction, without options" in compared[0]


def _reference(task: Task) -> tuple[problem.Problem, problem.Run]:
    numbers = problem.make(task)
    return numbers, peers.load(("reference",))[0]["reference"].build(numbers, 1)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("setup", ["dropout", "recurrent_dropout", "zoneout"])
def test_masks_are_needed(setup: str, cell: str) -> None:
    numbers, made = _reference(Task("forward_backward", SHAPE, "float64", cell, setup))
    result = made.call()
    arrays = made.arrays(result)
    assert made.masks is not None
    masks = made.masks(result)
    assert 0 <= problem.compare("reference", numbers, arrays, masks) <= 1
    with pytest.raises(problem.DisagreementError, match=r"expected masks at a rate of 0\.[15], got none"):
        problem.compare("reference", numbers, arrays)
    drawn = {name: parts for name, parts in masks._asdict().items() if parts is not None}
    assert drawn
    for name, parts in drawn.items():
        with pytest.raises(problem.DisagreementError, match=rf"{name}: expected masks at a rate of 0\.[15]"):
            problem.compare("reference", numbers, arrays, masks._replace(**{name: None}))
        # Others of the same kind, their entries in another order.
        other: Any = [np.flip(part) for part in parts] if name == "dropout" else [[np.flip(parts[0][0])]]
        with pytest.raises(problem.DisagreementError, match="expected an error of at most"):
            problem.compare("reference", numbers, arrays, masks._replace(**{name: other}))
    plain = problem.make(dataclasses.replace(numbers.task, setup="plain"))
    with pytest.raises(problem.DisagreementError, match=r"expected masks at a rate of 0\.0, got some"):
        problem.compare("reference", plain, arrays, masks)


def test_an_option_that_does_nothing_is_caught() -> None:
    # Such a layer would be as fast as the one without the option.
    setup = SETUPS["zoneout"]
    large = Task("forward_backward", Shape(100, 2, 2, 5), "float64", "gru", "zoneout")
    nothing = truth.Masks(zoneout_h=[[np.zeros((100, 2, 5), np.bool_)]])
    with pytest.raises(
        problem.DisagreementError, match=rf"zoneout_h: expected a share of {setup.zoneout}, got 0"
    ):
        problem.compare("reference", problem.make(large), {}, nothing)
    numbers, _ = _reference(Task("forward_backward", SHAPE, "float64", "gru", "layer_norm"))
    _, plain = _reference(Task("forward_backward", SHAPE, "float64", "gru"))
    arrays = plain.arrays(plain.call())
    with pytest.raises(problem.DisagreementError, match="expected arrays"):
        problem.compare("reference", numbers, arrays)


@pytest.mark.parametrize("setup", OPTIONS)
def test_without_option_is_that_and_nothing_else(setup: str) -> None:
    task = Task("forward_backward", SHAPE, cell="lstm", setup=setup)
    made = peers.load(("bptt-without-option",))[0]["bptt-without-option"]
    run_without = made.build(problem.make(task), 1)
    assert run_without.solves is not None
    other = run_without.solves.task
    assert (other.case, other.shape, other.dtype, other.cell) == (
        task.case,
        task.shape,
        task.dtype,
        task.cell,
    )
    differing = {
        name
        for name, value in task.options._asdict().items()
        if value != getattr(other.options, name) and name not in ("without", "cases")
    }
    assert differing == {setup}
    assert made.refuses(other) == "is bptt, there is no option to do without"


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("setup", [name for name in SETUPS if name not in ("plain", "stack")])
def test_the_float64_computation_by_central_differences(setup: str, cell: str) -> None:
    task = Task("forward_backward", SHAPE, "float64", cell, setup)
    p, made = _reference(task)
    masks = truth.NO_MASKS if made.masks is None else made.masks(made.call())
    named = {"x": p.x, **dict(zip(("h_0", "c_0"), p.states, strict=False)), **p.parameters}
    rng = np.random.default_rng(1)
    directions = {name: rng.standard_normal(array.shape) for name, array in named.items()}

    def loss(name: str, step: float) -> float:
        moved = named | {name: named[name] + step * directions[name]}
        states = tuple(moved[state] for state in ("h_0", "c_0")[: len(p.states)])
        parameters = {key: moved[key] for key in p.parameters}
        y = truth.compute(task, moved["x"], states, parameters, p.dy, masks)["y"]
        return float(np.sum(p.dy * y))

    gradients = truth.compute(task, p.x, p.states, p.parameters, p.dy, masks)
    for name, direction in directions.items():
        h = 1e-6
        slope = (loss(name, h) - loss(name, -h)) / (2 * h)
        assert np.sum(gradients[f"d{name}"] * direction) == pytest.approx(slope, rel=1e-6, abs=1e-7), name


def test_lengths_by_splitting(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row of a ragged batch is what it is by itself, cut at its end."""
    task = Task("forward_backward", SHAPE, "float64", "lstm", "ragged")
    p, lengths = problem.make(task), task.lengths
    assert lengths is not None
    together = truth.compute(task, p.x, p.states, p.parameters, p.dy)
    final = truth.compute(
        Task("forward", SHAPE, "float64", "lstm", "ragged"), p.x, p.states, p.parameters, p.dy
    )
    monkeypatch.setitem(SETUPS, "both", rows.Setup(num_layers=2, bidirectional=True))
    alone = Task("forward_backward", SHAPE, "float64", "lstm", "both")
    sums = {name: np.zeros_like(weight) for name, weight in p.parameters.items()}
    for b, n in enumerate(lengths):
        x, dy, states = p.x[:n, b : b + 1], p.dy[:n, b : b + 1], [state[:, b : b + 1] for state in p.states]
        row = truth.compute(alone, x, states, p.parameters, dy)
        for name in ("y", "dx"):
            np.testing.assert_allclose(together[name][:n, b], row[name][:, 0], rtol=1e-12, atol=1e-13)
            assert not together[name][n:, b].any()
        for name in ("dh_0", "dc_0"):
            np.testing.assert_allclose(together[name][:, b], row[name][:, 0], rtol=1e-12, atol=1e-13)
        for name in sums:
            sums[name] += row[f"d{name}"]
        np.testing.assert_array_equal(final["h_n"][2, b], final["y"][n - 1, b, :5])
        np.testing.assert_array_equal(final["h_n"][3, b], final["y"][0, b, 5:])
    for name, total in sums.items():
        np.testing.assert_allclose(together[f"d{name}"], total, rtol=1e-11, atol=1e-12)


def test_only_small_problems_are_for_the_reference() -> None:
    refuses = peers.load(("reference",))[0]["reference"].refuses
    assert refuses(Task("forward", Shape(50, 1, 16, 16), cell="lstm")) is None
    assert refuses(Task("forward", Shape(20, 8, 64, 64), cell="lstm")) == "pure Python: small shapes only"

"""The bench: installed peers agree, a wrong result is caught, the report says what was measured."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench_scripts import BENCH, importer, run

from bptt.benchmark import __main__ as minute
from bptt.benchmark import machine, measure, peers, problem, results, rows, timing
from bptt.benchmark.peers.base import Implementation

PEERS = {"numpy", "torch", "onnxruntime", "jax"}


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Return an importer of the bench's scripts, which see only this test."""
    with importer(monkeypatch) as bench:
        yield bench


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    """Output and JSON of a comparison of everything installed on one tiny shape."""
    path = tmp_path_factory.mktemp("bench") / "times.json"
    options = ("--shapes", "tiny", "--threads", "1", "--rounds", "2", "--seconds", "0.001", "--json", path)
    names = ",".join([*sorted(PEERS), "bptt", "reference"])
    result = run(BENCH / "compare.py", "--peers", names, *options)
    assert result.returncode == 0, result.stderr
    return result.stdout, json.loads(path.read_text())


def test_installed_implementations_agree(compared: tuple[str, dict[str, Any]]) -> None:
    # compare.py has checked every result before timing it; here: that nothing was left out without a word.
    infos = [entry["extra_info"] for entry in compared[1]["benchmarks"]]
    account = compared[1]["machine_info"]["bench"]
    assert all(0 < info["error_over_tolerance"] <= 1 for info in infos if info["implementation"] != "numpy")
    assert set(account["versions"]) | set(account["absent"]) == PEERS | {"bptt"}
    assert not set(account["versions"]) & set(account["absent"])
    ran = {(info["implementation"], info["case"], info["dtype"]) for info in infos}
    for name in {*account["versions"], "reference"}:
        for case in ("forward", "forward_backward", "single_step"):
            for dtype in ("float32", "float64"):
                refused = name == "onnxruntime" and (case == "forward_backward" or dtype == "float64")
                assert ((name, case, dtype) in ran) == (not refused)


def test_absent_peers_are_named(compared: tuple[str, dict[str, Any]]) -> None:
    out, content = compared
    for name, reason in content["machine_info"]["bench"]["absent"].items():
        assert f"- absent: {name} ({reason})" in out


def test_every_time_has_its_circumstances(compared: tuple[str, dict[str, Any]]) -> None:
    for entry in compared[1]["benchmarks"]:
        info = entry["extra_info"]
        assert entry["stats"]["median"] > 0
        assert info["variant"].split()[1] in ("baseline", "avx2", "avx512")
        assert info["processor"]
        assert info["version"]
        assert info["threads"] == 1
        assert info["flops"] > 0


def test_report_of_a_pytest_run(tmp_path: Path) -> None:
    path, picture = tmp_path / "times.json", tmp_path / "times.png"
    selection = (
        "--shapes",
        "4,1,4,4+4,32,4,4+4,1,8,8",
        "--dtypes",
        "float32",
        "--peers",
        "numpy,bptt,reference",
    )
    quick = ("--benchmark-max-time=0.001", "--benchmark-min-rounds=1", f"--benchmark-json={path}")
    suite = run("-m", "pytest", "bench", *selection, *quick)
    assert suite.returncode == 0, suite.stdout + suite.stderr
    assert "versions: numpy: " in suite.stdout

    report = run(BENCH / "report.py", path, "--picture", picture)
    assert report.returncode == 0, report.stderr
    lines = report.stdout.splitlines()
    head = [cell.strip() for cell in lines[0].strip("|").split("|")]
    assert head[:7] == ["direction", "dtype", "threads", "T,B,I,H", "bptt", "numpy", "reference"]
    assert sum(line.startswith("| forward | float32 | 1 | 4,") for line in lines) == 3
    assert sum(line.startswith("| forward backward | float32 | 1 | 4,") for line in lines) == 3
    assert sum(line.startswith("| single step | float32 | 1 | 1,") for line in lines) == 3
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert run(BENCH / "report.py", path).returncode == 0
    assert path.with_suffix(".svg").read_text().rstrip().endswith("</svg>")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--shapes", "huge"),
            "shapes: expected bars, tiny, smoke, main, odd, short, sweep or T,B,I,H, got 'huge'",
        ),
        (("--shapes", "1,2,3"), "shape: expected T,B,I,H as four integers, got '1,2,3'"),
        (("--shapes", "1,2,0,3"), "shape: expected four positive integers, got '1,2,0,3'"),
        (("--threads", "0"), "threads: expected 1 to "),
        (("--threads", "10000"), "threads: expected 1 to "),
        (("--peers", "numpy,abacus"), "got abacus"),
        (
            ("--cases", "sideways"),
            "cases: expected words out of forward, forward_backward, single_step, got sideways",
        ),
        (("--dtypes", "float16"), "dtypes: expected words out of float32, float64, got float16"),
        (("--rounds", "0"), "rounds, seconds: expected at least 1, above 0, got 0, 0.6"),
    ],
)
def test_wrong_options(arguments: tuple[str, ...], message: str) -> None:
    result = run(BENCH / "compare.py", *arguments)
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "content", ["", "[]", '{"benchmarks": []}', '{"machine_info": {}, "benchmarks": []}']
)
def test_report_of_a_foreign_file(tmp_path: Path, content: str) -> None:
    path = tmp_path / "foreign.json"
    path.write_text(content)
    result = run(BENCH / "report.py", path)
    assert result.returncode == 2
    assert "expected a JSON file written by this suite" in result.stderr
    assert "Traceback" not in result.stderr


def _results(case: str) -> tuple[problem.Problem, dict[str, Any]]:
    """One problem and the arrays that the NumPy peer computes for it."""
    shape = rows.Shape(1 if case == "single_step" else 3, 2, 3, 5)
    numbers = problem.make(case, shape, "float32")
    made = peers.load(["numpy"])[0]["numpy"].build(numbers, 1)
    for _ in range(problem.CALLS[case]):
        result = made.call()
    return numbers, {name: array.copy() for name, array in made.arrays(result).items()}


def test_a_wrong_entry_is_caught() -> None:
    numbers, arrays = _results("forward_backward")
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
        problem.DisagreementError, match=r"h_n: expected float32 \(2, 5\), got float64 \(2, 5\)"
    ):
        problem.compare("numpy", numbers, arrays | {"h_n": arrays["h_n"].astype(np.float64)})
    with pytest.raises(
        problem.DisagreementError, match=r"y: expected float32 \(3, 2, 5\), got float32 \(2, 5\)"
    ):
        problem.compare("numpy", numbers, arrays | {"y": arrays["y"][0]})
    with pytest.raises(problem.DisagreementError, match=r"expected arrays \['h_n', 'y'\], got \['y'\]"):
        problem.compare("numpy", numbers, {"y": arrays["y"]})


def test_a_step_that_forgets_its_state_is_caught() -> None:
    numbers, carried = _results("single_step")
    assert 0 < problem.compare("numpy", numbers, carried) <= 1
    forgetful = dataclasses.replace(numbers, case="forward")
    made = peers.load(["numpy"])[0]["numpy"].build(forgetful, 1)
    h_n = made.arrays(made.call())["h_n"]
    with pytest.raises(problem.DisagreementError, match="h_n: expected an error"):
        problem.compare("numpy", numbers, {"h_n": h_n})


def test_gradients_that_pile_up_are_caught() -> None:
    numbers, arrays = _results("forward_backward")
    sums = {name: np.zeros_like(array) for name, array in arrays.items()}

    def call() -> dict[str, Any]:
        for name, array in arrays.items():
            sums[name] += array
        return sums

    with pytest.raises(problem.DisagreementError):
        problem.check("piling", numbers, problem.Run(call, lambda result: result))


def without(monkeypatch: pytest.MonkeyPatch, package: str, module: str) -> None:
    """Let a peer's module be imported afresh, and find its package missing."""
    monkeypatch.delitem(sys.modules, f"bptt.benchmark.peers.{module}", raising=False)
    monkeypatch.setitem(sys.modules, package, None)


def test_only_what_is_not_installed_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "torch", "with_torch")
    found, absent = peers.load(("numpy", "torch"))
    assert list(found) == ["numpy"]
    assert list(absent) == ["torch"]
    without(monkeypatch, "numpy", "with_numpy")
    for strict in (True, False):
        with pytest.raises(ModuleNotFoundError, match="numpy"):
            peers.load(("numpy",), strict=strict)


def test_a_broken_peer_is_absent_only_for_users(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> Any:
        raise OSError("libfoo.so: no such file\nand more")

    monkeypatch.setattr(peers, "import_module", broken)
    with pytest.raises(OSError, match="libfoo"):
        peers.load(("torch",))
    assert peers.load(("torch",), strict=False) == ({}, {"torch": "OSError: libfoo.so: no such file"})
    with pytest.raises(OSError, match="libfoo"):
        peers.load(("bptt",), strict=False)


def test_a_peer_that_disagrees_is_left_out_only_for_users(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def build(p: problem.Problem, threads: int) -> problem.Run:
        zeros = np.zeros((3, 2, 5), np.float32)
        return problem.Run(lambda: None, lambda _: {"y": zeros, "h_n": zeros[0]})

    real = peers.load(("bptt", "numpy"))[0]
    wrong = {**real, "numpy": Implementation("numpy", "0", build)}
    monkeypatch.setattr(peers, "load", lambda names, strict: (wrong, {}))
    table = [rows.Row("forward", rows.Shape(3, 2, 3, 5))]
    options: dict[str, Any] = {"allowance": measure.until(time.monotonic()), "rounds": 2}
    with pytest.raises(problem.DisagreementError, match="numpy: forward 3,2,3,5 float32: y: expected"):
        measure.measure(table, wrong, tmp_path / "times.json", **options)
    measure.measure(table, wrong, tmp_path / "times.json", **options, strict=False)
    done = results.read(tmp_path / "times.json")
    assert [m.implementation for m in done.measurements] == ["bptt"]
    ((reason, count),) = done.refused.items()
    assert reason.startswith("numpy: DisagreementError: numpy: forward 3,2,3,5 float32: y: expected")
    assert count == 1
    monkeypatch.setitem(wrong, "bptt", Implementation("bptt", "0", build))
    with pytest.raises(problem.DisagreementError, match="bptt: forward"):
        measure.measure(table, wrong, tmp_path / "times.json", **options, strict=False)


def test_time_is_shared_out() -> None:
    now = time.monotonic()
    assert 4.5 < measure.until(now + 60)(3, 4) <= 5
    assert measure.until(now - 1)(3, 4) == 0
    assert 19 < measure.until(now + 60)(3, 0) <= 20


def test_the_minute(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shapes = {"forward": 3, "forward_backward": 3, "single_step": 1}
    tiny = tuple(rows.Row(case, rows.Shape(T, 2, 3, 5)) for case, T in shapes.items())
    monkeypatch.setattr(minute, "minute", lambda threads: tiny)
    path = tmp_path / "times.json"
    assert minute.main(0.01, 1, path) == 0
    done = results.read(path)
    assert {(m.case, m.implementation) for m in done.measurements} >= {
        (case, name) for case in shapes for name in ("bptt", "numpy")
    }
    assert set(done.versions) | set(done.absent) == PEERS | {"bptt"}
    assert minute.main(0.01, 1, tmp_path / "none" / "times.json") == 1
    assert "No such file or directory" in capsys.readouterr().out
    monkeypatch.undo()
    for row in rows.minute(2):
        assert row.threads == 2
        assert 1 <= rows.flops(row.case, row.shape) < 3e9


def test_a_process_with_fixed_threads() -> None:
    code = (
        "import os; from bptt.benchmark import machine; from bptt import checks; "
        "print(machine.is_fixed(1), machine.usable_cores(), checks.default_threads(), os.environ['MARK'])"
    )
    cores = machine.usable_cores()
    done = machine.run_fixed([sys.executable, "-c", code], 1, capture_output=True, env={"MARK": "here"})
    assert done.stdout.split()[0] == "True", done.stderr
    assert done.stdout.split()[2:] == ["1", "here"]
    assert machine.usable_cores() == cores
    assert not machine.is_fixed(cores + 1)


def test_ratios_and_bars(bench: Any) -> None:
    shapes = bench("shapes")
    small, large = rows.Shape(50, 1, 4, 4), rows.Shape(100, 128, 256, 256)
    flops = 2 * 100 * 128 * 512 * 256
    assert rows.flops("forward", large) == flops
    assert rows.flops("forward_backward", large) == 3 * flops

    def measured(shape: Any, threads: int, name: str, seconds: float) -> Any:
        peak, bandwidth = flops / 0.01 / 2, 50 * 4 * 4 * 4 / 1e-6
        return results.Measurement("forward", shape, "float32", threads, name, seconds, None, peak, bandwidth)

    measurements = [
        measured(small, 1, "bptt", 2e-6),
        measured(small, 1, "jax", 9e-6),
        measured(small, 1, "onnxruntime", 3e-6),
        measured(small, 1, "reference", 1e-6),  # not a peer
        measured(large, 2, "bptt", 0.01),
        measured(large, 2, "bptt-1-thread", 0.0171),
        measured(large, 2, "numpy", 0.03),
    ]
    bars = {row.group: row for row in shapes.BARS}
    head, _, first, second = results.table(measurements, bars).splitlines()
    column = [cell.strip() for cell in head.split("|")].index
    first_cells, second_cells = ([cell.strip() for cell in line.split("|")] for line in (first, second))
    assert first_cells[column("best peer / bptt")] == "1.50 (onnxruntime)"
    assert first_cells[column("of bandwidth")] == "50.0%"
    assert first_cells[column("bar")] == "1.5 pass"
    assert second_cells[column("best peer / bptt")] == "3.00 (numpy)"
    assert second_cells[column("of FMA peak")] == "100.0%"
    assert second_cells[column("ratio")] == "1.71 (bptt-1-thread / bptt)"
    assert second_cells[column("bar")] == "1.8 FAIL"
    chosen = [bars[m.group] for m in (measurements[0], measurements[4])]
    assert results.tally(measurements, chosen) == "bars: 1 passed, 1 failed, 0 not measured"
    assert results.tally(measurements[:3], chosen) == "bars: 1 passed, 0 failed, 1 not measured"


def test_bars_of_steps_and_of_frozen_layers(bench: Any) -> None:
    bars = {row.group: row for row in bench("shapes").BARS}

    def verdicts(case: str, shape: Any, kernel_step: float | None, **seconds: float) -> list[str]:
        row = bars[rows.group_name(case, shape, "float32", 1)]
        measurements = [
            results.Measurement(
                case,
                shape,
                "float32",
                1,
                name.replace("_", "-"),
                time,
                fma_peak=1e11,
                kernel_step=kernel_step,
            )
            for name, time in seconds.items()
        ]
        line = results.table(measurements, {row.group: row}).splitlines()[-1]
        return [cell.strip() for cell in line.split("|")[-4:-1]]

    small, large = rows.Shape(1, 1, 32, 32), rows.Shape(1, 1, 64, 64)
    assert verdicts("single_step", small, 1e-7, bptt=1.49e-6)[2] == "100% pass"
    assert verdicts("single_step", small, 1e-7, bptt=1.51e-6)[2] == "100% FAIL"
    assert verdicts("single_step", large, 2e-6, bptt=3.79e-6)[2] == "100% pass"
    assert verdicts("single_step", large, 2e-6, bptt=3.81e-6)[2] == "100% FAIL"
    assert verdicts("single_step", large, None, bptt=1e-6)[2] == "100% not measured"
    assert verdicts("forward", large, None, bptt=9.0, bptt_frozen=1e-6, numpy=9e-7, onnxruntime=1.6e-6) == [
        "1.60 (onnxruntime / bptt-frozen)",
        "1.5 pass",
        "–",
    ]


def test_every_bar_is_in_the_table_once(bench: Any) -> None:
    shapes = bench("shapes")
    groups = [row.group for row in shapes.BARS]
    assert len(groups) == len(set(groups))
    ours = {
        (row.case, str(row.shape)): row.ratio
        for row in shapes.BARS
        if row.dtype == "float32" and row.threads == 1
    }
    assert ours["forward", "100,1,64,64"] == 2.3
    assert ours["forward_backward", "100,1,64,64"] == 3.0
    assert ours["forward_backward", "50,64,1024,1024"] == 1.4
    assert {row.shape for row in shapes.select("main+odd+short", 1)} >= {
        row.shape for row in shapes.BARS if row.shape.T > 1
    }


def test_rotation_calls_all_and_keeps_them_apart() -> None:
    calls: list[str] = []
    times = timing.rotate(
        {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")},
        seconds=1e-4,
        rounds=3,
        one_by_one=True,
    )
    assert set(times) == {"a", "b"}
    assert all(len(samples) >= 3 and min(samples) > 0 for samples in times.values())
    assert calls.count("a") > len(times["a"])
    turns = [name for name, before in zip(calls, ["", *calls], strict=False) if name != before]
    assert 4 <= len(turns) <= 8  # the estimates, then three rounds in either order

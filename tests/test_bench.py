"""The bench: installed peers agree, what is absent or broken is named, the report says what was measured."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench_scripts import BENCH, run

from bptt import checks
from bptt.benchmark import __main__ as minute
from bptt.benchmark import machine, measure, peers, problem, results, rows, timing
from bptt.benchmark.peers.base import Implementation

PEERS = {"numpy", "torch", "onnxruntime", "jax"}


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
    ran = {tuple(info[key] for key in ("implementation", "cell", "case", "dtype")) for info in infos}
    everything = itertools.product(
        {*account["versions"], "reference"},
        ("rnn", "lstm", "gru"),
        ("forward", "forward_backward", "single_step"),
        ("float32", "float64"),
    )
    for name, cell, case, dtype in everything:
        refused = name == "onnxruntime" and (case == "forward_backward" or dtype == "float64")
        assert ((name, cell, case, dtype) in ran) == (not refused)


def test_absent_peers_are_named(compared: tuple[str, dict[str, Any]]) -> None:
    out, content = compared
    for name, reason in content["machine_info"]["bench"]["absent"].items():
        assert f"- absent: {name} ({reason})" in out


def test_every_time_has_its_circumstances(compared: tuple[str, dict[str, Any]]) -> None:
    for entry in compared[1]["benchmarks"]:
        info = entry["extra_info"]
        assert entry["stats"]["median"] > 0
        assert info["variant"].split()[1] in ("baseline", "avx2", "avx512", "amx")
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
        "--cells",
        "rnn,gru",
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
    assert head[:8] == ["layer", "direction", "dtype", "threads", "T,B,I,H", "bptt", "numpy", "reference"]
    for cell in ("rnn", "gru"):
        assert sum(line.startswith(f"| {cell} | forward | float32 | 1 | 4,") for line in lines) == 3
        assert sum(line.startswith(f"| {cell} | forward backward | float32 | 1 | 4,") for line in lines) == 3
        assert sum(line.startswith(f"| {cell} | single step | float32 | 1 | 1,") for line in lines) == 3
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert run(BENCH / "report.py", path).returncode == 0
    nowhere = run(BENCH / "report.py", path, "--picture", tmp_path / "none" / "times.svg")
    assert nowhere.returncode == 1
    assert "picture: not drawn, [Errno 2] No such file or directory" in nowhere.stderr
    drawn = path.with_suffix(".svg").read_text()
    assert drawn.rstrip().endswith("</svg>")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--shapes", "huge"),
            "shapes: expected bars, short, ragged, options, tiny, smoke, main, odd, sweep or T,B,I,H, "
            "some followed by :plain, :stack, :ragged, :dropout, :recurrent_dropout, :zoneout, "
            ":layer_norm, got 'huge'",
        ),
        (("--shapes", "tiny:dropouts"), "got 'tiny:dropouts'"),
        (("--shapes", "bars:dropout"), "got 'bars:dropout'"),
        (("--shapes", "1,2,3:ragged"), "shape: expected T,B,I,H as four integers, got '1,2,3'"),
        (("--cells", "rnn,tanh"), "cells: expected words out of rnn, lstm, gru, got tanh"),
        (
            ("--shapes", "tiny:zoneout", "--cases", "forward"),
            "shapes: expected a selection with rows, got none for '--shapes tiny:zoneout --cases forward'",
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
        (
            ("--rounds", "0"),
            "rounds, passes, seconds: expected at least 1, at least 1, a number above 0, got 0, 1, 0.6",
        ),
        (
            ("--passes", "0"),
            "rounds, passes, seconds: expected at least 1, at least 1, a number above 0, got 15, 0, 0.6",
        ),
        (
            ("--seconds", "nan"),
            "rounds, passes, seconds: expected at least 1, at least 1, a number above 0, got 15, 1, nan",
        ),
        (("--threads", "²"), "threads: expected 1 to "),
        (
            ("--json", "none/times.json"),
            "json: expected a file in a folder that exists, got 'none/times.json'",
        ),
    ],
)
def test_wrong_options(arguments: tuple[str, ...], message: str) -> None:
    result = run(BENCH / "compare.py", *arguments)
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_a_number_of_threads_given_twice_is_measured_once(tmp_path: Path) -> None:
    path = tmp_path / "times.json"
    few = (
        "--shapes",
        "tiny",
        "--cases",
        "forward",
        "--dtypes",
        "float32",
        "--cells",
        "rnn",
        "--peers",
        "bptt",
    )
    quick = ("--rounds", "1", "--seconds", "0.001", "--json", path)
    done = run(BENCH / "compare.py", "--threads", "1,1", *few, *quick)
    assert done.returncode == 0, done.stderr
    assert [m.threads for m in results.read(path).measurements] == [1]
    assert list(tmp_path.iterdir()) == [path]  # what the processes write on the way is gone


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "\xff",
        '{"benchmarks": []}',
        '{"machine_info": {}, "benchmarks": []}',
        '{"machine_info": {"bench": {}}, "benchmarks": [{"extra_info": {"case": "forward"}, "stats": []}]}',
    ],
)
def test_report_of_a_foreign_file(tmp_path: Path, content: str) -> None:
    path = tmp_path / "foreign.json"
    path.write_text(content, encoding="latin-1")
    result = run(BENCH / "report.py", path)
    assert result.returncode == 2
    assert "expected a JSON file written by this suite" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_file_of_what_is_not_measured_any_more(tmp_path: Path) -> None:
    path = tmp_path / "old.json"
    row = rows.Row(rows.Task("sideways", rows.Shape(3, 2, 3, 5)))
    limits = {"fma_peak": 1e9, "read_bandwidth": None}
    info = results.extra_info(row, "bptt", "0", limits=limits, error=0.5, machine={})
    account: dict[str, Any] = {"machine": {}, "versions": {}, "absent": {}, "refused": {}}
    results.write(path, [results.as_benchmark(row.group, info, [1.0])], account)
    with pytest.raises(ValueError, match=r"old.json: expected .* got ValueError\(\"case 'sideways'\"\)"):
        results.read(path)


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
        return problem.Run(lambda: None, lambda _: {"y": zeros, "h_n": zeros[:1]})

    real = peers.load(("bptt", "numpy"))[0]
    wrong = {**real, "numpy": Implementation("numpy", "0", build)}
    monkeypatch.setattr(peers, "load", lambda names, strict: (wrong, {}))
    table = [rows.Row(rows.Task("forward", rows.Shape(3, 2, 3, 5)))]
    options: dict[str, Any] = {"allowance": measure.until(time.monotonic()), "rounds": 2}
    with pytest.raises(problem.DisagreementError, match="numpy: rnn forward 3,2,3,5 float32: y: expected"):
        measure.measure(table, wrong, tmp_path / "times.json", **options)
    measure.measure(table, wrong, tmp_path / "times.json", **options, strict=False)
    done = results.read(tmp_path / "times.json")
    assert [m.implementation for m in done.measurements] == ["bptt"]
    ((reason, count),) = done.refused.items()
    assert reason.startswith("numpy: DisagreementError: numpy: rnn forward 3,2,3,5 float32: y: expected")
    assert count == 1
    monkeypatch.setitem(wrong, "bptt", Implementation("bptt", "0", build))
    with pytest.raises(problem.DisagreementError, match="bptt: rnn forward"):
        measure.measure(table, wrong, tmp_path / "times.json", **options, strict=False)


def entries(**medians: float) -> list[dict[str, Any]]:
    return [{"name": name, "stats": {"median": median}} for name, median in medians.items()]


def test_the_calmest_pass_favours_none() -> None:
    """In the second pass both are fastest by their mean, though numpy is faster in the first."""
    passes = [entries(bptt=3.0, numpy=4.0), entries(bptt=2.0, numpy=5.0), entries(bptt=2.1, numpy=8.0)]
    assert measure.calmest(passes) is passes[1]
    # bptt would be ahead by more in the last
    assert measure.calmest(passes[:1] + passes[2:]) is passes[0]
    # torch says nothing: it failed once
    assert measure.calmest([entries(bptt=2.0), entries(bptt=1.0, torch=9.0)])[0]["stats"]["median"] == 1.0


def test_passes_one_after_the_other(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each problem is measured again, in turn, and a peer that fails is counted once for each."""

    def build(p: problem.Problem, threads: int) -> problem.Run:
        raise NotImplementedError("never")

    real = peers.load(("bptt", "numpy"))[0]
    monkeypatch.setattr(
        peers, "load", lambda names, strict: ({**real, "numpy": Implementation("numpy", "0", build)}, {})
    )
    table = [rows.Row(rows.Task("forward", rows.Shape(3, 2, 3, H))) for H in (5, 6)]
    seen: list[tuple[int, int]] = []
    times = iter((4.0, 1.0, 3.0, 2.0))

    def allowance(left: int, names: int) -> float:
        seen.append((left, names))
        return 0.0

    monkeypatch.setattr(measure.timing, "rotate", lambda calls, **_: {name: [next(times)] for name in calls})
    to = tmp_path / "times.json"
    measure.measure(table, ("bptt", "numpy"), to, allowance=allowance, rounds=1, passes=2, strict=False)
    assert seen == [(4, 1), (3, 1), (2, 1), (1, 1)]
    done = results.read(to)
    assert [(m.task.shape.H, m.seconds) for m in done.measurements] == [(5, 3.0), (6, 1.0)]
    assert list(done.refused.values()) == [2]


def test_time_is_shared_out() -> None:
    now = time.monotonic()
    assert 4.5 < measure.until(now + 60)(3, 4) <= 5
    assert measure.until(now - 1)(3, 4) == 0
    assert 19 < measure.until(now + 60)(3, 0) <= 20


def test_the_minute(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shapes = {"forward": 3, "forward_backward": 3, "single_step": 1}
    tiny = tuple(rows.Row(rows.Task(case, rows.Shape(T, 2, 3, 5))) for case, T in shapes.items())
    monkeypatch.setattr(minute, "minute", lambda threads: tiny)
    path = tmp_path / "times.json"
    assert minute.main(0.01, 1, path) == 0
    done = results.read(path)
    assert {(m.task.case, m.implementation) for m in done.measurements} >= {
        (case, name) for case in shapes for name in ("bptt", "numpy")
    }
    assert set(done.versions) | set(done.absent) == PEERS | {"bptt"}
    assert minute.main(0.01, 1, tmp_path / "none" / "times.json") == 1
    assert "No such file or directory" in capsys.readouterr().out
    monkeypatch.undo()
    for row in rows.minute(2):
        assert row.threads == 2
        assert 1 <= row.task.flops < 1.1e10
    assert {row.task.cell for row in rows.minute(1)} == set(rows.CELLS)


def test_a_process_with_fixed_threads() -> None:
    code = (
        "import os; from bptt.benchmark import machine; from bptt import checks; "
        "print(machine.is_fixed(1), checks.usable_cores(), checks.default_threads(), os.environ['MARK'])"
    )
    cores = checks.usable_cores()
    done = machine.run_fixed([sys.executable, "-c", code], 1, capture_output=True, env={"MARK": "here"})
    assert done.stdout.split()[0] == "True", done.stderr
    assert done.stdout.split()[2:] == ["1", "here"]
    assert checks.usable_cores() == cores
    assert not machine.is_fixed(cores + 1)
    if sys.platform == "linux":
        assert done.stdout.split()[1] == "1"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it goes on to its end")
def test_a_measurement_ends_with_who_asked_for_it() -> None:
    options = ("--shapes", "tiny", "--threads", "1", "--seconds", "1000")
    command = [sys.executable, BENCH / "compare.py", *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True) as process:
        try:
            assert process.stderr is not None
            assert process.stderr.readline().startswith(b"1/")
            process.kill()  # as whoever has waited long enough
            process.communicate(timeout=20)  # the measuring process holds the other end
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


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

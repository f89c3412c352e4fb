"""The bench's scripts beside the comparison: peak memory, growth over T and B, the committed baseline."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from bench_scripts import BENCH, run

from bptt.benchmark import results, rows


@pytest.mark.parametrize(("cell", "T"), [("rnn", 10_000), ("lstm", 2000), ("gru", 2000)])
def test_memory_of_a_long_sequence(cell: str, T: int) -> None:
    if not Path("/proc/self/status").exists():
        pytest.skip("the peak memory is read from /proc")
    shape = f"{T},4,64,64"
    done = run(BENCH / "memory.py", "--cells", cell, "--shapes", shape, "--peers", "bptt")
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith(f"| {cell} | float32 ")]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[2] == shape
    assert 0.95 < float(cells[6]) <= 1.25
    assert cells[7] == "1.25 pass"


def test_what_memory_has_to_hold(bench: Any) -> None:
    task = rows.Task("forward_backward", rows.Shape(10, 2, 3, 5), "float64")
    memory = bench("memory")
    held = memory.held(task)
    assert held["x"] == held["dx"] == 10 * 2 * 3 * 8
    assert held["y"] == 10 * 2 * 5 * 8
    assert held["weights"] == held["gradients"] == (15 + 25 + 10) * 8
    assert held["packed"] == 2 * (15 + 25) * 8
    assert held["kept"] == 0
    for cell, gates in (("lstm", 4), ("gru", 3)):
        more = memory.held(dataclasses.replace(task, cell=cell))
        assert all(more[name] == held[name] for name in ("x", "y", "dx"))
        assert all(more[name] == gates * held[name] for name in ("weights", "gradients", "packed"))
        assert more["kept"] == (gates + 1) * held["y"]


def test_exponents(bench: Any) -> None:
    scaling = bench("scaling")
    sizes = scaling.SIZES["T"]
    assert sizes[-1] == 1000 * sizes[0]
    exponent, r2 = scaling.fit(sizes, [3e-6 * size for size in sizes])
    assert exponent == pytest.approx(1)
    assert r2 == pytest.approx(1)
    exponent, r2 = scaling.fit(sizes, [size**1.5 for size in sizes])
    assert exponent == pytest.approx(1.5)
    _, r2 = scaling.fit((1, 10, 100), (1, 30, 20))
    assert 0.5 < r2 < 0.8


def test_scaling_over_both(tmp_path: Path) -> None:
    picture = tmp_path / "scaling.svg"
    sizes = ("--cells", "rnn,gru", "--sizes", "4,8,2,4", "--T", "3", "--B", "2", "--H", "4")
    done = run(BENCH / "scaling.py", *sizes, "--seconds", "0.001", "--rounds", "2", "--picture", picture)
    assert done.returncode == 0, done.stderr
    lines = [line.split(" | ") for line in done.stdout.splitlines() if "| bptt |" in line]
    assert [cells[:5] for cells in lines] == [
        [f"| {cell}", case, "bptt", over, fixed]
        for over, fixed in (("T", "B=2, I=4, H=4"), ("B", "T=3, I=4, H=4"))
        for cell in ("rnn", "gru")
        for case in ("forward", "forward backward")
    ]
    assert all(cells[5].startswith("2: ") and cells[6].startswith("8: ") for cells in lines)
    assert picture.read_text().rstrip().endswith("</svg>")


def test_scaling_of_what_cannot_be_measured() -> None:
    # a frozen layer has no backward pass, and without a setup there is no option to do without
    few = ("--over", "B", "--sizes", "1,2,3", "--T", "2", "--H", "4", "--seconds", "0.001", "--rounds", "1")
    done = run(BENCH / "scaling.py", "--peers", "bptt-frozen", *few)
    assert done.returncode == 0, done.stderr
    assert [line.split(" | ")[1] for line in done.stdout.splitlines() if "bptt-frozen |" in line] == [
        "forward"
    ]
    assert "- not run: bptt-frozen rnn forward_backward over B: has no backward pass" in done.stdout
    done = run(BENCH / "scaling.py", "--peers", "bptt-without-option", *few, "--picture", "never.svg")
    assert done.returncode == 1
    assert done.stdout.count("- not run: bptt-without-option rnn ") == 2
    assert not (BENCH.parent / "never.svg").exists()


def test_scaling_of_absent_peers(
    bench: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scaling = bench("scaling")
    monkeypatch.setattr(scaling.machine, "is_fixed", lambda threads: True)
    monkeypatch.setattr(scaling.peers, "load", lambda names: ({}, {"jax": "No module named 'jax'"}))
    assert scaling.main(["--peers", "jax"]) == 1
    assert "- absent: jax (No module named 'jax')" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        ("memory.py", ("--peers", "jax"), "peers: expected words out of bptt, torch, got jax"),
        ("memory.py", ("--cells", "gru,tanh"), "cells: expected words out of rnn, lstm, gru, got tanh"),
        ("scaling.py", ("--cells", "LSTM"), "cells: expected words out of rnn, lstm, gru, got LSTM"),
        ("memory.py", ("--shapes", "1,2"), "shape: expected T,B,I,H as four integers, got '1,2'"),
        ("scaling.py", ("--over", "H"), "over: expected words out of T, B, got H"),
        ("scaling.py", ("--sizes", "1,2"), "sizes: expected at least 3 different ones, got [1, 2]"),
        ("scaling.py", ("--sizes", "1,x"), "sizes: expected positive integers joined by commas, got '1,x'"),
        ("scaling.py", ("--picture", "a.pdf"), "picture: expected a name ending in .svg or .png, got a.pdf"),
        (
            "scaling.py",
            ("--rounds", "0"),
            "T, H, rounds, seconds: expected positive numbers, got "
            "{'T': 100, 'H': 64, 'rounds': 0, 'seconds': 0.5}",
        ),
        ("baseline.py", ("none.json",), "No such file or directory: 'none.json'"),
        ("baseline.py", ("bench/baseline.json",), "expected a JSON file written by this suite"),
    ],
)
def test_wrong_options_of_the_others(script: str, arguments: tuple[str, ...], message: str) -> None:
    done = run(BENCH / script, *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def times(path: Path, numpy: float, reference: float) -> Path:
    """Write a run in which bptt took a second and the others as long as given."""
    row = rows.Row(rows.Task("forward", rows.Shape(3, 2, 3, 5)))
    limits = {"fma_peak": 1e9, "read_bandwidth": None}
    entries = []
    for name, seconds in (("bptt", 1.0), ("numpy", numpy), ("reference", reference)):
        info = results.extra_info(row, name, "0", limits=limits, error=0.5, machine={})
        entries.append(results.as_benchmark(row.group, info, [seconds, 3 * seconds, 5 * seconds]))
    account = {"machine": {"variant": "bptt avx2"}, "versions": {}, "absent": {}, "refused": {}}
    results.write(path, entries, account)
    return path


def test_a_fall_is_said_loudly(bench: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    baseline = bench("baseline")
    old = tmp_path / "old.json"
    assert baseline.main([str(times(tmp_path / "a", 9, 700)), "--update", "--baseline", str(old)]) == 0
    assert baseline.main([str(times(tmp_path / "b", 6.4, 700)), "--baseline", str(old)]) == 0  # by 29%
    out = capsys.readouterr().out
    assert "| rnn forward 3,2,3,5 float32 1 thread | numpy | 9 | 6.4 | -29% |" in out
    assert "- no speedup has fallen by more than 30%" in out
    assert "elsewhere" not in out

    content = json.loads(old.read_text())
    content["speedups"]["gone"] = {"numpy": 2.0}
    content["machine"]["variant"] = "bptt abacus"
    old.write_text(json.dumps(content))
    new = times(tmp_path / "c", 6.2, 800)
    assert baseline.main([str(new), "--baseline", str(old)]) == 0
    out = capsys.readouterr().out
    assert "| numpy | 9 | 6.2 | -31% FALLEN |" in out
    assert "!!! rnn forward 3,2,3,5 float32 1 thread: speedup over numpy 9 -> 6.2 (-31%)" in out
    assert out.count("speedup over") == 1
    assert "| gone | numpy | 2 | – | not measured |" in out
    assert "- the baseline is from elsewhere: variant: bptt abacus, now bptt avx2" in out

    old.write_text("[]")
    with pytest.raises(SystemExit) as end:
        baseline.main([str(new), "--baseline", str(old)])
    assert end.value.code == 2
    assert "expected a baseline written by --update" in capsys.readouterr().err


def test_the_committed_baseline_is_of_the_smoke_run(bench: Any) -> None:
    baseline, shapes = bench("baseline"), bench("shapes")
    machine_of, speedups = baseline.read(baseline.BASELINE)
    assert machine_of["processor"]
    assert set(speedups) == {row.group for row in shapes.select("smoke", 1)}
    assert all(ratio > 0 for found in speedups.values() for ratio in found.values())
    assert all("numpy" in found for found in speedups.values())
    assert any("reference" in found for found in speedups.values())

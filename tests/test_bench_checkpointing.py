"""The bench of checkpointed passes: its arithmetic, a small case, bad options."""

import re
import sys

import pytest
from bench_scripts import BENCH, run

from bptt.benchmark.rows import Shape


def test_arithmetic(bench):
    script, shape = bench("checkpointing"), Shape(10, 2, 3, 5)
    assert script.tape_bytes("rnn", shape) == 10 * 2 * 5 * 4
    assert script.tape_bytes("lstm", shape) == 10 * 2 * 5 * 4 * 6  # h, c, four gates
    assert script.tape_bytes("gru", shape) == 10 * 2 * 5 * 4 * 5  # h, three gates, W_hn h
    measured = {"growth": 340, "seconds": 1.25, "norm": 2.0}
    line = script.line("budget", "rnn", shape, 100, measured)
    assert line == ["rnn", "budget", "0", "0", "1.000", "1.1 pass", "1.2", "2"]
    measured["growth"] = 351  # 1.1 * 100 + 10 * 2 * 3 * 4 is 350
    assert script.line("budget", "rnn", shape, 100, measured)[5] == "1.1 FAIL"
    assert script.line("torch", "rnn", shape, 100, measured)[2:5] == ["", "0", ""]
    assert script.line("plain", "rnn", shape, 100, measured)[4:6] == [f"{351 / 640:.3f}", ""]


@pytest.mark.skipif(sys.platform != "linux", reason="the peak memory is read from /proc")
@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_a_small_case(cell):
    options = ("--shape", "6000,8,64,64", "--memory", "6000000", "--ways", "budget,plain", "--cells", cell)
    done = run(BENCH / "checkpointing.py", *options)
    assert done.returncode == 0, done.stderr
    budget, plain = (
        re.split(r" *\| *", line.strip("| "))
        for line in done.stdout.splitlines()
        if line.startswith(f"| {cell}")
    )
    assert budget[:2] == [cell, "budget"]
    assert budget[5] == "1.1 pass"
    assert int(plain[3]) > int(budget[3])
    assert budget[7] == plain[7]  # the same gradient


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--ways", "jax"), "ways: expected words out of budget, plain, torch, got jax"),
        (("--cells", "tanh"), "cells: expected words out of rnn, lstm, gru, got tanh"),
        (("--shape", "3,4"), "shape: expected T,B,I,H as four integers, got '3,4'"),
    ],
)
def test_bad_options(options, message):
    done = run(BENCH / "checkpointing.py", *options)
    assert done.returncode == 2
    assert message in done.stderr


def test_what_cannot_be_measured():
    done = run(BENCH / "checkpointing.py", "--shape", "50,2,3,4", "--memory", "10", "--ways", "budget")
    assert done.returncode == 1
    assert "memory: expected at least" in done.stderr


def test_the_time_beside_a_plain_pass():
    options = ("--shape", "600,8,32,32", "--share", "0.2", "--rounds", "2", "--cells", "lstm,rnn")
    done = run(BENCH / "checkpoint_time.py", *options)
    assert done.returncode == 0, done.stderr
    rows = [line.strip("| ").split(" | ") for line in done.stdout.splitlines() if line.startswith("| ")]
    assert [row[0] for row in rows[1:]] == ["---", "lstm", "rnn"]
    for row in rows[2:]:
        assert 1 <= float(row[3]) < 3  # how often it runs forward
        assert float(row[6]) > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--rounds", "0"), "rounds, share: expected at least 1, above 0, got 0, 0.05"),
        (("--share", "0"), "rounds, share: expected at least 1, above 0, got 9, 0.0"),
        (("--shape", "100,2,8,8", "--share", "0.01"), "share 0.01: memory: expected at least "),
    ],
)
def test_bad_options_of_the_time(options, message):
    done = run(BENCH / "checkpoint_time.py", *options)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr

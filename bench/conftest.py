"""Options of the suite, run in a process whose threads are fixed, and an account of what is not run."""

from __future__ import annotations

import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import shapes

from bptt.benchmark import machine, peers
from bptt.benchmark.peers.base import Implementation
from bptt.benchmark.rows import CASES, CELLS, DTYPES, Row, parse_choices

_FOUND = pytest.StashKey[dict[str, Implementation]]()
_ABSENT = pytest.StashKey[dict[str, str]]()
_REFUSED = pytest.StashKey[Counter[str]]()
_ROWS = pytest.StashKey[tuple[Row, ...]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("bptt bench")
    threads = os.environ.get("BENCH_THREADS", "1")
    group.addoption("--threads", default=threads, help="a number or all (default BENCH_THREADS, or else 1)")
    group.addoption("--shapes", default="bars", help=shapes.HELP)
    group.addoption("--cells", default=",".join(CELLS), help="rnn (tanh),lstm,gru")
    group.addoption("--cases", default=",".join(CASES), help="forward,forward_backward,single_step")
    group.addoption("--dtypes", default=",".join(DTYPES), help="float32,float64")
    group.addoption("--peers", default=",".join(peers.NAMES), help=f"out of {','.join(peers.NAMES)}")


def pytest_cmdline_main(config: pytest.Config) -> int | None:
    """Run pytest again in a process whose threads are fixed, unless this is it."""
    try:
        threads = machine.parse_threads(config.getoption("--threads"))
    except ValueError as error:
        raise pytest.UsageError(str(error)) from None
    if config.option.help or machine.is_fixed(threads):
        return None
    capture = config.pluginmanager.getplugin("capturemanager")
    if capture is not None:
        capture.suspend_global_capture(in_=True)
    invocation = config.invocation_params
    command = [sys.executable, "-m", "pytest", *map(str, invocation.args)]
    return machine.run_fixed(command, threads, cwd=invocation.dir).returncode


def pytest_configure(config: pytest.Config) -> None:
    option = config.getoption
    try:
        threads = machine.parse_threads(option("--threads"))
        cases = parse_choices("cases", option("--cases"), CASES)
        dtypes = parse_choices("dtypes", option("--dtypes"), DTYPES)
        cells = parse_choices("cells", option("--cells"), CELLS)
        names = parse_choices("peers", option("--peers"), peers.NAMES)
        config.stash[_ROWS] = shapes.select(option("--shapes"), threads, cases, dtypes, cells)
    except ValueError as error:
        raise pytest.UsageError(str(error)) from None
    config.stash[_FOUND], config.stash[_ABSENT] = peers.load(names)
    config.stash[_REFUSED] = Counter()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Let implementations vary fastest, so that those of one problem are timed one after the other."""
    if "row" not in metafunc.fixturenames:
        return
    stash = metafunc.config.stash
    rows, found = stash[_ROWS], stash[_FOUND]
    cases, refused = peers.plan(rows, found)
    stash[_REFUSED].update(refused)
    ids = [f"{row.group}-{name}".replace(" ", "-") for row, name in cases]
    metafunc.parametrize(("row", "name"), cases, ids=ids)


@pytest.fixture(scope="session")
def implementations(request: pytest.FixtureRequest) -> dict[str, Implementation]:
    """Return the implementations found."""
    return request.config.stash[_FOUND]


@pytest.fixture(scope="session")
def about() -> dict[str, str]:
    """Return the names of processor, variant, system and interpreter."""
    return machine.describe()


def _account(config: pytest.Config) -> dict[str, Any]:
    found, absent, refused = config.stash[_FOUND], config.stash[_ABSENT], config.stash[_REFUSED]
    return peers.account(found, absent, refused)


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    """Record the versions, and what is absent, in the JSON."""
    machine_info["bench"] = _account(config)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print what was compared, and what was not and why."""
    account = _account(config)
    terminalreporter.section("implementations")
    for title in ("versions", "absent"):
        for name, text in account[title].items():
            terminalreporter.write_line(f"{title}: {name}: {text}")
    for text, count in account["refused"].items():
        terminalreporter.write_line(f"not run on {count} problems: {text}")

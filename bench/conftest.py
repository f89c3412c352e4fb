"""Options of the suite, threads fixed before anything numerical loads, and an account of what is not run."""

from __future__ import annotations

import os
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import machine
import peers
import shapes

if TYPE_CHECKING:
    from peers.base import Implementation

_FOUND = pytest.StashKey[dict[str, "Implementation"]]()
_ABSENT = pytest.StashKey[dict[str, str]]()
_REFUSED = pytest.StashKey["Counter[str]"]()
_ROWS = pytest.StashKey[tuple[shapes.Row, ...]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("bptt bench")
    threads = os.environ.get("BENCH_THREADS", "1")
    group.addoption("--threads", default=threads, help="a number or all (default BENCH_THREADS, or else 1)")
    shapes_help = "bars (default), a name in shapes.py, or T,B,I,H; joined by +"
    group.addoption("--shapes", default="bars", help=shapes_help)
    group.addoption("--cases", default=",".join(shapes.CASES), help="forward,forward_backward,single_step")
    group.addoption("--dtypes", default=",".join(shapes.DTYPES), help="float32,float64")
    group.addoption("--peers", default=",".join(peers.NAMES), help=f"out of {','.join(peers.NAMES)}")


def pytest_configure(config: pytest.Config) -> None:
    option = config.getoption
    try:
        threads = machine.parse_threads(option("--threads"))
        cases = shapes.parse_choices("cases", option("--cases"), shapes.CASES)
        dtypes = shapes.parse_choices("dtypes", option("--dtypes"), shapes.DTYPES)
        names = shapes.parse_choices("peers", option("--peers"), peers.NAMES)
        config.stash[_ROWS] = shapes.select(option("--shapes"), threads, cases, dtypes)
        machine.fix_threads(threads)
    except (ValueError, RuntimeError) as error:
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

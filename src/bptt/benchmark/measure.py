"""Make, check and time: every row of a comparison, one after the other."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from bptt.benchmark import machine, peers, problem, results, timing
from bptt.benchmark.rows import STEP, Row

#: Seconds for each implementation of a row, from the number of rows not done yet and of implementations.
Allowance = Callable[[int, int], float]


def until(deadline: float) -> Allowance:
    """Share out the time up to ``deadline`` (of `time.monotonic`) among what is still to be timed."""
    return lambda rows, names: max(0.0, deadline - time.monotonic()) / (rows * max(1, names))


def measure(
    rows: Sequence[Row],
    names: Iterable[str],
    to: Path,
    *,
    allowance: Allowance,
    rounds: int,
    strict: bool = True,
) -> None:
    """Measure ``rows`` in this process, whose threads are fixed, and write what `results.read` reads.

    Parameters
    ----------
    rows : sequence of Row
        What to run.
    names : iterable of str
        Implementations, out of `peers.NAMES`.
    to : Path
        File to write.
    allowance : callable
        Time to spend.
    rounds : int
        Rounds of the rotation.
    strict : bool
        Raise if a peer fails; otherwise leave it out, and say so in the file.

    Raises
    ------
    DisagreementError
        If a result is outside the tolerance; with ``strict=False`` only if it is one of our own.
    """
    found, absent = peers.load(names, strict=strict)
    cases, refused = peers.plan(rows, found)
    about = machine.describe()
    benchmarks: list[dict[str, Any]] = []
    for number, row in enumerate(rows, start=1):
        print(f"{number}/{len(rows)} {row.group}", file=sys.stderr, flush=True)
        numbers = problem.make(row.task)
        calls: dict[str, timing.Call] = {}
        errors: dict[str, float] = {}
        for name in (name for of, name in cases if of == row):
            try:
                run = found[name].build(numbers, row.threads)
                errors[name] = problem.check(name, numbers, run)
            except Exception as error:
                if strict or name in peers.OWN:
                    raise
                refused[f"{name}: {peers.brief(error)}"] += 1
            else:
                calls[name] = run.call
        limits = machine.limits(row)
        times = timing.rotate(
            calls,
            seconds=allowance(len(rows) - number + 1, len(calls)),
            rounds=rounds,
            one_by_one=row.task.case == STEP,
        )
        for name, samples in times.items():
            info = results.extra_info(
                row, name, found[name].version, limits=limits, error=errors[name], machine=about
            )
            benchmarks.append(results.as_benchmark(row.group, info, samples))
    results.write(to, benchmarks, peers.account(found, absent, refused))

"""Make, check and time: every row of a comparison, one after the other."""

from __future__ import annotations

import math
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
    passes: int = 1,
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
        Time to spend, from the number of rows not done yet in all passes and of implementations.
    rounds : int
        Rounds of the rotation.
    passes : int
        How often all rows are measured, one after the other; of each, the calmest time counts: see `calmest`.
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
    failed: set[tuple[str, Row]] = set()
    measured: dict[Row, list[list[dict[str, Any]]]] = {row: [] for row in rows}
    for number, row in enumerate([*rows] * passes):
        print(f"{number + 1}/{len(rows) * passes} {row.group}", file=sys.stderr, flush=True)
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
                failed.add((f"{name}: {peers.brief(error)}", row))
            else:
                calls[name] = run.call
        limits = machine.limits(row)
        times = timing.rotate(
            calls,
            seconds=allowance(len(rows) * passes - number, len(calls)),
            rounds=rounds,
            one_by_one=row.task.case == STEP,
        )
        benchmarks = []
        for name, samples in times.items():
            info = results.extra_info(
                row, name, found[name].version, limits=limits, error=errors[name], machine=about
            )
            benchmarks.append(results.as_benchmark(row.group, info, samples))
        measured[row].append(benchmarks)
    refused.update(reason for reason, _ in failed)
    chosen = [benchmark for of_row in measured.values() for benchmark in calmest(of_row)]
    results.write(to, chosen, peers.account(found, absent, refused))


def calmest(passes: Sequence[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return the pass over a row in which somebody else disturbed the machine least.

    It is the one where the medians of all implementations are least above the least medians of each: their
    geometric mean counts, so that none weighs more than another.
    """
    medians = [{entry["name"]: entry["stats"]["median"] for entry in of_pass} for of_pass in passes]
    # an implementation that failed in one of them says nothing of the machine
    names = set[str].intersection(*(set(of_pass) for of_pass in medians))
    return min(
        zip(passes, medians, strict=True), key=lambda pair: sum(math.log(pair[1][name]) for name in names)
    )[0]

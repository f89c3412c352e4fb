"""Compare the implementations in rotation on pinned cores, and print the ratios beside the bars.

    python bench/compare.py                                                  every bar; some ten minutes
    python bench/compare.py --cases forward --shapes bars --threads 1
    python bench/compare.py --shapes 100,1,64,64 --dtypes float32 --seconds 0.2

Every round calls all implementations of a problem, in another order each round; medians are over all rounds.
Each result is checked against a float64 computation before anything is timed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import machine
import peers
import results
import shapes


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    cores = machine.usable_cores()
    parser.add_argument(
        "--threads",
        default="1,2" if cores > 1 else "1",
        help="a number or all; several are run one after the other (default %(default)s)",
    )
    parser.add_argument(
        "--shapes", default="bars", help="bars (default), a name in shapes.py, or T,B,I,H; joined by +"
    )
    parser.add_argument("--cases", default=",".join(shapes.CASES), help="default: %(default)s")
    parser.add_argument("--dtypes", default=",".join(shapes.DTYPES), help="default: %(default)s")
    parser.add_argument(
        "--peers",
        default=",".join(name for name in peers.NAMES if name != "reference"),
        help="implementations, default: %(default)s",
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=0.6,
        help="for each implementation of each problem (default %(default)s)",
    )
    parser.add_argument("--rounds", type=int, default=15, help="default %(default)s")
    parser.add_argument("--json", type=Path, help="write the measurements for report.py")
    return parser


def _measure(rows: Sequence[shapes.Row], names: Sequence[str], seconds: float, rounds: int, to: Path) -> None:
    """Measure ``rows`` in this process, whose threads are fixed, and write them."""
    import problem  # imports NumPy
    import timing

    found, absent = peers.load(names)
    cases, refused = peers.plan(rows, found)
    about = machine.describe()
    benchmarks: list[dict[str, Any]] = []
    for number, row in enumerate(rows, start=1):
        print(f"{number}/{len(rows)} {row.group}", file=sys.stderr)
        numbers = problem.make(row.case, row.shape, row.dtype)
        runs = {name: found[name].build(numbers, row.threads) for of, name in cases if of == row}
        errors = {name: problem.check(name, numbers, run) for name, run in runs.items()}
        limits = machine.limits(row)
        times = timing.rotate(
            {name: run.call for name, run in runs.items()},
            seconds=seconds,
            rounds=rounds,
            one_by_one=row.case == shapes.STEP,
        )
        for name, samples in times.items():
            info = results.extra_info(
                row, name, found[name].version, limits=limits, error=errors[name], machine=about
            )
            benchmarks.append(results.as_benchmark(row.group, info, samples))
    results.write(to, benchmarks, peers.account(found, absent, refused))


def _in_processes(arguments: Sequence[str], threads: Sequence[int], to: Path) -> int:
    """Run this script once for each number of threads: a library fixes it when it loads.

    Returns the exit status of the first that fails (it has said why), or 0.
    """
    parts = [to.with_name(f"{to.name}.{count}") for count in threads]
    for count, part in zip(threads, parts, strict=True):
        # The last --threads and --json count.
        command = [sys.executable, __file__, *arguments, "--threads", str(count), "--json", str(part)]
        status = subprocess.run(command, check=False, stdout=subprocess.DEVNULL).returncode
        if status:
            return status
    results.merge(parts, to)
    for part in parts:
        part.unlink()
    return 0


def main(arguments: Sequence[str]) -> int:
    """Run the script; returns the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        threads = [machine.parse_threads(text) for text in options.threads.split(",")]
        names = shapes.parse_choices("peers", options.peers, peers.NAMES)
        cases = shapes.parse_choices("cases", options.cases, shapes.CASES)
        dtypes = shapes.parse_choices("dtypes", options.dtypes, shapes.DTYPES)
        rows = {count: shapes.select(options.shapes, count, cases, dtypes) for count in threads}
        if not any(rows.values()):
            raise ValueError(f"shapes: expected a selection with rows, got none for {' '.join(arguments)!r}")
        if options.rounds < 1 or options.seconds <= 0:
            raise ValueError(
                f"rounds, seconds: expected at least 1, above 0, got {options.rounds}, {options.seconds}"
            )
    except ValueError as error:
        parser.error(str(error))
    with tempfile.TemporaryDirectory() as folder:
        path = options.json or Path(folder) / "times.json"
        if len(threads) > 1:
            status = _in_processes(arguments, threads, path)
            if status:
                return status
        else:
            machine.fix_threads(threads[0])
            _measure(rows[threads[0]], names, options.seconds, options.rounds, path)
        run = results.read(path)
    chosen = [row for part in rows.values() for row in part]
    print(results.table(run.measurements, {row.group: row for row in chosen}))
    print()
    print(results.notes(run))
    print("-", results.tally(run.measurements, chosen))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

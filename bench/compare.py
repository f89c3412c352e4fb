"""Compare the implementations in rotation on pinned cores, and print the ratios beside the bars.

    python bench/compare.py                                                  every bar; some fifteen minutes
    python bench/compare.py --cells lstm,gru --cases forward --threads 1
    python bench/compare.py --cells lstm --shapes ragged+options             lengths; what the options cost
    python bench/compare.py --shapes 100,1,64,64 --dtypes float32 --seconds 0.2
    python bench/compare.py --passes 3                                       on a machine that others use too

Every round calls all implementations of a problem, in another order each round; medians are over all rounds.
Each result is checked against a float64 computation before anything is timed.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import shapes

from bptt import checks
from bptt.benchmark import machine, peers, results
from bptt.benchmark.measure import measure
from bptt.benchmark.rows import CASES, CELLS, DTYPES, parse_choices


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    cores = checks.usable_cores()
    parser.add_argument(
        "--threads",
        default="1,2" if cores > 1 else "1",
        help="a number or all; several are run one after the other (default %(default)s)",
    )
    parser.add_argument("--shapes", default="bars", help=shapes.HELP)
    parser.add_argument("--cells", default=",".join(CELLS), help="default: %(default)s; rnn is tanh")
    parser.add_argument("--cases", default=",".join(CASES), help="default: %(default)s")
    parser.add_argument("--dtypes", default=",".join(DTYPES), help="default: %(default)s")
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
    parser.add_argument(
        "--passes",
        type=int,
        default=1,
        help="times that all of it is measured; of each problem the pass counts in which all "
        "implementations together were least disturbed (default %(default)s)",
    )
    parser.add_argument("--json", type=Path, help="write the measurements for report.py")
    return parser


def _in_processes(arguments: Sequence[str], threads: Sequence[int], folder: Path, to: Path) -> int:
    """Run this script once for each number of threads, which are fixed when a process starts.

    Returns the exit status of the first that fails (it has said why), or 0. What each run writes is put in
    ``folder``, and all of it together in ``to``.
    """
    parts = [folder / f"{count}.json" for count in threads]
    for count, part in zip(threads, parts, strict=True):
        # The last --threads and --json count.
        command = [sys.executable, __file__, *arguments, "--threads", str(count), "--json", str(part)]
        status = machine.run_fixed(command, count, stdout=subprocess.DEVNULL).returncode
        if status:
            return status
    results.merge(parts, to)
    return 0


def main(arguments: Sequence[str]) -> int:
    """Run the script; returns the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        # each once: on one core "1,all" is the same twice
        threads = list(dict.fromkeys(machine.parse_threads(text) for text in options.threads.split(",")))
        names = parse_choices("peers", options.peers, peers.NAMES)
        cases = parse_choices("cases", options.cases, CASES)
        dtypes = parse_choices("dtypes", options.dtypes, DTYPES)
        cells = parse_choices("cells", options.cells, CELLS)
        rows = {count: shapes.select(options.shapes, count, cases, dtypes, cells) for count in threads}
        if not any(rows.values()):
            raise ValueError(f"shapes: expected a selection with rows, got none for {' '.join(arguments)!r}")
        if min(options.rounds, options.passes) < 1 or not 0 < options.seconds < math.inf:
            raise ValueError(
                "rounds, passes, seconds: expected at least 1, at least 1, a number above 0, "
                f"got {options.rounds}, {options.passes}, {options.seconds}"
            )
        if options.json is not None and not options.json.parent.is_dir():  # not after a quarter of an hour
            raise ValueError(f"json: expected a file in a folder that exists, got {str(options.json)!r}")
    except ValueError as error:
        parser.error(str(error))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = options.json or folder / "times.json"
        if len(threads) == 1 and machine.is_fixed(threads[0]):
            measure(
                rows[threads[0]],
                names,
                path,
                allowance=lambda *_: options.seconds,
                rounds=options.rounds,
                passes=options.passes,
            )
        else:
            status = _in_processes(arguments, [count for count in threads if rows[count]], folder, path)
            if status:
                return status
        run = results.read(path)
    chosen = [row for part in rows.values() for row in part]
    print(results.table(run.measurements, {row.group: row for row in chosen}))
    print()
    print(results.notes(run))
    print("-", results.tally(run.measurements, chosen))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

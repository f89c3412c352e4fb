"""Time a layer over three decades of time steps and of batch rows, and fit the exponent of the growth.

    python bench/scaling.py
    python bench/scaling.py --cells lstm,gru --over T --sizes 100,1000,10000 --B 1 --picture scaling.svg

time = c * size^exponent, fitted by least squares to the logarithms; an exponent of 1 is linear growth, one
below 1 is growth that starts from a fixed cost. Times are processor time of all threads, since another
program that runs for a while would lengthen long calls only. All sizes of a line are timed in rotation in one
pinned process; results of up to 10,000 rows (T times B) are checked against a float64 computation first.
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bptt.benchmark import machine, peers, problem, timing
from bptt.benchmark.peers.base import Implementation
from bptt.benchmark.results import duration, markdown
from bptt.benchmark.rows import BACKWARD, CELLS, DTYPES, FORWARD, Shape, Task, parse_choices

# Half decades.
SIZES = {"T": (100, 316, 1000, 3162, 10_000, 31_623, 100_000), "B": (1, 3, 10, 32, 100, 316, 1000)}
_CHECKED_ROWS = 10_000


class Line(NamedTuple):
    """Medians of one implementation in one direction over one axis."""

    implementation: str
    cell: str
    case: str
    over: str  # T or B
    shape: Shape  # without the axis
    sizes: list[int]
    seconds: list[float]

    @property
    def fixed(self) -> str:
        """Return what doesn't vary along the line."""
        return ", ".join(f"{name}={size}" for name, size in self.shape._asdict().items() if name != self.over)


def fit(sizes: Sequence[float], seconds: Sequence[float]) -> tuple[float, float]:
    """Fit log(seconds) = exponent log(size) + constant; returns the exponent and R squared."""
    x, y = np.log(sizes), np.log(seconds)
    exponent, constant = np.polyfit(x, y, 1)
    residual = y - (exponent * x + constant)
    return float(exponent), float(1 - (residual @ residual) / np.sum((y - y.mean()) ** 2))


def _time(
    implementation: Implementation,
    over: str,
    fixed: Shape,
    tasks: Mapping[int, Task],
    options: argparse.Namespace,
) -> Line:
    name = implementation.name
    calls: dict[str, timing.Call] = {}
    for size, task in tasks.items():
        numbers = problem.make(task)
        run = implementation.build(numbers, int(options.threads))
        if task.shape.T * task.shape.B <= _CHECKED_ROWS:
            problem.check(name, numbers, run)
        calls[str(size)] = run.call
    times = timing.rotate(calls, seconds=options.seconds, rounds=options.rounds, clock=time.process_time)
    medians = [statistics.median(times[str(size)]) for size in tasks]
    task = next(iter(tasks.values()))
    return Line(name, task.cell, task.case, over, fixed, list(tasks), medians)


def _measure(options: argparse.Namespace) -> tuple[list[Line], list[str]]:
    """Time all lines in this process, whose threads are fixed; say which could not be, and why."""
    found, absent = peers.load(options.peers)
    lines, missing = [], [f"absent: {name} ({reason})" for name, reason in absent.items()]
    for over in options.over:
        sizes = options.sizes or SIZES[over]
        others = [options.T] if over == "B" else options.B
        for other in others:
            fixed = Shape(other if over == "B" else 1, 1 if over == "B" else other, options.H, options.H)
            for cell, case, name in itertools.product(options.cells, options.cases, found):
                about = f"{name} {cell} {case} over {over}"
                tasks = {
                    size: Task(case, fixed._replace(**{over: size}), options.dtype, cell) for size in sizes
                }
                refused = next(filter(None, map(found[name].refuses, tasks.values())), None)
                if refused is not None:
                    missing.append(f"not run: {about}: {refused}")
                    continue
                print(about, file=sys.stderr, flush=True)
                lines.append(_time(found[name], over, fixed, tasks, options))
    return lines, missing


def table(lines: Sequence[Line]) -> str:
    """Make one Markdown table: a row a line, with the times at its ends, exponent and R squared."""
    about = ["layer", "direction", "implementation", "over", "at"]
    head = [*about, "from", "to", "us each at first", "us each at last", "exponent", "R²"]
    rows = []
    for line in lines:
        exponent, r2 = fit(line.sizes, line.seconds)
        ends = [f"{line.sizes[i]:,}: {duration(line.seconds[i])}" for i in (0, -1)]
        each = [f"{line.seconds[i] / line.sizes[i] * 1e6:.3g}" for i in (0, -1)]
        named = [line.cell, line.case.replace("_", " "), line.implementation, line.over, line.fixed]
        rows.append([*named, *ends, *each, f"{exponent:.3f}", f"{r2:.5f}"])
    return markdown(head, rows, left=len(about))


def draw(lines: Sequence[Line], about: str, target: Path) -> None:
    """Draw time against size, a panel a cell, direction and axis, with a dotted line of exponent 1."""
    import picture

    keys = list(dict.fromkeys((line.cell, line.over, line.case) for line in lines))
    columns = min(2, len(keys))
    figure, grid = picture.panels(math.ceil(len(keys) / columns), columns, width=5.5)
    for axes, (cell, over, case) in zip(grid.flat, keys, strict=False):
        chosen = [line for line in lines if (line.cell, line.over, line.case) == (cell, over, case)]
        for line in chosen:
            exponent, _ = fit(line.sizes, line.seconds)
            x, y = np.array(line.sizes), np.array(line.seconds) * 1e3
            lighter = {"alpha": 0.5} if line.fixed != chosen[0].fixed else {}
            label = f"{line.implementation}, {line.fixed}: exponent {exponent:.3f}"
            axes.plot(x, y, label=label, **picture.style(line.implementation), **lighter)
            axes.plot(x, y[-1] * x / x[-1], ":", color="0.6", linewidth=1)
        axes.set_xscale("log")
        axes.set_yscale("log")
        picture.lighten(axes)
        axes.set_title(f"{picture.CELL_TITLES[cell]} {picture.TITLES[case]} over {over}")
        axes.set_xlabel({"T": "time steps T", "B": "batch rows B"}[over])
        axes.set_ylabel("median processor time (ms)")
        axes.legend(frameon=False, fontsize=8)
    for axes in grid.flat[len(keys) :]:
        axes.set_visible(False)
    picture.save(figure, f"dotted: exponent 1; {about}", target)


def _integers(name: str, text: str) -> list[int]:
    """Read positive integers, each once, in ascending order."""
    parts = text.split(",")
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise ValueError(f"{name}: expected positive integers joined by commas, got {text!r}")
    return sorted({int(part) for part in parts})


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--over", default="T,B", help="axes (default %(default)s)")
    parser.add_argument("--sizes", help="default: seven sizes, three decades")
    parser.add_argument("--T", type=int, default=100, help="time steps when over B (default %(default)s)")
    parser.add_argument("--B", default="1,8", help="batch rows when over T (default %(default)s)")
    parser.add_argument("--H", type=int, default=64, help="H and I (default %(default)s)")
    parser.add_argument("--cells", default="rnn", help="out of rnn (tanh), lstm, gru (default %(default)s)")
    parser.add_argument("--cases", default=f"{FORWARD},{BACKWARD}", help="default %(default)s")
    parser.add_argument("--peers", default="bptt", help="default %(default)s")
    parser.add_argument("--dtype", choices=DTYPES, default=DTYPES[0], help="default %(default)s")
    parser.add_argument("--threads", default="1", help="a number or all (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=0.5, help="for each size (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="default %(default)s")
    parser.add_argument("--picture", type=Path, help="where to draw, .svg or .png")
    return parser


def _parse(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> argparse.Namespace:
    options = parser.parse_args(arguments)
    try:
        options.threads = str(machine.parse_threads(options.threads))
        options.over = parse_choices("over", options.over, tuple(SIZES))
        options.sizes = _integers("sizes", options.sizes) if options.sizes else None
        options.B = _integers("B", options.B)
        options.cells = parse_choices("cells", options.cells, CELLS)
        options.cases = parse_choices("cases", options.cases, (FORWARD, BACKWARD))
        options.peers = parse_choices("peers", options.peers, peers.NAMES)
        if options.sizes is not None and len(options.sizes) < 3:
            raise ValueError(f"sizes: expected at least 3 different ones, got {options.sizes}")
        positive = {name: getattr(options, name) for name in ("T", "H", "rounds", "seconds")}
        if not all(0 < number < math.inf for number in positive.values()):
            raise ValueError(f"{', '.join(positive)}: expected positive numbers, got {positive}")
        if options.picture is not None and options.picture.suffix not in (".svg", ".png"):
            raise ValueError(f"picture: expected a name ending in .svg or .png, got {options.picture}")
    except ValueError as error:
        parser.error(str(error))
    return options


def main(arguments: Sequence[str]) -> int:
    """Run the script; returns the exit status: 1 if nothing could be measured."""
    options = _parse(_parser(), arguments)
    threads = int(options.threads)
    if not machine.is_fixed(threads):
        # The last --threads counts.
        return machine.run_fixed(
            [sys.executable, __file__, *arguments, "--threads", str(threads)], threads
        ).returncode
    lines, missing = _measure(options)
    about = ", ".join([*machine.describe().values(), options.dtype, f"{threads} thread{'s' * (threads > 1)}"])
    print(table(lines))
    print()
    for note in (about, *missing):
        print("-", note)
    if lines and options.picture:
        draw(lines, about, options.picture)
    return 0 if lines else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

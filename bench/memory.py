"""Measure the peak memory of forward + backward beside what it has to hold, and print a Markdown table.

    python bench/memory.py
    python bench/memory.py --cells lstm,gru --shapes 10000,8,64,64 --peers bptt --threads 2

Held are x, y, dx, the weights and their gradients, packed copies of the weights (each of the two matrices
once forward, once backward), and of every step an LSTM's gates and c, a GRU's gates and the recurrent part of
its candidate. Measured are x and the weights, and by how much the process grows at its peak while it calls
forward and backward: dy, which the caller gives, counts on neither side. Each implementation has a process of
its own, in which its inputs are made and a small problem is run before. Linux only.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import peak

from bptt.benchmark import machine, peers, problem
from bptt.benchmark.results import markdown
from bptt.benchmark.rows import BACKWARD, CELLS, DTYPES, Shape, Task, parse_choices
from bptt.structure import GATES

BAR = 1.25
SHAPES = "10000,8,64,64+10000,8,256,256"
# NumPy's and JAX's runs make buffers before the first call, which would not be seen.
NAMES = ("bptt", "torch")
_SMALL = Shape(2, 2, 8, 8)


def held(task: Task) -> dict[str, int]:
    """Count the bytes that forward + backward can't do without, by name."""
    T, B, I, H = task.shape
    G, size = GATES[task.cell], np.dtype(task.dtype).itemsize
    weights = G * (I * H + H * H + 2 * H) * size
    return {
        "x": T * B * I * size,
        "y": T * B * H * size,
        "dx": T * B * I * size,
        "weights": weights,
        "gradients": weights,
        "packed": 2 * G * (I * H + H * H) * size,
        "kept": (0 if G == 1 else G + 1) * T * B * H * size,
    }


def measure(name: str, task: Task, threads: int) -> dict[str, Any]:
    """Measure one implementation in this process: version, growth in bytes, error over tolerance."""
    implementation = peers.load((name,))[0][name]
    implementation.build(problem.make(replace(task, shape=_SMALL)), threads).call()
    numbers = problem.make(task)
    run = implementation.build(numbers, threads)
    result, growth = peak.growth(run.call)
    error = problem.compare(name, numbers, run.arrays(result))
    return {"version": implementation.version, "growth": growth, "error_over_tolerance": error}


def _line(name: str, task: Task, measured: Mapping[str, Any]) -> list[str]:
    parts = held(task)
    total = sum(parts.values())
    peak = parts["x"] + parts["weights"] + measured["growth"]
    verdict = f"{BAR} {'pass' if peak <= BAR * total else 'FAIL'}" if name == "bptt" else ""
    mib = [f"{count / 2**20:.1f}" for count in (total, peak)]
    about = [task.cell, task.dtype, str(task.shape), f"{name} {measured['version']}"]
    return [*about, *mib, f"{peak / total:.3f}", verdict]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--shapes", default=SHAPES, help="T,B,I,H joined by + (default %(default)s)")
    parser.add_argument("--cells", default="rnn", help="out of rnn (tanh), lstm, gru (default %(default)s)")
    parser.add_argument("--dtypes", default="float32", help="default %(default)s")
    parser.add_argument("--peers", default=",".join(NAMES), help="default %(default)s")
    parser.add_argument("--threads", default="1", help="a number or all (default %(default)s)")
    return parser


def _report(name: str, cell: str, shape: str, dtype: str, threads: str) -> int:
    print(json.dumps(measure(name, Task(BACKWARD, Shape.parse(shape), dtype, cell), int(threads))))
    return 0


def main(arguments: Sequence[str]) -> int:
    """Run the script; returns the exit status: 1 if something could not be measured."""
    if arguments[:1] == ["--measure"]:
        return _report(*arguments[1:])
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        shapes = [Shape.parse(text) for text in options.shapes.split("+")]
        cells = parse_choices("cells", options.cells, CELLS)
        dtypes = parse_choices("dtypes", options.dtypes, DTYPES)
        names = parse_choices("peers", options.peers, NAMES)
        threads = machine.parse_threads(options.threads)
        peak.needs_linux()
    except ValueError as error:
        parser.error(str(error))
    found, absent = peers.load(names)
    lines = []
    complete = True
    for cell, shape, dtype, name in itertools.product(cells, shapes, dtypes, found):
        task = Task(BACKWARD, shape, dtype, cell)
        measured = peak.in_process(__file__, name, cell, str(shape), dtype, str(threads), threads=threads)
        if measured is None:
            complete = False
        else:
            lines.append(_line(name, task, measured))
    about = ["layer", "dtype", "T,B,I,H", "implementation"]
    head = [*about, "held (MiB)", "measured (MiB)", "measured / held", "bar"]
    print(markdown(head, lines, left=len(about)))
    print()
    print("-", ", ".join([*machine.describe().values(), f"threads {threads}"]))
    for name, reason in absent.items():
        print(f"- absent: {name} ({reason})")
    return 0 if complete else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

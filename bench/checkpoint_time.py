"""Time record + backward within a share of the plain tape's memory, beside the plain pass; a Markdown table.

    python bench/checkpoint_time.py
    python bench/checkpoint_time.py --cells lstm --share 0.1 --shape 2000,8,128,128

The budget is what the pass needs whatever its length (packed weights, their gradients, working memory) and
that share of what a plain tape of this shape keeps. Both ways take turns in one process, pinned to a core,
with all gradients wanted; the ratio is the median over the rounds. Forward passes: over how many steps the
schedule runs forward, in lengths of the sequence; a plain pass runs over 1.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import numpy as np
from checkpointing import made, tape_bytes

from bptt import budget, kernels, schedule
from bptt.benchmark import machine
from bptt.benchmark.results import markdown
from bptt.benchmark.rows import CELLS, Shape, parse_choices


def plan(layer: Any, cell: str, shape: Shape, share: float) -> tuple[int, float]:
    """Return the budget in bytes, and over how many lengths of the sequence its schedule runs forward."""
    bounds = np.array(kernels.chunk_bounds(shape.T, shape.B)[::-1], np.int64)
    now = budget.Situation(
        steps=shape.T,
        batch=shape.B,
        itemsize=4,
        tokens=False,
        ragged=False,
        reset=False,
        rates=layer._rates,
        copied=False,
        chunks=len(bounds) - 1,
        threads=1,
    )
    costs = budget.costs(layer._structure, now)
    room = int(share * tape_bytes(cell, shape))
    steps = schedule.work(schedule.Fitted(bounds, room, costs.state, costs.step))
    return costs.fixed + room, steps / shape.T


def _passes(layer: Any, shape: Shape, memory: int) -> list[Callable[[], object]]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((shape.T, shape.B, shape.I), np.float32)
    dy = rng.standard_normal((shape.T, shape.B, shape.H), np.float32)

    def within(limit: int | None) -> Callable[[], object]:
        def run() -> object:
            _, _, tape = layer.record(x, memory=limit, threads=1)
            return tape.backward(dy, threads=1)

        return run

    return [within(None), within(memory)]


def _seconds(run: Callable[[], object]) -> float:
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def main(arguments: Sequence[str]) -> int:
    """Run the script; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--shape", default="1000,32,256,256", help="T,B,I,H (default %(default)s)")
    parser.add_argument("--cells", default="lstm,gru,rnn", help="default %(default)s")
    parser.add_argument("--share", type=float, default=0.05, help="default %(default)s")
    parser.add_argument("--rounds", type=int, default=9, help="default %(default)s")
    options = parser.parse_args(arguments)
    try:
        shape = Shape.parse(options.shape)
        cells = parse_choices("cells", options.cells, CELLS)
        if options.rounds < 1 or options.share <= 0:
            raise ValueError(
                f"rounds, share: expected at least 1, above 0, got {options.rounds}, {options.share}"
            )
    except ValueError as error:
        parser.error(str(error))
    if not machine.is_fixed(1):
        return machine.run_fixed([sys.executable, __file__, *arguments], 1).returncode
    lines = []
    for cell in cells:
        layer = made(cell, shape.I, shape.H)
        memory, forward = plan(layer, cell, shape, options.share)
        runs = _passes(layer, shape, memory)
        try:
            for run in runs:
                run()
        except ValueError as error:  # the share is too small for this shape
            parser.error(f"share {options.share}: {error}")
        times = [[_seconds(run) for run in runs] for _ in range(options.rounds)]
        plain, within = (median(own) for own in zip(*times, strict=True))
        ratio = median(b / a for a, b in times)
        kept = tape_bytes(cell, shape) / 1e6
        lines.append(
            [
                cell,
                f"{kept:.0f}",
                f"{memory / 1e6:.1f}",
                f"{forward:.2f}",
                f"{1e3 * plain:.0f}",
                f"{1e3 * within:.0f}",
                f"{ratio:.2f}",
            ]
        )
    head = ["layer", "plain tape (MB)", "budget (MB)", "forward passes", "plain (ms)", "within (ms)", "ratio"]
    print(markdown(head, lines, left=1))
    print()
    print("-", ", ".join([*machine.describe().values(), f"T,B,I,H {shape}", f"share {options.share}"]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Measure the peak memory of training on a long sequence within a budget, and print a Markdown table.

    python bench/checkpointing.py
    python bench/checkpointing.py --cells rnn --shape 10000,8,64,64 --memory 20000000 --ways budget,plain

One loss at the last step, dL/dparameter and dL/dh_0 wanted, x a memory-mapped file. Ways: within the budget
(``record(x, memory=..., outputs="last")``), with everything on the tape, and PyTorch. Measured is by how much
the process grows at its peak, the pages of x that it has read included, and the time. Each way has a process
of its own, in which a small problem is run before. Linux only.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import peak
from memory import held
from numpy.lib.format import open_memmap

from bptt.benchmark import machine
from bptt.benchmark.results import markdown
from bptt.benchmark.rows import BACKWARD, CELLS, Shape, Task, parse_choices
from bptt.description import LAYERS

BAR = 1.1
WAYS = ("budget", "plain", "torch")


def tape_bytes(cell: str, shape: Shape) -> int:
    """Count what a plain tape keeps of every step: h, of an LSTM gates and c, of a GRU gates and a part."""
    parts = held(Task(BACKWARD, shape, cell=cell))
    return parts["y"] + parts["kept"]


def made(cell: str, I: int, H: int) -> Any:
    """Return a layer with the values that all ways start from."""
    layer: Any = LAYERS[cell]
    return layer(I, H, seed=0)


def _with_bptt(cell: str, I: int, H: int, memory: int | None, threads: int) -> Callable[[Any], Any]:
    layer = made(cell, I, H)

    def run(x: Any) -> Any:
        y, _, tape = layer.record(x, memory=memory, outputs="last", threads=threads)
        return tape.backward(y, input_grad=False, threads=threads).parameters["weight_hh_l0"]

    return run


def _with_torch(cell: str, I: int, H: int, threads: int) -> Callable[[Any], Any]:
    import torch  # type: ignore[import-not-found, unused-ignore]

    torch.set_num_threads(threads)
    layer = {"rnn": torch.nn.RNN, "lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[cell](I, H)
    own = made(cell, I, H).parameters
    layer.load_state_dict({name: torch.from_numpy(value.copy()) for name, value in own.items()})

    def run(x: Any) -> Any:
        layer.zero_grad()
        y, _ = layer(torch.from_numpy(x))
        y[-1].backward(y[-1].detach())
        return layer.weight_hh_l0.grad.numpy()

    return run


def measure(way: str, cell: str, file: str, H: int, memory: int, threads: int) -> dict[str, Any]:
    """Measure one way in this process: growth in bytes, seconds, norm of dL/dW_hh."""
    x = np.load(file, mmap_mode="c")
    I = x.shape[2]
    if way == "torch":
        run = _with_torch(cell, I, H, threads)
    else:
        run = _with_bptt(cell, I, H, memory if way == "budget" else None, threads)
    run(np.array(x[:3]))

    def timed() -> tuple[Any, float]:
        begin = time.perf_counter()
        return run(x), time.perf_counter() - begin

    (gradient, seconds), growth = peak.growth(timed)
    return {"growth": growth, "seconds": seconds, "norm": float(np.linalg.norm(gradient))}


def write_input(file: Path, shape: Shape) -> None:
    """Write x (T, B, I) of float32, a few steps at a time."""
    T, B, I, _ = shape
    rng = np.random.default_rng(0)
    x = open_memmap(file, mode="w+", dtype=np.float32, shape=(T, B, I))
    for first in range(0, T, 1000):
        x[first : first + 1000] = rng.standard_normal(x[first : first + 1000].shape, np.float32)
    x.flush()


def line(way: str, cell: str, shape: Shape, memory: int, measured: dict[str, Any]) -> list[str]:
    """Return a line of the table."""
    x = shape.T * shape.B * shape.I * 4
    expected = memory + x if way == "budget" else x + tape_bytes(cell, shape)
    growth, bar = measured["growth"], ""
    if way == "budget":
        bar = f"{BAR} {'pass' if growth <= BAR * memory + x else 'FAIL'}"
    counts = "" if way == "torch" else f"{expected / 1e6:.0f}"
    return [
        cell,
        way,
        counts,
        f"{growth / 1e6:.0f}",
        "" if way == "torch" else f"{growth / expected:.3f}",
        bar,
        f"{measured['seconds']:.1f}",
        f"{measured['norm']:.6g}",
    ]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--shape", default="100000,8,256,256", help="T,B,I,H (default %(default)s)")
    parser.add_argument(
        "--cells", default="lstm,rnn", help="out of rnn (tanh), lstm, gru (default %(default)s)"
    )
    parser.add_argument("--memory", type=int, default=200_000_000, help="bytes (default %(default)s)")
    parser.add_argument("--ways", default=",".join(WAYS), help="default %(default)s")
    parser.add_argument("--threads", default="1", help="a number or all (default %(default)s)")
    return parser


def main(arguments: Sequence[str]) -> int:
    """Run the script; returns the exit status: 1 if something could not be measured."""
    if arguments[:1] == ["--measure"]:
        way, cell, where, *numbers = arguments[1:]
        print(json.dumps(measure(way, cell, where, *map(int, numbers))))
        return 0
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        shape = Shape.parse(options.shape)
        cells = parse_choices("cells", options.cells, CELLS)
        ways = parse_choices("ways", options.ways, WAYS)
        threads = machine.parse_threads(options.threads)
        peak.needs_linux()
    except ValueError as error:
        parser.error(str(error))
    lines, complete = [], True
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "x.npy"
        write_input(file, shape)
        for cell, way in itertools.product(cells, ways):
            about = (way, cell, str(file), str(shape.H), str(options.memory), str(threads))
            measured = peak.in_process(__file__, *about, threads=threads)
            complete = complete and measured is not None
            if measured is not None:
                lines.append(line(way, cell, shape, options.memory, measured))
    head = ["layer", "way", "expected (MB)", "measured (MB)", "measured / expected", "bar", "seconds", "norm"]
    print(markdown(head, lines, left=2))
    print()
    print("-", ", ".join([*machine.describe().values(), f"T,B,I,H {shape}", f"threads {threads}"]))
    return 0 if complete else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

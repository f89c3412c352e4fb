"""Draw time against H for B=1 and B=32, and the fraction of the FMA peak, one line an implementation.

The style, the decoration of the axes and the saving are scaling.py's too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot
from matplotlib.ticker import NullFormatter, PercentFormatter, ScalarFormatter

from bptt.benchmark.results import Measurement, Run
from bptt.benchmark.rows import BACKWARD, CELLS, FORWARD

# Okabe and Ito's colours, which the colour-blind can tell apart; each line has its own marker as well.
_STYLE: dict[str, dict[str, Any]] = {
    "bptt": {"color": "#000000", "marker": "o", "linewidth": 2.4, "zorder": 3},
    "numpy": {"color": "#E69F00", "marker": "s"},
    "torch": {"color": "#D55E00", "marker": "^"},
    "onnxruntime": {"color": "#56B4E9", "marker": "D"},
    "jax": {"color": "#0072B2", "marker": "v"},
    "reference": {"color": "#CC79A7", "marker": "x"},
}
_BATCHES = (1, 32)
TITLES = {FORWARD: "forward", BACKWARD: "forward + backward"}
CELL_TITLES = {"rnn": "tanh", "lstm": "LSTM", "gru": "GRU"}

Key = tuple[str, str, int]  # cell, case, B
Lines = dict[str, dict[int, Measurement]]  # implementation to H to measurement


def _lines(run: Run, threads: int) -> dict[Key, Lines]:
    """Choose the square float32 problems; of two with the same B and H, the one with more time steps."""
    chosen: dict[Key, Lines] = {}
    for m in run.measurements:
        task = m.task
        T, B, I, H = task.shape
        wanted = task.dtype == "float32" and m.threads == threads and I == H and B in _BATCHES
        if not wanted or task.setup != "plain" or task.case not in TITLES or m.implementation not in _STYLE:
            continue
        line = chosen.setdefault((task.cell, task.case, B), {}).setdefault(m.implementation, {})
        if H not in line or line[H].task.shape.T < T:
            line[H] = m
    return chosen


def _microseconds_a_step(m: Measurement) -> float:
    return m.seconds * 1e6 / m.task.shape.T


def _peak(m: Measurement) -> float:
    return m.fraction_of_peak


def _plot(axes: Any, lines: Lines, value: Callable[[Measurement], float]) -> None:
    for name in _STYLE:
        if name in lines:
            points = sorted(lines[name].items())
            axes.plot(
                [H for H, _ in points],
                [value(m) for _, m in points],
                label=name,
                **style(name),
            )


def style(name: str) -> dict[str, Any]:
    """Return an implementation's colour, marker and line, as matplotlib's plot takes them."""
    return {"linewidth": 1.4, "markersize": 5, **_STYLE.get(name, {"color": "0.5", "marker": "."})}


def decorate(axes: Any, ticks: Iterable[int]) -> None:
    """Give a logarithmic x axis of base 2 these ticks."""
    axes.set_xscale("log", base=2)
    axes.set_xticks(sorted(ticks))
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())
    lighten(axes)


def lighten(axes: Any) -> None:
    """Give axes a light grid and no frame."""
    axes.grid(visible=True, which="major", color="0.88")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def draw(run: Run, target: Path) -> None:
    """Draw two rows of panels a cell (forward, forward + backward) to ``target``, an .svg or .png.

    Raises
    ------
    ValueError
        If the run has no square float32 problem with B=1 or B=32, or the file's ending is neither.
    """
    if target.suffix not in (".svg", ".png"):
        raise ValueError(f"expected a name ending in .svg or .png, got {target}")
    threads = min((m.threads for m in run.measurements), default=1)
    chosen = _lines(run, threads)
    if not chosen:
        raise ValueError("expected square float32 problems with B=1 or B=32, got none")
    ticks = {H for lines in chosen.values() for line in lines.values() for H in line}
    kinds = [(cell, case) for cell in CELLS for case in TITLES if any(key[0] == cell for key in chosen)]
    figure, grid = panels(len(kinds), 3, sharex=True)
    for row, (cell, case) in zip(grid, kinds, strict=True):
        title = f"{CELL_TITLES[cell]} {TITLES[case]}"
        for axes, B in zip(row, _BATCHES, strict=False):
            _plot(axes, chosen.get((cell, case, B), {}), _microseconds_a_step)
            decorate(axes, ticks)
            axes.set_yscale("log")
            axes.set_title(f"{title}, B = {B}")
            axes.set_ylabel("median time per time step (µs)")
        _plot(row[2], chosen.get((cell, case, _BATCHES[1]), {}), _peak)
        decorate(row[2], ticks)
        # the whole of the peak, or as far as products on the AMX unit go beyond it
        row[2].set_ylim(0, max(1, row[2].get_ylim()[1]))
        row[2].yaxis.set_major_formatter(PercentFormatter(1))
        row[2].set_title(f"{title}, B = {_BATCHES[1]}")
        row[2].set_ylabel("fraction of the FMA peak")
    for axes in grid[-1]:
        axes.set_xlabel("hidden units H (= input features I)")
    handles = {line.get_label(): line for axes in grid.flat for line in axes.get_lines()}
    names = [name for name in _STYLE if name in handles]
    figure.legend(
        [handles[name] for name in names], names, loc="outside upper center", ncols=len(names), frameon=False
    )
    where = ", ".join(run.machine.values())
    about = f"float32, {threads} thread{'s' * (threads > 1)}; {where}"
    save(figure, about, target)


def panels(rows: int, columns: int, *, width: float = 4, **options: Any) -> tuple[Any, Any]:
    """Make a figure and its axes, rows by columns, each ``width`` inches wide."""
    size = (width * columns, 3.5 * rows)
    return pyplot.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False, **options)


def save(figure: Any, about: str, target: Path) -> None:
    """Write what the figure is about under it and save it, the same bytes for the same figures."""
    figure.supxlabel(about, fontsize=8, color="0.35")
    with pyplot.rc_context({"svg.hashsalt": "bptt"}):
        figure.savefig(target, dpi=150, metadata={"Date": None} if target.suffix == ".svg" else None)
    pyplot.close(figure)

"""Measurements: what is written beside a time, how it is read back, and the Markdown table."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bptt.benchmark.peers import OWN, PEERS
from bptt.benchmark.rows import CASES, CELLS, DTYPES, SETUPS, STEP, Row, Shape, Task, group_name, step_allowed

COLUMNS = (*(name for name in OWN if name != "reference"), *PEERS, "reference")
NOTHING = "–"


@dataclass(frozen=True)
class Measurement:
    """Median, 99th percentile and least time in seconds of one implementation on one problem, and the limits.

    The limits, measured beside it, are those of `machine.limits`.
    """

    task: Task
    threads: int
    implementation: str
    seconds: float
    p99: float | None = None
    fma_peak: float = float("nan")
    read_bandwidth: float | None = None
    least: float | None = None
    kernel_step: float | None = None

    @property
    def group(self) -> str:
        """Return the name under which implementations are compared."""
        return group_name(self.task, self.threads)

    @property
    def fraction_of_peak(self) -> float:
        """Return operations a second, divided by the FMA peak of all threads."""
        return self.task.flops / self.seconds / (self.fma_peak * self.threads)

    @property
    def fraction_of_bandwidth(self) -> float | None:
        """Return bytes of weight_hh read a second, once a time step, divided by the read bandwidth."""
        if self.read_bandwidth is None:
            return None
        read = self.task.shape.T * self.task.recurrent_bytes
        return read / self.seconds / self.read_bandwidth

    @property
    def fraction_of_limit(self) -> float | None:
        """Return the fraction of the read bandwidth for one batch row, else of the FMA peak.

        For a single step, the time it may take divided by the time it takes.
        """
        if self.task.case == STEP:
            if self.kernel_step is None:
                return None
            return step_allowed(self.task.shape, self.kernel_step) / self.seconds
        return self.fraction_of_bandwidth if self.task.shape.B == 1 else self.fraction_of_peak


@dataclass(frozen=True)
class Run:
    """Everything one file holds."""

    measurements: list[Measurement]
    machine: dict[str, str]
    versions: dict[str, str]
    absent: dict[str, str]
    refused: dict[str, int]  # "name: reason" to the number of problems


def extra_info(
    row: Row,
    name: str,
    version: str,
    *,
    limits: Mapping[str, float | None],
    error: float,
    machine: Mapping[str, str],
) -> dict[str, Any]:
    """Make what is recorded beside a time: the problem, the implementation, the machine.

    ``error`` is the largest error found before timing as a fraction of the tolerance.
    """
    return {
        "cell": row.task.cell,
        "setup": row.task.setup,
        "case": row.task.case,
        "shape": list(row.task.shape),
        "dtype": row.task.dtype,
        "threads": row.threads,
        "implementation": name,
        "version": version,
        "flops": row.task.flops,
        **limits,
        "error_over_tolerance": error,
        **machine,
    }


def as_benchmark(group: str, info: Mapping[str, Any], times: Sequence[float]) -> dict[str, Any]:
    """Make an entry of the same form as pytest-benchmark's JSON."""
    return {
        "name": f"{group} {info['implementation']}",
        "group": group,
        "extra_info": dict(info),
        "stats": {
            "median": statistics.median(times),
            "p99": sorted(times)[int(0.99 * len(times))],
            "min": min(times),
            "rounds": len(times),
        },
    }


def write(path: Path, benchmarks: Sequence[Mapping[str, Any]], account: Mapping[str, Any]) -> None:
    """Write entries of `as_benchmark` and what `peers.account` says as a file that `read` reads."""
    content = {"machine_info": {"bench": account}, "benchmarks": benchmarks}
    path.write_text(json.dumps(content, indent=1) + "\n")


def merge(paths: Sequence[Path], to: Path) -> None:
    """Put several files of `write`, made on one machine, together into one."""
    contents = [json.loads(path.read_text()) for path in paths]
    accounts = [content["machine_info"]["bench"] for content in contents]
    refused: Counter[str] = Counter()
    for account in accounts:
        refused.update(account["refused"])
    benchmarks = [entry for content in contents for entry in content["benchmarks"]]
    write(to, benchmarks, accounts[0] | {"refused": dict(refused)})


def read(path: Path) -> Run:
    """Read a JSON file of pytest-benchmark or of ``compare.py --json``.

    Raises
    ------
    ValueError
        If it is neither, or was not written by this suite.
    """
    try:
        content = json.loads(path.read_text())
        about = content["machine_info"]["bench"]
        measurements = [_measurement(entry) for entry in content["benchmarks"]]
        return Run(measurements, about["machine"], about["versions"], about["absent"], about["refused"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: expected a JSON file written by this suite, got {error!r}") from error


def _measurement(entry: Mapping[str, Any]) -> Measurement:
    info, stats = entry["extra_info"], entry["stats"]
    for name, known in (("case", CASES), ("dtype", DTYPES), ("cell", CELLS), ("setup", SETUPS)):
        if info[name] not in known:
            raise ValueError(f"{name} {info[name]!r}")
    return Measurement(
        Task(info["case"], Shape(*info["shape"]), info["dtype"], info["cell"], info["setup"]),
        info["threads"],
        info["implementation"],
        stats["median"],
        stats.get("p99"),
        info["fma_peak"],
        info["read_bandwidth"],
        stats["min"],
        info.get("kernel_step"),
    )


def best_peer(found: Mapping[str, Measurement]) -> Measurement | None:
    """Return the fastest of the peers."""
    return min((found[name] for name in PEERS if name in found), key=lambda m: m.seconds, default=None)


def grouped(measurements: Iterable[Measurement]) -> dict[str, dict[str, Measurement]]:
    """Sort measurements into rows: group to implementation to measurement, in the shape table's order."""
    rows: dict[str, dict[str, Measurement]] = {}
    setups = tuple(SETUPS)

    def place(m: Measurement) -> tuple[int, ...]:
        task = m.task
        return (
            m.threads,
            CELLS.index(task.cell),
            setups.index(task.setup),
            DTYPES.index(task.dtype),
            CASES.index(task.case),
        )

    for m in sorted(measurements, key=place):  # stable: shapes stay as they were run
        rows.setdefault(m.group, {})[m.implementation] = m
    return rows


def duration(seconds: float) -> str:
    """Write a time with three digits and its unit."""
    for unit, scale in (("us", 1e6), ("ms", 1e3)):
        if seconds * scale < 999.5:
            return f"{seconds * scale:.3g} {unit}"
    return f"{seconds:.3g} s"


def _time(m: Measurement | None) -> str:
    if m is None:
        return NOTHING
    if m.task.case == STEP and m.p99 is not None:
        return f"{duration(m.seconds)} (p99 {duration(m.p99)})"
    return duration(m.seconds)


def _against_best(ours: Measurement | None, best: Measurement | None) -> str:
    if ours is None or best is None:
        return NOTHING
    return f"{best.seconds / ours.seconds:.2f} ({best.implementation})"


def _percent(fraction: float | None) -> str:
    return NOTHING if fraction is None else f"{fraction:.1%}"


def _verdict(value: float | None, bar: float | None, digits: str) -> str:
    if bar is None:
        return NOTHING
    if value is None:
        return f"{bar:{digits}} not measured"
    return f"{bar:{digits}} {'pass' if value >= bar else 'FAIL'}"


def markdown(head: Sequence[str], lines: Iterable[Sequence[str]], *, left: int) -> str:
    """Write a Markdown table, whose first ``left`` columns are text and the others numbers."""
    rule = ["---"] * left + ["---:"] * (len(head) - left)
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, rule, *lines])


def table(measurements: Iterable[Measurement], bars: Mapping[str, Row] | None = None) -> str:
    """Make one Markdown table: a row a problem, a column an implementation.

    Parameters
    ----------
    measurements : iterable of Measurement
        What was measured.
    bars : mapping, optional
        Group to the row with its bars; adds the columns of what was to be reached.
    """
    rows = grouped(measurements)
    names = [name for name in COLUMNS if any(name in row for row in rows.values())]
    head = [
        "layer",
        "direction",
        "dtype",
        "threads",
        "T,B,I,H",
        *names,
        "best peer / bptt",
        "of FMA peak",
        "of bandwidth",
    ]
    if bars is not None:
        head += ["ratio", "bar", "limit bar"]
    lines = []
    for group, found in rows.items():
        m = next(iter(found.values()))
        task = m.task
        line = [task.layer, task.case.replace("_", " "), task.dtype, str(m.threads), str(task.shape)]
        line += [_time(found.get(name)) for name in names]
        ours, best = found.get("bptt"), best_peer(found)
        line.append(_against_best(ours, best))
        line.append(_percent(None if ours is None else ours.fraction_of_peak))
        line.append(_percent(None if ours is None else ours.fraction_of_bandwidth))
        if bars is not None:
            line += _bar_cells(bars.get(group), found)
        lines.append(line)
    return markdown(head, lines, left=5)


def _bar_cells(row: Row | None, found: Mapping[str, Measurement]) -> list[str]:
    if row is None or (row.ratio is None and row.limit is None):
        return [NOTHING] * 3
    ratio = ratio_reached(row, found)
    text = NOTHING if ratio is None else f"{ratio:.2f}"
    if row.over != "best peer":
        text += f" ({row.over} / {row.ours})"
    return [text, _verdict(ratio, row.ratio, ".3g"), _verdict(_of_limit(found), row.limit, ".0%")]


def _of_limit(found: Mapping[str, Measurement]) -> float | None:
    return found["bptt"].fraction_of_limit if "bptt" in found else None


def ratio_reached(row: Row, found: Mapping[str, Measurement]) -> float | None:
    """Return the ratio that a row is about, or None if one of its two sides was not measured."""
    ours = found.get(row.ours)
    over = best_peer(found) if row.over == "best peer" else found.get(row.over)
    return None if ours is None or over is None else over.seconds / ours.seconds


def tally(measurements: Iterable[Measurement], rows: Iterable[Row]) -> str:
    """Count the bars passed, failed and not measured."""
    groups = grouped(measurements)
    verdicts: Counter[str] = Counter()
    for row in rows:
        found = groups.get(row.group, {})
        for value, bar in ((ratio_reached(row, found), row.ratio), (_of_limit(found), row.limit)):
            if bar is not None:
                verdicts["not measured" if value is None else "passed" if value >= bar else "failed"] += 1
    return "bars: " + ", ".join(f"{verdicts[word]} {word}" for word in ("passed", "failed", "not measured"))


def notes(run: Run) -> str:
    """Say where the figures come from and what is missing, as Markdown lines."""
    lines = [
        "Times are medians. best peer / bptt: above 1, bptt is faster. "
        "of FMA peak: the operations of bptt's products, against the bare tile in the same run. "
        "of bandwidth: weight_hh read once a time step, against reading a block of its size in the same run.",
        "",
        "- " + ", ".join(run.machine.values()),
        "- " + ", ".join(f"{name} {version}" for name, version in run.versions.items()),
    ]
    lines += [f"- absent: {name} ({reason})" for name, reason in run.absent.items()]
    lines += [f"- not run on {count} problems: {text}" for text, count in run.refused.items()]
    return "\n".join(lines)

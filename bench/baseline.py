"""Compare speedups over NumPy and over the reference with those of the committed baseline.

    pytest bench --shapes smoke --benchmark-max-time=0.05 --benchmark-json=new.json
    python bench/baseline.py new.json
    python bench/baseline.py new.json --update         write them as the baseline

A speedup is the time of NumPy, or of the reference, divided by bptt's in the same run, so that it can be
compared between runs and, with care, between machines. Times are the least of each, which other programs on
the machine change less than medians. A speedup that has fallen by more than 30% is said loudly; the exit
status stays 0, since machines are noisy.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from bptt.benchmark import results

BASELINE = Path(__file__).with_name("baseline.json")
OVER = ("numpy", "reference")
FALL = 0.30

Ratios = dict[str, dict[str, float]]  # problem to "numpy" or "reference" to speedup


def ratios(run: results.Run) -> Ratios:
    """Compute bptt's speedups, for the problems where both sides were measured."""
    found: Ratios = {}
    for group, row in results.grouped(run.measurements).items():
        least = {name: m.least for name, m in row.items() if m.least is not None}
        speedups = {
            name: float(f"{least[name] / least['bptt']:.4g}") for name in OVER if {name, "bptt"} <= set(least)
        }
        if speedups:
            found[group] = speedups
    return found


def read(path: Path) -> tuple[dict[str, str], Ratios]:
    """Read a baseline: the machine it was measured on, and its speedups.

    Raises
    ------
    ValueError
        If the file is none.
    """
    try:
        content = json.loads(path.read_text())
        return dict(content["machine"]), {
            group: {name: float(ratio) for name, ratio in speedups.items()}
            for group, speedups in content["speedups"].items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: expected a baseline written by --update, got {error!r}") from error


def write(path: Path, run: results.Run) -> None:
    """Write a run's speedups as a baseline."""
    content = {"machine": run.machine, "versions": run.versions, "speedups": ratios(run)}
    path.write_text(json.dumps(content, indent=1) + "\n")


def compare(new: Ratios, old: Ratios) -> tuple[str, list[str]]:
    """Compare speedups.

    Returns
    -------
    table : str
        Every speedup beside the baseline's, as Markdown.
    fallen : list of str
        A sentence for each that has fallen by more than FALL.
    """
    lines = []
    fallen = []
    for group, name in ((group, name) for group in old | new for name in OVER):
        before, now = old.get(group, {}).get(name), new.get(group, {}).get(name)
        if before is None and now is None:
            continue
        change = None if before is None or now is None else now / before - 1
        shown = [results.NOTHING if ratio is None else f"{ratio:.4g}" for ratio in (before, now)]
        lines.append([group, name, *shown, _change(change, before)])
        if change is not None and change < -FALL:
            fallen.append(f"{group}: speedup over {name} {shown[0]} -> {shown[1]} ({change:+.0%})")
    head = ["problem", "over", "baseline", "now", "change"]
    return results.markdown(head, lines, left=2), fallen


def _change(change: float | None, before: float | None) -> str:
    if change is None:
        return "new" if before is None else "not measured"
    return f"{change:+.0%}" + (" FALLEN" if change < -FALL else "")


def _loudly(sentences: Sequence[str]) -> str:
    rule = "!" * 100
    title = f"!!! FALLEN BY MORE THAN {FALL:.0%}:"
    return "\n".join([rule, title, *(f"!!! {sentence}" for sentence in sentences), rule])


def _differences(ours: Mapping[str, str], theirs: Mapping[str, str]) -> list[str]:
    return [
        f"{name}: {theirs.get(name)}, now {value}"
        for name, value in ours.items()
        if value != theirs.get(name)
    ]


def main(arguments: Sequence[str]) -> int:
    """Run the script; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("file", type=Path, help="JSON file of pytest bench or of compare.py")
    parser.add_argument("--update", action="store_true", help="write the baseline")
    parser.add_argument("--baseline", type=Path, default=BASELINE, help="default: bench/baseline.json")
    options = parser.parse_args(arguments)
    try:
        run = results.read(options.file)
        new = ratios(run)
        if not new:
            raise ValueError(
                f"{options.file}: expected bptt and {' or '.join(OVER)} on one problem, got none"
            )
        if options.update:
            write(options.baseline, run)
            print(f"baseline: {options.baseline}, {len(new)} problems")
            return 0
        machine, old = read(options.baseline)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    table, fallen = compare(new, old)
    print(table)
    print()
    for difference in _differences(run.machine, machine):
        print(f"- the baseline is from elsewhere: {difference}")
    print(_loudly(fallen) if fallen else f"- no speedup has fallen by more than {FALL:.0%}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

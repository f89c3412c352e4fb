"""Tell which lines of the Cython code have run, from what gcov counted in a BPTT_TRACE=1 build.

python tools/cython_coverage.py [folder]      folder: where the build is, build/trace

gcov counts lines of the generated C.  Cython writes a comment that names file and line before the C of every
Cython line; a Cython line has run if any of its C has, in any of the CPU variants.  Unlike Cython's own line
tracing this sees vectors, code without the GIL, and helper threads.

A line that must not count ends in the comment "# pragma: no cover".
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PLACE = re.compile(r'^ */\* "(src/bptt/kernels/[^"]+|bptt/kernels/[^"]+)":(\d+)$')

#: Share of lines that have to run; CONTRIBUTING.md says why some don't.
LEAST = 0.98

#: For every file, how often each of its lines ran.
Counts = dict[str, dict[int, int]]


def places(source: str) -> dict[int, tuple[str, int]]:
    """Map each line of generated C to the Cython line that it is for."""
    found: dict[int, tuple[str, int]] = {}
    place = None
    for number, line in enumerate(source.splitlines(), start=1):
        match = PLACE.match(line)
        if match:
            place = (Path(match[1]).name, int(match[2]))
        elif line.startswith(("}", "static ", "/*")):  # the end of a function, the start of Cython's own
            place = None
        elif place:
            found[number] = place
    return found


def counted(data: Path) -> dict[int, int]:
    """Return gcov's count of every line of the C file that a .gcda file belongs to."""
    command = ["gcov", "--json-format", "--stdout", str(data)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    counts: dict[int, int] = defaultdict(int)
    for file in json.loads(run.stdout)["files"]:
        if file["file"].endswith(".c"):
            for line in file["lines"]:
                counts[line["line_number"]] += line["count"]
    return counts


def measure(folder: Path) -> Counts:
    """Add up the counts of all variants under a build folder."""
    total: Counts = defaultdict(lambda: defaultdict(int))
    for data in sorted(folder.rglob("*.gcda")):
        source = next(folder.rglob(f"{data.stem}.c")).read_text(encoding="utf-8")
        where = places(source)
        for number, count in counted(data).items():
            if number in where:
                file, line = where[number]
                total[file][line] += count
    return total


def main(folder: Path) -> int:
    """Print each file's share of lines that ran, and the others; return 1 if they are too many."""
    total = measure(folder)
    if not total:
        sys.exit(f"{folder}: no counts; build with BPTT_TRACE=1 and run the tests")
    lines = missed = 0
    for file, counts in sorted(total.items()):
        text = (ROOT / "src/bptt/kernels" / file).read_text(encoding="utf-8").splitlines()
        counts = {n: c for n, c in counts.items() if not text[n - 1].endswith("# pragma: no cover")}
        misses = sorted(n for n, count in counts.items() if not count)
        lines += len(counts)
        missed += len(misses)
        print(f"{file:20} {len(counts):5} lines {len(misses):4} missed")
        for number in misses:
            print(f"    {number:4}  {text[number - 1]}")
    print(f"{'all':20} {lines:5} lines {missed:4} missed: {100 * (1 - missed / lines):.1f}%")
    return 1 if missed > (1 - LEAST) * lines else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build/trace"))

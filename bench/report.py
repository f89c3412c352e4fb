"""Print the measurements of a JSON file as one Markdown table, and draw them.

    python bench/report.py FILE.json [--bars] [--picture FILE.svg]

FILE.json comes from ``pytest bench --benchmark-json=FILE.json`` or ``compare.py --json FILE.json``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import shapes

from bptt.benchmark import results


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("file", type=Path)
    parser.add_argument("--bars", action="store_true", help="add the ratios to be reached")
    picture = parser.add_mutually_exclusive_group()
    picture.add_argument("--picture", type=Path, help="where to draw, .svg or .png (default: FILE.svg)")
    picture.add_argument("--no-picture", action="store_true")
    return parser


def main(arguments: Sequence[str]) -> int:
    """Run the script; returns the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        run = results.read(options.file)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    print(results.table(run.measurements, {row.group: row for row in shapes.BARS} if options.bars else None))
    print()
    print(results.notes(run))
    if options.no_picture:
        return 0
    target = options.picture or options.file.with_suffix(".svg")
    try:
        import picture
    except ModuleNotFoundError as error:
        if error.name != "matplotlib":
            raise
        print(f"picture: not drawn, {error}", file=sys.stderr)
        return 1 if options.picture else 0
    try:
        picture.draw(run, target)
    except (OSError, ValueError) as error:
        print(f"picture: not drawn, {error}", file=sys.stderr)
        return 1 if options.picture else 0
    print(f"picture: {target}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

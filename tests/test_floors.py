"""A file imports from its own floor and those under it, as CONTRIBUTING.md draws them; files are short."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import bptt

FLOORS = (
    {"kernels", "reference", "checks", "arrays", "interface"},
    {"layers", "lstm", "gru", "recurrent", "frozen", "stream", "readout", "losses", "tape", "parameters"}
    | {"structure", "initial", "noise", "stack", "targets", "flow", "pieces", "schedule"}
    | {"truncation", "checkpointing", "budget", "passes", "checkpointed", "gradients"},
    {"network", "computation", "sampling", "fitting", "evaluation", "history", "objective", "batches"}
    | {"chunks", "ragged", "states", "optim", "clipping", "text", "settings", "training", "run_state"}
    | {"checkpoints", "description", "files", "atomic", "benchmark"},
    {"cli", "commands", "train_command", "flow_command", "usage", "terminal", "plots", "__main__"},
)
SOURCES = {".py", ".pyi", ".pyx", ".pxd", ".pxi", ".h", ".md"}
FLOOR_OF = {module: floor for floor, modules in enumerate(FLOORS) for module in modules}
PACKAGE = Path(bptt.__file__).parent
# __init__ stands outside: it shows what all floors offer.
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def module_of(path: Path) -> str:
    """Return the first name under the package: the module, or the folder it is in."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Return the first names under the package that a file imports when it runs, wherever in it."""
    names: set[str] = set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for test in ast.walk(tree):
        if isinstance(test, ast.If) and ast.unparse(test.test) == "TYPE_CHECKING":
            test.body.clear()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module is not None:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name.split(".")[1] for name in names if name.startswith("bptt.")}


def test_every_file_has_a_floor() -> None:
    assert {module_of(path) for path in FILES} == set(FLOOR_OF)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down(path: Path) -> None:
    floor = FLOOR_OF[module_of(path)]
    too_high = {name for name in imported(path) if name in FLOOR_OF and FLOOR_OF[name] > floor}
    assert not too_high


def test_the_check_sees_imports() -> None:
    assert {"checks", "parameters", "recurrent", "tape"} <= imported(PACKAGE / "layers.py")


def test_files_are_short() -> None:
    root = Path(__file__).resolve().parents[1]
    folders = (PACKAGE, *(root / name for name in ("tests", "bench", "docs", "examples", "tools")))
    files = [path for folder in folders for path in folder.rglob("*.[phcm]*") if path.suffix in SOURCES]
    files += root.glob("*.[pm][yd]")
    long = {path.name: lines for path in files if (lines := len(path.read_bytes().splitlines())) > 400}
    assert len(files) > 200
    assert not long

"""A file imports from its own floor and those under it, as CONTRIBUTING.md draws them; files are short."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import bptt

FLOORS = (
    {"kernels", "reference", "checks", "arrays", "interface"},
    {"layers", "lstm", "gru", "recurrent", "frozen", "stream", "readout", "losses", "tape", "parameters"}
    | {"structure", "initial", "noise", "stack", "targets", "flow", "pieces", "schedule"}
    | {"truncation", "checkpointing", "budget", "checkpointed_pass", "checkpointed", "gradients"},
    {"network", "computation", "sampling", "fitting", "evaluation", "history", "objective", "batches"}
    | {"chunks", "ragged", "states", "optim", "clipping", "text", "settings", "training", "run_state"}
    | {"run_files", "description", "files", "atomic", "benchmark"},
    {"cli", "commands", "train_command", "flow_command", "usage", "terminal", "plots", "__main__"},
)
SOURCES = {".py", ".pyi", ".pyx", ".pxd", ".pxi", ".h", ".md"}
FLOOR_OF = {module: floor for floor, modules in enumerate(FLOORS) for module in modules}
PACKAGE = Path(bptt.__file__).parent
ROOT = Path(__file__).resolve().parents[1]
# __init__ stands outside: it shows what all floors offer, up to the third.
OFFERED = 2
PYTHON, CYTHON = ("*.py", "*.pyi"), ("*.pyx", "*.pxd", "*.pxi")
FILES = sorted(
    path for kind in PYTHON + CYTHON for path in PACKAGE.rglob(kind) if path != PACKAGE / "__init__.py"
)


def module_of(path: Path) -> str:
    """Return the first name under the package: the module, or the folder it is in."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Return the first names under the package that a file imports when it runs, wherever in it.

    The package itself is "".
    """
    text = path.read_text(encoding="utf-8")
    if f"*{path.suffix}" in CYTHON:
        return set(re.findall(r"^ *(?:from|c?import) +bptt\b\.?(\w*)", text, re.MULTILINE))
    names: set[str] = set()
    tree, folder = ast.parse(text), ["bptt", *path.relative_to(PACKAGE).parts[:-1]]
    for test in ast.walk(tree):
        if isinstance(test, ast.If) and ast.unparse(test.test) == "TYPE_CHECKING":
            test.body.clear()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = folder[: len(folder) + 1 - node.level] if node.level else []
            source = ".".join([*start, *([node.module] if node.module else [])])
            names |= {f"{source}.{alias.name}" for alias in node.names}
    return {f"{name}.".split(".")[1] for name in names if name.split(".")[0] == "bptt"}


def test_every_file_has_a_floor() -> None:
    assert {module_of(path) for path in FILES} == set(FLOOR_OF)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down(path: Path) -> None:
    floor = FLOOR_OF[module_of(path)]
    # what is no module comes by way of the package
    too_high = {name for name in imported(path) if FLOOR_OF.get(name, OFFERED) > floor}
    assert not too_high


def test_the_check_sees_imports() -> None:
    assert {"checks", "parameters", "recurrent", "tape"} <= imported(PACKAGE / "layers.py")
    assert {"arrays", "reference"} <= imported(PACKAGE / "reference" / "conversion.py")


def test_the_check_sees_whatever_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "PACKAGE", tmp_path)
    lines = {
        "import bptt": {""},
        "import bptt.fitting": {"fitting"},
        "from bptt import Network, files": {"Network", "files"},
        "from bptt.flow.sweep import sweep": {"flow"},
        "def f():\n    from ..optim import SGD": {"optim"},
        "from .. import optim": {"optim"},
        "from . import step": {"kernels"},
        "import numpy, bptty.optim": set(),
    }
    (tmp_path / "kernels").mkdir()
    for line, names in lines.items():
        (tmp_path / "kernels" / "a.py").write_text(line)
        assert imported(tmp_path / "kernels" / "a.py") == names
    for line in ("from bptt.optim import SGD", "cimport bptt.optim", "if 1:\n    import bptt.optim"):
        (tmp_path / "kernels" / "a.pxi").write_text(line)
        assert imported(tmp_path / "kernels" / "a.pxi") == {"optim"}


def test_the_floors_are_drawn_so() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    floors: list[set[str]] = []
    for line in text[text.index("    top ") : text.index("`interface.py` is")].rstrip().splitlines():
        if line[4] != " ":
            floors.append(set())
        # names, and behind a wider gap what they are for
        floors[-1] |= set(line[13:].split("   ")[0].replace("/", "").split())
    assert floors == [modules - {"__main__"} for modules in reversed(FLOORS)]


def test_files_are_short() -> None:
    folders = (PACKAGE, *(ROOT / name for name in ("tests", "bench", "docs", "examples", "tools")))
    files = [path for folder in folders for path in folder.rglob("*.[phcm]*") if path.suffix in SOURCES]
    files += ROOT.glob("*.[pm][yd]")
    long = {path.name: lines for path in files if (lines := len(path.read_bytes().splitlines())) > 400}
    assert len(files) > 200
    assert not long

"""The reference's inner modules are plain Python: the standard library, each other, and nothing else."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from bptt import reference

FOLDER = Path(reference.__file__).parent
INNER = ("affine", "algebra", "cells", "elman", "expansion", "gru", "losses", "lstm", "normalise")
INNER += ("preactivations", "records", "step", "sweep", "unroll")
#: What takes arrays.
OUTER = ("back", "boundary", "conversion", "readout", "stepper")
ALLOWED = {"__future__", "collections.abc", "math", "typing"}


def imports(path: Path) -> set[str]:
    """Names of the modules that a file imports, relative ones with their dots."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = "." * node.level
            found |= {start + node.module} if node.module else {start + alias.name for alias in node.names}
    return found


def test_no_other_module() -> None:
    assert {path.stem for path in FOLDER.glob("*.py")} == {*INNER, *OUTER, "__init__"}
    assert {path.suffix for path in FOLDER.iterdir() if path.is_file()} == {".py"}


@pytest.mark.parametrize("module", INNER)
def test_inner_modules_import_only_each_other(module: str) -> None:
    assert imports(FOLDER / f"{module}.py") <= ALLOWED | {f".{name}" for name in INNER}


def test_boundary_imports_no_kernels() -> None:
    allowed = (
        ALLOWED | {"types", "numpy", "numpy.typing", "..arrays"} | {f".{name}" for name in INNER + OUTER}
    )
    for module in OUTER:
        assert imports(FOLDER / f"{module}.py") <= allowed
    assert imports(FOLDER / "__init__.py") <= {".cells"} | {f".{name}" for name in OUTER}


def test_inner_modules_run_without_numpy(tmp_path: Path) -> None:
    # A copy of the inner modules alone, in an interpreter that sees no site-packages.
    package = tmp_path / "plain"
    package.mkdir()
    (package / "__init__.py").write_text("")
    for module in INNER:
        (package / f"{module}.py").write_bytes((FOLDER / f"{module}.py").read_bytes())
    program = (
        "import sys\n"
        "from plain.records import Parameters\n"
        "from plain.sweep import bptt\n"
        "from plain.unroll import unroll\n"
        "import plain.expansion, plain.losses\n"
        "w = Parameters([[2.0]], [[3.0]])\n"
        "run, final = unroll('identity', [[[1.0]], [[5.0]]], [([7.0],)], w)\n"
        "assert (run.states, final) == ([[([23.0],)], [([79.0],)]], [([79.0],)])\n"
        "dx, dinitial, dw = bptt('identity', run, w, None, [([1.0],)])\n"
        "assert (dx, dinitial) == ([[[6.0]], [[2.0]]], [([9.0],)])\n"
        "assert dw == Parameters([[8.0]], [[44.0]])\n"
        "assert 'numpy' not in sys.modules\n"
        "print('done')\n"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{program}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("done\n", "")


def test_interface() -> None:
    names = {"CELLS", "Stepper", "affine", "affine_backward", "bptt", "pack", "short_call"}
    assert names | {"softmax_cross_entropy", "terms", "unroll"} <= set(reference.__all__)
    assert reference.CELLS == ("tanh", "relu", "sigmoid", "identity", "lstm", "gru", "gru_reset_before")

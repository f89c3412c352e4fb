"""The reference's inner modules are plain Python: the standard library, each other, and nothing else."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from bptt import reference

FOLDER = Path(reference.__file__).parent
INNER = ("affine", "cells", "expansion", "losses", "unroll")
ALLOWED = {"__future__", "collections.abc", "math", "typing"}


def imports(path: Path) -> set[str]:
    """Names of the modules that a file imports, relative ones with their dots."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add("." * node.level + (node.module or ""))
    return found


def test_no_other_module() -> None:
    assert {path.stem for path in FOLDER.glob("*.py")} == {*INNER, "boundary", "__init__"}
    assert {path.suffix for path in FOLDER.iterdir() if path.is_file()} == {".py"}


@pytest.mark.parametrize("module", INNER)
def test_inner_modules_import_only_each_other(module: str) -> None:
    assert imports(FOLDER / f"{module}.py") <= ALLOWED | {f".{name}" for name in INNER}


def test_boundary_imports_no_kernels() -> None:
    allowed = ALLOWED | {"numpy", "numpy.typing", "..arrays"} | {f".{name}" for name in INNER}
    assert imports(FOLDER / "boundary.py") <= allowed
    assert imports(FOLDER / "__init__.py") <= {".boundary", ".cells"}


def test_inner_modules_run_without_numpy(tmp_path: Path) -> None:
    # A copy of the inner modules alone, in an interpreter that sees no site-packages.
    package = tmp_path / "plain"
    package.mkdir()
    (package / "__init__.py").write_text("")
    for module in INNER:
        (package / f"{module}.py").write_text((FOLDER / f"{module}.py").read_text())
    program = (
        "import sys\n"
        "from plain.unroll import Parameters, bptt, unroll\n"
        "import plain.expansion, plain.losses\n"
        "w = Parameters([[2.0]], [[3.0]], None, None)\n"
        "y = unroll('identity', [[[1.0]], [[5.0]]], [[7.0]], w)\n"
        "assert y == [[[23.0]], [[79.0]]]\n"
        "dx, dh_0, dw = bptt('identity', [[[1.0]], [[5.0]]], [[7.0]], y, w, None, [[1.0]])\n"
        "assert (dx, dh_0) == ([[[6.0]], [[2.0]]], [[9.0]])\n"
        "assert dw == ([[8.0]], [[44.0]], None, None)\n"
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
    names = {"CELLS", "affine", "affine_backward", "bptt", "softmax_cross_entropy", "terms", "unroll"}
    assert names <= set(reference.__all__)
    assert reference.CELLS == ("tanh", "relu", "sigmoid", "identity")

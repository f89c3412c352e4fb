"""What an installation has to hold, and what the package offers: modules, types, version, names, examples."""

from __future__ import annotations

import doctest
import importlib
import inspect
import platform
import re
import subprocess
import sys
import sysconfig
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.metadata import metadata, requires, version
from importlib.util import find_spec
from pathlib import Path

import pytest

import bptt
from bptt import checks, kernels
from bptt.interface import Backend
from bptt.kernels import _cpu

PACKAGE = Path(bptt.__file__).parent
ROOT = Path(__file__).resolve().parents[1]
ALL_VARIANTS = platform.machine().lower() in ("x86_64", "amd64") and sys.platform != "win32"
#: amx is in the module of avx512.
COMPILED = ("cpu", *(sorted({*kernels.VARIANTS} - {"amx"}) if ALL_VARIANTS else kernels.VARIANTS[:1]))
#: Modules with examples in their docstrings.
SHOWING = sorted(path.stem for path in PACKAGE.glob("*.py") if ">>> " in path.read_text(encoding="utf-8"))
#: What both backends offer; a compiled class has no signature.
OFFERED = [name for name in vars(Backend) if not name.startswith("_") and name != "Stepper"]
FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))


def binary(name: str) -> Path:
    """Return the file of a compiled module, without importing it: this processor may lack what it is for."""
    spec = find_spec(f"bptt.kernels._{name}")
    assert spec is not None, f"_{name} is missing"
    assert spec.origin is not None
    return Path(spec.origin)


@pytest.mark.parametrize("name", COMPILED)
def test_every_compiled_module_is_there(name: str) -> None:
    file = binary(name)
    assert file.name.endswith(tuple(EXTENSION_SUFFIXES))
    assert file.stat().st_size > 10_000
    assert file.parent == PACKAGE / "kernels"


@pytest.mark.skipif(sys.platform == "win32", reason="the file's name doesn't tell there")
@pytest.mark.parametrize("name", COMPILED)
def test_one_binary_is_for_every_python(name: str) -> None:
    stable = not FREE_THREADED and not _cpu.native()
    assert binary(name).name.endswith(".abi3.so") == stable


@pytest.mark.parametrize("name", COMPILED)
def test_every_compiled_module_has_a_stub(name: str) -> None:
    assert (PACKAGE / "kernels" / f"_{name}.pyi").is_file()


def drawn(text: str) -> set[str]:
    """Return the names on the left of a drawing: two spaces between them, more before what they are for."""
    lines = re.findall(
        r"^ {4}(?:(?:top|third|second|ground)\b)? *((?:[\w./]+(?: {2}|$))+)", text, re.MULTILINE
    )
    return {name.removesuffix("/") for line in lines for name in line.split()}


def test_the_house_is_drawn_whole() -> None:
    """Every module of the package and every source of the kernels is in CONTRIBUTING.md's map, no other."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    floors, ground = text[: text.index("## Build")].split("    src/bptt/kernels/\n")
    modules = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert drawn(floors) == {name for name in modules if not name.startswith("__")}
    # absent where the tests of an sdist run on an installed wheel
    sources = (ROOT / "src/bptt/kernels").glob("*")
    files = {path.name for path in sources if path.suffix in {".h", ".pxd", ".pxi", ".pyx", ".py"}}
    assert not files or drawn(ground) == files - {"__init__.py"}


def test_types_are_declared() -> None:
    assert (PACKAGE / "py.typed").is_file()


def test_numpy_is_all_that_is_needed() -> None:
    needed = [requirement for requirement in requires("bptt") or () if "extra ==" not in requirement]
    assert [re.split(r"[<>=!~ ]", requirement)[0] for requirement in needed] == ["numpy"]


def test_the_changelog_knows_the_version() -> None:
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert newest is not None
    assert newest[1] == version("bptt") == metadata("bptt")["Version"]


@pytest.mark.parametrize("name", OFFERED)
def test_backends_have_the_interface(backend, name):
    def arguments(function):
        parameters = inspect.signature(function).parameters.values()
        return [(p.name, p.kind, p.default) for p in parameters if p.name != "self"]

    assert arguments(getattr(checks.resolve_backend(backend), name)) == arguments(getattr(Backend, name))


def test_what_the_package_offers():
    assert set(bptt.__all__) <= set(dir(bptt))
    assert all(getattr(bptt, name) is not None for name in bptt.__all__)
    assert bptt.__version__[0].isdigit()
    with pytest.raises(AttributeError, match="module 'bptt' has no attribute 'LSMT'"):
        _ = bptt.LSMT


def test_import_loads_little():
    """What costs time stays out of `import bptt`: the third floor, metadata, and packages beside NumPy."""
    code = (
        "import sys, numpy; before = set(sys.modules); import bptt; "
        "print(*(name for name in set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "bptt.layers" in loaded
    assert loaded.isdisjoint(
        {"bptt.network", "bptt.optim", "bptt.files", "bptt.cli", "bptt.reference", "importlib.metadata"}
        | {"dataclasses", "inspect", "click", "tqdm", "safetensors", "numpy.random"}
    )


@pytest.mark.parametrize("name", SHOWING)
def test_docstring_examples(name):
    result = doctest.testmod(importlib.import_module(f"bptt.{name}"))
    assert result.attempted > 0
    assert result.failed == 0


def test_the_examples_are_found():
    assert {"layers", "lstm", "gru", "frozen", "stream", "readout", "network"} <= set(SHOWING)

"""Which CPU variant runs: the one asked for or the best there is, and never another in silence."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from kernel_problems import close, extras, of_rows, problem, results, same, tolerances
from thresholds import EVERYWHERE

from bptt import kernels

pytestmark = pytest.mark.kernels


def run(script, cpu=None):
    """Run a script in a fresh interpreter, BPTT_CPU set to cpu or not set."""
    environment = {name: value for name, value in os.environ.items() if name != "BPTT_CPU"}
    if cpu is not None:
        environment["BPTT_CPU"] = cpu
    return subprocess.run(
        [sys.executable, "-c", script],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def last_line(process):
    assert process.returncode == 1, process.stdout + process.stderr
    return process.stderr.strip().splitlines()[-1]


INFO = "import bptt, json; print(json.dumps(bptt.info()))"


@pytest.mark.parametrize("name", kernels.available())
def test_each_variant_can_be_forced(name):
    process = run(INFO, name)
    assert process.returncode == 0, process.stderr
    info = json.loads(process.stdout)
    assert info["variant"] == name
    assert info["reason"] == f"BPTT_CPU={name}"
    assert tuple(info["variants"]) == kernels.available()
    assert info["threads"] >= 1
    assert {"version", "processor", "python", "numpy"} <= info.keys()


@pytest.mark.parametrize("cpu", [None, ""])
def test_the_best_is_the_default(cpu):
    info = json.loads(run(INFO, cpu).stdout)
    assert info["variant"] == kernels.available()[-1]
    assert info["reason"] == "the best that the processor has"


def test_one_module_is_loaded_only():
    script = "import bptt.kernels, sys; print(*(n for n in sys.modules if n.startswith('bptt.kernels._')))"
    for name in kernels.available():
        loaded = set(run(script, name).stdout.split())
        own = kernels.module_name(name)
        assert own in loaded
        assert not loaded & ({kernels.module_name(other) for other in kernels.VARIANTS} - {own})


@pytest.mark.parametrize("cpu", ["avx", "AVX2", " avx2", "_cpu", "reference", "../x"])
def test_unknown_name(cpu):
    expected = f"ImportError: BPTT_CPU: expected one of {', '.join(kernels.VARIANTS)}, got {cpu!r}"
    assert last_line(run("import bptt.kernels", cpu)) == expected


@pytest.mark.parametrize("level", range(len(kernels.VARIANTS)))
def test_what_the_processor_lacks_is_refused(level, monkeypatch):
    monkeypatch.setattr(kernels, "_cpu", type("Cpu", (), {"level": staticmethod(lambda: level)}))
    names = kernels.VARIANTS[: level + 1]
    assert kernels.available() == names
    assert kernels.choose(None) == kernels.choose("") == names[-1]
    for name in names:
        assert kernels.choose(name) == name
    for name in kernels.VARIANTS[level + 1 :]:
        with pytest.raises(ImportError) as raised:
            kernels.choose(name)
        assert str(raised.value) == f"BPTT_CPU={name}: this processor has {', '.join(names)} only"


def test_a_lacking_variant_stops_the_import():
    """The same from outside: an interpreter that is told the processor has nothing."""
    built = kernels._cpu.native()
    script = f"""
import sys, types
sys.modules["bptt.kernels._cpu"] = types.SimpleNamespace(level=lambda: 0, native=lambda: {built})
import bptt.kernels
print(bptt.kernels.variant)
"""
    assert run(script).stdout.strip() == kernels.VARIANTS[0]
    message = "ImportError: BPTT_CPU=avx2: this processor has baseline only"
    if built:
        message = "ImportError: BPTT_CPU: expected one of native, got 'avx2'"
    assert last_line(run(script, "avx2")) == message


@pytest.mark.parametrize("forced", [True, False])
def test_a_broken_variant_is_an_error(forced):
    """The best variant cannot be imported: no other takes its place."""
    best = kernels.available()[-1]
    module = kernels.module_name(best)
    report = "import bptt; print(bptt.info()['variant'])"
    blocked = f"import sys; sys.modules['{module}'] = None; {report}"
    process = run(blocked, best if forced else None)
    assert process.stdout == ""
    assert module in last_line(process)
    raising = f"""
import sys
class Broken:
    def find_spec(self, name, path=None, target=None):
        if name == "{module}":
            raise ImportError("undefined symbol: broken")
sys.meta_path.insert(0, Broken())
{report}
"""
    process = run(raising, best if forced else None)
    assert process.stdout == ""
    assert last_line(process) == "ImportError: undefined symbol: broken"


def results_of(name, p):
    """On a variant that need not be the one in use."""
    module = importlib.import_module(kernels.module_name(name))
    module.use_amx(name == "amx" or (name == "native" and kernels.amx), **EVERYWHERE)
    try:
        return results(p, module=module)
    finally:
        kernels.use_amx(kernels.amx, **EVERYWHERE)


@pytest.mark.thread_unsafe
@pytest.mark.parametrize("cell", kernels.CELLS)
@pytest.mark.parametrize("way", ["plain", "depth", "options"])
def test_variants_agree(cell, way, dtype):
    # relu's derivative jumps where a rounding error changes a sign: one step only
    T = 1 if cell == "relu" else 20
    options = {"depth": 3} if way == "depth" else {"features": extras(cell)} if way == "options" else {}
    for B, I, H in ((5, 9, 33), (1, 40, 64), (13, 8, 130)):
        p = problem(T, B, I, H, cell=cell, dtype=dtype, **options)
        first, *rest = (results_of(name, p) for name in kernels.available())
        # both are off
        bounds = {name: 2 * bound for name, bound in tolerances(p).items()}
        for other in rest:
            assert other.keys() == first.keys()
            for name, value in other.items():
                close(name, value, first[name].astype(np.float64), T * (B + I + H), **bounds)


@pytest.mark.thread_unsafe
@pytest.mark.parametrize("name", kernels.available())
def test_every_row_of_every_variant(name, dtype):
    """Rows in batches of any size: the tile's heights and widths differ from variant to variant."""
    for cell in kernels.CELLS:
        p = problem(3, 67, 9, 21, cell=cell, dtype=dtype, features=extras(cell))
        whole = results_of(name, p)
        for rows in ([0], [66], [3, 5], [*range(7, 20)], [*range(1, 66)]):
            part = results_of(name, of_rows(p, np.array(rows)))
            for result in {"y", "h_n", "c_n", "x", "h_0", "c_0"} & whole.keys():
                assert same(part[result], whole[result][..., rows, :]), (cell, result, rows)


def test_variants_offer_the_same():
    modules = [importlib.import_module(kernels.module_name(name)) for name in kernels.available()]
    names = {name for name in vars(modules[0]) if not name.startswith("_")}
    for module in modules:
        assert {name for name in vars(module) if not name.startswith("_")} == names
        assert kernels.CELLS == module.CELLS


def test_the_measures_are_of_this_world():
    """fma_peak and read_bandwidth scale the benchmarks; a wrong unit would be off by thousands."""
    for dtype in (np.float32, np.float64):
        assert 1e8 < kernels.fma_peak(dtype, rounds=200, repeats=3) < 1e13
    assert 1e8 < kernels.read_bandwidth(1 << 16, repeats=2) < 1e13

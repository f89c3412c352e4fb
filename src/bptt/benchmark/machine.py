"""Threads and cores, fixed before a numerical library loads; and the names written beside every number."""

from __future__ import annotations

import math
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from bptt import checks, kernels
from bptt.arrays import Weights
from bptt.benchmark import pinned
from bptt.benchmark.rows import FORWARD, STEP, Row, Task

_MARK = "BPTT_BENCH_THREADS"


def parse_threads(text: str) -> int:
    """Read a thread count; ``all`` is every usable core.

    Raises
    ------
    ValueError
        If it is no positive integer, or more than the usable cores.
    """
    cores = checks.usable_cores()
    if text == "all":
        return cores
    if not text.isdecimal() or not 1 <= int(text) <= cores:
        raise ValueError(f"threads: expected 1 to {cores} (the usable cores) or 'all', got {text!r}")
    return int(text)


def _environment(threads: int) -> dict[str, str]:
    """Return the variables by which numerical libraries are told how many threads to use."""
    variables = {f"{name}_NUM_THREADS": str(threads) for name in ("OMP", "OPENBLAS", "MKL", "BPTT")}
    variables["VECLIB_MAXIMUM_THREADS"] = str(threads)  # NumPy's BLAS on macOS
    # XLA sizes its pool by the cores it may use; at one thread its products must not go through the pool.
    eigen = f"--xla_cpu_multi_thread_eigen={'true' if threads > 1 else 'false'}"
    others = [flag for flag in os.environ.get("XLA_FLAGS", "").split() if "multi_thread_eigen" not in flag]
    return variables | {"XLA_FLAGS": " ".join([*others, eigen]), "JAX_PLATFORMS": "cpu", _MARK: str(threads)}


def is_fixed(threads: int) -> bool:
    """Tell whether this process was started by `run_fixed` for so many threads."""
    return os.environ.get(_MARK) == str(threads)


def run_fixed(command: Sequence[str], threads: int, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command pinned to ``threads`` cores, in which every library uses as many threads.

    It has to be a process of its own: most libraries size their thread pools when they are loaded. On Linux
    it ends with this one, even if this one is killed.

    Parameters
    ----------
    command : sequence of str
        Program and arguments.
    threads : int
        Number of cores and of threads.
    **options
        As of `subprocess.run`; ``env`` is added to the environment.
    """
    env = os.environ | _environment(threads) | options.pop("env", {})
    if sys.platform == "linux":
        # The last cores: the first one serves most interrupts.
        cores = ",".join(map(str, sorted(os.sched_getaffinity(0))[-threads:]))
        command = [sys.executable, "-I", "-S", pinned.__file__, str(os.getpid()), cores, *command]
    return subprocess.run(command, text=True, check=False, env=env, **options)


def limits(row: Row) -> dict[str, float | None]:
    """Measure what one core can do at most, at the moment: for a row's dtype and recurrent weights.

    Returns
    -------
    dict
        ``fma_peak``, operations a second of bptt's bare tile; ``read_bandwidth``, bytes a second read from a
        block of the size of weight_hh, for forward calls of one layer over one batch row, None for others;
        ``kernel_step``, seconds that a single step takes inside bptt's kernel, None where there is no bar.
    """
    task = row.task
    one_row = task.case == FORWARD and task.setup == "plain" and task.shape.B == 1
    barred = task.case == STEP and row.limit is not None
    return {
        "fma_peak": float(kernels.fma_peak(np.dtype(task.dtype).type)),
        "read_bandwidth": float(kernels.read_bandwidth(task.recurrent_bytes)) if one_row else None,
        "kernel_step": _kernel_step(task) if barred else None,
    }


def _kernel_step(task: Task) -> float:
    assert task.cell == "rnn", "single steps of other cells have no bar"
    _, B, I, H = task.shape
    uniform = np.random.default_rng(0).uniform
    bound = 1 / math.sqrt(H)
    weights = Weights(*(uniform(-bound, bound, size).astype(task.dtype) for size in ((H, I), (H, H), H, H)))
    stepper = kernels.Stepper("tanh", weights, (np.zeros((B, H), task.dtype),))
    x = uniform(-1, 1, (B, I)).astype(task.dtype)
    rounds = int(2e-3 / kernels.step_seconds(stepper, x, rounds=10)) + 1
    return float(kernels.step_seconds(stepper, x, rounds=rounds))


def describe() -> dict[str, str]:
    """Name the processor, bptt's variant for it, the system and the interpreter."""
    return {
        "processor": kernels.processor(),
        "variant": f"bptt {kernels.variant}",
        "system": f"{platform.system()} {platform.machine()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
    }

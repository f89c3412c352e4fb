"""Threads and cores, fixed before a numerical library loads; and the names written beside every number."""

from __future__ import annotations

import os
import platform
import sys

from shapes import FORWARD, Row


def usable_cores() -> int:
    """Count the cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def parse_threads(text: str) -> int:
    """Read a thread count; ``all`` is every usable core.

    Raises
    ------
    ValueError
        If it is no positive integer, or more than the usable cores.
    """
    cores = usable_cores()
    if text == "all":
        return cores
    if not text.isdigit() or not 1 <= int(text) <= cores:
        raise ValueError(f"threads: expected 1 to {cores} (the usable cores) or 'all', got {text!r}")
    return int(text)


def fix_threads(threads: int) -> None:
    """Pin the process to ``threads`` cores and tell every library to use as many threads.

    Must run before NumPy, PyTorch, JAX or bptt is imported: their thread pools are sized at import.

    Raises
    ------
    RuntimeError
        If one of them is loaded already.
    """
    loaded = [name for name in ("numpy", "torch", "onnxruntime", "jax", "bptt") if name in sys.modules]
    if loaded:
        raise RuntimeError(f"threads: expected no numerical library loaded yet, got {', '.join(loaded)}")
    if hasattr(os, "sched_setaffinity"):
        # The last cores: the first one serves most interrupts.
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-threads:])
    for name in ("OMP", "OPENBLAS", "MKL", "BPTT"):
        os.environ[f"{name}_NUM_THREADS"] = str(threads)
    # XLA sizes its pool by the cores it may use; at one thread its products must not go through the pool.
    eigen = f"--xla_cpu_multi_thread_eigen={'true' if threads > 1 else 'false'}"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {eigen}".strip()
    os.environ["JAX_PLATFORMS"] = "cpu"


def limits(row: Row) -> dict[str, float | None]:
    """Measure what one core can do at most, at the moment: for a row's dtype and recurrent weights.

    Returns
    -------
    dict
        ``fma_peak``, operations a second of bptt's bare tile; ``read_bandwidth``, bytes a second read from a
        block of the size of weight_hh, for forward calls of one batch row, None for others.
    """
    import numpy as np

    from bptt import kernels

    dtype = np.dtype(row.dtype)
    size = row.shape.H**2 * dtype.itemsize
    one_row = row.case == FORWARD and row.shape.B == 1
    return {
        "fma_peak": float(kernels.fma_peak(dtype.type)),
        "read_bandwidth": float(kernels.read_bandwidth(size)) if one_row else None,
    }


def describe() -> dict[str, str]:
    """Name the processor, bptt's variant for it, the system and the interpreter."""
    from bptt import kernels

    return {
        "processor": kernels.processor(),
        "variant": f"bptt {kernels.variant}",
        "system": f"{platform.system()} {platform.machine()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
    }

"""The compiled kernels: `unroll` and `bptt` for one direction of one layer, and what belongs to them.

The same source is compiled for three kinds of x86-64 processor; the best that this one has is chosen at
import.  ``BPTT_CPU=baseline|avx2|avx512|amx`` forces one; amx is avx512 with some products on the AMX unit.
"""

from __future__ import annotations

import importlib
import os
import platform
from typing import TYPE_CHECKING, Any

from bptt.checks import default_threads
from bptt.kernels import _cpu as _cpu

#: CPU variants in ascending order, by what `_cpu.level` returns; only one if built for one processor.
VARIANTS: tuple[str, ...] = ("native",) if _cpu.native() else ("baseline", "avx2", "avx512", "amx")


def available() -> tuple[str, ...]:
    """CPU variants that this processor runs, best last."""
    return VARIANTS[: _cpu.level() + 1]


def choose(forced: str | None) -> str:
    """Name of the variant to load: the best there is, or the one forced.

    Raises
    ------
    ImportError
        `forced` is no variant, or one that this processor lacks.
    """
    names = available()
    if not forced:
        return names[-1]
    if forced not in VARIANTS:
        raise ImportError(f"BPTT_CPU: expected one of {', '.join(VARIANTS)}, got {forced!r}")
    if forced not in names:
        raise ImportError(f"BPTT_CPU={forced}: this processor has {', '.join(names)} only")
    return forced


def module_name(name: str) -> str:
    """Name of the module that a variant is in: amx is avx512 with `use_amx`."""
    return f"bptt.kernels._{'avx512' if name == 'amx' else name}"


#: The variant in use.  One that the processor has and that fails to import is an error, never a fallback.
variant = choose(os.environ.get("BPTT_CPU"))
if TYPE_CHECKING:
    from bptt.kernels import _baseline as _module
else:
    _module = importlib.import_module(module_name(variant))

CELLS: tuple[str, ...] = _module.CELLS
use_amx = _module.use_amx
#: Whether products go to the AMX unit.
amx = variant in ("amx", "native") and _cpu.level() == 3
use_amx(amx)
unroll = _module.unroll
pack = _module.pack_weights
remember = _module.remember
Stepper = _module.Stepper
short_call = _module.short_call
large_empty = _module.large_empty
release_memory = _module.release_memory
bptt = _module.bptt
chunk_bounds = _module.chunk_bounds
count_outside = _module.count_outside
step_back = _module.step_back
walk = _module.walk
affine = _module.affine
affine_backward = _module.affine_backward
softmax_cross_entropy = _module.softmax_cross_entropy
elementwise = _module.elementwise
fma_peak = _module.fma_peak
read_bandwidth = _module.read_bandwidth
step_seconds = _module.step_seconds


def processor() -> str:
    """Name of the processor."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    except OSError:  # not Linux
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def info() -> dict[str, Any]:
    """Tell what runs, and why.

    Returns
    -------
    dict
        "version", "processor", "variant" and the "reason" for it, "variants" that the processor runs,
        "threads", "python", "numpy".
    """
    from importlib.metadata import version  # 20 ms that importing the package should not cost

    import numpy as np

    forced = os.environ.get("BPTT_CPU")
    return {
        "version": version("bptt"),
        "processor": processor(),
        "variant": variant,
        "reason": f"BPTT_CPU={forced}" if forced else "the best that the processor has",
        "variants": available(),
        "threads": default_threads(),
        "python": platform.python_version(),
        "numpy": np.__version__,
    }


__all__ = [
    "CELLS",
    "VARIANTS",
    "Stepper",
    "affine",
    "affine_backward",
    "amx",
    "available",
    "bptt",
    "choose",
    "chunk_bounds",
    "count_outside",
    "elementwise",
    "fma_peak",
    "info",
    "large_empty",
    "module_name",
    "pack",
    "processor",
    "read_bandwidth",
    "release_memory",
    "remember",
    "short_call",
    "softmax_cross_entropy",
    "step_back",
    "step_seconds",
    "unroll",
    "use_amx",
    "variant",
    "walk",
]

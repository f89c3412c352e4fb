"""What the scripts that measure peak memory share: a process for each measurement, and how far it grows.

Linux only: /proc tells.
"""

from __future__ import annotations

import json
import mmap
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bptt.benchmark import machine

# Otherwise the C library raises the size up to which it keeps freed memory, and a later array costs nothing.
_ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


def needs_linux() -> None:
    """Raise ValueError where the peak memory of a process is not known."""
    if not Path("/proc/self/status").exists():
        raise ValueError("expected Linux, whose /proc tells the peak memory of a process, got another system")


def _status(name: str) -> int:
    """Return this process's VmRSS, the memory it has, or VmHWM, the most it has had, in bytes."""
    found = re.search(rf"^{name}:\s*(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    if found is None:
        raise OSError(f"/proc/self/status: expected {name}, got none")
    return int(found[1]) * 1024


def _fill_up() -> mmap.mmap:
    """Hold as much memory as the process had at its peak, so that whatever comes next shows in the peak."""
    missing = max(mmap.PAGESIZE, _status("VmHWM") - _status("VmRSS"))
    ballast = mmap.mmap(-1, missing)
    for at in range(0, missing, mmap.PAGESIZE):
        ballast[at] = 1
    return ballast


def growth(call: Callable[[], Any]) -> tuple[Any, int]:
    """Return a call's result, and by how many bytes the process has grown at its peak meanwhile."""
    ballast = _fill_up()
    before = _status("VmRSS")
    result = call()
    grown = _status("VmHWM") - before
    ballast.close()
    return result, grown


def in_process(script: str, *about: str, threads: int) -> dict[str, Any] | None:
    """Return what ``script --measure about ...`` prints as JSON; None, having said why, if it fails."""
    command = [sys.executable, script, "--measure", *about]
    done = machine.run_fixed(command, threads, capture_output=True, env=_ENVIRONMENT)
    if done.returncode:
        why = (done.stderr.strip() or "killed").splitlines()[-1]
        print(f"{' '.join(about)}: {why}", file=sys.stderr)
        return None
    measured: dict[str, Any] = json.loads(done.stdout)
    return measured

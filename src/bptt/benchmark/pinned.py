"""Become another program, on some cores: python pinned.py PARENT CORES PROGRAM [ARGUMENT]...  Linux only.

CORES are joined by commas. The program ends when the process PARENT does, which has started this one, even if
that is killed: a measurement that nobody waits for any more would disturb the next one.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h; it outlasts exec


def main(parent: str, cores: str, *command: str) -> None:
    """Replace this process by ``command``."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL):
        raise OSError(ctypes.get_errno(), "prctl")
    if os.getppid() != int(parent):  # it has ended meanwhile
        sys.exit(1)
    os.sched_setaffinity(0, map(int, cores.split(",")))
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(*sys.argv[1:])

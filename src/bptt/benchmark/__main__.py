"""The process that ``bptt bench`` starts: python -m bptt.benchmark SECONDS THREADS FILE.

Writes the measurements to FILE.  An expected failure is one sentence on standard output, with exit code 1.
"""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

from bptt.benchmark import peers
from bptt.benchmark.measure import measure, until
from bptt.benchmark.problem import DisagreementError
from bptt.benchmark.rows import minute

#: Rounds of the rotation in a run of a minute and more; shorter runs have fewer.
ROUNDS, FEWEST = 15, 2


def main(seconds: float, threads: int, to: Path) -> int:
    """Measure for about ``seconds``; returns the exit code."""
    try:
        measure(
            minute(threads),
            ("bptt", *peers.PEERS),
            to,
            allowance=until(time.monotonic() + seconds),
            rounds=min(ROUNDS, max(FEWEST, round(seconds / 60 * ROUNDS))),
            strict=False,
        )
    except (DisagreementError, MemoryError, OSError) as error:
        print(error if str(error) else "not enough memory")
        return 1
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C reaches the parent too, which says so
    sys.exit(main(float(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])))

"""Times of several implementations taken in rotation: what the machine does meets all of them alike."""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Mapping
from typing import Any

Call = Callable[[], Any]
Clock = Callable[[], float]

# Calls shorter than this are timed several together: the clock itself takes about 0.05 us.
_SHORTEST = 20e-6
# Calls before each block, for so long: another implementation has had the caches. A call that is longer than
# _LONG warms up by itself.
_WARM_UP = 1e-3
_LONG = 5e-3


def _estimate(call: Call) -> float:
    times = []
    for _ in range(3):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return max(min(times), 1e-7)


def _block(call: Call, samples: int, together: int, clock: Clock) -> list[float]:
    times = []
    if together == 1:
        for _ in range(samples):
            start = clock()
            call()
            times.append(clock() - start)
        return times
    loop = range(together)
    for _ in range(samples):
        start = clock()
        for _ in loop:
            call()
        times.append((clock() - start) / together)
    return times


def rotate(
    calls: Mapping[str, Call],
    *,
    seconds: float,
    rounds: int,
    one_by_one: bool = False,
    clock: Clock = time.perf_counter,
) -> dict[str, list[float]]:
    """Time every call in each of ``rounds`` rounds, in another order each round.

    Parameters
    ----------
    calls : mapping
        Name to call; each has been called before (compiled, checked).
    seconds : float
        Time to spend on each implementation in all; at least one call a round is made.
    rounds : int
        Number of rounds.
    one_by_one : bool
        Time every call by itself however short, for percentiles.
    clock : callable
        What tells the time, in seconds.

    Returns
    -------
    dict
        Name to the seconds of each sample.
    """
    plans: dict[str, tuple[int, int, int]] = {}
    for name, call in calls.items():
        one = _estimate(call)
        together = 1 if one_by_one or one >= _SHORTEST else round(_SHORTEST / one) + 1
        samples = max(1, int(seconds / rounds / (one * together)))
        warm_up = 0 if one > _LONG else max(1, min(50, int(_WARM_UP / one)))
        plans[name] = samples, together, warm_up

    times: dict[str, list[float]] = {name: [] for name in calls}
    order = list(calls)
    shuffle = random.Random(0).shuffle
    collecting = gc.isenabled()
    gc.disable()
    try:
        for _ in range(rounds):
            shuffle(order)
            for name in order:
                samples, together, warm_up = plans[name]
                call = calls[name]
                for _ in range(warm_up):
                    call()
                times[name] += _block(call, samples, together, clock)
            gc.collect()
    finally:
        if collecting:
            gc.enable()
    return times

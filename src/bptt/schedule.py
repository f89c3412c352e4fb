"""When to keep a state, when to run again: schedules of checkpointed back-propagation.

A sequence is a row of chunks, whose ends are the only places where it may be cut. A piece of chunks is either
taped and taken back at once, or the state is advanced over its first chunks, kept there, the rest taken back,
and then the first chunks from the state before them. That is a binary tree, of which a pass first walks down
the right edge; the states kept are those on the path to where it stands. Source: docs/gradients.md,
"Checkpoints"; Gruslys, Munos, Danihelka, Lanctot and Graves, 2016.
"""

from __future__ import annotations

import bisect
import functools
import itertools
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

#: Chunks up to which the best of all schedules is found where one pass over everything again isn't enough.
EXHAUSTIVE = 256
#: Runs of one chunk up to which what can be done with so many is tabulated.
RUNS = 64


class Schedule(Protocol):
    """Decides how a piece is gone through."""

    @property
    def bounds(self) -> npt.NDArray[np.int64]:
        """(n + 1,) ascending: chunk k is steps bounds[k] .. bounds[k + 1] - 1."""
        ...

    def advance(self, first: int, last: int, held: int) -> int:
        """Return how many chunks of first..last-1 to advance over; 0 to tape all of them.

        Parameters
        ----------
        first, last : int
            Chunks, first < last.
        held : int
            How many states are kept, that before `first` not counted if it is the initial one.
        """
        ...


class Even(NamedTuple):
    """Pieces as even as the chunks allow, each run again once."""

    bounds: npt.NDArray[np.int64]  # (n + 1,) ascending: chunk k is steps bounds[k] .. bounds[k + 1] - 1
    cuts: tuple[int, ...]  # chunks before which a state is kept

    def advance(self, first: int, last: int, held: int) -> int:
        """See `Schedule`."""
        return next((cut - first for cut in self.cuts if first < cut < last), 0)


def even(bounds: npt.NDArray[np.int64], states: int) -> Even:
    """Return the schedule that keeps so many states, or one before every chunk but the first.

    Parameters
    ----------
    bounds : ndarray
    states : int
    """
    chunks, steps = len(bounds) - 1, int(bounds[-1])
    pieces = min(states + 1, max(chunks, 1))
    at = [int(np.searchsorted(bounds, steps * k / pieces)) for k in range(1, pieces)]
    return Even(bounds, tuple(sorted({cut for cut in at if 0 < cut < chunks})))


class Fitted:
    """The schedule of the fewest steps that fits into some room.

    Parameters
    ----------
    bounds : ndarray
        (n + 1,) ascending: chunk k is steps bounds[k] .. bounds[k + 1] - 1.
    room : int
        Bytes, at least `least`.
    state, step : int
        Bytes of a state that is kept and of a taped time step.
    """

    def __init__(self, bounds: npt.NDArray[np.int64], room: int, state: int, step: int) -> None:
        self.bounds = bounds
        self.room = room
        self.state = state
        self.step = step
        self._ends: list[int] = bounds.tolist()
        self._longest = int(np.diff(bounds).max(initial=0))
        self._known: dict[tuple[int, int, int], int] = {}

    def advance(self, first: int, last: int, held: int) -> int:
        """See `Schedule`."""
        if self._start(last, held) <= first:
            return 0
        if (first, last, held) not in self._known:
            self._known.clear()
            self._cut_once(first, last, held)
        return self._known.get((first, last, held)) or self._often(last - first, held)

    def steps(self, held: int) -> int:
        """Return how many time steps can be taped beside so many states."""
        return max(0, self.room - held * self.state) // self.step

    def _start(self, last: int, held: int) -> int:
        """Return the first chunk of the longest piece before `last` that can be taped."""
        return bisect.bisect_left(self._ends, self._ends[last] - self.steps(held))

    def _cut_once(self, first: int, last: int, held: int) -> None:
        """Note where to cut if no step need be run again more than once.

        The last piece is taped the first time over, so it should be long, and the states before it few.
        """
        ends, most = self._ends, min(held + last - first, self.room // self.state)
        steps = [self.steps(kept) for kept in range(held, most + 1)]
        states = bisect.bisect_left(list(itertools.accumulate(steps)), ends[last] - ends[first])
        # so many states at least, if chunks had one step
        for count in range(max(states, 1), len(steps)):
            tail = bisect.bisect_left(ends, ends[last] - steps[count])
            if tail == last:
                return
            # the latest cuts that leave all pieces but the first short enough
            latest = [tail]
            for kept in range(count - 1, 0, -1):
                tail = bisect.bisect_left(ends, ends[tail] - steps[kept])
                latest.append(tail)
            if ends[tail] - steps[0] <= ends[first]:
                break
        else:
            return
        # of all cuts that do, those nearest to pieces of one length before the last
        tail = latest[0]
        for kept in range(count):
            here = ends[first]
            fair = bisect.bisect_left(ends, here + (ends[tail] - here) / (count - kept))
            farthest = bisect.bisect_right(ends, here + steps[kept]) - 1
            cut = min(max(latest[count - 1 - kept], fair, first + 1), farthest, tail)
            self._known[first, last, held + kept] = cut - first
            first = cut

    def _often(self, chunks: int, held: int) -> int:
        """Return the first cut of chunks all as long as the longest one."""
        # of n chunks that need this, no more than n states can be kept
        room = _rooms(self.room, self.state, self.step, self._longest)
        if chunks <= EXHAUSTIVE:
            skipped = max(0, len(room) - EXHAUSTIVE)
            return int(_cuts(room[skipped:])[held - skipped, chunks])
        reach = _reach(room)
        runs = min(int(np.searchsorted(reach[:, held], chunks)), RUNS)
        # Griewank and Walther, 2000
        latest = min(reach[runs - 1, held], chunks - reach[runs - 1, held + 1])
        return int(max(1, chunks - reach[runs, held + 1], min(latest, chunks - 1)))


@functools.lru_cache(maxsize=4)
def _rooms(room: int, state: int, step: int, longest: int) -> tuple[int, ...]:
    """Return how many chunks can be taped beside 0, 1, 2, ... states, as long as it is one."""
    each = step * longest
    return tuple((room - held * state) // each for held in range(1 + (room - each) // state))


@functools.lru_cache(maxsize=4)
def _cuts(room: tuple[int, ...]) -> npt.NDArray[np.int64]:
    """Return the first cut that leads to the least work for n chunks beside j states, at [j, n].

    ``room[j]`` chunks can be taped beside j states. With V(n, j) = n where they can all be,

        V(n, j) = min over y of  y + V(n - y, j + 1) + V(y, j)
    """
    work = np.full((len(room) + 1, EXHAUSTIVE + 1), np.inf)
    cuts = np.zeros(work.shape, np.int64)
    work[:, 0] = 0
    y = np.arange(EXHAUSTIVE + 1)
    for held in reversed(range(len(room))):
        own, beside = work[held], work[held + 1]
        taped = min(room[held], EXHAUSTIVE)
        own[: taped + 1] = y[: taped + 1]
        for n in range(taped + 1, EXHAUSTIVE + 1):
            total = y[1:n] + beside[n - 1 : 0 : -1] + own[1:n]
            best = int(np.argmin(total))
            own[n], cuts[held, n] = total[best], best + 1
    return cuts


@functools.lru_cache(maxsize=4)
def _reach(room: tuple[int, ...]) -> npt.NDArray[np.int64]:
    """Return how many chunks can be gone through beside j states, none run more than r times, at [r, j].

    N_1 is `room`, and N_r(j) = N_{r-1}(j) + N_r(j + 1).
    """
    reach = np.zeros((RUNS + 1, len(room) + 1), np.int64)
    reach[1, :-1] = room
    for runs in range(2, RUNS + 1):
        # far more than there are chunks is as good as endless
        sums = np.cumsum(np.minimum(reach[runs - 1, -2::-1], 2**40))
        reach[runs, :-1] = np.minimum(sums[::-1], 2**40)
    return reach


def least(bounds: npt.NDArray[np.int64], state: int, step: int) -> int:
    """Return the least room in which a schedule exists: for the longest chunk, and a state if it isn't alone.

    Parameters
    ----------
    bounds : ndarray
    state, step : int
        Bytes of a state that is kept and of a taped time step.
    """
    chunks = len(bounds) - 1
    return int(np.diff(bounds).max(initial=0)) * step + (state if chunks > 1 else 0)


def work(schedule: Schedule) -> int:
    """Return over how many time steps a forward and backward pass with this schedule runs forward.

    Parameters
    ----------
    schedule : Schedule
    """
    bounds: Any = schedule.bounds
    total, path, last = 0, [0], len(bounds) - 1
    while path and last:
        first = path[-1]
        ahead = schedule.advance(first, last, len(path) - 1)
        total += int(bounds[first + ahead if ahead else last] - bounds[first])
        if ahead:
            path.append(first + ahead)
        else:
            last = path.pop()
    return total

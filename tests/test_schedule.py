"""Schedules of checkpointed passes: they fit, and none runs fewer steps."""

import heapq
import itertools
import random

import numpy as np
import pytest

from bptt.schedule import EXHAUSTIVE, Fitted, even, least, work


def walk(schedule, state, step):
    """Go through a schedule; return the steps run forward and the most bytes held at once."""
    bounds, path, steps, most = schedule.bounds, [0], 0, 0
    last = len(bounds) - 1
    while path and last:
        first = path[-1]
        ahead = schedule.advance(first, last, len(path) - 1)
        assert 0 <= ahead < last - first
        stop = first + ahead if ahead else last
        steps += bounds[stop] - bounds[first]
        if ahead:
            path.append(stop)
            most = max(most, (len(path) - 1) * state)
        else:
            most = max(most, (len(path) - 1) * state + (bounds[last] - bounds[first]) * step)
            last = path.pop()
    assert last == 0
    return steps, most


def fewest(chunks, room, state, step):
    """Search everything that can be done for the least work to take `chunks` chunks of one step back.

    At any time: states may be kept before some chunks, and some pieces be taped, not only the last one. From
    a state that is kept one may advance and keep the state there, or tape what is passed; the end goes back
    over a taped piece that ends there. States and tapes may be forgotten.
    """
    start = (chunks, frozenset({0}), frozenset())
    queue, best, count = [(0, 0, start)], {start: 0}, itertools.count(1)

    def fits(states, tapes):
        taken = (len(states) - (0 in states)) * state + sum(b - a for a, b in tapes) * step
        return taken <= room

    while queue:
        done, _, (end, states, tapes) = heapq.heappop(queue)
        if end == 0:
            return done
        if done > best[end, states, tapes]:
            continue
        following = []
        for a, b in tapes:
            if b == end:
                following.append((0, a, frozenset(p for p in states if p <= a), tapes - {(a, b)}))
        for p in states:
            if p:
                following.append((0, end, states - {p}, tapes))
            for q in range(p + 1, end + 1):
                more = states | {q} if q < end else states
                following.append((q - p, end, more, tapes | {(p, q)}))
                following.append((q - p, end, more, tapes))
                # on the way to q the state before it may be forgotten
                following.append((q - p, end, more - {p} | {0}, tapes))
        for cost, stop, kept, taped in following:
            found = (stop, kept, taped)
            if fits(kept, taped) and done + cost < best.get(found, np.inf):
                best[found] = done + cost
                heapq.heappush(queue, (done + cost, next(count), found))
    raise AssertionError("there is no way")


@pytest.mark.parametrize("chunks", [1, 2, 3, 4, 5])
@pytest.mark.parametrize(("state", "step"), [(1, 1), (1, 3), (2, 3), (3, 1), (3, 2)])
def test_nothing_is_better(chunks, state, step):
    bounds = np.arange(chunks + 1)
    for room in range(least(bounds, state, step), chunks * (state + step) + 1):
        schedule = Fitted(bounds, room, state, step)
        assert work(schedule) == fewest(chunks, room, state, step), room


def expected(chunks, room):
    """V(n, j) of docs/gradients.md, "Checkpoints", for n chunks and ``room[j]`` that can be taped."""
    table = {}
    for held in reversed(range(len(room))):
        for n in range(chunks + 1):
            if n <= room[held]:
                table[n, held] = n
            else:
                ways = (y + table.get((n - y, held + 1), np.inf) + table[y, held] for y in range(1, n))
                table[n, held] = min(ways, default=np.inf)
    return table[chunks, 0]


def test_the_recurrence():
    draw = random.Random(0)
    for _ in range(300):
        chunks, size, state, step = (
            draw.randint(1, 30),
            draw.choice([1, 2, 4]),
            draw.randint(1, 40),
            draw.choice([1, 3, 10]),
        )
        bounds = np.arange(chunks + 1) * size
        room = least(bounds, state, step) + draw.choice(
            [0, 1, state, draw.randint(0, 30 * state), draw.randint(0, chunks * size * step)]
        )
        schedule = Fitted(bounds, room, state, step)
        steps, most = walk(schedule, state, step)
        assert most <= room
        taped = [(room - held * state) // (step * size) for held in range(1 + (room - step * size) // state)]
        assert steps == size * expected(chunks, taped[: chunks + 1]) == work(schedule)


def test_chunks_of_several_lengths():
    draw = random.Random(1)
    for _ in range(200):
        bounds = np.cumsum([0] + [draw.randint(1, 9) for _ in range(draw.randint(1, 40))])
        state, step = draw.randint(1, 20), draw.choice([1, 3])
        room = least(bounds, state, step) + draw.randint(0, 40 * state)
        assert walk(Fitted(bounds, room, state, step), state, step)[1] <= room


@pytest.mark.parametrize("more", [0, 2000, 20_000, 200_000])
def test_many_chunks(more):
    bounds = np.arange(4 * EXHAUSTIVE + 1) * 8
    room = least(bounds, 100, 300) + more
    steps, most = walk(Fitted(bounds, room, 100, 300), 100, 300)
    assert most <= room
    # so many states beside a taped chunk allow each step to be run that often
    states, runs = room // 100 - 24, 1
    reach = {j: (room - j * 100) // 2400 for j in range(states + 1)}
    while reach[0] < 4 * EXHAUSTIVE:
        runs += 1
        for j in reversed(range(states)):
            reach[j] += reach[j + 1]
    assert steps <= runs * bounds[-1]


def test_pieces_are_as_even_as_the_room_allows():
    schedule = Fitted(np.arange(19), 8, 1, 1)  # beside 0, 1, 2 states there is room for 8, 7, 6 chunks
    assert [schedule.advance(*piece) for piece in [(0, 18, 0), (6, 18, 1), (12, 18, 2)]] == [6, 6, 0]


def test_all_at_once():
    bounds = np.arange(11) * 3
    assert work(Fitted(bounds, 30 * 7, 1, 7)) == 30
    assert work(Fitted(bounds, 30 * 7 - 1, 1, 7)) > 30


@pytest.mark.parametrize(
    ("states", "cuts"),
    [(0, ()), (1, (5,)), (3, (2, 5, 8)), (9, tuple(range(1, 10))), (99, tuple(range(1, 10)))],
)
def test_even(states, cuts):
    schedule = even(np.arange(11) * 3, states)
    assert len(schedule.cuts) == len(cuts)
    assert np.abs(np.subtract(schedule.cuts, cuts)).max(initial=0) <= 1
    steps, _ = walk(schedule, 0, 0)
    assert steps == 30 + (3 * schedule.cuts[-1] if cuts else 0)


def test_no_steps():
    for schedule in (even(np.array([0]), 3), Fitted(np.array([0]), 10, 1, 1)):
        assert work(schedule) == 0
    assert least(np.array([0]), 5, 7) == 0
    assert least(np.array([0, 3]), 5, 7) == 21
    assert least(np.array([0, 3, 7]), 5, 7) == 33

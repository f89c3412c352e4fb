"""The forward loops over batch rows and time, in plain Python floats, for every cell.

Sequences are nested lists indexed [t][b][j]. Index t of a list is step t + 1 of the equations, whose steps
run from 1 to T; the initial state stands before step 1. Source: docs/equations.md, "Forward", "Lengths",
"Resets".
"""

from __future__ import annotations

from typing import NamedTuple

from .algebra import Matrix, zeros_like
from .cells import GATES
from .records import Gates, Input, Parameters, State, Step, StepNoise
from .step import step

#: [t][b][j].
Sequence = list[Matrix]
#: [t][b] rows of floats, or [t][b] token ids.
Inputs = list[list[Input]]


class Course(NamedTuple):
    """How the batch rows go through time."""

    lengths: list[int] | None = None  # (B,) steps of each row, in [0, T]; None: T
    reset: list[list[bool]] | None = None  # (T, B), True where a row starts a step from its initial state
    reverse: bool = False  # from a row's last step to the first


class Noise(NamedTuple):
    """Recurrent dropout and zoneout."""

    dropout: Matrix | None = None  # (B, R), what h_{t-1} is multiplied by on its way into W_hh
    zoneout: tuple[float, ...] = (0.0, 0.0)  # the share of h and of c that stays as it was
    kept: tuple[list[list[list[bool]]] | None, ...] = (None, None)  # (T, B, R) and (T, B, H); None: the mean


#: All rows from step 1 to T, without resets.
WHOLE = Course()
#: No dropout and no zoneout.
QUIET = Noise()


class Run(NamedTuple):
    """A forward pass: what went in and what came out."""

    x: Inputs  # (T, B, I) floats or (T, B) token ids
    initial: list[State]  # (B,)
    states: list[list[State]]  # (T, B); zeros past a row's end
    gates: list[list[Gates]]  # (T, B); zeros past a row's end
    course: Course
    noise: Noise
    begin: list[State] | None = None  # (B,) states before the first step; None: the initial ones


def order(T: int, b: int, course: Course) -> list[int]:
    """Return the indices into time of a row's steps, in the order in which they are taken.

    Parameters
    ----------
    T : int
        Steps in the arrays.
    b : int
        Batch row.
    course : Course

    Returns
    -------
    list of int
    """
    steps = list(range(T if course.lengths is None else course.lengths[b]))
    return steps[::-1] if course.reverse else steps


def starts(course: Course, t: int, b: int) -> bool:
    """Return whether a row starts a step from its initial state by a reset.

    Parameters
    ----------
    course : Course
    t, b : int
        Index into time, batch row.

    Returns
    -------
    bool
    """
    return course.reset is not None and bool(course.reset[t][b])


def noise_at(noise: Noise, t: int, b: int) -> StepNoise:
    """Return the noise of one step of one row.

    Parameters
    ----------
    noise : Noise
    t, b : int
        Index into time, batch row.

    Returns
    -------
    StepNoise
    """
    return StepNoise(
        None if noise.dropout is None else noise.dropout[b],
        noise.zoneout,
        tuple(None if kept is None else kept[t][b] for kept in noise.kept),
    )


def unroll(
    cell: str,
    x: Inputs,
    initial: list[State],
    weights: Parameters,
    course: Course = WHOLE,
    noise: Noise = QUIET,
    begin: list[State] | None = None,
) -> tuple[Run, list[State]]:
    """Forward pass.

    Parameters
    ----------
    cell : str
        One of ``cells.CELLS``.
    x : Inputs
        (T, B, I) floats or (T, B) token ids.
    initial : list of State
        (B,) initial states.
    weights : Parameters
    course : Course
    noise : Noise
    begin : list of State or None
        (B,) states before the first step, of a piece of a longer sequence; None for the initial ones.

    Returns
    -------
    run : Run
    final : list of State
        (B,) state after each row's last step; the one before the first step of a row without steps.
    """
    nothing = [zeros_of_state(start) for start in initial]
    no_gates = {name: [0.0] * (len(weights.weight_hh) // len(GATES[cell])) for name in GATES[cell]}
    states = [list(nothing) for _ in x]
    gates: list[list[Gates]] = [[no_gates for _ in initial] for _ in x]
    final = []
    for b, start in enumerate(initial):
        state = start if begin is None else begin[b]
        for t in order(len(x), b, course):
            if starts(course, t, b):
                state = start
            # (h_t, c_t) = cell(x_t, (h_{t-1}, c_{t-1}))
            state, gates[t][b] = step(cell, x[t][b], state, weights, noise_at(noise, t, b))
            states[t][b] = state
        final.append(state)
    return Run(x, initial, states, gates, course, noise, begin), final


def taken(run: Run, b: int) -> tuple[list[int], list[Step]]:
    """Return the steps of one batch row as they were taken.

    Parameters
    ----------
    run : Run
    b : int
        Batch row.

    Returns
    -------
    times : list of int
        Indices into time, in the order in which the steps were taken.
    steps : list of Step
        The steps themselves.
    """
    times = order(len(run.x), b, run.course)
    steps: list[Step] = []
    for t in times:
        reset = starts(run.course, t, b)
        first = not steps or reset
        before = run.initial[b] if first else steps[-1].after
        if not steps and not reset and run.begin is not None:
            before = run.begin[b]
        noise = noise_at(run.noise, t, b)
        steps.append(Step(run.x[t][b], before, run.states[t][b], run.gates[t][b], noise, first))
    return times, steps


def zeros_of_state(state: State) -> State:
    """Return zeros in the shape of a state.

    Parameters
    ----------
    state : State

    Returns
    -------
    State
    """
    return tuple(zeros_like(list(state)))

"""The backward loops over batch rows and time, in plain Python floats, for every cell.

Source: docs/equations.md, "Backward", "Lengths", "Resets"; docs/gradients.md, "Truncation".
"""

from __future__ import annotations

from .algebra import Row, add, dot
from .records import Parameters, State, Step, zeros_of
from .step import step_backward
from .unroll import Run, Sequence, starts, taken, zeros_of_state

#: Gradients with respect to x, [t][b][i]; None for token ids and past a row's end.
InputGradients = list[list[Row | None]]


def bptt(
    cell: str,
    run: Run,
    weights: Parameters,
    dy: Sequence | None,
    dfinal: list[State] | None,
    depth: int | None = None,
    squares: list[Row] | None = None,
    into: Parameters | None = None,
    dinitial: list[State] | None = None,
) -> tuple[InputGradients, list[State], Parameters]:
    """Backward pass.

    Parameters
    ----------
    cell : str
        One of ``cells.CELLS``.
    run : Run
        What ``unroll.unroll`` gave; with zoneout it has masks.
    weights : Parameters
    dy : Sequence or None
        (T, B, R) gradient of the loss with respect to h after every step; None for zeros.
    dfinal : list of State or None
        (B,) gradients with respect to the final states; None for zeros.
    depth : int or None
        None for the whole gradient. K >= 1 keeps of the loss of step i what passed through fewer than K
        state transitions: steps k with i - k < K, and the initial state, which stands at k = 0 (and before
        a reset at step k, at k - 1), only if i < K. Steps are counted as they are taken.
    squares : list of Row or None
        (T, B), where to put the squared norm of dL/dh_t; nothing is written past a row's end.
    into : Parameters or None
        Gradients of the steps after these, to which those of these are added; None for zeros.
    dinitial : list of State or None
        (B,), where to add what goes to the initial states at resets; None: to what is returned. Not with a
        depth.

    Returns
    -------
    dx : InputGradients
        (T, B, I); None for token ids and past a row's end.
    dstart : list of State
        (B,) gradients with respect to the states before the first step.
    dweights : Parameters
        Gradients in the parameters' shapes; None where a parameter is None.

    Notes
    -----
    The whole gradient costs T backward steps. A truncated one has no carry to share between loss steps,
    because each forgets at its own k, so it walks back from every step separately: T min(K, T) of them.
    """
    into = zeros_of(weights) if into is None else into
    dx: InputGradients
    if depth is None:
        resets = [zeros_of_state(state) for state in run.initial] if dinitial is None else dinitial
        dx, dstart = _whole(cell, run, weights, dy, dfinal, squares, into, resets)
        return dx, list(map(add_states, resets, dstart)) if dinitial is None else dstart, into
    dx = [[None for _ in run.initial] for _ in run.x]
    dstart = []
    for b, initial in enumerate(run.initial):
        times, steps = taken(run, b)
        dh = None if dy is None else [dy[t][b] for t in times]
        dend = None if dfinal is None else dfinal[b]
        zeros = zeros_of_state(initial)
        dx_row, dh_row, drow = _truncated(cell, steps, weights, dh, dend, zeros, depth, into)
        for t, dx_t, dh_t in zip(times, dx_row, dh_row, strict=True):
            dx[t][b] = dx_t
            if squares is not None:
                squares[t][b] = 0.0 if dh_t is None else dot(dh_t, dh_t)
        dstart.append(drow)
    return dx, dstart, into


def add_states(a: State, b: State) -> State:
    """Return a + b, elementwise.

    Parameters
    ----------
    a, b : State

    Returns
    -------
    State
    """
    return tuple(add(a_part, b_part) for a_part, b_part in zip(a, b, strict=True))


def _whole(
    cell: str,
    run: Run,
    weights: Parameters,
    dy: Sequence | None,
    dfinal: list[State] | None,
    squares: list[Row] | None,
    into: Parameters,
    dinitial: list[State],
) -> tuple[InputGradients, list[State]]:
    """Return dx and the gradients of the states before the first step, in one sweep over all rows.

    The sums over steps and rows run from the last step to the first, the rows of a step in ascending order,
    so that a sequence may be swept piece by piece.
    """
    dx: InputGradients = [[None for _ in run.initial] for _ in run.x]
    rows = [taken(run, b) for b in range(len(run.initial))]
    # carry_{T+1} = dL/d(h_n, c_n)
    carries = [zeros_of_state(state) for state in run.initial] if dfinal is None else list(dfinal)
    for k in reversed(range(len(run.x))):
        for b, (times, steps) in enumerate(rows):
            if k >= len(steps):
                continue
            t, carry = times[k], carries[b]
            # dh_k = dL/dy_k + carry_{k+1},  dc_k = carry_{k+1}
            dstate = carry if dy is None else (add(dy[t][b], carry[0]), *carry[1:])
            if squares is not None:
                squares[t][b] = dot(dstate[0], dstate[0])
            # carry_k = dL/d(h_{k-1}, c_{k-1})
            dx[t][b], carry = step_backward(cell, steps[k], dstate, weights, into)
            if starts(run.course, t, b):
                # the state before this step was the initial one
                dinitial[b], carry = add_states(dinitial[b], carry), zeros_of_state(carry)
            carries[b] = carry
    # without any step the final state is the first one
    return dx, carries


def _truncated(
    cell: str,
    steps: list[Step],
    weights: Parameters,
    dh: list[Row] | None,
    dend: State | None,
    zeros: State,
    depth: int,
    into: Parameters,
) -> tuple[list[Row | None], list[Row | None], State]:
    """Return the same of one row, cut to a depth: one walk a loss step."""
    T = len(steps)
    dx: list[Row | None] = [None for _ in steps]
    totals = list(dx)
    dinitial = zeros
    for i in range(T + 1):
        # dL_i/d(h_i, c_i), the final state being that of step T (of step 0 when there is no step)
        sources = []
        if dh is not None and i > 0:
            sources.append((dh[i - 1], *zeros[1:]))
        if dend is not None and i == T:
            sources.append(dend)
        if not sources:
            continue
        dstate = sources[0] if len(sources) == 1 else add_states(*sources)
        if i == 0:
            dinitial = add_states(dinitial, dstate)
        # k = i .. 1 with i - k < K
        for k in range(i, max(0, i - depth), -1):
            totals[k - 1] = _sum(totals[k - 1], dstate[0])
            # from dL_i/d(h_k, c_k) to dL_i/d(h_{k-1}, c_{k-1})
            dx_k, dstate = step_backward(cell, steps[k - 1], dstate, weights, into)
            dx[k - 1] = _sum(dx[k - 1], dx_k)
            if steps[k - 1].first:
                # the initial state stands at k - 1
                if i - (k - 1) < depth:
                    dinitial = add_states(dinitial, dstate)
                break
    return dx, totals, dinitial


def _sum(a: Row | None, b: Row | None) -> Row | None:
    """Return a + b, where None stands for nothing yet."""
    return b if a is None or b is None else add(a, b)

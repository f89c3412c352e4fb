"""The chain rule written out: the double sum over loss step i and injection step k, term by term.

Give every time step k a copy of the parameters of its own. The term (i, k) is the gradient of the loss of
step i with respect to copy k; the gradient of the shared parameters is the sum over all i and all k <= i.
Nothing here shares work between loss steps, which makes it slow (T (T + 1) / 2 backward steps) and an
independent check of :func:`bptt.reference.bptt`. Source: docs/gradients.md, "Expansion".
"""

from __future__ import annotations

from typing import NamedTuple

from .records import Parameters, State, Step, zeros_of
from .step import step_backward
from .unroll import Run, Sequence, noise_at


class Term(NamedTuple):
    """One term of the double sum."""

    i: int  # loss step, from 1
    k: int  # injection step, from 1
    gradients: Parameters


def terms(cell: str, run: Run, weights: Parameters, dy: Sequence) -> list[Term]:
    """All terms, i ascending and k descending from i.

    Parameters
    ----------
    cell : str
        One of ``cells.CELLS``.
    run : Run
        What ``unroll.unroll`` gave, all rows T steps long, forwards and without resets.
    weights : Parameters
    dy : Sequence
        (T, B, R), dy[i - 1] the gradient of the loss of step i with respect to h_i; zero without such a loss.

    Returns
    -------
    list of Term
        T (T + 1) / 2 of them.
    """
    result = []
    # states[t][b] is (h_t, c_t)
    states = [run.initial if run.begin is None else run.begin, *run.states]
    for i in range(1, len(run.x) + 1):
        # chain = dL_i/d(h_k, c_k), at first k = i: the loss of a step looks at its h alone
        chain: list[State] = [
            (dy_b, *([0.0 for _ in part] for part in state[1:]))
            for dy_b, state in zip(dy[i - 1], states[i], strict=True)
        ]
        for k in range(i, 0, -1):
            # term(i,k) = dL_i/d(h_k, c_k) times the immediate derivative of (h_k, c_k) by the parameters,
            # dL_i/d(h_{k-1}, c_{k-1}) = dL_i/d(h_k, c_k) times the Jacobian of step k
            term = zeros_of(weights)
            rows = zip(run.x[k - 1], states[k - 1], states[k], run.gates[k - 1], strict=True)
            for b, (x, before, after, gates) in enumerate(rows):
                step = Step(x, before, after, gates, noise_at(run.noise, k - 1, b), k == 1)
                _, chain[b] = step_backward(cell, step, chain[b], weights, term)
            result.append(Term(i, k, term))
    return result

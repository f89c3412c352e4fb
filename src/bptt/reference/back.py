"""One time step backwards for several gradients at once, with the interface of the compiled kernels.

Source: docs/gradients.md, "Jacobians".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from . import conversion
from .algebra import Row, multiply
from .boundary import as_run
from .normalise import normalise_backward
from .preactivations import dropped, input_product
from .records import Input, Parameters, Step, zeros_of
from .step import step_backward
from .unroll import taken

if TYPE_CHECKING:
    from ..arrays import Array
    from .algebra import Matrix
    from .boundary import Saved


def step_back(
    saved: Saved, s: int, dh: Array, dc: Array | None = None, *, together: bool = False
) -> tuple[Array, Array | None, Array, Array, Array, Array]:
    """One time step backwards, for N gradients at once.

    Parameters
    ----------
    saved : Saved
        From :func:`bptt.reference.unroll`.
    s : int
        The step, counted in the order in which a row makes its steps.
    dh : ndarray
        (N, B, R), gradients with respect to h after the step.
    dc : ndarray or None
        (N, B, H), of an LSTM: gradients with respect to c after the step that don't come through h; None for
        zeros.
    together : bool
        In reverse, whether all rows are at time T - 1 - s, instead of at step s of their own.

    Returns
    -------
    dh, dc : ndarray
        (N, B, R) and (N, B, H), gradients with respect to the state before the step; zero where a reset cuts
        the row from it, and with `together` before a row's first step if another row has made steps by then.
        dc is None but for an LSTM.
    da_ih, da_hh : ndarray
        (N, B, G*H), gradients with respect to p and q, the two halves of the pre-activations.
    d_ih, d_hh : ndarray
        (N, B, G*H), gradients with respect to W_ih x and W_hh h; without layer normalisation the same.

    Notes
    -----
    Rows that don't have the step give zeros. Source: docs/gradients.md, "Jacobians".
    """
    run, weights = as_run(saved.cell, saved), conversion.to_lists(saved.cell, saved.weights)
    (N, B, _), GH = dh.shape, saved.weights.weight_hh.shape[0]
    before: tuple[Array, ...] = tuple(np.zeros((N, *part.shape), part.dtype) for part in saved.state)
    halves = [np.zeros((N, B, GH), dh.dtype) for _ in range(4)]
    for b in range(B):
        _, steps = taken(run, b)
        own = s - (len(run.x) - len(steps)) if together and saved.reverse else s
        if not 0 <= own < len(steps):
            continue
        step = steps[own]
        for n in range(N):
            after = [dh[n, b].tolist()]
            if len(before) == 2:
                after.append([0.0] * before[1].shape[2] if dc is None else dc[n, b].tolist())
            dstate, rows = _back(saved.cell, step, tuple(after), weights)
            for half, row in zip(halves, rows, strict=True):
                half[n, b] = row
            if s == 0 or not step.first:
                for part, row in zip(before, dstate, strict=True):
                    part[n, b] = row
    da_ih, da_hh, d_ih, d_hh = halves
    return before[0], before[1] if len(before) == 2 else None, da_ih, da_hh, d_ih, d_hh


def _back(
    cell: str, step: Step, after: tuple[Row, ...], weights: Parameters
) -> tuple[tuple[Row, ...], tuple[Row, Row, Row, Row]]:
    """Return the gradients of the state before, and da_ih, da_hh, d_ih, d_hh."""
    # the gradients of the biases are those of p and q; where there are none, zeros are as good
    zeros = [0.0] * len(weights.weight_hh)
    with_biases = weights._replace(bias_ih=weights.bias_ih or zeros, bias_hh=weights.bias_hh or zeros)
    into = zeros_of(with_biases)
    _, before = step_backward(cell, step, after, with_biases, into)
    da_ih, da_hh = into.bias_ih, into.bias_hh
    assert da_ih is not None, "there are biases"
    assert da_hh is not None, "there are biases"
    masked = dropped(step.before[0], step.noise.dropout)
    d_ih = _unnormalised(step.x, weights.weight_ih, weights.weight_ln_ih, da_ih)
    d_hh = _unnormalised(masked, weights.weight_hh, weights.weight_ln_hh, da_hh)
    return before, (da_ih, da_hh, d_ih, d_hh)


def _unnormalised(x: Input, weight: Matrix, gain: Row | None, dp: Row) -> Row:
    """Return the gradient with respect to W x from that with respect to p."""
    if gain is None:
        return dp
    return normalise_backward([input_product(x, w) for w in weight], multiply(dp, gain))

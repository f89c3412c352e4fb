"""How far a loss reaches back: the norm of its gradient after so many steps."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from bptt.flow.sweep import cleared, sweep

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bptt.arrays import Array, Mask, Tokens
    from bptt.flow.sweep import StepBack
    from bptt.stack import Pass

#: A gradient has faded when it is under this share of its size.
FADED = 0.01
#: Loss steps that are followed back one by one; the median over them is taken.
SAMPLES = 8
#: Steps that the rate is fitted to at least, and the most points that are compared pairwise.
FITTED_AT_LEAST, FITTED_AT_MOST = 5, 256


class Reach(NamedTuple):
    """How far the loss reaches back in one layer and direction.

    Attributes
    ----------
    profile : ndarray
        (n,) of float64: norm of dL_i/dh_(i-lag) over that of dL_i/dh_i, at lag; empty if nothing arrives.
    factor : float or None
        By what that changes a step, from a robust fit; None without two numbers to fit to.
    steps : int or None
        After how many steps it is under 1% and stays there; None if it doesn't get there.
    """

    profile: Array
    factor: float | None
    steps: int | None


def reach_of(profile: Array) -> Reach:
    """Return what there is to say of a profile.

    Parameters
    ----------
    profile : ndarray
        (n,).

    Returns
    -------
    Reach
        `factor` is the exponential of the median slope between all pairs of logarithms (Theil and Sen), over
        the steps until the gradient has faded and at least 5.
    """
    strong = np.flatnonzero(~(profile < FADED))  # NaN has not faded
    last = int(strong[-1]) if len(strong) else -1
    steps = last + 1 if len(profile) > last + 1 else None
    window = len(profile) if steps is None else max(steps + 1, FITTED_AT_LEAST)
    return Reach(profile, _factor(profile[:window]), steps)


def _factor(profile: Array) -> float | None:
    lags = np.flatnonzero((profile > 0) & np.isfinite(profile))
    if len(lags) > FITTED_AT_MOST:
        lags = lags[np.linspace(0, len(lags) - 1, FITTED_AT_MOST).astype(np.int64)]
    if len(lags) < 2:
        return None
    logs = np.log(profile[lags])
    first, second = np.triu_indices(len(lags), 1)
    slopes = (logs[second] - logs[first]) / (lags[second] - lags[first])
    return float(np.exp(np.median(slopes)))


def profiles_of_losses(back: StepBack, recorded: Pass, dy: Array) -> list[Array]:
    """Follow some of the losses back one by one.

    Parameters
    ----------
    back : callable
        The ground floor's ``step_back``.
    recorded : Pass
    dy : ndarray
        (T, B, D*R).

    Returns
    -------
    list of ndarray
        Of every unit the profile: medians over the loss steps that were followed, which are spread over those
        in the second half of the time that the losses span. In the reverse direction back means to later
        steps.
    """
    dy = cleared(recorded, dy)
    T, D = len(dy), recorded.structure.directions
    with np.errstate(invalid="ignore"):
        lost: Mask = np.any(dy, axis=2)  # (T, B)
    steps = np.flatnonzero(lost.any(axis=1))
    # where the longest of the rows with a loss at a step ends, (T,)
    ends = (lost * (T if recorded.lengths is None else recorded.lengths)).max(axis=1, initial=0)
    profiles: list[Array] = [np.zeros(0) for _ in recorded.saved]
    if not len(steps):
        return profiles
    for direction in range(D):
        # those with many steps to go back: late ones, for the reverse direction early ones
        middle = (steps[0] + steps[-1]) / 2
        half = steps[steps <= middle] if direction else steps[steps >= middle]
        chosen = half[np.unique(np.linspace(0, len(half) - 1, SAMPLES).round().astype(np.int64))]
        owner = np.full(T, -1)
        owner[chosen] = np.arange(len(chosen))
        norms = [np.zeros((len(chosen), T)) for _ in recorded.saved]
        with np.errstate(invalid="ignore", over="ignore"):
            for moment in sweep(back, recorded, dy, owner.tolist()):
                flat = moment.dh.reshape(len(moment.dh), -1).astype(np.float64)
                size = np.sqrt(np.einsum("nk,nk->n", flat, flat))
                norms[moment.unit][moment.sources, moment.t] = np.ldexp(size, moment.exponents)
        for unit in range(direction, len(norms), D):
            profiles[unit] = _median(norms[unit], chosen, ends[chosen] if direction else None)
    return profiles


def _median(norms: Array, steps: Tokens, ends: Tokens | None) -> Array:
    """Return the median over loss steps, of what each has left of its size after every number of steps.

    In reverse these lead to the ends, without them to the beginning.
    """
    kept = []
    for number, (row, step) in enumerate(zip(norms, steps, strict=True)):
        path = row[step::-1] if ends is None else row[step : ends[number]]
        if 0 < path[0] < np.inf:
            kept.append(path / path[0])
    if not kept:
        return np.zeros(0)
    longest = max(map(len, kept))
    return np.array([np.median([path[lag] for path in kept if len(path) > lag]) for lag in range(longest)])


def profiles_of_squares(recorded: Pass, squares: Sequence[Array]) -> list[Array]:
    """Return the profiles where the only loss is one of the final states.

    Parameters
    ----------
    recorded : Pass
    squares : sequence of ndarray
        (T, B) of every unit, squared norms of dL/dh_t.

    Returns
    -------
    list of ndarray
        Of every unit the profile, over all rows; a row's last step is its own. Empty if nothing arrives
        there, or what is not finite.
    """
    profiles = []
    for unit, square in enumerate(squares):
        T, B = square.shape
        lengths = np.full(B, T) if recorded.lengths is None else recorded.lengths
        reverse = unit % recorded.structure.directions == 1
        sums = np.zeros(T)
        for row, length in zip(square.T, lengths, strict=True):
            steps = row[:length]
            sums[:length] += steps if reverse else steps[::-1]
        longest = int(lengths.max(initial=0))
        if longest and 0 < sums[0] < np.inf:
            # roots first: squares may be further apart than any two float64
            roots = np.sqrt(sums[:longest])
            profiles.append(roots / roots[0])
        else:
            profiles.append(np.zeros(0))
    return profiles

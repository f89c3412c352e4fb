"""Looking for NaN and infinities, and naming the first."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from bptt.arrays import Array, Tokens


def finite(
    x: Array | Tokens,
    initial: Sequence[Array],
    outputs: Sequence[Array],
    lengths: Tokens | None,
    *,
    directions: int,
    batched: bool,
) -> None:
    """Raise FloatingPointError at the first time step where something isn't finite.

    Parameters
    ----------
    x : ndarray
        (T, B, I) or token ids (T, B).
    initial : sequence of ndarray
        h_0 (L*D, B, R), for an LSTM c_0 (L*D, B, H) too.
    outputs : sequence of ndarray
        y of every layer, (T, B, D*R).
    lengths : ndarray or None
        (B,); x past a row's end is not looked at.
    directions : int
        D.
    batched : bool
        Whether messages tell the batch row.

    Notes
    -----
    Where several are bad at one step, the one that feeds the others is named: x, which has to be looked at as
    well (an infinite x leaves a tanh finite), then the layers from below. In two directions every step
    depends on every other, so that the order of time means nothing: the lowest bad one is named. A cell state
    that started finite is finite as long as y is: every step adds at most 1 to it.
    """
    for name, state in zip(("h_0", "c_0"), initial, strict=False):
        _finite_state(name, state, directions, batched)
    named = [("x", x)] if x.ndim == 3 else []  # token ids are finite
    last = len(outputs) - 1
    named += [("y" if n == last else f"y of layer {n}", y) for n, y in enumerate(outputs)]
    first: tuple[int, int, str, npt.NDArray[np.generic]] | None = None
    for name, a in named:
        bad = np.array(~np.isfinite(a).all(axis=2))  # (T, B)
        if lengths is not None:
            bad &= np.arange(len(bad))[:, np.newaxis] < lengths
        if bad.any():
            t, b = divmod(int(np.argmax(bad)), bad.shape[1])
            if first is None or t < first[0]:
                first = (t, b, name, a[t, b])
            if directions == 2:
                break
    if first is not None:
        t, b, name, row = first
        where = f"time step {t}, batch row {b}" if batched else f"time step {t}"
        raise FloatingPointError(_message(name, row, where))


def _finite_state(name: str, state: Array, directions: int, batched: bool) -> None:
    """Check a state (L*D, B, ...)."""
    bad = np.logical_not(np.isfinite(state).all(axis=2))  # (L*D, B)
    if not bad.any():
        return
    n, b = divmod(int(np.argmax(bad)), bad.shape[1])
    where = []
    if len(state) > 1:
        where.append(f"layer {n // directions}{' reverse' if n % directions else ''}")
    if batched:
        where.append(f"batch row {b}")
    raise FloatingPointError(_message(name, state[n, b], ", ".join(where)))


def _message(name: str, row: npt.NDArray[np.generic], where: str) -> str:
    value = row[~np.isfinite(row)][0]
    return f"{name}: expected finite values, got {value}{' at ' if where else ''}{where}"

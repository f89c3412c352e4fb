"""Random calls of unroll and bptt, of any cell with any options, for the tests of the reference."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np

from bptt import reference
from bptt.arrays import Noise, Weights

#: How many blocks of H rows the weights have.
GATES = {"lstm": 4, "gru": 3, "gru_reset_before": 3}
#: What any cell can have beside its plain form.
COMMON = ("tokens", "no_bias", "lengths", "reset", "reverse", "dropout", "zoneout")


def features_of(cell: str) -> tuple[str, ...]:
    """What a cell can have beside its plain form."""
    own = {"lstm": ("projection", "peepholes", "layer_norm"), "gru_reset_before": ()}
    return COMMON + own.get(cell, ("layer_norm",))


def combinations(cells: Any = reference.CELLS, most: int = 2) -> list[tuple[str, tuple[str, ...]]]:
    """Every cell with every choice of at most so many features, and with all of them."""
    cases = []
    for cell in cells:
        features = features_of(cell)
        for count in (*range(most + 1), len(features)):
            cases += [(cell, chosen) for chosen in itertools.combinations(features, count)]
    return cases


@dataclass(frozen=True)
class Problem:
    """Arguments of unroll and bptt; the loss is the sum of dy y and of dfinal times the final state."""

    cell: str
    x: Any  # (T, B, I), NaN past a row's end; or tokens (T, B)
    state: tuple[Any, ...]
    weights: Weights
    dy: Any  # (T, B, R), NaN past a row's end
    dfinal: tuple[Any, ...]
    options: dict[str, Any]

    def run(self, *, keep: bool = True, **changes: Any) -> Any:
        """Return y, the final state and what is saved."""
        options = self.options | changes
        return reference.unroll(self.cell, self.x, self.state, self.weights, keep=keep, **options)

    def gradients(self, depth: int | None = None) -> dict[str, Any]:
        """Return every gradient that there is, by name."""
        saved = self.run()[2]
        dx, dstate, dweights = reference.bptt(self.cell, saved, self.dy, self.dfinal, depth=depth)
        return named(dx, dstate, dweights)

    def arrays(self) -> dict[str, Any]:
        """Return everything that there are gradients of, by the same names."""
        return named(None if self.x.ndim == 2 else self.x, self.state, self.weights)

    @property
    def there(self) -> Any:
        """Where there is a step, (T, B)."""
        T, B = self.x.shape[:2]
        lengths = self.options.get("lengths", np.full(B, T))
        return np.arange(T)[:, np.newaxis] < lengths


def named(x: Any, state: Any, weights: Weights) -> dict[str, Any]:
    """Arrays by name; those that are None are left out."""
    everything = {"x": x, **dict(zip(("h_0", "c_0"), state, strict=False)), **weights._asdict()}
    return {name: array for name, array in everything.items() if array is not None}


def problem(
    cell: str,
    features: tuple[str, ...] = (),
    *,
    T: int = 3,
    B: int = 3,
    I: int = 2,
    H: int = 3,
    seed: int = 0,
    dtype: Any = np.float64,
) -> Problem:
    """Draw a problem. With lengths, one row has none and one has T steps."""
    assert set(features) <= set(features_of(cell))
    rng = np.random.default_rng([seed, T, B, I, H])
    normal = lambda *shape: rng.normal(size=shape).astype(dtype)  # noqa: E731
    G, R = GATES.get(cell, 1), max(1, H - 1) if "projection" in features else H
    biases = (None, None) if "no_bias" in features else (normal(G * H), normal(G * H))
    weights = Weights(
        normal(G * H, I),
        normal(G * H, R),
        *biases,
        weight_hr=normal(R, H) if "projection" in features else None,
        weight_ph=normal(3 * H) if "peepholes" in features else None,
        weight_ln_ih=1 + normal(G * H) / 2 if "layer_norm" in features else None,
        weight_ln_hh=1 + normal(G * H) / 2 if "layer_norm" in features else None,
    )
    options: dict[str, Any] = {}
    if "lengths" in features:
        ends = [0, T] if B > 1 else []
        between = rng.integers(min(1, T), max(min(1, T), T - 1), B - len(ends), endpoint=True)
        options["lengths"] = rng.permutation([*ends, *between]).astype(np.int64)
    if "reset" in features:
        options["reset"] = rng.random((T, B)) < 0.4
    if "reverse" in features:
        options["reverse"] = True
    noise = {}
    if "dropout" in features:
        noise["dropout"] = np.where(rng.random((B, R)) < 0.4, 0, 1 / 0.6).astype(dtype)
    if "zoneout" in features:
        noise |= {"zoneout_h": 0.3, "kept_h": rng.random((T, B, R)) < 0.3}
        if cell == "lstm":
            noise |= {"zoneout_c": 0.4, "kept_c": rng.random((T, B, H)) < 0.4}
    if noise:
        options["noise"] = Noise(**noise)
    sizes = [(B, R), (B, H)] if cell == "lstm" else [(B, R)]
    p = Problem(
        cell,
        rng.integers(0, I, size=(T, B)) if "tokens" in features else normal(T, B, I),
        tuple(normal(*size) for size in sizes),
        weights,
        normal(T, B, R),
        tuple(normal(*size) for size in sizes),
        options,
    )
    # what stands past a row's end must not matter
    p.dy[~p.there] = np.nan
    if p.x.ndim == 3:
        p.x[~p.there] = np.nan
    return p

"""Random calls of unroll and bptt of any cell and shape, for the tests of the kernels; comparisons."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from reference_problems import GATES, features_of, named

from bptt import kernels
from bptt.arrays import Noise, Weights

#: Which of the two biases there are.
BIASES = {"both": (True, True), "ih": (True, False), "hh": (False, True), "none": (False, False)}
#: Threads of the pool start with a call of more operations than this, WORK_TO_SHARE in the kernels.
WORK_TO_SHARE = 20_000_000
#: What a problem takes as options of their own, not as features.
OWN = ("tokens", "no_bias")


def extras(cell):
    """The features that a problem of this cell can have."""
    return tuple(feature for feature in features_of(cell) if feature not in OWN)


@dataclass(frozen=True)
class Problem:
    """A call of unroll and of bptt."""

    cell: str
    x: np.ndarray  # (T, B, I), NaN past a row's end; or tokens (T, B)
    state: tuple[np.ndarray, ...]  # (B, R), of an LSTM (B, H) too
    weights: Weights
    dy: np.ndarray | None  # (T, B, R), NaN past a row's end
    dfinal: tuple[np.ndarray | None, ...] | None  # like state
    options: Mapping[str, Any] = field(default_factory=dict)  # lengths, reset, reverse, noise
    depth: int | None = None

    def __repr__(self):
        """Shapes and options; problem() draws the numbers again."""
        T, B = self.x.shape[:2]
        (_, I), (_, R) = self.weights.weight_ih.shape, self.weights.weight_hh.shape
        there = [name for name, value in self.weights._asdict().items() if value is not None]
        noise = self.options.get("noise")
        noise = noise and [name for name, value in noise._asdict().items() if value is not None]
        lengths = self.options.get("lengths")
        dfinal = self.dfinal and [d is not None for d in self.dfinal]
        return (
            f"Problem({T}, {B}, {I}, {self.H}, R={R}, {self.cell}, {self.h_0.dtype}, {there}, "
            f"tokens={self.x.ndim == 2}, lengths={lengths}, {[*self.options]}, noise={noise}, "
            f"dy={self.dy is not None}, dfinal={dfinal}, depth={self.depth})"
        )

    @property
    def h_0(self):
        """Initial h (B, R)."""
        return self.state[0]

    @property
    def H(self):
        """Number of hidden units."""
        return self.weights.weight_ih.shape[0] // GATES.get(self.cell, 1)

    @property
    def there(self):
        """Where there is a step, (T, B)."""
        T, B = self.x.shape[:2]
        return np.arange(T)[:, np.newaxis] < self.options.get("lengths", np.full(B, T))


def weights_of(rng, I, H, dtype, bias="both", cell="tanh", P=None, features=()):
    """Weights as PyTorch draws them; gains of a layer normalisation about 1."""
    bound = 1 / math.sqrt(H)
    G, R = GATES.get(cell, 1), H if P is None else P
    has_ih, has_hh = BIASES[bias]
    draw = lambda *shape: rng.uniform(-bound, bound, shape).astype(dtype)  # noqa: E731
    gain = lambda: rng.uniform(0.5, 1.5, G * H).astype(dtype)  # noqa: E731
    return Weights(
        draw(G * H, I),
        draw(G * H, R),
        draw(G * H) if has_ih else None,
        draw(G * H) if has_hh else None,
        None if P is None else draw(P, H),
        draw(3 * H) if "peepholes" in features else None,
        gain() if "layer_norm" in features else None,
        gain() if "layer_norm" in features else None,
    )


def noise_of(rng, T, B, R, H, cell, dtype, features):
    """Masks of recurrent dropout and zoneout, or None."""
    noise = {}
    if "dropout" in features:
        noise["dropout"] = np.where(rng.random((B, R)) < 0.4, 0, 1 / 0.6).astype(dtype)
    if "zoneout" in features:
        noise |= {"zoneout_h": 0.3, "kept_h": rng.random((T, B, R)) < 0.3}
        if cell == "lstm":
            noise |= {"zoneout_c": 0.4, "kept_c": rng.random((T, B, H)) < 0.4}
    return Noise(**noise) if noise else None


def problem(
    T,
    B,
    I,
    H,
    *,
    cell="tanh",
    dtype=np.float64,
    bias="both",
    tokens=False,
    dy=True,
    dh_n=True,
    dc_n=True,
    depth=None,
    features=(),
    P=None,
    seed=0,
):
    """Weights as PyTorch draws them, everything else standard normal, no state zero.

    features: of `extras`. With lengths, one row has none and one has T steps. P: size of a projection, by
    default half of H.
    """
    assert set(features) <= set(extras(cell))
    rng = np.random.default_rng([seed, T, B, I, H])
    normal = lambda *shape: rng.normal(size=shape).astype(dtype)  # noqa: E731
    P = P or (max(1, H // 2) if "projection" in features else None)
    sizes = [(B, P or H), (B, H)][: 2 if cell == "lstm" else 1]
    weights = weights_of(rng, I, H, dtype, bias, cell, P, features)
    options = {}
    if "lengths" in features:
        ends = [0, T][: B // 2 * 2]
        options["lengths"] = rng.permutation([*ends, *rng.integers(0, T, B - len(ends), endpoint=True)])
        options["lengths"] = options["lengths"].astype(np.int64)
    if "reset" in features:
        options["reset"] = rng.random((T, B)) < 0.3
    if "reverse" in features:
        options["reverse"] = True
    noise = noise_of(rng, T, B, P or H, H, cell, dtype, features)
    if noise is not None:
        options["noise"] = noise
    wanted = (dh_n, dc_n)[: len(sizes)]
    p = Problem(
        cell,
        rng.integers(I, size=(T, B)) if tokens else normal(T, B, I),
        tuple(normal(*size) for size in sizes),
        weights,
        normal(T, B, P or H) if dy else None,
        tuple(normal(*size) if there else None for size, there in zip(sizes, wanted, strict=True))
        if any(wanted)
        else None,
        options,
        depth,
    )
    # what stands past a row's end must not matter
    for array in (p.x, p.dy):
        if array is not None and array.ndim == 3:
            array[~p.there] = np.nan
    return p


# ------------------------------------------------------------------------------------- calls


def forward(p, *, module: Any = kernels, threads=1, keep=True, weights=None):
    """Return y, the final state, what is saved."""
    weights = p.weights if weights is None else weights
    return module.unroll(p.cell, p.x, p.state, weights, keep=keep, threads=threads, **p.options)


def backward(p, saved, *, module: Any = kernels, threads=1):
    """Return every gradient by name; those that are not there are left out."""
    return named(*module.bptt(p.cell, saved, p.dy, p.dfinal, depth=p.depth, threads=threads))


def forward_results(p, **options):
    """Every result of the forward pass by name, and what is saved."""
    y, final, saved = forward(p, **options)
    return {"y": y} | dict(zip(("h_n", "c_n"), final, strict=False)), saved


def results(p, *, module: Any = kernels, threads=1):
    """Every result of the forward and of the backward pass by name."""
    found, saved = forward_results(p, module=module, threads=threads)
    return found | backward(p, saved, module=module, threads=threads)


# ------------------------------------------------------------------------------------- parts of a problem


def cut(array, index):
    """A contiguous part of an array that may be None."""
    return None if array is None else np.ascontiguousarray(array[index])


def widened(p):
    """The same problem in float64."""

    def wide(arrays):
        return tuple(None if a is None else a.astype(np.float64) for a in arrays)

    x, dy = wide((p.x, p.dy))
    dfinal = p.dfinal and wide(p.dfinal)
    return replace(p, x=x, state=wide(p.state), weights=Weights(*wide(p.weights)), dy=dy, dfinal=dfinal)


def error(result, wanted):
    """Largest difference, relative to the largest entry."""
    return np.abs(result - wanted).max() / np.abs(wanted).max()


def of_rows(p, rows):
    """The same problem for some rows of the batch."""
    options = dict(p.options)
    for name, index in (("lengths", rows), ("reset", (slice(None), rows))):
        if name in options:
            options[name] = cut(options[name], index)
    if "noise" in options:
        noise = options["noise"]
        options["noise"] = noise._replace(
            dropout=cut(noise.dropout, rows),
            kept_h=cut(noise.kept_h, (slice(None), rows)),
            kept_c=cut(noise.kept_c, (slice(None), rows)),
        )
    return replace(
        p,
        x=cut(p.x, (slice(None), rows)),
        state=tuple(cut(part, rows) for part in p.state),
        dy=cut(p.dy, (slice(None), rows)),
        dfinal=p.dfinal and tuple(cut(part, rows) for part in p.dfinal),
        options=options,
    )


def of_steps(p, steps, state, dfinal):
    """The same problem for some time steps, from a state and with the gradient of the last one."""
    options = dict(p.options)
    assert options.keys() <= {"noise"}
    if "noise" in options:
        noise = options["noise"]
        kept = {name: cut(getattr(noise, name), steps) for name in ("kept_h", "kept_c")}
        options["noise"] = noise._replace(**kept)
    return replace(p, x=cut(p.x, steps), state=state, dy=cut(p.dy, steps), dfinal=dfinal, options=options)


# ------------------------------------------------------------------------------------- comparison


def work(p):
    """Operations of the forward pass, as the kernels count them."""
    T, B = p.x.shape[:2]
    products = [p.weights.weight_ih, p.weights.weight_hh, p.weights.weight_hr]
    return 2 * T * B * sum(w.size for w in products if w is not None)


def tolerances(p):
    """Of float64, and of float32 by the root of the sums' length: see `close`.

    A normalised row of which little but rounding is left, since its entries are nearly the same, takes the
    wider bounds; for one of fewer than 8 numbers no bound holds.
    """
    if p.weights.weight_ln_ih is None:
        return {"double": 2e-14, "single": 5e-7}
    return {"double": 1e-12, "single": 2e-6}


def addends(p):
    """How many products are added up on the longest way to an entry of a result."""
    T, B = p.x.shape[:2]
    GH, R = p.weights.weight_hh.shape
    return {"forward": p.weights.weight_ih.shape[1] + R, "state": T * GH, "parameter": T * B + T * GH}


def close(name, actual, expected, K, *, double=2e-14, single=5e-7, added=0.0):
    """Equal to rounding: relative to the largest entry; float32 grows with the root of the sums' length.

    added: size of what was added up, where there are so few entries that all of them may have cancelled.
    """
    assert actual.shape == np.shape(expected), name
    unit = double if actual.dtype == np.float64 else single * math.sqrt(max(K, 1))
    error = np.abs(actual.astype(np.float64) - expected).max(initial=0.0)
    # of numbers under the smallest normal one digits are lost
    bound = max(unit * np.abs(expected).max(initial=added), float(np.finfo(actual.dtype).tiny))
    # not (error <= bound): a NaN must fail
    assert error <= bound, f"{name}: off by {error}, {bound} allowed"


def check_forward(p, actual, expected, *, added=0.0):
    assert actual.keys() == expected.keys()
    for name, value in actual.items():
        close(name, value, expected[name], addends(p)["forward"], **tolerances(p), added=added)


def check_gradients(p, actual, expected, *, added=0.0):
    K = addends(p)
    assert actual.keys() == expected.keys()
    for name, value in actual.items():
        kind = "state" if name in ("x", "h_0", "c_0") else "parameter"
        close(name, value, expected[name], K[kind], **tolerances(p), added=added)


def same(actual, expected):
    """The same bits, NaN and the sign of zero included."""
    assert actual.dtype == expected.dtype
    assert actual.shape == expected.shape
    return np.ascontiguousarray(actual).tobytes() == np.ascontiguousarray(expected).tobytes()


def differing(actual, expected):
    """Names of the results whose bits differ."""
    assert actual.keys() == expected.keys()
    return [name for name, value in actual.items() if not same(value, expected[name])]

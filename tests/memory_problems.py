"""Random layers and passes for the tests of checkpointed passes."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import bptt

KINDS = {"rnn": bptt.RNN, "lstm": bptt.LSTM, "gru": bptt.GRU}
#: T, B: several chunks of the kernels' sums, steps that are a chunk each, one step, none, no rows.
SHAPES = [(40, 20), (300, 3), (9, 300), (600, 1), (70, 8), (1, 3), (0, 2), (5, 0)]
#: For the reference, where each step may be cut off.
SMALL = [(9, 2), (5, 1), (12, 3), (0, 2)]


@dataclass
class Problem:
    """A layer, and the arguments of ``record`` and ``backward`` in its layout."""

    layer: Any
    x: Any
    h_0: Any
    dy: Any
    dh_n: Any
    options: dict[str, Any]

    def record(self, **options: Any) -> Any:
        return self.layer.record(self.x, self.h_0, **self.options, **options)

    def least(self, **options: Any) -> int:
        """Return the smallest budget."""
        return least_memory(self.record, **options)


def least_memory(record: Callable[..., Any], *arguments: Any, **options: Any) -> int:
    """Return the smallest budget for a pass, which the error names."""
    try:
        record(*arguments, memory=1, **options)
    except ValueError as error:
        return int(str(error).removeprefix("memory: expected at least ").split()[0])
    raise AssertionError("one byte was enough")


def make(seed: int, backend: str = "kernels") -> Problem:
    """Draw a problem."""
    draw, rng = random.Random(seed), np.random.default_rng(seed)
    maybe = lambda p: draw.random() < p  # noqa: E731
    kind, L = draw.choice(list(KINDS)), draw.choice([1, 1, 2, 3])
    o: dict[str, Any] = {"num_layers": L, "bidirectional": maybe(0.4), "batch_first": maybe(0.3)}
    o |= {"layer_norm": maybe(0.2), "bias": maybe(0.8), "seed": seed, "backend": backend}
    o["dtype"] = np.float64 if backend == "reference" else draw.choice([np.float32, np.float64])
    o["dropout"] = 0.3 if L > 1 and maybe(0.5) else 0.0
    o["recurrent_dropout"] = 0.3 if maybe(0.3) else 0.0
    o["zoneout"] = ((0.2, 0.1) if kind == "lstm" else 0.2) if maybe(0.3) else 0.0
    if kind == "lstm":
        o |= {"proj_size": 3 if maybe(0.3) else 0, "peepholes": maybe(0.3)}
    elif kind == "gru" and maybe(0.3):
        o |= {"reset_after": False, "layer_norm": False}
    elif kind == "rnn":
        o["nonlinearity"] = draw.choice(["tanh", "relu", "sigmoid", "identity"])
    I, H = draw.choice([(3, 5), (4, 17)])
    T, B = draw.choice(SMALL if backend == "reference" else SHAPES)
    batched = B == 0 or not maybe(0.15)
    B = B if batched else 1
    layer = KINDS[kind](I, H, **o)
    normal = lambda *shape: rng.normal(size=shape).astype(o["dtype"])  # noqa: E731
    units, R = L * (2 if o["bidirectional"] else 1), o.get("proj_size") or H

    def state() -> Any:
        parts = [normal(units, B, R), normal(units, B, H)][: 2 if kind == "lstm" else 1]
        parts = parts if batched else [part[:, 0] for part in parts]
        return tuple(parts) if len(parts) == 2 else parts[0]

    def over_time(a: Any) -> Any:
        if not batched:
            return a[:, 0]
        return np.ascontiguousarray(a.swapaxes(0, 1)) if o["batch_first"] else a

    x = rng.integers(0, I, (T, B)) if maybe(0.25) else normal(T, B, I)
    options: dict[str, Any] = {"seed": 7, "outputs": draw.choice(["all", "all", "last"])}
    if maybe(0.5):
        lengths = rng.integers(0, T + 1, B)
        options["lengths"] = lengths if batched else int(lengths[0])
    if maybe(0.4):
        options["reset"] = over_time(rng.random((T, B)) < 0.05)
    h_0 = state() if maybe(0.7) else None
    dh_n = state() if maybe(0.6) else None
    if isinstance(dh_n, tuple) and maybe(0.3):
        dh_n = (dh_n[0], None)
    dy = None
    if dh_n is None or maybe(0.8):
        last = normal(B, layer.output_size)
        whole = over_time(normal(T, B, layer.output_size))
        dy = whole if options["outputs"] == "all" else last if batched else last[0]
    return Problem(layer, over_time(x), h_0, dy, dh_n, options)

"""Configurations of recurrent layers, and one pass of them here and in PyTorch."""

from __future__ import annotations

import itertools
import random
from typing import Any, NamedTuple

import numpy as np

import bptt

#: Layers of PyTorch: the class and its own options.
LAYERS: dict[str, tuple[str, dict[str, Any]]] = {
    "tanh": ("RNN", {"nonlinearity": "tanh"}),
    "relu": ("RNN", {"nonlinearity": "relu"}),
    "lstm": ("LSTM", {}),
    "projected": ("LSTM", {"proj_size": ...}),
    "gru": ("GRU", {}),
}
#: T, B, I, H: one of everything, multiples of nothing, whole vectors, several blocks of the backward pass.
SHAPES = [
    (1, 1, 1, 2),
    (3, 2, 4, 3),
    (7, 3, 5, 4),
    (12, 9, 17, 33),
    (5, 2, 40, 16),
    (70, 5, 3, 19),
    (4, 50, 8, 40),
]
#: Every option and its values.
CHOICES: dict[str, tuple[Any, ...]] = {
    "layer": tuple(LAYERS),
    "shape": tuple(SHAPES),
    "num_layers": (1, 2, 3),
    "bidirectional": (False, True),
    "bias": (True, False),
    "batch": ("time first", "batch first", "none"),
    "lengths": (False, True),
    "state": (True, False),
    "dtype": ("float32", "float64"),
}


class Configuration(NamedTuple):
    """One of each of `CHOICES`, and a seed."""

    layer: str
    shape: tuple[int, int, int, int]
    num_layers: int
    bidirectional: bool
    bias: bool
    batch: str
    lengths: bool
    state: bool
    dtype: str
    seed: int


def label(c: Configuration) -> str:
    """Return a configuration in a line."""
    there = [name for name in ("bidirectional", "bias", "lengths", "state") if getattr(c, name)]
    return f"{c.layer}-{c.shape}-{c.num_layers}-{'-'.join(there)}-{c.batch}-{c.dtype}-{c.seed}"


def possible(choice: dict[str, Any]) -> bool:
    """Whether PyTorch has it: no lengths for an unbatched sequence."""
    return not (choice.get("batch") == "none" and choice.get("lengths"))


def pairs() -> set[frozenset[tuple[str, Any]]]:
    """Every pair of values of two options that go together."""
    found = set()
    for (a, values_a), (b, values_b) in itertools.combinations(CHOICES.items(), 2):
        for pair in itertools.product(values_a, values_b):
            if possible(dict(zip((a, b), pair, strict=True))):
                found.add(frozenset(zip((a, b), pair, strict=True)))
    return found


def configurations(count: int) -> list[Configuration]:
    """Draw so many different ones."""
    source = random.Random(4)
    found: dict[tuple[Any, ...], Configuration] = {}
    while len(found) < count:
        choice = {name: source.choice(values) for name, values in CHOICES.items()}
        if possible(choice):
            found[tuple(choice.values())] = Configuration(**choice, seed=len(found))
    return list(found.values())


def covered(chosen: list[Configuration]) -> set[frozenset[tuple[str, Any]]]:
    """The pairs of values that are in one of these configurations."""
    found = set()
    for configuration in chosen:
        options = [(name, getattr(configuration, name)) for name in CHOICES]
        found |= {frozenset(pair) for pair in itertools.combinations(options, 2)}
    return found


class Both(NamedTuple):
    """The same layer and the same arrays for both sides, in the layout of the configuration."""

    ours: Any
    theirs: Any
    x: np.ndarray
    state: tuple[np.ndarray, ...]  # h_0, of an LSTM c_0 too
    dy: np.ndarray
    dfinal: tuple[np.ndarray, ...]
    lengths: np.ndarray | None
    addends: int  # on the longest way to an entry of a result


def both(torch: Any, c: Configuration) -> Both:
    """Make a layer of PyTorch's and one of ours with its parameters, and draw the arrays."""
    T, B, I, H = c.shape
    name, options = LAYERS[c.layer]
    P = max(1, H // 2) if "proj_size" in options else H
    options = {option: P if value is ... else value for option, value in options.items()}
    options |= {"num_layers": c.num_layers, "bidirectional": c.bidirectional, "bias": c.bias}
    options["batch_first"] = c.batch == "batch first"
    torch.manual_seed(c.seed)
    theirs = getattr(torch.nn, name)(I, H, dtype=getattr(torch, c.dtype), **options)
    ours = getattr(bptt, name)(I, H, dtype=c.dtype, **options)
    ours.load_state_dict({key: value.numpy() for key, value in theirs.state_dict().items()})

    rng = np.random.default_rng(c.seed)
    D = 2 if c.bidirectional else 1
    rows = {"time first": (T, B), "batch first": (B, T), "none": (T,)}[c.batch]
    units = (c.num_layers * D,) if c.batch == "none" else (c.num_layers * D, B)
    states = [(*units, P), (*units, H)][: 2 if name == "LSTM" else 1]
    normal = lambda shape: rng.normal(size=shape).astype(c.dtype)  # noqa: E731
    return Both(
        ours,
        theirs,
        normal((*rows, I)),
        tuple(normal(shape) for shape in states),
        normal((*rows, D * P)),
        tuple(normal(shape) for shape in states),
        rng.integers(1, T, B, endpoint=True) if c.lengths else None,
        T * len(ours.parameters["weight_ih_l0"]) + T * B + I,
    )


def our_results(q: Both, with_state: bool) -> dict[str, np.ndarray]:
    """Outputs, final states and gradients by name."""
    pair = len(q.state) == 2
    state = (q.state if pair else q.state[0]) if with_state else None
    y, final, tape = q.ours.record(q.x, state, lengths=q.lengths)
    gradients = tape.backward(q.dy, q.dfinal if pair else q.dfinal[0])
    parts = dict(zip(("h_n", "c_n"), final if pair else (final,), strict=False))
    found = {"y": y, "x": gradients.x, **parts, **gradients.parameters}
    if with_state:
        found |= {"h_0": gradients.h_0} | ({"c_0": gradients.c_0} if pair else {})
    return found


def their_results(torch: Any, q: Both, with_state: bool) -> dict[str, np.ndarray]:
    """The same of PyTorch, ragged batches by way of a PackedSequence."""
    rnn = torch.nn.utils.rnn
    pair, batch_first = len(q.state) == 2, q.theirs.batch_first
    x, *state = (torch.from_numpy(a.copy()).requires_grad_() for a in (q.x, *q.state))
    given = x
    if q.lengths is not None:
        lengths = torch.from_numpy(q.lengths)
        given = rnn.pack_padded_sequence(x, lengths, batch_first=batch_first, enforce_sorted=False)
    y, final = q.theirs(given, (tuple(state) if pair else state[0]) if with_state else None)
    if q.lengths is not None:
        total = q.x.shape[1 if batch_first else 0]
        y, _ = rnn.pad_packed_sequence(y, batch_first=batch_first, total_length=total)
    final = final if pair else (final,)
    torch.autograd.backward([y, *final], [torch.from_numpy(d) for d in (q.dy, *q.dfinal)])
    found = {"y": y, "x": x.grad} | dict(zip(("h_n", "c_n"), final, strict=False))
    found |= {name: parameter.grad for name, parameter in q.theirs.named_parameters()}
    if with_state:
        found |= dict(zip(("h_0", "c_0"), (part.grad for part in state), strict=False))
    return {name: tensor.detach().numpy() for name, tensor in found.items()}

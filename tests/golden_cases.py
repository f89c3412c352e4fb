"""Loads the golden values into arrays in PyTorch's layout.

The files hold decimal strings of 25 significant digits (computed in 60-digit arithmetic) and write weights
as row = from, column = to. Here every matrix stands as PyTorch has it, row = to: ``W_xh`` (H, I), ``W_hh``
(H, H), ``W_hy`` (O, H), under the files' own keys. Everything else keeps its shape.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bptt.arrays import Array, Weights

FOLDER = Path(__file__).parent / "golden"
#: Symbolic: exponents, and no numbers to run.
SYMBOLIC = "seed004_unrolling_exponents"
FILES = sorted(path.stem for path in FOLDER.glob("*.json"))
#: Names of the cases that can be run.
CASES = [name for name in FILES if name != SYMBOLIC]

#: Matrices that the files write as row = from.
TRANSPOSED = ("W_xh", "W_hh", "W_hy")


@dataclass(frozen=True)
class Case:
    """One golden case, in float64 and PyTorch's layout."""

    name: str
    cell: str  # tanh, relu, sigmoid, identity
    readout: str  # identity, sigmoid, softmax
    loss: str  # residual, ssr, bce, cross_entropy
    x: Array  # (T, B, I)
    h_0: Array  # (B, H)
    weights: Weights  # bias_ih is the file's b_h, bias_hh is zero
    W_hy: Array  # (O, H)
    b_y: Array  # (O,)
    targets: Array  # (T, B, O), or (B, O) when many_to_one
    many_to_one: bool  # the loss stands at step T alone
    learning_rate: float
    trainable: tuple[str, ...]
    expected: dict[str, Any]  # arrays, floats and nested dicts of them, under the file's keys


def parse(node: Any, key: str = "") -> Any:
    """Turn decimal strings into floats, nested lists of them into float64 arrays, the rest as it is."""
    if isinstance(node, dict):
        return {k: parse(v, k) for k, v in node.items()}
    if isinstance(node, list):
        if node and _first_leaf_is_dict(node):
            return [parse(v, key) for v in node]
        array = _numbers(node)
        if array is None:
            return node
        transposed = array.T if key in TRANSPOSED and array.ndim == 2 else array
        return np.ascontiguousarray(transposed)
    if isinstance(node, str):
        number = _number(node)
        return node if number is None else number
    return node


def _first_leaf_is_dict(node: Any) -> bool:
    while isinstance(node, list) and node:
        node = node[0]
    return isinstance(node, dict)


def _number(text: str) -> float | None:
    """Parse a decimal string; None for prose."""
    if not text.lstrip("-")[:1].isdigit():
        return None
    return float(text)


def _numbers(node: list[Any]) -> Array | None:
    """Parse nested lists of decimal strings exactly; None when they hold something else."""
    words = np.array(node)
    if words.dtype.kind != "U":
        return None
    numbers = [_number(word) for word in words.ravel().tolist()]
    if any(number is None for number in numbers):
        return None
    return np.array(numbers, dtype=np.float64).reshape(words.shape)


def read(name: str) -> dict[str, Any]:
    """Return one golden file as it is."""
    data: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return data


def load(name: str) -> Case:
    """Return one runnable golden case."""
    raw = read(name)
    weights = parse(raw["weights"])
    return Case(
        name=name,
        cell=raw["activation"],
        readout=raw["readout"],
        loss=raw["loss"],
        x=parse(raw["inputs"]),
        h_0=parse(raw["initial_state"]),
        weights=Weights(weights["W_xh"], weights["W_hh"], weights["b_h"], np.zeros_like(weights["b_h"])),
        W_hy=weights["W_hy"],
        b_y=weights["b_y"],
        targets=parse(raw["targets"]),
        many_to_one=raw["system"] == "many-to-one",
        learning_rate=float(raw["learning_rate"]),
        trainable=tuple(raw["trainable"]),
        expected=parse(raw["expected"]),
    )

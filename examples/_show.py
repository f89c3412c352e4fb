"""What the examples share: golden values, checks against them, tables, and the brackets of the chain rule."""

from __future__ import annotations

import argparse
import json
import re
import sys
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import bptt
from bptt import reference
from bptt.arrays import Weights

GOLDEN = Path(__file__).resolve().parent.parent / "tests" / "golden"
TOLERANCE = 1e-12
NUMBER = re.compile(r"-?\d+(\.\d+)?([eE][-+]?\d+)?")


class Golden:
    """One golden file: `golden["expected.loss"]` reads a value, `golden.check(...)` compares with it.

    The files hold decimal strings computed with sixty digits. They write weights as "row = from,
    column = to"; the package's parameters are the transposes, so the scripts pass `weight.T`.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.checked = 0
        self.data = _numbers(json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8")))

    def __getitem__(self, path: str) -> Any:
        value = self.data
        for key in path.split("."):
            value = value[key]
        return value

    def check(self, what: str, got: Any, path: str) -> None:
        """Compare `got` with the value at `path`; leave with a message when they differ."""
        self.compare(what, got, self[path])

    def compare(self, what: str, got: Any, expected: Any) -> None:
        """Compare `got` with `expected`: the absolute error, or the relative one for entries above 1."""
        got, expected = np.asarray(got), np.asarray(expected)
        if got.shape != expected.shape:
            sys.exit(f"{self.name}: {what}: expected shape {expected.shape}, got {got.shape}")
        off = np.abs(got - expected) / np.maximum(1, np.abs(expected))
        if not np.all(off <= TOLERANCE):  # also catches NaN
            sys.exit(f"{self.name}: {what}: expected {expected.tolist()}, got {got.tolist()}")
        self.checked += got.size

    def done(self) -> None:
        """Say how many numbers were compared."""
        print(f"\n[{self.name}: {self.checked} numbers agree with the golden values to {TOLERANCE:g}]")


def _numbers(value: Any) -> Any:
    """Turn decimal strings into floats, and nested lists of them into float64 arrays."""
    if isinstance(value, dict):
        return {key: _numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        items = [_numbers(item) for item in value]
        return np.array(items) if items and all(isinstance(i, float | np.ndarray) for i in items) else items
    return float(value) if isinstance(value, str) and NUMBER.fullmatch(value) else value


def title(text: str) -> None:
    """Print a heading."""
    print(f"\n{text}\n{'-' * len(text)}")


def note(text: str) -> None:
    """Print a remark, in lines of at most a hundred characters."""
    print(textwrap.fill(text, width=100, initial_indent="  ", subsequent_indent="  "))


def show(name: str, value: Any, remark: str = "") -> None:
    """Print one named number, vector or matrix, with an optional remark at the end of its first line."""
    value = np.asarray(value, dtype=np.float64)
    rows = value.reshape(-1, value.shape[-1]) if value.ndim else value.reshape(1, 1)
    for i, row in enumerate(rows):
        numbers = " ".join(f"{number + 0.0:13.9f}" for number in row)  # + 0.0 prints -0 as 0
        print(f"  {name if i == 0 else '':<34} {numbers}   {remark if i == 0 else ''}".rstrip())


def table(header: Sequence[str], rows: Iterable[Sequence[Any]], digits: int = 9) -> None:
    """Print rows of text and numbers in columns."""
    lines = [[f"{c + 0.0:.{digits}f}" if isinstance(c, float) else str(c) for c in row] for row in rows]
    widths = [max(len(line[i]) for line in [list(header), *lines]) for i in range(len(header))]
    for line in [list(header), *lines]:
        print("  " + "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))


def brackets(
    rnn: bptt.RNN, x: np.ndarray, dy: np.ndarray, h_0: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Every term of dL/dθ = Σ_i Σ_{k≤i} term_θ(i, k), from the pure-Python reference.

    Parameters
    ----------
    rnn : the layer.
    x : (T, B, I) input.
    dy : (T, B, H) gradient of the loss with respect to each step's output, through the readout only;
        or (B, H), that of the last step, when no other has an output.
    h_0 : (B, H) initial state, zeros by default.

    Returns
    -------
    dict
        "W_xh" (T, T, I, H), "W_hh" (T, T, H, H) and "b_h" (T, T, H), as in the golden files: [i, k] is the
        loss of step i+1 reaching the copy of the parameter used at step k+1, zero for k > i.
    """
    if dy.ndim == 2:
        dy = np.concatenate([np.zeros((len(x) - 1, *dy.shape)), dy[np.newaxis]])
    p = rnn.parameters
    weights = Weights(p["weight_ih_l0"], p["weight_hh_l0"], p.get("bias_ih_l0"), p.get("bias_hh_l0"))
    state = np.zeros((x.shape[1], rnn.hidden_size), dtype=x.dtype) if h_0 is None else h_0
    _, _, saved = reference.unroll(rnn.nonlinearity, x, (state,), weights)
    terms = reference.terms(rnn.nonlinearity, saved, dy)
    result = {"W_xh": terms["weight_ih"].swapaxes(2, 3), "W_hh": terms["weight_hh"].swapaxes(2, 3)}
    if rnn.bias:
        result["b_h"] = terms["bias_ih"]
    return result


def check_brackets(golden: Golden, terms: dict[str, np.ndarray]) -> None:
    """Compare each bracket with the golden one."""
    for term in golden["expected.terms"]:
        for name, values in terms.items():
            what = f"bracket of {name} for i = {term['i']}, k = {term['k']}"
            golden.compare(what, values[term["i"] - 1, term["k"] - 1], term[name])


def arguments(description: str | None, *, notes: bool = True, **extra: dict[str, Any]) -> argparse.Namespace:
    """Parse the command line every example has, `extra` adding options; say what "E-..." means."""
    parser = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    parser.add_argument(
        "--backend",
        choices=("kernels", "reference"),
        default="kernels",
        help="compiled kernels or the pure-Python reference (slow), default %(default)s",
    )
    parser.add_argument("--quick", action="store_true", help="train less in the second part")
    for name, options in extra.items():
        parser.add_argument(f"--{name}", **options)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(encoding="utf-8")  # the notes' symbols, whatever the terminal says
    options = parser.parse_args()
    if notes:
        note("Numbers such as E-001-3 are errata of the notes, listed in docs/equations.md.")
    return options

"""The implementations, by name.

NumPy and bptt must be there.  The others are optional: one that isn't installed is reported as absent, with
the reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import Any

from bptt.benchmark import machine
from bptt.benchmark.peers.base import Implementation
from bptt.benchmark.rows import Row

#: Those the best peer is chosen from.
PEERS = ("numpy", "torch", "onnxruntime", "jax")
#: Our own: called with the run's number of threads, frozen, with one thread, with the default, without the
#: option that the row is about; the reference.
OWN = ("bptt", "bptt-frozen", "bptt-1-thread", "bptt-default-threads", "bptt-without-option", "reference")
NAMES = PEERS + OWN

# name -> (module of this package, distributions without which it is absent)
_MODULES: dict[str, tuple[str, frozenset[str]]] = {
    "numpy": ("with_numpy", frozenset()),
    "torch": ("with_torch", frozenset({"torch"})),
    "onnxruntime": ("with_onnxruntime", frozenset({"onnxruntime", "onnx"})),
    "jax": ("with_jax", frozenset({"jax", "jaxlib"})),
    **{name: ("with_bptt", frozenset()) for name in OWN},
}


def for_row(row: Row, names: Iterable[str]) -> list[str]:
    """Choose out of ``names`` those that a row compares: of our own only those that it asks for."""
    ours = {"bptt", "reference", row.ours, row.over} | ({"bptt-1-thread"} if row.threads > 1 else set())
    return [name for name in names if name in PEERS or name in ours]


def load(
    names: Iterable[str] = NAMES, *, strict: bool = True
) -> tuple[dict[str, Implementation], dict[str, str]]:
    """Import the implementations.

    Parameters
    ----------
    names : iterable of str
        Which.
    strict : bool
        Raise if an optional one is installed and fails to import; otherwise it is absent too.

    Returns
    -------
    found : dict
        Name to implementation, in the order of ``names``.
    absent : dict
        Name to the reason, for those not installed.
    """
    found: dict[str, Implementation] = {}
    absent: dict[str, str] = {}
    for name in names:
        module, optional = _MODULES[name]
        try:
            implementations = import_module(f"bptt.benchmark.peers.{module}").IMPLEMENTATIONS
        except Exception as error:
            missing = isinstance(error, ModuleNotFoundError) and error.name in optional
            if not missing and (strict or not optional):
                raise
            absent[name] = str(error) if missing else brief(error)
        else:
            found[name] = implementations[name]
    return found, absent


def brief(error: Exception) -> str:
    """Give the kind and the first line of an error."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


def plan(
    rows: Iterable[Row], found: Mapping[str, Implementation]
) -> tuple[list[tuple[Row, str]], Counter[str]]:
    """List what is to be run, and count what is refused.

    Returns
    -------
    cases : list
        (row, name), the names varying fastest.
    refused : Counter
        "name: reason" to the number of rows.
    """
    cases = []
    refused: Counter[str] = Counter()
    for row in rows:
        for name in for_row(row, found):
            reason = found[name].refuses(row.task)
            if reason is None:
                cases.append((row, name))
            else:
                refused[f"{name}: {reason}"] += 1
    return cases, refused


def account(
    found: Mapping[str, Implementation], absent: Mapping[str, str], refused: Mapping[str, int]
) -> dict[str, Any]:
    """Say on what machine, with which versions, and what was not run and why."""
    return {
        "machine": machine.describe(),
        "versions": {name: found[name].version for name in (*PEERS, "bptt") if name in found},
        "absent": dict(absent),
        "refused": dict(refused),
    }

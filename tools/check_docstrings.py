"""Tell whether what the package offers is documented: each parameter, each result, as numpydoc reads them.

python tools/check_docstrings.py     needs numpydoc, and the package installed
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Iterator

from numpydoc.validate import validate

import bptt

MODULES = ("bptt", "bptt.flow", "bptt.plots")
#: No docstring, no summary, parameters that are missing or unknown, results or yields that are.
CHECKS = {"GL08", "SS01", "PR01", "PR02", "RT01", "YD01"}
#: Made by the package, not by its users: the docstring says what it offers, not how it is made.
MADE = {"FrozenRNN", "FrozenLSTM", "FrozenGRU", "Gradients", "GradientFlow", "JacobianProducts", "Tape"}


def offered() -> Iterator[tuple[str, object]]:
    """Yield the public functions and classes, and the methods of these, by their dotted names."""
    for module in MODULES:
        loaded = importlib.import_module(module)
        # plots has no list: it offers what it defines
        own = [name for name, value in vars(loaded).items() if getattr(value, "__module__", "") == module]
        for name in sorted(getattr(loaded, "__all__", own)):
            value = getattr(loaded, name)
            if name.startswith("_") or not (inspect.isclass(value) or inspect.isfunction(value)):
                continue
            yield f"{module}.{name}", value
            if inspect.isclass(value):
                for method, function in inspect.getmembers(value, inspect.isfunction):
                    if not method.startswith("_"):
                        yield f"{module}.{name}.{method}", function


def main() -> int:
    """Print what is wrong and return 1, or how many names were looked at."""
    names = [name for name, _ in offered()]
    wrong = 0
    for name in names:
        for code, message in validate(name)["errors"]:
            made = code == "PR01" and name.rsplit(".", 1)[1] in MADE
            if code in CHECKS and not made:
                print(f"{name}: {code} {message}")
                wrong += 1
    print(f"{len(names)} names of {bptt.__name__} {bptt.__version__}, {wrong} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

"""What one implementation offers the suite."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bptt.benchmark.problem import Problem, Run
from bptt.benchmark.rows import Shape


def _refuses_nothing(case: str, shape: Shape, dtype: str) -> str | None:
    return None


@dataclass(frozen=True)
class Implementation:
    """A name, a version, a maker of runs, and what is not to be asked of it.

    ``build(problem, threads)`` makes a run ready, with everything done that a user would do once.
    ``refuses(case, shape, dtype)`` gives the reason why a problem can't be run, or None.
    """

    name: str
    version: str
    build: Callable[[Problem, int], Run]
    refuses: Callable[[str, Shape, str], str | None] = _refuses_nothing

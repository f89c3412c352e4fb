"""What one implementation offers the suite."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bptt.benchmark.problem import Problem, Run
from bptt.benchmark.rows import Task


def _refuses_nothing(task: Task) -> str | None:
    return None


def refuses_setups(task: Task) -> str | None:
    """Refuse all but one layer in one direction without options."""
    return None if task.setup == "plain" else "one layer in one direction, without options"


@dataclass(frozen=True)
class Implementation:
    """A name, a version, a maker of runs, and what is not to be asked of it.

    ``build(problem, threads)`` makes a run ready, with everything done that a user would do once.
    ``refuses(task)`` gives the reason why a problem can't be run, or None.
    """

    name: str
    version: str
    build: Callable[[Problem, int], Run]
    refuses: Callable[[Task], str | None] = _refuses_nothing

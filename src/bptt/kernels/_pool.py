"""The threads that help a call: daemon threads, started when a call first wants one, none at import.

A call never waits for a thread to *start*: its items are claimed one by one (see _job.pxi), and the caller
works through them too, so a helper that comes late or never only makes the call slower.  That is also what
makes the pool safe to share between calls from many Python threads, and to lose in a fork.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from queue import SimpleQueue

_lock = threading.Lock()
_tasks: SimpleQueue[Callable[[], None]] = SimpleQueue()
_started = 0


def _work(tasks: SimpleQueue[Callable[[], None]]) -> None:
    while True:
        # no name keeps the task (and its arrays) alive while this thread waits for the next one
        tasks.get()()


def submit(task: Callable[[], None], helpers: int) -> None:
    """Ask up to `helpers` threads to run `task`; starts threads that are not there yet."""
    if _started < helpers:
        with _lock:
            _start(helpers)
    for _ in range(min(helpers, _started)):
        _tasks.put(task)


def _start(helpers: int) -> None:
    global _started
    while _started < helpers:
        try:
            threading.Thread(target=_work, args=(_tasks,), name="bptt", daemon=True).start()
        except RuntimeError:
            # no more threads to be had, or the interpreter is ending: the caller does the work
            return
        _started += 1


def _forget() -> None:
    """In the child of a fork there are no helper threads: start anew on first use."""
    global _lock, _tasks, _started
    _lock = threading.Lock()
    _tasks = SimpleQueue()
    _started = 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)

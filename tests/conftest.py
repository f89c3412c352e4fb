"""Fixtures that several test files share."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

import numpy as np
import pytest
from bench_scripts import BENCH
from hypothesis import settings
from thresholds import EVERYWHERE

from bptt import kernels

# The same examples in every run; a loaded machine is not a failure.
settings.register_profile("bptt", derandomize=True, deadline=None, database=None)
settings.load_profile("bptt")

if kernels.amx:
    kernels.use_amx(True, **EVERYWHERE)

# A shell without job control starts what goes into the background with Ctrl-C ignored.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(params=["reference", "kernels"])
def backend(request: pytest.FixtureRequest) -> str:
    """Each implementation of the ground floor."""
    return str(request.param)


@pytest.fixture(params=[np.float32, np.float64], ids=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> type:
    """Each precision."""
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Any]]:
    """Give a function that imports a script of the bench, which is forgotten after the test."""
    monkeypatch.syspath_prepend(str(BENCH))
    before = set(sys.modules)
    yield import_module
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(BENCH)):
            del sys.modules[name]

"""Fixtures that several test files share."""

from __future__ import annotations

import signal

import numpy as np
import pytest
from hypothesis import settings

# The same examples in every run; a loaded machine is not a failure.
settings.register_profile("bptt", derandomize=True, deadline=None, database=None)
settings.load_profile("bptt")

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

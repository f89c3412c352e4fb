"""What the tests of error messages share."""

from __future__ import annotations

import re

import numpy as np
import pytest

F4, F8 = np.float32, np.float64


def raises(error, message):
    """Expect exactly this message."""
    return pytest.raises(error, match=f"^{re.escape(message)}$")


def zeros(*shape, dtype=F4):
    return np.zeros(shape, dtype)

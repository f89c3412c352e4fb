"""tanh, sigmoid and exp at every float32 value; minutes long, run it with -m slow."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
from ulp import FUNCTIONS, ULP, errors, rounded, wide

from bptt import kernels


@pytest.fixture(params=sorted({kernels.module_name(name) for name in kernels.available()}))
def variant(request):
    return importlib.import_module(request.param)


@pytest.mark.slow
@pytest.mark.parametrize("function", FUNCTIONS)
def test_all_float32(function, variant):
    worst, at = 0.0, 0.0
    for start in range(0, 1 << 32, 1 << 22):
        x = np.arange(start, start + (1 << 22), dtype=np.uint32).view(np.float32)
        x = x[np.isfinite(x)]
        if x.size == 0:
            continue
        ulps = errors(variant.elementwise(function, x), *rounded(wide(function, x)))
        n = int(ulps.argmax())
        if ulps[n] > worst:
            worst, at = float(ulps[n]), float(x[n])
    print(f"{function} {variant.__name__}: {worst} ULP at {at.hex()}")
    assert worst <= ULP

"""The compiled kernels where there is nothing to do, sizes are odd, or numbers are not finite."""

from __future__ import annotations

import itertools
import math
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import numpy_cells
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_problems import (
    backward,
    check_forward,
    check_gradients,
    extras,
    forward_results,
    of_rows,
    problem,
    results,
    same,
)
from kernel_strategies import problems

from bptt import kernels, reference

pytestmark = pytest.mark.kernels


# ------------------------------------------------------------------------------------- nothing to do


@pytest.mark.parametrize("cell", kernels.CELLS)
@pytest.mark.parametrize("tokens", [False, True])
@pytest.mark.parametrize(("T", "B"), [(0, 3), (3, 0), (0, 0)])
@pytest.mark.parametrize("depth", [None, 1])
def test_nothing(T, B, depth, tokens, cell, dtype):
    for features in ((), extras(cell)):
        p = problem(T, B, 4, 6, cell=cell, dtype=dtype, tokens=tokens, depth=depth, features=features)
        check_nothing(p)


@pytest.mark.parametrize("cell", kernels.CELLS)
def test_rows_without_steps(cell, dtype):
    for features in (("lengths",), extras(cell)):
        p = problem(3, 5, 4, 6, cell=cell, dtype=dtype, features=features)
        p.options["lengths"][:] = 0
        for array in (p.x, p.dy):
            array[...] = math.nan
        check_nothing(p)


def check_nothing(p):
    """No output but zeros; what is carried passes through."""
    actual, saved = forward_results(p)
    assert actual["y"].shape == (*p.x.shape[:2], p.h_0.shape[1])
    gradients = backward(p, saved)
    for n, (final, initial) in enumerate((("h_n", "h_0"), ("c_n", "c_0"))):
        if final in actual:
            value = actual.pop(final)
            assert same(value, p.state[n])
            assert not np.shares_memory(value, p.state[n])
            assert same(gradients.pop(initial), p.dfinal[n])
    assert ("x" in gradients) == (p.x.ndim == 3)
    for name, value in (actual | gradients).items():
        assert value.dtype == p.h_0.dtype
        assert not value.any(), name


@pytest.mark.parametrize(
    ("call", "others"),
    [
        (kernels.bptt, (None, None)),
        (kernels.step_back, (0, np.zeros((1, 1, 1)))),
        (kernels.walk, (np.zeros((1, 1, 1)), None, 1, None, None, None, None)),
        (kernels.short_call, (np.zeros((1, 1, 1)), None)),
        (kernels.step_seconds, (None,)),
    ],
)
def test_none_in_place_of_what_the_kernels_have_made(call, others):
    """An error instead of a look at memory that is none of theirs."""
    with pytest.raises(TypeError, match="got NoneType"):
        call(*(["tanh"] if call is kernels.bptt else []), None, *others)


# ------------------------------------------------------------------------------------- odd sizes


@pytest.mark.parametrize("cell", kernels.CELLS)
def test_odd_sizes(cell, dtype):
    """Every number of rows up to two vectors of the widest kind and a bit, the smallest sizes of all else."""
    own = [feature for feature in extras(cell) if feature != "layer_norm"]
    choices = [(), own, [feature for feature in own if feature != "lengths"]]
    for B, T in itertools.product(range(1, 68), range(4)):
        H, I, features = 1 + (B + T) % 3, 1 + B % 2, choices[(B + T) % 3]
        P, tokens = 1 + B % H if "projection" in features else None, (B + T) % 4 == 0
        p = problem(T, B, I, H, cell=cell, dtype=dtype, features=features, P=P, tokens=tokens)
        if "lengths" in features and B % 5 == 0:
            p.options["lengths"][:] = 0
        actual, saved = forward_results(p)
        y, _, _, final = numpy_cells.forward(p)
        # one number is a sum of some of the size of 1
        check_forward(p, actual, {"y": y} | dict(zip(("h_n", "c_n"), final, strict=False)), added=1.0)
        check_gradients(p, backward(p, saved), numpy_cells.backward(p, saved.y, saved.c), added=1.0)


#: Prints by how many KiB a call with a vocabulary of a million makes the process larger.
VOCABULARY = """
import numpy as np
from bptt import kernels
from bptt.arrays import Weights
def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmPeak"))
weights = Weights(np.zeros((1, 10**6), "f4"), np.zeros((1, 1), "f4"), None, None)
before = peak()
x, state = np.zeros((400, 2), "i8"), (np.zeros((2, 1), "f4"),)
kernels.unroll("tanh", x, state, weights, lengths=np.array([400, 3]))
print(peak() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
def test_a_large_vocabulary():
    """Its size counts for the packed weights, a padded row for every token, not for rows of the batch."""
    # where the tests find the package, the script finds it
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    out = subprocess.run(
        [sys.executable, "-c", VOCABULARY], env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert int(out) < 200_000


@pytest.mark.parametrize("cell", [cell for cell in kernels.CELLS if "layer_norm" in extras(cell)])
def test_odd_sizes_normalised(cell, dtype):
    """Little but rounding is left of rows so short; it is the same rounding for every number of rows."""
    for H in range(1, 8):
        P = max(1, H - 1) if cell == "lstm" else None
        p = problem(3, 67, 1 + H % 3, H, cell=cell, dtype=dtype, features=extras(cell), P=P)
        whole = results(p)
        assert all(np.isfinite(value).all() for value in whole.values())
        for B in range(1, 67):
            rows = np.arange(67 - B, 67)
            part = results(of_rows(p, rows))
            for name in {"y", "h_n", "c_n", "x", "h_0", "c_0"} & whole.keys():
                assert same(part[name], whole[name][..., rows, :]), (name, H, B)


@pytest.mark.parametrize("cell", [cell for cell in kernels.CELLS if "layer_norm" in extras(cell)])
@pytest.mark.parametrize("others", [(), ("reset", "lengths")])
def test_normalised_from_zeros(others, cell):
    """Rows whose states are zero take another way to the weights' gradients, but not to the states' own."""
    p = problem(7, 37, 20, 24, cell=cell, features=("layer_norm", *others))
    for state in p.state:
        state[::2] = 0
    actual, expected = results(p), results(p, module=reference)
    check_forward(p, actual, expected)
    check_gradients(p, actual, expected)


# ------------------------------------------------------------------------------------- not finite


@pytest.mark.parametrize("cell", kernels.CELLS)
@settings(max_examples=80)
@given(data=st.data())
def test_not_finite(data, cell):
    """NaN and infinities reach what they reach in the reference, and nothing else."""
    p = data.draw(
        problems(
            steps=st.integers(1, 5),
            rows=st.integers(1, 7),
            inputs=st.integers(1, 9),
            hidden=st.integers(1, 20),
            work=15_000,
            cells=st.just(cell),
            among=("projection", "peepholes", "lengths", "reset", "reverse"),
        )
    )
    arrays = [a for a in (p.x, *p.state, *p.weights, p.dy, *(p.dfinal or ())) if a is not None]
    arrays = [a for a in arrays if a.dtype.kind == "f"]
    for _ in range(data.draw(st.integers(1, 3))):
        array = data.draw(st.sampled_from(arrays))
        array.flat[data.draw(st.integers(0, array.size - 1))] = data.draw(special_for(p, array))
    actual, saved = forward_results(p)
    expected, at = forward_results(p, module=reference)
    at = at._replace(y=saved.y, c=saved.c, gates=saved.gates)
    actual |= backward(p, saved)
    # the truncated reference does not even walk back from a step without dy, and 0 NaN is NaN
    p = replace(p, dy=np.zeros_like(saved.y)) if p.dy is None else p
    expected |= backward(p, at, module=reference)
    # ten times what other tests hold: of few entries all may be sums whose terms nearly cancel
    tolerance = 1e-12 if p.h_0.dtype == np.float64 else 1e-4
    for name, value in actual.items():
        atol = tolerance * np.abs(expected[name][np.isfinite(expected[name])]).max(initial=1e-30)
        np.testing.assert_allclose(value, expected[name], rtol=0, atol=atol, err_msg=name)


def special_for(p, array):
    # dy_1 w + dy_2 w w is not (dy_1 + dy_2 w) w for w = -inf: either is right, and the truncated
    # reference walks its chains one by one
    chains = p.depth is not None and not any(array is d for d in (p.dy, *(p.dfinal or ())))
    return st.sampled_from([math.nan] if chains else [math.nan, math.inf, -math.inf])

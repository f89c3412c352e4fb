"""The compiled kernels against the reference and against float64 NumPy, over generated shapes and options."""

from __future__ import annotations

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
    problem,
)
from kernel_strategies import EDGES, problems
from reference_problems import GATES, combinations

from bptt import kernels, reference

pytestmark = pytest.mark.kernels

SMALL = problems(
    steps=st.sampled_from(range(13)),
    rows=st.sampled_from(range(10)),
    inputs=st.sampled_from(range(1, 41)),
    hidden=st.sampled_from(range(1, 71)) | st.sampled_from(EDGES),
    work=150_000,
)
ANY = problems(
    steps=st.sampled_from([*range(13), 40, 300]),
    rows=st.sampled_from([*range(10), 47, 48, 49, 50, 100]),
    inputs=st.sampled_from([*range(1, 41), *EDGES, 130, 257]),
    hidden=st.sampled_from(range(1, 71)) | st.sampled_from([*EDGES, 128, 129, 130, 200, 257]),
    work=20_000_000,
)


def as_float64(arrays):
    return {name: array.astype(np.float64) for name, array in arrays.items()}


@settings(max_examples=300)
@given(SMALL)
def test_reference(p):
    actual, saved = forward_results(p)
    expected, at = forward_results(p, module=reference)
    check_forward(p, actual | kept(saved), as_float64(expected | kept(at)))
    # at the kernels' own states: see numpy_cells.backward
    at = at._replace(y=saved.y, c=saved.c, gates=saved.gates)
    check_gradients(p, backward(p, saved), as_float64(backward(p, at, module=reference)))


def kept(saved):
    """What a forward pass keeps beside y, by name."""
    return dict(saved.gates) | ({} if saved.c is None else {"c": saved.c})


def check_against_numpy(p):
    actual, saved = forward_results(p)
    y, c, gates, final = numpy_cells.forward(p)
    expected = {"y": y} | dict(zip(("h_n", "c_n"), final, strict=False))
    if len(y):
        expected |= gates | ({"c": c} if p.cell == "lstm" else {})
        actual |= kept(saved)
    check_forward(p, actual, expected)
    check_gradients(p, backward(p, saved), numpy_cells.backward(p, saved.y, saved.c))


@settings(max_examples=300)
@given(ANY)
def test_numpy(p):
    check_against_numpy(p)


@pytest.mark.parametrize(("cell", "features"), combinations(kernels.CELLS))
def test_options(cell, features, dtype):
    """Every option with every other one, and all of them."""
    own = {"tokens": "tokens" in features, "bias": "none" if "no_bias" in features else "both"}
    features = tuple(feature for feature in features if feature in extras(cell))
    for T, B, I, H, P in ((6, 5, 9, 18, 11), (4, 9, 17, 12, 8)):
        options = {"cell": cell, "dtype": dtype, "features": features, **own}
        check_against_numpy(problem(T, B, I, H, P=P if "projection" in features else None, **options))


@pytest.mark.parametrize(
    ("way", "cell"),
    [
        *(("plain", cell) for cell in ("tanh", "relu", *GATES)),
        *(("depth", cell) for cell in ("tanh", "lstm", "gru")),
        *(("options", cell) for cell in ("tanh", *GATES)),
    ],
)
@pytest.mark.parametrize(
    ("T", "B", "I", "H"),
    [
        (600, 1, 3, 5),  # three chunks of the backward pass, one row
        (65, 9, 40, 17),  # chunks that B does not divide
        (3, 300, 5, 33),  # more rows than a chunk holds
        (4, 50, 300, 200),  # sums over k in more than one block
        (3, 100, 20, 513),
        (5, 1, 1, 512),  # one row, panels in pairs
        (9, 70, 20, 650),  # weights too large for the nearest caches, three chunks
        (3, 2, 650, 900),
    ],
)
def test_large(T, B, I, H, way, cell, dtype):
    H //= 2 if cell in GATES else 1
    options = {}
    if way == "depth":
        options["depth"] = 2
    elif way == "options":
        own = [feature for feature in extras(cell) if feature != "layer_norm"]
        options |= {"features": own, "P": 1 + H // 3 if cell == "lstm" else None}
    check_against_numpy(problem(T, B, I, H, cell=cell, dtype=dtype, **options))


@pytest.mark.parametrize("cell", [cell for cell in kernels.CELLS if "layer_norm" in extras(cell)])
@pytest.mark.parametrize(("T", "B", "I", "H"), [(20, 40, 60, 130), (3, 300, 9, 33), (5, 2, 300, 257)])
def test_large_and_normalised(T, B, I, H, cell, dtype):
    for features in (("layer_norm",), extras(cell)):
        check_against_numpy(problem(T, B, I, H, cell=cell, dtype=dtype, features=features))


@pytest.mark.parametrize("cell", ["tanh", *GATES])
@pytest.mark.parametrize("H", [*EDGES, 130, 200])
def test_every_width(H, cell, dtype):
    """Every number of rows that a tile can have, at every width."""
    for B in range(1, 14):
        check_against_numpy(problem(3, B, 7, H, cell=cell, dtype=dtype))


@pytest.mark.parametrize("H", [*EDGES, 130])
def test_every_width_of_a_projection(H, dtype):
    """The ground floor takes one that is as large as what it projects, or larger, too."""
    for P in sorted({1, 2, H // 3, H // 2, H - 1, H} - {0}):
        check_against_numpy(problem(4, 3, 7, H, cell="lstm", features=["projection"], P=P, dtype=dtype))


@pytest.mark.parametrize("cell", kernels.CELLS)
def test_the_snapshot_of_the_weights(cell, dtype):
    features = [feature for feature in extras(cell) if feature in ("projection", "peepholes", "layer_norm")]
    for I, H, bias, tokens in ((8, 17, "both", False), (40, 70, "ih", True), (17, 33, "hh", False)):
        p = problem(2, 3, I, H, cell=cell, dtype=dtype, bias=bias, tokens=tokens, features=features)
        given_weights = [None if w is None else w.copy() for w in p.weights]
        _, saved = forward_results(p)
        before = backward(p, saved)
        for w in p.weights:
            if w is not None:
                w += 1
        for w_kept, w in zip(saved.weights, given_weights, strict=True):
            np.testing.assert_array_equal(w_kept, w)
        for name, value in backward(p, saved).items():
            np.testing.assert_array_equal(value, before[name])

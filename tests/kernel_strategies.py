"""Generated problems for the kernels: any cell, any shape, any options."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from kernel_problems import BIASES, extras, problem
from reference_problems import GATES

from bptt import kernels

#: Whole vectors, panels and blocks of the tile, one less and one more.
EDGES = [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 48, 63, 64, 65, 70]
#: Hidden units: every width up to more than a panel, and some about the edges of wider ones.
WIDTHS = st.sampled_from([*range(1, 71), 95, 96, 97, 127, 128, 129, 144, 150, 176, 192, 200])
#: Numbers in a normalised row, and columns behind it: of fewer, little but rounding may be left.
LEAST_NORMALISED = 8

CELLS = st.sampled_from(kernels.CELLS)
DTYPES = st.sampled_from([np.float32, np.float64])
OPTIONS = {
    "dtype": DTYPES,
    "bias": st.sampled_from(sorted(BIASES)),
    "tokens": st.booleans(),
    "dy": st.integers(0, 9).map(bool),
    "dh_n": st.booleans(),
    "dc_n": st.booleans(),
    "seed": st.integers(0, 999),
}


@st.composite
def features_for(draw, cell, among=None):
    """No feature, or any set of those that the cell can have; among: of these only."""
    allowed = [feature for feature in extras(cell) if among is None or feature in among]
    if not allowed:
        return ()
    chosen = draw(st.just(set()) | st.sets(st.sampled_from(allowed)))
    return tuple(feature for feature in allowed if feature in chosen)


@st.composite
def problems(draw, *, steps, rows, inputs, hidden, work, cells=CELLS, among=None, truncated=True):
    """A problem of at most `work` products, at least a step of a row where `work` is less than that."""
    cell = draw(cells)
    features = draw(features_for(cell, among))
    least = LEAST_NORMALISED if "layer_norm" in features else 1
    H, I = max(draw(hidden), least), max(draw(inputs), least)
    P = draw(st.integers(least, H)) if "projection" in features else None
    T, B = draw(steps), draw(rows)
    depth = draw(st.sampled_from([None, None, None, 1, 2, T, T + 1])) if truncated else None
    depth = None if depth is None else max(depth, 1)
    each = GATES.get(cell, 1) * H * (H + I) * (1 if depth is None else min(depth, T + 1))
    B = min(B, max(work // (each * max(T, 1)), 1))
    T = min(T, max(work // (each * max(B, 1)), 1))
    options = {name: draw(option) for name, option in OPTIONS.items()}
    return problem(T, B, I, H, cell=cell, features=features, P=P, depth=depth, **options)

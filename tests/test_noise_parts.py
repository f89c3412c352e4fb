"""The masks of some time steps are those of the whole pass there."""

import itertools

import numpy as np
import pytest

from bptt import noise
from bptt.structure import Structure

BETWEEN = "between layers"
CASES = list(itertools.product((0, 0.3), (0, 0.4), (0, 0.2), (0, 0.1)))


def arrays(masks):
    """Every mask by what it is for."""
    found = {f"{BETWEEN}, {layer}": mask for layer, mask in enumerate(masks.dropout)}
    for unit, own in enumerate(masks.noise):
        if own is not None:
            found |= {f"{name} {unit}": a for name, a in own._asdict().items() if isinstance(a, np.ndarray)}
    return found


@pytest.mark.parametrize("rates", CASES[1:])
@pytest.mark.parametrize("directions", [1, 2])
def test_parts(directions, rates, dtype):
    T, B = 9, 3
    structure = Structure("lstm", 4, 3, 5, 2, directions, 2)
    sizes = (structure, noise.Rates(*rates), T, B, np.dtype(dtype))
    whole = arrays(noise.draw(*sizes, 5))
    draws = noise.draws(*sizes, 5)
    for first, last in ((0, T), (2, 6), (8, 9), (4, 4)):
        part = arrays(draws.masks(first, last))
        assert part.keys() == whole.keys()
        for name, mask in whole.items():
            np.testing.assert_array_equal(part[name], mask if mask.ndim == 2 else mask[first:last])
    for unit in range(2 * directions):
        part = arrays(draws.masks(2, 6, (unit,)))
        own = {name for name in whole if name.endswith(f" {unit}") and not name.startswith(BETWEEN)}
        assert own == {name for name in part if not name.startswith(BETWEEN)}
        for name in own:
            np.testing.assert_array_equal(
                part[name], whole[name] if part[name].ndim == 2 else whole[name][2:6]
            )


def test_nothing():
    structure = Structure("tanh", 1, 3, 5)
    assert noise.draws(structure, noise.Rates(), 9, 3, np.dtype("f4"), 5) is None


def test_fresh_entropy_is_taken_once():
    structure = Structure("tanh", 1, 3, 5)
    draws = [noise.draws(structure, noise.Rates(0, 0, 0.5), 90, 3, np.dtype("f4"), None) for _ in range(2)]
    one, again, other = (arrays(d.masks(0, 90))["kept_h 0"] for d in (draws[0], draws[0], draws[1]))
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()

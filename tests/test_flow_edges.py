"""The flow of a gradient where rows are short, steps are missing, or numbers go beyond what a float holds."""

from __future__ import annotations

import numpy as np
import pytest
from errors import F4, F8, zeros

import bptt


def of_factor(factor, steps, rows=1, dtype=F8, lengths=None):
    """A tape of a network whose gradient changes by a factor a step."""
    layer = bptt.RNN(1, 1, nonlinearity="identity", bias=False, dtype=dtype)
    layer.parameters["weight_hh_l0"][:] = factor
    return layer.record(zeros(steps, rows, 1, dtype=dtype), lengths=lengths)[2]


@pytest.mark.parametrize("lengths", [None, [20, 20], [20, 12]])
def test_the_last_steps_are_named_only_if_all_rows_end_there(lengths):
    said = str(of_factor(0.2, 20, 2, lengths=lengths).gradient_flow(dh_n=np.ones((1, 2, 1))))
    if lengths == [20, 12]:
        assert "after 3 steps: a loss reaches its own step and 2 steps further." in said
    else:
        assert "after 3 steps: the loss reaches the steps 18 to 20 of the input." in said


@pytest.mark.parametrize("shape", [(0, 2), (3, 0), (3, 2)])
def test_without_steps_no_relu_is_dead(shape):
    layer = bptt.RNN(2, 3, nonlinearity="relu", dtype=F8, seed=0)
    layer.parameters["bias_ih_l0"][0] = -50
    lengths = np.zeros(shape[1], int)
    flow = layer.record(np.zeros((*shape, 2)), lengths=lengths)[2].gradient_flow(np.zeros((*shape, 3)))
    assert not flow.dead[0][0].any()
    assert str(flow) == "The layer: no gradient arrives."


def test_of_final_states_growing_by_more_than_squares_can():
    # 1e-100 at the last step, 1e100 at the first: of their squares the quotient is beyond the largest float64
    (reach,) = of_factor(1e50, 5).gradient_flow(dh_n=np.full((1, 1, 1), 1e-100)).reach[0]
    np.testing.assert_allclose(reach.profile, 1e50 ** np.arange(5.0), rtol=1e-12)


@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_of_final_states_that_are_not_finite(bad):
    flow = of_factor(0.5, 4, dtype=F4).gradient_flow(dh_n=np.full((1, 1, 1), bad, F4))
    assert str(flow).splitlines()[:2] == [
        "The layer: the gradient is not finite at step 4 of 4, the first such step on the way back.",
        "The layer: no gradient arrives.",
    ]

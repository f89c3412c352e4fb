"""The flow of a gradient: norms, saturation, reach, numbers that are not finite, the verdict."""

from __future__ import annotations

import numpy as np
import pytest
from errors import F4, F8, raises, zeros
from kernel_problems import same
from numpy_layers import LAYERS, B, H, T, make, problem
from numpy_rnn import close

import bptt
from bptt import kernels, reference
from bptt.flow.reach import reach_of
from bptt.flow.sweep import sweep

STACKS = {
    "alone": {},
    "stack": {"num_layers": 2, "dropout": 0.3, "zoneout": 0.3},
    "two ways": {"num_layers": 2, "bidirectional": True, "recurrent_dropout": 0.3},
}
RAGGED = {"lengths": [2, 5, 0, 3], "reset": np.random.default_rng(0).random((T, B)) < 0.3}


def recorded(kind, stack, *, over_time=None, backend="kernels", **options):
    layer = make(kind, **STACKS[stack], backend=backend, **options)
    q = problem(layer)
    return q, layer.record(q.x, q.h_0, seed=5, **(over_time or {}))[2]


def squares(tape, dy):
    """Squared norms of dL/dh_t of every layer and direction, by step_back alone: a walk with all losses."""
    back = {"kernels": kernels, "reference": reference}[tape.backend].step_back
    found = [np.zeros((T, B)) for _ in tape._pass.saved]
    for moment in sweep(back, tape._pass, dy, [0] * T):
        size = np.square(moment.dh[0].astype(F8)).sum(axis=1)
        found[moment.unit][moment.t] = size * 4.0 ** moment.exponents[0]
    return found


# ------------------------------------------------------------------------------------- gradients and norms


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("ragged", [False, True])
def test_gradients_are_those_of_backward(backend, kind, stack, ragged):
    q, tape = recorded(kind, stack, over_time=RAGGED if ragged else None, backend=backend)
    for dy, dh_n in ((q.dy, None), (None, q.dh_n), (q.dy, q.dh_n)):
        flow = bptt.gradient_flow(tape, dy, dh_n).gradients
        plain = tape.backward(dy, dh_n)
        assert same(flow.x, plain.x)
        assert same(flow.h_0, plain.h_0)
        assert (flow.c_0 is None) == (plain.c_0 is None)
        for name, gradient in plain.parameters.items():
            assert same(flow.parameters[name], gradient)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("stack", STACKS)
def test_norms(backend, kind, stack):
    q, tape = recorded(kind, stack, over_time=RAGGED, backend=backend)
    q.dy[np.arange(T)[:, np.newaxis] >= np.array(RAGGED["lengths"])] = 0
    flow = tape.gradient_flow(q.dy)
    expected = squares(tape, q.dy)
    D = 2 if stack == "two ways" else 1
    for unit, of_rows in enumerate(expected):
        level, direction = divmod(unit, D)
        close(flow.row_norms[level][direction], np.sqrt(of_rows))
        close(flow.norms[level][direction], np.sqrt(of_rows.sum(axis=1)))


def test_norms_are_of_what_arrives_at_h():
    # an output that is h itself, and no recurrence
    layer = bptt.RNN(2, 3, bias=False, dtype=F8, seed=0)
    layer.parameters["weight_hh_l0"][:] = 0
    dy = np.random.default_rng(0).normal(size=(4, 2, 3))
    flow = layer.record(np.ones((4, 2, 2)))[2].gradient_flow(dy)
    close(flow.row_norms[0][0], np.linalg.norm(dy, axis=2))


def test_past_a_rows_end_norms_are_zero(backend):
    q, tape = recorded("LSTM", "two ways", over_time=RAGGED, backend=backend)
    q.dy[np.arange(T)[:, np.newaxis] >= np.array(RAGGED["lengths"])] = np.nan
    flow = tape.gradient_flow(q.dy)
    there = np.arange(T)[:, np.newaxis] < np.array(RAGGED["lengths"])
    for level in flow.row_norms:
        for norms in level:
            assert not norms[~there].any()
            assert norms[there].all()


def test_layouts():
    q, tape = recorded("GRU", "alone")
    expected = tape.gradient_flow(q.dy)
    turned = (
        make("GRU", batch_first=True).record(q.x.swapaxes(0, 1), q.h_0)[2].gradient_flow(q.dy.swapaxes(0, 1))
    )
    close(turned.row_norms[0][0], expected.row_norms[0][0])
    close(turned.gradients.x, expected.gradients.x.swapaxes(0, 1))
    alone = make("GRU").record(q.x[:, 1], q.h_0[:, 1])[2].gradient_flow(q.dy[:, 1])
    close(alone.row_norms[0][0], expected.row_norms[0][0][:, 1])
    close(alone.norms[0][0], alone.row_norms[0][0])
    assert repr(expected) == "GradientFlow(T=5, B=4, L=1, D=1)"


def test_errors():
    tape = bptt.RNN(2, 3, seed=0).record(zeros(4, 2, 2))[2]
    with raises(ValueError, "gradient_flow: expected dy, dh_n or both, got neither"):
        tape.gradient_flow()
    with raises(ValueError, "backward: expected dy, dh_n or both, got neither"):
        tape.backward()
    with raises(ValueError, "dy: expected shape (4, 2, 3) = (time, batch, hidden_size), got (4, 2, 2)"):
        tape.gradient_flow(zeros(4, 2, 2))
    with raises(ValueError, "threads: expected an integer of at least 1, got 0"):
        tape.gradient_flow(zeros(4, 2, 3), threads=0)


# ------------------------------------------------------------------------------------- gates and units


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("kind", ["RNN", "sigmoid", "LSTM", "GRU", "reset_before"])
def test_saturation(kind, ragged):
    layer = bptt.RNN(3, H, nonlinearity="sigmoid", dtype=F8, seed=0) if kind == "sigmoid" else make(kind)
    for value in layer.parameters.values():
        value *= 6
    x = 3 * np.random.default_rng(0).normal(size=(T, B, 3))
    over_time = {"lengths": [2, 4, 0, 3]} if ragged else {}
    tape = layer.record(x, **over_time)[2]
    (shares,) = tape.gradient_flow(np.ones_like(tape.y)).saturation[0]
    gates = tape.gates[0][0] or {"h": tape.y}
    assert list(shares) == list(gates)
    there = np.arange(T)[:, np.newaxis] < np.array(over_time.get("lengths", [T] * B))
    for name, gate in gates.items():
        tanh = name in "gn" or (name == "h" and kind == "RNN")
        near = np.abs(gate) > 0.98 if tanh else (gate < 0.01) | (gate > 0.99)
        for t in range(T):
            rows = near[t, there[t]]
            if len(rows):
                assert shares[name][t] == pytest.approx(rows.mean(), abs=1e-15)
            else:
                assert np.isnan(shares[name][t])
        assert 0 < np.nanmean(shares[name]) < 1


def test_dead_relus():
    layer = bptt.RNN(2, 6, nonlinearity="relu", dtype=F8, seed=0)
    layer.parameters["bias_ih_l0"][[1, 4]] = -100
    tape = layer.record(np.random.default_rng(0).normal(size=(20, 3, 2)))[2]
    flow = tape.gradient_flow(np.ones((20, 3, 6)))
    assert flow.dead[0][0].tolist() == (tape.y == 0).all(axis=(0, 1)).tolist()
    assert flow.dead[0][0][[1, 4]].all()
    assert flow.saturation == (({},),)
    assert f"{flow.dead[0][0].sum()} of 6 ReLUs are 0 at every step." in str(flow)
    assert "against dead ReLUs" in str(flow)
    assert make("GRU").record(np.zeros((2, 1, 3)))[2].gradient_flow(np.ones((2, 1, 4))).dead == ((None,),)


@pytest.mark.parametrize("reverse", [False, True])
def test_a_state_that_is_not_finite(reverse):
    layer = bptt.RNN(1, 2, nonlinearity="identity", dtype=F4, seed=0, num_layers=2, bidirectional=reverse)
    for name, value in layer.parameters.items():
        value[:] = 1e13 if name.endswith("hh_l1_reverse" if reverse else "hh_l1") else 0
        if "ih" in name:
            value[:] = 1
    tape = layer.record(np.ones((6, 1, 1), F4))[2]
    flow = tape.gradient_flow(np.ones_like(tape.y))
    found = flow.first_nonfinite
    steps = np.flatnonzero(~np.isfinite(tape.h[1][int(reverse)]).all(axis=(1, 2)))
    assert found == ("state", 1, int(reverse), steps[-1] if reverse else steps[0])
    place = "Layer 2, backward direction" if reverse else "Layer 2"
    assert str(flow).splitlines()[0] == (
        f"{place}: the state is not finite at step {found.step + 1} of 6, the first such step."
    )
    assert "clip_norm" in str(flow)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_gradient_that_is_not_finite(bad):
    dy = np.ones((8, 2, 3), F4)
    dy[4, 1, 0] = bad
    flow = bptt.RNN(1, 3, seed=0, num_layers=2).record(np.ones((8, 2, 1), F4))[2].gradient_flow(dy)
    assert flow.first_nonfinite == ("gradient", 1, 0, 4)
    assert str(flow).splitlines()[0] == (
        "Layer 2: the gradient is not finite at step 5 of 8, the first such step on the way back."
    )


def test_all_is_finite():
    q, tape = recorded("LSTM", "stack")
    assert tape.gradient_flow(q.dy).first_nonfinite is None


# ------------------------------------------------------------------------------------- reach


def of_factor(factor, steps, many):
    """The flow of a network whose gradient changes by a factor a step."""
    layer = bptt.RNN(1, 1, nonlinearity="identity", bias=False, dtype=F8)
    layer.parameters["weight_hh_l0"][:] = factor
    tape = layer.record(np.zeros((steps, 1, 1)))[2]
    dy = np.ones((steps, 1, 1))
    if not many:
        dy[:-1] = 0
    return tape.gradient_flow(dy)


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize(("factor", "steps"), [(0.71, 14), (0.5, 7), (0.99, None), (1.0, None), (1.05, None)])
def test_reach_of_a_constant_factor(many, factor, steps):
    (reach,) = of_factor(factor, 40, many).reach[0]
    np.testing.assert_allclose(reach.profile, factor ** np.arange(40.0), rtol=1e-12)
    assert reach.factor == pytest.approx(factor, rel=1e-12)
    assert reach.steps == steps


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("direction", [0, 1])
def test_reach_of_one_loss(kind, direction):
    # the norms are its profile then
    layer = make(kind, bidirectional=True, num_layers=2)
    q = problem(layer, steps=9)
    dy = np.zeros_like(q.dy)
    dy[0 if direction else -1] = q.dy[0]
    flow = layer.record(q.x, q.h_0)[2].gradient_flow(dy)
    for level in range(2):
        norms = flow.norms[level][direction][:: 1 if direction else -1]
        close(flow.reach[level][direction].profile, norms / norms[0])


@pytest.mark.parametrize("ragged", [False, True])
def test_reach_of_the_final_states(ragged):
    over_time = {"lengths": RAGGED["lengths"]} if ragged else {}
    q, tape = recorded("GRU", "two ways", over_time=over_time)
    flow = tape.gradient_flow(dh_n=q.dh_n)
    lengths = np.array(over_time.get("lengths", [T] * B))
    for level in range(2):
        for direction in range(2):
            norms = flow.row_norms[level][direction]
            sums = np.zeros(T)
            for row, length in enumerate(lengths):
                for lag in range(length):
                    sums[lag] += norms[lag if direction else length - 1 - lag, row] ** 2
            close(flow.reach[level][direction].profile, np.sqrt(sums / sums[0]))


def test_reach_is_a_median_of_losses():
    q, tape = recorded("RNN", "alone", over_time=None)
    # of the losses in the second half
    profiles = []
    for i in (2, 3, 4):
        dy = np.zeros_like(q.dy)
        dy[i] = q.dy[i]
        norms = tape.gradient_flow(dy).norms[0][0][i::-1]
        profiles.append(norms / norms[0])
    expected = [np.median([p[lag] for p in profiles if len(p) > lag]) for lag in range(T)]
    close(tape.gradient_flow(q.dy).reach[0][0].profile, expected)


def test_robust_fit():
    profile = 0.8 ** np.arange(30.0)
    profile[[3, 11]] = [50.0, 1e-9]
    assert reach_of(profile).factor == pytest.approx(0.8, rel=1e-3)
    assert reach_of(np.array([1.0])).factor is None
    assert reach_of(np.array([1.0])).steps is None
    assert reach_of(np.zeros(0)) == (pytest.approx(np.zeros(0)), None, None)
    assert reach_of(np.array([1.0, 0.0, 0.0])).steps == 1
    assert reach_of(np.array([1.0, 0.001, 0.5, 0.001])).steps == 3  # it has to stay there
    long = 0.999 ** np.arange(3000.0)
    assert reach_of(long).factor == pytest.approx(0.999, rel=1e-9)


def test_reach_far_below_the_smallest_float():
    layer = bptt.RNN(1, 1, nonlinearity="identity", bias=False, dtype=F4)
    layer.parameters["weight_hh_l0"][:] = 0.5
    flow = layer.record(zeros(400, 1, 1))[2].gradient_flow(np.ones((400, 1, 1), F4))
    assert np.array_equal(flow.reach[0][0].profile, 0.5 ** np.arange(400.0))


# ------------------------------------------------------------------------------------- words


def test_verdict_of_a_gradient_that_fades():
    lines = str(of_factor(0.71, 100, many=False)).splitlines()
    assert lines == [
        "The layer: going back, the gradient falls by a factor of 0.71 a step and is under 1% of its size "
        "after 14 steps: the loss reaches the steps 87 to 100 of the input.",
        'What usually helps: against fading, gates (LSTM or GRU), or init="orthogonal" and smaller weight_ih'
        "; for less work, a truncation to 14 steps, which loses next to nothing of this gradient.",
    ]
    assert "a loss reaches its own step and 13 steps further." in str(of_factor(0.71, 100, many=True))
    assert "the loss reaches step 100 of the input only." in str(of_factor(0.005, 100, many=False))
    assert "a loss reaches its own step only." in str(of_factor(0.005, 100, many=True))


def test_verdict_of_one_that_grows_or_stays():
    grows = str(of_factor(1.5, 50, many=False))
    assert "grows by a factor of 1.50 a step and is 100 times its size after 12 steps." in grows
    assert "What usually helps: against growing, clip_norm" in grows
    stays = str(of_factor(1.001, 50, many=True))
    assert stays == (
        "The layer: going back, the gradient hardly changes from step to step and is 1.05 times its size "
        "after 49 steps, as far as it goes."
    )


def test_verdict_of_a_first_step_unlike_the_others():
    # almost without W_hh the gradient of h goes on through c alone
    layer = bptt.LSTM(1, 2, dtype=F8, bias=True, seed=0, forget_bias=2.0)
    layer.parameters["weight_hh_l0"][:] *= 1e-3
    dy = np.zeros((30, 1, 2))
    dy[-1] = 1
    flow = layer.record(np.ones((30, 1, 1)))[2].gradient_flow(dy)
    profile, factor, _ = flow.reach[0][0]
    assert 0 < profile[1] < 0.01
    assert 0.5 < factor < 1
    first = f"{profile[1]:.1g} times its size in its first step"
    drop = f"drops to {first}, then falls by a factor of {factor:.2f} a step"
    assert drop in str(flow)
    layer.parameters["weight_hh_l0"][:] *= 500
    flow = layer.record(np.ones((30, 1, 1)))[2].gradient_flow(dy)
    profile = flow.reach[0][0].profile
    assert f"the gradient drops to {profile[1]:.0%} in its first step, then falls by a factor of" in str(flow)
    assert "drops" not in str(of_factor(0.5, 40, many=False))


@pytest.mark.parametrize("row", [0, 1, 3])
def test_reach_of_ragged_rows_in_two_directions(backend, row):
    lengths = RAGGED["lengths"]
    layer = make("GRU", num_layers=2, bidirectional=True, backend=backend)
    q = problem(layer)
    dy = np.zeros_like(q.dy)
    dy[: lengths[row], row] = q.dy[: lengths[row], row]
    reach = layer.record(q.x, q.h_0, lengths=lengths)[2].gradient_flow(dy).reach
    own = slice(None, lengths[row]), row
    expected = layer.record(q.x[own], q.h_0[:, row])[2].gradient_flow(dy[own]).reach
    for found, alone in zip(sum(reach, ()), sum(expected, ()), strict=True):
        steps = len(alone.profile)
        close(found.profile[:steps], alone.profile)
        assert not found.profile[steps:].any()  # past the row's end


def test_verdict_of_several_layers():
    q, tape = recorded("LSTM", "two ways")
    lines = str(tape.gradient_flow(q.dy)).splitlines()
    places = [(1, "forward"), (1, "backward"), (2, "forward"), (2, "backward")]
    for line, (layer, direction) in zip(lines[:4], places, strict=True):
        assert line.startswith(f"Layer {layer}, {direction} direction: going back, the gradient ")


def test_verdict_of_saturated_gates():
    layer = bptt.GRU(2, 4, dtype=F8, seed=0)
    layer.parameters["bias_ih_l0"][4:8] = 50
    flow = layer.record(np.zeros((6, 1, 2)))[2].gradient_flow(np.ones((6, 1, 4)))
    assert (
        "The layer: 100% of the gates z are within 1% of a bound, where their derivative is near 0."
        in str(flow)
    )
    assert "gates r" not in str(flow)
    layer = bptt.RNN(2, 4, dtype=F8, seed=0)
    layer.parameters["bias_ih_l0"][:] = 50
    flow = layer.record(np.zeros((6, 1, 2)))[2].gradient_flow(np.ones((6, 1, 4)))
    assert "The layer: 100% of the units are within 1% of a bound" in str(flow)


def test_verdict_without_gradient_or_steps():
    tape = bptt.RNN(2, 3, seed=0).record(zeros(4, 2, 2))[2]
    assert str(tape.gradient_flow(zeros(4, 2, 3))) == "The layer: no gradient arrives."
    tape = bptt.RNN(2, 3, seed=0).record(zeros(1, 2, 2))[2]
    assert str(tape.gradient_flow(zeros(1, 2, 3) + 1)) == "The layer: the gradient has no step to go back."
    tape = bptt.RNN(2, 3, seed=0).record(zeros(0, 2, 2))[2]
    assert str(tape.gradient_flow(zeros(0, 2, 3))) == "The layer: no gradient arrives."
    assert str(tape.gradient_flow(dh_n=zeros(1, 2, 3))) == "The layer: no gradient arrives."


@pytest.mark.kernels
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_count_outside(dtype):
    v = np.random.default_rng(3).normal(size=(5, 3, 74)).astype(dtype)
    v[1, 2, 3] = np.nan
    for view in (v, v[:, :, 7:40], v[:, 1:, :1], v[:0], v[:, :0]):
        expected = ((view < -0.5) | (view > 1)).sum(axis=(1, 2))
        assert np.array_equal(kernels.count_outside(view, -0.5, 1), expected)
    with pytest.raises(ValueError, match="expected \\(T, B, N\\)"):
        kernels.count_outside(v[:, :, ::2], 0, 1)

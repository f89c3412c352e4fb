"""The same bits, however a sequence is cut: into calls or steps, at resets, at its end; packed or not."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_problems import (
    backward,
    differing,
    extras,
    forward,
    forward_results,
    of_rows,
    of_steps,
    problem,
    results,
    same,
)
from kernel_strategies import CELLS, DTYPES, WIDTHS, features_for, problems

from bptt import kernels
from bptt.arrays import Noise

pytestmark = pytest.mark.kernels

#: What belongs to a step and not to a place in the sequence.
OF_STEPS = ("projection", "peepholes", "layer_norm", "dropout", "zoneout")


def all_same(actual, expected):
    return len(actual) == len(expected) and all(map(same, actual, expected))


# ------------------------------------------------------------------------------------- calls


@settings(max_examples=200)
@given(
    data=st.data(),
    dtype=DTYPES,
    cell=CELLS,
    H=WIDTHS,
    T=st.integers(2, 14) | st.sampled_from([97, 270]),
    B=st.sampled_from([1, 2, 5, 7, 48, 50, 65]),
    I=st.sampled_from([1, 4, 17, 64]),
    tokens=st.booleans(),
)
def test_a_stream_cut_anywhere(data, dtype, cell, H, T, B, I, tokens):
    features = data.draw(features_for(cell, OF_STEPS), label="features")
    dy = data.draw(st.booleans(), label="dy")
    p = problem(T, B, I, H, cell=cell, dtype=dtype, tokens=tokens, dy=dy, features=features)
    cuts = sorted(data.draw(st.sets(st.integers(0, T), max_size=4), label="cuts"))
    whole = results(p)
    pieces, state, y = [], p.state, []
    for start, stop in zip([0, *cuts], [*cuts, T], strict=True):
        y_piece, final, saved = forward(of_steps(p, slice(start, stop), state, None))
        y.append(y_piece)
        pieces.append((start, stop, saved))
        state = final
    assert same(np.concatenate(y), whole["y"])
    assert all_same(state, [whole[name] for name in ("h_n", "c_n") if name in whole])
    dstate, dx = p.dfinal, []
    for start, stop, saved in reversed(pieces):
        gradients = backward(of_steps(p, slice(start, stop), saved.state, dstate), saved)
        dstate = tuple(gradients[name] for name in ("h_0", "c_0") if name in gradients)
        dx.insert(0, gradients.get("x"))
    assert all_same(dstate, [whole[name] for name in ("h_0", "c_0") if name in whole])
    if not tokens:
        assert same(np.concatenate(dx), whole["x"])


# ------------------------------------------------------------------------------------- steps


def rates_alone(p):
    """The problem in inference: zoneout's mean, no dropout."""
    if "noise" not in p.options:
        return p
    noise = p.options["noise"]
    mean = Noise(zoneout_h=noise.zoneout_h, zoneout_c=noise.zoneout_c)
    return replace(p, options={**p.options, "noise": mean})


@pytest.mark.parametrize("cell", kernels.CELLS)
@pytest.mark.parametrize("tokens", [False, True])
@pytest.mark.parametrize("B", [1, 2, 3, 5, 67, 130])
def test_steps(B, tokens, cell, dtype):
    """A stepper goes on as a call does, packed or not, from state to state, into an array or a new one."""
    for n, H in enumerate((1, 5, 16, 33, 70, 150)):
        for features in ((), extras(cell)):
            features = [f for f in features if f not in ("lengths", "reset", "reverse", "dropout")]
            check_steps(
                rates_alone(problem(7, B, 9, H, cell=cell, dtype=dtype, tokens=tokens, features=features)), n
            )


@pytest.mark.parametrize("cell", kernels.CELLS)
def test_steps_of_wide_layers(cell, dtype):
    """Weights too large for the nearest caches: every other step walks over them backwards."""
    for B, I, H in ((1, 7, 650), (3, 400, 330)):
        check_steps(problem(5, B, I, H, cell=cell, dtype=dtype), 0)


def check_steps(p, n):
    y, final, _ = forward(p, keep=False)
    tokens, options = p.x.ndim == 2, {"noise": p.options["noise"]} if p.options else {}
    weights = p.weights if n % 2 else kernels.pack(p.cell, p.weights, tokens=tokens)
    stepper = kernels.Stepper(p.cell, weights, p.state, tokens=tokens, **options)
    for t, frame in enumerate(p.x):
        frame = np.ascontiguousarray(frame)
        if t == 4:  # another one goes on
            stepper = kernels.Stepper(p.cell, weights, stepper.state, tokens=tokens, **options)
        if t % 2:
            out = np.empty_like(y[t])
            assert stepper.step(frame, out) is out
        else:
            out = stepper.step(frame)
        assert same(out, y[t]), t
    assert all_same(stepper.state, final)


@pytest.mark.parametrize("cell", kernels.CELLS)
def test_calls_of_single_steps(cell, dtype):
    for H in (1, 5, 16, 64, 150, 650):
        p = problem(9, 1, 7, H, cell=cell, dtype=dtype)
        whole = results(p)
        for keep in (True, False):
            state = p.state
            for t in range(9):
                y, state, _ = forward(of_steps(p, slice(t, t + 1), state, None), keep=keep)
                assert same(y[0], whole["y"][t])
                assert same(state[0], y[0])
            assert all_same(state, [whole[name] for name in ("h_n", "c_n") if name in whole])


# ------------------------------------------------------------------------------------- packed


@settings(max_examples=150)
@given(
    problems(
        steps=st.sampled_from([1, 2, 3, 9, 40]),
        rows=st.sampled_from([1, 2, 5, 17, 64, 65, 67, 130]),
        inputs=st.integers(1, 40),
        hidden=st.integers(1, 70),
        work=3_000_000,
        truncated=False,
    )
)
def test_packed(p):
    """The same pass, kept or not, with packed weights or others, in inference with zoneout's mean too."""
    tokens = p.x.ndim == 2
    packed = kernels.pack(p.cell, p.weights, tokens=tokens)
    y, final, _ = forward(p)
    for given_weights in (p.weights, packed, packed):
        bare_y, bare_final, _ = forward(p, keep=False, weights=given_weights)
        assert same(bare_y, y)
        assert all_same(bare_final, final)
    mean = rates_alone(p)
    y, final, _ = forward(mean, keep=False)
    packed_y, packed_final, _ = forward(mean, keep=False, weights=packed)
    assert same(packed_y, y)
    assert all_same(packed_final, final)


# The last two give the GIL away meanwhile.
SHORT = [
    (1, 1, 3, 5),
    (4, 2, 9, 17),
    (20, 1, 4, 33),
    (3, 40, 8, 16),
    (2, 64, 3, 9),
    (2, 3, 8, 90),
    (90, 1, 70, 66),
    (20, 7, 20, 60),
]


@pytest.mark.parametrize("cell", kernels.CELLS)
@pytest.mark.parametrize("state", ["given", "none", "h alone", "c alone"])
def test_short_calls(state, cell, dtype):
    for T, B, I, H in SHORT:
        for features in ((), [f for f in extras(cell) if f in ("projection", "peepholes", "layer_norm")]):
            p = problem(T, B, I, H, cell=cell, dtype=dtype, features=features)
            wanted = {"given": (0, 1), "none": (), "h alone": (0,), "c alone": (1,)}[state]
            given_state = [part[np.newaxis] if n in wanted else None for n, part in enumerate(p.state)]
            p = replace(p, state=tuple(s if n in wanted else 0 * s for n, s in enumerate(p.state)))
            found = kernels.short_call(kernels.pack(cell, p.weights), p.x, *given_state)
            y, final, _ = forward(p)
            assert found is not None
            assert all_same(found, [y, *(part[np.newaxis] for part in final)])


def test_calls_that_threads_share_are_not_short(dtype):
    for T, B in ((401, 1), (101, 4), (1, 65)):
        p = problem(T, B, 112, 112, dtype=dtype)
        assert kernels.short_call(kernels.pack("tanh", p.weights), p.x, p.state[0][np.newaxis]) is None


@pytest.mark.parametrize("cell", [cell for cell in kernels.CELLS if cell != "lstm"])
def test_a_short_call_takes_no_c_0_of_a_cell_without(cell, dtype):
    p = problem(4, 2, 9, 17, cell=cell, dtype=dtype)
    weights, (h_0,) = kernels.pack(cell, p.weights), p.state
    assert kernels.short_call(weights, p.x, h_0[np.newaxis]) is not None
    assert kernels.short_call(weights, p.x, h_0[np.newaxis], h_0[np.newaxis]) is None


# ------------------------------------------------------------------------------------- ends and resets


def pieces_of_row(p, b):
    """A row as plain problems, cut where it begins again, in the order of its steps; and their times."""
    T = len(p.x)
    length = int(p.options.get("lengths", np.full(p.x.shape[1], T))[b])
    times = np.arange(length)
    if p.options.get("reverse"):
        times = times[::-1]
    reset = p.options.get("reset")
    starts = [s for s in range(length) if s == 0 or (reset is not None and reset[times[s], b])]
    row = of_rows(p, np.array([b]))
    row = replace(row, options={name: row.options[name] for name in row.options if name == "noise"})
    for start, stop in itertools.pairwise([*starts, length]):
        taken = times[start:stop]
        dfinal = row.dfinal if stop == length else None
        yield of_steps(row, taken, row.state, dfinal), taken


def check_row(p, whole, b):
    """A row in a batch, with its ends and resets, against the pieces, each of them alone and forwards."""
    names = [name for name in ("h_0", "c_0") if name in whole]
    dstate = {name: np.zeros_like(whole[name][b]) for name in names}
    past = np.ones(len(p.x), bool)
    final, pieces = [part[b] for part in p.state], list(pieces_of_row(p, b))
    for piece, times in reversed(pieces):
        found = results(piece)
        past[times] = False
        for name in {"y", "x"} & whole.keys():
            assert same(found[name][:, 0], whole[name][times, b]), name
        for name in names:
            dstate[name] += found[name][0]
        if times is pieces[-1][1]:
            final = [found[name][0] for name in ("h_n", "c_n") if name in found]
    for name in {"y", "x"} & whole.keys():
        assert not whole[name][past, b].any()
    assert all_same([whole[name][b] for name in ("h_n", "c_n") if name in whole], final)
    if not pieces:  # the state's gradient passes through
        dfinal = p.dfinal or [None] * len(names)
        for name, d in zip(names, dfinal, strict=True):
            dstate[name] = np.zeros_like(dstate[name]) if d is None else d[b]
    assert differing({name: whole[name][b] for name in names}, dstate) == []


@settings(max_examples=200)
@given(
    problems(
        steps=st.sampled_from([1, 2, 3, 5, 9, 30]),
        rows=st.sampled_from([1, 2, 3, 5, 9, 66]),
        inputs=st.integers(1, 40),
        hidden=WIDTHS,
        work=1_000_000,
        truncated=False,
    ),
    st.integers(0, 65),
)
def test_a_row_with_its_ends_and_resets(p, b):
    if p.x.shape[1]:
        check_row(p, results(p), b % p.x.shape[1])


@pytest.mark.parametrize("cell", kernels.CELLS)
@pytest.mark.parametrize("features", [["lengths"], ["reset"], ["reverse"], ["lengths", "reset", "reverse"]])
def test_every_row_with_its_ends_and_resets(features, cell, dtype):
    p = problem(11, 70, 9, 17, cell=cell, dtype=dtype, features=features)
    whole = results(p)
    for b in range(70):
        check_row(p, whole, b)


@pytest.mark.parametrize("cell", kernels.CELLS)
@pytest.mark.parametrize(
    ("T", "B", "I", "H"), [(5, 3, 9, 17), (40, 9, 30, 33), (7, 130, 5, 70), (300, 2, 3, 5)]
)
@pytest.mark.parametrize("tokens", [False, True])
def test_options_that_change_nothing(T, B, I, H, tokens, cell, dtype):
    """Every row as long as the batch, no reset, no mask: the parameters' gradients too are the same bits."""
    p = problem(T, B, I, H, cell=cell, dtype=dtype, tokens=tokens)
    plain = results(p)
    nothing = {"lengths": np.full(B, T), "reset": np.zeros((T, B), bool), "noise": Noise(), "reverse": False}
    for options in (*({name: value} for name, value in nothing.items()), nothing):
        assert differing(results(replace(p, options=options)), plain) == [], options.keys()


def test_results_of_every_pass(dtype):
    """A tape stands by itself: another pass in between changes nothing in it."""
    for cell in kernels.CELLS:
        p = problem(5, 4, 9, 17, cell=cell, dtype=dtype, features=extras(cell))
        first, saved = forward_results(p)
        before = backward(p, saved)
        for seed in (1, 2):
            results(problem(5, 4, 9, 17, cell=cell, dtype=dtype, features=extras(cell), seed=seed))
        assert differing(backward(p, saved), before) == []
        assert differing(forward_results(p)[0], first) == []

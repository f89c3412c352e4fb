"""Passes within a memory budget: what is refused, and in which words; what the tape tells."""

import numpy as np
import pytest
from errors import raises, zeros
from memory_problems import least_memory, make

import bptt

T, B, I, H = 50, 3, 4, 8


@pytest.fixture
def layer():
    return bptt.LSTM(I, H, seed=0)


def test_too_little(layer):
    x = zeros(T, B, I)
    least = least_memory(layer.record, x)
    layer.record(x, memory=least)
    for less in (1000, least - 1):
        with raises(ValueError, f"memory: expected at least {least} bytes for this pass, got {less}"):
            layer.record(x, memory=less)


@pytest.mark.parametrize("seed", range(0, 60, 3))
def test_more_threads_need_more(seed):
    problem = make(seed)
    assert problem.least(threads=4) > problem.least(threads=1)


def test_resets_and_more_rows_and_steps_need_more(layer):
    least = least_memory(layer.record, zeros(T, B, I))
    assert least_memory(layer.record, zeros(T, B, I), reset=np.eye(T, B, dtype=bool)) > least
    assert least_memory(layer.record, zeros(T, 10 * B, I)) > least
    assert least_memory(layer.record, zeros(100 * T, B, I)) > least


def test_arguments(layer):
    x = zeros(T, B, I)
    for wrong in (1.5, "1", True):
        with raises(TypeError, f"memory: expected an integer of at least 1, got {wrong!r}"):
            layer.record(x, memory=wrong)
    with raises(ValueError, "memory: expected an integer of at least 1, got 0"):
        layer.record(x, memory=0)
    with raises(ValueError, "checkpoint: expected an integer of at least 0, got -1"):
        layer.record(x, checkpoint=-1)
    with raises(ValueError, "checkpoint: expected None with memory, got 3"):
        layer.record(x, memory=10**7, checkpoint=3)
    with raises(ValueError, "outputs: expected one of 'all', 'last', got 'first'"):
        layer.record(x, outputs="first")
    for way in ({"memory": 10**7}, {"checkpoint": 2}):
        with raises(ValueError, "check_finite: expected False with memory or checkpoint, got True"):
            layer.record(x, **way, check_finite=True)
        with raises(
            ValueError,
            "x: expected shape (T, B, 4) = (time, batch, input_size), or (T, 4) unbatched, got (3,)",
        ):
            layer.record(zeros(3), **way)


def test_dy(layer):
    x = zeros(T, B, I)
    _, _, tape = layer.record(x, checkpoint=2)
    _, _, last = layer.record(x, checkpoint=2, outputs="last")
    with raises(ValueError, "backward: expected dy, dh_n or both, got neither"):
        tape.backward()
    message = f"dy: expected shape ({T}, {B}, {H}) = (time, batch, hidden_size), got ({B}, {H})"
    with raises(ValueError, message):
        tape.backward(zeros(B, H))
    for one in (last, layer.record(x, outputs="last")[2]):
        with raises(ValueError, f"dy: expected shape ({B}, {H}) = (batch, hidden_size), got ({T}, {B}, {H})"):
            one.backward(zeros(T, B, H))
        with raises(
            TypeError, "dy: expected float32 (the layer's dtype), got float64; write dy.astype(np.float32)"
        ):
            one.backward(np.zeros((B, H)))
    with raises(
        ValueError,
        "depth: expected None for a bidirectional layer, whose steps feel the losses before them too, got 3",
    ):
        bptt.GRU(I, H, bidirectional=True).record(x, checkpoint=1)[2].backward(zeros(T, B, 2 * H), depth=3)


def test_a_window_that_does_not_fit(layer):
    x = zeros(5000, 8, I)
    y, _, tape = layer.record(x, memory=least_memory(layer.record, x))
    with pytest.raises(
        ValueError, match=r"^depth: expected at most \d+, which fit into the budget, got 1000$"
    ):
        tape.backward(y, depth=1000, stride=1000)


def test_token_ids_that_were_changed():
    layer, x = bptt.RNN(I, H, seed=0), np.zeros((T, B), np.int64)
    y, _, tape = layer.record(x, checkpoint=2)
    tape.backward(y)
    x[0, 0] = I
    with raises(ValueError, f"x: expected token ids in [0, {I}) as when recorded, got others"):
        tape.backward(y)


@pytest.mark.parametrize(
    "name", ["y", "h", "c", "gates", "dropout", "zoneout_h", "parameters", "lengths", "reset", "h_0"]
)
def test_what_is_not_there(layer, name):
    tape = layer.record(zeros(T, B, I), checkpoint=1)[2]
    message = (
        "tape: expected one with all states, got one recorded with memory or checkpoint, which keeps a few "
        "of them; record without"
    )
    with raises(ValueError, message):
        getattr(tape, name)
    for function in ("terms", "gradient_flow"):
        with raises(ValueError, message):
            getattr(tape, function)(zeros(T, B, H))
    with raises(ValueError, message):
        tape.jacobian_products()


def test_what_is_there():
    x = zeros(T, B, I)
    tape = bptt.LSTM(I, H, seed=0).record(x, checkpoint=1)[2]
    assert repr(tape) == f"CheckpointedTape(cell='lstm', T={T}, B={B}, H={H}, dtype=float32)"
    assert (tape.cell, tape.nonlinearity, tape.backend, tape.batched) == ("lstm", None, "kernels", True)
    assert bptt.RNN(I, H).record(x, checkpoint=1)[2].nonlinearity == "tanh"
    np.testing.assert_array_equal(tape.x, x)
    assert not tape.x.flags.writeable

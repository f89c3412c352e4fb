"""Rows that begin again amid a sequence: as if it were cut there."""

from __future__ import annotations

import numpy as np
import pytest
from errors import F8, raises, zeros
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_problems import same
from numpy_layers import LAYERS, B, I, T, check_gradients, forward, initial_of, make, parts_of, problem
from numpy_rnn import close

import bptt

SHAPES = [(1, False), (1, True), (2, False), (2, True)]
# The first step, neighbouring steps, the last step, none.
RESET = np.zeros((T, B), bool)
RESET[[0, 3, 1, 2, 4], [0, 0, 1, 1, 2]] = True


def pieces(layer, q, reset, lengths, backward=True):
    """Run every row in pieces, each from h_0 through the whole stack.

    Return y, the final state's parts and the gradients that come of it: the last piece's state is the final
    one forward, the first piece's backward.
    """
    directions = 2 if layer.bidirectional else 1
    y = np.zeros((T, B, layer.output_size), layer.dtype)
    final = [part.copy() for part in parts_of(q.h_0)]
    dx = np.zeros(q.x.shape, layer.dtype)
    dinitial = [np.zeros_like(part) for part in parts_of(q.h_0)]
    total = {name: np.zeros(value.shape) for name, value in layer.parameters.items()}
    for b, length in enumerate(lengths):
        cuts = [t for t in range(1, length) if reset[t, b]]
        spans = list(zip([0, *cuts], [*cuts, length], strict=True))
        for number, (start, stop) in enumerate(spans):
            start_state = tuple(np.ascontiguousarray(part[:, b : b + 1]) for part in parts_of(q.h_0))
            start_state = start_state if len(start_state) == 2 else start_state[0]
            x = np.ascontiguousarray(q.x[start:stop, b : b + 1])
            piece, end, tape = layer.record(x, start_state)
            y[start:stop, b] = piece[:, 0]
            dend = [np.zeros_like(part) for part in parts_of(end)]
            for unit in range(len(final[0])):
                if number == (0 if unit % directions else len(spans) - 1):
                    for n, part in enumerate(parts_of(end)):
                        final[n][unit, b] = part[unit, 0]
                        dend[n][unit, 0] = parts_of(q.dh_n)[n][unit, b]
            dy = np.ascontiguousarray(q.dy[start:stop, b : b + 1])
            g = tape.backward(dy, tuple(dend) if len(dend) == 2 else dend[0])
            if g.x is not None:
                dx[start:stop, b] = g.x[:, 0]
            for whole, part in zip(dinitial, initial_of(g), strict=True):
                whole[:, b] += part[:, 0]
            for name, value in g.parameters.items():
                total[name] += value
    return y, final, dx, dinitial, total


def check_against_pieces(layer, q, reset, lengths=None):
    y, h_n, tape = layer.record(q.x, q.h_0, reset=reset, lengths=lengths)
    plain, plain_n = layer(q.x, q.h_0, reset=reset, lengths=lengths)
    frozen, _ = layer.freeze()(q.x, q.h_0, reset=reset, lengths=lengths)
    gradients = tape.backward(q.dy, q.dh_n)
    expected, final, dx, dinitial, total = pieces(layer, q, reset, [T] * B if lengths is None else lengths)
    for actual in (y, plain, frozen):
        assert same(np.ascontiguousarray(actual), expected)
    for state in (h_n, plain_n):
        for actual, part in zip(parts_of(state), final, strict=True):
            assert same(actual, part)
    if q.x.ndim == 3:
        assert same(gradients.x, dx)
    for actual, part in zip(initial_of(gradients), dinitial, strict=True):
        close(actual, part)
    for name, value in total.items():
        close(gradients.parameters[name], value)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize(("num_layers", "bidirectional"), SHAPES)
def test_as_if_cut(backend, kind, num_layers, bidirectional):
    layer = make(kind, num_layers=num_layers, bidirectional=bidirectional, backend=backend)
    check_against_pieces(layer, problem(layer), RESET)


@pytest.mark.parametrize("kind", ["RNN", "projected", "GRU"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_as_if_cut_in_float32_and_for_tokens(backend, kind, bidirectional):
    layer = make(kind, num_layers=2, bidirectional=bidirectional, dtype=np.float32, backend=backend)
    check_against_pieces(layer, problem(layer, tokens=True), RESET)


@settings(max_examples=25)
@given(data=st.data(), kind=st.sampled_from(sorted(LAYERS)), shape=st.sampled_from(SHAPES))
def test_any_resets_and_lengths(data, kind, shape):
    layer = make(kind, num_layers=shape[0], bidirectional=shape[1], hidden_size=3, backend="reference")
    flags = data.draw(st.lists(st.booleans(), min_size=T * B, max_size=T * B), label="reset")
    lengths = data.draw(st.lists(st.integers(0, T), min_size=B, max_size=B), label="lengths")
    check_against_pieces(layer, problem(layer), np.array(flags).reshape(T, B), lengths)


@pytest.mark.kernels
@settings(max_examples=40)
@given(data=st.data(), kind=st.sampled_from(sorted(LAYERS)), shape=st.sampled_from(SHAPES))
def test_any_resets_and_lengths_in_the_kernels(data, kind, shape):
    layer = make(kind, num_layers=shape[0], bidirectional=shape[1], hidden_size=17)
    flags = data.draw(st.lists(st.booleans(), min_size=T * B, max_size=T * B), label="reset")
    lengths = data.draw(st.lists(st.integers(0, T), min_size=B, max_size=B), label="lengths")
    check_against_pieces(layer, problem(layer), np.array(flags).reshape(T, B), lengths)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_against_numpy(backend, kind, bidirectional):
    layer = make(kind, num_layers=2, bidirectional=bidirectional, backend=backend)
    q = problem(layer)
    options = {"reset": RESET, "lengths": [5, 3, 0, 4]}
    y, h_n, tape = layer.record(q.x, q.h_0, **options)
    expected, final, _ = forward(layer, q.x, q.h_0, **options)
    close(y, expected)
    for actual, part in zip(parts_of(h_n), final, strict=True):
        close(actual, part)
    check_gradients(layer, q, tape.backward(q.dy, q.dh_n), **options)
    np.testing.assert_array_equal(tape.reset, RESET)


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_at_every_step_all_that_is_left_is_the_initial_state(backend, kind):
    layer = make(kind, num_layers=2, backend=backend)
    q = problem(layer)
    y, _ = layer(q.x, q.h_0, reset=np.ones((T, B), bool))
    for t in range(T):
        assert same(np.ascontiguousarray(y[t : t + 1]), layer(q.x[t : t + 1], q.h_0)[0])


def test_no_reset_says_nothing(backend):
    layer = make("LSTM", num_layers=2, bidirectional=True, backend=backend)
    q = problem(layer)
    y, (_, c_n) = layer(q.x, q.h_0)
    first = np.zeros((T, B), bool)
    first[0] = True
    for reset in (np.zeros((T, B), bool), first, first.tolist(), np.asfortranarray(first)):
        y2, (_, c_n2) = layer(q.x, q.h_0, reset=reset)
        assert same(y2, y)
        assert same(c_n2, c_n)


# ------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("given_", "error", "message"),
    [
        (
            zeros(B, T, dtype=bool),
            ValueError,
            f"reset: expected shape ({T}, {B}) = (time, batch), got ({B}, {T})",
        ),
        (zeros(T, dtype=bool), ValueError, f"reset: expected shape ({T}, {B}) = (time, batch), got ({T},)"),
        (True, ValueError, f"reset: expected shape ({T}, {B}) = (time, batch), got ()"),
        ([], ValueError, f"reset: expected shape ({T}, {B}) = (time, batch), got (0,)"),
        (zeros(T, B, dtype=int), TypeError, "reset: expected bool, got int64; write reset.astype(bool)"),
        (zeros(T, B), TypeError, "reset: expected bool, got float32; write reset.astype(bool)"),
        ([[0] * B] * T, TypeError, "reset: expected bool, got int64"),
        ("no", TypeError, "reset: expected bool, got <U2"),
        ([[True], [True, False]], ValueError, "reset: expected an array, got a list of unequal rows"),
    ],
)
def test_wrong_resets(given_, error, message):
    layer = bptt.GRU(I, 3, dtype=F8, backend="reference")
    x = zeros(T, B, I, dtype=F8)
    for call in (layer, layer.record, layer.freeze()):
        with raises(error, message):
            call(x, reset=given_)


def test_wrong_resets_in_other_layouts():
    layer = bptt.GRU(I, 3, backend="reference", batch_first=True)
    with raises(ValueError, f"reset: expected shape ({B}, {T}) = (batch, time), got ({T}, {B})"):
        layer(zeros(B, T, I), reset=zeros(T, B, dtype=bool))
    with raises(ValueError, f"reset: expected shape ({T},) = (time,), got ({T}, 1)"):
        layer(zeros(T, I), reset=zeros(T, 1, dtype=bool))

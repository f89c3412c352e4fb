"""Rows of different lengths in one batch: as if every row went by itself."""

from __future__ import annotations

import numpy as np
import pytest
from errors import F8, raises, zeros
from kernel_problems import same
from numpy_layers import LAYERS, B, I, T, check_gradients, forward, make, parts_of, problem
from numpy_rnn import close

import bptt

LENGTHS = [3, 0, 5, 1]
SHAPES = [(1, False), (2, True)]


def row(state, b):
    """Return one row of a state, with its batch axis."""
    parts = tuple(np.ascontiguousarray(part[:, b : b + 1]) for part in parts_of(state))
    return parts if len(parts) == 2 else parts[0]


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize(("num_layers", "bidirectional"), SHAPES)
def test_against_numpy(backend, kind, num_layers, bidirectional):
    layer = make(kind, num_layers=num_layers, bidirectional=bidirectional, backend=backend)
    q = problem(layer)
    y, h_n, tape = layer.record(q.x, q.h_0, lengths=LENGTHS)
    expected, final, units = forward(layer, q.x, q.h_0, lengths=LENGTHS)
    close(y, expected)
    for actual, part in zip(parts_of(h_n), final, strict=True):
        close(actual, part)
    for number, unit in enumerate(units):
        level, direction = divmod(number, 1 + bidirectional)
        close(tape.h[level][direction], unit.h)
        if tape.c is not None:
            close(tape.c[level][direction], unit.c)
        for name, gate in unit.gates.items():
            close(tape.gates[level][direction][name], gate)
    check_gradients(layer, q, tape.backward(q.dy, q.dh_n), lengths=LENGTHS)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("tokens", [False, True])
@pytest.mark.parametrize(("num_layers", "bidirectional"), SHAPES)
def test_a_row_does_not_feel_the_others(backend, dtype, kind, num_layers, bidirectional, tokens):
    """The bits of a row cut to its length and run by itself."""
    shape = {"num_layers": num_layers, "bidirectional": bidirectional}
    layer = make(kind, **shape, dtype=dtype, backend=backend)
    q = problem(layer, tokens=tokens)
    y, h_n = layer(q.x, q.h_0, lengths=LENGTHS)
    frozen, frozen_n = layer.freeze()(q.x, q.h_0, lengths=LENGTHS)
    assert same(frozen, y)
    recorded, recorded_n, tape = layer.record(q.x, q.h_0, lengths=LENGTHS)
    assert same(recorded, y)
    gradients = tape.backward(q.dy, q.dh_n)
    total = {name: np.zeros(value.shape) for name, value in layer.parameters.items()}
    for b, n in enumerate(LENGTHS):
        x = np.ascontiguousarray(q.x[:n, b : b + 1])
        alone, alone_n, own = layer.record(x, row(q.h_0, b))
        assert same(np.ascontiguousarray(y[:n, b : b + 1]), alone)
        assert not y[n:, b].any()
        for state in (h_n, frozen_n, recorded_n):
            for part, expected in zip(parts_of(row(state, b)), parts_of(alone_n), strict=True):
                assert same(part, expected)
        d = own.backward(np.ascontiguousarray(q.dy[:n, b : b + 1]), row(q.dh_n, b))
        if not tokens:
            assert same(np.ascontiguousarray(gradients.x[:n, b : b + 1]), d.x)
            assert not gradients.x[n:, b].any()
        assert same(row(gradients.h_0, b), d.h_0)
        if d.c_0 is not None:
            assert same(row(gradients.c_0, b), d.c_0)
        for name in total:
            total[name] += d.parameters[name]
    for name, expected in total.items():
        close(gradients.parameters[name], expected)


@pytest.mark.parametrize("kind", ["RNN", "relu", "projected", "GRU"])
@pytest.mark.parametrize(("num_layers", "bidirectional"), SHAPES)
def test_what_is_past_the_end_is_not_looked_at(backend, kind, num_layers, bidirectional):
    layer = make(kind, num_layers=num_layers, bidirectional=bidirectional, backend=backend)
    q = problem(layer)
    y, h_n, tape = layer.record(q.x, q.h_0, lengths=LENGTHS)
    gradients = tape.backward(q.dy, q.dh_n)
    for b, n in enumerate(LENGTHS):
        q.x[n:, b] = np.nan
        q.dy[n:, b] = np.nan
    y2, h_n2, tape2 = layer.record(q.x, q.h_0, lengths=LENGTHS, check_finite=True)
    gradients2 = tape2.backward(q.dy, q.dh_n)
    assert same(y2, y)
    assert same(layer(q.x, q.h_0, lengths=LENGTHS, check_finite=True)[0], y)
    assert same(parts_of(h_n2)[-1], parts_of(h_n)[-1])
    assert same(gradients2.x, gradients.x)
    assert same(gradients2.h_0, gradients.h_0)
    for name, value in gradients.parameters.items():
        assert same(gradients2.parameters[name], value)


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_full_lengths_say_nothing(backend, kind, bidirectional):
    layer = make(kind, num_layers=2, bidirectional=bidirectional, backend=backend)
    q = problem(layer)
    y, h_n = layer(q.x, q.h_0)
    y2, h_n2 = layer(q.x, q.h_0, lengths=[T] * B)
    assert same(y2, y)
    assert same(parts_of(h_n2)[0], parts_of(h_n)[0])


@pytest.mark.parametrize(
    "given",
    [
        LENGTHS,
        tuple(LENGTHS),
        *(np.array(LENGTHS, kind) for kind in ("i1", "u1", "i4", ">i8", "u8")),
        np.array([9, 3, 9, 0, 9, 5, 9, 1])[1::2],
        [np.int16(n) for n in LENGTHS],
    ],
    ids=["list", "tuple", "i1", "u1", "i4", "big-endian", "u8", "strided", "scalars"],
)
def test_any_integers(backend, given):
    layer = make("GRU", backend=backend)
    q = problem(layer)
    y, _, tape = layer.record(q.x, q.h_0, lengths=given)
    assert same(y, layer.record(q.x, q.h_0, lengths=np.array(LENGTHS))[0])
    assert tape.lengths.dtype == np.int64
    np.testing.assert_array_equal(tape.lengths, LENGTHS)


def test_one_sequence(backend):
    layer = make("LSTM", bidirectional=True, backend=backend)
    x = problem(layer).x[:, 0]
    y, (h_n, c_n) = layer(x, lengths=3)
    expected, (h, c) = layer(x[:3])
    assert same(np.ascontiguousarray(y[:3]), np.ascontiguousarray(expected))
    assert not y[3:].any()
    np.testing.assert_array_equal(h_n, h)
    np.testing.assert_array_equal(c_n, c)
    assert layer.record(x, lengths=np.uint8(3))[2].lengths == 3
    assert layer.record(x)[2].lengths is None


# ------------------------------------------------------------------------------------- errors

RANGE = "lengths: expected integers in [0, 5], got"


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ([5, 6, 1, 1], ValueError, f"{RANGE} 6 at batch row 1"),
        ([5, 5, -1, 1], ValueError, f"{RANGE} -1 at batch row 2"),
        (np.array([5, 5, 1, 2**64 - 1], np.uint64), ValueError, f"{RANGE} {2**64 - 1} at batch row 3"),
        ([1, 2, 3], ValueError, "lengths: expected shape (4,) = (batch,), got (3,)"),
        ([[1, 2, 3, 4]], ValueError, "lengths: expected shape (4,) = (batch,), got (1, 4)"),
        (3, ValueError, "lengths: expected shape (4,) = (batch,), got ()"),
        ([], ValueError, "lengths: expected shape (4,) = (batch,), got (0,)"),
        ([1.0, 2.0, 3.0, 4.0], TypeError, "lengths: expected integers, got float64"),
        (
            zeros(4),
            TypeError,
            "lengths: expected integers, got float32; write lengths.astype(np.int64)",
        ),
        (
            np.ones(4, bool),
            TypeError,
            "lengths: expected integers, got bool; write lengths.astype(np.int64)",
        ),
        (["a"] * 4, TypeError, "lengths: expected integers, got <U1"),
        ([None] * 4, TypeError, "lengths: expected integers, got object"),
        ([[1], [1, 2]], ValueError, "lengths: expected an array, got a list of unequal rows"),
    ],
)
def test_wrong_lengths(given, error, message):
    layer = bptt.GRU(I, 3, dtype=F8, backend="reference")
    x = zeros(T, B, I, dtype=F8)
    for call in (layer, layer.record, layer.freeze()):
        with raises(error, message):
            call(x, lengths=given)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (6, ValueError, f"{RANGE} 6"),
        (-1, ValueError, f"{RANGE} -1"),
        ([5], ValueError, "lengths: expected shape () = one integer for an unbatched sequence, got (1,)"),
        (2.5, TypeError, "lengths: expected integers, got float64"),
        (True, TypeError, "lengths: expected integers, got bool"),
    ],
)
def test_wrong_lengths_of_one_sequence(given, error, message):
    layer = bptt.GRU(I, 3, dtype=F8, backend="reference")
    with raises(error, message):
        layer(zeros(T, I, dtype=F8), lengths=given)


def test_none_of_no_rows(backend):
    layer = bptt.GRU(I, 3, backend=backend)
    assert layer(zeros(T, 0, I), lengths=[], reset=np.zeros((T, 0), bool))[0].shape == (T, 0, 3)

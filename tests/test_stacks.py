"""Stacks of every cell in one and two directions: values, gradients, layouts, what a tape holds."""

from __future__ import annotations

import numpy as np
import pytest
from kernel_problems import WORK_TO_SHARE, same
from numpy_layers import (
    LAYERS,
    NORMED,
    B,
    H,
    I,
    T,
    alike,
    check_gradients,
    forward,
    initial_of,
    make,
    parts_of,
    problem,
    size_of_h,
)
from numpy_rnn import close

import bptt

SHAPES = [(1, False), (2, False), (1, True), (3, True)]


def run(layer, q, **options):
    """Record, backward."""
    y, h_n, tape = layer.record(q.x, q.h_0, **options)
    return y, h_n, tape, tape.backward(q.dy, q.dh_n)


# ------------------------------------------------------------------------------------- values


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize(("num_layers", "bidirectional"), SHAPES)
@pytest.mark.parametrize("bias", [True, False])
def test_against_numpy(backend, kind, num_layers, bidirectional, bias):
    layer = make(kind, num_layers=num_layers, bidirectional=bidirectional, bias=bias, backend=backend)
    q = problem(layer)
    expected, final, units = forward(layer, q.x, q.h_0)
    y, h_n, tape, gradients = run(layer, q)
    close(y, expected)
    plain, plain_n = layer(q.x, q.h_0)
    assert same(plain, y)
    assert alike(plain_n, h_n)
    for actual, part in zip(parts_of(h_n), final, strict=True):
        close(actual, part)
    directions = 2 if bidirectional else 1
    for number, unit in enumerate(units):
        level, direction = divmod(number, directions)
        close(tape.h[level][direction], unit.h)
        if layer.__class__ is bptt.LSTM:
            close(tape.c[level][direction], unit.c)
        gates = tape.gates[level][direction]
        assert list(gates) == list(unit.gates)
        for name, gate in gates.items():
            close(gate, unit.gates[name])
    check_gradients(layer, q, gradients)
    assert list(gradients.parameters) == list(layer.parameters)


@pytest.mark.parametrize("kind", LAYERS)
def test_both_precisions(backend, kind):
    double = make(kind, num_layers=2, bidirectional=True, backend=backend)
    single = make(kind, num_layers=2, bidirectional=True, backend=backend, dtype=np.float32)
    single.load_state_dict({name: value.astype(np.float32) for name, value in double.parameters.items()})
    q, rounded = problem(double), problem(single)
    y, h_n, _, gradients = run(double, q)
    y4, h_n4, _, gradients4 = run(single, rounded)
    assert y4.dtype == np.float32
    close(y4, y, terms=1)
    for a, b in zip(parts_of(h_n4), parts_of(h_n), strict=True):
        assert a.dtype == np.float32
        close(a, b, terms=1)
    for name, value in gradients.parameters.items():
        close(gradients4.parameters[name], value)


@pytest.mark.parametrize("kind", NORMED)
@pytest.mark.parametrize(("num_layers", "bidirectional"), [(1, False), (2, True)])
def test_layer_norm(backend, kind, num_layers, bidirectional):
    shape = {"num_layers": num_layers, "bidirectional": bidirectional}
    layer = make(kind, layer_norm=True, **shape, backend=backend)
    q = problem(layer)
    y, h_n, _, gradients = run(layer, q)
    expected, final, _ = forward(layer, q.x, q.h_0)
    close(y, expected)
    for actual, part in zip(parts_of(h_n), final, strict=True):
        close(actual, part)
    check_gradients(layer, q, gradients)
    plain = make(kind, **shape, backend=backend)
    assert not np.allclose(plain(q.x, q.h_0)[0], y)


@pytest.mark.parametrize("kind", LAYERS)
def test_no_state_means_zeros(backend, kind):
    layer = make(kind, num_layers=2, bidirectional=True, backend=backend)
    q = problem(layer)
    zeros = tuple(np.zeros_like(part) for part in parts_of(q.h_0))
    y, h_n = layer(q.x)
    y0, h_n0 = layer(q.x, zeros if len(zeros) == 2 else zeros[0])
    assert same(y, y0)
    assert alike(h_n, h_n0)


@pytest.mark.parametrize("kind", ["RNN", "projected", "GRU"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_only_one_of_dy_and_dh_n(backend, kind, bidirectional):
    layer = make(kind, num_layers=2, bidirectional=bidirectional, backend=backend)
    q = problem(layer)
    tape = layer.record(q.x, q.h_0)[2]
    nothing = tuple(np.zeros_like(part) for part in parts_of(q.dh_n))
    nothing = nothing if len(nothing) == 2 else nothing[0]
    pairs = [((q.dy, None), (q.dy, nothing)), ((None, q.dh_n), (np.zeros_like(q.dy), q.dh_n))]
    for alone, both in pairs:
        a, b = tape.backward(*alone), tape.backward(*both)
        close(a.x, b.x)
        for part, expected in zip(initial_of(a), initial_of(b), strict=True):
            close(part, expected)
        for name, value in b.parameters.items():
            close(a.parameters[name], value)


# ------------------------------------------------------------------------------------- layouts


@pytest.mark.parametrize("kind", ["RNN", "projected", "GRU"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_batch_first(backend, kind, bidirectional):
    options = {"num_layers": 2, "bidirectional": bidirectional, "backend": backend}
    layer, turned = make(kind, **options), make(kind, **options, batch_first=True)
    q = problem(layer)
    lengths, reset = [5, 2, 0, 4], np.random.default_rng(0).random((T, B)) < 0.3
    y, h_n, tape = layer.record(q.x, q.h_0, lengths=lengths, reset=reset)
    x = np.ascontiguousarray(q.x.swapaxes(0, 1))
    y2, h_n2, tape2 = turned.record(x, q.h_0, lengths=lengths, reset=reset.T)
    assert y2.shape == (B, T, layer.output_size)
    assert same(np.ascontiguousarray(y2.swapaxes(0, 1)), y)
    assert same(np.ascontiguousarray(turned(x, q.h_0, lengths=lengths, reset=reset.T)[0]), y2.copy())
    assert alike(h_n2, h_n)
    a, b = tape.backward(q.dy, q.dh_n), tape2.backward(q.dy.swapaxes(0, 1), q.dh_n)
    np.testing.assert_array_equal(b.x, a.x.swapaxes(0, 1))
    assert alike(initial_of(b), initial_of(a))
    for name, value in a.parameters.items():
        assert same(b.parameters[name], value)
    for level in range(2):
        for direction in range(1 + bidirectional):
            h, h2 = tape.h[level][direction], tape2.h[level][direction]
            np.testing.assert_array_equal(h2, h.swapaxes(0, 1))
            for name, gate in tape.gates[level][direction].items():
                np.testing.assert_array_equal(tape2.gates[level][direction][name], gate.swapaxes(0, 1))
    np.testing.assert_array_equal(tape2.reset, reset.T)
    np.testing.assert_array_equal(tape2.lengths, lengths)
    np.testing.assert_array_equal(tape2.x, x)
    np.testing.assert_array_equal(tape2.y, y2)


@pytest.mark.parametrize("kind", ["RNN", "projected", "GRU"])
@pytest.mark.parametrize("batch_first", [False, True])
def test_unbatched(backend, kind, batch_first):
    options = {"num_layers": 2, "bidirectional": True, "backend": backend}
    plain, layer = make(kind, **options), make(kind, **options, batch_first=batch_first)
    q = problem(plain, batch=1)
    reset = np.array([False, True, False, False, True])
    y, h_n, tape = plain.record(q.x, q.h_0, lengths=[4], reset=reset[:, np.newaxis])
    a = tape.backward(q.dy, q.dh_n)

    def bare(state):
        parts = tuple(part[:, 0] for part in parts_of(state))
        return parts if len(parts) == 2 else parts[0]

    y1, h_n1, tape1 = layer.record(q.x[:, 0], bare(q.h_0), lengths=4, reset=reset)
    b = tape1.backward(q.dy[:, 0], bare(q.dh_n))
    assert y1.shape == (T, layer.output_size)
    np.testing.assert_array_equal(y1, y[:, 0])
    for one, many in zip(parts_of(h_n1), parts_of(h_n), strict=True):
        np.testing.assert_array_equal(one, many[:, 0])
    np.testing.assert_array_equal(b.x, a.x[:, 0])
    np.testing.assert_array_equal(b.h_0, a.h_0[:, 0])
    if kind == "projected":
        np.testing.assert_array_equal(b.c_0, a.c_0[:, 0])
        np.testing.assert_array_equal(tape1.c_0, q.h_0[1][:, 0])
        np.testing.assert_array_equal(tape1.c[1][1], tape.c[1][1][:, 0])
    np.testing.assert_array_equal(tape1.h_0, parts_of(q.h_0)[0][:, 0])
    np.testing.assert_array_equal(tape1.h[1][0], tape.h[1][0][:, 0])
    np.testing.assert_array_equal(tape1.reset, reset)
    assert tape1.lengths == 4
    for name, value in a.parameters.items():
        assert same(b.parameters[name], value)


@pytest.mark.parametrize("kind", LAYERS)
def test_tokens_are_one_hot_rows(backend, kind):
    layer = make(kind, num_layers=2, bidirectional=True, backend=backend)
    q = problem(layer, tokens=True)
    y, h_n, tape, a = run(layer, q)
    one_hot = np.eye(I)[q.x]
    expected, expected_n, other = layer.record(one_hot, q.h_0)
    b = other.backward(q.dy, q.dh_n)
    close(y, expected)
    assert a.x is None
    states = (*parts_of(h_n), *initial_of(a)), (*parts_of(expected_n), *initial_of(b))
    for part, wanted in zip(*states, strict=True):
        close(part, wanted)
    for name, value in b.parameters.items():
        close(a.parameters[name], value)
    np.testing.assert_array_equal(tape.x, q.x)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize(("steps", "batch"), [(0, 3), (4, 0), (0, 0)])
def test_empty(backend, kind, steps, batch):
    layer = make(kind, num_layers=2, bidirectional=True, dropout=0.3, zoneout=0.2, backend=backend)
    q = problem(layer, steps, batch)
    for y, h_n in (layer(q.x, q.h_0), layer.record(q.x, q.h_0, seed=1)[:2]):
        assert y.shape == (steps, batch, layer.output_size)
        for actual, initial in zip(parts_of(h_n), parts_of(q.h_0), strict=True):
            assert same(actual, initial) if steps == 0 else actual.shape == initial.shape
    gradients = layer.record(q.x, q.h_0, seed=1, lengths=[0] * batch)[2].backward(q.dy, q.dh_n)
    assert gradients.x.shape == q.x.shape
    assert alike(initial_of(gradients), q.dh_n)
    for name, value in layer.parameters.items():
        np.testing.assert_array_equal(gradients.parameters[name], np.zeros_like(value))


# ------------------------------------------------------------------------------------- the ground floor


def test_only_what_is_not_the_default_goes_down():
    """A lengths, reset, reverse or noise that says nothing would take the kernels' slower way."""
    told = []

    def spy(layer):
        unroll = layer._unroll

        def wrapped(*arguments, **options):
            told.append(sorted(set(options) - {"keep", "threads"}))
            return unroll(*arguments, **options)

        layer._unroll = wrapped
        return layer

    one, two = (
        spy(make("GRU", backend="reference")),
        spy(make("GRU", bidirectional=True, backend="reference")),
    )
    q = problem(one)
    one(q.x)
    one(q.x, lengths=[1, 2, 3, 4])
    one(q.x, lengths=[T] * B)
    one(q.x, reset=np.ones((T, B), bool))
    one(q.x, reset=np.arange(T)[:, np.newaxis] < [1, 1, 0, 0])  # where every row begins anyway
    two.record(q.x)
    spy(make("GRU", zoneout=0.1, backend="reference"))(q.x)
    assert told == [[], ["lengths"], [], ["reset"], [], [], ["reverse"], ["noise"]]


def test_threads_do_not_change_a_bit(backend):
    size = 400 if backend == "kernels" else H  # the reference has no threads
    assert size == H or 2 * T * B * 4 * size * (I + size) > WORK_TO_SHARE
    options = {"num_layers": 2, "bidirectional": True, "dropout": 0.5, "zoneout": 0.2}
    layer = make("LSTM", hidden_size=size, **options, backend=backend)
    q = problem(layer)
    y, h_n, tape = layer.record(q.x, q.h_0, seed=3, threads=1)
    y2, h_n2, tape2 = layer.record(q.x, q.h_0, seed=3, threads=3)
    assert same(y2, y)
    assert alike(h_n2, h_n)
    a, b = tape.backward(q.dy, q.dh_n, threads=1), tape2.backward(q.dy, q.dh_n, threads=3)
    assert same(b.x, a.x)
    assert alike(initial_of(b), initial_of(a))
    for name, value in a.parameters.items():
        assert same(b.parameters[name], value)


# ------------------------------------------------------------------------------------- what a tape holds


@pytest.mark.parametrize("kind", LAYERS)
def test_shapes_on_a_tape(backend, kind):
    layer = make(
        kind,
        num_layers=2,
        bidirectional=True,
        dropout=0.3,
        recurrent_dropout=0.2,
        zoneout=0.1,
        backend=backend,
    )
    q, R = problem(layer), size_of_h(layer)
    y, _, tape = layer.record(q.x, q.h_0, seed=0)
    assert tape.y.shape == y.shape == (T, B, 2 * R)
    assert tape.h_0.shape == (4, B, R)
    for name, shape in [("h", (T, B, R)), ("recurrent_dropout", (B, R)), ("zoneout_h", (T, B, R))]:
        found = getattr(tape, name)
        assert [[a.shape for a in level] for level in found] == [[shape, shape]] * 2
    assert [mask.shape for mask in tape.dropout] == [(T, B, 2 * R)]
    assert [len(level) for level in tape.gates] == [2, 2]
    if layer.__class__ is bptt.LSTM:
        assert tape.c_0.shape == (4, B, H)
        assert [[a.shape for a in level] for level in tape.c] == [[(T, B, H)] * 2] * 2
        assert tape.zoneout_c[1][1].shape == (T, B, H)
        assert tape.cell == "lstm"
        assert list(tape.gates[1][1]) == ["i", "f", "g", "o"]
    else:
        assert tape.c_0 is tape.c is tape.zoneout_c is None
    assert tape.nonlinearity == getattr(layer, "nonlinearity", None)
    assert list(tape.parameters) == list(layer.parameters)
    for name, value in tape.parameters.items():
        assert same(value, layer.parameters[name])


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_a_tape_is_read_only_and_holds_views(backend, kind):
    noise = {"dropout": 0.3, "recurrent_dropout": 0.2, "zoneout": 0.1}
    layer = make(kind, num_layers=2, bidirectional=True, **noise, backend=backend)
    q = problem(layer)
    y, h_n, tape = layer.record(q.x, q.h_0, seed=0, lengths=[5, 1, 2, 3], reset=np.zeros((T, B), bool))
    arrays = [y, tape.x, tape.y, tape.h_0, tape.h[1][1], tape.lengths, tape.reset, tape.dropout[0]]
    arrays += [tape.recurrent_dropout[0][0], tape.zoneout_h[1][0], *tape.gates[0][1].values()]
    arrays += [*tape.parameters.values()]
    if kind == "LSTM":
        arrays += [tape.c_0, tape.c[1][1], tape.zoneout_c[0][0]]
    for a in arrays:
        with pytest.raises(ValueError, match="read-only"):
            a[...] = 0
    assert np.shares_memory(tape.h[1][1], tape.h[1][1])
    for gate in tape.gates[0][1]:
        assert np.shares_memory(tape.gates[0][1][gate], tape.gates[0][1][gate])
    for part in parts_of(h_n):
        part[...] = 9
    assert not np.shares_memory(parts_of(h_n)[0], tape.h_0)


def test_a_tape_survives_changes(backend):
    layer = make("LSTM", input_size=6, num_layers=2, bidirectional=True, dropout=0.2, backend=backend)
    q = problem(layer, tokens=True)
    lengths, reset = np.array([5, 3, 0, 4]), np.random.default_rng(1).random((T, B)) < 0.3
    _, h_n, tape = layer.record(q.x, q.h_0, lengths=lengths, reset=reset, seed=5)
    before, old = tape.backward(q.dy, q.dh_n), layer.state_dict()
    q.x[...] = 1_000_000
    lengths[...] = 1_000
    reset[...] = True
    for value in (*q.h_0, *h_n, *layer.parameters.values()):
        value[...] = 9
    after = tape.backward(q.dy, q.dh_n)
    assert same(after.h_0, before.h_0)
    assert same(after.c_0, before.c_0)
    for name, value in before.parameters.items():
        assert same(after.parameters[name], value)
        assert same(tape.parameters[name], old[name])


def test_gradients_are_new_arrays(backend):
    layer = make("LSTM", num_layers=2, bidirectional=True, backend=backend)
    q = problem(layer)
    tape = layer.record(q.x, q.h_0)[2]
    kept_dy, kept_dh_n = q.dy.copy(), [part.copy() for part in q.dh_n]
    first = tape.backward(q.dy, q.dh_n)
    values = [first.x, first.h_0, first.c_0, *first.parameters.values()]
    kept = [value.copy() for value in values]
    for value in values:
        value += 1
    second = tape.backward(q.dy, q.dh_n)
    for value, expected in zip(
        [second.x, second.h_0, second.c_0, *second.parameters.values()], kept, strict=True
    ):
        assert same(value, expected)
    assert same(q.dy, kept_dy)
    assert alike(q.dh_n, tuple(kept_dh_n))

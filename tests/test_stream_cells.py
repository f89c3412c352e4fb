"""Stream of every cell and of stacks: the bits of one call, step by step; resets, states, copies, errors."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from errors import F4, F8, raises, zeros
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_problems import same
from numpy_layers import LAYERS, NORMED, B, H, I, T, alike, make, parts_of, problem, size_of_h

import bptt
from bptt.checks import NONLINEARITIES


def zero_state(layer, batch):
    sizes = [size_of_h(layer)] + [layer.hidden_size] * isinstance(layer, bptt.LSTM)
    parts = tuple(np.zeros((layer.num_layers, batch, size), layer.dtype) for size in sizes)
    return parts if len(parts) == 2 else parts[0]


# ------------------------------------------------------------------------------------- the same bits


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("num_layers", [1, 3])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("tokens", [False, True])
def test_steps_are_the_whole_call(backend, dtype, kind, num_layers, batch, tokens):
    layer = make(kind, num_layers=num_layers, dtype=dtype, backend=backend)
    q = problem(layer, batch=batch, tokens=tokens)
    y, h_n = layer(q.x, q.h_0)
    stream = layer.stream(batch, q.h_0)
    assert alike(stream.state, q.h_0)
    for t, frame in enumerate(q.x):
        assert same(stream.step(frame), y[t])
    assert alike(stream.state, h_n)


@pytest.mark.parametrize(
    ("kind", "option", "value"),
    [
        *((kind, "zoneout", 0.3) for kind in LAYERS),
        *((kind, "recurrent_dropout", 0.5) for kind in LAYERS),
        *((kind, "layer_norm", True) for kind in NORMED),
    ],
)
def test_options(backend, kind, option, value):
    layer = make(kind, num_layers=2, **{option: value}, backend=backend)
    q = problem(layer)
    y, _ = layer(q.x, q.h_0)
    stream = layer.stream(B, q.h_0)
    assert same(np.stack([stream.step(frame) for frame in q.x]), y)


@pytest.mark.kernels
@pytest.mark.parametrize("kind", ["LSTM", "projected", "peepholes", "GRU", "reset_before"])
def test_steps_of_every_size(kind, dtype):
    # widths around the tiles and the caches of every variant, and batches around the tile's height
    for hidden in (3, 8, 16, 17, 33, 64, 96, 130, 257):
        for batch in (1, 2, 3, 4, 5, 50) if hidden < 257 else (1, 3):
            for tokens in (False, True):
                layer = make(kind, 21, hidden, dtype=dtype)
                q = problem(layer, 3, batch, tokens)
                y, h_n = layer(q.x, q.h_0)
                stream = layer.stream(batch, q.h_0)
                for t, frame in enumerate(q.x):
                    assert same(stream.step(frame), y[t]), (hidden, batch, tokens, t)
                assert alike(stream.state, h_n)


@pytest.mark.kernels
@settings(max_examples=100)
@given(
    data=st.data(),
    kind=st.sampled_from(sorted(LAYERS)),
    dtype=st.sampled_from([F4, F8]),
    size=st.sampled_from([3, 16, 31, 64, 130, 260]),
    steps=st.integers(1, 12),
    batch=st.sampled_from([1, 1, 2, 5]),
    num_layers=st.integers(1, 2),
    tokens=st.booleans(),
)
def test_any_cut(data, kind, dtype, size, steps, batch, num_layers, tokens):
    """Pieces by the layer, by its frozen copy and by a stream, in any order."""
    own = {"nonlinearity": data.draw(st.sampled_from(NONLINEARITIES))} if kind == "RNN" else {}
    layer = make(kind, 9, size, num_layers=num_layers, dtype=dtype, **own)
    frozen, q = layer.freeze(), problem(layer, steps, batch, tokens)
    whole, h_n = layer(q.x, q.h_0)
    cuts = sorted(data.draw(st.sets(st.integers(0, steps), max_size=4), label="cuts"))
    stream, h, y = frozen.stream(batch), q.h_0, []
    for start, stop in zip([0, *cuts], [*cuts, steps], strict=True):
        way = data.draw(st.sampled_from(["layer", "frozen", "stream"]), label="way")
        if way == "stream":
            stream.reset(h)
            y += [stream.step(frame)[np.newaxis] for frame in q.x[start:stop]]
            h = stream.state
        else:
            piece, h = (layer if way == "layer" else frozen)(q.x[start:stop], h)
            y.append(piece)
    assert same(np.concatenate(y), whole)
    assert alike(h, h_n)


# ------------------------------------------------------------------------------------- frames and out


@pytest.mark.parametrize("kind", ["RNN", "projected", "GRU"])
@pytest.mark.parametrize("num_layers", [1, 2])
def test_one_sequence_without_its_batch_axis(backend, dtype, kind, num_layers):
    layer = make(kind, num_layers=num_layers, dtype=dtype, backend=backend)
    q = problem(layer, batch=1)
    y, _ = layer(q.x, q.h_0)
    bare = tuple(part[:, 0] for part in parts_of(q.h_0))
    stream = layer.stream(h_0=bare if len(bare) == 2 else bare[0])
    out = np.empty(layer.output_size, dtype)
    for t, frame in enumerate(q.x[:, 0]):
        y_t = stream.step(frame, out if t % 2 else None)
        assert y_t.shape == (layer.output_size,)
        assert (y_t is out) == bool(t % 2)
        assert same(y_t, y[t, 0])
    assert [part.shape[1] for part in parts_of(stream.state)] == [1] * len(bare)


@pytest.mark.parametrize("kind", ["RNN", "projected", "GRU"])
@pytest.mark.parametrize("num_layers", [1, 2])
def test_frames_of_both_kinds_and_out(backend, kind, num_layers):
    layer = make(kind, num_layers=num_layers, backend=backend)
    rng = np.random.default_rng(0)
    numbers, ids = rng.normal(size=(2, B, I)), rng.integers(I, size=(2, B))
    stream, h, out = layer.stream(B), None, np.empty((B, layer.output_size))
    for frame in (numbers[0], ids[0], ids[1], numbers[1].tolist()):
        y, h = layer(np.asarray(frame)[np.newaxis], h)
        assert stream.step(frame, out=out) is out
        assert same(out, y[0])


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
@pytest.mark.parametrize("num_layers", [1, 2])
def test_out_may_be_x(backend, kind, num_layers):
    layer = make(kind, H, H, num_layers=num_layers, backend=backend)
    memory = np.random.default_rng(2).normal(size=(B, H))
    plain, stream = layer.stream(B), layer.stream(B)
    for _ in range(3):
        expected = plain.step(memory.copy())
        stream.step(memory, out=memory)
        assert same(memory, expected)


# ------------------------------------------------------------------------------------- resets


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("zoneout", [0.0, 0.2])
def test_resets_are_those_of_one_call(backend, kind, num_layers, zoneout):
    layer = make(kind, num_layers=num_layers, zoneout=zoneout, backend=backend)
    q = problem(layer, steps=8)
    reset = np.random.default_rng(4).random((8, B)) < 0.4
    reset[5], reset[7] = True, False
    y, h_n = layer(q.x, q.h_0, reset=reset)
    stream = layer.stream(B, q.h_0)
    for t, frame in enumerate(q.x):
        rows = (True if reset[t].all() else False if not reset[t].any() else reset[t]) if t % 2 else reset[t]
        assert same(stream.step(frame, reset=rows.tolist() if t == 3 else rows), y[t])
    assert alike(stream.state, h_n)


def test_resets_go_back_to_what_the_stream_was_reset_to(backend):
    layer = make("LSTM", num_layers=2, backend=backend)
    q, other = problem(layer), problem(layer, seed=8)
    stream = layer.stream(B, q.h_0)
    stream.step(q.x[0])
    stream.state = other.h_0  # where it goes on, not where it begins
    for part in q.h_0:
        part[...] = 0  # was copied
    q = problem(layer)
    assert same(stream.step(q.x[1], reset=True), layer(q.x[1:2], q.h_0)[0][0])
    stream.reset(other.h_0)
    stream.step(q.x[2])
    assert same(stream.step(q.x[3], reset=np.True_), layer(q.x[3:4], other.h_0)[0][0])
    stream.reset()
    stream.step(q.x[2])
    assert same(stream.step(q.x[3], reset=[True] * B), layer(q.x[3:4])[0][0])


@pytest.mark.parametrize("num_layers", [1, 2])
def test_a_reset_of_a_new_stream_and_with_a_new_kind_of_frame(backend, num_layers):
    layer = make("GRU", num_layers=num_layers, backend=backend)
    q, ids = problem(layer), np.array([0, 2, 1, 2])
    stream = layer.stream(B, q.h_0)
    assert same(stream.step(q.x[0], reset=True), layer(q.x[:1], q.h_0)[0][0])
    rows = np.array([True, False, True, False])
    both = np.concatenate([np.zeros((1, B), bool), rows[np.newaxis]])
    one_hot = np.stack([q.x[0], np.eye(I)[ids]])
    expected = layer(one_hot, q.h_0, reset=both)[0][1]
    np.testing.assert_allclose(stream.step(ids, reset=rows), expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize(
    ("given_", "error", "message"),
    [
        ([True] * 3, ValueError, "reset: expected shape (4,) = (batch,), got (3,)"),
        (np.ones((4, 1), bool), ValueError, "reset: expected shape (4,) = (batch,), got (4, 1)"),
        (1, TypeError, "reset: expected bool, got int64"),
        (zeros(4), TypeError, "reset: expected bool, got float32; write reset.astype(bool)"),
    ],
)
def test_wrong_resets(backend, given_, error, message):
    layer = make("LSTM", num_layers=2, backend=backend)
    q = problem(layer)
    stream = layer.stream(B, q.h_0)
    for _ in range(2):
        before = stream.state
        with raises(error, message):
            stream.step(q.x[0], reset=given_)
        assert alike(stream.state, before)
        stream.step(q.x[0])


# ------------------------------------------------------------------------------------- states, copies


@pytest.mark.parametrize("kind", ["RNN", "projected", "GRU"])
@pytest.mark.parametrize("num_layers", [1, 2])
def test_state(backend, kind, num_layers):
    layer = make(kind, num_layers=num_layers, backend=backend)
    q, other = problem(layer), problem(layer, seed=8)
    stream = layer.stream(B)
    for part in parts_of(stream.state):
        part[...] = 9  # not the stream's own
    assert alike(stream.state, zero_state(layer, B))
    stream.step(q.x[0])
    for part in parts_of(stream.state):
        part[...] = 9
    assert alike(stream.state, layer(q.x[:1])[1])
    stream.state = other.h_0
    assert alike(stream.state, other.h_0)
    assert same(stream.step(q.x[1]), layer(q.x[1:2], other.h_0)[0][0])


def test_half_a_pair(backend):
    layer = make("projected", num_layers=2, backend=backend)
    q = problem(layer)
    h_0, c_0 = q.h_0
    for state, whole in [((h_0, None), (h_0, np.zeros_like(c_0))), ([None, c_0], (np.zeros_like(h_0), c_0))]:
        expected, _ = layer(q.x, whole)
        assert same(layer(q.x, state)[0], expected)
        assert same(layer.freeze()(q.x, state)[0], expected)
        stream = layer.stream(B, state)
        assert alike(stream.state, whole)
        assert same(stream.step(q.x[0]), expected[0])


def pickled(stream):
    return pickle.loads(pickle.dumps(stream))


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickled])
def test_copies_go_on_by_themselves(backend, kind, steps, duplicate):
    layer = make(kind, num_layers=2, backend=backend)
    q = problem(layer)
    stream = layer.stream(B, q.h_0)
    for frame in q.x[:steps]:
        stream.step(frame)
    twin = duplicate(stream)
    stream.step(q.x[3])  # does not reach the twin
    y, _ = layer(q.x, q.h_0)
    assert same(np.stack([twin.step(frame) for frame in q.x[steps:]]), y[steps:])
    assert same(twin.step(q.x[0], reset=True), y[0])  # it knows where it began
    assert repr(twin) == repr(stream)
    assert (twin.rnn is stream.rnn) == (duplicate is not pickled)


# ------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_both_directions_are_refused(kind):
    layer = make(kind, bidirectional=True, backend="reference")
    message = (
        "stream: expected a layer of one direction, got bidirectional=True, which needs the whole sequence"
    )
    for owner in (layer, layer.freeze()):
        with raises(ValueError, message):
            owner.stream()


LSTM_STATE = "h_0: expected a pair of arrays (h_0, c_0), got"


@pytest.mark.parametrize(
    ("h", "error", "message"),
    [
        (zeros(2, 4, 3, dtype=F8), TypeError, f"{LSTM_STATE} one ndarray"),
        ((zeros(2, 4, 2, dtype=F8),), TypeError, f"{LSTM_STATE} 1 of them"),
        (
            (zeros(1, 4, 2, dtype=F8), zeros(2, 4, 4, dtype=F8)),
            ValueError,
            "h_0: expected shape (2, 4, 2) = (num_layers, batch, proj_size), got (1, 4, 2)",
        ),
        (
            (zeros(2, 4, 2, dtype=F8), zeros(2, 4, 2, dtype=F8)),
            ValueError,
            "c_0: expected shape (2, 4, 4) = (num_layers, batch, hidden_size), got (2, 4, 2)",
        ),
        (
            (zeros(2, 4, 2, dtype=F8), zeros(2, 4, 4)),
            TypeError,
            "c_0: expected float64 (the layer's dtype), got float32; write c_0.astype(np.float64)",
        ),
    ],
)
def test_wrong_states_of_an_lstm(backend, h, error, message):
    layer = make("projected", num_layers=2, backend=backend)
    with raises(error, message):
        layer.stream(4, h)
    stream = layer.stream(4)
    named = message.replace("(h_0, c_0)", "(state of h, state of c)").replace(
        "write c_0.", "write state of c."
    )
    named = named.replace("h_0:", "state of h:").replace("c_0:", "state of c:")
    for _ in range(2):
        before = stream.state
        with raises(error, message):
            stream.reset(h)
        with raises(error, named):
            stream.state = h
        assert alike(stream.state, before)
        stream.step(zeros(4, I, dtype=F8))


def test_unequal_rows_of_a_cell_state():
    stream = bptt.LSTM(I, 4, seed=0).stream()
    with raises(ValueError, "c_0: expected an array, got a list of unequal rows"):
        stream.reset((None, [[0.0], [0.0, 1.0]]))


@pytest.mark.parametrize("kind", ["RNN", "projected", "GRU"])
@pytest.mark.parametrize("num_layers", [1, 2])
def test_nothing_moves_when_a_step_fails(backend, kind, num_layers):
    layer = make(kind, num_layers=num_layers, backend=backend)
    stream, x = layer.stream(B), np.ones((B, I))
    R = layer.output_size
    label = "proj_size" if kind == "projected" else "hidden_size"
    for _ in range(2):
        before = stream.state
        with raises(ValueError, f"x: expected shape ({B}, {I}) = (batch, input_size), got ({B}, 9)"):
            stream.step(zeros(B, 9, dtype=F8), reset=True)
        with raises(ValueError, f"out: expected shape ({B}, {R}) = (batch, {label}), got ({B}, 9)"):
            stream.step(x, out=zeros(B, 9, dtype=F8), reset=True)
        with raises(TypeError, "out: expected float64 (the layer's dtype), got float32"):
            stream.step(x, out=zeros(B, R))
        assert alike(stream.state, before)
        stream.step(x)


def test_steps_are_counted(backend):
    """T steps of a stack leave every layer T steps on, whatever was refused between."""
    layer = make("LSTM", num_layers=3, backend=backend)
    q = problem(layer)
    stream = layer.stream(B, q.h_0)
    for t in range(T):
        with pytest.raises(TypeError):
            stream.step(q.x[t].astype(F4))
        stream.step(q.x[t], out=np.empty((B, H)) if t % 2 else None)
    assert alike(stream.state, layer(q.x, q.h_0)[1])

"""The same bits, whatever the run, the memory or the layout."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from kernel_problems import differing, extras, problem, results, same
from reference_problems import GATES

import bptt

pytestmark = pytest.mark.kernels

# ------------------------------------------------------------------------------------- a seed


LAYERS = {"RNN": bptt.RNN, "LSTM": bptt.LSTM, "GRU": bptt.GRU}


def train(layer, seed, dtype, threads):
    rnn = LAYERS[layer](5, 24, num_layers=2, dropout=0.2, zoneout=0.1, dtype=dtype, seed=1)
    network = bptt.Network(rnn, bptt.Linear(24, 5, dtype=dtype, seed=2))
    rng = np.random.default_rng(3)
    tokens = rng.integers(5, size=(12, 20))
    history = network.fit(
        tokens[:-1],
        tokens[1:],
        epochs=3,
        optimizer=bptt.Adam(1e-2),
        batch_size=6,
        truncation=5,
        clip_norm=1.0,
        validation_data=(tokens[:-1, :4], tokens[1:, :4]),
        seed=seed,
        progress=False,
        threads=threads,
    )
    return network.parameters, {name: values for name, values in history.items() if name != "seconds"}


@pytest.mark.parametrize("layer", LAYERS)
def test_a_seed_gives_the_same_training(layer, dtype):
    parameters, history = train(layer, 4, dtype, 1)
    for threads in (1, 2):
        again, history_again = train(layer, 4, dtype, threads)
        assert differing(again, parameters) == []
        assert history_again == history
    other, _ = train(layer, 5, dtype, 1)
    assert differing(other, parameters)


# ------------------------------------------------------------------------------------- calls and memory


@pytest.mark.parametrize("cell", ["tanh", *GATES])
@pytest.mark.parametrize(
    ("T", "B", "I", "H", "depth"), [(7, 5, 9, 33, None), (40, 33, 70, 130, None), (20, 37, 80, 130, 4)]
)
def test_repeated_calls(T, B, I, H, depth, cell, dtype):
    for features in ((), extras(cell)):
        p = problem(T, B, I, H, cell=cell, dtype=dtype, depth=depth, features=features)
        first = results(p, threads=2)
        for _ in range(4):
            assert differing(results(p, threads=2), first) == []


def moved(array, offset):
    """The same numbers, `offset` of them after the start of a buffer of their own."""
    if array is None:
        return None
    offset *= array.itemsize
    buffer = bytearray(array.nbytes + offset)
    view = np.frombuffer(buffer, array.dtype, array.size, offset).reshape(array.shape)
    view[...] = array
    return view


@pytest.mark.parametrize("cell", ["tanh", *GATES])
@pytest.mark.parametrize("offset", [1, 3, 5, 8])
@pytest.mark.parametrize(("T", "B", "H"), [(5, 3, 17), (4, 7, 64), (3, 1, 130)])
def test_alignment(offset, T, B, H, cell, dtype):
    """Arrays that start on any number, not on a vector or a cache line."""
    for features in ((), extras(cell)):
        p = problem(T, B, 6, H, cell=cell, dtype=dtype, features=features)
        options = dict(p.options)
        for name in {"lengths", "reset"} & options.keys():
            options[name] = moved(options[name], offset)
        if "noise" in options:
            noise = options["noise"]
            masks = {name: moved(getattr(noise, name), offset) for name in ("dropout", "kept_h", "kept_c")}
            options["noise"] = noise._replace(**masks)
        shifted = replace(
            p,
            x=moved(p.x, offset),
            state=tuple(moved(part, offset) for part in p.state),
            weights=type(p.weights)(*(moved(w, offset) for w in p.weights)),
            dy=moved(p.dy, offset),
            dfinal=tuple(moved(part, offset) for part in p.dfinal),
            options=options,
        )
        assert differing(results(shifted), results(p)) == []


def moved_bytes(array, offset):
    """The same numbers, `offset` bytes after the start of a buffer of their own."""
    return moved(array.view(np.uint8), offset).view(array.dtype)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("offset", [1, 2, 3, 4])
def test_alignment_between_numbers(offset, layer, dtype):
    """A layer takes arrays that start on any byte."""
    rnn = LAYERS[layer](6, 17, dtype=dtype, seed=0)
    p = problem(5, 3, 6, 17, cell="lstm" if layer == "LSTM" else "tanh", dtype=dtype)
    answers = []
    for shift in (0, offset):
        x, h_0, dy, *c_0 = (moved_bytes(a, shift) for a in (p.x, p.h_0[np.newaxis], p.dy, *p.state[1:]))
        y, final, tape = rnn.record(x, (h_0, c_0[0][np.newaxis]) if c_0 else h_0)
        gradients = tape.backward(dy)
        answers.append({"y": y, "h_n": final[0], "x": gradients.x, "h_0": gradients.h_0})
        answers[-1] |= gradients.parameters
    assert differing(*answers) == []


@pytest.mark.parametrize("layer", LAYERS)
def test_strides(layer, dtype):
    """A layer gives the same bits for a view and for its copy."""
    p = problem(6, 8, 10, 17, dtype=dtype)
    rnn = LAYERS[layer](5, 17, dtype=dtype, seed=0)
    view = p.x[::-2, 1::3, ::2]
    assert not view.flags.c_contiguous
    (y, final), (of_copy, final_of_copy) = rnn(view), rnn(view.copy())
    assert same(y, of_copy)
    assert same(np.array(final), np.array(final_of_copy))

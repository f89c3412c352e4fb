"""Packed weights that a layer keeps: never those of other numbers, and only where they stay."""

from __future__ import annotations

import copy
import threading
import warnings

import numpy as np
import pytest
from kernel_problems import same

import bptt
from bptt import kernels
from bptt.kernels import remember

pytestmark = pytest.mark.kernels

T, B, I, H = 30, 2, 5, 6

LAYERS = {
    "rnn": lambda dtype: bptt.RNN(I, H, dtype=dtype, seed=1),
    "lstm": lambda dtype: bptt.LSTM(I, H, dtype=dtype, seed=1, proj_size=3, peepholes=True),
    "gru": lambda dtype: bptt.GRU(I, H, dtype=dtype, seed=1, layer_norm=True),
    "gru_reset_before": lambda dtype: bptt.GRU(I, H, dtype=dtype, seed=1, reset_after=False),
    "stack": lambda dtype: bptt.GRU(I, H, num_layers=2, bidirectional=True, dtype=dtype, seed=1),
}


def frames(dtype, steps=T, features=I):
    return np.random.default_rng(0).normal(size=(steps, B, features)).astype(dtype)


def anew(layer, x):
    """Return y of a layer that has made no call yet, with the same parameters."""
    return copy.deepcopy(layer)(x)[0]


def held(layer):
    return sum(unit.held for unit in layer._weights(False))


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("steps", [1, T])
def test_any_number_may_change(name, steps, dtype):
    """The first and the last of each parameter, by one bit, once packed weights are kept."""
    layer, x = LAYERS[name](dtype), frames(dtype, steps)
    for key, value in layer.parameters.items():
        for at in (0, value.size - 1):
            for _ in range(3):
                before = layer(x)[0]
            assert held(layer) == sum(value.nbytes for value in layer.parameters.values())
            flat = value.reshape(-1)
            was = flat[at]
            # enough that no rounding hides it
            flat[at] = was + 1
            after = layer(x)[0]
            assert same(after, anew(layer, x)), key
            assert not same(after, before) or steps == 1, key  # one step from zeros reads no W_hh
            flat[at] = was
            assert same(layer(x)[0], before), key


def swap(values, i, k, n=1):
    """Exchange n numbers from i on with those from k on."""
    values[i : i + n], values[k : k + n] = values[k : k + n].copy(), values[i : i + n].copy()


# Of 4,096 numbers, too many to be compared with a copy where there is something quicker: what sums would not
# notice, and neighbours of one 16 bytes, of the same chain of them (128 numbers on) and of others.
EDITS = {
    "one": lambda w: swap(w, 0, 1),
    "within 16 bytes": lambda w: swap(w, 8, 11),
    "neighbouring links": lambda w: swap(w, 4, 8, 4),
    "links of a chain": lambda w: swap(w, 4, 132, 4),
    "links of a chain, far apart": lambda w: swap(w, 100, 100 + 128 * 20, 4),
    "rows": lambda w: swap(w, 0, 64, 64),
    "halves": lambda w: swap(w, 0, 2048, 2048),
    "all by one": lambda w: w.__setitem__(slice(None), np.roll(w, 1)),
    "all by a link": lambda w: w.__setitem__(slice(None), np.roll(w, 128)),
    "backwards": lambda w: w.__setitem__(slice(None), w[::-1].copy()),
    "signs": lambda w: np.negative(w, out=w),
    "twice": lambda w: np.multiply(w, 2, out=w),
    "zeros": lambda w: w.fill(0),
    "a sum that stays": lambda w: w.__setitem__(slice(0, 256, 128), w[0:256:128] + np.float32([0.5, -0.5])),
}


@pytest.mark.parametrize("name", EDITS)
def test_changes_of_many_numbers(name):
    layer, x = bptt.RNN(64, 64, seed=1), frames(np.float32, features=64)
    for key in ("weight_ih_l0", "weight_hh_l0"):
        value = layer.parameters[key].reshape(-1)
        for _ in range(3):
            before = layer(x)[0]
        assert held(layer) > 0
        was = value.copy()
        EDITS[name](value)
        after = layer(x)[0]
        assert not same(after, before)
        assert same(after, anew(layer, x))
        value[:] = was


def test_numbers_that_change_places():
    """Between two parameters: all together the numbers are the same, one after the other."""
    layer, x = bptt.RNN(64, 64, seed=1), frames(np.float32, features=64)
    for _ in range(3):
        before = layer(x)[0]
    ih, hh = layer.parameters["weight_ih_l0"], layer.parameters["weight_hh_l0"]
    ih[:], hh[:] = hh.copy(), ih.copy()
    after = layer(x)[0]
    assert not same(after, before)
    assert same(after, anew(layer, x))


@pytest.mark.parametrize("features", [1, 63, 90, 127])
def test_any_number_of_many_may_change(features):
    """In matrices that are no whole number of 512 bytes."""
    layer, x = bptt.RNN(features, 50, nonlinearity="identity", seed=1), frames(np.float32, features=features)
    rng = np.random.default_rng(0)
    for value in layer.parameters.values():
        flat = value.reshape(-1)
        for at in {0, *rng.integers(flat.size, size=12).tolist(), flat.size - 1}:
            for _ in range(3):
                layer(x)
            assert held(layer) > 0
            flat[at] += 1
            assert same(layer(x)[0], anew(layer, x)), at


def test_changes_of_sign_and_nan():
    layer, x = bptt.RNN(I, H, nonlinearity="identity", seed=1), frames(np.float32)
    layer.parameters["weight_ih_l0"][:] = 0
    layer.parameters["bias_ih_l0"][:] = layer.parameters["bias_hh_l0"][:] = -0.0
    for value in (0.0, -0.0, np.nan, 0.0):
        for _ in range(3):
            layer.parameters["weight_ih_l0"][0, 0] = value
            assert same(layer(x)[0], anew(layer, x))


def test_other_arrays_and_loaded_ones():
    layer, x = bptt.RNN(I, H, seed=1), frames(np.float32)
    other = bptt.RNN(I, H, seed=2)
    first = [layer(x)[0] for _ in range(3)][-1]
    layer.load_state_dict(other.state_dict())
    assert same(layer(x)[0], other(x)[0])
    for _ in range(3):
        layer(x)
    layer.parameters["weight_hh_l0"] = bptt.RNN(I, H, seed=1).parameters["weight_hh_l0"]
    assert same(layer(x)[0], anew(layer, x))
    layer.load_state_dict(bptt.RNN(I, H, seed=1).state_dict())
    assert same(layer(x)[0], first)


def test_a_shape_set_in_place_is_refused_as_at_the_first_call():
    layer, x = bptt.RNN(I, H, seed=1), frames(np.float32)
    for _ in range(3):
        layer(x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        layer.parameters["weight_ih_l0"].shape = (I, H)
    with pytest.raises(ValueError, match="weight"):
        layer(x)


def test_numbers_and_tokens_in_turn():
    layer, x = bptt.RNN(I, H, seed=1), frames(np.float32)
    ids = np.random.default_rng(0).integers(I, size=(T, B))
    for _ in range(4):
        for _ in range(3):
            assert same(layer(x)[0], anew(layer, x))
        for _ in range(3):
            assert same(layer(ids)[0], anew(layer, ids))


def test_a_tape_has_its_own():
    """Packed weights that calls share have nothing for a backward pass."""
    layer, x = bptt.LSTM(I, H, seed=1), frames(np.float32)
    for _ in range(3):
        layer(x)
    y, _, tape = layer.record(x)
    layer.parameters["weight_hh_l0"][:] = 0
    fresh = bptt.LSTM(I, H, seed=1).record(x)[2]
    for mine, expected in zip(
        tape.backward(y).parameters.values(), fresh.backward(y).parameters.values(), strict=True
    ):
        assert same(mine, expected)


def test_weights_in_training_are_not_kept():
    layer, x = bptt.RNN(I, H, seed=1), frames(np.float32)
    for _ in range(5):
        layer(x)
        for value in layer.parameters.values():
            value += 0.01
        assert held(layer) == 0


def test_large_ones_are_not_kept():
    large = bptt.RNN(8, 4200, seed=1)  # 67.4 MiB
    x = frames(np.float32, 2, 8)
    for _ in range(3):
        large(x)
    assert held(large) == 0


def test_what_was_kept_goes_when_the_weights_change():
    layer, x = bptt.RNN(I, H, seed=1), frames(np.float32)
    for _ in range(3):
        layer(x)
    assert held(layer) > 0
    layer.parameters["weight_hh_l0"] += 1
    layer(x)
    assert held(layer) == 0


def test_what_was_kept_goes_when_changed_weights_are_recorded():
    layer, x = bptt.RNN(I, H, seed=1), frames(np.float32)
    for _ in range(3):
        layer(x)
    layer.record(x)
    assert held(layer) > 0
    layer.parameters["weight_hh_l0"] += 1
    layer.record(x)
    assert held(layer) == 0


def test_packing_what_is_remembered():
    """A snapshot of a layer that has kept its weights is one that later edits leave alone."""
    layer, x = bptt.RNN(I, H, seed=1), frames(np.float32)
    for _ in range(3):
        expected = layer(x)[0]
    stream = layer.stream(B)
    layer.parameters["weight_hh_l0"] += 1
    layer(x)
    assert same(np.stack([stream.step(frame) for frame in x]), expected)


def test_calls_of_many_threads():
    layer, x = bptt.GRU(I, H, seed=1), frames(np.float32)
    expected = anew(layer, x)
    wrong = []

    def calls():
        wrong.extend(not same(layer(x)[0], expected) for _ in range(200))

    threads = [threading.Thread(target=calls) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == [False] * 800


def test_of_the_kernels():
    """`remember` in place of weights, where the caller has them: `unroll`, `pack` and a stepper."""
    weights = bptt.RNN(I, H, seed=1)._weights(False)[0].weights
    known = remember(weights)
    x, state = frames(np.float32), (np.zeros((B, H), np.float32),)
    expected = kernels.unroll("tanh", x, state, weights, False)[0]
    for _ in range(3):
        assert same(kernels.unroll("tanh", x, state, known, False)[0], expected)
    assert same(kernels.unroll("tanh", x, state, known)[0], expected)
    assert same(kernels.unroll("tanh", x, state, kernels.pack("tanh", known), False)[0], expected)
    with pytest.raises(ValueError, match="8 bytes"):
        kernels.unroll("tanh", x.astype(float), (state[0].astype(float),), known, False)

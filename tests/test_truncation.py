"""Truncated gradients with a stride: the double sum with terms left out, and the loops one would write."""

import itertools

import numpy as np
import pytest
from errors import raises
from numpy_layers import initial_of, parts_of, problem
from numpy_rnn import close

import bptt
from bptt import pieces, reference, truncation

T, B, I, H = 11, 3, 2, 4
#: Layers by a name.
LAYERS = {
    "tanh": (bptt.RNN, {}),
    "relu": (bptt.RNN, {"nonlinearity": "relu"}),
    "sigmoid": (bptt.RNN, {"nonlinearity": "sigmoid", "bias": False}),
    "identity": (bptt.RNN, {"nonlinearity": "identity"}),
    "lstm": (bptt.LSTM, {}),
    "projected": (bptt.LSTM, {"proj_size": 3, "peepholes": True}),
    "gru": (bptt.GRU, {}),
    "reset_before": (bptt.GRU, {"reset_after": False}),
}
NOISE = {"recurrent_dropout": 0.4, "zoneout": 0.3}
#: (K, S): less than T, at T, not dividing it.
CUTS = [(1, 1), (4, 1), (4, 2), (4, 4), (5, 3), (7, 5), (10, 1), (10, 10), (3, 3)]


def make(name, backend="kernels", **options):
    layer, own = LAYERS[name]
    return layer(I, H, **own, **options, dtype=np.float64, seed=1, backend=backend)


def numbers(layer, T=T, B=B):
    """Return x, h_0, dy and dh_n, time-major."""
    return tuple(vars(problem(layer, T, B)).values())


def rows(state, b):
    """Return one row of a state, as that of a batch."""
    found = tuple(part[:, b : b + 1] for part in parts_of(state))
    return found if len(found) == 2 else found[0]


class Sums:
    """Gradients added up by name."""

    def __init__(self, layer, x, h_0):
        self.x = np.zeros_like(x)
        self.initial = tuple(np.zeros_like(part) for part in parts_of(h_0))
        self.parameters = {name: np.zeros_like(value) for name, value in layer.parameters.items()}

    def check(self, gradients):
        close(gradients.x, self.x)
        for got, expected in zip(initial_of(gradients), self.initial, strict=True):
            close(got, expected)
        for name, value in self.parameters.items():
            close(gradients.parameters[name], value)


def by_hand(layer, x, h_0, dy, dh_n, K, S, lengths=None, reset=None):
    """Every block of every row by itself, through ordinary passes over the pieces between resets."""
    sums = Sums(layer, x, h_0)
    for b in range(x.shape[1]):
        start, end = rows(h_0, b), len(x) if lengths is None else lengths[b]
        cuts = [0] + [t for t in range(1, end) if reset is not None and reset[t, b]] + [end]
        own_dh_n = None if dh_n is None else rows(dh_n, b)
        if end == 0 and dh_n is not None:
            for total, part in zip(sums.initial, parts_of(own_dh_n), strict=True):
                total[:, b : b + 1] += part
        for loss in range(0, end, S):
            first, last = max(0, loss + S - K), min(loss + S, end)
            for begin, stop in itertools.pairwise(cuts):
                begin_here, stop_here = max(begin, first), min(stop, last)
                if stop_here <= max(begin_here, loss):
                    continue
                state = start if begin_here == begin else layer(x[begin:begin_here, b : b + 1], start)[1]
                y, _, tape = layer.record(x[begin_here:stop_here, b : b + 1], state)
                d = np.zeros_like(y)
                skipped = max(0, loss - begin_here)
                d[skipped:] = dy[begin_here + skipped : stop_here, b : b + 1]
                found = tape.backward(d, own_dh_n if stop_here == end else None)
                sums.x[begin_here:stop_here, b : b + 1] += found.x
                for name, value in found.parameters.items():
                    sums.parameters[name] += value
                # with S = 1 the initial state stands one step before the first one
                if begin_here == begin and (S > 1 or begin - 1 >= loss + S - K):
                    for total, part in zip(sums.initial, initial_of(found), strict=True):
                        total[:, b : b + 1] += part
    return sums


@pytest.mark.parametrize(("K", "S"), CUTS)
@pytest.mark.parametrize("options", [{}, {"layer_norm": True}, NOISE], ids=["plain", "norm", "noise"])
@pytest.mark.parametrize("name", [name for name in LAYERS if name != "reset_before"])
def test_terms_are_left_out(name, options, K, S, backend):
    layer, other = make(name, backend, **options), make(name, "reference", **options)
    x, h_0, dy, _ = numbers(layer)
    tape = layer.record(x, h_0, seed=4)[2]
    terms = reference.terms(layer._structure.cell, other.record(x, h_0, seed=4)[2]._pass.saved[0], dy)
    i, k = np.arange(T)[:, np.newaxis], np.arange(T)
    kept = k >= (i // S + 1) * S - K
    found = tape.backward(dy, depth=K, stride=S)
    for field, all_terms in terms.items():
        close(found.parameters[f"{field}_l0"], all_terms[kept].sum(axis=0))


@pytest.mark.parametrize(("K", "S"), CUTS)
@pytest.mark.parametrize("options", [{}, NOISE], ids=["plain", "noise"])
def test_terms_with_r_before_the_product(options, K, S, backend):
    """The one cell without layer normalisation."""
    test_terms_are_left_out("reset_before", options, K, S, backend)


@pytest.mark.parametrize(("K", "S"), CUTS)
@pytest.mark.parametrize("options", [{}, {"num_layers": 3}, {"num_layers": 2, "layer_norm": True}])
@pytest.mark.parametrize("name", ["tanh", "projected", "gru"])
def test_windows(name, options, K, S, backend):
    layer = make(name, backend, **options)
    x, h_0, dy, dh_n = numbers(layer)
    found = layer.record(x, h_0)[2].backward(dy, dh_n, depth=K, stride=S)
    by_hand(layer, x, h_0, dy, dh_n, K, S).check(found)


@pytest.mark.parametrize(("K", "S"), CUTS)
@pytest.mark.parametrize("lengths", [None, [4, 0, 11], [7, 8, 3]])
@pytest.mark.parametrize("resets", [False, True])
@pytest.mark.parametrize("name", ["tanh", "lstm", "reset_before"])
def test_ragged_rows_and_resets(name, resets, lengths, K, S):
    layer = make(name, num_layers=2)
    x, h_0, dy, dh_n = numbers(layer)
    reset = np.random.default_rng(2).random((T, B)) < 0.3 if resets else None
    tape = layer.record(x, h_0, lengths=lengths, reset=reset)[2]
    found = tape.backward(dy, dh_n, depth=K, stride=S)
    by_hand(layer, x, h_0, dy, dh_n, K, S, lengths, reset).check(found)
    alone = tape.backward(dh_n=dh_n, depth=K, stride=S)
    by_hand(layer, x, h_0, np.zeros_like(dy), dh_n, K, S, lengths, reset).check(alone)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("name", LAYERS)
def test_chunks(name, layers):
    """S = K is what one gets by cutting the sequence and letting go of the carried state's gradient."""
    layer = make(name, num_layers=layers)
    x, h_0, dy, dh_n = numbers(layer)
    found = layer.record(x, h_0)[2].backward(dy, dh_n, depth=4, stride=4)
    expected, state = Sums(layer, x, h_0), h_0
    for first in range(0, T, 4):
        _, state, tape = layer.record(x[first : first + 4], state)
        got = tape.backward(dy[first : first + 4], dh_n if first + 4 >= T else None)
        expected.x[first : first + 4] = got.x
        if first == 0:
            expected.initial = initial_of(got)
        for key, value in got.parameters.items():
            expected.parameters[key] += value
    expected.check(found)


@pytest.mark.parametrize("kind", ["single", "stack", "ragged", "reset", "noise"])
@pytest.mark.parametrize("name", LAYERS)
def test_nothing_left_out(name, kind, dtype):
    """K >= T has the bits of the whole gradient; with S = 1 that is K > T."""
    options = {"stack": {"num_layers": 2}, "noise": NOISE}.get(kind, {})
    layer, own = LAYERS[name]
    layer = layer(I, H, **own, **options, dtype=dtype, seed=1)
    x, _, dy, _ = numbers(layer)
    over_time = {"ragged": {"lengths": [3, 11, 0]}, "reset": {"reset": np.eye(T, B, dtype=bool)}}.get(
        kind, {}
    )
    tape = layer.record(x, **over_time, seed=2)[2]
    whole = tape.backward(dy)
    for K, S in ((T, 2), (T, T), (T + 1, 1), (T + 5, 3), (T + 5, T + 5)):
        found = tape.backward(dy, depth=K, stride=S)
        np.testing.assert_array_equal(found.x, whole.x)
        np.testing.assert_array_equal(found.h_0, whole.h_0)
        for key, value in whole.parameters.items():
            np.testing.assert_array_equal(found.parameters[key], value)


def test_a_stride_of_one_is_a_depth_alone():
    for options in ({}, {"num_layers": 2}):
        layer = make("lstm", **options)
        x, h_0, dy, dh_n = numbers(layer)
        tape = layer.record(x, h_0)[2]
        for K in (1, 3, T, T + 1):
            one, alone = tape.backward(dy, dh_n, depth=K, stride=1), tape.backward(dy, dh_n, depth=K)
            for key, value in alone.parameters.items():
                np.testing.assert_array_equal(one.parameters[key], value)
            np.testing.assert_array_equal(one.h_0, alone.h_0)
            np.testing.assert_array_equal(one.c_0, alone.c_0)


@pytest.mark.parametrize("layout", ["batch_first", "unbatched", "tokens"])
def test_layouts(layout):
    layer = make("gru", batch_first=layout == "batch_first", num_layers=2)
    x, h_0, dy, dh_n = numbers(layer, B=1 if layout == "unbatched" else B)
    if layout == "tokens":
        x = np.random.default_rng(1).integers(0, I, (T, B))
    plain = make("gru", num_layers=2)
    expected = plain.record(x, h_0)[2].backward(dy, dh_n, depth=5, stride=3)
    turn = {
        "batch_first": lambda a: a.swapaxes(0, 1),
        "unbatched": lambda a: a[:, 0],
        "tokens": lambda a: a,
    }[layout]
    of_state = (lambda a: a[:, 0]) if layout == "unbatched" else (lambda a: a)
    tape = layer.record(turn(x), of_state(h_0))[2]
    found = tape.backward(turn(dy), of_state(dh_n), depth=5, stride=3)
    if layout == "tokens":
        assert found.x is None
    else:
        np.testing.assert_array_equal(found.x, turn(expected.x))
    np.testing.assert_array_equal(found.h_0, of_state(expected.h_0))
    for key, value in expected.parameters.items():
        np.testing.assert_array_equal(found.parameters[key], value)


@pytest.mark.parametrize("options", [{}, {"num_layers": 2}])
@pytest.mark.parametrize("cut", [{}, {"depth": 3}, {"depth": 3, "stride": 2}])
def test_without_dx(options, cut, backend):
    layer = make("lstm", backend, **options)
    x, h_0, dy, dh_n = numbers(layer)
    tape = layer.record(x, h_0)[2]
    whole, without = tape.backward(dy, dh_n, **cut), tape.backward(dy, dh_n, **cut, input_grad=False)
    assert whole.x.shape == x.shape
    assert without.x is None
    np.testing.assert_array_equal(whole.h_0, without.h_0)
    for key, value in whole.parameters.items():
        np.testing.assert_array_equal(without.parameters[key], value)


@pytest.mark.parametrize(("K", "S"), [(10, 10), (10, 5), (10, 2), (20, 1), (3, 2)])
def test_cost(monkeypatch, K, S):
    """The steps gone over are those of the windows, T K / S at most."""
    seen = []
    forward = pieces.forward

    def counting(*arguments, **options):
        seen.append(len(arguments[3]))
        return forward(*arguments, **options)

    monkeypatch.setattr(pieces, "forward", counting)
    layer = make("tanh", num_layers=2)
    x, h_0, dy, _ = numbers(layer, T=100)
    layer.record(x, h_0)[2].backward(dy, depth=K, stride=S)
    assert sum(seen) == sum(w.last - w.first for w in truncation.windows(100, K, S)) <= 100 * K / S
    assert len(seen) == 100 // S


def test_windows_end_with_their_blocks():
    """The first ones begin where time does, and the last one may be cut short at its end."""
    seen = list(truncation.windows(11, 5, 3))
    assert seen == [(0, 0, 3, 3), (1, 3, 6, 6), (4, 6, 9, 9), (7, 9, 11, 12)]


class TestErrors:
    def test_stride(self):
        tape = make("tanh").record(numbers(make("tanh"))[0])[2]
        dy = np.zeros((T, B, H))
        with raises(ValueError, "stride: expected None without a depth, got 2"):
            tape.backward(dy, stride=2)
        for wrong, error in ((0, ValueError), (-1, ValueError), (2.0, TypeError), (True, TypeError)):
            with raises(error, f"stride: expected an integer of at least 1, got {wrong!r}"):
                tape.backward(dy, depth=3, stride=wrong)
        message = (
            "depth: expected at least stride=4, since the loss of a block's first step would not reach that "
            "step otherwise, got 3"
        )
        with raises(ValueError, message):
            tape.backward(dy, depth=3, stride=4)
        with raises(TypeError, "input_grad: expected True or False, got 1"):
            tape.backward(dy, input_grad=1)

    def test_two_directions(self):
        layer = make("gru", bidirectional=True)
        x, _, dy, _ = numbers(layer)
        reason = "whose steps feel the losses before them too"
        message = f"depth: expected None for a bidirectional layer, {reason}, got 4"
        with raises(ValueError, message):
            layer.record(x)[2].backward(dy, depth=4, stride=2)

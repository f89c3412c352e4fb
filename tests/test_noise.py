"""Dropout between layers, recurrent dropout and zoneout: masks on the tape, exact gradients, inference."""

from __future__ import annotations

import math

import numpy as np
import pytest
from errors import F4, F8, raises
from kernel_problems import same
from numpy_layers import (
    LAYERS,
    B,
    H,
    I,
    T,
    check_gradients,
    forward,
    make,
    masks_of,
    parts_of,
    problem,
    size_of_h,
)
from numpy_rnn import close

import bptt
from bptt import noise
from bptt.structure import Structure

NOISES = {
    "dropout": {"dropout": 0.4, "num_layers": 3},
    "recurrent_dropout": {"recurrent_dropout": 0.4},
    "zoneout": {"zoneout": 0.3},
    "all": {"dropout": 0.2, "recurrent_dropout": 0.3, "zoneout": 0.2, "num_layers": 2, "bidirectional": True},
}


# ------------------------------------------------------------------------------------- values and gradients


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("name", NOISES)
@pytest.mark.parametrize("ragged", [False, True])
def test_against_numpy(backend, kind, name, ragged):
    layer = make(kind, **NOISES[name], backend=backend)
    q = problem(layer)
    over_time = {"lengths": [5, 3, 0, 4], "reset": np.random.default_rng(0).random((T, B)) < 0.3}
    over_time = over_time if ragged else {}
    y, h_n, tape = layer.record(q.x, q.h_0, seed=5, **over_time)
    masks = masks_of(tape)
    expected, final, units = forward(layer, q.x, q.h_0, masks=masks, **over_time)
    close(y, expected)
    for actual, part in zip(parts_of(h_n), final, strict=True):
        close(actual, part)
    for number, unit in enumerate(units):
        level, direction = divmod(number, 1 + layer.bidirectional)
        close(tape.h[level][direction], unit.h)
        for gate, value in unit.gates.items():
            close(tape.gates[level][direction][gate], value)
    check_gradients(layer, q, tape.backward(q.dy, q.dh_n), masks=masks, **over_time)


@pytest.mark.parametrize("kind", ["RNN", "projected", "GRU"])
def test_layer_norm_with_all(backend, kind):
    layer = make(kind, **NOISES["all"], layer_norm=True, backend=backend)
    q = problem(layer)
    y, _, tape = layer.record(q.x, q.h_0, seed=5)
    close(y, forward(layer, q.x, q.h_0, masks=masks_of(tape))[0])
    check_gradients(layer, q, tape.backward(q.dy, q.dh_n), masks=masks_of(tape))


@pytest.mark.parametrize("zoneout", [(0.4, 0.0), (0.0, 0.4), (0.2, 0.5)])
@pytest.mark.parametrize("kind", ["LSTM", "projected", "peepholes"])
def test_zoneout_of_h_and_c_apart(backend, kind, zoneout):
    layer = make(kind, zoneout=zoneout, backend=backend)
    q = problem(layer)
    y, (h_n, c_n), tape = layer.record(q.x, q.h_0, seed=5)
    assert (tape.zoneout_h is None) == (zoneout[0] == 0)
    assert (tape.zoneout_c is None) == (zoneout[1] == 0)
    expected, final, _ = forward(layer, q.x, q.h_0, masks=masks_of(tape))
    close(y, expected)
    close(h_n, final[0])
    close(c_n, final[1])
    check_gradients(layer, q, tape.backward(q.dy, q.dh_n), masks=masks_of(tape))
    y, (h_n, c_n) = layer(q.x, q.h_0)
    expected, final, _ = forward(layer, q.x, q.h_0)
    close(y, expected)
    close(c_n, final[1])


@pytest.mark.parametrize("kind", LAYERS)
def test_what_zoneout_keeps_is_the_same_bits(backend, dtype, kind):
    layer = make(kind, zoneout=0.5, dtype=dtype, backend=backend)
    q = problem(layer)
    _, _, tape = layer.record(q.x, q.h_0, seed=1)
    h = np.concatenate([tape.h_0, tape.h[0][0]])
    kept = tape.zoneout_h[0][0]
    assert kept.any()
    assert not kept.all()
    assert same(h[1:][kept], h[:-1][kept])
    assert (h[1:][~kept] != h[:-1][~kept]).mean() > 0.5  # a ReLU may be off twice


def test_float32(backend):
    layer = make("LSTM", **NOISES["all"], dtype=F4, backend=backend)
    q = problem(layer)
    y, _, tape = layer.record(q.x, q.h_0, seed=5)
    gradients = tape.backward(q.dy, q.dh_n)
    assert {a.dtype for a in (y, gradients.x, tape.recurrent_dropout[0][0])} == {np.dtype(F4)}
    np.testing.assert_allclose(y, forward(layer, q.x, q.h_0, masks=masks_of(tape))[0], rtol=0, atol=1e-6)


# ------------------------------------------------------------------------------------- inference


@pytest.mark.parametrize("kind", LAYERS)
def test_dropout_is_off_in_plain_calls(backend, kind):
    noisy = make(kind, num_layers=2, dropout=0.5, recurrent_dropout=0.5, backend=backend)
    plain = make(kind, num_layers=2, backend=backend)
    q = problem(plain)
    y, h_n = plain(q.x, q.h_0)
    for call in (noisy, noisy.freeze()):
        y2, h_n2 = call(q.x, q.h_0)
        assert same(y2, y)
        assert same(parts_of(h_n2)[0], parts_of(h_n)[0])
    assert not np.array_equal(noisy.record(q.x, q.h_0, seed=0)[0], y)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_plain_calls_take_zoneouts_mean(backend, kind, bidirectional):
    layer = make(kind, num_layers=2, zoneout=0.3, bidirectional=bidirectional, backend=backend)
    q = problem(layer)
    expected, final, _ = forward(layer, q.x, q.h_0, lengths=[5, 2, 3, 4])
    y, h_n = layer(q.x, q.h_0, lengths=[5, 2, 3, 4])
    close(y, expected)
    close(parts_of(h_n)[-1], final[-1])


# ------------------------------------------------------------------------------------- masks


def flat(tape):
    """Return every mask on a tape."""
    found = list(tape.dropout or ())
    for masks in (tape.recurrent_dropout, tape.zoneout_h, tape.zoneout_c):
        found += [mask for level in masks or () for mask in level]
    return found


def test_masks_are_a_function_of_the_seed():
    def masks(of, **options):
        layer = make("LSTM", hidden_size=40, **NOISES["all"], backend="reference", **options)
        return flat(layer.record(problem(layer, 2).x, seed=of)[2])

    first = masks(3)
    assert len(first) == 13
    for again in (masks(3), masks(np.int64(3)), masks(3, seed=2), masks(3, dtype=F4)):
        for a, b in zip(again, first, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-7)
    for other in (masks(4), masks(None), masks(None)):
        assert not any(np.array_equal(a, b) for a, b in zip(other, first, strict=True))
    drawn = {mask.tobytes() for mask in first}
    assert len(drawn) == len(first)  # every layer and direction has its own


@pytest.mark.kernels
def test_masks_do_not_depend_on_threads_or_backend():
    layers = [make("LSTM", I, 70, **NOISES["all"], backend=backend) for backend in ("kernels", "reference")]
    q = problem(layers[0], 3, 7)
    tapes = [layers[0].record(q.x, q.h_0, seed=1, threads=threads)[2] for threads in (1, 2, 3)]
    tapes.append(layers[1].record(q.x, q.h_0, seed=1)[2])
    for tape in tapes[1:]:
        for a, b in zip(flat(tape), flat(tapes[0]), strict=True):
            assert same(a, b)


def test_what_is_on_the_tape(backend):
    layer = make("projected", **NOISES["all"], backend=backend)
    q, R = problem(layer), size_of_h(layer)
    tape = layer.record(q.x, q.h_0, seed=5)[2]
    assert [mask.shape for mask in tape.dropout] == [(T, B, 2 * R)]
    assert tape.dropout[0].dtype == np.bool_
    for level in range(2):
        for direction in range(2):
            assert set(np.unique(tape.recurrent_dropout[level][direction])) <= {0.0, 1 / 0.7}
            assert tape.recurrent_dropout[level][direction].shape == (B, R)
            assert tape.zoneout_h[level][direction].shape == (T, B, R)
            assert tape.zoneout_h[level][direction].dtype == np.bool_
            assert tape.zoneout_c[level][direction].shape == (T, B, H)
    plain = make("LSTM", num_layers=2, backend=backend)
    tape = plain.record(q.x)[2]
    assert tape.dropout is tape.recurrent_dropout is tape.zoneout_h is tape.zoneout_c is None
    dropped = make("LSTM", num_layers=2, dropout=0.5, backend=backend).record(q.x, seed=0)[2]
    assert dropped.recurrent_dropout is dropped.zoneout_h is None
    assert len(dropped.dropout) == 1


def test_masks_in_other_layouts(backend):
    options = {**NOISES["all"], "backend": backend}
    layer, turned = make("LSTM", **options), make("LSTM", **options, batch_first=True)
    q = problem(layer)
    tape = layer.record(q.x, seed=5)[2]
    other = turned.record(np.ascontiguousarray(q.x.swapaxes(0, 1)), seed=5)[2]
    np.testing.assert_array_equal(other.dropout[0], tape.dropout[0].swapaxes(0, 1))
    np.testing.assert_array_equal(other.zoneout_c[1][0], tape.zoneout_c[1][0].swapaxes(0, 1))
    np.testing.assert_array_equal(other.recurrent_dropout[1][0], tape.recurrent_dropout[1][0])
    one = layer.record(q.x[:, :1], seed=5)[2]
    bare = layer.record(q.x[:, 0], seed=5)[2]
    np.testing.assert_array_equal(bare.dropout[0], one.dropout[0][:, 0])
    np.testing.assert_array_equal(bare.zoneout_h[1][0], one.zoneout_h[1][0][:, 0])
    np.testing.assert_array_equal(bare.recurrent_dropout[1][0], one.recurrent_dropout[1][0][0])


@pytest.mark.parametrize("rate", [0.001, 0.1, 0.5, 0.75, 0.999])
def test_rates(rate):
    """Shares within five standard deviations, in every part of a mask."""
    structure = Structure("lstm", 4, 3, 40, num_layers=2)
    masks = noise.draw(structure, noise.Rates(rate, rate, rate, rate), 50, 41, np.dtype(F8), 0)
    units = masks.noise
    left_out = [~masks.dropout[0], units[0].kept_h, units[0].kept_c, units[1].kept_h, units[1].kept_c]
    left_out += [units[0].dropout == 0, units[1].dropout == 0]
    for mask in left_out:
        for part in (
            mask,
            mask.reshape(-1)[::4],
            mask.reshape(-1)[1::4],
            mask[: len(mask) // 2],
            mask[..., -1],
        ):
            deviation = math.sqrt(rate * (1 - rate) / part.size)
            assert abs(part.mean() - rate) < 5 * deviation + 2**-16
    for n, a in enumerate(left_out[:5]):
        for b in left_out[n + 1 : 5]:
            expected = rate * rate
            assert abs((a & b).mean() - expected) < 5 * math.sqrt(expected * (1 - expected) / a.size) + 2**-15


@pytest.mark.parametrize(("rate", "expected"), [(2**-15, 2), (1e-9, 1), (0.5, 32768), (1 - 1e-9, 65535)])
def test_a_rate_is_a_multiple_of_two_to_the_minus_sixteen(monkeypatch, rate, expected):
    """Of all 65536 words each once."""
    words = np.arange(65536, dtype=np.uint16)

    class Bits:
        def __init__(self, seed):
            pass

        def random_raw(self, size):
            return words.view(np.uint64)[:size]

    monkeypatch.setattr(np.random, "PCG64", Bits)
    structure = Structure("gru", 3, 1, 64)
    masks = noise.draw(structure, noise.Rates(zoneout_h=rate), 32, 32, np.dtype(F8), 0)
    assert masks.noise[0].kept_h.sum() == expected


def test_a_pass_without_noise_draws_nothing(monkeypatch):
    monkeypatch.delattr(np.random, "PCG64")
    layer = make("LSTM", num_layers=2, backend="reference")
    q = problem(layer)
    layer.record(q.x, seed=5)
    make("LSTM", zoneout=0.5, num_layers=2, dropout=0.1, backend="reference")(q.x)


# ------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("seed", "error"), [(-1, ValueError), (0.5, TypeError), ("x", TypeError), (True, TypeError)]
)
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_wrong_seeds(seed, error, dropout):
    layer = make("RNN", num_layers=2, dropout=dropout, backend="reference")
    with raises(error, f"seed: expected an integer of at least 0, got {seed!r}"):
        layer.record(np.zeros((T, B, I)), seed=seed)


RATE = "expected a number in [0, 1), got"


@pytest.mark.parametrize("name", ["dropout", "recurrent_dropout", "zoneout"])
@pytest.mark.parametrize("layer", [bptt.RNN, bptt.LSTM, bptt.GRU])
@pytest.mark.parametrize(
    ("value", "error"),
    [
        (1.0, ValueError),
        (1, ValueError),
        (-0.1, ValueError),
        (math.nan, ValueError),
        (math.inf, ValueError),
        pytest.param(10**400, ValueError, id="10**400"),
        ("0.5", TypeError),
        (True, TypeError),
        (None, TypeError),
        ([0.5, 0.5], TypeError),
        (np.array([0.5]), TypeError),
    ],
)
def test_wrong_rates(name, layer, value, error):
    with raises(error, f"{name}: {RATE} {value!r}"):
        layer(2, 3, num_layers=2, backend="reference", **{name: value})


@pytest.mark.skipif(np.finfo(np.longdouble).nmant <= 52, reason="no number between it and 1 that is no float")
def test_a_rate_that_rounds_to_one():
    value = np.nextafter(np.longdouble(1), np.longdouble(0))
    with raises(ValueError, f"dropout: {RATE} {value!r}"):
        bptt.RNN(2, 3, num_layers=2, dropout=value)


def test_wrong_pairs():
    with raises(ValueError, f"zoneout of h: {RATE} 1.5"):
        bptt.LSTM(2, 3, zoneout=(1.5, 0.5))
    with raises(TypeError, f"zoneout of c: {RATE} None"):
        bptt.LSTM(2, 3, zoneout=(0.5, None))
    with raises(ValueError, "zoneout: expected a number or a pair of them, of h and c, got (0.1, 0.2, 0.3)"):
        bptt.LSTM(2, 3, zoneout=(0.1, 0.2, 0.3))
    for layer in (bptt.RNN, bptt.GRU):
        with raises(TypeError, f"zoneout: {RATE} (0.1, 0.2)"):
            layer(2, 3, zoneout=(0.1, 0.2))


@pytest.mark.parametrize("layer", [bptt.RNN, bptt.LSTM, bptt.GRU])
def test_dropout_wants_several_layers(layer):
    message = (
        "dropout: expected 0 with num_layers=1, as it acts between layers, got 0.5; "
        "recurrent_dropout acts within one"
    )
    with raises(ValueError, message):
        layer(2, 3, dropout=0.5)
    assert layer(2, 3, dropout=0, backend="reference").dropout == 0.0

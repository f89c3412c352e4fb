"""Network.fit and evaluate over rows of different lengths, and rows that are reset."""

from __future__ import annotations

import copy
from itertools import pairwise

import numpy as np
import pytest
from errors import raises
from networks import QUIET, Hand, assert_same, data_set, small

from bptt import SGD, Adam

T, B = 7, 4
LENGTHS = np.array([5, 0, 7, 2])


def resets():
    """Return a mask: at once, within the first chunk, later, twice in a chunk, past a row's end."""
    reset = np.zeros((T, B), bool)
    reset[[2, 4], 0] = True
    reset[[1, 3, 5, 6], 2] = True
    reset[3, 3] = True
    return reset


def close(network, other):
    for name, value in network.parameters.items():
        np.testing.assert_allclose(value, other.parameters[name], rtol=1e-12, atol=1e-14)


def episodes(lengths, reset):
    """Cut every row at its resets and at its end: (row, first step, last step + 1)."""
    for b, n in enumerate(lengths):
        cuts = [0, *(t for t in range(1, n) if reset[t, b]), n]
        yield from ((b, t, end) for t, end in pairwise(cuts) if end > t)


def by_episodes(network, x, targets, lengths, reset, truncation, rate):
    """Train with every piece of every row a call of its own; for a summed loss."""
    state, pieces = {}, list(episodes(lengths, reset))
    for begin in range(0, T, truncation):
        total = {name: np.zeros_like(value) for name, value in network.parameters.items()}
        for b, t, end in pieces:
            part = slice(max(t, begin), min(end, begin + truncation))
            if part.start >= part.stop:
                continue
            h = state.get(b) if t < begin else None
            _, gradients = network.loss_and_gradients(x[part, b : b + 1], targets[part, b : b + 1], h)
            state[b] = gradients.h_n
            for name, value in gradients.parameters.items():
                total[name] += value
        SGD(rate).step(network.parameters, total)


@pytest.mark.parametrize("kind", ["tanh", "lstm", "gru"])
@pytest.mark.parametrize("truncation", [1, 2, 3, 7])
@pytest.mark.parametrize("ragged", ["lengths", "reset", "both"])
@pytest.mark.parametrize("batch_first", [False, True])
def test_chunks(kind, truncation, ragged, batch_first, backend):
    layer = {"num_layers": 2}
    network = small(backend, kind=kind, layer=layer, reduction="sum", batch_first=batch_first)
    other = small(backend, kind=kind, layer=layer, reduction="sum")
    x, targets = data_set(other, T, B)
    lengths = np.full(B, T) if ragged == "reset" else LENGTHS
    reset = np.zeros((T, B), bool) if ragged == "lengths" else resets()
    given = {} if ragged == "reset" else {"lengths": lengths}
    if ragged != "lengths":
        given["reset"] = reset.T if batch_first else reset
    data = (x.swapaxes(0, 1), targets.T) if batch_first else (x, targets)
    expected = other.loss(x, targets, lengths=lengths, reset=reset)
    result = network.evaluate(*data, **given, truncation=truncation)
    assert result["loss"] == pytest.approx(expected, rel=1e-13)
    history = network.fit(*data, **given, truncation=truncation, optimizer=SGD(0.1), **QUIET)
    by_episodes(other, x, targets, lengths, reset, truncation, 0.1)
    close(network, other)
    if truncation == 7:
        assert history["loss"] == [pytest.approx(expected, rel=1e-13)]


@pytest.mark.parametrize("kind", ["tanh", "lstm", "gru"])
@pytest.mark.parametrize("truncation", [1, 2, 3, 7])
@pytest.mark.parametrize("ragged", ["lengths", "reset", "both"])
@pytest.mark.parametrize("batch_first", [False, True])
def test_many_to_one_goes_back_from_each_rows_end(kind, truncation, ragged, batch_first, backend):
    network = small(backend, kind=kind, many_to_one=True, batch_first=batch_first)
    other = small(backend, kind=kind, many_to_one=True)
    x, targets = data_set(other, T, B)
    lengths = np.full(B, T) if ragged == "reset" else LENGTHS
    reset = np.zeros((T, B), bool) if ragged == "lengths" else resets()
    given = {} if ragged == "reset" else {"lengths": lengths}
    if ragged != "lengths":
        given["reset"] = reset.T if batch_first else reset
    data = (x.swapaxes(0, 1) if batch_first else x, targets)
    expected = other.loss(x, targets, lengths=lengths, reset=reset)
    result = network.evaluate(*data, **given, truncation=truncation)
    assert result["loss"] == pytest.approx(expected, rel=1e-13)
    network.fit(*data, **given, truncation=truncation, optimizer=SGD(0.5), **QUIET)
    first = dict.fromkeys(range(B), 0)
    if ragged != "lengths":
        first |= {b: t for b, t, _ in episodes(lengths, reset)}  # of each row the last one
    total = {name: np.zeros_like(value) for name, value in other.parameters.items()}
    for b, n in enumerate(lengths):
        row = slice(first[b], n), slice(b, b + 1)
        _, gradients = other.loss_and_gradients(x[row], targets[b : b + 1], depth=truncation)
        for name, value in gradients.parameters.items():
            total[name] += value / B
    SGD(0.5).step(other.parameters, total)
    close(network, other)


def by_overlapping_rows(network, x, targets, truncation, stride, rate):
    """Train an RNN with every row of every window a call of its own; for a summed loss."""
    before, outputs = 0, {}
    for loss in range(0, max(LENGTHS), stride):
        total = {name: np.zeros_like(value) for name, value in network.parameters.items()}
        first = max(0, loss + stride - truncation)
        for b, n in enumerate(LENGTHS):
            last = min(loss + stride, n)
            if last <= loss:
                continue
            state = outputs[b][np.newaxis, first - before - 1] if first else None
            y, _, tape = network.rnn.record(x[first:last, b : b + 1], state)
            seen, outputs[b] = y[loss - first :], y
            _, ds = network.objective(network.readout(seen), targets[loss:last, b : b + 1])
            dy = np.zeros_like(y)
            dy[loss - first :], dreadout = network.readout.backward(seen, ds)
            for name, value in dreadout.items():
                total[f"readout.{name}"] += value
            for name, value in tape.backward(dy).parameters.items():
                total[f"rnn.{name}"] += value
        SGD(rate).step(network.parameters, total)
        before = first


@pytest.mark.parametrize(("truncation", "stride"), [(4, 1), (3, 2), (6, 4)])
@pytest.mark.parametrize("batch_first", [False, True])
def test_overlapping_chunks(truncation, stride, batch_first, backend):
    network = small(backend, reduction="sum", batch_first=batch_first)
    other = small(backend, reduction="sum")
    x, targets = data_set(other, T, B)
    data = (x.swapaxes(0, 1), targets.T) if batch_first else (x, targets)
    own = {"truncation": truncation, "stride": stride, "optimizer": SGD(0.1)}
    network.fit(*data, lengths=LENGTHS, **own, **QUIET)
    by_overlapping_rows(other, x, targets, truncation, stride, 0.1)
    close(network, other)


def test_without_truncation_it_is_one_call(backend):
    network = small(backend, kind="lstm", layer={"bidirectional": True})
    other = copy.deepcopy(network)
    x, targets = data_set(network, T, B)
    given = {"lengths": LENGTHS, "reset": resets()}
    network.fit(x, targets, **given, optimizer=SGD(0.5), **QUIET)
    Hand(other, SGD(0.5)).step(x, targets, **given)
    assert_same(network, other)


@pytest.mark.parametrize("many_to_one", [False, True])
def test_rows_keep_their_lengths_and_resets(many_to_one, backend):
    """However they are shuffled, and from whatever iterable they come."""
    network = small(backend, kind="gru", many_to_one=many_to_one)
    x, targets = data_set(network, T, B)
    x[0, :, 0] = np.arange(B)
    lengths, reset = np.maximum(LENGTHS, 1), resets()
    original, rows = network.loss_and_gradients, []

    def spy(x, targets, *rest, **keywords):
        some = x[0, :, 0].astype(int)
        rows.extend(some)
        np.testing.assert_array_equal(keywords["lengths"], lengths[some])
        np.testing.assert_array_equal(keywords["reset"], reset[:, some])
        return original(x, targets, *rest, **keywords)

    network.loss_and_gradients = spy
    network.fit(x, targets, lengths=lengths, reset=reset, epochs=3, batch_size=3, seed=0)
    assert sorted(rows[:4]) == sorted(rows[4:8]) == list(range(B))
    assert len(rows) == 12
    assert rows[:4] != rows[4:8]


@pytest.mark.parametrize("many_to_one", [False, True])
def test_iterables_and_validation(many_to_one, backend):
    network, other = (small(backend, kind="gru", many_to_one=many_to_one) for _ in range(2))
    x, targets = data_set(network, T, B)
    reset = resets()

    def batch(part, *more):
        own = targets[part] if many_to_one else targets[:, part]
        return (x[:, part], own, *more)

    parts = [slice(0, 2), slice(2, 4)]
    source = [
        batch(parts[0], LENGTHS[parts[0]], reset[:, parts[0]]),
        list(batch(parts[1], LENGTHS[parts[1]], reset[:, parts[1]])),
    ]
    held_out = (x, targets, LENGTHS)
    history = network.fit(source, optimizer=SGD(0.5), validation_data=held_out)
    whole = {"lengths": LENGTHS, "reset": reset, "batch_size": 2}
    expected = other.fit(x, targets, **whole, optimizer=SGD(0.5), validation_data=[held_out], **QUIET)
    assert_same(network, other)
    assert history["loss"] == expected["loss"]
    assert history["validation_loss"] == expected["validation_loss"]
    loss = network.loss(x, targets, lengths=LENGTHS)
    assert history["validation_loss"] == [pytest.approx(loss, rel=1e-13)]
    assert network.evaluate(source)["loss"] == network.evaluate(x, targets, **whole)["loss"]
    only_reset = [batch(part, None, reset[:, part]) for part in parts]
    assert (
        network.evaluate(only_reset)["loss"]
        == network.evaluate(x, targets, reset=reset, batch_size=2)["loss"]
    )


@pytest.mark.parametrize("truncation", [None, 2])
@pytest.mark.parametrize("batch_first", [False, True])
def test_one_unbatched_sequence(truncation, batch_first, backend):
    network, other = (small(backend, kind="lstm", batch_first=batch_first) for _ in range(2))
    x, targets = data_set(small(backend), T, 1)
    reset = np.arange(T) == 3
    keywords = {"truncation": truncation, "optimizer": SGD(0.5)}
    network.fit(x[:, 0], targets[:, 0], lengths=5, reset=reset, **keywords)
    data = (x, targets, reset[:, np.newaxis])
    x, targets, reset = (a.swapaxes(0, 1) for a in data) if batch_first else data
    other.fit(x, targets, lengths=[5], reset=reset, **keywords)
    assert_same(network, other)


def test_chunks_past_every_end_make_no_step(backend):
    network, steps = small(backend), []

    class Watch:
        def on_step(self, step):
            steps.append(step.step)

        def __call__(self, epoch):
            pass

    x, targets = data_set(network, T, B)
    network.fit(x, targets, lengths=[3, 1, 0, 3], truncation=2, callbacks=[Watch()])
    assert steps == [1, 2]
    steps.clear()
    history = network.fit(x, targets, lengths=[3, 1, 0, 3], batch_size=1, callbacks=[Watch()])
    assert steps == [1, 2, 3]
    assert history["loss"][0] > 0


@pytest.mark.parametrize("ignored", [{}, {"ignore_index": 0}])
@pytest.mark.parametrize("keywords", [{}, {"batch_size": 2}, {"batch_size": 3, "truncation": 2}])
def test_the_loss_of_an_epoch_is_a_mean_over_its_steps(ignored, keywords, backend):
    network = small(backend, kind="gru", loss_options=ignored)
    x, targets = data_set(network, T, B)
    data = {"lengths": LENGTHS, "reset": resets()}
    history = network.fit(x, targets, **data, **keywords, optimizer=SGD(0.0), seed=0)
    assert history["loss"] == [pytest.approx(network.loss(x, targets, **data), rel=1e-13)]


def test_targets_past_the_end_may_be_anything(backend):
    networks = [small(backend, kind="gru", loss="mean_squared_error") for _ in range(2)]
    x, targets = data_set(networks[0], T, B)
    for network in networks:
        network.fit(x, targets, lengths=LENGTHS, batch_size=3, truncation=2, seed=0)
        for b, n in enumerate(LENGTHS):
            targets[n:, b] = np.nan
    assert_same(*networks)


def test_accuracy(backend):
    network = small(backend, kind="gru")
    x, _ = data_set(network, T, B)
    targets = network.predict(x, lengths=LENGTHS).argmax(axis=-1)
    targets[0, 0] = (targets[0, 0] + 1) % 3
    targets[6, 0] = -1
    for truncation in (None, 2):
        result = network.evaluate(x, targets, lengths=LENGTHS, truncation=truncation)
        assert result["accuracy"] == 13 / 14


def test_it_learns(backend):
    """To say what the token before was, in sequences of any length one after the other."""
    rng = np.random.default_rng(0)
    x = rng.integers(2, size=(12, 16))
    reset = rng.random((12, 16)) < 0.25
    targets = np.where(reset, 2, np.roll(x, 1, axis=0))
    targets[0] = 2
    network = small(backend, kind="lstm", dtype=np.float32)
    data = {"lengths": rng.integers(4, 13, 16), "reset": reset}
    network.fit(x, targets, **data, epochs=150, truncation=5, optimizer=Adam(0.05), seed=0)
    assert network.evaluate(x, targets, **data)["accuracy"] > 0.97
    assert network.evaluate(x, targets, lengths=data["lengths"])["accuracy"] < 0.9


class TestErrors:
    @pytest.mark.parametrize("name", ["lengths", "reset"])
    @pytest.mark.parametrize("call", ["fit", "evaluate"])
    def test_of_an_iterable(self, name, call, backend):
        network = small(backend)
        message = f"{name}: expected None with an iterable of batches, which bring their own, got list"
        with raises(ValueError, message):
            getattr(network, call)([data_set(network)], **{name: [1, 2]})

    def test_checked_before_the_first_step(self, backend):
        network = small(backend)
        x, targets = data_set(network, T, B)
        keywords = {"batch_size": 1, "truncation": 1}
        with raises(ValueError, "lengths: expected integers in [0, 7], got 8 at batch row 3"):
            network.fit(x, targets, lengths=[1, 1, 1, 8], **keywords)
        with raises(TypeError, "lengths: expected integers, got float64"):
            network.fit(x, targets, lengths=[1.0, 1, 1, 1], **keywords)
        with raises(ValueError, "lengths: expected shape (4,) = (batch,), got (3,)"):
            network.evaluate(x, targets, lengths=[1, 1, 1])
        with raises(ValueError, "reset: expected shape (7, 4) = (time, batch), got (4, 7)"):
            network.fit(x, targets, reset=resets().T, **keywords)
        with raises(TypeError, "reset: expected bool, got int64; write reset.astype(bool)"):
            network.fit(x, targets, reset=resets().astype(np.int64), **keywords)
        with raises(ValueError, "lengths: expected integers in [0, 7], got -1 at batch row 0"):
            network.fit(x, targets, validation_data=(x, targets, [-1, 0, 0, 0]))
        with raises(ValueError, "targets: expected class ids in [0, 3), got 3"):
            network.fit(x, np.full_like(targets, 3), lengths=LENGTHS, **keywords)
        assert_same(network, small(backend))

    @pytest.mark.parametrize("call", ["fit", "evaluate"])
    def test_reset_of_last_states_of_both_directions(self, call, backend):
        network = small(backend, layer={"bidirectional": True}, many_to_one=True)
        with pytest.raises(ValueError, match=r"^reset: expected None with many_to_one and a bidirectional "):
            getattr(network, call)(*data_set(network, T, B), reset=resets())

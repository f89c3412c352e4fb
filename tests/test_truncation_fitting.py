"""Training with a truncation and a stride: one update every S steps, from what goes back over K."""

import numpy as np
import pytest
from command_line import (
    TINY,
    assert_same_model,
    contents,
    make_model,
    make_text,
    parts,
    refused,
    results,
    rewrite,
    run,
)
from errors import raises
from networks import QUIET, assert_same, data_set, small
from tiny_runs import TEXT, state_of, step, tiny_run

from bptt import SGD, states
from bptt.run_files import load_run, save_run

T, B = 11, 4


class ByHand:
    """Training written out with ordinary passes of the layer, without dropout and zoneout."""

    def __init__(self, network, optimizer):
        self.network, self.optimizer = network, optimizer
        self.losses = []

    def step(self, x, targets, state, skip):
        """Make a step from the loss of all but the first `skip` steps of x."""
        network = self.network
        y, _, tape = network.rnn.record(x, state)
        s = network.readout(y[skip:])
        loss, ds = network.objective(s, targets)
        dh, dreadout = network.readout.backward(y[skip:], ds)
        dy = np.zeros_like(y)
        dy[skip:] = dh
        gradients = {f"rnn.{name}": value for name, value in tape.backward(dy).parameters.items()}
        gradients |= {f"readout.{name}": value for name, value in dreadout.items()}
        self.optimizer.step(network.parameters, gradients)
        self.losses.append(loss)
        return tape


@pytest.mark.parametrize(("K", "S"), [(4, 1), (4, 3), (6, 2), (5, 5), (20, 3), (11, 4)])
@pytest.mark.parametrize("kind", ["tanh", "lstm", "gru"])
def test_updates(kind, K, S, backend):
    network, other = (small(backend, kind=kind, layer={"num_layers": 2}) for _ in range(2))
    x, targets = data_set(network, T, B)
    history = network.fit(x, targets, truncation=K, stride=S, optimizer=SGD(0.1), **QUIET)
    hand, at, state, tape = ByHand(other, SGD(0.1)), 0, None, None
    for loss in range(0, T, S):
        first, last = max(0, loss + S - K), min(loss + S, T)
        if first > at:
            # what the state was there when these steps were last gone through
            after = [
                np.stack([part[first - at - 1] for (part,) in layers])
                for layers in (tape.h, *([tape.c] if kind == "lstm" else []))
            ]
            state, at = states.whole(tuple(after)), first
        tape = hand.step(x[first:last], targets[loss:last], state, loss - first)
    for name, value in network.parameters.items():
        np.testing.assert_allclose(value, other.parameters[name], rtol=0, atol=1e-13)
    counts = [min(loss + S, T) - loss for loss in range(0, T, S)]
    assert history["loss"] == [pytest.approx(np.average(hand.losses, weights=counts), rel=1e-13)]


@pytest.mark.parametrize("options", [{}, {"batch_first": True}, {"many_to_one": True}])
def test_a_stride_as_long_as_the_truncation(options, backend):
    networks = [small(backend, kind="gru", layer={"zoneout": 0.2}, **options) for _ in range(2)]
    x, targets = data_set(networks[0], T, B)
    for network, keywords in zip(networks, ({}, {"stride": 4}), strict=True):
        network.fit(x, targets, truncation=4, **keywords, seed=3, epochs=2, **QUIET)
    assert_same(*networks)


def test_many_to_one_has_one_loss(backend):
    networks = [small(backend, many_to_one=True) for _ in range(2)]
    x, targets = data_set(networks[0], T, B)
    for network, keywords in zip(networks, ({}, {"stride": 2}), strict=True):
        network.fit(x, targets, truncation=4, **keywords, **QUIET)
    assert_same(*networks)


@pytest.mark.parametrize("batch_first", [False, True])
def test_ragged_rows(batch_first, backend):
    """Rows that are as long as all others are; shorter ones count as long as they last."""
    networks = [small(backend, kind="lstm", batch_first=batch_first) for _ in range(3)]
    x, targets = data_set(networks[0], T, B)
    own = {"truncation": 5, "stride": 2, "optimizer": SGD(0.1), **QUIET}
    networks[0].fit(x, targets, lengths=[T] * B, **own)
    networks[1].fit(x, targets, **own)
    assert_same(*networks[:2])
    # rows without steps are no rows
    lengths = [T, 0, 7, 0]
    networks[0].fit(x, targets, lengths=lengths, **own)
    keep = (slice(None), [0, 2])
    rows = (keep[::-1], keep[::-1]) if batch_first else (keep, keep)
    networks[1].fit(x[rows[0]], targets[rows[1]], lengths=[T, 7], **own)
    for name, value in networks[0].parameters.items():
        np.testing.assert_allclose(value, networks[1].parameters[name], rtol=0, atol=1e-12)


@pytest.mark.parametrize("over_time", [{}, {"lengths": [3, 11, 0, 8]}, {"reset": np.eye(T, B, dtype=bool)}])
def test_with_a_depth(over_time, backend):
    """Within a batch: one update, from the truncated gradient."""
    network, other = (small(backend, kind="gru", layer={"num_layers": 2}) for _ in range(2))
    x, targets = data_set(network, T, B)
    network.fit(x, targets, **over_time, depth=5, stride=3, optimizer=SGD(0.1), **QUIET)
    _, gradients = other.loss_and_gradients(x, targets, **over_time, depth=5, stride=3)
    SGD(0.1).step(other.parameters, gradients.parameters)
    assert_same(network, other)


def test_progress(capsys):
    network = small("kernels")
    network.fit(*data_set(network, T, B), truncation=4, stride=3, progress=True, shuffle=False)
    assert "4/4" in capsys.readouterr().err


def test_errors(backend):
    network = small(backend)
    x, targets = data_set(network, T, B)
    for keywords, message in (
        ({"stride": 2}, "stride: expected None without truncation or depth, got 2"),
        ({"stride": 0, "truncation": 2}, "stride: expected an integer of at least 1, got 0"),
        ({"stride": 5, "truncation": 4}, "stride: expected at most 4, the truncation, got 5"),
        ({"stride": 5, "depth": 4}, "stride: expected at most 4, the depth, got 5"),
        (
            {"stride": 2, "depth": 4, "truncation": 4},
            "stride: expected None with both truncation and depth, got 2",
        ),
        (
            {"stride": 2, "truncation": 4, "reset": np.zeros((T, B), bool)},
            "stride: expected None with reset, as chunks would overlap, got 2",
        ),
    ):
        with raises(ValueError, message):
            network.fit(x, targets, **keywords)
    assert_same(network, small(backend))


@pytest.mark.parametrize("cell", ["tanh", "lstm"])
def test_a_run(cell, tmp_path):
    """Saved and loaded anywhere, a run goes on with the same bits; it reads the text that comes before."""
    whole = tiny_run(cell=cell, stride=3)
    assert whole.streams.chunks == 42
    for done in range(1, 51):
        step(whole)
        if done in (1, 2, 17, 43):
            save_run(tmp_path / f"{done}", whole)
    for start in (1, 2, 17, 43):
        again = load_run(tmp_path / f"{start}", TEXT, backend="reference")
        assert again.settings.stride == 3
        for _ in range(50 - start):
            step(again)
        assert state_of(again) == state_of(whole)
    assert state_of(whole) != state_of(tiny_run(cell=cell, stride=3))


def test_what_a_run_sees():
    one = tiny_run(stride=3)
    streams, offset = one.streams, one.counters.offset
    inputs, targets = streams.chunk(5, offset)
    longer, same = streams.chunk(5, offset, streams.first(5, 8))
    assert (len(longer), len(same)) == (8, 3)
    np.testing.assert_array_equal(same, targets)
    np.testing.assert_array_equal(longer[-3:], inputs)
    before = [streams.chunk(k, offset)[0] for k in range(5)]
    np.testing.assert_array_equal(longer[:-3], np.concatenate(before)[-5:])
    assert [streams.first(k, 8) for k in (0, 1, 2, 3, 42)] == [0, 0, 1, 4, 118]


def test_a_stride_as_long_as_a_chunk_changes_nothing():
    runs = [tiny_run(), tiny_run(stride=8)]
    for one in runs:
        for _ in range(20):
            step(one)
    assert state_of(runs[0]) == state_of(runs[1])


def test_command(tmp_path):
    text = make_text(tmp_path)
    options = (*TINY, "--truncation", 16, "--stride", 5, "--epochs", 1, "--quiet")
    out = results(run("train", text, *options, "--out", "a", cwd=tmp_path).stdout)
    plain = results(run("train", text, *TINY, "--epochs", 1, "--quiet", "--out", "b", cwd=tmp_path).stdout)
    assert int(out["steps"]) > 3 * int(plain["steps"])
    assert contents(tmp_path / "a")[2]["settings"]["stride"] == 5
    assert contents(tmp_path / "b")[2]["settings"]["stride"] is None
    # the same as all at once
    run("train", text, *options[:-3], "--epochs", 2, "--quiet", "--out", "c", cwd=tmp_path)
    run("train", text, "--resume", "a", "--epochs", 2, "--quiet", cwd=tmp_path)
    assert_same_model(tmp_path / "a", tmp_path / "c")
    message = refused("train", text, "--resume", "a", "--stride", 6, cwd=tmp_path)
    assert message == "--stride: expected 5 as in the run to resume, got 6"
    message = refused("train", text, "--truncation", 8, "--stride", 9, cwd=tmp_path)
    assert message == "--stride: expected at most 8, as many as --truncation, got 9"


@pytest.mark.parametrize(("stride", "message"), [(0, "at least 1"), (17, "at most 16"), ("5", "an integer")])
def test_a_file_with_a_bad_stride(tmp_path, stride, message):
    text = make_text(tmp_path)
    model = make_model(text)
    training = parts(model)[1]["extra"]["training"]
    rewrite(model, model, training=training | {"settings": training["settings"] | {"stride": stride}})
    assert message in refused("train", text, "--resume", model, "--epochs", 2, cwd=tmp_path)

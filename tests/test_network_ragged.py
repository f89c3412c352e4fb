"""Network over rows of different lengths, and rows that are reset: as if every piece went by itself."""

from __future__ import annotations

import numpy as np
import pytest
from errors import raises
from networks import EACH_LOSS, LAYERS, data_set, initial_state, problem, small

from bptt.states import parts, rows

LENGTHS = [3, 0, 5, 1]


def turned(network, a):
    """Return a time-major array in the network's layout."""
    return a.swapaxes(0, 1) if network.rnn.batch_first else a


def alone(network, x, targets, lengths, state=None, **options):
    """Loss and gradients of every row by itself, time-major."""
    for b, n in enumerate(lengths):
        own = targets[b : b + 1] if network.many_to_one else targets[:n, b : b + 1]
        h_0 = None if state is None else rows(state, slice(b, b + 1))
        yield network.loss_and_gradients(x[:n, b : b + 1], own, h_0, **options)


@pytest.mark.parametrize(("loss", "options"), EACH_LOSS)
@pytest.mark.parametrize("many_to_one", [False, True])
def test_the_sum_over_rows(loss, options, many_to_one, backend):
    network = small(
        backend,
        kind="gru",
        loss=loss,
        loss_options=options,
        many_to_one=many_to_one,
        reduction="sum",
        layer={"num_layers": 2},
    )
    x, targets = problem(network, B=4)
    state = initial_state(network, B=4)
    total, gradients = network.loss_and_gradients(x, targets, state, lengths=LENGTHS)
    assert network.loss(x, targets, state, lengths=LENGTHS) == total
    expected = list(alone(network, x, targets, LENGTHS, state))
    assert total == pytest.approx(sum(one for one, _ in expected), rel=1e-13)
    for name, value in gradients.parameters.items():
        np.testing.assert_allclose(value, sum(g.parameters[name] for _, g in expected), rtol=0, atol=1e-13)
    for b, (_, own) in enumerate(expected):
        np.testing.assert_allclose(gradients.h_0[:, b : b + 1], own.h_0, rtol=0, atol=1e-14)
        np.testing.assert_allclose(gradients.x[: LENGTHS[b], b : b + 1], own.x, rtol=0, atol=1e-14)
        assert not gradients.x[LENGTHS[b] :, b].any()


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("many_to_one", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
def test_a_mean_runs_over_the_steps_there_are(kind, many_to_one, batch_first, backend):
    layer = {"num_layers": 2, "bidirectional": True}
    network = small(backend, kind=kind, layer=layer, many_to_one=many_to_one, batch_first=batch_first)
    summed = small(backend, kind=kind, layer=layer, many_to_one=many_to_one, reduction="sum")
    x, targets = problem(network, B=4)
    given = targets if many_to_one else turned(network, targets)
    loss, gradients = network.loss_and_gradients(turned(network, x), given, lengths=LENGTHS)
    expected = list(alone(summed, x, targets, LENGTHS))
    terms = 4 if many_to_one else sum(LENGTHS)
    assert loss == pytest.approx(sum(one for one, _ in expected) / terms, rel=1e-13)
    for name, value in gradients.parameters.items():
        mean = sum(g.parameters[name] for _, g in expected) / terms
        np.testing.assert_allclose(value, mean, rtol=0, atol=1e-14)


@pytest.mark.parametrize("batch_first", [False, True])
def test_outputs_past_the_end_are_zero(batch_first, backend):
    network = small(backend, kind="lstm", batch_first=batch_first)
    x, _ = data_set(network)
    for run in (lambda x, **keywords: network(x, **keywords)[0], network.predict):
        s = turned(network, run(x, lengths=LENGTHS))
        for b, n in enumerate(LENGTHS):
            assert not s[n:, b].any()
            row = turned(network, turned(network, x)[:n, b : b + 1])
            np.testing.assert_array_equal(s[:n, b], turned(network, run(row))[:, 0])


@pytest.mark.parametrize(
    ("loss", "nonsense"), [("softmax_cross_entropy", -7), ("mean_squared_error", np.nan)]
)
def test_targets_past_the_end_may_be_anything(loss, nonsense, backend):
    network = small(backend, loss=loss)
    x, targets = problem(network, B=4)
    expected = network.loss(x, targets, lengths=LENGTHS)
    for b, n in enumerate(LENGTHS):
        targets[n:, b] = nonsense
    before = targets.copy()
    assert network.loss(x, targets, lengths=LENGTHS) == expected
    assert network.loss_and_gradients(x, targets, lengths=LENGTHS)[0] == expected
    assert network.evaluate(x, targets, lengths=LENGTHS)["loss"] == pytest.approx(expected, rel=1e-14)
    np.testing.assert_array_equal(targets, before)
    targets[0, 0] = nonsense
    if loss == "mean_squared_error":
        assert np.isnan(network.loss(x, targets, lengths=LENGTHS))
    else:
        with raises(ValueError, "targets: expected class ids in [0, 3), got -7"):
            network.loss(x, targets, lengths=LENGTHS)


@pytest.mark.parametrize("many_to_one", [False, True])
def test_full_lengths_are_none(many_to_one, backend):
    network = small(backend, kind="gru", many_to_one=many_to_one)
    x, targets = problem(network, B=4)
    loss, gradients = network.loss_and_gradients(x, targets, lengths=[5] * 4)
    expected, plain = network.loss_and_gradients(x, targets)
    assert loss == expected
    for name, value in gradients.parameters.items():
        np.testing.assert_array_equal(value, plain.parameters[name])
    np.testing.assert_array_equal(gradients.x, plain.x)


def test_one_unbatched_sequence(backend):
    network = small(backend, kind="lstm", batch_first=True)
    x, targets = problem(network)
    x, targets = x[:, 0], targets[:, 0]
    assert network.loss(x, targets, lengths=3) == network.loss(x[:3], targets[:3])
    s, h_n = network(x, lengths=3)
    np.testing.assert_array_equal(s[:3], network(x[:3])[0])
    assert not s[3:].any()
    np.testing.assert_array_equal(h_n[1], network(x[:3])[1][1])


def test_nothing_but_empty_rows(backend):
    network = small(backend, kind="gru")
    x, targets = problem(network)
    loss, gradients = network.loss_and_gradients(x, targets, lengths=[0, 0, 0])
    assert np.isnan(loss)
    assert not any(value.any() for value in gradients.parameters.values())


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_reset_is_splitting(kind, bidirectional, backend):
    layer = {"num_layers": 2, "bidirectional": bidirectional}
    network = small(backend, kind=kind, layer=layer, reduction="sum")
    x, targets = problem(network, T=6)
    reset = np.zeros((6, 3), bool)
    reset[[2, 4], 0] = reset[3, 1] = True
    loss, gradients = network.loss_and_gradients(x, targets, reset=reset)
    pieces = [(0, 0, 2), (0, 2, 4), (0, 4, 6), (1, 0, 3), (1, 3, 6), (2, 0, 6)]
    expected = [
        network.loss_and_gradients(x[t:end, b : b + 1], targets[t:end, b : b + 1]) for b, t, end in pieces
    ]
    assert loss == pytest.approx(sum(one for one, _ in expected), rel=1e-13)
    assert network.loss(x, targets, reset=reset) == loss
    for name, value in gradients.parameters.items():
        np.testing.assert_allclose(value, sum(g.parameters[name] for _, g in expected), rtol=0, atol=1e-13)
    s = network.predict(x, reset=reset)
    np.testing.assert_array_equal(s[:2, 0], network.predict(x[:2, 0]))


def test_reset_and_lengths_with_one_answer(backend):
    """The steps after a row's last reset count."""
    network = small(backend, kind="lstm", many_to_one=True)
    x, _ = problem(network)
    reset = np.zeros((5, 3), bool)
    reset[1, 0] = reset[3, 0] = reset[4, 1] = True
    s, h_n = network(x, lengths=[5, 3, 4], reset=reset)
    for b, part in enumerate((slice(3, 5), slice(0, 3), slice(0, 4))):
        expected, final = network(x[part, b])
        np.testing.assert_array_equal(s[b], expected)
        for a, c in zip(parts(h_n), final, strict=True):
            np.testing.assert_array_equal(a[:, b], c)


class TestErrors:
    @pytest.mark.parametrize("method", ["__call__", "predict", "loss", "loss_and_gradients"])
    def test_reset_of_last_states_of_both_directions(self, method, backend):
        network = small(backend, layer={"bidirectional": True}, many_to_one=True)
        x, targets = problem(network)
        arguments = (x, targets) if method.startswith("loss") else (x,)
        message = (
            "reset: expected None with many_to_one and a bidirectional layer, whose last states would be of "
            "different pieces, got ndarray"
        )
        with raises(ValueError, message):
            getattr(network, method)(*arguments, reset=np.zeros((5, 3), bool))

    def test_lengths_and_reset(self, backend):
        network = small(backend)
        x, targets = problem(network)
        with raises(ValueError, "lengths: expected integers in [0, 5], got 6 at batch row 1"):
            network.loss(x, targets, lengths=[1, 6, 2])
        with raises(ValueError, "reset: expected shape (5, 3) = (time, batch), got (3, 5)"):
            network.loss_and_gradients(x, targets, reset=np.zeros((3, 5), bool))
        with raises(ValueError, "targets: expected shape (5, 3), one class id a row, got (3, 5)"):
            network.loss(x, targets.T, lengths=[1, 2, 3])

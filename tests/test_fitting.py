"""Network.fit: against loops written out with loss_and_gradients, repeatable, interruptible, observable."""

from __future__ import annotations

import copy
import io
import math
import sys
from itertools import chain

import numpy as np
import pytest
from errors import raises

from bptt import RNN, SGD, Adam, Linear, Network, clip_grad_norm, clip_grad_value
from bptt.fitting import progress_bar

QUIET = {"shuffle": False, "progress": False}


def small(backend, *, loss="softmax_cross_entropy", batch_first=False, seed=1, **options):
    rnn = RNN(2, 4, batch_first=batch_first, dtype=np.float64, seed=seed, backend=backend)
    readout = Linear(4, 3, dtype=np.float64, seed=seed + 1, backend=backend)
    return Network(rnn, readout, loss=loss, **options)


def problem(network, T=5, B=4, seed=0):
    """Input and targets in the network's layout."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(T, B, 2))
    targets = rng.integers(3, size=(B,) if network.many_to_one else (T, B))
    if network.objective.loss != "softmax_cross_entropy":
        targets = np.eye(3)[targets]
    if not network.rnn.batch_first:
        return x, targets
    return x.swapaxes(0, 1), targets if network.many_to_one else targets.swapaxes(0, 1)


def assert_same(network, other):
    for name, value in network.parameters.items():
        np.testing.assert_array_equal(value, other.parameters[name])


def assert_different(network, other):
    assert any(
        not np.array_equal(value, other.parameters[name]) for name, value in network.parameters.items()
    )


def by_hand(network, optimizer, pieces, **keywords):
    """One step for every (x, targets), carrying the state where targets say so."""
    losses, h = [], None
    for x, targets, fresh in pieces:
        loss, gradients = network.loss_and_gradients(x, targets, None if fresh else h, **keywords)
        optimizer.step(network.parameters, gradients.parameters)
        losses.append(loss)
        h = gradients.h_n
    return losses


class TestSteps:
    @pytest.mark.parametrize("many_to_one", [False, True])
    def test_batches(self, backend, many_to_one):
        network = small(backend, many_to_one=many_to_one)
        other = copy.deepcopy(network)
        x, targets = problem(network, B=5)
        history = network.fit(x, targets, epochs=2, batch_size=2, optimizer=Adam(0.1), **QUIET)
        parts = [slice(0, 2), slice(2, 4), slice(4, 5)]
        pieces = [(x[:, part], targets[..., part], True) for part in parts]
        losses = by_hand(other, Adam(0.1), pieces * 2)
        assert_same(network, other)
        weights = np.array([2, 2, 1]) / 5
        np.testing.assert_allclose(history["loss"], [weights @ losses[:3], weights @ losses[3:]], rtol=1e-14)

    def test_chunks_carry_the_state(self, backend):
        network = small(backend)
        other = copy.deepcopy(network)
        x, targets = problem(network)
        network.fit(x, targets, truncation=2, optimizer=SGD(0.5), **QUIET)
        pieces = [
            (x[part], targets[part], part.start == 0) for part in (slice(0, 2), slice(2, 4), slice(4, 5))
        ]
        by_hand(other, SGD(0.5), pieces)
        assert_same(network, other)

    def test_the_state_is_not_carried_between_batches(self, backend):
        network = small(backend)
        other = copy.deepcopy(network)
        x, targets = problem(network, T=2)
        network.fit(x, targets, truncation=1, batch_size=2, optimizer=SGD(0.5), **QUIET)
        pieces = [
            (x[t : t + 1, part], targets[t : t + 1, part], t == 0)
            for part in (slice(0, 2), slice(2, 4))
            for t in (0, 1)
        ]
        by_hand(other, SGD(0.5), pieces)
        assert_same(network, other)

    @pytest.mark.parametrize("truncation", [1, 2, 5, 7])
    def test_many_to_one_chunks_are_depth(self, truncation, backend):
        """The last chunk alone goes back, which is the truncation to that depth."""
        network = small(backend, many_to_one=True)
        other = copy.deepcopy(network)
        x, targets = problem(network)
        network.fit(x, targets, truncation=truncation, optimizer=SGD(0.5), **QUIET)
        by_hand(other, SGD(0.5), [(x, targets, True)], depth=truncation)
        for name, value in network.parameters.items():
            np.testing.assert_allclose(value, other.parameters[name], rtol=1e-13, atol=1e-15)

    def test_depth(self, backend):
        network = small(backend)
        other, full = copy.deepcopy(network), copy.deepcopy(network)
        x, targets = problem(network)
        network.fit(x, targets, depth=2, optimizer=SGD(0.5), **QUIET)
        full.fit(x, targets, optimizer=SGD(0.5), **QUIET)
        by_hand(other, SGD(0.5), [(x, targets, True)], depth=2)
        assert_same(network, other)
        assert_different(network, full)

    def test_clipping(self, backend):
        network = small(backend)
        other = copy.deepcopy(network)
        x, targets = problem(network)
        network.fit(x, targets, clip_value=0.05, clip_norm=0.1, optimizer=SGD(0.5), **QUIET)
        _, gradients = other.loss_and_gradients(x, targets)
        clip_grad_value(gradients.parameters, 0.05)
        assert clip_grad_norm(gradients.parameters, 0.1) > 0.1
        SGD(0.5).step(other.parameters, gradients.parameters)
        assert_same(network, other)

    @pytest.mark.parametrize("many_to_one", [False, True])
    @pytest.mark.parametrize("truncation", [None, 2])
    def test_batch_first(self, many_to_one, truncation, backend):
        plain = small(backend, many_to_one=many_to_one)
        turned = small(backend, many_to_one=many_to_one, batch_first=True)
        keywords = {"batch_size": 3, "truncation": truncation, "seed": 4, "optimizer": SGD(0.5)}
        plain.fit(*problem(plain), **keywords)
        turned.fit(*problem(turned), **keywords)
        for name, value in plain.parameters.items():
            np.testing.assert_allclose(turned.parameters[name], value, rtol=1e-11, atol=1e-14)

    def test_one_unbatched_sequence(self, backend):
        network, other = small(backend), small(backend)
        x, targets = problem(network, B=1)
        network.fit(x[:, 0], targets[:, 0], truncation=2, optimizer=SGD(0.5))
        other.fit(x, targets, truncation=2, optimizer=SGD(0.5))
        assert_same(network, other)

    def test_token_input(self, backend):
        network, other = small(backend), small(backend)
        tokens = np.array([[0, 1, 1], [1, 0, 1]], np.uint8)
        _, targets = problem(network, T=2, B=3)
        network.fit(tokens, targets, batch_size=2, optimizer=SGD(0.5), **QUIET)
        other.fit(np.eye(2)[tokens], targets, batch_size=2, optimizer=SGD(0.5), **QUIET)
        for name, value in network.parameters.items():
            np.testing.assert_allclose(value, other.parameters[name], rtol=1e-12, atol=1e-15)

    def test_chunks_without_terms_make_no_step(self, backend):
        network = small(backend, loss_options={"ignore_index": -1})
        other = copy.deepcopy(network)
        x, targets = problem(network, T=6)
        targets[2:4] = -1
        history = network.fit(x, targets, truncation=2, optimizer=SGD(0.5, momentum=0.9), **QUIET)
        optimizer = SGD(0.5, momentum=0.9)
        loss, gradients = other.loss_and_gradients(x[:2], targets[:2])
        optimizer.step(other.parameters, gradients.parameters)
        _, h = other(x[2:4], gradients.h_n)
        last, gradients = other.loss_and_gradients(x[4:], targets[4:], h)
        optimizer.step(other.parameters, gradients.parameters)
        assert_same(network, other)
        assert history["loss"] == [pytest.approx((loss + last) / 2, rel=1e-14)]

    def test_nothing_but_ignored_targets(self, backend):
        network = small(backend, loss_options={"ignore_index": -1})
        x, targets = problem(network)
        history = network.fit(x, np.full_like(targets, -1), **QUIET)
        assert_same(network, small(backend))
        assert math.isnan(history["loss"][0])

    def test_no_time_steps(self, backend):
        network = small(backend)
        history = network.fit(np.zeros((0, 3, 2)), np.zeros((0, 3), int), truncation=4, **QUIET)
        assert_same(network, small(backend))
        assert math.isnan(history["loss"][0])

    def test_sum_reduction_adds_up(self, backend):
        network = small(backend, reduction="sum")
        other = copy.deepcopy(network)
        x, targets = problem(network)
        history = network.fit(x, targets, batch_size=3, optimizer=SGD(0.01), **QUIET)
        losses = by_hand(
            other, SGD(0.01), [(x[:, part], targets[:, part], True) for part in (slice(0, 3), slice(3, 4))]
        )
        assert history["loss"] == [pytest.approx(sum(losses), rel=1e-14)]

    def test_default_optimiser(self, backend):
        network, other = small(backend), small(backend)
        x, targets = problem(network)
        network.fit(x, targets, epochs=3)
        other.fit(x, targets, epochs=3, optimizer=Adam(1e-3))
        assert_same(network, other)

    def test_an_optimiser_keeps_its_moments_between_calls(self, backend):
        network, other = small(backend), small(backend)
        x, targets = problem(network)
        optimizer = Adam(0.1)
        for _ in range(3):
            network.fit(x, targets, optimizer=optimizer)
        other.fit(x, targets, epochs=3, optimizer=Adam(0.1))
        assert_same(network, other)

    def test_it_learns(self, backend):
        rnn = RNN(4, 6, seed=0, backend=backend)
        network = Network(rnn, Linear(6, 4, seed=0, backend=backend))
        h, e, l, o = range(4)
        x, targets = np.array([h, e, l, l]), np.array([e, l, l, o])
        history = network.fit(x, targets, epochs=60, optimizer=Adam(0.05))
        assert history["loss"][-1] < 0.1 < 1 < history["loss"][0]
        assert network.evaluate(x, targets)["accuracy"] == 1.0
        assert network.sample([h], 4, temperature=0).tolist() == [e, l, l, o]


class TestRepeatable:
    def test_a_seed_gives_the_same_bits(self, backend):
        networks = [small(backend) for _ in range(3)]
        x, targets = problem(networks[0], B=7)
        histories = [
            network.fit(x, targets, epochs=2, batch_size=2, seed=seed, optimizer=Adam(0.1))
            for network, seed in zip(networks, (5, 5, 6), strict=True)
        ]
        assert_same(networks[0], networks[1])
        assert histories[0]["loss"] == histories[1]["loss"]
        assert_different(networks[0], networks[2])

    def test_every_epoch_has_all_rows_in_another_order(self, backend):
        network = small(backend, many_to_one=True)
        x = np.zeros((1, 8, 2))
        x[0, :, 0] = np.arange(8)
        seen = []

        def spy(data, targets, *rest, **keywords):
            seen.append(data[0, :, 0].astype(int).tolist())
            assert targets.tolist() == [n % 3 for n in seen[-1]]  # rows stay with their targets
            return original(data, targets, *rest, **keywords)

        original = network.loss_and_gradients
        network.loss_and_gradients = spy
        network.fit(x, np.arange(8) % 3, epochs=2, batch_size=3, seed=0)
        assert [len(rows) for rows in seen] == [3, 3, 2] * 2
        first, second = list(chain(*seen[:3])), list(chain(*seen[3:]))
        assert sorted(first) == sorted(second) == list(range(8))
        assert first != second != list(range(8)) != first

    def test_without_shuffling_no_seed_matters(self, backend):
        networks = [small(backend) for _ in range(2)]
        x, targets = problem(networks[0])
        for network, seed in zip(networks, (1, 2), strict=True):
            network.fit(x, targets, batch_size=2, seed=seed, shuffle=False)
        assert_same(*networks)

    def test_data_are_not_changed(self, backend):
        network = small(backend)
        x, targets = problem(network)
        for array in (x, targets):
            array.flags.writeable = False
        before = x.copy(), targets.copy()
        network.fit(x, targets, epochs=2, batch_size=2, truncation=2)
        np.testing.assert_array_equal(x, before[0])
        np.testing.assert_array_equal(targets, before[1])


class TestIterables:
    def test_a_list_of_batches(self, backend):
        network, other = small(backend), small(backend)
        x, targets = problem(network)
        source = [(x[:, :2], targets[:, :2]), [x[:, 2:], targets[:, 2:]]]
        history = network.fit(source, epochs=2, optimizer=SGD(0.5), validation_data=source)
        expected = other.fit(
            x, targets, epochs=2, batch_size=2, optimizer=SGD(0.5), validation_data=(x, targets), **QUIET
        )
        assert_same(network, other)
        assert history["loss"] == expected["loss"]
        np.testing.assert_allclose(history["validation_loss"], expected["validation_loss"], rtol=1e-14)

    def test_a_generator_for_one_epoch(self, backend):
        network, other = small(backend), small(backend)
        x, targets = problem(network)
        network.fit(((x, targets) for _ in range(3)), optimizer=SGD(0.5))
        other.fit([(x, targets)], epochs=3, optimizer=SGD(0.5))
        assert_same(network, other)

    def test_a_generator_for_two_epochs(self, backend):
        network = small(backend)
        x, targets = problem(network)
        message = (
            "x: expected an iterable that can be gone through 2 times, such as a list of batches, got an "
            "iterator (generator), which is used up after one epoch"
        )
        with raises(ValueError, message):
            network.fit(((x, targets) for _ in range(3)), epochs=2)
        assert_same(network, small(backend))

    def test_nothing(self, backend):
        with raises(ValueError, "x: expected at least one batch, got none in epoch 1"):
            small(backend).fit([])

    @pytest.mark.parametrize("bad", [3, (1, 2, 3)])
    def test_not_a_pair(self, bad, backend):
        with raises(TypeError, f"x: expected batches (x, targets), got {type(bad).__name__} as batch 0"):
            small(backend).fit([bad])

    def test_a_bad_batch(self, backend):
        network = small(backend)
        x, targets = problem(network)
        with raises(ValueError, "targets: expected shape (5, 4), one class id a row, got (0,)"):
            network.fit([(x, targets[0, :0])])


class TestValidation:
    def test_is_evaluated_after_every_epoch(self, backend):
        network, other = small(backend), small(backend)
        x, targets = problem(network)
        held_out = problem(network, B=5, seed=9)
        history = network.fit(
            x, targets, epochs=2, validation_data=held_out, optimizer=SGD(0.5), batch_size=2, **QUIET
        )
        for epoch in range(2):
            other.fit(x, targets, optimizer=SGD(0.5), batch_size=2, **QUIET)
            expected = other.evaluate(*held_out)
            assert history["validation_loss"][epoch] == pytest.approx(expected["loss"], rel=1e-14)
            assert history["validation_accuracy"][epoch] == expected["accuracy"]

    def test_history(self, backend):
        network = small(backend, loss="mean_squared_error")
        x, targets = problem(network)
        history = network.fit(x, targets, epochs=3, validation_data=(x, targets), optimizer=SGD(0.1))
        assert set(history) == {"epoch", "loss", "seconds", "validation_loss"}
        assert history["epoch"] == [1, 2, 3]
        assert all(seconds > 0 for seconds in history["seconds"])
        assert history.stopped_by == "epochs"
        assert history.best_epoch == 1 + int(np.argmin(history["validation_loss"]))
        plain = network.fit(x, targets)
        assert set(plain) == {"epoch", "loss", "seconds"}
        assert plain.best_epoch is None
        assert network.fit(x, targets, epochs=0) == {"epoch": [], "loss": [], "seconds": []}

    def test_early_stopping_puts_the_best_parameters_back(self, backend):
        network = small(backend)
        x, targets = problem(network)
        kept = []

        def watch(report):
            kept.append({name: value.copy() for name, value in network.parameters.items()})
            report.optimizer.lr = -report.optimizer.lr if report.epoch == 2 else report.optimizer.lr

        history = network.fit(
            x,
            targets,
            epochs=50,
            optimizer=SGD(0.2),
            validation_data=(x, targets),
            early_stopping=3,
            callbacks=[watch],
        )
        # two epochs downhill, then uphill
        assert np.argmin(history["validation_loss"]) == 1
        assert history.best_epoch == 2
        assert history.stopped_by == "early_stopping"
        assert len(history["epoch"]) == 5
        for name, value in network.parameters.items():
            np.testing.assert_array_equal(value, kept[1][name])
            assert not np.array_equal(value, kept[-1][name])

    def test_best_parameters_come_back_when_the_epochs_run_out(self, backend):
        network = small(backend)
        x, targets = problem(network)

        def turn(report):
            report.optimizer.lr *= -1

        best = small(backend)
        best.fit(x, targets, optimizer=SGD(0.2))
        history = network.fit(
            x,
            targets,
            epochs=2,
            optimizer=SGD(0.2),
            validation_data=(x, targets),
            early_stopping=5,
            callbacks=[turn],
        )
        assert history.stopped_by == "epochs"
        assert history.best_epoch == 1
        assert_same(network, best)

    def test_without_early_stopping_the_last_parameters_stay(self, backend):
        network, other = small(backend), small(backend)
        x, targets = problem(network)
        network.fit(x, targets, epochs=4, optimizer=SGD(0.2), validation_data=(x, targets))
        other.fit(x, targets, epochs=4, optimizer=SGD(0.2))
        assert_same(network, other)

    def test_nan_is_no_improvement(self, backend):
        network = small(backend)
        x, targets = problem(network)
        nothing = np.zeros((5, 0, 2)), np.zeros((5, 0), int)
        history = network.fit(x, targets, epochs=9, validation_data=nothing, early_stopping=2)
        assert len(history["epoch"]) == 2
        assert history.best_epoch is None
        assert_different(network, small(backend))


class TestCallbacks:
    def test_are_told(self, backend):
        network = small(backend)
        x, targets = problem(network)
        reports, optimizer = [], SGD(0.1)
        history = network.fit(
            x,
            targets,
            epochs=2,
            optimizer=optimizer,
            callbacks=[reports.append],
            validation_data=(x, targets),
        )
        assert [report.epoch for report in reports] == [1, 2]
        assert [report.loss for report in reports] == history["loss"]
        assert [report.validation_loss for report in reports] == history["validation_loss"]
        assert [report.validation_accuracy for report in reports] == history["validation_accuracy"]
        assert reports[0].network is network
        assert reports[0].optimizer is optimizer

    @pytest.mark.parametrize("answer", [True, np.True_])
    def test_may_stop(self, answer, backend):
        network = small(backend)
        others = []
        history = network.fit(
            *problem(network),
            epochs=9,
            callbacks=[lambda report: answer if report.epoch == 3 else False, others.append],
        )
        assert history["epoch"] == [1, 2, 3]
        assert history.stopped_by == "callback"
        assert len(others) == 3  # all are told

    @pytest.mark.parametrize("answer", [1, "stop", [0]])
    def test_other_answers_mean_nothing(self, answer, backend):
        network = small(backend)
        assert network.fit(*problem(network), epochs=2, callbacks=[lambda _: answer])["epoch"] == [1, 2]

    def test_steps(self, backend):
        class Watch:
            def __init__(self):
                self.steps, self.epochs = [], []

            def on_step(self, step):
                self.steps.append(step)
                return step.step == 8

            def __call__(self, epoch):
                self.epochs.append(epoch)

        network = small(backend)
        x, targets = problem(network)
        watch = Watch()
        history = network.fit(
            x, targets, epochs=9, batch_size=2, truncation=2, clip_norm=0.5, callbacks=[watch], seed=0
        )
        assert [step.step for step in watch.steps] == list(range(1, 9))
        assert [step.epoch for step in watch.steps] == [1] * 6 + [2] * 2
        assert all(step.gradient_norm > 0 for step in watch.steps)
        assert history["epoch"] == [1, 2]
        assert history.stopped_by == "callback"
        assert len(watch.epochs) == 2
        terms = np.array([4, 4, 2] * 2)
        expected = np.dot([step.loss for step in watch.steps[:6]], terms) / 20
        assert history["loss"][0] == pytest.approx(expected, rel=1e-14)

    def test_no_norm_without_clipping(self, backend):
        class Watch:
            norm = 0.0

            def on_step(self, step):
                self.norm = step.gradient_norm

            def __call__(self, epoch):
                pass

        watch, network = Watch(), small(backend)
        network.fit(*problem(network), callbacks=[watch])
        assert watch.norm is None


class TestInterruption:
    @pytest.mark.parametrize("where", ["before", "during"])
    def test_leaves_parameters_as_before_the_step(self, where, backend, monkeypatch):
        network, other = small(backend), small(backend)
        x, targets = problem(network)
        optimizer, reference = Adam(0.1), Adam(0.1)
        calls = 0

        def gradients(*arguments, **keywords):
            nonlocal calls
            calls += 1
            if calls == 3 and where == "before":
                raise KeyboardInterrupt
            return original(*arguments, **keywords)

        original = network.loss_and_gradients
        network.loss_and_gradients = gradients

        def update(slot, parameter, gradient):
            change(slot, parameter, gradient)
            if calls == 3 and where == "during":  # the first parameter has been changed
                raise KeyboardInterrupt

        change = optimizer._update
        monkeypatch.setattr(optimizer, "_update", update)
        with pytest.raises(KeyboardInterrupt):
            network.fit(x, targets, epochs=9, optimizer=optimizer, progress=False)
        other.fit(x, targets, epochs=2, optimizer=reference)
        assert_same(network, other)
        np.testing.assert_equal(optimizer.state_dict(), reference.state_dict())


class Terminal(io.StringIO):
    def isatty(self):
        return True


class TestProgress:
    def test_a_bar_on_a_terminal(self, monkeypatch, backend):
        network, stream = small(backend), Terminal()
        monkeypatch.setattr(sys, "stderr", stream)
        network.fit(*problem(network), epochs=3, batch_size=2, truncation=2)
        assert "18/18" in stream.getvalue()
        assert "epoch 3/3, loss " in stream.getvalue()

    def test_no_bar_elsewhere(self, capsys, backend):
        network = small(backend)
        network.fit(*problem(network), epochs=3)
        assert capsys.readouterr() == ("", "")

    def test_asked_for(self, capsys, backend):
        network = small(backend)
        network.fit([problem(network)], epochs=3, progress=True)
        captured = capsys.readouterr()
        assert "fit: 3step" in captured.err
        assert captured.out == ""

    def test_not_wanted(self, monkeypatch, backend):
        network, stream = small(backend), Terminal()
        monkeypatch.setattr(sys, "stderr", stream)
        network.fit(*problem(network), progress=False)
        assert stream.getvalue() == ""

    def test_without_tqdm(self, monkeypatch, backend):
        network, stream = small(backend), Terminal()
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setitem(sys.modules, "tqdm", None)
        network.fit(*problem(network))
        assert stream.getvalue() == ""
        with raises(ImportError, "progress: expected tqdm for a bar, got none; pip install 'bptt[cli]'"):
            network.fit(*problem(network), progress=True)

    def test_without_standard_error(self, monkeypatch):
        monkeypatch.setattr(sys, "stderr", None)
        assert progress_bar(None, 3) is None

    def test_many_to_one_steps_are_batches(self, monkeypatch, backend):
        network, stream = small(backend, many_to_one=True), Terminal()
        monkeypatch.setattr(sys, "stderr", stream)
        network.fit(*problem(network), batch_size=3, truncation=2)
        assert "2/2" in stream.getvalue()


class TestErrors:
    @pytest.mark.parametrize(
        ("keywords", "error", "message"),
        [
            ({"epochs": -1}, ValueError, "epochs: expected an integer of at least 0, got -1"),
            ({"batch_size": 0}, ValueError, "batch_size: expected an integer of at least 1, got 0"),
            ({"truncation": 0}, ValueError, "truncation: expected an integer of at least 1, got 0"),
            ({"depth": 0}, ValueError, "depth: expected an integer of at least 1, got 0"),
            ({"clip_norm": -1}, ValueError, "clip_norm: expected a number of at least 0, got -1"),
            ({"clip_value": "1"}, TypeError, "clip_value: expected a number, got str"),
            ({"early_stopping": 0}, ValueError, "early_stopping: expected an integer of at least 1, got 0"),
            ({"early_stopping": 2}, ValueError, "early_stopping: expected validation_data with it, got none"),
            ({"shuffle": 1}, TypeError, "shuffle: expected True or False, got 1"),
            ({"seed": -1}, ValueError, "seed: expected an integer of at least 0, got -1"),
            ({"progress": 1}, TypeError, "progress: expected True or False, got 1"),
            ({"threads": 0}, ValueError, "threads: expected an integer of at least 1, got 0"),
            ({"optimizer": "adam"}, TypeError, "optimizer: expected SGD, Adam or AdamW, got str"),
            (
                {"callbacks": print},
                TypeError,
                "callbacks: expected a sequence of callables, got something else",
            ),
            (
                {"callbacks": [1]},
                TypeError,
                "callbacks: expected a sequence of callables, got something else",
            ),
            (
                {"validation_data": (1,)},
                ValueError,
                "validation_data: expected (x, targets), got a tuple of 1",
            ),
            (
                {"validation_data": np.zeros((5, 4, 2))},
                TypeError,
                "validation_data: expected (x, targets), or a list of such batches, got ndarray",
            ),
            (
                {"validation_data": iter([])},
                TypeError,
                "validation_data: expected (x, targets), or a list of such batches, got list_iterator",
            ),
        ],
    )
    def test_options(self, keywords, error, message, backend):
        network = small(backend)
        with raises(error, message):
            network.fit(*problem(network), **keywords)
        assert_same(network, small(backend))

    def test_data_are_checked_before_the_first_step(self, backend):
        network = small(backend)
        x, targets = problem(network)
        late = targets.copy()
        late[-1, -1] = 3
        tokens = np.zeros((5, 4), int)
        tokens[-1, -1] = 2
        with raises(ValueError, "targets: expected class ids in [0, 3), got 3"):
            network.fit(x, late, batch_size=1, truncation=1)
        with pytest.raises(ValueError, match=r"^x: expected token ids in \[0, 2\).* got 2 at time step 4"):
            network.fit(tokens, targets, batch_size=1, truncation=1)
        with raises(ValueError, "targets: expected shape (5, 4), one class id a row, got (5, 3)"):
            network.fit(x, targets[:, :3])
        with raises(ValueError, "targets: expected shape (6, 4), one class id a row, got (5, 4)"):
            network.fit(x, targets, validation_data=(np.zeros((6, 4, 2)), targets))
        assert_same(network, small(backend))

    def test_x(self, backend):
        network = small(backend)
        x, targets = problem(network)
        with raises(ValueError, "targets: expected an array with an array x, got None"):
            network.fit(x)
        with raises(ValueError, "x: expected at least one sequence, got shape (5, 0, 2)"):
            network.fit(x[:, :0], targets[:, :0])
        for bad in (x[0, 0], x[np.newaxis], x[..., :1]):
            with pytest.raises(ValueError, match=r"^(x|targets): expected shape"):
                network.fit(bad, targets)
        with pytest.raises(TypeError, match=r"^x: expected float64 \(the layer's dtype\), got float32"):
            network.fit(x.astype(np.float32), targets)

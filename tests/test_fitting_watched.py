"""What may be seen of Network.fit while it runs: validation, callbacks, progress; breaking it off."""

from __future__ import annotations

import io
import sys

import numpy as np
import pytest
from errors import raises
from networks import QUIET, assert_different, assert_same, data_set, small

from bptt import SGD, Adam
from bptt.fitting import progress_bar


def turn(report):
    """Go downhill and uphill by turns."""
    report.optimizer.lr *= -1


class TestValidation:
    def test_is_evaluated_after_every_epoch(self, backend):
        network, other = small(backend), small(backend)
        x, targets = data_set(network)
        held_out = data_set(network, B=5, seed=9)
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
        x, targets = data_set(network)
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
        x, targets = data_set(network)
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
        x, targets = data_set(network)
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
        x, targets = data_set(network)
        keywords = {"epochs": 2, "callbacks": [turn]}
        history = network.fit(x, targets, **keywords, optimizer=SGD(0.2), validation_data=(x, targets))
        assert history.best_epoch == 1
        other.fit(x, targets, **keywords, optimizer=SGD(0.2))
        assert_same(network, other)

    def test_nan_is_no_improvement(self, backend):
        network = small(backend)
        x, targets = data_set(network)
        nothing = np.zeros((5, 0, 2)), np.zeros((5, 0), int)
        history = network.fit(x, targets, epochs=9, validation_data=nothing, early_stopping=2)
        assert len(history["epoch"]) == 2
        assert history.best_epoch is None
        assert_different(network, small(backend))


class TestCallbacks:
    def test_are_told(self, backend):
        network = small(backend)
        x, targets = data_set(network)
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

    def test_of_an_iterator_are_told(self, backend):
        network = small(backend)
        reports = []
        network.fit(*data_set(network), epochs=2, callbacks=iter([reports.append]))
        assert [report.epoch for report in reports] == [1, 2]

    @pytest.mark.parametrize("answer", [True, np.True_])
    def test_may_stop(self, answer, backend):
        network = small(backend)
        others = []
        history = network.fit(
            *data_set(network),
            epochs=9,
            callbacks=[lambda report: answer if report.epoch == 3 else False, others.append],
        )
        assert history["epoch"] == [1, 2, 3]
        assert history.stopped_by == "callback"
        assert len(others) == 3  # all are told

    @pytest.mark.parametrize("answer", [1, "stop", [0]])
    def test_other_answers_mean_nothing(self, answer, backend):
        network = small(backend)
        assert network.fit(*data_set(network), epochs=2, callbacks=[lambda _: answer])["epoch"] == [1, 2]

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
        x, targets = data_set(network)
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
        network.fit(*data_set(network), callbacks=[watch])
        assert watch.norm is None


class TestInterruption:
    @pytest.mark.parametrize("where", ["before", "during"])
    def test_leaves_parameters_as_before_the_step(self, where, backend, monkeypatch):
        network, other = small(backend), small(backend)
        x, targets = data_set(network)
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
        network.fit(*data_set(network), epochs=3, batch_size=2, truncation=2)
        assert "18/18" in stream.getvalue()
        assert "epoch 3/3, loss " in stream.getvalue()

    def test_no_bar_elsewhere(self, capsys, backend):
        network = small(backend)
        network.fit(*data_set(network), epochs=3)
        assert capsys.readouterr() == ("", "")

    def test_asked_for(self, capsys, backend):
        network = small(backend)
        network.fit([data_set(network)], epochs=3, progress=True)
        captured = capsys.readouterr()
        assert "fit: 3step" in captured.err
        assert captured.out == ""

    def test_not_wanted(self, monkeypatch, backend):
        network, stream = small(backend), Terminal()
        monkeypatch.setattr(sys, "stderr", stream)
        network.fit(*data_set(network), progress=False)
        assert stream.getvalue() == ""

    def test_without_tqdm(self, monkeypatch, backend):
        network, stream = small(backend), Terminal()
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setitem(sys.modules, "tqdm", None)
        network.fit(*data_set(network))
        assert stream.getvalue() == ""
        with raises(ImportError, "progress: expected tqdm for a bar, got none; pip install 'bptt[cli]'"):
            network.fit(*data_set(network), progress=True)

    def test_without_standard_error(self, monkeypatch):
        monkeypatch.setattr(sys, "stderr", None)
        assert progress_bar(None, 3) is None

    def test_many_to_one_steps_are_batches(self, monkeypatch, backend):
        network, stream = small(backend, many_to_one=True), Terminal()
        monkeypatch.setattr(sys, "stderr", stream)
        network.fit(*data_set(network), batch_size=3, truncation=2)
        assert "2/2" in stream.getvalue()

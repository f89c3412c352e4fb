"""Network.evaluate: the loss of everything however it is cut, and accuracy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from errors import raises
from networks import EACH_LOSS, problem, small


class TestEvaluate:
    @pytest.mark.parametrize(("loss", "options"), EACH_LOSS)
    @pytest.mark.parametrize("many_to_one", [False, True])
    @pytest.mark.parametrize("reduction", ["mean", "sum"])
    def test_is_the_loss_of_everything(self, loss, options, many_to_one, reduction, backend):
        network = small(
            backend, loss=loss, loss_options=options, many_to_one=many_to_one, reduction=reduction
        )
        x, targets = problem(network, T=5, B=7)
        expected = network.loss(x, targets)
        for keywords in ({}, {"batch_size": 2}, {"batch_size": None, "truncation": 2}, {"truncation": 99}):
            result = network.evaluate(x, targets, **keywords)
            assert result["loss"] == pytest.approx(expected, rel=1e-13)
            assert ("accuracy" in result) == loss.endswith("cross_entropy")

    def test_accuracy_of_classes(self, backend):
        network = small(backend)
        x, _ = problem(network)
        best = network.predict(x).argmax(axis=-1)
        wrong = best.copy()
        wrong[0, 0] = (wrong[0, 0] + 1) % 3
        assert network.evaluate(x, best)["accuracy"] == 1.0
        assert network.evaluate(x, wrong)["accuracy"] == 14 / 15

    def test_ignored_rows_are_neither_right_nor_wrong(self, backend):
        network = small(backend, loss_options={"ignore_index": 2})
        network.parameters["readout.weight"][:] *= 20
        x, _ = problem(network)
        targets = network.predict(x).argmax(axis=-1)  # rows that predict class 2 are ignored
        counted = np.count_nonzero(targets != 2)
        assert 1 < counted < targets.size
        t, b = np.argwhere(targets != 2)[0]
        targets[t, b] = 1 - targets[t, b]
        assert network.evaluate(x, targets)["accuracy"] == (counted - 1) / counted

    def test_accuracy_of_two_sided_outputs(self, backend):
        network = small(backend, loss="binary_cross_entropy")
        x, _ = problem(network)
        targets = (network.predict(x) > 0.5).astype(float)
        targets[0, 0, 0] = 1 - targets[0, 0, 0]
        assert network.evaluate(x, targets)["accuracy"] == 44 / 45

    def test_batches_from_an_iterable(self, backend):
        network = small(backend)
        x, targets = problem(network, B=6)
        parts = ((x[:, part], targets[:, part]) for part in (slice(0, 1), slice(1, 6)))
        assert network.evaluate(parts)["loss"] == pytest.approx(network.loss(x, targets), rel=1e-14)

    def test_no_other_threads_than_asked_for(self, backend, monkeypatch):
        network = small(backend)
        x, targets = problem(network)

        def refuse():
            raise AssertionError("the default was asked for")

        monkeypatch.setattr("bptt.checks.options.default_threads", refuse)
        network.evaluate(x, targets, threads=1)
        network.fit(x, targets, validation_data=(x, targets), threads=1, progress=False)
        network.loss(x, targets, threads=1)
        network.loss_and_gradients(x, targets, threads=1)
        network.predict(x, threads=1)
        with pytest.raises(AssertionError, match="the default was asked for"):
            network.evaluate(x, targets)

    def test_nothing(self, backend):
        result = small(backend).evaluate(np.zeros((4, 0, 2)), np.zeros((4, 0), int))
        assert math.isnan(result["loss"])
        assert math.isnan(result["accuracy"])
        summed = small(backend, loss="residual").evaluate(np.zeros((4, 0, 2)), np.zeros((4, 0, 3)))
        assert summed == {"loss": 0.0}

    def test_errors(self, backend):
        network = small(backend)
        x, targets = problem(network)
        with raises(ValueError, "targets: expected an array with an array x, got None"):
            network.evaluate(x)
        with raises(ValueError, "batch_size: expected an integer of at least 1, got 0"):
            network.evaluate(x, targets, batch_size=0)
        with raises(ValueError, "truncation: expected an integer of at least 1, got 0"):
            network.evaluate(x, targets, truncation=0)

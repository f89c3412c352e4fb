"""Training runs of character models: steps, evaluations, limits, going on with the same bits."""

import copy
import math

import numpy as np
import pytest
from tiny_runs import TEXT, state_of, step, tiny_run

from bptt.run_files import load_run, save_run
from bptt.settings import Limit
from bptt.text import bits_per_character
from bptt.training import DivergedError, train


def test_an_epoch_trains_on_every_step_of_every_stream():
    run = tiny_run()
    first = run.counters.offset
    for _ in range(16):
        step(run)
    counters = run.counters
    assert (counters.epoch, counters.chunk, counters.steps, counters.characters) == (1, 0, 16, 3 * 126)
    assert counters.offset != first
    assert not run.state[0].any()
    step(run)
    assert run.state[0].any()
    assert (counters.epoch, counters.chunk, counters.steps) == (1, 1, 17)


def test_the_state_is_carried_and_the_update_is_that_of_the_settings():
    run = tiny_run(optimizer="sgd", lr=0.5, clip=0.01)
    before = {name: value.copy() for name, value in run.network.parameters.items()}
    loss, gradients = run.gradients()
    expected = {name: value.copy() for name, value in gradients.parameters.items()}
    norm = math.sqrt(sum(float((g.astype(np.float64) ** 2).sum()) for g in expected.values()))
    assert norm > 0.01
    run.update(loss, gradients)
    for name, value in run.network.parameters.items():
        # a rounding or two of numbers below 1
        wanted = before[name] - 0.5 * 0.01 / norm * expected[name]
        np.testing.assert_allclose(value, wanted, rtol=0, atol=2 * np.finfo(np.float32).eps)
    assert np.array_equal(run.state[0], gradients.h_n)
    bits = loss / math.log(2)
    assert run.counters.training_bits == bits
    inputs, targets = run.streams.chunk(1, run.counters.offset)
    assert run.gradients()[0] == run.network.loss(inputs, targets, *run.state)
    assert run.gradients()[0] != run.network.loss(inputs, targets)
    loss, gradients = run.gradients()
    run.update(loss, gradients)
    mean = 0.98 * bits + 0.02 * loss / math.log(2)
    assert run.counters.training_bits == pytest.approx(mean, rel=1e-15)


def test_gradients_and_evaluation_change_nothing():
    run = tiny_run()
    step(run)
    before = state_of(run)
    run.gradients()
    run.evaluate()
    assert state_of(run) == before


def test_validation_text_is_the_last_twentieth():
    run = tiny_run()
    tokens = run.vocabulary.encode(TEXT)
    assert np.array_equal(run.streams.tokens, tokens[:380])
    assert np.array_equal(run.validation, tokens[379:])
    assert run.evaluate() == bits_per_character(run.network, tokens[379:])


def test_validation_text_has_a_longest_length(monkeypatch):
    monkeypatch.setattr("bptt.training.EVALUATED", 10)
    tokens = tiny_run().vocabulary.encode(TEXT)
    assert np.array_equal(tiny_run().validation, tokens[379:390])  # one character before the ten


def test_evaluations_stand_at_the_start_of_each_epoch_and_regularly_in_long_ones():
    run = tiny_run(steps_per_chunk=4)
    assert run.streams.chunks == 32
    assert run.evaluation_interval == 32  # 20 * 21 characters in chunks of 12: 35
    run.validation = run.validation[:10]
    assert run.evaluation_interval == 17  # 200 in chunks of 12
    at = []
    for _ in range(90):
        if run.evaluation_due:
            at.append(run.counters.steps)
            run.note_validation(float(len(at) % 3))
            assert not run.evaluation_due
        run.update(*run.gradients())
    assert at == [0, 17, 32, 49, 64, 81]
    assert (run.counters.best_bits, run.counters.best_steps) == (0.0, 32)  # the first of two
    assert (run.counters.validation_bits, run.counters.validated_steps) == (0.0, 81)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_divergence_leaves_the_run_as_it_was(bad):
    run = tiny_run()
    step(run)
    before = state_of(run)
    loss, gradients = run.gradients()
    with pytest.raises(
        DivergedError, match=r"^training diverged at step 2 \(epoch 1\): .* try a smaller --lr$"
    ):
        run.update(bad, gradients)
    assert state_of(run) == before
    loss, gradients = run.gradients()
    gradients.parameters["readout.bias"][0] = bad
    with pytest.raises(DivergedError):
        run.update(loss, gradients)
    with pytest.raises(DivergedError, match="finite validation loss"):
        run.note_validation(bad)
    assert state_of(run) == before


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_saved_and_loaded_at_any_step_it_goes_on_with_the_same_bits(tmp_path, optimizer):
    straight = tiny_run(optimizer=optimizer)
    for k in range(36):
        save_run(tmp_path / "m", straight)
        loaded = load_run(tmp_path / "m", TEXT, backend="reference")
        assert state_of(loaded) == state_of(straight)
        assert (loaded.settings, loaded.limit) == (straight.settings, straight.limit)
        if k % 5 == 0:
            ahead = copy.deepcopy(straight)
            for _ in range(3):
                step(ahead)
                step(loaded)
            assert state_of(loaded) == state_of(ahead)
        step(straight)


# -------------------------------------------------------------------------------------------- the loop


def test_train_stops_at_the_last_epoch_and_validates_there():
    run, seen, other = tiny_run(), [], tiny_run()
    train(run, report=lambda run: seen.append((run.counters.steps, run.counters.validated_steps)))
    assert [steps for steps, _ in seen] == list(range(33))
    assert {validated for _, validated in seen} == {0, 16, 32}
    assert run.counters.validation_bits == run.evaluate()
    for _ in range(32):
        step(other)
    other.note_validation(other.evaluate())
    assert state_of(run) == state_of(other)


class Clock:
    """Time that passes where it is told to."""

    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr("bptt.training.time.monotonic", lambda: self.now)

    def taking(self, seconds, function):
        """A function that takes so long."""

        def slow(*arguments):
            self.now += seconds
            return function(*arguments)

        return slow


def test_train_for_seconds_ends_in_time_with_a_validation(monkeypatch):
    run, clock = tiny_run(), Clock(monkeypatch)
    monkeypatch.setattr(run, "gradients", clock.taking(1.0, run.gradients))
    monkeypatch.setattr(run, "evaluate", clock.taking(3.0, run.evaluate))
    run.limit = Limit(seconds=40)
    train(run, started=97.0)  # 3 s are gone before it is called
    assert run.counters.validated_steps == run.counters.steps
    # 3 + two evaluations of 3 at steps 0 and 16, then steps while 1.5 evaluations and 2 steps more would fit
    assert run.counters.steps == 25
    assert run.counters.seconds == 3 + 3 + 16 + 3 + 9 + 3 == clock.now - 97.0
    run.limit = Limit(seconds=run.counters.seconds)
    train(run)  # none of its time is left
    assert run.counters.steps == 25


def test_train_saves_every_so_often(monkeypatch):
    run, clock, saved = tiny_run(1), Clock(monkeypatch), []
    monkeypatch.setattr(run, "gradients", clock.taking(10.0, run.gradients))
    train(run, save=clock.taking(15.0, lambda run: saved.append(run.counters.steps)))
    # once more than 30 s have passed since the end of the last one
    assert saved == [4, 8, 12, 16]

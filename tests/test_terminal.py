"""What the command line shows of a run while it trains, and how it takes signals."""

import errno
import io
import signal

import pytest
from tiny_runs import state_of, tiny_run

from bptt.settings import Limit
from bptt.terminal import Interrupts, Progress, duration, printable
from bptt.training import train


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_for_work_that_may_be_broken_off(number):
    previous = signal.getsignal(number)
    with Interrupts() as interrupts:
        with interrupts.allowed():
            pass
        signal.raise_signal(number)  # nothing is raised here
        assert interrupts.received == number
        with pytest.raises(KeyboardInterrupt), interrupts.allowed():
            raise AssertionError("not reached")
    assert signal.getsignal(number) is previous


def test_a_signal_breaks_off_work_at_once_and_once():
    run, before = tiny_run(), None

    with Interrupts() as interrupts:
        reached = []

        def report(run):
            nonlocal before
            before = state_of(run)
            reached.append(run.counters.steps)

        class Rude:
            """Interrupts in the middle of the third gradient."""

            def __enter__(self):
                self.inner = interrupts.allowed()
                self.inner.__enter__()
                if len(reached) == 3:
                    signal.raise_signal(signal.SIGINT)

            def __exit__(self, *error):
                return self.inner.__exit__(*error)

        with pytest.raises(KeyboardInterrupt):
            train(run, report=report, interruptible=Rude)
        signal.raise_signal(signal.SIGINT)  # while saving, say
    assert run.counters.steps == 2
    assert state_of(run) == before


def test_a_second_signal_does_not_break_off_what_follows_the_first():
    ended = False

    def work():
        nonlocal ended
        with interrupts.allowed():
            try:
                signal.raise_signal(signal.SIGINT)
            finally:
                signal.raise_signal(signal.SIGINT)
                ended = True

    with Interrupts() as interrupts, pytest.raises(KeyboardInterrupt):
        work()
    assert ended


def test_lines_when_not_on_a_terminal(monkeypatch):
    stream, run = io.StringIO(), tiny_run()
    progress = Progress(stream)
    train(run, report=progress)
    progress.close(run)
    lines = stream.getvalue().splitlines()
    assert lines[0].startswith("  0%  epoch 0.00  train -  validation ")
    assert lines[0].endswith("-:-- left")
    assert lines[-1].startswith("100%  epoch 2.00  train ")
    assert lines[-1].endswith("0:00 left")
    assert len(lines) < 8
    monkeypatch.setattr("bptt.terminal.LINE_EVERY", 0.0)
    stream, run = io.StringIO(), tiny_run()
    train(run, report=Progress(stream))
    assert len(stream.getvalue().splitlines()) == 33


@pytest.mark.parametrize("error", [BrokenPipeError(), OSError(errno.ENOSPC, "No space left on device")])
def test_a_run_goes_on_when_its_progress_cannot_be_written(error, monkeypatch):
    class Full(io.StringIO):
        def write(self, text):
            raise error

    monkeypatch.setattr("bptt.terminal.LINE_EVERY", 0.0)
    progress, run = Progress(Full()), tiny_run()
    train(run, report=progress)
    progress.close(run)
    assert run.counters.epoch == 2


def test_a_run_of_some_time_ends_at_all_of_it():
    """It ends a little before the time is over, and says 100% and nothing left."""
    stream, run = io.StringIO(), tiny_run(1)
    run.limit = Limit(seconds=100.0)
    progress = Progress(stream)
    progress(run)
    run.counters.seconds = 99.0
    progress.close(run, finished=False)
    progress.close(run)
    shown = [(line[:4], line[-9:]) for line in stream.getvalue().splitlines()]
    assert shown == [("  0%", "1:40 left"), (" 99%", "0:01 left"), ("100%", "0:00 left")]


def test_durations_and_printable_text():
    assert [duration(s) for s in (0, 7.4, 60, 3723, -1)] == ["0:00", "0:07", "1:00", "1:02:03", "0:00"]
    assert printable("a\n\tb\x1b[31m\r\x7f\x9bé") == "a\n\tb\ufffd[31m\ufffd\ufffd\ufffdé"

"""What the command line shows while it works, and how it takes Ctrl-C."""

from __future__ import annotations

import math
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from bptt.training import Run

#: Seconds between two plain lines, and between two redraws of the bar.
LINE_EVERY, BAR_EVERY = 5.0, 0.1
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """Turns SIGINT and SIGTERM into KeyboardInterrupt, but only where nothing can be left half done.

    Use it as a context manager around the whole work, and ``with interrupts.allowed():`` around each part
    that may be broken off.  A signal at another time waits for the next such part.

    Attributes
    ----------
    received : int or None
        The signal that came, if one did.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._allowed = False
        self._previous: list[Any] = []

    def __enter__(self) -> Interrupts:
        self._previous = [signal.signal(number, self._handle) for number in SIGNALS]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in zip(SIGNALS, self._previous, strict=True):
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        if self._allowed:
            self._allowed = False  # once is enough: a second signal must not break the saving
            raise KeyboardInterrupt

    @contextmanager
    def allowed(self) -> Iterator[None]:
        """Let a signal that comes now, or that has come before, raise KeyboardInterrupt."""
        try:
            self._allowed = True
            if self.received is not None:
                raise KeyboardInterrupt
            yield
        finally:
            self._allowed = False


def duration(seconds: float) -> str:
    """Minutes and seconds, or hours, minutes and seconds: ``"0:07"``, ``"1:02:03"``."""
    minutes, s = divmod(max(0, round(seconds)), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02}:{s:02}" if hours else f"{m}:{s:02}"


class Progress:
    """Shows how a run gets on: a tqdm bar on a terminal, otherwise a line every few seconds.

    Call it with the run after each step; it writes when it is time to.

    Parameters
    ----------
    stream : file
        Where to, as a rule standard error.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._bar: Any = None
        if self._stream.isatty():
            from tqdm import tqdm

            columns, rows = os.get_terminal_size(self._stream.fileno())
            known = columns > 0 and rows > 0  # some terminals, such as those of containers, say 0
            self._bar = tqdm(
                total=1.0,
                file=self._stream,
                dynamic_ncols=known,
                ncols=None if known else 100,
                nrows=None if known else 24,
                leave=True,
                bar_format="{percentage:3.0f}%|{bar}| {desc}",
            )
        self._begin: tuple[float, int, int] | None = None  # time, steps and characters at the first call
        self._shown = self._validated = -1.0

    def __call__(self, run: Run) -> None:
        """Show `run` if enough time has passed since the last time, or the bar has a new validation loss."""
        now = time.monotonic()
        if self._begin is None:
            self._begin = (now, run.counters.steps, run.counters.characters)
        validated = run.counters.validated_steps
        every = LINE_EVERY if self._bar is None else BAR_EVERY
        if now - self._shown < every and not (validated != self._validated and self._bar is not None):
            return
        self._show(run, now)

    def close(self, run: Run, *, finished: bool = True) -> None:
        """Show the run as it is now, at 100% if it is `finished`, and end the bar."""
        if self._begin is not None:
            self._show(run, time.monotonic(), finished)
        if self._bar is not None:
            self._bar.close()

    def _show(self, run: Run, now: float, finished: bool = False) -> None:
        self._shown, self._validated = now, run.counters.validated_steps
        try:
            self._write(*self._describe(run, now, finished))
        except OSError:  # a pipe nobody reads, a log on a full disk: no reason to lose the run
            self._shown = math.inf

    def _write(self, fraction: float, text: str) -> None:
        if self._bar is None:
            print(f"{fraction:4.0%}  {text}", file=self._stream, flush=True)
        else:
            self._bar.n = min(1.0, fraction)
            self._bar.set_description_str(text, refresh=True)

    def _describe(self, run: Run, now: float, finished: bool) -> tuple[float, str]:
        """Done part of the run, and the line about it."""
        assert self._begin is not None
        counters, (begin, steps, characters) = run.counters, self._begin
        elapsed = now - begin
        rate = (counters.characters - characters) / elapsed if elapsed > 0 else 0.0
        left: float | None
        if run.limit.seconds is not None:
            fraction, left = counters.seconds / run.limit.seconds, run.limit.seconds - counters.seconds
        else:
            total, done = run.total_steps, counters.steps - steps
            assert total is not None
            fraction = counters.steps / total
            left = elapsed / done * (total - counters.steps) if done else None
        if finished:  # a run ends a little before its time is over
            fraction, left = 1.0, 0.0
        return min(1.0, fraction), "  ".join(
            (
                f"epoch {counters.epoch + counters.chunk / run.streams.chunks:.2f}",
                f"train {_bits(counters.training_bits)}",
                f"validation {_bits(counters.validation_bits)} bits/char",
                f"{rate:,.0f} char/s",
                f"{'-:--' if left is None else duration(left)} left",
            )
        )


def _bits(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def printable(text: str) -> str:
    """`text` with control characters other than line break and tab shown as U+FFFD, fit for a terminal."""
    return "".join(
        c if c in "\n\t" or (ord(c) >= 0x20 and not 0x7F <= ord(c) < 0xA0) else "\ufffd" for c in text
    )

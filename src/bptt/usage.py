"""What the subcommands have in common: kinds of options and arguments, and how they refuse them."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

#: Whether a file can be read is found out by reading it, so that there is one message for it.
PATH = click.Path(readable=False, path_type=Path)
backend_option = click.option(
    "--backend",
    type=click.Choice(["kernels", "reference"]),
    default="kernels",
    help="Compiled, or plain Python.",
)


class Failure(click.ClickException):
    """The work failed, though the command line was right."""

    exit_code = 1


class Number(click.FloatRange):
    """A finite float in a range; click's own range lets NaN and infinity through."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Parse and check `value`."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return float(number)


@contextmanager
def usage_errors() -> Iterator[None]:
    """Report what is wrong with a file or an option as such: one sentence, exit code 2."""
    try:
        yield
    except OSError as error:
        if not error.filename:  # a pipe nobody reads, standard output on a full disk
            raise
        raise click.UsageError(f"{error.filename}: {error.strerror}") from error
    except (ValueError, ImportError) as error:  # ImportError: BPTT_CPU names what this processor lacks
        raise click.UsageError(str(error)) from error


def writable(out: Path, text_file: Path | None = None, option: str = "--out") -> Path:
    """Where `out`, given as `option`, really is, after making sure that a file can be written there.

    Raises
    ------
    ValueError
        If it can't: a directory, a device, the text itself, no such directory, no permission.
    """
    real = Path(os.path.realpath(out))
    if real.is_dir():
        raise ValueError(f"{option}: expected a file, got the directory {out}")
    if real.exists():
        if not real.is_file():
            raise ValueError(f"{option}: expected a regular file, got the device or pipe {out}")
        if text_file is not None and text_file.exists() and real.samefile(text_file):
            raise ValueError(f"{option}: expected another file than the text, got {out}")
        if not os.access(real, os.W_OK):
            raise ValueError(f"{option}: expected a writable file, got the read-only file {out}")
    if not real.parent.is_dir():
        raise ValueError(f"{option}: expected a file in an existing directory, got {out}")
    try:
        tempfile.NamedTemporaryFile(dir=real.parent, prefix=real.name[:100]).close()
    except OSError as error:
        raise ValueError(
            f"{option}: expected a writable directory, got {real.parent} ({error.strerror})"
        ) from error
    return real

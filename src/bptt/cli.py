"""The command ``bptt``: runs what :mod:`bptt.commands` defines; every expected failure becomes one sentence.

Exit codes: 0 done; 1 the work failed (training diverged, disk full, out of memory); 2 wrong usage or input;
128 + n ended by signal n, so 130 for Ctrl-C.
"""

from __future__ import annotations

import importlib.util
import io
import os
import sys
from typing import NoReturn, TextIO

#: What the extra "cli" brings.
PACKAGES = ("click", "safetensors", "tqdm")


def main() -> NoReturn:
    """Run the command line with ``sys.argv`` and end the process."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        _say(f'the command line needs {" and ".join(missing)}: pip install "bptt[cli]"')
        sys.exit(2)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # text in a model may not fit the terminal's encoding
            stream.reconfigure(errors="backslashreplace")
    sys.exit(_run())


def _run() -> int:
    """Run the command line and return the exit code."""
    import click

    from bptt.commands import bptt

    try:
        # Not bptt.main(), which has its own ideas of what a broken pipe and Ctrl-C should look like.
        with bptt.make_context("bptt", sys.argv[1:]) as context:
            bptt.invoke(context)
        sys.stdout.flush()
    except click.exceptions.Exit as end:  # --help, say
        return end.exit_code
    except KeyboardInterrupt:
        _say("interrupted", kind="")
        return 130
    except click.ClickException as error:
        _say(error.format_message())
        return error.exit_code
    except BrokenPipeError:  # the reader has gone, as in `| head`: end quietly, as a Unix filter does
        _discard(sys.stdout, sys.stderr)
        return 141
    except OSError as error:  # as a rule standard output, into a file on a full disk
        _say(str(error))
        _discard(sys.stdout)
        return 1
    except MemoryError:
        _say("not enough memory; a smaller --hidden, --layers, --batch or --steps-per-chunk needs less")
        return 1
    return 0


def _discard(*streams: TextIO) -> None:
    """Send nowhere what is yet to be written, which would fail again at exit."""
    for stream in streams:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _say(message: str, kind: str = "error: ") -> None:
    print(f"bptt: {kind}{' '.join(message.split())}", file=sys.stderr)

"""The subcommands of ``bptt``: options and what is printed; the work is done elsewhere."""

from __future__ import annotations

import math
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from bptt import checks
from bptt.checkpoints import load_character_model, load_run, save_run
from bptt.terminal import Interrupts, Progress, printable
from bptt.text import continue_text, default_corpus, read_text
from bptt.training import DEFAULT_LR, DivergedError, Limit, Run, Settings, new_run, train

DEFAULT_SECONDS = 60.0
SAMPLE_LENGTH = 300
#: Whether a file can be read is found out by reading it, so that there is one message for it.
PATH = click.Path(readable=False, path_type=Path)


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
    except BrokenPipeError:
        raise
    except OSError as error:
        raise click.UsageError(
            f"{error.filename}: {error.strerror}" if error.filename else str(error)
        ) from error
    except (ValueError, ImportError) as error:  # ImportError: BPTT_CPU names what this processor lacks
        raise click.UsageError(str(error)) from error


@click.group(
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="bptt", message="bptt %(version)s")
@click.pass_context
def bptt(context: click.Context) -> None:
    """Recurrent neural networks on the CPU: train a character model on a text and let it write."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


@bptt.command("train", context_settings={"show_default": True})
@click.argument("file", required=False, type=PATH)
@click.option(
    "--cell", type=click.Choice(["tanh", "relu", "sigmoid", "identity"]), default="tanh", help="Recurrence."
)
@click.option("--hidden", type=click.IntRange(1, 16384), default=256, help="Hidden units.")
@click.option(
    "--steps-per-chunk", type=click.IntRange(1), default=64, help="Steps a gradient goes back at most."
)
@click.option("--batch", type=click.IntRange(1), default=32, help="Places of the text read side by side.")
@click.option("--epochs", type=click.IntRange(1, 10**9), help="Stop after so many passes over the text.")
@click.option(
    "--seconds",
    type=Number(0, min_open=True),
    help="Stop after so many seconds, the last validation included.  "
    f"[default: {DEFAULT_SECONDS:g}, without --epochs]",
)
@click.option("--optimizer", type=click.Choice(list(DEFAULT_LR)), default="adam", help="Update rule.")
@click.option(
    "--lr",
    type=Number(0, min_open=True),
    help=f"Learning rate.  [default: {', '.join(f'{lr:g} for {name}' for name, lr in DEFAULT_LR.items())}]",
)
@click.option("--clip", type=Number(0), default=1.0, help="Largest gradient norm; 0: no limit.")
@click.option("--seed", type=click.IntRange(0), default=0, help="Same seed, same model.")
@click.option(
    "--threads",
    type=click.IntRange(1),
    help="Threads; the result doesn't depend on them.  [default: all cores]",
)
@click.option(
    "--backend",
    type=click.Choice(["kernels", "reference"]),
    default="kernels",
    help="Compiled, or plain Python.",
)
@click.option(
    "--out",
    type=PATH,
    help="Model file.  [default: model.safetensors, or that of --resume]",
)
@click.option("--resume", type=PATH, metavar="MODEL", help="Go on with the run that MODEL holds.")
@click.option("--quiet", is_flag=True, help="No progress and no sample on standard error.")
@click.pass_context
def train_command(
    context: click.Context,
    /,
    file: Path | None,
    epochs: int | None,
    seconds: float | None,
    threads: int | None,
    backend: str,
    out: Path | None,
    resume: Path | None,
    quiet: bool,
    **settings: Any,
) -> None:
    """Train a character model on FILE (UTF-8), by default on the help texts of the Python language.

    The last 5% of the text is held out and validated on, in bits per character.  Progress goes to standard
    error, results go to standard output as lines "name: value".  --epochs and --seconds count from the
    beginning of the run, so to go on with one that has ended, give --resume and a larger limit.  What a
    model is after so many steps doesn't depend on interruptions.  It is saved every 30 seconds and at the
    end; Ctrl-C saves and ends.
    """
    started = time.monotonic()
    if epochs is not None and seconds is not None:
        raise click.UsageError("--epochs and --seconds: expected at most one of them, got both")
    limit = None if epochs is seconds is None else Limit(epochs, seconds)
    out = out or resume or Path("model.safetensors")
    with usage_errors():
        checks.resolve_threads(threads)
        target = writable(out, file)
        text = default_corpus() if file is None else read_text(file)
        if resume is None:
            settings["lr"] = settings["lr"] or DEFAULT_LR[settings["optimizer"]]
            run = new_run(
                Settings(**settings), limit or Limit(seconds=DEFAULT_SECONDS), text, backend=backend
            )
        else:
            run = load_run(resume, text, backend=backend)
            run.limit = limit or run.limit
            refuse_changes(context, run.settings)
    again = ["bptt", "train", "--resume", str(out)]
    again += ["--threads", str(threads)] if threads else []
    again += ["--backend", backend] if backend != "kernels" else []
    again += ["--quiet"] if quiet else []
    again += [] if file is None else ["--", str(file)] if str(file).startswith("-") else [str(file)]
    work(run, target, started, threads, quiet, shlex.join(again))
    show_results(run, out, quiet)


def refuse_changes(context: click.Context, settings: Settings) -> None:
    """Raise UsageError if an option given beside --resume differs from what the run has."""
    for name, value in vars(settings).items():
        given = context.params[name]
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE and given != value:
            option = "--" + name.replace("_", "-")
            raise click.UsageError(f"{option}: expected {value} as in the run to resume, got {given}")


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


def work(run: Run, target: Path, started: float, threads: int | None, quiet: bool, again: str) -> None:
    """Train, show progress, save; on a signal save too and end with the command that goes on."""

    def save(run: Run) -> None:
        try:
            save_run(target, run)
        except OSError as error:
            raise Failure(f"{target}: the model could not be saved: {error.strerror or error}") from error

    steps = run.counters.steps
    progress = None if quiet else Progress()
    with Interrupts() as interrupts:
        try:
            train(
                run,
                threads=threads,
                started=started,
                report=progress or (lambda run: None),
                save=save,
                interruptible=interrupts.allowed,
            )
        except DivergedError as error:
            if progress:
                progress.close(run, finished=False)
            raise Failure(str(error)) from error
        except KeyboardInterrupt:
            save(run)
            if progress:
                progress.close(run, finished=False)
            click.echo(f"bptt: interrupted; saved to {target}; to go on: {again}", err=True)
            sys.exit(128 + (interrupts.received or 2))
        save(run)
    if progress:
        progress.close(run)
    if run.counters.steps == steps:
        click.echo(
            "bptt: the run had reached its limit; give a larger --epochs or --seconds to go on", err=True
        )


def show_results(run: Run, out: Path, quiet: bool) -> None:
    """Write a sample of the model's text to standard error, and the results to standard output."""
    counters = run.counters
    if not quiet:
        sample = continue_text(
            run.network, run.vocabulary, "", SAMPLE_LENGTH, temperature=0.7, seed=run.settings.seed
        )
        click.echo(f"\n{printable(''.join(sample))}\n", err=True)
    results: dict[str, object] = {
        "model": out,
        "epochs": f"{counters.epoch + counters.chunk / run.streams.chunks:.3f}",
        "steps": counters.steps,
        "characters": counters.characters,
        "seconds": f"{counters.seconds:.2f}",
        "characters_per_second": f"{counters.characters / counters.seconds:.0f}",
        "training_bits_per_character": _bits(counters.training_bits),
        "best_validation_bits_per_character": _bits(counters.best_bits),
        "validation_bits_per_character": _bits(counters.validation_bits),
    }
    for name, value in results.items():
        click.echo(f"{name}: {value}")


def _bits(value: float | None) -> str:
    return "nan" if value is None else f"{value:.4f}"


@bptt.command("sample", context_settings={"show_default": True})
@click.argument("model", type=PATH)
@click.option("--prompt", default="", help="Text to continue; by default the model begins a line.")
@click.option(
    "--length", type=click.IntRange(0), default=SAMPLE_LENGTH, help="Characters to write after the prompt."
)
@click.option(
    "--temperature", type=Number(0), default=0.7, help="Boldness; 0 always takes the likeliest character."
)
@click.option(
    "--seed", type=click.IntRange(0), help="Same seed, same text.  [default: another text each time]"
)
@click.option(
    "--backend",
    type=click.Choice(["kernels", "reference"]),
    default="kernels",
    help="Compiled, or plain Python.",
)
def sample_command(
    model: Path, prompt: str, length: int, temperature: float, seed: int | None, backend: str
) -> None:
    """Print the prompt, how the MODEL continues it, character by character, and a line break."""
    with usage_errors():
        network, vocabulary = load_character_model(model, backend=backend)
        characters = continue_text(network, vocabulary, prompt, length, temperature=temperature, seed=seed)
        shown = printable if sys.stdout.isatty() else str
        sys.stdout.write(shown(prompt))
        for character in characters:
            sys.stdout.write(shown(character))
            sys.stdout.flush()
    sys.stdout.write("\n")


@bptt.command("info")
def info_command() -> None:
    """Print the version, and which processor variant runs and why."""
    with usage_errors():
        from bptt.kernels import info
    for name, value in info().items():
        shown = ", ".join(map(str, value)) if isinstance(value, list | tuple | set | frozenset) else value
        click.echo(f"{name}: {shown}")


@bptt.command("bench", context_settings={"show_default": True})
@click.option("--seconds", type=Number(0, min_open=True), default=60.0, help="Time to take, about.")
@click.option("--threads", type=click.IntRange(1), default=1, help="Threads of every implementation.")
@click.option("--json", "file", type=PATH, metavar="FILE", help="Write the measurements to FILE too.")
def bench_command(seconds: float, threads: int, file: Path | None) -> None:
    """Compare the speed of a layer with NumPy, and with PyTorch, ONNX Runtime and JAX where installed.

    Every result is checked against a float64 computation before it is timed.  The process is pinned to as
    many cores as it has threads.  Prints a Markdown table; a quiet machine gives the better one.
    """
    with usage_errors():
        from bptt.benchmark import machine, results

        machine.parse_threads(str(threads))
        target = None if file is None else writable(file, option="--json")
    with tempfile.TemporaryDirectory() as folder:
        measured = Path(folder, "times.json")
        # -P: a file in the current directory that is called like a module must not be taken for it
        command = [sys.executable, "-P", "-m", "bptt.benchmark", str(seconds), str(threads), str(measured)]
        done = machine.run_fixed(command, threads, stdout=subprocess.PIPE)
        if done.returncode:
            raise Failure(done.stdout or f"the measuring process ended with status {done.returncode}")
        run = results.read(measured)
        if target is not None:
            try:
                shutil.copyfile(measured, target)
            except OSError as error:
                raise Failure(f"{target}: could not be written: {error.strerror or error}") from error
    click.echo(results.table(run.measurements))
    click.echo()
    click.echo(results.notes(run))

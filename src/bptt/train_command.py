"""``bptt train``: options, progress and results of a training run; the work is done elsewhere."""

from __future__ import annotations

import math
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from bptt import checks
from bptt.run_files import load_run, save_run
from bptt.settings import CELLS, DEFAULT_LR, Limit, Settings
from bptt.terminal import Interrupts, Progress, printable
from bptt.text import continue_text, default_corpus, read_text
from bptt.training import DivergedError, Run, new_run, train
from bptt.usage import PATH, Failure, Number, backend_option, usage_errors, writable

DEFAULT_SECONDS = 60.0
SHARE = Number(0, 1, max_open=True)
#: Characters of the text that the model writes at the end.
SAMPLE_LENGTH = 300


@click.command("train", context_settings={"show_default": True})
@click.argument("file", required=False, type=PATH)
@click.option(
    "--cell",
    type=click.Choice(["rnn", *CELLS]),
    default="tanh",
    callback=lambda context, option, value: "tanh" if value == "rnn" else value,
    help="Recurrence: an Elman layer with one of four nonlinearities (rnn is tanh), an LSTM or a GRU.",
)
@click.option("--hidden", type=click.IntRange(1, 16384), default=256, help="Hidden units of a layer.")
@click.option("--layers", type=click.IntRange(1, 1000), default=1, help="Layers, one above the other.")
@click.option("--dropout", type=SHARE, default=0.0, help="Share of a layer's outputs hidden from the next.")
@click.option(
    "--recurrent-dropout", type=SHARE, default=0.0, help="Share of a layer's state hidden from itself."
)
@click.option("--zoneout", type=SHARE, default=0.0, help="Share of a layer's state that stays as it was.")
@click.option("--layer-norm", is_flag=True, help="Normalise what goes into each cell.")
@click.option(
    "--steps-per-chunk",
    "--truncation",
    "steps_per_chunk",
    type=click.IntRange(1),
    default=64,
    help="Steps a gradient goes back at most.",
)
@click.option(
    "--stride",
    type=click.IntRange(1),
    help="Steps between two updates, whose loss goes back over --truncation steps.  [default: as many]",
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
@backend_option
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
            if settings["dropout"] and settings["layers"] == 1:
                raise ValueError(
                    "--dropout: expected 0 with one layer, as it acts between layers, got "
                    f"{settings['dropout']}; --recurrent-dropout acts within one"
                )
            if settings["stride"] is not None and settings["stride"] > settings["steps_per_chunk"]:
                raise ValueError(
                    f"--stride: expected at most {settings['steps_per_chunk']}, as many as --truncation, got "
                    f"{settings['stride']}"
                )
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
    # a coarse clock stands still during a short run
    rate = counters.characters / counters.seconds if counters.seconds else math.nan
    results: dict[str, object] = {
        "model": out,
        "epochs": f"{counters.epoch + counters.chunk / run.streams.chunks:.3f}",
        "steps": counters.steps,
        "characters": counters.characters,
        "seconds": f"{counters.seconds:.2f}",
        "characters_per_second": f"{rate:.0f}",
        "training_bits_per_character": _bits(counters.training_bits),
        "best_validation_bits_per_character": _bits(counters.best_bits),
        "validation_bits_per_character": _bits(counters.validation_bits),
    }
    for name, value in results.items():
        click.echo(f"{name}: {value}")


def _bits(value: float | None) -> str:
    return "nan" if value is None else f"{value:.4f}"

"""The subcommands of ``bptt`` and what they print; the work is done elsewhere."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import click

from bptt.flow_command import flow_command
from bptt.run_files import load_character_model, model_info
from bptt.terminal import printable
from bptt.text import continue_text
from bptt.train_command import SAMPLE_LENGTH, train_command
from bptt.usage import PATH, Failure, Number, backend_option, usage_errors, writable


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
@backend_option
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
@click.argument("model", required=False, type=PATH)
def info_command(model: Path | None) -> None:
    """Print the version, and which processor variant runs and why; or what the file MODEL holds."""
    with usage_errors():
        if model is None:
            from bptt.kernels import info

            lines = info()
        else:
            lines = model_info(model)
    for name, value in lines.items():
        shown = ", ".join(map(str, value)) if isinstance(value, list | tuple | set | frozenset) else value
        click.echo(f"{name}: {'nan' if shown is None else shown}")


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


bptt.add_command(train_command)
bptt.add_command(flow_command)

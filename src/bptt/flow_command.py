"""``bptt flow``: how the gradient of a model flows back through a text, in words and as a picture."""

from __future__ import annotations

import io
from pathlib import Path

import click

from bptt import plots
from bptt.atomic import write_atomically
from bptt.run_files import load_character_model
from bptt.text import Streams, read_text
from bptt.usage import PATH, Failure, backend_option, usage_errors, writable

#: Kinds of pictures, by the end of the file's name.
KINDS = (".pdf", ".png", ".svg")
#: States up to this size have the spectrum of their Jacobians drawn: it takes S rows of the batch a step.
SPECTRUM_UP_TO = 512


@click.command("flow", context_settings={"show_default": True})
@click.argument("model", type=PATH)
@click.argument("text", type=PATH)
@click.option(
    "--out",
    type=PATH,
    help="Picture, .png, .svg or .pdf: norms by layer and step, reach, saturation, terms, Jacobians.",
)
@click.option(
    "--steps", type=click.IntRange(1), default=100, help="Steps that the gradient goes back at most."
)
@click.option("--batch", type=click.IntRange(1), default=8, help="Places of the text read side by side.")
@click.option("--seed", type=click.IntRange(0), default=0, help="Of the masks of dropout and zoneout.")
@click.option("--threads", type=click.IntRange(1), help="Threads.  [default: all cores]")
@backend_option
def flow_command(
    model: Path,
    text: Path,
    out: Path | None,
    steps: int,
    batch: int,
    seed: int,
    threads: int | None,
    backend: str,
) -> None:
    """Tell how far back the loss of MODEL reaches on TEXT, layer by layer, and what usually helps.

    The model runs over the first steps of as many places of the text as --batch says; each step has its loss.
    """
    with usage_errors():
        target, kind = (None, "") if out is None else _picture(out, text)
        network, vocabulary = load_character_model(model, backend=backend)
        tokens = vocabulary.encode(read_text(text), name=str(text))
        if len(tokens) <= batch * steps:
            raise ValueError(
                f"{text}: expected more than {batch * steps} characters, --batch times --steps, "
                f"got {len(tokens)}"
            )
        inputs, targets = Streams(tokens, batch, steps).chunk(0)
        y, _, tape = network.rnn.record(inputs, seed=seed, threads=threads)
        _, ds = network.objective(network.readout(y, threads=threads), targets, threads=threads)
        dy, _ = network.readout.backward(y, ds, threads=threads)
        flow = tape.gradient_flow(dy, threads=threads)
    click.echo(flow)
    if target is None:
        return
    layer = network.rnn.num_layers - 1
    parameter = f"weight_hh_l{layer}"
    norms = tape.terms(dy, reduce="norm", parameters=[parameter], threads=threads)[parameter]
    products, bad = tape.jacobian_products(), flow.first_nonfinite
    # of NaN there are no singular values
    has_spectrum = products.size <= SPECTRUM_UP_TO and (bad is None or bad.what == "gradient")
    figure = plots.overview(
        flow, norms=norms, parameter=parameter, products=products if has_spectrum else None
    )
    picture = io.BytesIO()
    figure.savefig(picture, format=kind)
    try:
        write_atomically(target, picture.getvalue())
    except OSError as error:
        raise Failure(f"{target}: could not be written: {error.strerror or error}") from error


def _picture(out: Path, text: Path) -> tuple[Path, str]:
    """Return where a picture can be written, and of what kind it is to be."""
    if out.suffix.lower() not in KINDS:
        raise ValueError(
            f"--out: expected a name that ends in {', '.join(KINDS[:-1])} or {KINDS[-1]}, got {out}"
        )
    plots.require()
    return writable(out, text), out.suffix[1:].lower()

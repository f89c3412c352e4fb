"""Pictures of gradients and of training, with matplotlib (``pip install "bptt[plot]"``), imported when used.

Every function draws into axes and returns them; without ``ax=`` they belong to a new figure, ``ax.figure``,
which shows itself in a notebook and has ``savefig``. Colours are those of Okabe and Ito (2008) and of cividis
(Nuñez, Anderton and Renslow, 2018), which colour-blind readers can tell apart; lines differ in their dashes
too. Time steps are counted from 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bptt.flow.reach import FADED

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import numpy.typing as npt
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from bptt.flow.gradient import GradientFlow
    from bptt.flow.jacobians import JacobianProducts

#: Okabe and Ito's, without the yellow, which is too faint for a line on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", "--", "-.", ":")
#: Terms smaller than this share of the largest have the darkest colour.
FAINTEST = 1e-8
#: Legends of so many lines find room inside their axes; longer ones would cover lines, and stand beside them.
LEGEND_INSIDE = 2
#: Marks a line that is no curve of a flow.
THRESHOLD = "threshold"
#: Of so many singular values each has a line, of more some quantiles have.
LINES = 12


def heat_map(norms: npt.ArrayLike, *, ax: Axes | None = None, title: str = "Terms of the gradient") -> Axes:
    """Draw the norms of the terms (i, k) as a heat map.

    Parameters
    ----------
    norms : array_like
        (T, T) of one parameter, from ``tape.terms(dy, reduce="norm")``.
    ax : matplotlib Axes, optional
    title : str

    Returns
    -------
    Axes
        Loss step i upwards, injection step k to the right; white where a term is zero or not finite.

    Raises
    ------
    ValueError
        If the array is not square.
    ImportError
        Without matplotlib.
    """
    array = np.asarray(norms, np.float64)
    if array.ndim != 2 or array.shape[0] != array.shape[1]:
        raise ValueError(f"norms: expected shape (T, T), got {array.shape}")
    ax = _axes(ax, 5.2, 4.4)
    from matplotlib.colors import LogNorm

    shown = np.ma.masked_where(~(np.isfinite(array) & (array > 0)), array)
    largest = float(shown.max()) if shown.count() else 1.0
    smallest = max(float(shown.min()) if shown.count() else 0.1, largest * FAINTEST)
    end = max(1, len(array)) + 0.5  # without steps there is an empty square
    image = ax.imshow(
        shown,
        origin="lower",
        extent=(0.5, end, 0.5, end),
        cmap="cividis",
        norm=LogNorm(min(smallest, largest * 0.999), largest),
        interpolation="nearest",
        aspect="equal",
    )
    below = bool(shown.count()) and float(shown.min()) < smallest
    beside = ax.inset_axes((1.03, 0.0, 0.045, 1.0))  # as high as the axes are, which are square
    bar = ax.figure.colorbar(image, cax=beside, extend="min" if below else "neither")
    bar.set_label("norm of the term")
    ax.set(title=title, xlabel="injection step k (time step)", ylabel="loss step i (time step)")
    return ax


def gradient_norms(flow: GradientFlow, *, ax: Axes | None = None, label: str = "") -> Axes:
    """Draw the norm of dL/dh_t over time, a line for each layer and direction.

    Parameters
    ----------
    flow : GradientFlow
    ax : matplotlib Axes, optional
    label : str
        What the lines are called in front of their layers, to tell flows apart that are drawn into one
        picture.

    Returns
    -------
    Axes
    """
    ax = _axes(ax)
    for name, style, norms in _lines(flow.norms, ax, label):
        ax.plot(np.arange(1, len(norms) + 1), _positive(norms), label=name, **style)
    ax.set(title="Gradient of the loss", xlabel="time step t", ylabel="norm of ∂L/∂h_t", yscale="log")
    return _legend(ax)


def reach(flow: GradientFlow, *, ax: Axes | None = None, label: str = "") -> Axes:
    """Draw what is left of the gradient of one loss after going back some steps.

    Parameters
    ----------
    flow : GradientFlow
        Not of a pass with lengths in two directions and with dy.
    ax : matplotlib Axes, optional
    label : str
        As for `gradient_norms`.

    Returns
    -------
    Axes
        With a line at 1%, below which a gradient counts as faded.
    """
    ax = _axes(ax)
    for name, style, found in _lines(flow.reach, ax, label):
        ax.plot(np.arange(len(found.profile)), _positive(found.profile), label=name, **style)
    ax.axhline(FADED, color="#666666", linewidth=0.8, linestyle=":", gid=THRESHOLD)
    ax.set(
        title="How far one loss reaches",
        xlabel="steps back",
        ylabel="share of the gradient's norm",
        yscale="log",
    )
    return _legend(ax)


def spectrum(products: JacobianProducts, *, row: int = 0, ax: Axes | None = None) -> Axes:
    """Draw the singular values of the products ∂s_T/∂s_k.

    Parameters
    ----------
    products : JacobianProducts
    row : int
        Of the batch; T is this row's last step.
    ax : matplotlib Axes, optional

    Returns
    -------
    Axes
        Up to 12 singular values have a line each; of more the largest, the quartiles and the smallest, as far
        as they are more than rounding of the largest. The bound on the largest is dashed, where there is one.

    Raises
    ------
    ValueError
        For a row that there is not, or a product that is not finite.
    """
    values = products.singular_values(row=row)
    steps, S = len(values) - 1, values.shape[1]
    values[values < values[:, :1] * S * np.finfo(products.dtype).eps] = np.nan  # rounding, not values
    ax = _axes(ax)
    named = {
        0: "largest",
        S // 4: "upper quartile",
        S // 2: "median",
        3 * S // 4: "lower quartile",
        S - 1: "smallest",
    }
    k = np.arange(steps + 1)
    for number, place in enumerate(range(S) if S <= LINES else named):
        style = _style(number)
        label = f"{place + 1}" if S <= LINES else named[place]
        ax.plot(k, _positive(values[:, place]), label=label, **style)
    if products.bound is not None and steps > 0:
        with np.errstate(over="ignore", under="ignore"):
            bound = products.bound ** (steps - k.astype(np.float64))
        ax.plot(k, _positive(bound), label="bound", color="#666666", linewidth=0.8, linestyle="--")
    ax.set(
        title=f"Products of Jacobians, T = {steps}",
        xlabel="time step k",
        ylabel="singular values of ∂s_T/∂s_k",
        yscale="log",
    )
    return _legend(ax)


def saturation(flow: GradientFlow, *, ax: Axes | None = None) -> Axes:
    """Draw the share of entries within 1% of a bound over time, a line for each gate of each layer.

    Parameters
    ----------
    flow : GradientFlow
    ax : matplotlib Axes, optional

    Returns
    -------
    Axes
        Without lines for ReLU and identity, which have no bounds.
    """
    ax = _axes(ax)
    for unit, (label, _, gates) in enumerate(_lines(flow.saturation, ax)):
        for number, (gate, shares) in enumerate(gates.items()):
            style = _style(number, unit)
            ax.plot(
                np.arange(1, len(shares) + 1),
                100 * shares,
                label=f"{gate}, {label}" if label else gate,
                **style,
            )
    ax.set(title="Saturation", xlabel="time step t", ylabel="within 1% of a bound (%)", ylim=(-3, 103))
    return _legend(ax)


def training_curves(history: Mapping[str, Sequence[float]], *, ax: Axes | None = None) -> Axes:
    """Draw the curves of a training run.

    Parameters
    ----------
    history : History
        From ``Network.fit``; of a mapping the lists "epoch", "loss" and, where there are any,
        "validation_loss" and "validation_accuracy".
    ax : matplotlib Axes, optional

    Returns
    -------
    Axes
        Losses on the left, the accuracy on an axis of its own on the right.
    """
    ax = _axes(ax)
    epochs = history["epoch"]
    marker = "o" if len(epochs) < 2 else None
    drawn = []
    for number, (key, label) in enumerate(
        (("loss", "training loss"), ("validation_loss", "validation loss"))
    ):
        if key in history:
            drawn += ax.plot(epochs, history[key], label=label, marker=marker, **_style(number))
    best = getattr(history, "best_epoch", None)
    if best is not None and "validation_loss" in history:
        lowest = history["validation_loss"][list(epochs).index(best)]
        drawn += ax.plot([best], [lowest], "D", color=COLOURS[1], label="best epoch")
    if "validation_accuracy" in history:
        right = ax.twinx()
        accuracy = 100 * np.asarray(history["validation_accuracy"])
        drawn += right.plot(epochs, accuracy, label="validation accuracy", marker=marker, **_style(2))
        right.set(ylabel="accuracy (%)", ylim=(-3, 103))
    ax.set(title="Training", xlabel="epoch", ylabel="loss")
    ax.locator_params(axis="x", integer=True)
    ax.grid(alpha=0.25)
    # under the axes: inside it could cover a line of either
    ax.legend(
        handles=drawn, fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=len(drawn)
    )
    return ax


def overview(
    flow: GradientFlow,
    *,
    norms: npt.ArrayLike | None = None,
    parameter: str = "",
    products: JacobianProducts | None = None,
) -> Figure:
    """Draw what there is to see of a gradient on one page.

    Parameters
    ----------
    flow : GradientFlow
    norms : array_like, optional
        (T, T), for the heat map.
    parameter : str
        Whose terms these are.
    products : JacobianProducts, optional
        For the spectrum.

    Returns
    -------
    Figure

    Raises
    ------
    ValueError
        If `norms` is not square, or a product is not finite.
    """
    from_flow = [gradient_norms, reach, saturation]
    small = len(from_flow) + (products is not None)
    # the heat map, which is square and has a scale beside it, takes the last column alone
    widths = [1.0, 1.0] if norms is None else [1.0, 1.0, 1.2]
    figure = _figure(12.0 if norms is None else 18.0, 7.6)
    grid = figure.add_gridspec(2, len(widths), width_ratios=widths)
    axes = iter([figure.add_subplot(grid[number // 2, number % 2]) for number in range(small)])
    for draw in from_flow:
        draw(flow, ax=next(axes))
    if products is not None:
        spectrum(products, ax=next(axes))
    if norms is not None:
        heat_map(norms, ax=figure.add_subplot(grid[:, 2]), title=f"Terms of the gradient of {parameter}")
    return figure


def require() -> None:
    """Make sure that pictures can be drawn.

    Raises
    ------
    ImportError
        Without matplotlib.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise ImportError('pictures need matplotlib: pip install "bptt[plot]"') from error


def _figure(width: float, height: float) -> Figure:
    """Return a new figure, which no list of open windows keeps."""
    require()
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=120, layout="constrained")


def _axes(ax: Axes | None, width: float = 6.0, height: float = 3.8) -> Axes:
    return _figure(width, height).add_subplot() if ax is None else ax


def _positive(values: npt.ArrayLike) -> Any:
    """Return the values with gaps where a logarithmic axis can't show them."""
    array = np.asarray(values, np.float64)
    return np.where((array > 0) & np.isfinite(array), array, np.nan)


def _lines(
    units: Sequence[Sequence[Any]], ax: Axes, label: str = ""
) -> Iterator[tuple[str, dict[str, Any], Any]]:
    """Name and style what there is of every layer and direction, unlike the lines that are there already."""
    number = sum(line.get_gid() != THRESHOLD for line in ax.lines)
    for layer, directions in enumerate(units):
        for direction, entry in enumerate(directions):
            names = [label] if label else []
            names += [f"layer {layer + 1}"] if len(units) > 1 else []
            names += [("forward", "backward")[direction]] if len(directions) > 1 else []
            yield ", ".join(names), _style(number), entry
            number += 1


def _style(colour: int, dashes: int | None = None) -> dict[str, Any]:
    """Return the style of a line: 7 colours and 4 kinds of dashes give 28 different ones."""
    dashes = colour if dashes is None else dashes
    return {"color": COLOURS[colour % len(COLOURS)], "linestyle": DASHES[dashes % len(DASHES)]}


def _legend(ax: Axes) -> Axes:
    """Add a grid, and a legend if there is more than one line to tell apart; a long one beside the axes."""
    ax.grid(alpha=0.25)
    labelled = [text for text in ax.get_legend_handles_labels()[1] if text]
    if len(labelled) > LEGEND_INSIDE:
        ax.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0.0)
    elif len(labelled) > 1:
        ax.legend(fontsize="small")
    return ax

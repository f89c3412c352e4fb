"""Pictures: what their axes say, what is drawn where, that they can be written and opened."""

from __future__ import annotations

import itertools
import subprocess
import sys

import numpy as np
import pytest
from errors import F4, raises

import bptt
from bptt import plots

matplotlib = pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def tape():
    layer = bptt.LSTM(3, 5, num_layers=2, bidirectional=True, seed=0)
    return layer.record(np.random.default_rng(0).normal(size=(12, 2, 3)).astype(F4))[2]


@pytest.fixture(scope="module")
def dy():
    return np.random.default_rng(1).normal(size=(12, 2, 10)).astype(F4)


@pytest.fixture(scope="module")
def flow(tape, dy):
    return tape.gradient_flow(dy)


def pixels(ax):
    """The picture as an array (height, width, 4)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(ax.figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())


def labels(ax):
    return ax.get_title(), ax.get_xlabel(), ax.get_ylabel()


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def colour_of(ax, x, y):
    """The colour of the picture at a point of the data."""
    image = pixels(ax)
    column, row = ax.transData.transform((x, y))
    return image[round(len(image) - 1 - row), round(column)][:3]


# ------------------------------------------------------------------------------------- each picture


def test_heat_map(tape, dy):
    norms = tape.terms(dy, reduce="norm")["weight_hh_l1"]
    ax = plots.heat_map(norms)
    assert labels(ax) == ("Terms of the gradient", "injection step k (time step)", "loss step i (time step)")
    (bar,) = ax.child_axes
    assert bar.get_ylabel() == "norm of the term"
    (image,) = ax.images
    assert image.get_cmap().name == "cividis"
    assert tuple(image.get_extent()) == (0.5, 12.5, 0.5, 12.5)
    assert image.origin == "lower"
    # step 12 of the loss is the uppermost row; above the diagonal of k > i there is nothing
    assert (colour_of(ax, 9, 3) == 255).all()
    largest = np.unravel_index(norms.argmax(), norms.shape)
    brightest = np.array(image.get_cmap()(1.0)[:3]) * 255
    assert np.abs(colour_of(ax, largest[1] + 1, largest[0] + 1) - brightest).max() <= 2
    assert image.norm.vmax == pytest.approx(norms.max())
    assert image.colorbar.extend == "neither"


def test_heat_map_of_a_wide_range():
    i, k = np.indices((30, 30))
    norms = np.where(k <= i, 10.0 ** (k - i), 0.0)
    ax = plots.heat_map(norms, title="faint")
    assert ax.get_title() == "faint"
    assert ax.images[0].norm.vmin == pytest.approx(plots.FAINTEST)
    assert ax.images[0].colorbar.extend == "min"
    darkest = np.array(ax.images[0].get_cmap()(0.0)[:3]) * 255
    assert np.abs(colour_of(ax, 2, 30) - darkest).max() <= 2  # fainter than the faintest, but not nothing


@pytest.mark.parametrize(
    "norms", [np.zeros((3, 3)), np.full((3, 3), np.nan), np.full((3, 3), np.inf), np.ones((3, 3))]
)
def test_heat_map_of_little(norms):
    ax = plots.heat_map(norms)
    white = (colour_of(ax, 2, 2) == 255).all()
    assert white == (norms[0, 0] != 1)


def test_heat_map_without_steps():
    ax = plots.heat_map(np.zeros((0, 0)))
    assert (colour_of(ax, 1, 1) == 255).all()


def test_heat_map_wants_a_square():
    with raises(ValueError, "norms: expected shape (T, T), got (2, 3)"):
        plots.heat_map(np.ones((2, 3)))


def test_gradient_norms(flow):
    ax = plots.gradient_norms(flow)
    assert labels(ax) == ("Gradient of the loss", "time step t", "norm of ∂L/∂h_t")
    assert ax.get_yscale() == "log"
    names = ["layer 1, forward", "layer 1, backward", "layer 2, forward", "layer 2, backward"]
    assert legend(ax) == names
    for number, line in enumerate(ax.lines):
        np.testing.assert_array_equal(line.get_xdata(), np.arange(1, 13))
        np.testing.assert_array_equal(line.get_ydata(), flow.norms[number // 2][number % 2])
    # told apart by colour and by dashes
    assert len({line.get_color() for line in ax.lines}) == 4
    assert len({line.get_linestyle() for line in ax.lines}) == 4
    image = pixels(ax)
    for line in ax.lines:
        colour = np.array(matplotlib.colors.to_rgb(line.get_color())) * 255
        assert (np.abs(image[..., :3] - colour).max(axis=2) <= 3).sum() > 50


def test_norms_of_zero_are_gaps(tape, dy):
    """A logarithmic axis has no place for them."""
    only_first = np.where(np.arange(12)[:, np.newaxis, np.newaxis] == 0, dy, F4(0))
    line = plots.gradient_norms(tape.gradient_flow(only_first)).lines[2]  # layer 2, forward
    np.testing.assert_array_equal(np.isnan(line.get_ydata()), np.arange(12) > 0)


def test_reach(flow, tape, dy):
    ax = plots.reach(flow)
    assert labels(ax) == ("How far one loss reaches", "steps back", "share of the gradient's norm")
    first = ax.lines[0]
    np.testing.assert_array_equal(first.get_ydata(), flow.reach[0][0].profile)
    np.testing.assert_array_equal(first.get_xdata(), np.arange(len(flow.reach[0][0].profile)))
    assert any(set(line.get_ydata()) == {0.01} for line in ax.lines)
    # two flows in one picture
    alone = bptt.RNN(3, 4, seed=0).record(np.ones((6, 1, 3), F4))[2].gradient_flow(np.ones((6, 1, 4), F4))
    ax = plots.reach(alone, label="one")
    plots.reach(alone, ax=ax, label="two")
    assert legend(ax) == ["one", "two"]
    assert len({line.get_color() for line in ax.lines if not line.get_label().startswith("_")}) == 2


@pytest.mark.parametrize("draw", [plots.gradient_norms, plots.reach])
def test_flows_in_one_picture_are_told_apart(draw):
    tape = bptt.RNN(3, 4, seed=0).record(np.ones((6, 1, 3), F4))[2]
    flow = tape.gradient_flow(np.ones((6, 1, 4), F4))
    ax = draw(flow)
    draw(flow, ax=draw(flow, ax=ax, label="second"), label="third")
    curves = [line for line in ax.lines if line.get_gid() != plots.THRESHOLD]
    assert [line.get_color() for line in curves] == list(plots.COLOURS[:3])


def test_spectrum(tape):
    products = tape.jacobian_products()
    ax = plots.spectrum(products, row=1)
    assert labels(ax) == ("Products of Jacobians, T = 12", "time step k", "singular values of ∂s_T/∂s_k")
    values = products.singular_values(row=1)
    assert len(ax.lines) == 10  # of R + H = 10, and no bound
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), values[:, 0])
    with raises(ValueError, "row: expected at most 1, got 2"):
        plots.spectrum(products, row=2)


def test_spectrum_of_many_values_with_a_bound():
    layer = bptt.RNN(2, 20, seed=0)
    products = layer.record(np.ones((12, 2), F4))[2].jacobian_products()
    ax = plots.spectrum(products)
    assert legend(ax) == ["largest", "upper quartile", "median", "lower quartile", "smallest", "bound"]
    values = products.singular_values()
    np.testing.assert_array_equal(ax.lines[2].get_ydata()[-1], values[-1, 10])
    np.testing.assert_allclose(ax.lines[5].get_ydata(), products.bound ** np.arange(12, -1, -1), rtol=1e-12)
    assert (values[:, 0] <= ax.lines[5].get_ydata() * 1.00001).all()
    # what is rounding is not shown
    shown = ax.lines[4].get_ydata()
    small = values[:, -1] < values[:, 0] * 20 * np.finfo(F4).eps
    assert 0 < small.sum() < 12
    assert np.isnan(shown[small]).all()
    assert np.isfinite(shown[~small]).all()


def test_saturation(flow, tape):
    ax = plots.saturation(flow)
    assert labels(ax) == ("Saturation", "time step t", "within 1% of a bound (%)")
    assert legend(ax)[:5] == [*(f"{gate}, layer 1, forward" for gate in "ifgo"), "i, layer 1, backward"]
    np.testing.assert_array_equal(ax.lines[1].get_ydata(), 100 * flow.saturation[0][0]["f"])
    assert ax.get_ylim() == (-3, 103)
    relu = bptt.RNN(2, 3, nonlinearity="relu", seed=0).record(np.ones((4, 1, 2), F4))[2]
    assert not plots.saturation(relu.gradient_flow(np.ones((4, 1, 3), F4))).lines


def test_training_curves():
    x = np.arange(40) % 5
    network = bptt.Network(bptt.RNN(5, 8, seed=0), bptt.Linear(8, 5, seed=1))
    data = x[:-1], x[1:]
    optimizer = bptt.Adam(lr=0.05)
    history = network.fit(*data, epochs=5, seed=0, validation_data=data, progress=False, optimizer=optimizer)
    assert 0 < history["validation_accuracy"][0] < 1
    ax = plots.training_curves(history)
    assert labels(ax) == ("Training", "epoch", "loss")
    assert legend(ax) == ["training loss", "validation loss", "best epoch", "validation accuracy"]
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), history["loss"])
    np.testing.assert_array_equal(ax.lines[1].get_ydata(), history["validation_loss"])
    assert ax.lines[2].get_xdata()[0] == history.best_epoch
    assert ax.lines[2].get_ydata()[0] == min(history["validation_loss"])
    right = next(other for other in ax.figure.axes if other is not ax)
    assert right.get_ylabel() == "accuracy (%)"
    np.testing.assert_allclose(right.lines[0].get_ydata(), 100 * np.array(history["validation_accuracy"]))
    plain = plots.training_curves({"epoch": [1], "loss": [0.5]})
    assert legend(plain) == ["training loss"]
    assert plain.lines[0].get_marker() == "o"  # one point has no line
    assert (pixels(plain)[..., :3] != 255).any()


def test_overview(flow, tape, dy):
    norms = tape.terms(dy, reduce="norm")["weight_hh_l1"]
    whole = plots.overview(flow, norms=norms, parameter="weight_hh_l1", products=tape.jacobian_products())
    titles = [ax.get_title() for ax in whole.axes if ax.get_title()]
    assert titles == [
        "Gradient of the loss",
        "How far one loss reaches",
        "Saturation",
        "Products of Jacobians, T = 12",
        "Terms of the gradient of weight_hh_l1",
    ]
    pixels(whole.axes[0])  # which lays the page out
    boxes = [ax.bbox for ax in whole.axes if ax.get_title()]
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
    assert len(plots.overview(flow).axes) == 3
    assert len(plots.overview(flow, products=tape.jacobian_products()).axes) == 4


@pytest.mark.parametrize("draw", [plots.gradient_norms, plots.saturation])
def test_long_legends_stand_beside_the_axes(flow, draw):
    ax = draw(flow)
    pixels(ax)  # which lays the picture out
    box = ax.get_legend().get_window_extent()
    assert box.x0 > ax.bbox.x1
    assert box.x1 < ax.figure.bbox.x1


# ------------------------------------------------------------------------------------- files and modules


@pytest.mark.parametrize(
    ("kind", "start"), [("png", b"\x89PNG\r\n\x1a\n"), ("svg", b"<?xml"), ("pdf", b"%PDF")]
)
def test_written_and_opened(flow, tmp_path, kind, start):
    path = tmp_path / f"picture.{kind}"
    plots.gradient_norms(flow).figure.savefig(path)
    assert path.read_bytes().startswith(start)
    if kind == "png":
        from matplotlib.image import imread

        image = imread(path)
        assert image.shape[:2] == (456, 720)
        assert 0.01 < (image[..., :3] < 1).any(axis=2).mean() < 0.5


def test_into_axes_of_the_callers(flow):
    from matplotlib.figure import Figure

    for draw in (plots.gradient_norms, plots.reach, plots.saturation):
        ax = Figure().add_subplot()
        assert draw(flow, ax=ax) is ax


def test_matplotlib_is_imported_when_used():
    script = (
        "import sys, bptt, bptt.plots\n"
        "assert 'matplotlib' not in sys.modules\n"
        "sys.modules['matplotlib'] = sys.modules['matplotlib.figure'] = None\n"
        "try:\n    bptt.plots.training_curves({'epoch': [1], 'loss': [1.0]})\n"
        "except ImportError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == 'pictures need matplotlib: pip install "bptt[plot]"\n'


def test_colours_differ_for_colour_blind_readers():
    # Viénot, Brettel and Mollon (1999): what two colours look like without one kind of cone
    linear = np.array([[int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)] for c in plots.COLOURS]) ** 2.2
    to_cones = np.array(
        [[17.8824, 43.5161, 4.11935], [3.45565, 27.1554, 3.86714], [0.0299566, 0.184309, 1.46709]]
    )
    protan = np.array([[0, 2.02344, -2.52581], [0, 1, 0], [0, 0, 1]])
    deutan = np.array([[1, 0, 0], [0.494207, 0, 1.24827], [0, 0, 1]])
    for lost in (np.eye(3), protan, deutan):
        seen = linear @ to_cones.T @ lost.T @ np.linalg.inv(to_cones).T
        seen = np.clip(seen, 0, 1) ** (1 / 2.2)
        distances = np.linalg.norm(seen[:, np.newaxis] - seen, axis=2) + np.eye(len(seen))
        assert distances.min() > 0.1

"""``bptt flow``: the verdict on a model and a text, the picture, what it refuses."""

import os

import pytest
from click.testing import CliRunner
from command_line import TINY, make_text, refused, run
from matplotlib.image import imread

from bptt import flow_command, plots
from bptt.files import load_model, save_model
from bptt.run_files import load_character_model
from bptt.text import Streams, read_text


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return make_text(tmp_path_factory.mktemp("flow"))


@pytest.fixture(scope="module")
def model(text):
    path = text.parent / "model.safetensors"
    options = ("--cell", "lstm", "--layers", 2, "--dropout", 0.2, "--epochs", 1, "--quiet")
    run("train", text, *TINY, *options, "--out", path, cwd=text.parent)
    return path


def test_verdict_and_picture(text, model, tmp_path):
    done = run("flow", model, text, "--out", "flow.png", "--steps", 20, "--batch", 3, cwd=tmp_path)
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[0].startswith("Layer 1: going back, the gradient ")
    assert lines[1].startswith("Layer 2: going back, the gradient ")
    image = imread(tmp_path / "flow.png")
    assert image.shape == (912, 2160, 4)
    assert 0.05 < (image[..., :3] < 1).any(axis=2).mean() < 0.5
    assert [path.name for path in tmp_path.iterdir()] == ["flow.png"]


def test_verdict_is_that_of_the_model(text, model, tmp_path):
    network, vocabulary = load_character_model(model)
    tokens = vocabulary.encode(read_text(text))
    x, targets = Streams(tokens, 4, 15).chunk(0)
    y, _, tape = network.rnn.record(x, seed=3)
    _, ds = network.objective(network.readout(y), targets)
    expected = str(tape.gradient_flow(network.readout.backward(y, ds)[0]))
    for backend in ("kernels", "reference"):
        options = ("--steps", 15, "--batch", 4, "--seed", 3, "--threads", 1, "--backend", backend)
        assert run("flow", model, text, *options, cwd=tmp_path).stdout == expected + "\n"


def test_a_model_that_is_not_finite(text, model, tmp_path):
    network, tensors, metadata = load_model(model)
    network.parameters["rnn.weight_hh_l0"][:] = float("nan")
    save_model(tmp_path / "nan", network, extra_tensors=tensors, extra_metadata=metadata)
    done = run("flow", "nan", text, "--out", "flow.png", "--steps", 8, "--batch", 2, cwd=tmp_path)
    assert done.stderr == ""
    assert done.stdout.startswith("Layer 1: the state is not finite at step 1 of 7, the first such step.")
    assert imread(tmp_path / "flow.png").shape == (912, 2160, 4)


@pytest.mark.parametrize(("name", "start"), [("a.svg", b"<?xml"), ("a.PDF", b"%PDF"), ("a.png", b"\x89PNG")])
def test_kinds_of_pictures(text, model, tmp_path, name, start):
    run("flow", model, text, "--out", name, "--steps", 8, "--batch", 2, cwd=tmp_path)
    assert (tmp_path / name).read_bytes().startswith(start)


def test_a_picture_is_replaced(text, model, tmp_path):
    (tmp_path / "a.png").write_bytes(b"old")
    os.symlink("a.png", tmp_path / "link.png")
    run("flow", model, text, "--out", "link.png", "--steps", 8, "--batch", 2, cwd=tmp_path)
    assert (tmp_path / "link.png").is_symlink()
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_the_spectrum_of_a_large_state_is_left_out(text, model, tmp_path, monkeypatch):
    overview, drawn = plots.overview, []

    def spy(flow, *, products, **options):
        drawn.append(products is not None)
        return overview(flow, products=products, **options)

    monkeypatch.setattr(plots, "overview", spy)
    out = tmp_path / "a.png"
    arguments = [str(model), str(text), "--out", str(out), "--steps", "8", "--batch", "2"]
    for limit in (16, 15):  # h and c of 8 units each
        monkeypatch.setattr(flow_command, "SPECTRUM_UP_TO", limit)
        done = CliRunner().invoke(flow_command.flow_command, arguments, catch_exceptions=False)
        assert done.exit_code == 0
        assert out.stat().st_size > 0
        out.unlink()
    assert drawn == [True, False]


def test_refusals(text, model, tmp_path):
    refuse = lambda *arguments: refused("flow", *arguments, cwd=tmp_path)  # noqa: E731
    assert refuse(model, text, "--out", "a.jpg") == (
        "--out: expected a name that ends in .pdf, .png or .svg, got a.jpg"
    )
    assert refuse(model, text, "--out", "none/a.png") == (
        "--out: expected a file in an existing directory, got none/a.png"
    )
    assert refuse(model, text, "--steps", 1000, "--batch", 4) == (
        f"{text}: expected more than 4000 characters, --batch times --steps, got 4000"
    )
    (tmp_path / "other.txt").write_text("日本" * 3000, encoding="utf-8")
    assert refuse(model, "other.txt") == (
        "other.txt: expected characters that the model knows, got '日', '本'"
    )
    assert "none.txt" in refuse(model, "none.txt")
    assert "none.safetensors" in refuse("none.safetensors", text)
    assert "other.txt" in refuse("other.txt", text)
    assert "--steps" in refuse(model, text, "--steps", 0)


def test_without_matplotlib(text, model, tmp_path):
    (tmp_path / "matplotlib").mkdir()
    (tmp_path / "matplotlib" / "__init__.py").write_text("raise ImportError('no matplotlib')")
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    options = {"cwd": tmp_path, "env": {**os.environ, "PYTHONPATH": path}}
    arguments = ("flow", model, text, "--steps", 8, "--batch", 2)
    done = run(*arguments, "--out", "a.png", code=2, **options)
    assert done.stderr == 'bptt: error: pictures need matplotlib: pip install "bptt[plot]"\n'
    # in words it needs none
    assert "going back" in run(*arguments, **options).stdout

"""What the tests of the command line share: running it, reading its results and its model files."""

import json
import re
import subprocess
import sys

from safetensors import safe_open
from safetensors.numpy import save_file

from bptt.text import default_corpus

TINY = ("--hidden", "8", "--batch", "4", "--steps-per-chunk", "16")
RESULT_NAMES = [
    "model",
    "epochs",
    "steps",
    "characters",
    "seconds",
    "characters_per_second",
    "training_bits_per_character",
    "best_validation_bits_per_character",
    "validation_bits_per_character",
]


def command(*arguments):
    return [sys.executable, "-m", "bptt", *map(str, arguments)]


def run(*arguments, cwd, code=0, **options):
    done = subprocess.run(
        command(*arguments), cwd=cwd, capture_output=True, text=True, encoding="utf-8", timeout=120, **options
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


def refused(*arguments, cwd, code=2):
    """Run it, check that it fails with one sentence and leaves no file, and return the sentence."""
    before = {path: path.stat().st_mtime_ns for path in cwd.rglob("*")}
    done = run(*arguments, cwd=cwd, code=code)
    assert {path: path.stat().st_mtime_ns for path in cwd.rglob("*")} == before
    assert done.stdout == ""
    assert re.fullmatch(r"bptt: error: [^\n]+\n", done.stderr), done.stderr
    return done.stderr.removeprefix("bptt: error: ").strip()


def results(stdout):
    lines = [line.split(": ", 1) for line in stdout.splitlines()]
    assert [name for name, _ in lines] == RESULT_NAMES
    return dict(lines)


def parts(path):
    """Tensors and configuration of a model file."""
    with safe_open(path, framework="numpy") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        return tensors, json.loads(file.metadata()["bptt"])


def contents(path):
    """Tensors, configuration, and state of the run, without the time spent and allowed."""
    tensors, configuration = parts(path)
    training = configuration["extra"].pop("training")
    for name in ("seconds", "limit"):
        training.pop(name)
    return tensors, configuration, training


def assert_same_model(a, b):
    (tensors, metadata, training), (others, other_metadata, other_training) = contents(a), contents(b)
    assert tensors.keys() == others.keys()
    for name, tensor in tensors.items():
        assert tensor.dtype == others[name].dtype, name
        assert tensor.tobytes() == others[name].tobytes(), name
    assert metadata == other_metadata
    assert training == other_training


def rewrite(model, target, *, tensors=None, **metadata):
    """Copy a model with other tensors and extra metadata; None removes an entry."""
    old, configuration = parts(model)
    extra = {k: v for k, v in (configuration["extra"] | metadata).items() if v is not None}
    save_file(
        {k: v for k, v in (old | (tensors or {})).items() if v is not None},
        target,
        {"bptt": json.dumps(configuration | {"extra": extra})},
    )


def make_text(folder):
    """4000 characters of English."""
    path = folder / "text.txt"
    path.write_text(default_corpus()[20_000:24_000], encoding="utf-8")
    return path


def make_model(text):
    """A model after one epoch."""
    path = text.parent / "model.safetensors"
    run("train", text, *TINY, "--epochs", 1, "--out", path, "--quiet", cwd=text.parent)
    return path

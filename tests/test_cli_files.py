"""Files that are no models, or hostile ones, given to the command line."""

import os
import pickle
import struct

import click
import numpy as np
import pytest
from command_line import contents, make_model, make_text, parts, refused, rewrite, run
from safetensors.numpy import save_file

from bptt import RNN, Linear, Network
from bptt.commands import bptt
from bptt.files import save_model


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return make_text(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def model(text):
    return make_model(text)


def refused_in_process(*arguments, cwd):
    """As `refused`, but without the cost of a process."""
    before = os.getcwd()
    os.chdir(cwd)
    try:
        with pytest.raises(click.UsageError) as caught:
            bptt.main(list(arguments), standalone_mode=False)
    finally:
        os.chdir(before)
    assert "\n" not in caught.value.format_message()
    return caught.value.format_message()


def test_bad_files_in_place_of_models(tmp_path, text, model):
    good = model.read_bytes()
    bad = {
        "empty": b"",
        "short": good[:50],
        "truncated": good[:-10],
        "long": good + b"x",
        "text": b"hello, I am no model at all" * 100,
        "pickle": pickle.dumps({"weights": list(range(1000))}),
        "header": struct.pack("<Q", 2**62) + b"{}",
        "nested": struct.pack("<Q", 200_000) + b"[" * 200_000,
        "no-json": struct.pack("<Q", 8) + b'{"a": 1,' + b"0" * 64,
    }
    for name, data in bad.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "folder").mkdir()
    for name in [*bad, "folder", "none"]:
        assert name in refused("sample", name, cwd=tmp_path)
        assert name in refused_in_process("train", str(text), "--resume", name, "--out", "x", cwd=tmp_path)


def test_a_pickle_is_never_run(tmp_path):
    class Hostile:
        def __reduce__(self):
            return (open, (str(tmp_path / "run"), "w"))

    (tmp_path / "m.safetensors").write_bytes(pickle.dumps(Hostile()))
    refused("sample", "m.safetensors", cwd=tmp_path)
    refused("train", "--resume", "m.safetensors", cwd=tmp_path)


def test_models_of_another_kind(tmp_path, text, model):
    save_file({"a": np.zeros(3)}, tmp_path / "foreign")
    rewrite(model, tmp_path / "no-vocabulary", vocabulary=None)
    rewrite(model, tmp_path / "no-training", training=None)
    for name in ("foreign", "no-vocabulary"):
        assert name in refused("sample", name, cwd=tmp_path)
        assert name in refused("train", text, "--resume", name, "--out", "x", cwd=tmp_path)
    run("sample", "no-training", cwd=tmp_path)
    assert "no-training" in refused("train", text, "--resume", "no-training", "--out", "x", cwd=tmp_path)


@pytest.mark.parametrize(
    "vocabulary",
    [3, "abc", {}, [], ["a"], [1, 2], ["b", "a"], ["a"] * 60, ["a", "\ud800"], [[[]]], ["a", None]],
)
def test_hostile_vocabularies(tmp_path, model, vocabulary):
    rewrite(model, tmp_path / "m", vocabulary=vocabulary)
    assert refused("sample", "m", cwd=tmp_path).startswith("m: ")


def test_hostile_run_states(tmp_path, text, model):
    state = parts(model)[1]["extra"]["training"]
    changes = [
        {"epoch": -1},
        {"epoch": "1"},
        {"epoch": True},
        {"chunk": 10**9},
        {"offset": -5},
        {"offset": 10**30},
        {"steps": 1.5},
        {"seconds": "soon"},
        {"seconds": float("nan")},
        {"validation_bits": []},
        {"steps": 61},
        {"epoch": 10**400, "steps": 60 * 10**400},
        {"limit": {"epochs": 10**400}},
        {"limit": {"seconds": 0}},
        {"limit": {}},
        {"limit": {"epochs": 0}},
        {"limit": {"epochs": 1, "seconds": 1}},
        {"limit": {"seconds": -1}},
        {"limit": 7},
        {"settings": None},
        {"settings": state["settings"] | {"hidden": 9}},
        {"settings": state["settings"] | {"batch": 10**12}},
        {"settings": state["settings"] | {"steps_per_chunk": 0}},
        {"settings": state["settings"] | {"optimizer": "os.system"}},
        {"settings": state["settings"] | {"lr": -1}},
        {"settings": state["settings"] | {"lr": 0}},
        {"settings": state["settings"] | {"cell": "relu"}},
        {"settings": state["settings"] | {"more": 1}},
        {"rng": {}},
        {"rng": state["rng"] | {"bit_generator": "os"}},
        {"rng": state["rng"] | {"state": {"state": "x", "inc": 1}}},
        {"rng": state["rng"] | {"state": {"state": -1, "inc": 1}}},
        {"rng": state["rng"] | {"state": {"state": 1, "inc": 2**128}}},
        {"optimizer": {}},
        {"optimizer": ["lr"]},
        {"optimizer": state["optimizer"] | {"lr": "fast"}},
        {"more": 1},
    ]
    for i, hostile in enumerate([*(state | change for change in changes), "", [], 3, {"epoch": 1}]):
        name = f"{i}.safetensors"
        rewrite(model, tmp_path / name, training=hostile)
        assert refused_in_process("train", str(text), "--resume", name, cwd=tmp_path).startswith(
            f"{name}: "
        ), hostile


@pytest.mark.parametrize(
    "options", [{"loss": "mean_squared_error"}, {"many_to_one": True}, {"reduction": "sum"}]
)
def test_networks_that_do_not_predict_characters(tmp_path, options):
    network = Network(RNN(2, 3, backend="reference"), Linear(3, 2, backend="reference"), **options)
    save_model(tmp_path / "m", network, extra_metadata={"vocabulary": ["a", "b"]})
    message = refused_in_process("sample", "m", cwd=tmp_path)
    assert message.startswith("m: expected a network that predicts the next character, got ")


def test_resuming_takes_float32(tmp_path, text, model):
    extra = parts(model)[1]["extra"]
    size = len(extra["vocabulary"])
    network = Network(RNN(size, 8, dtype=np.float64), Linear(8, size, dtype=np.float64))
    save_model(tmp_path / "m", network, extra_metadata=extra)
    message = refused_in_process("train", str(text), "--resume", "m", cwd=tmp_path)
    assert message == "m: network: expected float32 parameters, got float64"


def test_hostile_tensors(tmp_path, text, model):
    tensors, _, _ = contents(model)
    moment = next(name for name in tensors if name.startswith("extra.optimizer."))
    for i, change in enumerate(
        [
            {"extra.training.hidden": None},
            {"extra.training.hidden": np.zeros((1, 4, 9), np.float32)},
            {"extra.training.hidden": np.zeros((1, 4, 8), np.float64)},
            {moment: None},
            {moment: np.zeros((3, 3), np.float32)},
            {moment: np.zeros(tensors[moment].shape, np.int32)},
            {"extra.optimizer.more": np.zeros(3, np.float32)},
        ]
    ):
        name = f"{i}.safetensors"
        rewrite(model, tmp_path / name, tensors=change)
        assert refused_in_process("train", str(text), "--resume", name, cwd=tmp_path).startswith(
            f"{name}: "
        ), change

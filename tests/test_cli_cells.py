"""LSTMs, GRUs and stacks from the command line: training, sampling, going on, what a file holds."""

import os
import shlex
import signal
import subprocess
import time

import numpy as np
import pytest
from command_line import (
    TINY,
    assert_same_model,
    command,
    contents,
    make_model,
    make_text,
    refused,
    results,
    run,
)

from bptt import GRU, LSTM, Linear, Network
from bptt.files import save_model
from bptt.text import default_corpus

NOISE = ("--layers", 2, "--dropout", 0.2, "--recurrent-dropout", 0.1, "--zoneout", 0.1)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return make_text(tmp_path_factory.mktemp("text"))


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_training_learns_and_samples(tmp_path, cell):
    (tmp_path / "t").write_text("hello world. " * 300)
    options = ("--cell", cell, "--layers", 2, "--epochs", 20, "--lr", 0.02)
    out = results(run("train", "t", *TINY, *options, "--quiet", cwd=tmp_path).stdout)
    assert float(out["validation_bits_per_character"]) < 0.3
    sample = ("sample", "model.safetensors", "--prompt", "hello w", "--length", 12, "--temperature", 0)
    assert run(*sample, cwd=tmp_path).stdout == "hello world. hello \n"
    assert run(*sample, "--backend", "reference", cwd=tmp_path).stdout == "hello world. hello \n"


def test_options_make_the_network(tmp_path, text):
    options = ("--cell", "lstm", "--layers", 3, "--layer-norm", "--dropout", 0.2, "--zoneout", 0.1)
    done = run("train", text, *TINY, *options, "--epochs", 1, cwd=tmp_path)
    results(done.stdout)
    tensors, configuration, training = contents(tmp_path / "model.safetensors")
    expected = {"cell": "lstm", "num_layers": 3, "layer_norm": True, "dropout": 0.2, "zoneout": 0.1}
    assert expected.items() <= configuration["rnn"].items()
    assert {"cell": "lstm", "layers": 3, "recurrent_dropout": 0.0}.items() <= training["settings"].items()
    assert tensors["rnn.weight_ih_l2"].shape == (32, 8)
    assert tensors["rnn.weight_ln_hh_l2"].shape == (32,)
    for name in ("extra.training.hidden", "extra.training.cell"):
        assert tensors[name].shape == (3, 4, 8)


def test_rnn_is_tanh(tmp_path, text):
    run("train", text, *TINY, "--cell", "rnn", "--epochs", 1, "--out", "rnn", "--quiet", cwd=tmp_path)
    run("train", text, *TINY, "--epochs", 1, "--out", "tanh", "--quiet", cwd=tmp_path)
    assert_same_model(tmp_path / "rnn", tmp_path / "tanh")


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_resuming_gives_the_bits_of_an_uninterrupted_run(tmp_path, text, cell):
    options = (*TINY, "--cell", cell, *NOISE, "--quiet")
    run("train", text, *options, "--epochs", 3, "--threads", 2, "--out", "straight", cwd=tmp_path)
    run("train", text, *options, "--epochs", 1, "--threads", 1, "--out", "first", cwd=tmp_path)
    # options may be told again
    run("train", text, *options, "--resume", "first", "--epochs", 3, "--out", "second", cwd=tmp_path)
    assert_same_model(tmp_path / "straight", tmp_path / "second")
    run("train", text, *options, "--epochs", 1, "--seed", 1, "--out", "other", cwd=tmp_path)
    name = "rnn.weight_hh_l1"
    assert not np.array_equal(contents(tmp_path / "other")[0][name], contents(tmp_path / "first")[0][name])


def test_a_signal_saves_and_the_command_it_names_goes_on(tmp_path):
    (tmp_path / "t").write_text(default_corpus()[:40_000], encoding="utf-8")
    options = ("t", *TINY, "--cell", "lstm", *NOISE, "--epochs", "2")
    process = subprocess.Popen(
        command("train", *options, "--out", "half"),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr.readline().startswith("  0%")
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    steps = contents(tmp_path / "half")[2]["steps"]
    run(*shlex.split(stderr.splitlines()[-1].split("to go on: ")[1])[1:], cwd=tmp_path)
    run("train", *options, "--out", "straight", "--quiet", cwd=tmp_path)
    assert 0 < steps < contents(tmp_path / "straight")[2]["steps"]
    assert_same_model(tmp_path / "straight", tmp_path / "half")


def test_resume_refuses_other_settings(tmp_path, text):
    run("train", text, *TINY, "--cell", "gru", *NOISE, "--epochs", 1, "--out", "m", "--quiet", cwd=tmp_path)
    for option, there, given in (
        ("--cell", "gru", "lstm"),
        ("--layers", 2, 3),
        ("--dropout", 0.2, 0.5),
        ("--recurrent-dropout", 0.1, 0.5),
        ("--zoneout", 0.1, 0.5),
    ):
        message = refused("train", text, "--resume", "m", option, given, "--out", "x", cwd=tmp_path)
        assert message == f"{option}: expected {there} as in the run to resume, got {given}"
    message = refused("train", text, "--resume", "m", "--layer-norm", "--out", "x", cwd=tmp_path)
    assert message == "--layer-norm: expected False as in the run to resume, got True"


class TestInfo:
    def told(self, path):
        done = run("info", path, cwd=path.parent)
        return dict(line.split(": ", 1) for line in done.stdout.splitlines())

    def test_a_run(self, text):
        model = make_model(text)
        told = self.told(model)
        size = len(set(text.read_text(encoding="utf-8")))
        expected = {
            "model": str(model),
            "cell": "rnn",
            "nonlinearity": "tanh",
            "input_size": str(size),
            "hidden_size": "8",
            "num_layers": "1",
            "bidirectional": "False",
            "outputs": str(size),
            "dtype": "float32",
            "loss": "softmax_cross_entropy",
            "parameters": str(8 * size + 64 + 16 + 8 * size + size),
            "steps_per_chunk": "16",
            "stride": "16",
            "batch": "4",
            "optimizer": "adam",
            "epochs": "1",
            "steps": "60",
        }
        assert expected.items() <= told.items()
        training = contents(model)[2]
        assert float(told["validation_bits_per_character"]) == training["validation_bits"]

    def test_a_run_with_a_stride(self, text, tmp_path):
        options = (*TINY, "--stride", 4, "--epochs", 1, "--quiet", "--out", "m")
        run("train", text, *options, cwd=tmp_path)
        told = self.told(tmp_path / "m")
        assert (told["steps_per_chunk"], told["stride"]) == ("16", "4")

    def test_other_networks(self, tmp_path):
        rnn = LSTM(3, 4, proj_size=2, zoneout=(0.5, 0.25), bidirectional=True, dtype=np.float64)
        network = Network(rnn, Linear(4, 2, dtype=np.float64), loss="mean_squared_error", many_to_one=True)
        save_model(tmp_path / "m", network, extra_metadata={"training": "mine"})
        told = self.told(tmp_path / "m")
        assert told["zoneout"] == "0.5, 0.25"
        assert list(told)[-5:] == ["outputs", "dtype", "loss", "many_to_one", "parameters"]
        assert {
            "cell": "lstm",
            "proj_size": "2",
            "peepholes": "False",
            "bias": "True",
        }.items() <= told.items()

    def test_no_model(self, tmp_path):
        assert refused("info", "none", cwd=tmp_path) == "none: No such file or directory"
        (tmp_path / "empty").touch()
        assert refused("info", "empty", cwd=tmp_path).startswith("empty: expected a safetensors file, got ")
        extra = {"vocabulary": ["a", "b"], "training": {"epoch": 3}}
        network = Network(GRU(2, 3, backend="reference"), Linear(3, 2, backend="reference"))
        save_model(tmp_path / "m", network, extra_metadata=extra)
        assert refused("info", "m", cwd=tmp_path).startswith(
            "m: training: expected the entries epoch, chunk, "
        )


def test_a_bidirectional_network_is_no_character_model(tmp_path):
    network = Network(GRU(2, 3, bidirectional=True), Linear(6, 2))
    save_model(tmp_path / "m", network, extra_metadata={"vocabulary": ["a", "b"]})
    message = refused("sample", "m", cwd=tmp_path)
    assert message == (
        "m: expected a network that predicts the next character, got one with bidirectional=True, "
        "which sees the characters after it"
    )


def test_threads_change_nothing(tmp_path, text):
    options = (*TINY, "--cell", "lstm", *NOISE, "--epochs", 1, "--quiet")
    for threads in ("1", "2"):
        environment = os.environ | {"BPTT_NUM_THREADS": threads}
        run("train", text, *options, "--out", threads, cwd=tmp_path, env=environment)
    assert_same_model(tmp_path / "1", tmp_path / "2")

"""Runs of character models with every cell: going on from any step, masks, files of before there were any."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
from command_line import parts
from safetensors.numpy import save_file
from tiny_runs import TEXT, state_of, step, tiny_run

from bptt.files import ModelFileError
from bptt.run_files import load_character_model, load_run, save_run
from bptt.settings import CELLS, Settings
from bptt.text import Vocabulary, bits_per_character, continue_text

NOISE = {"layers": 2, "dropout": 0.3, "recurrent_dropout": 0.2, "zoneout": 0.1}


@pytest.mark.parametrize("cell", ["tanh", "lstm", "gru"])
@pytest.mark.parametrize("more", [{}, {"layers": 2}, NOISE, {"layers": 3, "layer_norm": True}])
def test_saved_and_loaded_at_any_step_it_goes_on_with_the_same_bits(tmp_path, cell, more):
    straight = tiny_run(cell=cell, **more)
    for k in range(19):
        if k % 3 == 0:
            save_run(tmp_path / "m", straight)
            loaded = load_run(tmp_path / "m", TEXT, backend="reference")
            assert state_of(loaded) == state_of(straight)
            assert (loaded.settings, loaded.limit) == (straight.settings, straight.limit)
            ahead = copy.deepcopy(straight)
            for _ in range(2):
                step(ahead)
                step(loaded)
            assert state_of(loaded) == state_of(ahead)
        step(straight)


@pytest.mark.parametrize("cell", CELLS)
def test_settings_make_the_network(cell):
    more = NOISE | {"layer_norm": True, "hidden": 5}
    run = tiny_run(cell=cell, **more)
    rnn = run.network.rnn
    assert getattr(rnn, "nonlinearity", type(rnn).__name__.lower()) == cell
    assert (rnn.num_layers, rnn.hidden_size, rnn.layer_norm, rnn.bidirectional) == (2, 5, True, False)
    assert (rnn.dropout, rnn.recurrent_dropout, rnn.zoneout) == (0.3, 0.2, 0.1)
    assert [part.shape for part in run.state] == [(2, 3, 5)] * (2 if cell == "lstm" else 1)
    for _ in range(3):
        step(run)
    assert all(part.any() for part in run.state)
    for _ in range(13):
        step(run)
    assert not any(part.any() for part in run.state)  # a new pass over the text


def test_every_step_has_masks_of_its_own():
    run = tiny_run(cell="lstm", **NOISE)
    step(run)
    first, again = run.gradients(), run.gradients()
    assert first[0] == again[0]
    for name, value in first[1].parameters.items():
        np.testing.assert_array_equal(again[1].parameters[name], value)
    inputs, targets = run.streams.chunk(1, run.counters.offset)
    seed = run.settings.mask_seed(1)
    assert first[0] == run.network.loss_and_gradients(inputs, targets, run.state, seed=seed)[0]
    assert first[0] != run.network.loss(inputs, targets, run.state)
    seeds = {Settings(seed=seed).mask_seed(step) for seed in range(3) for step in range(5)}
    assert len(seeds) == 15
    assert run.evaluate() == bits_per_character(run.network, run.validation)


@pytest.mark.parametrize("cell", ["tanh", "lstm", "gru"])
@pytest.mark.parametrize("count", [40, 600])
def test_bits_per_character_are_those_of_one_stream_after_the_other(cell, count):
    network = tiny_run(cell=cell, layers=2).network
    size = network.rnn.input_size
    tokens = np.random.default_rng(0).integers(0, size, count)
    terms, streams = count - 1, max(1, (count - 1) // 256)
    length = terms // streams
    total = 0.0
    for b in range(streams):
        part = slice(b * length, (b + 1) * length if b < streams - 1 else terms)
        inputs, targets = tokens[:-1][part], tokens[1:][part]
        total += network.loss(inputs, targets) * len(inputs)
    assert bits_per_character(network, tokens) == pytest.approx(total / terms / np.log(2), rel=1e-6)


@pytest.mark.parametrize("cell", ["tanh", "lstm", "gru"])
def test_text_goes_on_as_the_whole_text_would(tmp_path, cell):
    run = tiny_run(cell=cell, layers=2, zoneout=0.2, hidden=16)
    for name, value in run.network.parameters.items():
        value *= 8 if "weight" in name else 0
    save_run(tmp_path / "m", run)
    network, vocabulary = load_character_model(tmp_path / "m", backend="reference")
    assert isinstance(vocabulary, Vocabulary)
    text = "the "
    for _ in range(12):
        s, _ = network(vocabulary.encode(text))
        text += vocabulary.characters[int(s[-1].argmax())]
    assert "the " + "".join(continue_text(network, vocabulary, "the ", 12, temperature=0)) == text
    assert len(set(text)) > 5


def old_file(run, path):
    """Write a run of one Elman layer as files were when there was nothing else."""
    save_run(path, run)
    tensors, configuration = parts(path)
    rnn, settings = configuration["rnn"], configuration["extra"]["training"]["settings"]
    configuration["version"] = 1
    configuration["rnn"] = {
        name: rnn[name] for name in ("input_size", "hidden_size", "nonlinearity", "bias", "batch_first")
    }
    configuration["extra"]["training"]["settings"] = {
        name: settings[name]
        for name in ("cell", "hidden", "steps_per_chunk", "batch", "optimizer", "lr", "clip", "seed")
    }
    save_file(tensors, path, {"bptt": json.dumps(configuration)})


def test_a_run_of_an_old_file_goes_on(tmp_path):
    run = tiny_run(cell="relu")
    for _ in range(5):
        step(run)
    old_file(run, tmp_path / "m")
    loaded = load_run(tmp_path / "m", TEXT, backend="reference")
    assert state_of(loaded) == state_of(run)
    assert loaded.settings == run.settings
    step(run)
    step(loaded)
    assert state_of(loaded) == state_of(run)


@pytest.mark.parametrize("name", ["training.hidden", "training.cell"])
@pytest.mark.parametrize("shape", [None, (1, 3, 4), (2, 3, 5)])
def test_a_state_that_does_not_fit(tmp_path, name, shape):
    run = tiny_run(cell="lstm", layers=2)
    save_run(tmp_path / "m", run)
    tensors, configuration = parts(tmp_path / "m")
    del tensors[f"extra.{name}"]
    if shape is not None:
        tensors[f"extra.{name}"] = np.zeros(shape, np.float32)
    save_file(tensors, tmp_path / "m", {"bptt": json.dumps(configuration)})
    got = "none" if shape is None else f"float32 of shape {shape}"
    with pytest.raises(ModelFileError) as raised:
        load_run(tmp_path / "m", TEXT, backend="reference")
    message = f"{name}: expected a float32 tensor of shape (2, 3, 4), got {got}"
    assert str(raised.value) == f"{tmp_path / 'm'}: {message}"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cell": "gru"}, "cell: expected lstm as in the network, got 'gru'"),
        ({"cell": "tanh"}, "cell: expected lstm as in the network, got 'rnn'"),
        ({"cell": "vanilla"}, "cell: expected one of 'tanh', "),
        ({"layers": 1}, "num_layers: expected 2 as in the network, got 1"),
        ({"layers": True}, "layers: expected an integer of at least 1, got True"),
        ({"dropout": 0.5}, "dropout: expected 0.0 as in the network, got 0.5"),
        ({"zoneout": "0"}, "zoneout: expected a number, got '0'"),
        ({"recurrent_dropout": -1}, "recurrent_dropout: expected a finite number of 0 or more, got -1"),
        ({"layer_norm": True}, "layer_norm: expected False as in the network, got True"),
        ({"layer_norm": 0}, "layer_norm: expected True or False, got 0"),
    ],
)
def test_settings_that_do_not_fit(tmp_path, change, message):
    save_run(tmp_path / "m", tiny_run(cell="lstm", layers=2))
    tensors, configuration = parts(tmp_path / "m")
    configuration["extra"]["training"]["settings"] |= change
    save_file(tensors, tmp_path / "m", {"bptt": json.dumps(configuration)})
    with pytest.raises(ModelFileError) as raised:
        load_run(tmp_path / "m", TEXT, backend="reference")
    assert str(raised.value).startswith(f"{tmp_path / 'm'}: {message}")

"""Model files: what comes back, and the bytes."""

from __future__ import annotations

import json

import numpy as np
import pytest
from command_line import parts
from model_files import assert_same, content, lstm_content, network
from safetensors.numpy import save

from bptt import GRU, LSTM, RNN, Linear, Network
from bptt.description import COMMON, LAYERS, OWN
from bptt.files import load_model, save_model

STACK = {"num_layers": 2, "bidirectional": True, "dropout": 0.25}
NOISE = {"recurrent_dropout": 0.5, "zoneout": 0.125, "layer_norm": True}
#: Layers with every option.
EVERY = [
    RNN(3, 4, nonlinearity="identity", **STACK, **NOISE, backend="reference"),
    RNN(3, 4, num_layers=3, bias=False, nonlinearity="sigmoid", backend="reference"),
    LSTM(3, 4, backend="reference"),
    LSTM(3, 4, proj_size=2, peepholes=True, batch_first=True, **STACK, **NOISE, backend="reference"),
    LSTM(3, 4, bias=False, zoneout=(0.0, 0.25), dtype=np.float64, backend="reference"),
    LSTM(3, 4, forget_bias=1.0, seed=1, init="orthogonal", backend="reference"),
    GRU(3, 4, **STACK, **NOISE, dtype=np.float64, backend="reference"),
    GRU(3, 4, num_layers=2, bias=False, reset_after=False, recurrent_dropout=0.5, backend="reference"),
]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


class TestRoundTrip:
    @pytest.mark.parametrize("bias", [True, False])
    @pytest.mark.parametrize(
        "options",
        [
            {"loss_options": {"ignore_index": -100}, "many_to_one": True, "reduction": "sum"},
            {"loss": "residual", "loss_options": {"link": "sigmoid"}, "reduction": "mean"},
            {"loss": "binary_cross_entropy"},
        ],
    )
    def test_everything_comes_back(self, path, backend, dtype, bias, options):
        saved = network(backend, dtype=dtype, bias=bias, **options)
        saved.save(path)
        loaded = Network.load(path, backend=backend)
        assert_same(saved, loaded)
        for name in ("input_size", "hidden_size", "nonlinearity", "bias", "batch_first", "dtype", "backend"):
            assert getattr(loaded.rnn, name) == getattr(saved.rnn, name)
        for name in ("in_features", "out_features", "bias", "dtype", "backend"):
            assert getattr(loaded.readout, name) == getattr(saved.readout, name)
        assert loaded.objective == saved.objective
        assert loaded.many_to_one == saved.many_to_one
        x = np.ones((2, 5, 3), dtype)
        np.testing.assert_array_equal(loaded.predict(x), saved.predict(x))
        loaded.parameters["readout.weight"] += 1  # writeable

    @pytest.mark.parametrize("rnn", EVERY, ids=repr)
    @pytest.mark.parametrize("many_to_one", [False, True])
    def test_every_layer(self, path, rnn, many_to_one):
        readout = Linear(rnn.output_size, 2, dtype=rnn.dtype, backend="reference")
        saved = Network(rnn, readout, many_to_one=many_to_one)
        saved.save(path)
        loaded = Network.load(path, backend="reference")
        assert type(loaded.rnn) is type(rnn)
        assert_same(saved, loaded)
        for name in set(rnn._options) - {"seed", "init", "forget_bias"}:
            assert getattr(loaded.rnn, name) == getattr(rnn, name), name
            assert type(getattr(loaded.rnn, name)) is type(getattr(rnn, name)), name
        x = np.random.default_rng(0).normal(size=(2, 2, 3)).astype(rnn.dtype)
        np.testing.assert_array_equal(loaded.predict(x), saved.predict(x))
        targets = [0, 1] if many_to_one else [[0, 1], [1, 0]]
        losses = {network.loss_and_gradients(x, targets, seed=1)[0] for network in (loaded, saved)}
        assert len(losses) == 1
        loaded.save(path.with_suffix(".again"))
        assert path.with_suffix(".again").read_bytes() == path.read_bytes()

    def test_a_file_has_every_option_that_a_layer_has(self):
        """But for those that say how a layer begins, and what is told elsewhere."""
        for cell, layer in LAYERS.items():
            others = {"seed", "init", "forget_bias", "dtype", "backend"}
            assert {*COMMON, *OWN[cell]} == set(layer._options) - others

    @pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
    def test_the_description(self, path, cell):
        rnn = LAYERS[cell](3, 4, num_layers=2, zoneout=0.5, backend="reference")
        Network(rnn, Linear(4, 2, backend="reference")).save(path)
        tensors, configuration = parts(path)
        assert configuration["version"] == 2
        own = {"rnn": {"nonlinearity": "tanh"}, "gru": {"reset_after": True}}
        assert configuration["rnn"] == {
            "cell": cell,
            "input_size": 3,
            "hidden_size": 4,
            "num_layers": 2,
            "bias": True,
            "batch_first": False,
            "dropout": 0.0,
            "bidirectional": False,
            "recurrent_dropout": 0.0,
            "zoneout": 0.5,
            "layer_norm": False,
        } | own.get(cell, {"proj_size": 0, "peepholes": False})
        gates = {"rnn": 1, "lstm": 4, "gru": 3}[cell]
        shapes = {name: list(value.shape) for name, value in tensors.items()}
        for layer, below in enumerate((3, 4)):
            assert shapes[f"rnn.weight_ih_l{layer}"] == [4 * gates, below]
            assert shapes[f"rnn.weight_hh_l{layer}"] == [4 * gates, 4]

    @pytest.mark.parametrize("version", [1, 2])
    def test_a_file_written_by_hand(self, path, version):
        tensors, configuration = content() if version == 1 else lstm_content()
        path.write_bytes(save(tensors, {"bptt": json.dumps(configuration)}))
        loaded = Network.load(path, backend="reference")
        assert loaded.parameters.keys() == tensors.keys()
        for name, value in loaded.parameters.items():
            np.testing.assert_array_equal(value, tensors[name])
        if version == 1:
            assert repr(loaded) == repr(network()).replace(", seed=0", "")
        else:
            assert loaded.rnn.zoneout == (0.25, 0.125)
            assert repr(loaded.rnn).startswith("LSTM(3, 4, num_layers=2, dropout=0.5, bidirectional=True, ")

    def test_special_values_keep_their_bits(self, path):
        saved = network()
        saved.parameters["readout.weight"][0] = [np.nan, np.inf, -0.0, 1e-45]
        saved.save(path)
        got = Network.load(path, backend="reference").parameters["readout.weight"]
        assert got.tobytes() == saved.parameters["readout.weight"].tobytes()

    def test_the_path_may_be_a_string(self, path):
        network().save(str(path))
        assert_same(Network.load(str(path), backend="reference"), network())

    def test_extras(self, path):
        tensors = {
            "optimizer.exp_avg.rnn.weight_hh_l0": np.arange(6.0).reshape(2, 3)[:, ::2],
            "swapped": np.array([1.5, 2.5], ">f4"),
            "tokens": np.array([[1, 2]], np.int64),
            "mask": np.array([True, False]),
            "nothing": np.zeros((0, 3), np.float16),
            "number": np.array(7, np.uint8),
        }
        metadata = {"epoch": 3, "characters": 'a\u20ac"\\\n\U0001f600', "nested": {"list": [1.5, None, True]}}
        save_model(path, network(), extra_tensors=tensors, extra_metadata=metadata)
        loaded, got, extra = load_model(path, backend="reference")
        assert_same(loaded, network())
        assert extra == metadata
        assert got.keys() == tensors.keys()
        for name, array in tensors.items():
            assert got[name].dtype == array.dtype.newbyteorder("=")
            assert got[name].shape == array.shape
            np.testing.assert_array_equal(got[name], array)
            got[name][...] = 0  # writeable

    def test_no_extras(self, path):
        network().save(path)
        assert load_model(path, backend="reference")[1:] == ({}, {})

    def test_other_programs_can_read_the_parameters(self, path):
        from safetensors.numpy import load_file

        network().save(path)
        tensors = load_file(path)
        assert tensors.keys() == network().parameters.keys()
        np.testing.assert_array_equal(tensors["rnn.weight_hh_l0"], network().parameters["rnn.weight_hh_l0"])

    def test_the_same_network_gives_the_same_bytes(self, tmp_path):
        contents = []
        for n in range(8):
            tensors = {f"t{i}": np.full(i, i) for i in (range(9) if n % 2 else reversed(range(9)))}
            metadata = {f"m{i}": i for i in (range(9) if n % 2 else reversed(range(9)))}
            save_model(tmp_path / str(n), network(), extra_tensors=tensors, extra_metadata=metadata)
            contents.append((tmp_path / str(n)).read_bytes())
        assert len(set(contents)) == 1

    def test_a_loaded_network_gives_the_same_bytes(self, path, tmp_path):
        network().save(path)
        Network.load(path, backend="reference").save(tmp_path / "again")
        assert (tmp_path / "again").read_bytes() == path.read_bytes()

    @pytest.mark.parametrize("part", ["rnn", "readout"])
    def test_parameters_that_no_call_takes(self, path, part):
        network().save(path)
        spoilt = network(seed=1)
        parameters = getattr(spoilt, part).parameters
        name = next(name for name in parameters if "bias" in name)
        parameters[name] = parameters[name].astype(np.float64)
        with pytest.raises(TypeError, match=f"^{name}: expected float32"):
            spoilt.save(path)
        assert_same(Network.load(path, backend="reference"), network())

    @pytest.mark.parametrize(
        ("keywords", "error", "message"),
        [
            (
                {"extra_metadata": {"x": float("nan")}},
                ValueError,
                "extra_metadata: expected JSON values, got",
            ),
            (
                {"extra_metadata": {"x": np.float32(1)}},
                TypeError,
                "extra_metadata: expected JSON values, got",
            ),
            (
                {"extra_tensors": {"x": np.array(["a"])}},
                TypeError,
                "extra_tensors['x']: expected bool, integers, float16, float32 or float64, got <U1",
            ),
        ],
    )
    def test_extras_that_cannot_be_stored(self, path, keywords, error, message):
        with pytest.raises(error) as raised:
            save_model(path, network(), **keywords)
        assert str(raised.value).startswith(message)
        assert not path.exists()

"""Files that are no models, damaged, foreign or hostile."""

from __future__ import annotations

import json
import os
import sys

import numpy as np
import pytest
from errors import raises
from model_files import assert_same, content, lstm_content, network, rejected
from safetensors.numpy import save

from bptt.files import ModelFileError, load_model


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


class TestUnreadable:
    def test_missing(self, path):
        with pytest.raises(FileNotFoundError, match="No such file"):
            load_model(path)

    def test_directory(self, tmp_path):
        with pytest.raises(IsADirectoryError, match="Is a directory"):
            load_model(tmp_path)

    def test_a_pipe_does_not_block(self, path):
        os.mkfifo(path)
        rejected(path, "expected a regular file, got a device or a pipe")

    def test_a_device_does_not_go_on_for_ever(self):
        rejected("/dev/zero", "expected a regular file, got a device or a pipe")

    def test_the_description_is_right(self, path):
        # the files below differ from a good one in one thing each
        tensors, configuration = content()
        path.write_bytes(save(tensors, {"bptt": json.dumps(configuration)}))
        assert_same(load_model(path, backend="reference").network, network())

    def test_every_truncation(self, path):
        network().save(path)
        whole = path.read_bytes()
        for length in {*range(40), *range(40, len(whole), 37), len(whole) - 1}:
            path.write_bytes(whole[:length])
            rejected(path, "expected ")

    def test_surplus_bytes(self, path):
        network().save(path)
        path.write_bytes(path.read_bytes() + b"\0")
        rejected(path, "expected a whole safetensors file, got a damaged one: ")

    @pytest.mark.parametrize("raw", [b"", b"GIF89a", b"PK\3\4" + bytes(200), b"hello " * 50, b"\xff" * 64])
    def test_other_formats(self, path, raw):
        path.write_bytes(raw)
        rejected(path, "expected a safetensors file, got another or a truncated one")

    @pytest.mark.parametrize("length", [2**63, 2**64 - 1, 100_000_001, 10**9])
    def test_huge_header(self, path, length):
        path.write_bytes(length.to_bytes(8, "little") + bytes(100))
        os.truncate(path, 2 * 10**9)  # sparse
        rejected(path, "expected a safetensors file, got another or a truncated one")

    @pytest.mark.parametrize(
        "header",
        [b"[]", b"3", b"{", b"\xff\xfe", b'{"a": NaN}', b"[" * 100_000, b'{"a": 1' + b"0" * 5000 + b"}", b""],
    )
    def test_header_that_is_none(self, path, header):
        path.write_bytes(len(header).to_bytes(8, "little") + header)
        rejected(path, "expected ")

    @pytest.mark.parametrize("metadata", [None, {}, {"format": "pt"}, {"bptt.other": "{}"}])
    def test_foreign(self, path, metadata):
        path.write_bytes(save(content()[0], metadata))
        rejected(path, "expected a model of bptt, got a safetensors file of another program")

    @pytest.mark.parametrize("text", ["", "{", "[1, 2]", "null", '{"format": "x"}', "{}", "[" * 100_000])
    def test_configuration_that_is_none(self, path, text):
        path.write_bytes(save(content()[0], {"bptt": text}))
        rejected(path, "expected ")

    def test_without_safetensors(self, path, monkeypatch):
        network().save(path)
        monkeypatch.setitem(sys.modules, "safetensors", None)
        message = "safetensors: expected the package for model files, got none; pip install 'bptt[cli]'"
        with raises(ImportError, message):
            network().save(path)
        with raises(ImportError, message):
            load_model(path)


HUGE = 10**12
BAD_VALUES = [
    ("version", 3, "version: expected 2, got 3, which takes a newer version of bptt to read"),
    ("version", 2, "rnn.cell: expected rnn, lstm, gru, got None"),
    ("version", 0, "version: expected an integer of at least 1, got 0"),
    ("version", True, "version: expected an integer of at least 1, got True"),
    ("version", "1", "version: expected an integer of at least 1, got '1'"),
    ("rnn", [], "rnn: expected an object, got []"),
    ("readout", None, "readout: expected an object, got None"),
    ("loss", "residual", "loss: expected an object, got 'residual'"),
    ("extra", [{}], "extra: expected an object, got a list"),
    ("dtype", "float16", "dtype: expected float32 or float64, got 'float16'"),
    ("dtype", {}, "dtype: expected float32 or float64, got an object"),
    ("dtype", "float64", "rnn.weight_ih_l0: expected float64, got float32"),
    ("rnn.hidden_size", 5, "rnn.weight_ih_l0: expected shape [5, 3], got [4, 3]"),
    ("rnn.hidden_size", HUGE, f"rnn.weight_ih_l0: expected shape [{HUGE}, 3], got [4, 3]"),
    ("rnn.hidden_size", 10**400, "rnn.weight_ih_l0: expected shape [1000"),
    ("rnn.hidden_size", 0, "rnn.hidden_size: expected an integer of at least 1, got 0"),
    ("rnn.hidden_size", -4, "rnn.hidden_size: expected an integer of at least 1, got -4"),
    ("rnn.hidden_size", 4.0, "rnn.hidden_size: expected an integer of at least 1, got 4.0"),
    ("rnn.hidden_size", 1e999, "expected JSON in the configuration, got something else: Infinity"),
    ("rnn.hidden_size", float("nan"), "expected JSON in the configuration, got something else: NaN"),
    ("rnn.hidden_size", "4", "rnn.hidden_size: expected an integer of at least 1, got '4'"),
    ("rnn.input_size", [3], "rnn.input_size: expected an integer of at least 1, got [3]"),
    ("readout.out_features", None, "readout.out_features: expected an integer of at least 1, got None"),
    ("readout.out_features", 3, "readout.weight: expected shape [3, 4], got [2, 4]"),
    ("rnn.nonlinearity", "x" * 1000, "nonlinearity: expected one of"),
    ("rnn.nonlinearity", ["relu"], "nonlinearity: expected one of"),
    ("rnn.batch_first", 1, "batch_first: expected True or False, got 1"),
    ("rnn.bias", 1, "rnn.bias: expected true or false, got 1"),
    ("rnn.bias", False, "'rnn.bias_hh_l0': expected no such tensor, got one"),
    ("readout.bias", "yes", "readout.bias: expected true or false, got 'yes'"),
    ("loss.loss", "hinge", "loss: expected one of"),
    ("loss.loss_options", [1], "loss_options: expected a mapping, got list"),
    ("loss.loss_options", {"link": "sigmoid"}, "loss_options: expected ignore_index for"),
    ("loss.reduction", "max", "reduction: expected one of"),
    ("loss.many_to_one", "no", "many_to_one: expected True or False, got 'no'"),
    ("surplus", 1, "configuration: expected the entries format, version, rnn, "),
    ("rnn.surplus", 1, "rnn: expected the entries input_size, hidden_size, "),
]


#: Of a file of version 2.
BAD_LSTMS = [
    ("version", 1, "rnn: expected the entries input_size, hidden_size, nonlinearity, "),
    ("rnn.cell", "LSTM", "rnn.cell: expected rnn, lstm, gru, got 'LSTM'"),
    ("rnn.cell", ["lstm"], "rnn.cell: expected rnn, lstm, gru, got a list"),
    ("rnn.cell", "gru", "rnn: expected the entries cell, input_size, "),
    ("rnn.cell", "rnn", "rnn: expected the entries cell, input_size, "),
    ("rnn.num_layers", 1, "'rnn.bias_hh_l1': expected no such tensor, got one"),
    ("rnn.num_layers", 3, "rnn.weight_ih_l2: expected a tensor, got none"),
    ("rnn.num_layers", 0, "rnn.num_layers: expected an integer of at least 1, got 0"),
    (
        "rnn.num_layers",
        HUGE,
        "rnn.num_layers: expected at most as many layers as there are tensors, 34, got ",
    ),
    ("rnn.num_layers", 10**400, "rnn.num_layers: expected at most as many layers as there are tensors, 34, "),
    ("rnn.num_layers", "2", "rnn.num_layers: expected an integer of at least 1, got '2'"),
    ("rnn.hidden_size", 5, "rnn.weight_ih_l0: expected shape [20, 3], got [16, 3]"),
    ("rnn.hidden_size", HUGE, f"rnn.weight_ih_l0: expected shape [{4 * HUGE}, 3], got [16, 3]"),
    ("rnn.bidirectional", False, "'rnn."),
    ("rnn.bidirectional", 1, "rnn.bidirectional: expected true or false, got 1"),
    ("rnn.proj_size", 3, "rnn.weight_hh_l0: expected shape [16, 3], got [16, 2]"),
    ("rnn.proj_size", -2, "rnn.proj_size: expected an integer of at least 0, got -2"),
    ("rnn.proj_size", True, "rnn.proj_size: expected an integer of at least 0, got True"),
    ("rnn.peepholes", False, "'rnn.weight_ph_l0': expected no such tensor, got one"),
    ("rnn.peepholes", None, "rnn.peepholes: expected true or false, got None"),
    ("rnn.layer_norm", False, "'rnn.weight_ln_"),
    ("rnn.layer_norm", "no", "rnn.layer_norm: expected true or false, got 'no'"),
    ("rnn.bias", False, "'rnn.bias_"),
    ("rnn.batch_first", 0, "batch_first: expected True or False, got 0"),
    ("rnn.dropout", 1.0, "dropout: expected a number in [0, 1), got 1.0"),
    ("rnn.dropout", "0", "dropout: expected a number in [0, 1), got '0'"),
    ("rnn.dropout", 10**400, "dropout: expected a number in [0, 1), got 1000"),
    ("rnn.recurrent_dropout", -0.5, "recurrent_dropout: expected a number in [0, 1), got -0.5"),
    ("rnn.zoneout", [0.5], "zoneout: expected a number or a pair of them, of h and c, got (0.5,)"),
    ("rnn.zoneout", [0.5, [0.5]], "zoneout of c: expected a number in [0, 1), got [0.5]"),
    ("rnn.zoneout", {}, "zoneout: expected a number in [0, 1), got {}"),
    ("rnn.zoneout", None, "zoneout: expected a number in [0, 1), got None"),
    ("rnn.forget_bias", 1.0, "rnn: expected the entries cell, input_size, "),
    ("rnn.seed", 1, "rnn: expected the entries cell, input_size, "),
]


class TestHostile:
    @pytest.mark.parametrize(
        ("key", "value", "message"),
        BAD_VALUES,
        ids=[f"{key}-{str(value)[:12]}" for key, value, _ in BAD_VALUES],
    )
    def test_configuration(self, path, key, value, message):
        self.changed(path, content(), key, value)
        rejected(path, message)

    @pytest.mark.parametrize(
        ("key", "value", "message"),
        BAD_LSTMS,
        ids=[f"{key}-{str(value)[:12]}" for key, value, _ in BAD_LSTMS],
    )
    def test_configuration_of_an_lstm(self, path, key, value, message):
        self.changed(path, lstm_content(), key, value)
        rejected(path, message)

    def changed(self, path, good, key, value):
        """Write a good file with one entry changed."""
        tensors, configuration = good
        *sections, last = key.split(".")
        part = configuration[sections[0]] if sections else configuration
        part[last] = value
        path.write_bytes(save(tensors, {"bptt": json.dumps(configuration)}))

    @pytest.mark.parametrize("key", ["cell", "num_layers", "zoneout", "proj_size"])
    def test_missing_entries_of_an_lstm(self, path, key):
        tensors, configuration = lstm_content()
        del configuration["rnn"][key]
        path.write_bytes(save(tensors, {"bptt": json.dumps(configuration)}))
        rejected(path, "rnn.cell: expected rnn," if key == "cell" else "rnn: expected the entries cell, ")

    @pytest.mark.parametrize(
        ("name", "shape"),
        [
            ("rnn.weight_hr_l0", (2, 5)),
            ("rnn.weight_ph_l1_reverse", (4,)),
            ("rnn.weight_ih_l1", (16, 2)),
            ("rnn.weight_ln_hh_l0", (4,)),
        ],
    )
    def test_shapes_of_an_lstm(self, path, name, shape):
        tensors, configuration = lstm_content()
        expected, tensors[name] = list(tensors[name].shape), np.zeros(shape, np.float32)
        path.write_bytes(save(tensors, {"bptt": json.dumps(configuration)}))
        rejected(path, f"{name}: expected shape {expected}, got {list(shape)}")

    @pytest.mark.parametrize(
        ("section", "key"),
        [(None, "rnn"), ("rnn", "bias"), ("readout", "out_features"), ("loss", "reduction")],
    )
    def test_missing_entries(self, path, section, key):
        tensors, configuration = content()
        del (configuration[section] if section else configuration)[key]
        path.write_bytes(save(tensors, {"bptt": json.dumps(configuration)}))
        rejected(path, f"{section or 'configuration'}: expected the entries ")

    @pytest.mark.parametrize("name", ["rnn.weight_hh_l0", "readout.bias"])
    def test_missing_tensor(self, path, name):
        tensors, configuration = content()
        del tensors[name]
        path.write_bytes(save(tensors, {"bptt": json.dumps(configuration)}))
        rejected(path, f"{name}: expected a tensor, got none")

    def test_surplus_tensor(self, path):
        tensors, configuration = content()
        tensors["rnn.\u2028surplus"] = np.zeros(1)
        path.write_bytes(save(tensors, {"bptt": json.dumps(configuration)}))
        rejected(path, r"'rnn.\u2028surplus': expected no such tensor, got one")

    @pytest.mark.parametrize("kind", [np.float64, np.float16, np.int32])
    def test_tensor_of_another_dtype(self, path, kind):
        tensors, configuration = content()
        tensors["readout.weight"] = tensors["readout.weight"].astype(kind)
        path.write_bytes(save(tensors, {"bptt": json.dumps(configuration)}))
        rejected(path, f"readout.weight: expected float32, got {np.dtype(kind)}")

    def raw(self, path, change):
        """Write a good file with its header changed."""
        tensors, configuration = content()
        good = save(tensors, {"bptt": json.dumps(configuration)})
        length = int.from_bytes(good[:8], "little")
        header = json.loads(good[8 : 8 + length])
        change(header)
        text = json.dumps(header).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + good[8 + length :])

    @pytest.mark.parametrize(
        ("entry", "value", "message"),
        [
            ("dtype", "BF16", "'readout.weight': expected a dtype NumPy has, got 'BF16'"),
            ("dtype", None, "'readout.weight': expected a dtype NumPy has, got None"),
            ("shape", [4, 2], "readout.weight: expected shape [2, 4], got [4, 2]"),
            ("shape", "24", "readout.weight: expected shape [2, 4], got '24'"),
            ("shape", [2.0, 4], "expected a whole safetensors file, got a damaged one: "),
            ("data_offsets", [0, 2**62], "expected a whole safetensors file, got a damaged one: "),
            ("data_offsets", [-32, 0], "expected a whole safetensors file, got a damaged one: "),
            ("data_offsets", None, "expected a whole safetensors file, got a damaged one: "),
        ],
    )
    def test_tensor_entry(self, path, entry, value, message):
        self.raw(path, lambda header: header["readout.weight"].update({entry: value}))
        rejected(path, message)

    def test_tensor_entry_that_is_none(self, path):
        self.raw(path, lambda header: header.update({"readout.weight": 3}))
        rejected(path, "'readout.weight': expected a tensor, got 3")

    @pytest.mark.parametrize("value", [3, [], {"bptt": 3}, {"bptt": None}])
    def test_metadata_of_another_type(self, path, value):
        self.raw(path, lambda header: header.update({"__metadata__": value}))
        rejected(path, "expected a model of bptt, got a safetensors file of another program")

    def test_sizes_that_agree_with_each_other_but_not_with_the_file(self, path):
        tensors, configuration = content()
        configuration["rnn"]["hidden_size"] = HUGE

        def swell(header):
            header["__metadata__"]["bptt"] = json.dumps(configuration)
            for name in tensors:
                shape = [HUGE if n == 4 else n for n in header[name]["shape"]]
                header[name] = {"dtype": "F32", "shape": shape, "data_offsets": header[name]["data_offsets"]}

        self.raw(path, swell)
        rejected(path, "expected a whole safetensors file, got a damaged one: ")

    def test_entries_given_twice(self, path):
        """JSON parsers differ in which of two they take; whichever it is, the shapes are looked at."""
        tensors, configuration = content()
        good = save(tensors, {"bptt": json.dumps(configuration)})
        length = int.from_bytes(good[:8], "little")
        header = json.loads(good[8 : 8 + length])
        first = header["readout.weight"] | {"shape": [4, 2]}
        text = json.dumps(header).encode()
        text = b'{"readout.weight": ' + json.dumps(first).encode() + b", " + text[1:]
        path.write_bytes(len(text).to_bytes(8, "little") + text + good[8 + length :])
        try:
            loaded = load_model(path, backend="reference").network
        except ModelFileError as error:
            assert str(error).startswith(f"{path}: ")  # noqa: PT017
        else:
            assert_same(loaded, network())

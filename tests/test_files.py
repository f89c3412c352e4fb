"""Model files: what comes back, the bytes, interrupted saves; damaged, foreign and hostile files."""

from __future__ import annotations

import builtins
import errno
import json
import os
import stat
import sys

import numpy as np
import pytest
from errors import raises
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save

from bptt import RNN, Linear, Network
from bptt.files import ModelFileError, load_model, save_model, write_atomically


def network(backend="reference", *, dtype=np.float32, bias=True, seed=0, **options):
    rnn = RNN(3, 4, dtype=dtype, bias=bias, seed=seed, nonlinearity="relu", batch_first=True, backend=backend)
    readout = Linear(4, 2, bias=bias, dtype=dtype, seed=seed, backend=backend)
    return Network(rnn, readout, **options)


def assert_same(one, other):
    assert one.parameters.keys() == other.parameters.keys()
    for name, value in one.parameters.items():
        assert value.dtype == other.parameters[name].dtype
        np.testing.assert_array_equal(value, other.parameters[name])


def leftovers(folder):
    return sorted(path.name for path in folder.iterdir())


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


class TestAtomicWrite:
    def test_nothing_is_left_beside_the_file(self, path, tmp_path):
        network().save(path)
        network(seed=1).save(path)
        assert leftovers(tmp_path) == [path.name]
        assert_same(Network.load(path, backend="reference"), network(seed=1))

    @pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
    @pytest.mark.parametrize("function", ["replace", "fsync", "fchmod"])
    @pytest.mark.parametrize("existing", [True, False])
    def test_an_interrupted_save_leaves_the_old_file_whole(
        self, path, tmp_path, monkeypatch, error, function, existing
    ):
        if existing:
            network().save(path)
        elif function == "fchmod":
            pytest.skip("there are no permissions to keep")
        before = leftovers(tmp_path)

        def fail(*arguments):
            raise error

        monkeypatch.setattr(os, function, fail)
        with pytest.raises(type(error)) as raised:
            network(seed=1).save(path)
        monkeypatch.undo()
        assert leftovers(tmp_path) == before
        if isinstance(error, OSError):
            assert str(raised.value) == f"[Errno {errno.ENOSPC}] No space left on device: {str(path)!r}"
        if existing:
            assert_same(Network.load(path, backend="reference"), network())

    def test_a_half_written_file_is_never_in_place(self, path, monkeypatch):
        network().save(path)

        class Full:
            def __init__(self, file):
                self.file = file

            def __enter__(self):
                return self

            def __exit__(self, *arguments):
                self.file.close()

            def fileno(self):
                return self.file.fileno()

            def write(self, content):
                self.file.write(content[:100])
                self.file.flush()
                raise OSError(errno.ENOSPC, "No space left on device")

        original = builtins.open
        monkeypatch.setattr(
            builtins,
            "open",
            lambda name, mode: Full(original(name, mode)) if "x" in mode else original(name, mode),
        )
        with pytest.raises(OSError, match="No space left"):
            network(seed=1).save(path)
        monkeypatch.undo()
        assert leftovers(path.parent) == [path.name]
        assert_same(Network.load(path, backend="reference"), network())

    def test_a_signal_after_the_rename_leaves_the_new_file(self, path, monkeypatch):
        network().save(path)
        rename = os.replace

        def interrupted(*arguments):
            rename(*arguments)
            raise KeyboardInterrupt

        monkeypatch.setattr(os, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            network(seed=1).save(path)
        monkeypatch.undo()
        assert leftovers(path.parent) == [path.name]
        assert_same(Network.load(path, backend="reference"), network(seed=1))

    def test_it_is_on_the_disk_before_it_is_renamed_and_the_folder_after(self, path, monkeypatch):
        events, sync, rename = [], os.fsync, os.replace

        def fsync(descriptor):
            events.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
            sync(descriptor)

        def replace(*names):
            events.append("rename")
            rename(*names)

        monkeypatch.setattr(os, "fsync", fsync)
        monkeypatch.setattr(os, "replace", replace)
        write_atomically(path, b"content")
        assert events == ["file", "rename", "folder"]
        assert path.read_bytes() == b"content"

    @pytest.mark.parametrize("mode", [0o600, 0o664, 0o755])
    def test_permissions_are_kept(self, path, mode):
        path.write_bytes(b"old")
        path.chmod(mode)
        write_atomically(path, b"new")
        assert stat.S_IMODE(path.stat().st_mode) == mode

    def test_a_new_file_has_the_usual_permissions(self, path, tmp_path):
        (tmp_path / "usual").write_bytes(b"")
        write_atomically(path, b"new")
        assert path.stat().st_mode == (tmp_path / "usual").stat().st_mode

    def test_a_link_stays_a_link(self, path, tmp_path):
        target = tmp_path / "elsewhere"
        target.mkdir()
        (target / "real").write_bytes(b"old")
        path.symlink_to(target / "real")
        write_atomically(path, b"new")
        assert path.is_symlink()
        assert (target / "real").read_bytes() == b"new"

    def test_the_longest_name(self, tmp_path):
        path = tmp_path / ("x" * 255)
        write_atomically(path, b"new")
        assert path.read_bytes() == b"new"

    def test_a_relative_path(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        write_atomically("model", b"new")
        assert (tmp_path / "model").read_bytes() == b"new"

    def test_a_directory(self, tmp_path):
        with raises(IsADirectoryError, f"[Errno {errno.EISDIR}] Is a directory: {str(tmp_path)!r}"):
            write_atomically(tmp_path, b"")
        assert leftovers(tmp_path) == []

    def test_no_such_folder(self, tmp_path):
        path = tmp_path / "no" / "model"
        with raises(FileNotFoundError, f"[Errno {errno.ENOENT}] No such file or directory: {str(path)!r}"):
            write_atomically(path, b"")

    def test_a_protected_file(self, path, monkeypatch):
        path.write_bytes(b"old")
        monkeypatch.setattr(os, "access", lambda *arguments: False)  # root may write anything
        with raises(PermissionError, f"[Errno {errno.EACCES}] Permission denied: {str(path)!r}"):
            write_atomically(path, b"new")
        assert path.read_bytes() == b"old"


def content():
    """Return the bytes of a good file."""
    rnn, readout = network().rnn, network().readout
    tensors = {f"rnn.{name}": value for name, value in rnn.parameters.items()}
    tensors |= {f"readout.{name}": value for name, value in readout.parameters.items()}
    return tensors, {
        "format": "bptt.network",
        "version": 1,
        "rnn": {"input_size": 3, "hidden_size": 4, "nonlinearity": "relu", "bias": True, "batch_first": True},
        "readout": {"out_features": 2, "bias": True},
        "dtype": "float32",
        "loss": {
            "loss": "softmax_cross_entropy",
            "loss_options": {},
            "reduction": "mean",
            "many_to_one": False,
        },
        "extra": {},
    }


def rejected(path, message):
    """Loading gives one sentence that begins with the path."""
    with pytest.raises(ModelFileError) as raised:
        load_model(path, backend="reference")
    text = str(raised.value)
    assert text.startswith(f"{path}: {message}")
    assert text.isprintable()
    assert len(text) < len(str(path)) + 310
    assert raised.value.__suppress_context__


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
    ("version", 2, "version: expected 1, got 2, which takes a newer version of bptt to read"),
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


class TestHostile:
    @pytest.mark.parametrize(
        ("key", "value", "message"),
        BAD_VALUES,
        ids=[f"{key}-{str(value)[:12]}" for key, value, _ in BAD_VALUES],
    )
    def test_configuration(self, path, key, value, message):
        tensors, configuration = content()
        *sections, last = key.split(".")
        part = configuration[sections[0]] if sections else configuration
        part[last] = value
        path.write_bytes(save(tensors, {"bptt": json.dumps(configuration)}))
        rejected(path, message)

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
            ("dtype", "BF16", "readout.weight: expected a dtype NumPy has, got 'BF16'"),
            ("dtype", None, "readout.weight: expected a dtype NumPy has, got None"),
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
        with pytest.raises(ModelFileError) as raised:
            load_model(path, backend="reference")
        assert message.replace("readout.weight:", "") in str(raised.value)

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


GOOD = None


def good_bytes():
    global GOOD
    if GOOD is None:
        tensors, configuration = content()
        GOOD = save(tensors, {"bptt": json.dumps(configuration)})
    return GOOD


def outcome(path, raw):
    """Load, which must give a valid network or a ModelFileError; say which."""
    path.write_bytes(raw)
    try:
        loaded, tensors, _ = load_model(path, backend="reference")
    except ModelFileError as error:
        text = str(error)
    else:
        text = ""
    if text:
        assert text.startswith(f"{path}: ")
        assert text.isprintable()
        return "rejected"
    I, H, O = loaded.rnn.input_size, loaded.rnn.hidden_size, loaded.readout.out_features
    shapes = {name: value.shape for name, value in loaded.parameters.items()}
    assert shapes["rnn.weight_ih_l0"] == (H, I)
    assert shapes["rnn.weight_hh_l0"] == (H, H)
    assert shapes["readout.weight"] == (O, H)
    assert sum(value.nbytes for value in [*loaded.parameters.values(), *tensors.values()]) <= len(raw)
    return "loaded"


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz") / "model"


@given(st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=4))
def test_flipped_bytes(scratch, flips):
    raw = bytearray(good_bytes())
    for where, mask in flips:
        raw[int(where * len(raw))] ^= mask
    outcome(scratch, bytes(raw))


@given(st.integers(0, 2000), st.integers(0, 2000), st.binary(max_size=20))
def test_pieces_replaced(scratch, start, stop, piece):
    raw = good_bytes()
    start, stop = sorted((start % len(raw), stop % len(raw)))
    outcome(scratch, raw[:start] + piece + raw[stop:])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.data())
def test_any_json_anywhere_in_the_configuration(scratch, data):
    tensors, configuration = content()
    section = data.draw(st.sampled_from([None, "rnn", "readout", "loss"]))
    part = configuration[section] if section else configuration
    part[data.draw(st.sampled_from(sorted(part)) | st.text(max_size=3))] = data.draw(JSON)
    outcome(scratch, save(tensors, {"bptt": json.dumps(configuration)}))


def test_the_fuzzers_reach_both_outcomes(scratch):
    raw = good_bytes()
    assert outcome(scratch, raw) == "loaded"
    assert outcome(scratch, raw[:-1] + bytes([raw[-1] ^ 1])) == "loaded"
    assert outcome(scratch, raw[:100] + b"\0" + raw[101:]) == "rejected"

"""Model files with any bytes changed: a valid network or one sentence."""

from __future__ import annotations

import functools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from model_files import content, lstm_content
from safetensors.numpy import save

from bptt import GRU, LSTM, RNN
from bptt.files import ModelFileError, load_model


@functools.cache
def good_bytes(make):
    tensors, configuration = make()
    return save(tensors, {"bptt": json.dumps(configuration)})


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
    gates = {RNN: 1, LSTM: 4, GRU: 3}[type(loaded.rnn)]
    I, H, O = loaded.rnn.input_size, loaded.rnn.hidden_size, loaded.readout.out_features
    shapes = {name: value.shape for name, value in loaded.parameters.items()}
    assert shapes["rnn.weight_ih_l0"] == (gates * H, I)
    assert shapes["rnn.weight_hh_l0"] == (gates * H, getattr(loaded.rnn, "proj_size", 0) or H)
    assert shapes["readout.weight"] == (O, loaded.rnn.output_size)
    for part in (loaded.rnn, loaded.readout):
        part.load_state_dict(part.parameters)  # all shapes
    assert sum(value.nbytes for value in [*loaded.parameters.values(), *tensors.values()]) <= len(raw)
    return "loaded"


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz") / "model"


GOOD = st.sampled_from([content, lstm_content])


@given(
    GOOD, st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=4)
)
def test_flipped_bytes(scratch, make, flips):
    raw = bytearray(good_bytes(make))
    for where, mask in flips:
        raw[int(where * len(raw))] ^= mask
    outcome(scratch, bytes(raw))


@given(GOOD, st.integers(0, 6000), st.integers(0, 6000), st.binary(max_size=20))
def test_pieces_replaced(scratch, make, start, stop, piece):
    raw = good_bytes(make)
    start, stop = sorted((start % len(raw), stop % len(raw)))
    outcome(scratch, raw[:start] + piece + raw[stop:])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(GOOD, st.data())
def test_any_json_anywhere_in_the_configuration(scratch, make, data):
    tensors, configuration = make()
    section = data.draw(st.sampled_from([None, "rnn", "readout", "loss"]))
    part = configuration[section] if section else configuration
    part[data.draw(st.sampled_from(sorted(part)) | st.text(max_size=3))] = data.draw(JSON)
    outcome(scratch, save(tensors, {"bptt": json.dumps(configuration)}))


@pytest.mark.parametrize("make", [content, lstm_content])
def test_the_fuzzers_reach_both_outcomes(scratch, make):
    raw = good_bytes(make)
    assert outcome(scratch, raw) == "loaded"
    assert outcome(scratch, raw[:-1] + bytes([raw[-1] ^ 1])) == "loaded"
    assert outcome(scratch, raw[:100] + b"\0" + raw[101:]) == "rejected"

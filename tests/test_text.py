"""Text for character models: vocabulary, corpus, streams, bits per character, continuation."""

import math
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bptt.layers import RNN
from bptt.network import Network
from bptt.readout import Linear
from bptt.text import (
    Streams,
    Vocabulary,
    bits_per_character,
    continue_text,
    default_corpus,
    held_out_length,
    needed_length,
    read_text,
)

ABC = Vocabulary(tuple("\n abc"))


def character_network(size, hidden=5, *, dtype=np.float64):
    rnn = RNN(size, hidden, init="orthogonal", dtype=dtype, seed=3, backend="reference")
    return Network(
        rnn, Linear(hidden, size, dtype=dtype, seed=4, backend="reference"), loss="softmax_cross_entropy"
    )


def logits_by_hand(network, token, h):
    p = network.parameters
    a = (
        p["rnn.weight_ih_l0"][:, token]
        + p["rnn.bias_ih_l0"]
        + p["rnn.weight_hh_l0"] @ h
        + p["rnn.bias_hh_l0"]
    )
    h = np.tanh(a)
    return p["readout.weight"] @ h + p["readout.bias"], h


# ------------------------------------------------------------------------------------------ vocabulary


@given(st.text(min_size=1))
@settings(max_examples=50)
def test_encode_and_decode_are_inverse(text):
    vocabulary = Vocabulary.from_text(text)
    tokens = vocabulary.encode(text)
    assert tokens.dtype == np.int64
    assert tokens.tolist() == [vocabulary.characters.index(c) for c in text]
    assert vocabulary.decode(tokens) == text


def test_unknown_characters_are_named():
    with pytest.raises(ValueError, match=r"^prompt: expected characters that the model knows, got 'x', 'é'$"):
        ABC.encode("axéa", name="prompt")
    with pytest.raises(ValueError, match=r"'0', '1', '2', '3', '4' and 2 more$"):
        ABC.encode("6543210")
    with pytest.raises(ValueError, match=r"got '\\udcff'$"):  # what Python makes of a byte that isn't UTF-8
        ABC.encode("a\udcff")
    with pytest.raises(ValueError, match=r"got '\\x00', '\\U0010ffff'$"):  # below all and above all
        ABC.encode("\0\U0010ffff")


@pytest.mark.parametrize(
    ("characters", "error", "message"),
    [
        ((), ValueError, "at least one"),
        (("a", 3), TypeError, "got int"),
        (("a", "bc"), ValueError, "got 'bc'"),
        (("a", ""), ValueError, "got ''"),
        (("a", "\ud800"), ValueError, "single characters"),
        (("b", "a"), ValueError, "ascending order"),
        (("a", "a"), ValueError, "ascending order"),
    ],
)
def test_bad_vocabularies(characters, error, message):
    with pytest.raises(error, match=message):
        Vocabulary(characters)


# ------------------------------------------------------------------------------------------------ texts


def test_default_corpus():
    text = default_corpus()
    assert text.isascii() or len(set(text)) < 200
    assert 'The "assert" statement' in text
    if sys.version_info[:2] == (3, 11):
        assert 460_000 < len(text) < 470_000
        assert 100 <= len(set(text)) <= 106
    assert len(text) > 400_000


def test_read_text_keeps_line_ends_and_drops_the_byte_order_mark(tmp_path):
    path = tmp_path / "t.txt"
    path.write_bytes(b"\xef\xbb\xbfa\r\nb\xc3\xa9\n")
    assert read_text(path) == "a\r\nbé\n"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "got an empty file"),
        (b"\xef\xbb\xbf", "got an empty file"),
        (b"abc\xe9\n", "expected UTF-8 text, got byte 0xe9 at offset 3"),
        (b"\xef\xbb\xbfab\xff", "got byte 0xff at offset 5"),
        ("abc".encode("utf-16"), "got byte 0xff at offset 0"),
    ],
)
def test_read_text_refuses(tmp_path, data, message):
    path = tmp_path / "t.txt"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=message):
        read_text(path)


def test_read_text_refuses_what_is_no_file(tmp_path):
    with pytest.raises(ValueError, match="got a directory"):
        read_text(tmp_path)
    with pytest.raises(ValueError, match="got a device"):
        read_text("/dev/zero")
    with pytest.raises(FileNotFoundError):
        read_text(tmp_path / "none")


@given(st.integers(1, 60), st.integers(1, 60))
@settings(max_examples=50)
def test_needed_length_is_enough_and_no_more(batch, steps):
    length = needed_length(batch, steps)
    assert Streams(np.zeros(length - held_out_length(length), np.int64), batch, steps).chunks == 1
    with pytest.raises(ValueError, match="expected at least"):
        Streams(np.zeros(length - 1 - held_out_length(length - 1), np.int64), batch, steps)


def test_held_out_length():
    assert [held_out_length(n) for n in (1, 19, 20, 39, 40, 465_048)] == [1, 1, 1, 1, 2, 23_252]


# ---------------------------------------------------------------------------------------------- streams


@given(st.integers(1, 5), st.integers(1, 9), st.integers(0, 60), st.integers(0, 10**6))
def test_streams_cover_the_text_in_order(batch, steps, surplus, offset):
    count = batch * steps + 1 + surplus
    streams = Streams(np.arange(count), batch, steps)
    offset %= count
    chunks = [streams.chunk(i, offset) for i in range(streams.chunks)]
    lengths = {len(inputs) for inputs, _ in chunks}
    assert max(lengths) <= steps
    assert max(lengths) - min(lengths) <= 1
    inputs = np.concatenate([inputs for inputs, _ in chunks])  # (n, B)
    targets = np.concatenate([targets for _, targets in chunks])
    n = (count - 1) // batch
    assert inputs.shape == targets.shape == (n, batch)
    assert inputs.T.ravel().tolist() == [(offset + i) % count for i in range(n * batch)]
    assert targets.T.ravel().tolist() == [(offset + i + 1) % count for i in range(n * batch)]
    assert all(a.flags.c_contiguous and a.dtype == np.int64 for pair in chunks for a in pair)


# ------------------------------------------------------------------------------------------- evaluation


@pytest.mark.parametrize("count", [2, 40, 300, 516, 600, 1100])  # 1, 1, 1, 2, 2 and 4 streams
def test_bits_per_character_predicts_each_character_once(count):
    network = character_network(4)
    tokens = np.random.default_rng(0).integers(0, 4, count)
    terms = count - 1
    streams = min(16, max(1, terms // 256))
    length = terms // streams
    total, h = 0.0, None
    for i in range(terms):
        if i % length == 0 and i // length < streams:
            h = np.zeros(5)
        s, h = logits_by_hand(network, tokens[i], h)
        total += math.log2(np.exp(s).sum()) - s[tokens[i + 1]] / math.log(2)
    assert bits_per_character(network, tokens) == pytest.approx(total / terms, rel=1e-12)


def test_bits_per_character_asks_for_no_other_threads(monkeypatch):
    monkeypatch.setattr("bptt.checks.options.default_threads", lambda: pytest.fail("asked for"))
    assert bits_per_character(character_network(5), np.arange(700) % 5, threads=1) > 0


def test_bits_per_character_needs_a_prediction():
    with pytest.raises(ValueError, match="at least 2, got 1"):
        bits_per_character(character_network(4), np.zeros(1, np.int64))


# ----------------------------------------------------------------------------------------- continuation


def test_continue_text_at_temperature_0_takes_the_likeliest():
    network = character_network(5)
    text, h = "ab", np.zeros(5)
    s, h = logits_by_hand(network, ABC.encode("a")[0], h)
    for _ in range(12):
        s, h = logits_by_hand(network, ABC.encode(text[-1])[0], h)
        text += ABC.characters[int(np.argmax(s))]
    assert "ab" + "".join(continue_text(network, ABC, "ab", 12, temperature=0)) == text


def test_continue_text_draws_as_the_network_samples():
    network = character_network(5)
    drawn = network.sample(ABC.encode("ba"), 60, temperature=0.8, seed=3)
    assert "".join(continue_text(network, ABC, "ba", 60, temperature=0.8, seed=3)) == ABC.decode(drawn)


def test_continue_text_repeats_with_its_seed():
    network = character_network(5)
    one, same, other = ("".join(continue_text(network, ABC, "b", 40, seed=seed)) for seed in (1, 1, 2))
    assert one == same != other
    assert len(one) == 40
    assert list(continue_text(network, ABC, "b", 0)) == []


@pytest.mark.parametrize("characters", ["\n abc", " abc", "abcde"])
def test_an_empty_prompt_begins_a_line(characters):
    vocabulary = Vocabulary(tuple(characters))
    network = character_network(len(characters))
    text = "".join(continue_text(network, vocabulary, "", 20, seed=0))
    assert text == "".join(continue_text(network, vocabulary, characters[0], 20, seed=0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length": -1}, "^length: expected an integer of at least 0, got -1"),
        ({"temperature": -0.5}, "^temperature: expected a finite number of at least 0, got -0.5"),
        ({"temperature": math.nan}, "got nan"),
        ({"temperature": math.inf}, "got inf"),
        ({"prompt": "?"}, r"^prompt: .* got '\?'"),
    ],
)
def test_continue_text_refuses_at_once(options, message):
    arguments = {"prompt": "a", "length": 1} | options
    with pytest.raises(ValueError, match=message):
        continue_text(character_network(5), ABC, **arguments)


def test_continue_text_with_a_broken_model():
    network = character_network(5)
    network.parameters["readout.bias"][2] = np.nan
    with pytest.raises(ValueError, match="expected finite logits"):
        next(continue_text(network, ABC, "a", 1))

"""Training runs and character models in files: what :mod:`bptt.files` stores, plus vocabulary and run state.

The extra metadata are ``vocabulary``, the list of characters, and ``training``, the run's settings, limit,
counters, random generator and optimiser options; the extra tensors are the carried hidden state and the
optimiser's moments.  Everything read is checked before it is used; a file is data, nothing in it is run.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from bptt import checks
from bptt.arrays import Array
from bptt.files import ModelFileError, load_model, save_model
from bptt.network import Network
from bptt.optim import SGD, Adam
from bptt.text import Streams, Vocabulary
from bptt.training import OPTIMIZERS, Counters, Limit, Run, Settings, digest, prepare

HIDDEN = "training.hidden"
MOMENTS = "optimizer."


def save_run(path: str | Path, run: Run) -> None:
    """Write a run to a model file, whole or not at all.

    Parameters
    ----------
    path : str or Path
        Replaced in one step if it exists.
    run : Run

    Raises
    ------
    OSError
        If it can't be written; an old file is left as it was.
    """
    tensors: dict[str, Array] = {HIDDEN: run.hidden}
    options: dict[str, Any] = {}
    for name, value in run.optimizer.state_dict().items():
        if isinstance(value, np.ndarray):
            tensors[MOMENTS + name] = value
        else:
            options[name] = value
    state = asdict(run.counters) | {
        "settings": asdict(run.settings),
        "limit": {name: value for name, value in asdict(run.limit).items() if value is not None},
        "text": {"sha256": run.text_digest, "characters": run.text_length},
        "rng": run.rng.bit_generator.state,
        "optimizer": options,
    }
    metadata = {"vocabulary": list(run.vocabulary.characters), "training": state}
    save_model(path, run.network, extra_tensors=tensors, extra_metadata=metadata)


def load_character_model(path: str | Path, *, backend: str = "kernels") -> tuple[Network, Vocabulary]:
    """Read a network and its vocabulary.

    Parameters
    ----------
    path : str or Path
        A file that :func:`save_run` wrote.
    backend : str
        "kernels" or "reference".

    Returns
    -------
    network : Network
    vocabulary : Vocabulary

    Raises
    ------
    ModelFileError
        If it is no such file.
    OSError
        If it can't be read.
    """
    network, vocabulary, _, _ = _load(path, backend)
    return network, vocabulary


def load_run(path: str | Path, text: str, *, backend: str = "kernels") -> Run:
    """Read a run, to go on with it on its text.

    Parameters
    ----------
    path : str or Path
        A file that :func:`save_run` wrote.
    text : str
        The text that the run was begun on.
    backend : str
        "kernels" or "reference".

    Returns
    -------
    Run

    Raises
    ------
    ModelFileError
        If it is no such file, or belongs to another text.
    OSError
        If it can't be read.
    """
    network, vocabulary, tensors, metadata = _load(path, backend)
    if "training" not in metadata:
        raise ModelFileError(f"{path}: expected the state of a training run, got a model without one")
    try:
        return _run(network, vocabulary, tensors, metadata["training"], text)
    except (ValueError, TypeError) as error:
        raise ModelFileError(f"{path}: {error}") from error


def _load(path: str | Path, backend: str) -> tuple[Network, Vocabulary, dict[str, Array], dict[str, Any]]:
    """Read a model file as far as every character model has it."""
    network, tensors, metadata = load_model(path, backend=backend)
    if "vocabulary" not in metadata:
        raise ModelFileError(f"{path}: expected a character model, got a network without a vocabulary")
    try:
        characters = metadata["vocabulary"]
        if not isinstance(characters, list):
            raise TypeError(f"vocabulary: expected a list, got {_short(characters)}")
        vocabulary = Vocabulary(tuple(characters))
        _predicts(network, len(vocabulary))
    except (ValueError, TypeError) as error:
        raise ModelFileError(f"{path}: {error}") from error
    return network, vocabulary, tensors, metadata


def _predicts(network: Network, characters: int) -> None:
    """Make sure that a network predicts the next of so many characters."""
    sizes = network.rnn.input_size, network.readout.out_features
    if sizes != (characters, characters):
        raise ValueError(
            f"vocabulary: expected as many characters as inputs and outputs, {sizes[0]} and {sizes[1]}, "
            f"got {characters}"
        )
    objective = network.objective
    kind = (
        objective.loss,
        objective.reduction,
        dict(objective.options).get("ignore_index"),
        network.many_to_one,
    )
    if kind != ("softmax_cross_entropy", "mean", None, False) or network.rnn.batch_first:
        raise ValueError(f"expected a network that predicts the next character, got {_short(network)}")


def _run(
    network: Network, vocabulary: Vocabulary, tensors: Mapping[str, Array], state: Any, text: str
) -> Run:
    """Put a run together from the parts of its file; ValueError or TypeError if they don't fit."""
    names = [field.name for field in fields(Counters)]
    _keys("training", state, [*names, "settings", "limit", "text", "rng", "optimizer"])
    settings = _settings(state["settings"], network)
    limit = _limit(state["limit"])

    _keys("text", state["text"], ["sha256", "characters"])
    if state["text"] != {"sha256": digest(text), "characters": len(text)}:
        length = checks.integer("characters", state["text"]["characters"])
        raise ValueError(
            f"expected the text that this run was trained on ({length:,} characters), got another "
            f"({len(text):,} characters)"
        )
    streams, validation = prepare(settings, text, vocabulary)
    counters = _counters({name: state[name] for name in names}, streams)

    hidden = tensors.get(HIDDEN)
    expected = (1, settings.batch, settings.hidden)
    if hidden is None or hidden.shape != expected or hidden.dtype != np.float32:
        raise ValueError(f"{HIDDEN}: expected a float32 tensor of shape {expected}, got {_kind(hidden)}")
    rng = np.random.default_rng()
    rng.bit_generator.state = _generator_state(state["rng"])
    return Run(
        settings=settings,
        limit=limit,
        vocabulary=vocabulary,
        text_digest=digest(text),
        text_length=len(text),
        network=network,
        optimizer=_optimizer(settings, counters, state["optimizer"], tensors, network),
        hidden=np.array(hidden),
        rng=rng,
        streams=streams,
        validation=validation,
        counters=counters,
    )


def _settings(data: Any, network: Network) -> Settings:
    """Check that settings fit the network."""
    _keys("settings", data, [field.name for field in fields(Settings)])
    for name in ("hidden", "steps_per_chunk", "batch"):
        checks.integer(name, data[name])
    checks.integer("seed", data["seed"], 0)
    checks.choice("optimizer", data["optimizer"], OPTIMIZERS)
    if not _number("lr", data["lr"]) > 0:
        raise ValueError(f"lr: expected more than 0, got {data['lr']}")
    _number("clip", data["clip"])
    for name, value in {"hidden": network.rnn.hidden_size, "cell": network.rnn.nonlinearity}.items():
        if data[name] != value:
            raise ValueError(f"{name}: expected {value} as in the network, got {_short(data[name])}")
    if network.rnn.dtype != np.float32:
        raise ValueError(f"network: expected float32 parameters, got {network.rnn.dtype}")
    return Settings(**data)


def _limit(data: Any) -> Limit:
    if isinstance(data, dict) and list(data) == ["epochs"]:
        return Limit(epochs=_integer("epochs", data["epochs"], 1))
    if isinstance(data, dict) and list(data) == ["seconds"] and _number("seconds", data["seconds"]) > 0:
        return Limit(seconds=float(data["seconds"]))
    raise ValueError(f"limit: expected epochs or seconds, got {_short(data)}")


def _counters(data: dict[str, Any], streams: Streams) -> Counters:
    """Counters that fit the text."""
    for name in ("epoch", "chunk", "offset", "steps", "characters"):
        _integer(name, data[name], 0)
    for name in ("validated_steps", "best_steps"):
        _integer(name, data[name], -1)
    _number("seconds", data["seconds"])
    for name in ("training_bits", "validation_bits", "best_bits"):
        if data[name] is not None:
            _number(name, data[name])
    if not (data["chunk"] < streams.chunks and data["offset"] < len(streams.tokens)):
        raise ValueError("chunk, offset: expected a place in the text, got one behind its end")
    if data["steps"] != data["epoch"] * streams.chunks + data["chunk"]:
        raise ValueError(f"steps: expected those of all epochs and chunks, got {data['steps']}")
    return Counters(**data)


def _generator_state(data: Any) -> dict[str, Any]:
    """State of a PCG64 generator, all parts in range."""
    _keys("rng", data, ["bit_generator", "state", "has_uint32", "uinteger"])
    _keys("rng", data["state"], ["state", "inc"])
    checks.choice("bit_generator", data["bit_generator"], ("PCG64",))
    for name, value, bits in (
        ("state", data["state"]["state"], 128),
        ("inc", data["state"]["inc"], 128),
        ("has_uint32", data["has_uint32"], 1),
        ("uinteger", data["uinteger"], 32),
    ):
        _integer(name, value, 0, 2**bits - 1)
    return dict(data)


def _optimizer(
    settings: Settings, counters: Counters, options: Any, tensors: Mapping[str, Array], network: Network
) -> Adam | SGD:
    """Make the optimiser as it was, if its options and moments fit the network."""
    if not isinstance(options, dict):
        raise TypeError(f"optimizer: expected an object, got {_short(options)}")
    moments = {name.removeprefix(MOMENTS): a for name, a in tensors.items() if name.startswith(MOMENTS)}
    optimizer: Adam | SGD = OPTIMIZERS[settings.optimizer](lr=settings.lr)
    fresh = {name: json.loads(json.dumps(value)) for name, value in optimizer.state_dict().items()}
    steps = {f"step.{name}": counters.steps for name in network.parameters} if counters.steps else {}
    if options != fresh | steps:
        raise ValueError("optimizer: expected the options and step counts of this run, got others")
    for name, moment in moments.items():
        parameter = network.parameters.get(name.partition(".")[2])
        if parameter is None or (moment.shape, moment.dtype) != (parameter.shape, parameter.dtype):
            raise ValueError(f"{MOMENTS}{name}: expected a tensor like its parameter, got {_kind(moment)}")
    optimizer.load_state_dict(options | moments)
    return optimizer


def _keys(name: str, data: Any, expected: list[str]) -> None:
    if not isinstance(data, dict):
        raise TypeError(f"{name}: expected an object, got {_short(data)}")
    if set(data) != set(expected):
        odd = sorted(set(data) ^ set(expected))[0]
        raise ValueError(
            f"{name}: expected the entries {', '.join(expected)}, got {_short(odd)} too few or too many"
        )


def _integer(name: str, value: Any, minimum: int, maximum: int = 2**53) -> int:
    """Check an integer that may also be used as a float."""
    if checks.integer(name, value, minimum) > maximum:
        raise ValueError(f"{name}: expected at most {maximum}, got a larger number")
    return int(value)


def _number(name: str, value: Any) -> float:
    """Check a finite number of at least 0."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name}: expected a number, got {_short(value)}")
    if not (0 <= value < math.inf):
        raise ValueError(f"{name}: expected a finite number of 0 or more, got {_short(value)}")
    return float(value)


def _kind(a: Array | None) -> str:
    return "none" if a is None else f"{a.dtype} of shape {a.shape}"


def _short(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= 40 else f"{text[:37]}..."

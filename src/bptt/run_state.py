"""The state of a training run as tensors and JSON values, and back: everything is checked before it is used.

Settings that older files lack have their defaults.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

import numpy as np

from bptt import checks
from bptt.arrays import Array
from bptt.description import layer_options as described
from bptt.description import short
from bptt.network import Network
from bptt.optim import SGD, Adam
from bptt.recurrent import DEFAULTS
from bptt.settings import CELLS, GATED, OPTIMIZERS, Limit, Settings, layer_options, state_shapes
from bptt.text import Vocabulary
from bptt.training import Counters, Run, digest, prepare

#: Names of the carried h and, of an LSTM, c.
STATE = ("training.hidden", "training.cell")
MOMENTS = "optimizer."
COUNTERS = tuple(field.name for field in fields(Counters))
#: Settings that every file has; the others came later.
FIRST_SETTINGS = ("cell", "hidden", "steps_per_chunk", "batch", "optimizer", "lr", "clip", "seed")


def saved(run: Run) -> tuple[dict[str, Array], dict[str, Any]]:
    """Return the state of a run, its network and vocabulary apart, as tensors and JSON values."""
    tensors: dict[str, Array] = dict(zip(STATE, run.state, strict=False))
    options: dict[str, Any] = {}
    for name, value in run.optimizer.state_dict().items():
        if isinstance(value, np.ndarray):
            tensors[MOMENTS + name] = value
        else:
            options[name] = value
    return tensors, asdict(run.counters) | {
        "settings": asdict(run.settings),
        "limit": {name: value for name, value in asdict(run.limit).items() if value is not None},
        "text": {"sha256": run.text_digest, "characters": run.text_length},
        "rng": run.rng.bit_generator.state,
        "optimizer": options,
    }


def restored(
    network: Network, vocabulary: Vocabulary, tensors: Mapping[str, Array], state: Any, text: str
) -> Run:
    """Put a run together from its network and what `saved` returned.

    Parameters
    ----------
    network : Network
    vocabulary : Vocabulary
    tensors : mapping
    state : object
        Anything.
    text : str
        The text that the run was begun on.

    Raises
    ------
    ValueError, TypeError
        If they don't fit each other.
    """
    state = _entries(state)
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
    counters = _counters(state)
    if not (counters.chunk < streams.chunks and counters.offset < len(streams.tokens)):
        raise ValueError("chunk, offset: expected a place in the text, got one behind its end")
    if counters.steps != counters.epoch * streams.chunks + counters.chunk:
        raise ValueError(f"steps: expected those of all epochs and chunks, got {counters.steps}")
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
        state=_state(settings, tensors),
        rng=rng,
        streams=streams,
        validation=validation,
        counters=counters,
    )


def progress(network: Network, state: Any) -> tuple[Settings, Counters]:
    """Return settings and counters of a run without its text.

    Raises
    ------
    ValueError, TypeError
        If they are none, or don't fit the network.
    """
    state = _entries(state)
    return _settings(state["settings"], network), _counters(state)


def _settings(data: Any, network: Network) -> Settings:
    """Check that settings fit the network."""
    names = [field.name for field in fields(Settings)]
    later = {name: getattr(Settings, name) for name in names if name not in FIRST_SETTINGS}
    if isinstance(data, dict):
        data = later | data
    _keys("settings", data, names)
    for name in ("hidden", "layers", "steps_per_chunk", "batch"):
        checks.integer(name, data[name])
    if data["stride"] is not None and checks.integer("stride", data["stride"]) > data["steps_per_chunk"]:
        raise ValueError(f"stride: expected at most {data['steps_per_chunk']}, got {short(data['stride'])}")
    for name in ("dropout", "recurrent_dropout", "zoneout"):
        _number(name, data[name])
    checks.flag("layer_norm", data["layer_norm"])
    checks.integer("seed", data["seed"], 0)
    checks.choice("cell", data["cell"], CELLS)
    checks.choice("optimizer", data["optimizer"], OPTIMIZERS)
    if not _number("lr", data["lr"]) > 0:
        raise ValueError(f"lr: expected more than 0, got {data['lr']}")
    _number("clip", data["clip"])
    settings = Settings(**data)
    cell = settings.cell if settings.cell in GATED else "rnn"
    expected = DEFAULTS | {"cell": cell} | layer_options(settings)
    for name, value in described(network.rnn).items():
        if name != "input_size" and expected[name] != value:
            raise ValueError(f"{name}: expected {value} as in the network, got {short(expected[name])}")
    if network.rnn.dtype != np.float32:
        raise ValueError(f"network: expected float32 parameters, got {network.rnn.dtype}")
    return settings


def _state(settings: Settings, tensors: Mapping[str, Array]) -> tuple[Array, ...]:
    """Return the carried state, if it is one of these settings."""
    state = []
    for name, shape in zip(STATE, state_shapes(settings), strict=False):
        found = tensors.get(name)
        if found is None or found.shape != shape or found.dtype != np.float32:
            raise ValueError(f"{name}: expected a float32 tensor of shape {shape}, got {_kind(found)}")
        state.append(np.array(found))
    return tuple(state)


def _limit(data: Any) -> Limit:
    if isinstance(data, dict) and list(data) == ["epochs"]:
        return Limit(epochs=_integer("epochs", data["epochs"], 1))
    if isinstance(data, dict) and list(data) == ["seconds"] and _number("seconds", data["seconds"]) > 0:
        return Limit(seconds=float(data["seconds"]))
    raise ValueError(f"limit: expected epochs or seconds, got {short(data)}")


def _entries(state: Any) -> dict[str, Any]:
    """Check that a run's state has the entries that it must have."""
    _keys("training", state, [*COUNTERS, "settings", "limit", "text", "rng", "optimizer"])
    return dict(state)


def _counters(state: Mapping[str, Any]) -> Counters:
    """Counters of a run's state, each of its type; whether they fit the text is not looked at."""
    for name in ("epoch", "chunk", "offset", "steps", "characters"):
        _integer(name, state[name], 0)
    for name in ("validated_steps", "best_steps"):
        _integer(name, state[name], -1)
    _number("seconds", state["seconds"])
    for name in ("training_bits", "validation_bits", "best_bits"):
        if state[name] is not None:
            _number(name, state[name])
    return Counters(**{name: state[name] for name in COUNTERS})


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
        raise TypeError(f"optimizer: expected an object, got {short(options)}")
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
        raise TypeError(f"{name}: expected an object, got {short(data)}")
    if set(data) != set(expected):
        odd = sorted(set(data) ^ set(expected))[0]
        raise ValueError(
            f"{name}: expected the entries {', '.join(expected)}, got {short(odd)} too few or too many"
        )


def _integer(name: str, value: Any, minimum: int, maximum: int = 2**53) -> int:
    """Check an integer that may also be used as a float."""
    if checks.integer(name, value, minimum) > maximum:
        raise ValueError(f"{name}: expected at most {maximum}, got a larger number")
    return int(value)


def _number(name: str, value: Any) -> float:
    """Check a finite number of at least 0."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name}: expected a number, got {short(value)}")
    if not (0 <= value < math.inf):
        raise ValueError(f"{name}: expected a finite number of 0 or more, got {short(value)}")
    return float(value)


def _kind(a: Array | None) -> str:
    return "none" if a is None else f"{a.dtype} of shape {a.shape}"

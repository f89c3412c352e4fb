"""A network described in JSON values, as model files have it, and made again from such a description.

A description is an object with these entries:

    format     "bptt.network"
    version    2
    rnn        cell ("rnn", "lstm" or "gru"), input_size, hidden_size, num_layers, bias, batch_first, dropout,
               bidirectional, recurrent_dropout, zoneout, layer_norm; and what the cell has besides:
               nonlinearity; proj_size, peepholes; reset_after
    readout    out_features, bias
    dtype      "float32" or "float64"
    loss       loss, loss_options, reduction, many_to_one
    extra      whatever JSON the caller keeps there

Version 1 knew one Elman layer: ``rnn`` has input_size, hidden_size, nonlinearity, bias and batch_first there.
A description says what a network is, not how it began: seed and init of its layers are not in it.  It may be
anybody's, so everything in it is checked before it is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy.typing as npt

from bptt.gru import GRU
from bptt.layers import RNN, Layer
from bptt.lstm import LSTM
from bptt.network import Network
from bptt.readout import Linear
from bptt.recurrent import DEFAULTS
from bptt.structure import GATES, Structure

FORMAT = "bptt.network"
VERSION = 2
#: Layers by the names of their cells.
LAYERS: dict[str, type[Layer[Any, Any]]] = {"rnn": RNN, "lstm": LSTM, "gru": GRU}

#: Options of every layer that say what it is, and those of one cell.
COMMON = (
    "input_size",
    "hidden_size",
    "num_layers",
    "bias",
    "batch_first",
    "dropout",
    "bidirectional",
    "recurrent_dropout",
    "zoneout",
    "layer_norm",
)
OWN = {"rnn": ("nonlinearity",), "lstm": ("proj_size", "peepholes"), "gru": ("reset_after",)}
#: Those of version 1.
FIRST = ("input_size", "hidden_size", "nonlinearity", "bias", "batch_first")

#: Entries of a description, and of its sections beside rnn.
ENTRIES = ("format", "version", "rnn", "readout", "dtype", "loss", "extra")
SECTIONS = {
    "readout": ("out_features", "bias"),
    "loss": ("loss", "loss_options", "reduction", "many_to_one"),
}
#: Options that shapes follow from: counts of at least 1, of at least 0, flags.
COUNTS = ("input_size", "hidden_size", "num_layers")
SIZES = ("proj_size",)
FLAGS = ("bias", "bidirectional", "layer_norm", "peepholes")


class ModelFileError(ValueError):
    """A file that is not a model file of this package, or a damaged one; the message is one sentence."""


def cell_of(rnn: Layer[Any, Any]) -> str:
    """Return "rnn", "lstm" or "gru"."""
    return next(cell for cell, layer in LAYERS.items() if isinstance(rnn, layer))


def layer_options(rnn: Layer[Any, Any]) -> dict[str, Any]:
    """Return cell and options of a layer, as a description has them."""
    cell = cell_of(rnn)
    return {"cell": cell} | {name: getattr(rnn, name) for name in (*COMMON, *OWN[cell])}


def describe(network: Network) -> dict[str, Any]:
    """Describe a network in JSON values; without extra."""
    readout, objective = network.readout, network.objective
    return {
        "format": FORMAT,
        "version": VERSION,
        "rnn": layer_options(network.rnn),
        "readout": {key: getattr(readout, key) for key in SECTIONS["readout"]},
        "dtype": network.rnn.dtype.name,
        "loss": {
            "loss": objective.loss,
            "loss_options": dict(objective.options),
            "reduction": objective.reduction,
            "many_to_one": network.many_to_one,
        },
    }


def checked(description: Any) -> dict[str, Any]:
    """Check as much of a description as the shapes of the parameters follow from.

    Parameters
    ----------
    description : object
        Anything.

    Returns
    -------
    dict
        In the form of the present version.

    Raises
    ------
    ModelFileError
        If it is no description, or one of a newer version.
    """
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise ModelFileError(f"expected a configuration of the format {FORMAT}, got another one")
    version: Any = description.get("version")
    if not _is_integer(version, 1):
        raise ModelFileError(f"version: expected an integer of at least 1, got {short(version)}")
    if version > VERSION:
        raise ModelFileError(
            f"version: expected {VERSION}, got {version}, which takes a newer version of bptt to read"
        )
    _check_entries("configuration", description, ENTRIES)
    rnn = _checked_layer(description["rnn"], version)
    for section, keys in SECTIONS.items():
        _check_entries(section, description[section], keys)
    readout = description["readout"]
    if not _is_integer(readout["out_features"], 1):
        value = short(readout["out_features"])
        raise ModelFileError(f"readout.out_features: expected an integer of at least 1, got {value}")
    _check_flag("readout.bias", readout["bias"])
    if description["dtype"] not in ("float32", "float64"):
        raise ModelFileError(f"dtype: expected float32 or float64, got {short(description['dtype'])}")
    if not isinstance(description["extra"], dict):
        raise ModelFileError(f"extra: expected an object, got {short(description['extra'])}")
    return description | {"version": VERSION, "rnn": rnn}


def _checked_layer(rnn: Any, version: int) -> dict[str, Any]:
    """Check the section rnn and return it as the present version has it."""
    if version == 1:
        _check_entries("rnn", rnn, FIRST)
        rnn = {"cell": "rnn"} | {name: DEFAULTS.get(name) for name in COMMON} | rnn
    cell = rnn.get("cell") if isinstance(rnn, dict) else None
    if isinstance(rnn, dict) and not (isinstance(cell, str) and cell in LAYERS):
        raise ModelFileError(f"rnn.cell: expected {', '.join(LAYERS)}, got {short(cell)}")
    _check_entries("rnn", rnn, ("cell", *COMMON, *OWN.get(cell or "", ())))
    for names, least in ((COUNTS, 1), (SIZES, 0)):
        for name in names:
            if name in rnn and not _is_integer(rnn[name], least):
                raise ModelFileError(
                    f"rnn.{name}: expected an integer of at least {least}, got {short(rnn[name])}"
                )
    for name in FLAGS:
        if name in rnn:
            _check_flag(f"rnn.{name}", rnn[name])
    return dict(rnn)


def parameter_shapes(description: Mapping[str, Any], tensors: int) -> dict[str, tuple[int, ...]]:
    """Return the shape of every parameter.

    Parameters
    ----------
    description : mapping
        Checked.
    tensors : int
        How many tensors there are: the limit of what is computed on the description's word.

    Raises
    ------
    ModelFileError
        If there are fewer tensors than layers.
    """
    rnn, readout = description["rnn"], description["readout"]
    if rnn["num_layers"] > tensors:
        raise ModelFileError(
            f"rnn.num_layers: expected at most as many layers as there are tensors, {tensors}, "
            f"got {short(rnn['num_layers'])}"
        )
    structure = Structure(
        cell=rnn["cell"],
        gates=GATES[rnn["cell"]],
        input_size=rnn["input_size"],
        hidden_size=rnn["hidden_size"],
        num_layers=rnn["num_layers"],
        directions=2 if rnn["bidirectional"] else 1,
        proj_size=rnn.get("proj_size", 0),
        bias=rnn["bias"],
        peepholes=rnn.get("peepholes", False),
        layer_norm=rnn["layer_norm"],
    )
    shapes = {f"rnn.{name}": shape for name, (shape, _) in structure.parameter_shapes().items()}
    shapes["readout.weight"] = (readout["out_features"], structure.output_size)
    if readout["bias"]:
        shapes["readout.bias"] = (readout["out_features"],)
    return shapes


def build(description: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]], backend: str) -> Network:
    """Make the network; its own checks look at the options that do not bear on shapes.

    Parameters
    ----------
    description : mapping
        Checked.
    arrays : mapping
        Its parameters, of the shapes that follow, and others.
    backend : {"kernels", "reference"}
        What shall compute it.

    Raises
    ------
    ModelFileError
        If an option is not one that the layer, the readout or the loss has.
    """
    dtype, options = description["dtype"], dict(description["rnn"])
    layer: Any = LAYERS[options.pop("cell")]
    if isinstance(options["zoneout"], list):  # a pair, in JSON
        options["zoneout"] = tuple(options["zoneout"])
    try:
        rnn = layer(**options, dtype=dtype, backend=backend)
        readout = Linear(rnn.output_size, **description["readout"], dtype=dtype, backend=backend)
        network = Network(rnn, readout, **description["loss"])
        rnn.load_state_dict(_part(arrays, "rnn."))
        readout.load_state_dict(_part(arrays, "readout."))
    except (ValueError, TypeError) as error:
        raise ModelFileError(str(error)) from None
    return network


def _part(arrays: Mapping[str, npt.NDArray[Any]], prefix: str) -> dict[str, npt.NDArray[Any]]:
    return {name.removeprefix(prefix): a for name, a in arrays.items() if name.startswith(prefix)}


def _check_entries(name: str, given: Any, keys: tuple[str, ...]) -> None:
    if not isinstance(given, dict):
        raise ModelFileError(f"{name}: expected an object, got {short(given)}")
    wrong = [f"no {key}" for key in keys if key not in given]
    wrong += [f"an unknown {short(key)}" for key in given if key not in keys]
    if wrong:
        raise ModelFileError(f"{name}: expected the entries {', '.join(keys)}, got {wrong[0]}")


def _check_flag(name: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise ModelFileError(f"{name}: expected true or false, got {short(value)}")


def _is_integer(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def short(value: Any) -> str:
    """Show a value from a file in a message: briefly, in one line, whatever it is."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list | tuple) and not (len(value) < 8 and all(isinstance(v, int) for v in value)):
        return "a list"
    text = ascii(list(value) if isinstance(value, tuple) else value)
    return text if len(text) <= 60 else f"{text[:57]}..."

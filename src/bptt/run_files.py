"""Training runs and character models in files: what :mod:`bptt.files` stores, plus vocabulary and run state.

The extra metadata are ``vocabulary``, the list of characters, and ``training``, the run's settings, limit,
counters, random generator and optimiser options; the extra tensors are the layer's carried state and the
optimiser's moments.  A file is data, nothing in it is run.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bptt.arrays import Array
from bptt.description import layer_options, short
from bptt.files import ModelFileError, load_model, save_model
from bptt.network import Network
from bptt.run_state import progress, restored, saved
from bptt.text import Vocabulary
from bptt.training import Run


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
    tensors, state = saved(run)
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
        return restored(network, vocabulary, tensors, metadata["training"], text)
    except (ValueError, TypeError) as error:
        raise ModelFileError(f"{path}: {error}") from error


def model_info(path: str | Path) -> dict[str, Any]:
    """Tell what a model file holds.

    Parameters
    ----------
    path : str or Path
        Of a character model or of any other network.

    Returns
    -------
    dict
        By name: what the network is; of a training run also its settings and how far it has got.

    Raises
    ------
    ModelFileError
        If it is no model file, or holds a training run that is not one.
    OSError
        If it can't be read.
    """
    network, _, metadata = load_model(path, backend="reference")
    told = {"model": path} | layer_options(network.rnn)
    told |= {
        "outputs": network.readout.out_features,
        "dtype": network.rnn.dtype,
        "loss": network.objective.loss,
        "many_to_one": network.many_to_one,
        "parameters": sum(value.size for value in network.parameters.values()),
    }
    if not {"vocabulary", "training"} <= metadata.keys():
        return told
    _vocabulary(path, network, metadata)
    try:
        settings, counters = progress(network, metadata["training"])
    except (ValueError, TypeError) as error:
        raise ModelFileError(f"{path}: {error}") from error
    return told | {
        "steps_per_chunk": settings.steps_per_chunk,
        "stride": settings.steps_per_update,
        **{name: getattr(settings, name) for name in ("batch", "optimizer", "lr", "clip", "seed")},
        "epochs": counters.epoch,
        "steps": counters.steps,
        "characters": counters.characters,
        "seconds": counters.seconds,
        "training_bits_per_character": counters.training_bits,
        "best_validation_bits_per_character": counters.best_bits,
        "validation_bits_per_character": counters.validation_bits,
    }


def _load(path: str | Path, backend: str) -> tuple[Network, Vocabulary, dict[str, Array], dict[str, Any]]:
    """Read a model file as far as every character model has it."""
    network, tensors, metadata = load_model(path, backend=backend)
    return network, _vocabulary(path, network, metadata), tensors, metadata


def _vocabulary(path: str | Path, network: Network, metadata: Mapping[str, Any]) -> Vocabulary:
    """Return the characters that a network predicts."""
    if "vocabulary" not in metadata:
        raise ModelFileError(f"{path}: expected a character model, got a network without a vocabulary")
    try:
        characters = metadata["vocabulary"]
        if not isinstance(characters, list):
            raise TypeError(f"vocabulary: expected a list, got {short(characters)}")
        vocabulary = Vocabulary(tuple(characters))
        _predicts(network, len(vocabulary))
    except (ValueError, TypeError) as error:
        raise ModelFileError(f"{path}: {error}") from error
    return vocabulary


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
        raise ValueError(f"expected a network that predicts the next character, got {short(network)}")
    if network.rnn.bidirectional:
        raise ValueError(
            "expected a network that predicts the next character, got one with bidirectional=True, "
            "which sees the characters after it"
        )

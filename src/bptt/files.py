"""Model files: safetensors with the configuration in the metadata, written whole or not at all.

The tensors are the network's parameters under the names of ``Network.parameters`` and, with the prefix
"extra.", what else the caller keeps there (optimiser moments, say).  The metadata have one entry, "bptt", a
JSON object:

    format     "bptt.network"
    version    1
    rnn        input_size, hidden_size, nonlinearity, bias, batch_first
    readout    out_features, bias
    dtype      "float32" or "float64"
    loss       loss, loss_options, reduction, many_to_one
    extra      whatever JSON the caller keeps there

One entry, because safetensors writes several in no fixed order: the same network gives the same bytes.  The
file says what the network is, not how it began: seed and init of its layers are not in it.  A file is data;
nothing in it is run, and nothing is allocated on its word before it is found to hold as much.

Needs the safetensors package, an extra (``pip install 'bptt[cli]'``), imported when first used.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import stat
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from bptt import checks
from bptt.layers import RNN
from bptt.network import Network
from bptt.readout import Linear

FORMAT = "bptt.network"
VERSION = 1
#: Largest header that safetensors itself accepts, in bytes.
MAX_HEADER = 100_000_000
EXTRA = "extra."

#: NumPy dtypes by their names in a safetensors header.
DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U64": np.uint64,
    "U32": np.uint32,
    "U16": np.uint16,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
#: Entries of the configuration, and of its sections.
ENTRIES = ("format", "version", "rnn", "readout", "dtype", "loss", "extra")
SECTIONS = {
    "rnn": ("input_size", "hidden_size", "nonlinearity", "bias", "batch_first"),
    "readout": ("out_features", "bias"),
    "loss": ("loss", "loss_options", "reduction", "many_to_one"),
}


class ModelFileError(ValueError):
    """A file that is not a model file of this package, or a damaged one; the message is one sentence."""


class LoadedModel(NamedTuple):
    """What a model file held."""

    network: Network
    tensors: dict[str, npt.NDArray[Any]]  #: the ``extra_tensors`` it was saved with
    metadata: dict[str, Any]  #: the ``extra_metadata`` it was saved with


# ---------------------------------------------------------------------------------------------- saving


def save_model(
    path: str | os.PathLike[str],
    network: Network,
    *,
    extra_tensors: Mapping[str, Any] | None = None,
    extra_metadata: Mapping[str, Any] | None = None,
) -> None:
    """Write a network to a file, whole or not at all.

    The file is written beside its place, flushed to the disk and renamed, so that whatever happens there is
    either the old file or the new one.  An existing file keeps its permissions; a symbolic link stays one.

    Parameters
    ----------
    path : str or path
        Where to.
    network : Network
        What.
    extra_tensors : mapping of str to ndarray, optional
        Arrays to keep with it: bool, integers, float16, float32 or float64.
    extra_metadata : mapping, optional
        JSON values to keep with it, without NaN and infinity.

    Raises
    ------
    OSError
        If the file cannot be written.
    ValueError, TypeError
        For extras that cannot be stored.
    ImportError
        Without the safetensors package.
    """
    save, _, _ = _safetensors()
    tensors = {name: _storable(name, array) for name, array in network.parameters.items()}
    for name, array in (extra_tensors or {}).items():
        tensors[EXTRA + name] = _storable(f"extra_tensors[{name!r}]", array)
    configuration = _configuration(network)
    configuration["extra"] = dict(extra_metadata or {})
    try:
        text = json.dumps(configuration, sort_keys=True, allow_nan=False)
    except (ValueError, TypeError) as error:
        kind = ValueError if isinstance(error, ValueError) else TypeError
        raise kind(f"extra_metadata: expected JSON values, got another: {error}") from None
    write_atomically(path, save(tensors, metadata={"bptt": text}))


def write_atomically(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file so that at any moment there is the old one or the new one, whole.

    Parameters
    ----------
    path : str or path
        Where to.  A directory is refused, a symbolic link followed.
    content : bytes
        What.

    Raises
    ------
    OSError
        If it cannot be written; the old file is as it was then, and nothing is left beside it.
    """
    shown = os.fspath(path)
    target = os.path.realpath(path)
    folder = os.path.dirname(target)
    try:
        mode = stat.S_IMODE(os.stat(target).st_mode)
    except FileNotFoundError:
        mode = None
    if os.path.isdir(target):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), shown)
    if mode is not None and not os.access(target, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), shown)
    temporary = os.path.join(folder, f".bptt-{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "xb") as file:
            if mode is not None:
                os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException as error:
        with suppress(FileNotFoundError):  # never made, or renamed already when a signal came
            os.unlink(temporary)
        if isinstance(error, OSError) and error.errno is not None:
            raise OSError(error.errno, error.strerror, shown) from error  # a name that the user knows
        raise
    # The rename is on the disk only when the folder is.
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _storable(name: str, array: Any) -> npt.NDArray[Any]:
    """Return an array that safetensors can take: C-contiguous, native byte order, a dtype it knows."""
    a = np.asarray(array)
    if a.dtype.newbyteorder("=") not in {np.dtype(dtype) for dtype in DTYPES.values()}:
        raise TypeError(f"{name}: expected bool, integers, float16, float32 or float64, got {a.dtype}")
    return np.asarray(a, dtype=a.dtype.newbyteorder("="), order="C")


def _configuration(network: Network) -> dict[str, Any]:
    """Describe a network in JSON values."""
    rnn, readout, objective = network.rnn, network.readout, network.objective
    return {
        "format": FORMAT,
        "version": VERSION,
        "rnn": {key: getattr(rnn, key) for key in SECTIONS["rnn"]},
        "readout": {key: getattr(readout, key) for key in SECTIONS["readout"]},
        "dtype": rnn.dtype.name,
        "loss": {
            "loss": objective.loss,
            "loss_options": dict(objective.options),
            "reduction": objective.reduction,
            "many_to_one": network.many_to_one,
        },
    }


# --------------------------------------------------------------------------------------------- loading


def load_model(path: str | os.PathLike[str], *, backend: str = "kernels") -> LoadedModel:
    """Read a network from a file that ``save_model`` wrote.

    Parameters
    ----------
    path : str or path
        The file.
    backend : {"kernels", "reference"}
        What shall compute the network; a file does not say.

    Returns
    -------
    LoadedModel
        (network, tensors, metadata).

    Raises
    ------
    ModelFileError
        If the file is truncated, damaged, of another program or of a newer version.
    OSError
        If it cannot be opened or read: FileNotFoundError, PermissionError, IsADirectoryError.
    ImportError
        Without the safetensors package.
    """
    _, load, damaged = _safetensors()
    shown = os.fspath(path)
    checks.choice("backend", backend, checks.BACKENDS)
    try:
        with _opened(path) as file:
            header, raw = _read_header(file)
            configuration = _configuration_of(header)
            _check_tensors(header, _shapes(configuration), configuration["dtype"])
            content = raw + file.read()
        try:
            arrays = load(content)
        except damaged as error:
            raise ModelFileError(f"expected a whole safetensors file, got a damaged one: {error}") from None
        network = _build(configuration, arrays, backend)
    except ModelFileError as error:
        raise ModelFileError(f"{shown}: {_sentence(str(error))}") from None
    extras = {name.removeprefix(EXTRA): a for name, a in arrays.items() if name.startswith(EXTRA)}
    return LoadedModel(network, extras, configuration["extra"])


def _opened(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a regular file; a pipe could block for ever, and a device have no end."""
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise ModelFileError("expected a regular file, got a device or a pipe")
    return open(path, "rb")  # IsADirectoryError for a directory


def _read_header(file: BinaryIO) -> tuple[dict[str, Any], bytes]:
    """Read and parse the header, and return it with the bytes read."""
    size = os.fstat(file.fileno()).st_size
    prefix = file.read(8)
    length = int.from_bytes(prefix, "little")
    # An empty file, too, has a header longer than itself.
    if len(prefix) < 8 or length > min(size - 8, MAX_HEADER):
        raise ModelFileError("expected a safetensors file, got another or a truncated one")
    raw = file.read(length)
    header = _json(raw, "header")
    if not isinstance(header, dict):
        raise ModelFileError(f"expected a safetensors header, got {_short(header)}")
    return header, prefix + raw


def _json(raw: str | bytes, what: str) -> Any:
    """Parse JSON that anybody may have written."""

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON value")

    try:
        return json.loads(raw, parse_constant=refuse)
    except (ValueError, RecursionError) as error:  # undecodable bytes are a ValueError
        raise ModelFileError(f"expected JSON in the {what}, got something else: {error}") from None


def _configuration_of(header: dict[str, Any]) -> dict[str, Any]:
    """Find the configuration, and check as much of it as the shapes of the tensors follow from."""
    metadata = header.get("__metadata__")
    text = metadata.get("bptt") if isinstance(metadata, dict) else None
    if not isinstance(text, str):
        raise ModelFileError("expected a model of bptt, got a safetensors file of another program")
    configuration = _json(text, "configuration")
    if not isinstance(configuration, dict) or configuration.get("format") != FORMAT:
        raise ModelFileError(f"expected a configuration of the format {FORMAT}, got another one")
    version: Any = configuration.get("version")
    if not _is_count(version):
        raise ModelFileError(f"version: expected an integer of at least 1, got {_short(version)}")
    if version > VERSION:
        raise ModelFileError(
            f"version: expected {VERSION}, got {version}, which takes a newer version of bptt to read"
        )
    _check_entries("configuration", configuration, ENTRIES)
    for section, keys in SECTIONS.items():
        _check_entries(section, configuration[section], keys)
    for section, key in (("rnn", "input_size"), ("rnn", "hidden_size"), ("readout", "out_features")):
        if not _is_count(configuration[section][key]):
            value = _short(configuration[section][key])
            raise ModelFileError(f"{section}.{key}: expected an integer of at least 1, got {value}")
    for section in ("rnn", "readout"):
        if not isinstance(configuration[section]["bias"], bool):
            value = _short(configuration[section]["bias"])
            raise ModelFileError(f"{section}.bias: expected true or false, got {value}")
    if configuration["dtype"] not in ("float32", "float64"):
        raise ModelFileError(f"dtype: expected float32 or float64, got {_short(configuration['dtype'])}")
    if not isinstance(configuration["extra"], dict):
        raise ModelFileError(f"extra: expected an object, got {_short(configuration['extra'])}")
    return configuration


def _check_entries(name: str, given: Any, keys: tuple[str, ...]) -> None:
    if not isinstance(given, dict):
        raise ModelFileError(f"{name}: expected an object, got {_short(given)}")
    wrong = [f"no {key}" for key in keys if key not in given]
    wrong += [f"an unknown {_short(key)}" for key in given if key not in keys]
    if wrong:
        raise ModelFileError(f"{name}: expected the entries {', '.join(keys)}, got {wrong[0]}")


def _shapes(configuration: dict[str, Any]) -> dict[str, list[int]]:
    """Return the shape of every parameter."""
    rnn, readout = configuration["rnn"], configuration["readout"]
    I, H, O = rnn["input_size"], rnn["hidden_size"], readout["out_features"]
    shapes = {"rnn.weight_ih_l0": [H, I], "rnn.weight_hh_l0": [H, H], "readout.weight": [O, H]}
    if rnn["bias"]:
        shapes |= {"rnn.bias_ih_l0": [H], "rnn.bias_hh_l0": [H]}
    if readout["bias"]:
        shapes |= {"readout.bias": [O]}
    return shapes


def _check_tensors(header: dict[str, Any], shapes: dict[str, list[int]], dtype: str) -> None:
    """Check the tensors that a header announces; safetensors checks that they are all there."""
    found = {name: entry for name, entry in header.items() if name != "__metadata__"}
    for name, entry in found.items():
        if not isinstance(entry, dict):
            raise ModelFileError(f"{_short(name)}: expected a tensor, got {_short(entry)}")
        code = entry.get("dtype")
        if not isinstance(code, str) or code not in DTYPES:
            raise ModelFileError(f"{_short(name)}: expected a dtype NumPy has, got {_short(code)}")
        if name not in shapes and not name.startswith(EXTRA):
            raise ModelFileError(f"{_short(name)}: expected no such tensor, got one")
    for name, shape in shapes.items():
        if name not in found:
            raise ModelFileError(f"{name}: expected a tensor, got none")
        if found[name].get("shape") != shape:
            got = _short(found[name].get("shape"))
            raise ModelFileError(f"{name}: expected shape {_short(shape)}, got {got}")
        code = found[name]["dtype"]
        if DTYPES[code] != np.dtype(dtype):
            raise ModelFileError(f"{name}: expected {dtype}, got {np.dtype(DTYPES[code])}")


def _build(configuration: dict[str, Any], arrays: Mapping[str, npt.NDArray[Any]], backend: str) -> Network:
    """Make the network; its own checks look at the options that do not bear on shapes."""
    options, dtype = configuration["rnn"], configuration["dtype"]
    H, readout_options = options["hidden_size"], configuration["readout"]
    try:
        rnn = RNN(**options, dtype=dtype, backend=backend)
        readout = Linear(H, **readout_options, dtype=dtype, backend=backend)
        network = Network(rnn, readout, **configuration["loss"])
        rnn.load_state_dict(_part(arrays, "rnn."))
        readout.load_state_dict(_part(arrays, "readout."))
    except (ValueError, TypeError) as error:
        raise ModelFileError(str(error)) from None
    return network


def _part(arrays: Mapping[str, npt.NDArray[Any]], prefix: str) -> dict[str, npt.NDArray[Any]]:
    return {name.removeprefix(prefix): a for name, a in arrays.items() if name.startswith(prefix)}


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _short(value: Any) -> str:
    """Show a value from a file in a message: briefly, in one line, whatever it is."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list) and not (len(value) < 8 and all(isinstance(v, int) for v in value)):
        return "a list"
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _sentence(message: str) -> str:
    """Make of a message that may quote a file one line of printable characters, not too long."""
    line = "".join(c if c.isprintable() else " " for c in message)
    return line if len(line) <= 300 else f"{line[:297]}..."


def _safetensors() -> tuple[
    Callable[..., bytes], Callable[[bytes], dict[str, npt.NDArray[Any]]], type[Exception]
]:
    """Return safetensors' save and load, and what load raises for a damaged file."""
    try:
        from safetensors import SafetensorError
        from safetensors.numpy import load, save
    except ImportError:
        raise ImportError(
            "safetensors: expected the package for model files, got none; pip install 'bptt[cli]'"
        ) from None
    return save, load, SafetensorError

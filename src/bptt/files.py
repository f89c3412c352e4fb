"""Model files: safetensors with a description of the network in the metadata, written whole or not at all.

The tensors are the network's parameters under the names of ``Network.parameters`` and, with the prefix
"extra.", what else the caller keeps there (optimiser moments, say).  The metadata have one entry, "bptt", a
JSON object: see :mod:`bptt.description`.  One entry, because safetensors writes several in no fixed order:
the same network gives the same bytes.  A file is data; nothing in it is run, and nothing is allocated on its
word before it is found to hold as much.

Needs the safetensors package, an extra (``pip install 'bptt[cli]'``), imported when first used.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from bptt import checks
from bptt.atomic import write_atomically
from bptt.description import ModelFileError, build, checked, describe, parameter_shapes, short
from bptt.network import Network

__all__ = ["LoadedModel", "ModelFileError", "load_model", "save_model"]

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
        For parameters that a call would refuse, or extras that cannot be stored.
    ImportError
        Without the safetensors package.
    """
    save, _, _ = _safetensors()
    # as a call reads them: a file with others could not be loaded, and would stand in a good one's place
    tensors = {f"rnn.{name}": array for name, array in network.rnn._read().items()}
    tensors |= {f"readout.{name}": array for name, array in network.readout._read().items()}
    for name, array in (extra_tensors or {}).items():
        tensors[EXTRA + name] = _storable(f"extra_tensors[{name!r}]", array)
    configuration = describe(network) | {"extra": dict(extra_metadata or {})}
    try:
        text = json.dumps(configuration, sort_keys=True, allow_nan=False)
    except (ValueError, TypeError) as error:
        kind = ValueError if isinstance(error, ValueError) else TypeError
        raise kind(f"extra_metadata: expected JSON values, got another: {error}") from None
    write_atomically(path, save(tensors, metadata={"bptt": text}))


def _storable(name: str, array: Any) -> npt.NDArray[Any]:
    """Return an array that safetensors can take: C-contiguous, native byte order, a dtype it knows."""
    a = np.asarray(array)
    if a.dtype.newbyteorder("=") not in {np.dtype(dtype) for dtype in DTYPES.values()}:
        raise TypeError(f"{name}: expected bool, integers, float16, float32 or float64, got {a.dtype}")
    return np.asarray(a, dtype=a.dtype.newbyteorder("="), order="C")


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
            found = {name: entry for name, entry in header.items() if name != "__metadata__"}
            _check_tensors(found, parameter_shapes(configuration, len(found)), configuration["dtype"])
            content = raw + file.read()
        try:
            arrays = load(content)
        except damaged as error:
            raise ModelFileError(f"expected a whole safetensors file, got a damaged one: {error}") from None
        network = build(configuration, arrays, backend)
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
        raise ModelFileError(f"expected a safetensors header, got {short(header)}")
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
    """Find the configuration, and check it as far as that goes without tensors."""
    metadata = header.get("__metadata__")
    text = metadata.get("bptt") if isinstance(metadata, dict) else None
    if not isinstance(text, str):
        raise ModelFileError("expected a model of bptt, got a safetensors file of another program")
    return checked(_json(text, "configuration"))


def _check_tensors(found: dict[str, Any], shapes: dict[str, tuple[int, ...]], dtype: str) -> None:
    """Check the tensors that a header announces; safetensors checks that they are all there."""
    for name, entry in found.items():
        if not isinstance(entry, dict):
            raise ModelFileError(f"{short(name)}: expected a tensor, got {short(entry)}")
        code = entry.get("dtype")
        if not isinstance(code, str) or code not in DTYPES:
            raise ModelFileError(f"{short(name)}: expected a dtype NumPy has, got {short(code)}")
        if name not in shapes and not name.startswith(EXTRA):
            raise ModelFileError(f"{short(name)}: expected no such tensor, got one")
    for name, shape in shapes.items():
        if name not in found:
            raise ModelFileError(f"{name}: expected a tensor, got none")
        if found[name].get("shape") != list(shape):
            got = short(found[name].get("shape"))
            raise ModelFileError(f"{name}: expected shape {short(shape)}, got {got}")
        code = found[name]["dtype"]
        if DTYPES[code] != np.dtype(dtype):
            raise ModelFileError(f"{name}: expected {dtype}, got {np.dtype(DTYPES[code])}")


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

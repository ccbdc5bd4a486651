"""Files of named arrays with a JSON description: safetensors with a digest that is checked before the data is used."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from affectron._internal.files import atomic_write, digest
from affectron.errors import InputError

Arrays = dict[str, NDArray[Any]]

_STORED = {np.int64: "I64", np.float64: "F64", np.float32: "F32", np.uint64: "U64"}
#: Largest header: a fixed number of bytes, and a number for each byte of the arrays.
_HEADER_BYTES, _HEADER_PER_ARRAY_BYTE = 1 << 20, 16


def write_arrays(
    path: str | os.PathLike[str], format: str, version: int, content: Mapping[str, Any], arrays: Arrays
) -> None:
    """Write arrays and their description ``content``, atomically; equal input gives equal files.

    The metadata entry ``affectron`` is JSON: the format, its version, ``content``, and a BLAKE2b digest of the content
    and of every array.

    Raises:
        InputError: the file cannot be written; an older file is left unchanged.
    """
    header = {"format": format, "version": version, "digest": _digest(content, arrays), "content": content}
    # There is a single entry because safetensors writes several in an order that varies between calls.
    data = safetensors.numpy.save(arrays, {"affectron": json.dumps(header)})
    with atomic_write(path) as temporary:
        temporary.write_bytes(data)


def read_arrays(
    path: str | os.PathLike[str],
    format: str,
    version: int,
    expected: Callable[[dict[str, Any], int], Mapping[str, type[np.generic]] | None],
    optional: Mapping[str, type[np.generic]],
) -> tuple[dict[str, Any], Arrays]:
    """Read a file that :func:`write_arrays` wrote.

    Args:
        path: the file.
        format, version: format and version with which it was written.
        expected: function of the content and of the number of bytes of all arrays. It returns the arrays that the
            content describes, name -> type, or None if the content is invalid or describes more than these bytes hold.
        optional: name -> type of arrays that the file may have as well.

    Returns:
        the content and the arrays, bit for bit as they were written.

    Raises:
        InputError: the file is missing, truncated, altered, of another format or of another version.
    """
    try:
        if not Path(path).is_file():
            raise InputError(f"cannot read {path}: {'not a file' if Path(path).exists() else 'no such file'}")
        room = _array_bytes(path)
        with safetensors.safe_open(path, framework="numpy") as file:
            header = _header(path, (file.metadata() or {}).get("affectron"), format, version)
            content = header.get("content")
            if not isinstance(content, dict) or (kinds := expected(content, room)) is None:
                raise InputError(f"{path}: the metadata do not describe the tensors; the file was altered or damaged")
            names = set(file.keys())
            missing = next((name for name in kinds if name not in names), None)
            if missing is not None:
                raise InputError(f"{path}: tensor {missing!r} is missing")
            kinds = {**kinds, **{name: kind for name, kind in optional.items() if name in names}}
            if len(names) > len(kinds):
                raise InputError(f"{path}: tensor {min(names.difference(kinds))!r} is unexpected")
            for name, kind in kinds.items():
                stored = file.get_slice(name).get_dtype()
                if stored != _STORED[kind]:
                    raise InputError(f"{path}: tensor {name!r} is {stored}, expected {_STORED[kind]}")
            arrays = {name: file.get_tensor(name) for name in kinds}
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except safetensors.SafetensorError as error:
        raise InputError(f"{path} is not a whole safetensors file: {error}") from error
    if header.get("digest") != _digest(content, arrays):
        raise InputError(f"{path}: the content does not match its digest; the file was altered or damaged")
    return content, arrays


def _digest(content: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> str:
    # Arrays are digested one at a time, so that no second copy of all data is needed.
    lines = [f"{name} {array.dtype} {array.shape} {digest(array.tobytes())}" for name, array in arrays.items()]
    return digest(json.dumps(content).encode(), *(line.encode() for line in lines))


def _array_bytes(path: str | os.PathLike[str]) -> int:
    """Compute the size of the file's arrays in bytes, from the sizes of the file and of its header.

    A header that is out of proportion to the arrays is refused, since parsing it would take long.
    """
    with Path(path).open("rb") as file:
        header = int.from_bytes(file.read(8), "little")
        room = os.fstat(file.fileno()).st_size - 8 - header
    if room >= 0 and header > _HEADER_BYTES + _HEADER_PER_ARRAY_BYTE * room:
        raise InputError(
            f"{path}: the header has {header:,} bytes and the tensors {room:,}, which are too few for it; the file was "
            "altered or damaged"
        )
    return room


def _header(path: str | os.PathLike[str], text: str | None, format: str, version: int) -> dict[str, Any]:
    """Parse the metadata ``text`` of a file, and check its format and version."""
    try:
        header = json.loads(text or "{}")
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict):
        raise InputError(f"{path}: the metadata are not a JSON object; the file was altered or damaged")
    for key, value in (("format", format), ("version", version)):
        if header.get(key) != value:
            raise InputError(f"{path}: {key} is {header.get(key)!r}, expected {value!r}")
    return header

"""Files of named arrays with a JSON description: safetensors with a digest, checked before anything is used."""

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
#: Bytes that any file's header may have, and how many more for each byte of its tensors.
_HEADER, _HEADER_A_BYTE = 1 << 20, 16


def write_arrays(
    path: str | os.PathLike[str], format: str, version: int, content: Mapping[str, Any], arrays: Arrays
) -> None:
    """Write arrays and what describes them, atomically; equal input gives equal files.

    The metadata entry ``affectron`` is JSON: the format, its version, ``content``, and a BLAKE2b digest of the content
    and of every array.

    Raises:
        InputError: the file cannot be written; what was there before is unchanged.
    """
    header = {"format": format, "version": version, "digest": _digest(content, arrays), "content": content}
    # One entry only: safetensors writes several in an order that changes from call to call.
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
    """Read a file that :func:`write_arrays` wrote: its content and its arrays, bit for bit.

    Args:
        path: the file.
        format, version: those that it was written with.
        expected: the arrays that belong to the content, by name and type; None where the content is not as it should
            be. Its second argument is the bytes that the arrays take, so that no more is believed than they can hold.
        optional: arrays that may be there as well.

    Raises:
        InputError: the file is missing, truncated, altered, something else, or of another version.
    """
    try:
        return _read(path, format, version, expected, optional)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except safetensors.SafetensorError as error:
        raise InputError(f"{path} is not a whole safetensors file: {error}") from error


def _read(
    path: str | os.PathLike[str],
    format: str,
    version: int,
    expected: Callable[[dict[str, Any], int], Mapping[str, type[np.generic]] | None],
    optional: Mapping[str, type[np.generic]],
) -> tuple[dict[str, Any], Arrays]:
    if not Path(path).is_file():
        raise InputError(f"cannot read {path}: {'not a file' if Path(path).exists() else 'no such file'}")
    room = _room(path)
    with safetensors.safe_open(path, framework="numpy") as file:
        header = _header(path, (file.metadata() or {}).get("affectron"), format, version)
        content = header.get("content")
        if not isinstance(content, dict) or (kinds := expected(content, room)) is None:
            raise InputError(f"{path}: the metadata do not describe statistics; the file was altered or damaged")
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
    if header.get("digest") != _digest(content, arrays):
        raise InputError(f"{path}: the content does not match its digest; the file was altered or damaged")
    return content, arrays


def _digest(content: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> str:
    # The bytes of one array at a time: the digest of the digests needs no second copy of everything.
    lines = [f"{name} {array.dtype} {array.shape} {digest(array.tobytes())}" for name, array in arrays.items()]
    return digest(json.dumps(content).encode(), *(line.encode() for line in lines))


def _room(path: str | os.PathLike[str]) -> int:
    """Bytes of the file's arrays, by the length of its header, which must not be out of proportion to them: the claims
    of a file are read in no more time than its arrays."""
    with Path(path).open("rb") as file:
        header = int.from_bytes(file.read(8), "little")
        room = os.fstat(file.fileno()).st_size - 8 - header
    if room >= 0 and header > _HEADER + _HEADER_A_BYTE * room:
        raise InputError(
            f"{path}: the header has {header:,} bytes and the tensors {room:,}, which are too few for it; the file was "
            "altered or damaged"
        )
    return room


def _header(path: str | os.PathLike[str], text: str | None, format: str, version: int) -> dict[str, Any]:
    """The metadata of a file of this format and version."""
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

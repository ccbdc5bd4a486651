"""Reading and writing files so that nothing is ever half there: apart because statistics, neuron sets,
validations and reports all save in this one way."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from affectron.errors import InputError


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it is flushed to disk and renamed over ``path``.

    On any error, a full disk and Ctrl-C included, the temporary file is removed and ``path`` is as it was.

    Raises:
        InputError: the file could not be written (the folder is missing, the disk is full, ...).
    """
    target = Path(path)
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
    except OSError as error:
        raise InputError(f"cannot write {target}: {error.strerror or error}") from error
    temporary = Path(name)
    try:
        os.close(descriptor)
        yield temporary
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, target)
    except OSError as error:
        raise InputError(f"cannot write {target}: {error.strerror or error}; nothing was changed") from error
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write ``value`` as indented UTF-8 JSON, atomically."""
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    with atomic_write(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def read_json(path: str | os.PathLike[str], format: str, version: int) -> dict[str, Any]:
    """Read a JSON object written by :func:`write_json` whose ``format`` and ``version`` are the ones given.

    Raises:
        InputError: the file cannot be read, is not JSON, or is of another format or version.
    """
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, or nested too deep
        raise InputError(f"{path} is not JSON that can be read: {error}") from error
    if not isinstance(value, dict) or value.get("format") != format:
        found = value.get("format") if isinstance(value, dict) else type(value).__name__
        raise InputError(f"{path}: format is {found!r}, expected {format!r}")
    if value.get("version") != version:
        raise InputError(f"{path}: version is {value.get('version')!r}, expected {version}")
    return value


def digest(*chunks: bytes) -> str:
    """Hex BLAKE2b-128 of the chunks, each preceded by its length so that no two splits collide."""
    state = hashlib.blake2b(digest_size=16)
    for chunk in chunks:
        state.update(len(chunk).to_bytes(8, "little"))
        state.update(chunk)
    return state.hexdigest()

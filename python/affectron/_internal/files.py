"""Files: atomic writes, locked folders, checked JSON and text, and digests.

Statistics, neuron sets, validations and reports are all written here, so that a file is either whole or not there.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import os
import platform
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from affectron.errors import InputError


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success, flush it to disk and rename it to ``path``.

    On any error, a full disk and Ctrl-C included, the temporary file is removed and ``path`` is left unchanged.

    Raises:
        InputError: the file cannot be written: the folder is missing, the disk is full, or the like.
    """
    target = Path(path)
    if os.path.exists(target) and not os.path.isfile(target) and not os.path.isdir(target):
        raise InputError(f"cannot write {target}: it is a device or a pipe, and a file would take its place")
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
    """Write ``value`` as indented UTF-8 JSON, atomically. A list or an object without another in it is one line.

    Raises:
        InputError: the file cannot be written.
        TypeError, ValueError: ``value`` is not JSON.
    """
    text = _indented(value, "\n")
    with atomic_write(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False)


def _indented(value: Any, line: str) -> str:
    """``value`` as JSON; ``line`` is a line end with the indentation of what follows."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    if not any(isinstance(item, (dict, list, tuple)) for item in inner):
        return _ENCODER.encode(value)
    below = f"{line} "
    items = [_indented(item, below) for item in inner]
    if isinstance(value, dict):
        items = [f"{_ENCODER.encode(str(key))}: {item}" for key, item in zip(value, items, strict=True)]
    start, end = "{}" if isinstance(value, dict) else "[]"
    return f"{start}{below}{f',{below}'.join(items)}{line}{end}"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Make ``folder`` and lock it against other processes while the block runs.

    The operating system locks the file ``.lock`` in the folder, and releases it when the process ends in any way. A
    folder that was made for the lock and is still empty at the end is removed.

    Raises:
        InputError: another process holds the lock (the message names it), or the folder cannot be made.
    """
    created = [path for path in (folder, *folder.parents) if not path.exists()]
    file = folder / ".lock"
    lock = FileLock(file)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        holder = file.read_text("utf-8") if file.is_file() else ""
        lock.acquire(timeout=0)
    except Timeout as error:
        user = holder or "another process"
        raise InputError(f"{folder} is in use by {user}: wait until it ends, or take another folder") from error
    except OSError as error:
        raise InputError(f"cannot make or lock the folder {folder}: {error.strerror or error}") from error
    try:
        try:
            with open(file, "r+", encoding="utf-8") as written:  # fails if the last holder has just removed it
                written.truncate()
                written.write(f"process {os.getpid()} on {platform.node()}")
        except OSError as error:
            raise InputError(f"cannot lock the folder {folder}: {error.strerror or error}") from error
        yield
    finally:
        file.unlink(missing_ok=True)
        lock.release()
        with suppress(OSError):  # not empty
            for path in created:
                path.rmdir()


def load_json(path: str | os.PathLike[str]) -> Any:
    """Read the value of a JSON file of any origin.

    Raises:
        InputError: the file cannot be read, or is not JSON in UTF-8.
    """
    text = read_text(path)
    try:
        return json.loads(text)
    except RecursionError as error:
        raise InputError(f"{path} is not JSON that can be read: it is nested too deep") from error
    except ValueError as error:
        raise InputError(f"{path} is not JSON that can be read: {error}") from error


def read_json(path: str | os.PathLike[str], format: str, version: int) -> dict[str, Any]:
    """Read a JSON object with this ``format`` and ``version``, as :func:`write_json` wrote it.

    Raises:
        InputError: the file cannot be read, is not JSON, or is of another format or version.
    """
    return check_format(load_json(path), os.fspath(path), format, version)


def check_format(value: Any, file: str, format: str, version: int) -> dict[str, Any]:
    """Check that a JSON value is an object with this ``format`` and ``version``, and return it.

    Raises:
        InputError: it is no object, or of another format or version; names the ``file``.
    """
    if not isinstance(value, dict) or value.get("format") != format:
        actual = value.get("format") if isinstance(value, dict) else type(value).__name__
        raise InputError(f"{file}: format is {actual!r}, expected {format!r}")
    if value.get("version") != version:
        raise InputError(f"{file}: version is {value.get('version')!r}, expected {version}")
    return value


#: First bytes of a file that is not UTF-8 text -> its encoding or format. UTF-32 comes before UTF-16, since its
#: little-endian mark begins with that of UTF-16.
_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "a zip archive, such as .xlsx",
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": "an old Office file, such as .xls",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PAR1\x15": "Parquet",
    b"ARROW1\x00": "Arrow",
}
#: Number of first bytes that :func:`check_text` needs.
HEAD_BYTES = max(map(len, _MARKS))


def check_text(path: str | os.PathLike[str], head: bytes) -> None:
    """Check that a file's first bytes can be UTF-8 text.

    Raises:
        InputError: they mark another encoding or a binary format; the message names it.
    """
    for mark, kind in _MARKS.items():
        if head.startswith(mark):
            raise InputError(f"{path} starts with the mark of {kind}, expected UTF-8 text")
    if b"\0" in head[:2]:  # an ASCII character in UTF-16 or UTF-32
        raise InputError(f"{path} starts with a NUL byte, as UTF-16 without a mark does, expected UTF-8 text")


def read_text(path: str | os.PathLike[str]) -> str:
    """Read a file of UTF-8 text. A byte-order mark is dropped; line ends are kept.

    Raises:
        InputError: the file cannot be read or is not UTF-8; the message names the encoding or format if the file has
            a known mark, else the line and byte.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    content = content.removeprefix(codecs.BOM_UTF8)
    check_text(path, content[:HEAD_BYTES])
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}:{line}: not UTF-8 (byte 0x{content[error.start]:02x})") from error


def digest(*chunks: bytes) -> str:
    """Compute the hexadecimal BLAKE2b-128 of the chunks, each after its length, so that different splits differ."""
    state = hashlib.blake2b(digest_size=16)
    for chunk in chunks:
        state.update(len(chunk).to_bytes(8, "little"))
        state.update(chunk)
    return state.hexdigest()

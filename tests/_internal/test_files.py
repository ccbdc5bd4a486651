"""Files are whole or absent, also on a full disk, which a limit on the file size stands for."""

from __future__ import annotations

import errno
import gzip
import json
import lzma
import os
import re
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from pyarrow import feather

from affectron._internal.files import atomic_write, digest, read_json, read_text, write_json
from affectron.errors import InputError
from tests.support.errors import message


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Limit the files of this process to ``size`` bytes while in the block: a write beyond that fails with EFBIG."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def write(path: Path, content: bytes) -> None:
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)


def content_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


# --- writing ---------------------------------------------------------------------------------------------------


def test_the_old_file_stands_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with atomic_write(path) as temporary:
        temporary.write_bytes(b"new, half")
        assert path.read_bytes() == b"old"
        assert temporary.parent == tmp_path  # a rename needs the same file system
        temporary.write_bytes(b"new")
    assert content_of(tmp_path) == {"a.bin": b"new"}


def test_it_is_on_disk_before_it_takes_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.bin"
    synced = []

    def fsync(descriptor: int) -> None:
        synced.append((os.fstat(descriptor).st_ino, os.fstat(descriptor).st_size, path.exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    write(path, b"four")
    assert synced == [(path.stat().st_ino, 4, False)]


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_permissions_are_those_of_any_new_file(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        write(tmp_path / "a.bin", b"")
        assert os.umask(mask) == mask
    finally:
        os.umask(before)
    assert (tmp_path / "a.bin").stat().st_mode & 0o777 == 0o666 & ~mask


@pytest.mark.parametrize("before", [{}, {"a.json": b"old"}])
def test_a_full_disk_leaves_everything_as_it_was(tmp_path: Path, before: dict[str, bytes]) -> None:
    for name, content in before.items():
        (tmp_path / name).write_bytes(content)
    path = tmp_path / "a.json"
    expected = f"cannot write {path}: {os.strerror(errno.EFBIG)}; nothing was changed"
    with file_size_limit(50_000):
        assert message(lambda: write(path, bytes(50_001))) == expected
        assert message(lambda: write_json(path, {"a": ["word"] * 10_000})) == expected
        assert content_of(tmp_path) == before
        write(path, bytes(50_000))
    assert content_of(tmp_path) == {"a.json": bytes(50_000)}


@pytest.mark.parametrize("function", ["fsync", "replace", "chmod"])
def test_a_failure_after_the_last_write_leaves_everything_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, function, full)  # a network disk may report an error only then
    assert message(lambda: write(path, b"new")) == f"cannot write {path}: No space left on device; nothing was changed"
    assert content_of(tmp_path) == {"a.bin": b"old"}


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("a"), InputError("b")])
def test_other_errors_pass_through_and_leave_nothing(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def fail() -> None:
        with atomic_write(path) as temporary:
            temporary.write_bytes(b"new")
            raise error

    with pytest.raises(type(error)) as raised:
        fail()
    assert raised.value is error
    assert content_of(tmp_path) == {"a.bin": b"old"}


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    path = tmp_path / "absent" / "a.bin"
    assert message(lambda: write(path, b"")) == f"cannot write {path}: No such file or directory"
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "a.bin"
    assert message(lambda: write(path, b"")) == f"cannot write {path}: Not a directory"
    path = tmp_path / ("a" * 300)
    assert message(lambda: write(path, b"")) == f"cannot write {path}: File name too long"
    path = tmp_path / "folder"
    path.mkdir()
    assert message(lambda: write(path, b"")) == f"cannot write {path}: Is a directory; nothing was changed"
    path = tmp_path / "pipe"
    os.mkfifo(path)
    assert message(lambda: write(path, b"")).startswith(f"cannot write {path}: it is a device or a pipe")
    assert path.is_fifo()
    assert sorted(os.listdir(tmp_path)) == ["file", "folder", "pipe"]


# --- JSON ------------------------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(value=st.dictionaries(st.text(), JSON))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_json_comes_back_as_it_was(tmp_path: Path, value: dict[str, Any]) -> None:
    value = {**value, "format": "a", "version": 3}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json", "a", 3) == value
    assert json.loads((tmp_path / "a.json").read_bytes()) == value


def test_json_has_a_line_for_each_list_and_object_without_another_in_it(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"a": [[1, 2], (0.5, "é\n"), []], "b": {}, "c": {"d": None}, "e": True})
    expected = """{
 "a": [
  [1, 2],
  [0.5, "é\\n"],
  []
 ],
 "b": {},
 "c": {"d": null},
 "e": true
}
"""
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == expected


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), {1, 2}])
def test_what_json_cannot_hold_is_not_written(tmp_path: Path, value: Any) -> None:
    write_json(tmp_path / "a.json", [])
    with pytest.raises((ValueError, TypeError)):
        write_json(tmp_path / "a.json", {"a": value})
    assert content_of(tmp_path) == {"a.json": b"[]\n"}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", " is not JSON that can be read: Expecting value"),
        (b'{"format": "a", "version": 3', " is not JSON that can be read: Expecting ',' delimiter"),
        (b'{"format":\n "\xe9"}', ":2: not UTF-8 (byte 0xe9)"),
        (b"[" * 100_000 + b"]" * 100_000, " is not JSON that can be read: it is nested too deep"),
        (b'{"a":' * 100_000, " is not JSON that can be read: it is nested too deep"),
        (b'{"format": ' + b"9" * 10_000 + b"}", " is not JSON that can be read: Exceeds the limit"),
        (b'[{"format": "a"}]', ": format is 'list', expected 'a'"),
        (b"{}", ": format is None, expected 'a'"),
        (b'{"format": "b", "version": 3}', ": format is 'b', expected 'a'"),
        (b'{"format": "a"}', ": version is None, expected 3"),
        (b'{"format": "a", "version": 4}', ": version is 4, expected 3"),
        (b'{"format": "a", "version": "3"}', ": version is '3', expected 3"),
    ],
)
def test_json_that_cannot_be_used(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    assert message(lambda: read_json(path, "a", 3)).startswith(f"{path}{expected}")


def test_json_that_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    assert message(lambda: read_json(path, "a", 3)) == f"cannot read {path}: No such file or directory"
    assert message(lambda: read_json(tmp_path, "a", 3)) == f"cannot read {tmp_path}: Is a directory"


# --- text ------------------------------------------------------------------------------------------------------

CONTAINERS: dict[str, Callable[[Path], object]] = {
    "gzip": lambda path: path.write_bytes(gzip.compress(b"a")),
    "xz": lambda path: path.write_bytes(lzma.compress(b"a")),
    "a zip archive, such as .xlsx": lambda path: np.savez(path.with_suffix(".npz"), a=1),
    "Parquet": lambda path: pq.write_table(pa.table({"a": [1]}), path),
    "Arrow": lambda path: feather.write_feather(pa.table({"a": [1]}), str(path), compression="uncompressed"),
    **{f"UTF-{n}": lambda path, n=n: path.write_text('{"a": 1}', encoding=f"utf-{n}") for n in (16, 32)},
}


@pytest.mark.parametrize("kind", CONTAINERS)
def test_what_is_no_text_is_named_by_its_mark(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.json"
    CONTAINERS[kind](path)
    (path,) = tmp_path.iterdir()
    assert message(lambda: read_text(path)) == f"{path} starts with the mark of {kind}, expected UTF-8 text"


@pytest.mark.parametrize("order", ["le", "be"])
@pytest.mark.parametrize("bits", [16, 32])
def test_wide_characters_are_named_with_and_without_a_mark(tmp_path: Path, bits: int, order: str) -> None:
    path, encoding = tmp_path / "a.json", f"utf-{bits}-{order}"
    path.write_bytes("\ufeffé 1".encode(encoding))
    assert message(lambda: read_text(path)) == f"{path} starts with the mark of UTF-{bits}, expected UTF-8 text"
    path.write_bytes("a 1".encode(encoding))
    assert "starts with a NUL byte, as UTF-16 without a mark does" in message(lambda: read_text(path))


@given(text=st.text())
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_utf8_text_comes_back_without_its_mark(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.txt"
    text = text.removeprefix("\ufeff")
    assume("\0" not in text[:2])
    for encoding in ("utf-8", "utf-8-sig"):
        path.write_bytes(text.encode(encoding))
        assert read_text(path) == text


def test_text_that_is_not_utf8_is_named_by_line_and_byte(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfone\r\n\ntr\xeas\n")
    assert message(lambda: read_text(path)) == f"{path}:3: not UTF-8 (byte 0xea)"
    assert message(lambda: read_text(tmp_path / "b")) == f"cannot read {tmp_path / 'b'}: No such file or directory"


# --- digests ---------------------------------------------------------------------------------------------------


@given(st.lists(st.binary(max_size=3), max_size=4), st.lists(st.binary(max_size=3), max_size=4))
def test_digests_are_equal_exactly_where_the_chunks_are(left: list[bytes], right: list[bytes]) -> None:
    assert (digest(*left) == digest(*right)) == (left == right)
    assert re.fullmatch("[0-9a-f]{32}", digest(*left))


def test_digests_in_saved_files_keep_their_meaning() -> None:
    # printf '\1\0\0\0\0\0\0\0a\2\0\0\0\0\0\0\0bc' | b2sum -l 128
    assert digest(b"a", b"bc") == "f14abc19c330e936bb9c8506d69bac9b"

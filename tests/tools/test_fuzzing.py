"""Any bytes in the place of a file end in one clear line or in what they say, and in little memory."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tools.fuzzing import LOADERS, check, seed

# Replace, insert and remove bytes: (place, removed, inserted). Of the inserted some mean something to a parser.
EDIT = st.tuples(
    st.integers(0, 10**6),
    st.integers(0, 40),
    st.one_of(
        st.binary(max_size=8),
        st.sampled_from([b'"', b"\\", b"[" * 99, b"{", b"\n", b"\x00", b"\xff", b"null", b"-1", b"9" * 25, b"1e999"]),
    ),
)


@pytest.mark.parametrize("kind", LOADERS)
def test_the_seeds_are_valid(kind: str, tmp_path: Path) -> None:
    assert check(kind, seed(kind, tmp_path), tmp_path)


@pytest.mark.parametrize("kind", LOADERS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(edits=st.lists(EDIT, min_size=1, max_size=4))
def test_edited_files(kind: str, tmp_path: Path, edits: list[tuple[int, int, bytes]]) -> None:
    data = seed(kind, tmp_path)
    for place, removed, inserted in edits:
        place %= len(data) + 1
        data = data[:place] + inserted + data[place + removed :]
    check(kind, data, tmp_path)


@pytest.mark.parametrize("kind", LOADERS)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=200))
def test_other_bytes(kind: str, tmp_path: Path, data: bytes) -> None:
    check(kind, data, tmp_path)


@pytest.mark.parametrize("size", [2**31, 2**62, 2**63])
def test_a_header_that_promises_more_than_the_file_holds(tmp_path: Path, size: int) -> None:
    """Sizes in a safetensors header are checked against the file before anything is allocated."""
    data = seed("stats", tmp_path)
    length = int.from_bytes(data[:8], "little")
    header = data[8 : 8 + length].replace(b'"shape":[2,3]', b'"shape":[2,%d]' % size)
    assert not check("stats", len(header).to_bytes(8, "little") + header + data[8 + length :], tmp_path)
    assert not check("stats", size.to_bytes(8, "little") + data[8:], tmp_path)

"""Overlap of screened and tested texts: hashes of all screened texts, and their comparison with a test's sentences.

The hashes are kept with the statistics and with the neurons. A text is hashed in Unicode's form NFC, without leading
and trailing white space and with one space for each run of it. A sentence is therefore recognised in any file, whatever
its id, split or label.
"""

from __future__ import annotations

import base64
import binascii
import unicodedata
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from affectron._internal.warning import warn
from affectron.errors import InputError

Texts = NDArray[np.uint64]
"""Hashes of distinct texts: uint64 [n], ascending; each is an 8-byte BLAKE2b digest, little-endian."""

NONE: Texts = np.zeros(0, dtype=np.uint64)


class Tested(Protocol):
    """Sentence with its text, split and id."""

    @property
    def text(self) -> str: ...
    @property
    def split(self) -> str | None: ...
    @property
    def id(self) -> str: ...


def text_hash(text: str) -> int:
    """Hash a text to 64 bits. Two sets of a million texts share a hash by chance with probability 1 in 18 million."""
    plain = " ".join(unicodedata.normalize("NFC", text).split())
    return int.from_bytes(blake2b(plain.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def hashed(texts: Iterable[str]) -> Texts:
    """Hash texts."""
    return _distinct(np.fromiter(map(text_hash, texts), dtype=np.uint64))


def repeats(texts: Iterable[str]) -> int:
    """Number of texts that are the same as an earlier one."""
    every = list(texts)
    return len(every) - len(hashed(every))


def known(records: Iterable[Texts | None]) -> Texts:
    """Unite the known records: those that are not None."""
    return _distinct(np.concatenate([NONE, *(texts for texts in records if texts is not None)]))


def union(records: Iterable[Texts | None]) -> Texts | None:
    """Unite all records; None if one of them is not known."""
    records = list(records)
    return None if any(texts is None for texts in records) else known(records)


def are_among(hashes: Texts, texts: Texts) -> NDArray[np.bool_]:
    """Test which of the ``hashes`` [n], in any order, are in ``texts``: bool [n]."""
    if not len(texts):
        return np.zeros(len(hashes), dtype=np.bool_)
    positions = np.minimum(np.searchsorted(texts, hashes), len(texts) - 1)
    return np.asarray(texts[positions] == hashes)


def _distinct(hashes: Texts) -> Texts:
    """Sort hashes and drop duplicates. The stable sort is fast on concatenated records, each of which is sorted."""
    ordered = np.sort(hashes, kind="stable")
    distinct: Texts = ordered[np.append(True, ordered[1:] != ordered[:-1])[: len(ordered)]]
    return distinct


def check_texts(texts: Any) -> Texts:
    """Check that ``texts`` are distinct uint64 in ascending order, and return them as an array.

    Raises:
        InputError: they are not.
    """
    array = np.asarray(texts)
    if array.dtype != np.uint64 or array.ndim != 1 or (array[1:] <= array[:-1]).any():
        raise InputError(f"screened is {array.dtype} {list(array.shape)}, expected ascending uint64 [texts]")
    return array


def encode(texts: Texts) -> str:
    """Encode hashes for JSON, as base64 of their little-endian bytes."""
    return base64.b64encode(texts.astype("<u8").tobytes()).decode()


def decode(text: Any, field: str) -> Texts:
    """Decode hashes that :func:`encode` wrote.

    Raises:
        InputError: ``text`` is not of that form; names the ``field``.
    """
    try:
        return check_texts(np.frombuffer(base64.b64decode(text, validate=True), dtype="<u8").astype(np.uint64))
    except (TypeError, ValueError, binascii.Error, InputError) as error:
        raise InputError(f"{field} is {text!r:.60}, expected base64 of ascending 64-bit numbers") from error


def compare(sentences: Iterable[Tested], records: Mapping[str, Texts | None], allow_overlap: bool) -> dict[str, Any]:
    """Compare the sentences of a test with the texts that were screened.

    Args:
        sentences: sentences of the tested splits; a duplicate counts once.
        records: name of a file (``neurons``, ``statistics``) -> texts that it was made from; None if not known.
        allow_overlap: warn of an overlap instead of refusing it.

    Returns:
        the entry of a result, as JSON: number of tested ``sentences``, number of these that were ``screened`` (None if
        it cannot be known), and the tested ``texts``.

    Raises:
        InputError: a tested sentence was screened; gives their number and names the first.
    """
    tested = list({(sentence.split, sentence.id, sentence.text): sentence for sentence in sentences}.values())
    hashes = np.fromiter((text_hash(sentence.text) for sentence in tested), dtype=np.uint64, count=len(tested))
    inside = are_among(hashes, known(records.values()))
    screened: int | None = int(inside.sum())
    if screened:
        first = tested[int(inside.argmax())]
        where = "" if first.split is None else f" of split {first.split!r}"
        line = (
            f"{screened} of the {len(tested)} tested sentences were screened, the first sentence {first.id!r}{where}, "
            f"{first.text!r:.60}: neurons are tested on other sentences than they were found on"
        )
        if not allow_overlap:
            raise InputError(f"{line}; test another split, or state it with --allow-overlap (allow_overlap=True)")
        warn(line)
    silent = [name for name, texts in records.items() if texts is None]
    if silent:
        warn(
            f"the {' and the '.join(silent)} do not tell which texts were screened: whether tested sentences are "
            "among them cannot be checked",
        )
        screened = screened or None
    return {"sentences": len(tested), "screened": screened, "texts": encode(_distinct(hashes))}

"""Whether what is tested was screened: a hash of every screened text, kept with the statistics and the neurons, and
its comparison with the sentences of a test.

Apart because screening, selection, experiments and report all speak of the same texts. A text is compared in Unicode's
form NFC, without white space around it and with one space for each run of it: the same sentence from another file is
the same text, under whatever name, split or label.
"""

from __future__ import annotations

import base64
import binascii
import unicodedata
import warnings
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from affectron.errors import InputError

Texts = NDArray[np.uint64]
"""uint64 [n], ascending: the first 8 bytes of BLAKE2b, little-endian, of each distinct text."""

NONE: Texts = np.zeros(0, dtype=np.uint64)


class Tested(Protocol):
    """A sentence with its text, split and id."""

    @property
    def text(self) -> str: ...
    @property
    def split(self) -> str | None: ...
    @property
    def id(self) -> str: ...


def text_hash(text: str) -> int:
    """64 bits of a text. Two of a million texts against a million others agree by chance once in 18 million times."""
    plain = " ".join(unicodedata.normalize("NFC", text).split())
    return int.from_bytes(blake2b(plain.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def hashed(texts: Iterable[str]) -> Texts:
    """The texts as they are kept."""
    return _distinct(np.fromiter(map(text_hash, texts), dtype=np.uint64))


def known(records: Iterable[Texts | None]) -> Texts:
    """The texts of all records that tell them."""
    return _distinct(np.concatenate([NONE, *(texts for texts in records if texts is not None)]))


def union(records: Iterable[Texts | None]) -> Texts | None:
    """All texts of all records; None where one does not tell."""
    found = list(records)
    return None if any(texts is None for texts in found) else known(found)


def are_among(hashes: Texts, texts: Texts) -> NDArray[np.bool_]:
    """bool [n]: which of the ``hashes`` [n], in any order, are in ``texts``."""
    if not len(texts):
        return np.zeros(len(hashes), dtype=np.bool_)
    places = np.minimum(np.searchsorted(texts, hashes), len(texts) - 1)
    return np.asarray(texts[places] == hashes)


def _distinct(hashes: Texts) -> Texts:
    """The distinct ones in ascending order. The stable sort takes the runs of records that are sorted as they are."""
    ordered = np.sort(hashes, kind="stable")
    distinct: Texts = ordered[np.append(True, ordered[1:] != ordered[:-1])[: len(ordered)]]
    return distinct


def check_texts(texts: Any) -> Texts:
    """``texts`` in their type.

    Raises:
        InputError: they are not distinct uint64 in ascending order.
    """
    array = np.asarray(texts)
    if array.dtype != np.uint64 or array.ndim != 1 or (array[1:] <= array[:-1]).any():
        raise InputError(f"screened is {array.dtype} {list(array.shape)}, expected ascending uint64 [texts]")
    return array


def encode(texts: Texts) -> str:
    """Base64 of the little-endian bytes, for JSON."""
    return base64.b64encode(texts.astype("<u8").tobytes()).decode()


def decode(text: Any, field: str) -> Texts:
    """Texts from what :func:`encode` wrote.

    Raises:
        InputError: it is something else; names the ``field``.
    """
    try:
        return check_texts(np.frombuffer(base64.b64decode(text, validate=True), dtype="<u8").astype(np.uint64))
    except (TypeError, ValueError, binascii.Error, InputError) as error:
        raise InputError(f"{field} is {text!r:.60}, expected base64 of ascending 64-bit numbers") from error


def compare(sentences: Iterable[Tested], records: Mapping[str, Texts | None], allow_overlap: bool) -> dict[str, Any]:
    """Compare the sentences of a test with the texts that were screened.

    Args:
        sentences: those of the tested splits; one that is there several times counts once.
        records: the texts that each file (``neurons``, ``statistics``) was made from; None where it does not tell.
        allow_overlap: warn of an overlap in place of refusing it.

    Returns:
        what a result says of it, as JSON: ``sentences`` tested, how many of them were ``screened`` (None where that
        cannot be told), and the tested ``texts``.

    Raises:
        InputError: a sentence was screened; says how many, and names the first.
    """
    tested = list({(one.split, one.id, one.text): one for one in sentences}.values())
    hashes = np.fromiter((text_hash(one.text) for one in tested), dtype=np.uint64, count=len(tested))
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
        warnings.warn(line, stacklevel=1)
    silent = [name for name, texts in records.items() if texts is None]
    if silent:
        warnings.warn(
            f"the {' and the '.join(silent)} do not tell which texts were screened: whether tested sentences are "
            "among them cannot be checked",
            stacklevel=1,  # one place for all: Python says the same line of one place once
        )
        screened = screened or None
    return {"sentences": len(tested), "screened": screened, "texts": encode(_distinct(hashes))}

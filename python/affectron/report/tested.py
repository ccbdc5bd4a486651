"""Whether the sentences that a run's files test were screened: refused, or stated at the head of the page.

Separate from build.py, which knows the page. Files tell it of themselves (``provenance.tested``); the texts of the
run's statistics and neurons are compared with them again, since the files of a folder may come from several runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from affectron._internal import overlap
from affectron.errors import InputError
from affectron.report import text as words


def overlap_notices(
    tests: Mapping[str, Mapping[str, Any]], sources: Mapping[str, Any], allow_overlap: bool
) -> list[str]:
    """A notice for each file with tested sentences that were screened, and one for those of which it cannot be told.

    Args:
        tests: file -> its ``provenance`` and ``options``.
        sources: file -> statistics or neurons.
        allow_overlap: state an overlap that a file does not state itself, in place of refusing it.

    Raises:
        InputError: an overlap that no file states, or a file that does not say what it should.
    """
    screened = overlap.known(source.screened for source in sources.values())
    notices, untold = [], []
    for file, content in tests.items():
        provenance, options = (_object(content.get(name)) for name in ("provenance", "options"))
        if "tested" in provenance:
            sentences, stated, texts = _tested(file, provenance["tested"])
            found = int(overlap.are_among(texts, screened).sum())
            many = max(found, stated or 0)
            line = f"{many} of the {sentences} sentences that {file} tests were screened too"
            told = stated is not None
        else:
            stated = None
            same = _screened_splits(provenance, options, [source.provenance for source in sources.values()])
            found = many = len(same)
            line = f"all sentences of {words.listing(same)} that {file} tests were screened too" if same else ""
            told = bool(same)
        if found and not stated and not allow_overlap:
            raise InputError(
                f"{line}: neurons are shown on other sentences than they were found on; validate on another split, or "
                "state it with --allow-overlap (allow_overlap=True)"
            )
        if many:
            notices.append(
                f"{line[0].upper()}{line[1:]}. The neurons were found on these sentences: what the page shows of them "
                "is no evidence for others."
            )
        elif not told:
            untold.append(file)
    if untold:
        notices.append(
            f"Whether sentences that {words.listing(untold)} test were screened too cannot be checked: the files do "
            "not tell."
        )
    return notices


def without_texts(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """The provenance as it is shown: the tested texts are for comparison only."""
    shown = dict(provenance)
    if isinstance(shown.get("tested"), dict):
        shown["tested"] = {key: value for key, value in shown["tested"].items() if key != "texts"}
    return shown


def _tested(file: str, value: Any) -> tuple[int, int | None, overlap.Texts]:
    """Sentences, screened and texts of ``provenance.tested``."""
    place = f"{file}: provenance.tested"
    if not isinstance(value, dict):
        raise InputError(f"{place} is {value!r:.60}, expected an object")
    sentences, screened = value.get("sentences"), value.get("screened")
    if type(sentences) is not int or not (screened is None or type(screened) is int):
        raise InputError(f"{place} has sentences {sentences!r:.60} and screened {screened!r:.60}, expected counts")
    return sentences, screened, overlap.decode(value.get("texts"), f"{place}.texts")


def _screened_splits(
    provenance: Mapping[str, Any], options: Mapping[str, Any], sources: Sequence[Mapping[str, Any]]
) -> list[str]:
    """The tested splits whose digest is that of the screened corpus: what a file without ``tested`` tells."""
    known = [digest for source in sources if isinstance(source.get("corpus"), list) for digest in source["corpus"]]
    splits = provenance.get("corpus_splits")
    if isinstance(splits, dict):
        names = dict.fromkeys(str(options.get(name)) for name in ("dev", "test"))
        return [f"split {name!r}" for name in names if splits.get(name) in known]
    tested = provenance.get("corpus")  # of the candidates, whose corpus is the split that they read
    read = options.get("split")
    same = isinstance(tested, list) and tested and all(digest in known for digest in tested)
    return [f"split {read!r}"] if same and read else []


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}

"""Overlap of the tested sentences of a run with its screened ones: refused, or stated at the head of the page.

A result states the overlap it knows of (``provenance.tested``). The texts of the run's statistics and neurons are
compared with the tested ones again here, since the files of a folder may come from several runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from affectron._internal import overlap
from affectron._internal.records import from_plain, to_plain
from affectron.errors import InputError
from affectron.evaluation.verdicts import Count
from affectron.experiments.results import Findings
from affectron.neurons import NeuronSet
from affectron.report.text import listing
from affectron.stats import ActivationStats


@dataclass(frozen=True)
class _Tested:
    """Record of the tested sentences: their number, how many of them were screened (None where that cannot be told),
    their hashes (:func:`affectron._internal.overlap.encode`), and how many repeat a text of their task."""

    sentences: Count
    screened: Count | None
    texts: str
    repeated: Count = 0


@dataclass(frozen=True)
class _Overlap:
    """Overlap of one result.

    Attributes:
        screened: tested sentences, or whole splits, that were screened by the statistics and neurons of the run.
        stated: tested sentences that the result itself says were screened; None where it does not say.
        told: whether the overlap can be told.
        line: the overlap in words.
        repeated: tested sentences that have the text of an earlier one of their task.
    """

    screened: int
    stated: int | None
    told: bool
    line: str
    repeated: int = 0


def overlap_notices(
    tests: Mapping[str, Findings], sources: Mapping[str, ActivationStats | NeuronSet], allow_overlap: bool
) -> list[str]:
    """A notice for each result with tested sentences that were screened, one for each with repeated ones, and one for
    those whose overlap is unknown.

    Args:
        tests: file -> result.
        sources: file -> statistics or neurons.
        allow_overlap: state an overlap that a result does not state itself, in place of refusing it.

    Raises:
        InputError: an overlap that no result states, or a result whose record of tested sentences is wrong.
    """
    screened = overlap.known(source.screened for source in sources.values())
    provenances = [source.provenance for source in sources.values()]
    notices, untold = [], []
    for file, result in tests.items():
        known = _overlap(file, result, screened, provenances)
        if known.screened and not known.stated and not allow_overlap:
            raise InputError(
                f"{known.line}: neurons are shown on other sentences than they were found on; validate on another "
                "split, or state it with --allow-overlap (allow_overlap=True)"
            )
        if known.screened or known.stated:
            notices.append(
                f"{known.line[0].upper()}{known.line[1:]}. The neurons were found on these sentences: what the page "
                "shows of them is no evidence for others."
            )
        elif not known.told:
            untold.append(file)
        if known.repeated:
            notices.append(
                f"{known.repeated:,} of the sentences that {file} tests have the text of another one. Intervals and p "
                "values count each as a sentence of its own: they claim more than the texts show."
            )
    if untold:
        notices.append(
            f"Whether sentences that {listing(untold)} test were screened too cannot be checked: the files do not tell."
        )
    return notices


def without_texts(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """The provenance without the hashes of the tested texts, which are there for comparison only."""
    shown = dict(provenance)
    if isinstance(shown.get("tested"), dict):
        shown["tested"] = {key: value for key, value in shown["tested"].items() if key != "texts"}
    return shown


def _overlap(
    file: str, result: Findings, screened: overlap.Texts, provenances: Sequence[Mapping[str, Any]]
) -> _Overlap:
    """The overlap of one result with the screened texts, or with the splits of the sources' ``provenances``."""
    if "tested" in result.provenance:
        path = "provenance.tested"
        tested = from_plain(_Tested, result.provenance["tested"], file, path=path)
        texts = overlap.decode(tested.texts, f"{file}: {path}.texts")
        common = int(overlap.are_among(texts, screened).sum())
        most = max(common, tested.screened or 0)
        line = f"{most} of the {tested.sentences} sentences that {file} tests were screened too"
        return _Overlap(common, tested.screened, tested.screened is not None, line, tested.repeated)
    same = _screened_splits(result, provenances)
    line = f"all sentences of {listing(same)} that {file} tests were screened too" if same else ""
    return _Overlap(len(same), None, bool(same), line)


def _screened_splits(result: Findings, provenances: Sequence[Mapping[str, Any]]) -> list[str]:
    """The tested splits whose digest is that of the screened corpus. This is all that a result without
    ``provenance.tested`` tells."""
    known = [
        digest
        for provenance in provenances
        if isinstance(provenance.get("corpus"), list)
        for digest in provenance["corpus"]
    ]
    options = to_plain(result.options)
    splits = result.provenance.get("corpus_splits")
    if isinstance(splits, dict):
        names = dict.fromkeys(str(options.get(name)) for name in ("dev", "test"))
        return [f"split {name!r}" for name in names if splits.get(name) in known]
    tested = result.provenance.get("corpus")  # of the candidates: the split that they read
    split = options.get("split")
    same = isinstance(tested, list) and tested and all(digest in known for digest in tested)
    return [f"split {split!r}"] if same and split else []

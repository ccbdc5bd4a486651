"""Model cards: the README of a repository, with a section for each file, written between two marks."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Protocol

from affectron._internal.artifacts import SAME_MODEL
from affectron._internal.wording import count, p_value, pair, points
from affectron.errors import InputError

#: The library, as it is named in the head of a card and in the marks of a section.
LIBRARY = "affectron"
_MARK = f"<!-- {LIBRARY}: "

#: Field of the provenance -> its name in the table of the model.
_MODEL = {"model": "name", "revision": "revision", **SAME_MODEL, "dtype": "type", "device": "device"}
#: Fields that say nothing of how neurons were found.
_ASIDE = (LIBRARY, "versions", "shards", "padding", "label", *_MODEL)


class Tested(Protocol):
    """Result of a test of neurons, as :class:`affectron.Validation`."""

    @property
    def provenance(self) -> dict[str, Any]: ...
    @property
    def results(self) -> Mapping[str, Any]: ...


@dataclass(frozen=True)
class Description:
    """Contents of an object that a card tells of.

    Attributes:
        sentence: the object in a sentence.
        variable: name of the loaded object in the Python of the card.
        usage: a line of Python that uses it.
        provenance: its provenance; empty if it is not known.
        screened: number of texts whose hashes the file holds; 0 for none.
        labels: the labels whose tests are shown; None for an object that is not tested.
        note: further sentences on the test.
        header, rows: a table of the contents; without rows there is none.
    """

    sentence: str
    variable: str
    usage: str
    provenance: Mapping[str, Any]
    screened: int = 0
    labels: Sequence[str] | None = None
    note: str = ""
    header: Sequence[str] = ()
    rows: Sequence[Sequence[Any]] = ()


def section(file: str, loading: str, described: Description, validation: Tested | None) -> str:
    """Write the section of a file.

    Args:
        file: name of the file.
        loading: the Python expression that loads it.
        described: its contents.
        validation: the test of its neurons.

    Raises:
        InputError: the validation is of other neurons, or the object is none that is tested.
    """
    provenance = described.provenance
    model = [(name, provenance[key]) for key, name in _MODEL.items() if provenance.get(key) is not None]
    found = list(_flat({key: value for key, value in provenance.items() if key not in _ASIDE}))
    begin, end = marks(file)
    parts = [
        begin,
        f"## {_plain(file)}",
        _plain(described.sentence),
        _table(described.header, described.rows),
        f"```python\nimport {LIBRARY}\n\n{described.variable} = {loading}\n{described.usage}\n```",
        "### Model",
        _table(("field", "value"), model) or "The model is not known.",
        "### How this was measured and selected",
        _table(("option", "value"), found) or "This is not known.",
        *_tests(described, validation),
        "### What the file holds",
        _held(described.screened),
        f"Written by {LIBRARY} {version(LIBRARY)}.",
        end,
    ]
    return "\n\n".join(part for part in parts if part)


def marks(file: str) -> tuple[str, str]:
    """The lines before and after the section of a file."""
    return f"{_MARK}{file} -->", f"<!-- /{LIBRARY}: {file} -->"


def head(title: str, provenance: Mapping[str, Any]) -> str:
    """Write the head of a new card: its metadata as YAML, and the title."""
    from huggingface_hub import ModelCardData

    model, from_hub = provenance.get("model"), provenance.get("revision") is not None
    data = ModelCardData(
        library_name=LIBRARY,
        tags=[LIBRARY, "interpretability", "neurons", "steering"],
        base_model=model if from_hub and isinstance(model, str) else None,
    )
    return f"---\n{data.to_yaml()}\n---\n\n# {_plain(title)}\n"


def with_section(card: str, file: str, text: str) -> str | None:
    """Put the section of a file into a card, in the place of an earlier one or at the end.

    Returns:
        the card; None if it has no section of the library, so that a person wrote it.
    """
    begin, end = marks(file)
    before, found, rest = card.partition(begin)
    if found and end in rest:
        return before + text + rest.partition(end)[2]
    return f"{card.rstrip()}\n\n{text}\n" if _MARK in card else None


def _tests(described: Description, validation: Tested | None) -> list[str]:
    """The part of a section on the test of the neurons."""
    if described.labels is None:
        if validation is not None:
            raise InputError("validation is given with statistics, expected it with neurons or a program")
        return []
    heading = "### How the neurons were tested"
    if validation is None:
        return [heading, "Not tested: no validation was pushed with the file."]
    own = {key: value for key, value in described.provenance.items() if key != "label"}
    if validation.provenance.get("neurons") != own:
        raise InputError("validation is of other neurons, expected one whose provenance has these neurons'")
    made, rows = validation.provenance, []
    for label in filter(validation.results.__contains__, described.labels):
        result = validation.results[label]
        for name, mask in result.masks.items():
            reason = f": {mask.reason}" if mask.reason else ""
            change = f"{points(mask.delta)} {pair(mask.interval)}"
            _, adjusted = mask.claim_p
            rows.append((label, name, mask.verdict + reason, change, result.sentences, p_value(adjusted)))
    tested = made.get("tested") or {}
    screened = tested.get("screened")
    seen = "it is not known how many of them were" if screened is None else f"{screened:,} of them were"
    return [
        heading,
        f"Masks of each label's neurons on {_plain(made.get('corpus_name'))} (hashes of its splits: "
        f"{_plain(made.get('corpus_splits'))}). These splits have {count(tested.get('sentences', 0), 'sentence')}; "
        f"{seen} among the texts that the neurons were found on. {described.note}".rstrip(),
        _table(("label", "mask", "verdict", "Δ own, points [95 %]", "n", "adjusted p"), rows) or "No label was tested.",
        "Δ own is the change of accuracy on the label's own n test sentences; p of McNemar's exact test, of “specific” "
        "the largest of the four p values of its rule, is adjusted over the labels (Holm).",
    ]


def _held(screened: int) -> str:
    if not screened:
        return "Numbers, names and provenance: no text of the corpus, and no hash of one."
    return (
        f"Numbers, names and provenance, and no text of the corpus. It has a 64-bit hash of each of the "
        f"{count(screened, 'text')} that were screened, so that a test on the same texts is refused. Whoever has a "
        "text can see from its hash whether it was among them."
    )


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """(name, value) of provenance, objects in it by their own fields; what is not set, or counts what was left out by
    label, is left out."""
    for key, value in values.items():
        if isinstance(value, Mapping) and not prefix:
            yield from _flat(value, f"{key}.")
        elif value not in (None, [], {}) and key != "removed":
            yield f"{prefix}{key}", value


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    if not rows:
        return ""
    lines = [header, ["---"] * len(header), *([_plain(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _plain(value: Any) -> str:
    """A value in one line of Markdown that shows it as it is."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    line = " ".join(text.replace("\n", "\\n").split())
    return re.sub(r"([\\`*_\[\]<>|#&~$])", r"\\\1", line)

"""Base of all results: provenance, options, and how a result is saved and loaded."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypeVar

from affectron._internal.checks import OneOf, check
from affectron._internal.display import ROWS, Shown, Summary, few, origin
from affectron._internal.files import check_format, load_json, write_json
from affectron._internal.frames import columns_of, frame_of
from affectron._internal.records import INLINE, from_plain, to_plain
from affectron._internal.wording import count, p_value, pair, points
from affectron.errors import InputError
from affectron.evaluation.verdicts import Effect

if TYPE_CHECKING:
    import pandas

VERSION = 1

#: Kind -> its class; a class enters itself when it is defined.
RESULTS: dict[str, type[Findings]] = {}

#: Columns that are counted and named in the line of a result, and columns of its table in a notebook.
_NAMED, _COLUMNS = ("task", "label", "source", "method", "sweep", "mask"), 8

Result = TypeVar("Result", bound="Findings")


@dataclass(frozen=True)
class ExamOptions(Shown):
    """Options of the exam that an experiment asked its questions with.

    Attributes:
        evaluator: name of the evaluator.
        further: options that the evaluator has used or chosen, such as its prompts.
        dev, test: the splits that choices are made on and that is reported.
        limit: sentences of a label in a split at most; None for all.
        seed: of the sentences under ``limit``, and of what the experiment draws.
    """

    evaluator: str
    further: Annotated[dict[str, Any], INLINE]
    dev: str
    test: str
    limit: int | None
    seed: int

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> ExamOptions:
        """The options that :meth:`affectron.Exam.options` gives."""
        return from_plain(cls, options, "options of the exam")


@dataclass(frozen=True)
class Findings(Shown):
    """Result of an experiment; each experiment returns a class derived from this.

    Attributes:
        provenance: the model, corpus and neurons of the result, by their hashes, and the versions that made it.
        options: the experiment's options, defaults filled in.
    """

    kind: ClassVar[str]
    #: The command that makes the file, for messages.
    _command: ClassVar[str] = "affectron run"
    #: The record that is a row of :meth:`to_pandas`.
    _row: ClassVar[type[Any]]

    provenance: dict[str, Any]
    options: Any

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        RESULTS[cls.kind] = cls

    def __getitem__(self, key: str) -> Any:
        return self.content[key]

    @property
    def content(self) -> dict[str, Any]:
        """The JSON object that :meth:`save` writes."""
        return self.to_json()

    def to_pandas(self) -> pandas.DataFrame:
        """The numbers as a frame, a row each: of a label and mask, a label and method, a pair of labels, a neuron.

        The columns are the fields of the row's records, under their names. Those of a record inside one begin with its
        field, as ``random_p``; two numbers are two columns, as ``interval_low`` and ``interval_high``. Fields that hold
        several values are left out. Text is ``string``, whole numbers are ``int64`` (``Int64`` where one may be
        missing), other numbers ``float64``, truth values ``bool`` or ``boolean``. Units are those of the fields:
        accuracies, shares and their changes are fractions, losses nats a token.

        Raises:
            InputError: pandas is not installed.
        """
        return frame_of(self._row, self._rows())

    def _rows(self) -> Iterable[Any]:
        """The records that are rows of :meth:`to_pandas`, each a ``_row``."""
        raise NotImplementedError

    def _cells(self, row: Any) -> dict[str, object]:
        """Heading -> cell of a row in a notebook; by default the first columns."""
        return {column.name: column.of(row) for column in columns_of(self._row)[:_COLUMNS]}

    def _summary(self) -> Summary:
        rows = list(self._rows())
        facts = [count(len(rows), "row")]
        for column in columns_of(self._row):
            if column.name in _NAMED:
                names = dict.fromkeys(name for name in map(column.of, rows) if name is not None)
                facts.append(f"{count(len(names), column.name)}: {few(names)}")
        facts += origin(self.provenance)
        cells = [self._cells(row) for row in islice(rows, ROWS)]
        return Summary(facts, tuple(cells[0]) if cells else (), (row.values() for row in cells), len(rows))

    def to_json(self) -> dict[str, Any]:
        """The result as a JSON object, with its format and version."""
        return {"format": f"affectron.{self.kind}", "version": VERSION, **to_plain(self)}

    @classmethod
    def from_json(cls: type[Result], content: Mapping[str, Any], file: str = "content") -> Result:
        """The result of a JSON object that :meth:`to_json` gave. ``file`` names it in messages.

        Raises:
            InputError: another format or version, or a field is missing, unknown, of another type or out of its
                bound; names the field and what was expected.
        """
        checked = check_format(content, file, f"affectron.{cls.kind}", VERSION)
        fields = {name: value for name, value in checked.items() if name not in ("format", "version")}
        return from_plain(cls, fields, file)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the JSON object, atomically.

        Raises:
            InputError: the file cannot be written; what was there before is unchanged.
        """
        write_json(path, self.to_json())

    @classmethod
    def load(cls: type[Result], path: str | os.PathLike[str], kind: str | None = None) -> Result:
        """Read a file that :meth:`save` wrote.

        Args:
            path: the file.
            kind: which result is expected, for ``Findings.load(path, "ablations")``; a derived class knows its own.

        Raises:
            InputError: the file is missing, not JSON, of another kind or version, or a field is missing or wrong; says
                how to make the file anew.
        """
        known = {name: of_kind for name, of_kind in RESULTS.items() if issubclass(of_kind, cls)}
        expected = getattr(cls, "kind", None) if kind is None else kind
        check("kind", expected, OneOf(tuple(known)))
        result = known[str(expected)]
        try:
            return result.from_json(load_json(path), os.fspath(path))
        except InputError as error:
            raise InputError(f"{error}; make the file anew with {result._command}") from error


def effect_cells(effect: Effect | None) -> dict[str, object]:
    """The cells of a notebook's row that tell of one effect."""
    return {
        "verdict": effect and effect.verdict,
        "Δ own, points": effect and f"{points(effect.delta)} {pair(effect.interval)}",
        "adjusted p": effect and p_value(effect.adjusted_p),
    }

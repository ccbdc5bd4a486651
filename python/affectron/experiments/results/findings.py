"""Base of all results: provenance, options, and how a result is saved and loaded."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, TypeVar

from affectron._internal.checks import OneOf, check
from affectron._internal.files import check_format, load_json, write_json
from affectron._internal.records import INLINE, from_plain, to_plain
from affectron.errors import InputError

VERSION = 1

#: Kind -> its class; a class enters itself when it is defined.
RESULTS: dict[str, type[Findings]] = {}

Result = TypeVar("Result", bound="Findings")


@dataclass(frozen=True)
class ExamOptions:
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
class Findings:
    """Result of an experiment; each experiment returns a class derived from this.

    Attributes:
        provenance: the model, corpus and neurons of the result, by their hashes, and the versions that made it.
        options: the experiment's options, defaults filled in.
    """

    kind: ClassVar[str]
    #: The command that makes the file, for messages.
    _command: ClassVar[str] = "affectron run"

    provenance: dict[str, Any]
    options: Any

    def __init_subclass__(cls) -> None:
        RESULTS[cls.kind] = cls

    def __getitem__(self, key: str) -> Any:
        return self.content[key]

    @property
    def content(self) -> dict[str, Any]:
        """The JSON object that :meth:`save` writes."""
        return self.to_json()

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

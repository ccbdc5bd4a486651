"""What an experiment leaves: one JSON object with its provenance and options, saved and read in one way. Apart because
every experiment but the validation, which has a table of its own, returns this."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from affectron._internal.files import read_json, write_json

VERSION = 1

#: What a file may hold, by the name of its experiment.
KINDS = (
    "ablations", "associations", "candidates", "cross_signal", "induction", "methods", "stability",
)  # fmt: skip


@dataclass(frozen=True)
class Findings:
    """The result of an experiment.

    Attributes:
        kind: which experiment, one of ``KINDS``.
        content: the JSON object that :meth:`save` writes, with ``provenance`` and ``options`` in it. Accuracies and
            their changes are fractions, losses nats a token; None where something was not measured.
    """

    kind: str
    content: dict[str, Any]

    def __getitem__(self, key: str) -> Any:
        return self.content[key]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the JSON object, atomically.

        Raises:
            InputError: the file cannot be written; what was there before is unchanged.
        """
        write_json(path, {"format": f"affectron.{self.kind}", "version": VERSION, **self.content})

    @classmethod
    def load(cls, path: str | os.PathLike[str], kind: str) -> Findings:
        """Read a file that :meth:`save` wrote.

        Raises:
            InputError: the file is missing, not JSON, or of another kind or version.
        """
        content = read_json(path, f"affectron.{kind}", VERSION)
        return cls(kind, {key: value for key, value in content.items() if key not in ("format", "version")})

"""Record of finished stages (``run.json``): name, key of all inputs, digests of the output files, duration, memory.

A stage is recorded after its files are complete, and every file is written atomically. A killed run therefore repeats
one stage at most.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from affectron._internal.checks import shown
from affectron._internal.files import digest, read_json, write_json
from affectron._internal.memory import peak_bytes
from affectron._internal.records import INLINE, from_plain, to_plain
from affectron.errors import InputError

RECORD = "run.json"
FORMAT, VERSION = "affectron.run", 1

# Largest file whose content is hashed. The digest of a larger one covers its name, size and time of change.
_HASHED_BYTES = 1 << 26


@dataclass(frozen=True)
class Finished:
    """A finished stage.

    Attributes:
        key: digest of all its inputs.
        files: output file, relative to the run folder -> its digest.
        seconds: duration.
        peak_bytes: the most memory that the process had held by its end.
    """

    key: str
    files: dict[str, str]
    seconds: float
    peak_bytes: int

    def __post_init__(self) -> None:
        # A run folder may come from anyone, and the files of a stage that is left out are removed.
        for name in self.files:
            path = Path(name)
            if path.is_absolute() or ".." in path.parts or not name.isprintable():
                raise InputError(f"files has {shown(name)}, expected paths within the run folder")


@dataclass(frozen=True)
class _Record:
    """The content of ``run.json``."""

    stages: dict[str, Finished]
    made_with: Annotated[dict[str, Any], INLINE]


class Cache:
    """Record of the finished stages in a run folder.

    Attributes:
        stages: name -> the stage, of those that are finished.
        made_with: configuration and versions of the last run, as JSON.

    Raises:
        InputError: the folder has a record that cannot be read; says how to begin anew.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.stages: dict[str, Finished] = {}
        self.made_with: dict[str, Any] = {}
        file = folder / RECORD
        if not file.is_file():
            return
        try:
            content = read_json(file, FORMAT, VERSION)
            fields = {name: value for name, value in content.items() if name not in ("format", "version")}
            record = from_plain(_Record, fields, str(file))
        except InputError as error:
            raise InputError(f"{error}; without this file, all stages are run anew") from error
        self.stages, self.made_with = record.stages, record.made_with

    def done(self, stage: str, key: str) -> bool:
        """Tell whether the stage was finished with this key and its files are unchanged."""
        finished = self.stages.get(stage)
        return (
            finished is not None
            and finished.key == key
            and all(
                (self.folder / name).is_file() and file_digest(self.folder / name) == recorded
                for name, recorded in finished.files.items()
            )
        )

    def add(self, stage: str, key: str, files: Sequence[str], seconds: float) -> None:
        """Record a finished stage; remove files of an earlier run that it no longer writes."""
        self.drop(stage, keep=files)
        digests = {name: file_digest(self.folder / name) for name in files}
        self.stages[stage] = Finished(key, digests, round(seconds, 3), peak_bytes())
        self.save()

    def drop(self, stage: str, keep: Sequence[str] = ()) -> None:
        """Remove a stage from the record, and its files except those in ``keep``."""
        finished = self.stages.pop(stage, None)
        for name in finished.files if finished else ():
            if name not in keep:
                (self.folder / name).unlink(missing_ok=True)

    def save(self) -> None:
        """Write the record, atomically."""
        content = to_plain(_Record(self.stages, self.made_with))
        write_json(self.folder / RECORD, {"format": FORMAT, "version": VERSION, **content})


def stage_key(*parts: Any) -> str:
    """Compute the key of a stage: a digest of all its inputs."""
    return digest(json.dumps(parts, sort_keys=True).encode())


def file_digest(path: Path) -> str:
    """Compute the BLAKE2b-128 of a file's content; of its name, size and time of change if it exceeds 64 MiB.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        status = path.stat()
        if status.st_size > _HASHED_BYTES:
            return digest(path.name.encode(), str(status.st_size).encode(), str(status.st_mtime_ns).encode())
        state = hashlib.blake2b(digest_size=16)
        state.update(path.read_bytes())
        return state.hexdigest()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error


def folder_digests(folder: Path, suffixes: Sequence[str]) -> Mapping[str, str]:
    """Compute the digests of a folder's files with these suffixes: name -> digest.

    Raises:
        InputError: a file cannot be read.
    """
    return {file.name: file_digest(file) for file in sorted(folder.iterdir()) if file.suffix in suffixes}

"""What of a run is done already: the record ``run.json`` in its folder. Apart from the stages, which say what there is
to do; here a stage is a name, a key made of all that it depends on, and the files that it left.

A stage is recorded after its files are whole, and each file is written atomically: a run that is killed has lost the
stage it was in and nothing else.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from affectron._internal.files import digest, read_json, write_json
from affectron.errors import InputError

RECORD = "run.json"
FORMAT, VERSION = "affectron.run", 1

# Of a larger file name, size and time of change are taken instead of what is in it.
_HASHED_BYTES = 1 << 26


class Cache:
    """The record of a run folder.

    Raises:
        InputError: there is a record that cannot be used.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        file = folder / RECORD
        self.record: dict[str, Any] = (
            read_json(file, FORMAT, VERSION) if file.is_file() else {"format": FORMAT, "version": VERSION, "stages": {}}
        )
        if not isinstance(self.record.get("stages"), dict):
            raise InputError(f"{file}: stages is {self.record.get('stages')!r}, expected an object")

    def done(self, stage: str, key: str) -> bool:
        """Whether the stage was run with this key and its files are what it left."""
        entry = self.record["stages"].get(stage)
        return entry is not None and entry["key"] == key and self.whole(stage)

    def whole(self, stage: str) -> bool:
        files: dict[str, str] = self.record["stages"][stage]["files"]
        return all(
            (self.folder / name).is_file() and file_digest(self.folder / name) == kept for name, kept in files.items()
        )

    def seconds(self, stage: str) -> float | None:
        """What the stage took when it was last run."""
        entry = self.record["stages"].get(stage)
        return None if entry is None else float(entry["seconds"])

    def add(self, stage: str, key: str, files: Sequence[str], seconds: float) -> None:
        """Record a stage that is done; files that it left before and no longer does are removed."""
        self.drop(stage, keep=files)
        kept = {name: file_digest(self.folder / name) for name in files}
        self.record["stages"][stage] = {"key": key, "files": kept, "seconds": round(seconds, 3)}
        self.save()

    def drop(self, stage: str, keep: Sequence[str] = ()) -> None:
        """Forget a stage and remove the files that it left."""
        entry = self.record["stages"].pop(stage, None)
        for name in entry["files"] if entry else ():
            if name not in keep:
                (self.folder / name).unlink(missing_ok=True)

    def save(self) -> None:
        write_json(self.folder / RECORD, self.record)


def stage_key(*parts: Any) -> str:
    """A digest of all that a stage depends on."""
    return digest(json.dumps(parts, sort_keys=True).encode())


def file_digest(path: Path) -> str:
    """BLAKE2b-128 of a file's content; of its name, size and time of change where it is larger than 64 MiB.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        found = path.stat()
        if found.st_size > _HASHED_BYTES:
            return digest(path.name.encode(), str(found.st_size).encode(), str(found.st_mtime_ns).encode())
        state = hashlib.blake2b(digest_size=16)
        state.update(path.read_bytes())
        return state.hexdigest()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error


def folder_digests(folder: Path, suffixes: Sequence[str]) -> Mapping[str, str]:
    """The digest of every file of a folder with one of these suffixes, by name.

    Raises:
        InputError: one cannot be read.
    """
    return {file.name: file_digest(file) for file in sorted(folder.iterdir()) if file.suffix in suffixes}

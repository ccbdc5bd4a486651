"""Record of finished stages (``run.json``): name, key of all inputs, digests of the output files, duration, memory.

A stage is recorded after its files are complete, and every file is written atomically. A killed run therefore repeats
one stage at most.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from affectron._internal.files import digest, read_json, write_json
from affectron._internal.memory import peak_bytes
from affectron.errors import InputError

RECORD = "run.json"
FORMAT, VERSION = "affectron.run", 1

# Largest file whose content is hashed. The digest of a larger one covers its name, size and time of change.
_HASHED_BYTES = 1 << 26


class Cache:
    """Record of the finished stages in a run folder.

    Raises:
        InputError: the folder has a record that cannot be read.
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
        """Tell whether the stage was finished with this key and its files are unchanged."""
        entry = self.record["stages"].get(stage)
        return entry is not None and entry["key"] == key and self.whole(stage)

    def whole(self, stage: str) -> bool:
        """Tell whether all files of a recorded stage are there and unchanged."""
        files: dict[str, str] = self.record["stages"][stage]["files"]
        return all(
            (self.folder / name).is_file() and file_digest(self.folder / name) == recorded
            for name, recorded in files.items()
        )

    def seconds(self, stage: str) -> float | None:
        """Return the duration of the stage's last run, or None if it never ran."""
        entry = self.record["stages"].get(stage)
        return None if entry is None else float(entry["seconds"])

    def add(self, stage: str, key: str, files: Sequence[str], seconds: float) -> None:
        """Record a finished stage; remove files of an earlier run that it no longer writes."""
        self.drop(stage, keep=files)
        digests = {name: file_digest(self.folder / name) for name in files}
        entry = {"key": key, "files": digests, "seconds": round(seconds, 3), "peak_bytes": peak_bytes()}
        self.record["stages"][stage] = entry
        self.save()

    def drop(self, stage: str, keep: Sequence[str] = ()) -> None:
        """Remove a stage from the record, and its files except those in ``keep``."""
        entry = self.record["stages"].pop(stage, None)
        for name in entry["files"] if entry else ():
            if name not in keep:
                (self.folder / name).unlink(missing_ok=True)

    def save(self) -> None:
        """Write the record, atomically."""
        write_json(self.folder / RECORD, self.record)


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

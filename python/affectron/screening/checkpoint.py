"""The folder in which a screening keeps its shards, so that an interrupted one goes on where it was.

A shard is a fixed run of the corpus' sentences, and has a file of its own: statistics (:class:`ActivationStats`) with
the place that they reach. The same file serves a snapshot in the middle of a shard and the finished shard, one process
and many. What the shards belong to stands in ``run.json``: nothing else may be added to them.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from affectron._internal.files import atomic_write, digest, read_json, write_json
from affectron._internal.provenance import plain_json
from affectron.errors import InputError
from affectron.stats import ActivationStats

FORMAT = "affectron.shards"
VERSION = 1

_RECORD, _SHARDS = "run.json", "shard-*.safetensors"


@dataclass
class Place:
    """How far a shard is: batches, sentences and tokens read, positions with their padding, sentences cut."""

    shard: int
    batches: int = 0
    sentences: int = 0
    tokens_read: int = 0
    positions: int = 0
    truncated: int = 0
    complete: bool = False

    def plus(self, other: Place) -> Place:
        """Both together."""
        return Place(
            self.shard,
            self.batches + other.batches,
            self.sentences + other.sentences,
            self.tokens_read + other.tokens_read,
            self.positions + other.positions,
            self.truncated + other.truncated,
            self.complete and other.complete,
        )


class ShardFolder:
    """The shards of one run in ``path``; the folder is made when the first of them is saved.

    Args:
        path: the folder.
        run: everything that the numbers depend on, as JSON: a run that differs in any of it is another run.
        resume: go on from what the folder holds; without it the folder must hold nothing.

    Raises:
        InputError: the folder holds shards and ``resume`` is false, or holds those of another run; the message names
            the first field that differs, and both values.
    """

    def __init__(self, path: Path, run: Mapping[str, Any], resume: bool) -> None:
        self.path = path
        self.run = plain_json(run)
        self._digest = digest(repr(sorted(_flat(self.run).items())).encode())
        self._record = path / _RECORD
        self._recorded = path.is_dir() and any(path.glob(_SHARDS))
        if not self._recorded:
            names = [file.name for file in path.iterdir()] if path.is_dir() else []
            # A name with a dot is the lock's, or of a file whose writer was killed.
            other = sorted(name for name in names if name != _RECORD and not name.startswith("."))
            if other:
                raise InputError(f"checkpoint is {path}, which holds {other[0]}; expected a folder for shards alone")
            return
        if not resume:
            raise InputError(
                f"{path} keeps the shards of an interrupted screening: go on with it (--resume), or remove the folder"
            )
        if not self._record.is_file():
            raise InputError(f"{path} has no run.json that tells what its files belong to; expected one, or no files")
        self._check(_flat(read_json(self._record, FORMAT, VERSION).get("run")), _flat(self.run))

    def _check(self, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
        for key in [*now, *(key for key in before if key not in now)]:
            if before.get(key) != now.get(key):
                raise InputError(
                    f"cannot resume from {self.path}: {key} was {before.get(key)!r} and is {now.get(key)!r} now"
                )

    def file(self, shard: int) -> Path:
        return self.path / f"shard-{shard:05d}.safetensors"

    def save(self, stats: ActivationStats, place: Place) -> int:
        """Write what ``stats`` holds of a shard, atomically; returns the bytes written.

        Raises:
            InputError: it cannot be written; what was there before is unchanged.
        """
        self._begin()
        stats.provenance = {"run": self._digest, "place": asdict(place)}
        path = self.file(place.shard)
        stats.save(path)
        return path.stat().st_size

    def receive(self, shard: int, data: bytes) -> None:
        """Write the file of a shard that another folder of this run holds.

        Raises:
            InputError: it cannot be written.
        """
        self._begin()
        with atomic_write(self.file(shard)) as temporary:
            temporary.write_bytes(data)

    def _begin(self) -> None:
        if self._recorded:
            return
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot make the folder {self.path}: {error.strerror or error}") from error
        try:
            write_json(self._record, {"format": FORMAT, "version": VERSION, "run": self.run})
        except InputError:
            with suppress(OSError):  # another process may have written to it meanwhile
                self.path.rmdir()
            raise
        self._recorded = True

    def load(self, shard: int) -> tuple[ActivationStats, Place] | None:
        """What is kept of a shard. None where there is nothing, or a damaged file: that one is warned of, and the shard
        measured anew.

        Raises:
            InputError: the file is whole and belongs to another run or shard.
        """
        path = self.file(shard)
        if not path.exists():
            return None
        try:
            stats = ActivationStats.load(path)
        except InputError as error:
            warnings.warn(f"{error}: shard {shard} is measured anew", RuntimeWarning, stacklevel=2)
            return None
        place = _place(stats.provenance.get("place"))
        if stats.provenance.get("run") != self._digest or place is None or place.shard != shard:
            raise InputError(f"{path} belongs to another run or shard; expected shard {shard} of this run")
        return stats, place

    def whole(self, shard: int) -> tuple[ActivationStats, Place]:
        """A shard that was complete when it was saved.

        Raises:
            InputError: it is so no more.
        """
        kept = self.load(shard)
        if kept is None or not kept[1].complete:
            raise InputError(f"{self.file(shard)} was damaged or removed since it was complete: go on with --resume")
        return kept

    @staticmethod
    def remove(path: Path) -> None:
        """Remove the files of a folder of shards, and the folder where nothing else is in it."""
        with suppress(OSError):
            for file in (*path.glob(_SHARDS), *path.glob(".*.tmp"), path / _RECORD):
                file.unlink(missing_ok=True)
            path.rmdir()

    def places(self, shards: int) -> dict[int, Place]:
        """How far each of the first ``shards`` shards is; those without a whole file are left out."""
        found = ((shard, self.load(shard)) for shard in range(shards))
        return {shard: kept[1] for shard, kept in found if kept is not None}


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """One level of keys, joined by dots, so that a difference can be named."""
    if not isinstance(value, dict):
        return {prefix: value}
    flat = {}
    for key, inner in value.items():
        flat.update(_flat(inner, f"{prefix}.{key}" if prefix else str(key)))
    return flat


def _place(found: Any) -> Place | None:
    names = {field.name for field in fields(Place)}
    if not isinstance(found, dict) or found.keys() != names:
        return None
    return Place(**found) if all(type(value) in (int, bool) for value in found.values()) else None

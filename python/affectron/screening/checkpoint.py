"""Checkpoints: the folder in which a screening keeps its shards, so that an interrupted one can be resumed.

A shard is a fixed run of the corpus' sentences. Its file has its statistics (:class:`ActivationStats`) and its state. A
snapshot in the middle of a shard and the finished shard have the same format, for one process and for many.
``run.json`` records the model, corpus and options of the shards; a run that differs in any of them is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from affectron._internal.files import atomic_write, digest, read_json, write_json
from affectron._internal.provenance import plain_json
from affectron._internal.warning import warn
from affectron.errors import InputError
from affectron.stats import ActivationStats

#: How a screening goes on, as the end of a message.
RESUME = "resume it to go on (--resume; affectron run resumes by itself)"

FORMAT = "affectron.shards"
VERSION = 1

_RECORD, _SHARDS = "run.json", "shard-*.safetensors"


@dataclass
class ShardState:
    """State of a shard: its number, the data read so far, and whether it is complete.

    Attributes:
        shard: number of the shard.
        batches: number of batches.
        sentences: number of sentences.
        tokens_read: number of tokens, without padding.
        positions: number of tokens, with padding.
        truncated: number of sentences that were cut to the model's length.
        complete: True once the whole shard is measured.
    """

    shard: int
    batches: int = 0
    sentences: int = 0
    tokens_read: int = 0
    positions: int = 0
    truncated: int = 0
    complete: bool = False

    def plus(self, other: ShardState) -> ShardState:
        """Add the counts of two shards; the number is that of the first."""
        return ShardState(
            self.shard,
            self.batches + other.batches,
            self.sentences + other.sentences,
            self.tokens_read + other.tokens_read,
            self.positions + other.positions,
            self.truncated + other.truncated,
            self.complete and other.complete,
        )


class ShardFolder:
    """Folder with the shards of one run. It is made when the first shard is saved.

    Args:
        path: the folder.
        run: everything on which the numbers depend, as JSON. A run that differs in any field is another run.
        resume: continue from the shards in the folder; without it the folder must have none.

    Raises:
        InputError: the folder has shards and ``resume`` is False, or has those of another run; the message names the
            first field that differs, and both values.
    """

    def __init__(self, path: Path, run: Mapping[str, Any], resume: bool) -> None:
        self.path = path
        self.run = plain_json(run)
        self._digest = digest(repr(sorted(_flat(self.run).items())).encode())
        self._record = path / _RECORD
        self._recorded = path.is_dir() and any(path.glob(_SHARDS))
        if not self._recorded:
            names = [file.name for file in path.iterdir()] if path.is_dir() else []
            # Names with a dot are those of the lock, and of files whose writer was killed.
            other = sorted(name for name in names if name != _RECORD and not name.startswith("."))
            if other:
                raise InputError(f"checkpoint is {path}, which holds {other[0]}; expected a folder for shards alone")
            return
        if not resume:
            raise InputError(f"{path} keeps the shards of an interrupted screening: {RESUME}, or remove the folder")
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
        """Path of a shard's file."""
        return self.path / f"shard-{shard:05d}.safetensors"

    def save(self, stats: ActivationStats, state: ShardState) -> int:
        """Write the statistics and the state of a shard, atomically, and return the number of bytes.

        Raises:
            InputError: the file cannot be written; an older file is left unchanged.
        """
        self._begin()
        stats.provenance = {"run": self._digest, "place": asdict(state)}
        path = self.file(state.shard)
        stats.save(path)
        return path.stat().st_size

    def receive(self, shard: int, data: bytes) -> None:
        """Write the file of a shard from another folder of this run.

        Raises:
            InputError: the file cannot be written.
        """
        self._begin()
        with atomic_write(self.file(shard)) as temporary:
            temporary.write_bytes(data)

    def _begin(self) -> None:
        """Make the folder and its record, before the first shard is saved."""
        if self._recorded:
            return
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot make the folder {self.path}: {error.strerror or error}") from error
        try:
            write_json(self._record, {"format": FORMAT, "version": VERSION, "run": self.run})
        except InputError:
            with suppress(OSError):  # not empty: another process has written to it
                self.path.rmdir()
            raise
        self._recorded = True

    def load(self, shard: int) -> tuple[ActivationStats, ShardState] | None:
        """Read the statistics and the state of a shard.

        None if there is no file or it is damaged. A damaged file causes a warning, and the shard is measured again.

        Raises:
            InputError: the file is intact but belongs to another run or shard.
        """
        path = self.file(shard)
        if not path.exists():
            return None
        try:
            stats = ActivationStats.load(path)
        except InputError as error:
            warn(f"{error}: shard {shard} is measured anew", RuntimeWarning)
            return None
        state = _state(stats.provenance.get("place"))
        if stats.provenance.get("run") != self._digest or state is None or state.shard != shard:
            raise InputError(f"{path} belongs to another run or shard; expected shard {shard} of this run")
        return stats, state

    def whole(self, shard: int) -> tuple[ActivationStats, ShardState]:
        """Read a shard that was complete when it was saved.

        Raises:
            InputError: the file has been damaged or removed since.
        """
        kept = self.load(shard)
        if kept is None or not kept[1].complete:
            raise InputError(f"{self.file(shard)} was damaged or removed since it was complete: {RESUME}")
        return kept

    @staticmethod
    def remove(path: Path) -> None:
        """Remove the files of a folder of shards and of the folders in it, and each folder if it is empty then."""
        with suppress(OSError):
            for inner in path.iterdir():
                if inner.is_dir() and not inner.is_symlink():
                    ShardFolder.remove(inner)
            for file in (*path.glob(_SHARDS), *path.glob(".*.tmp"), path / _RECORD):
                file.unlink(missing_ok=True)
            path.rmdir()

    def states(self, shards: int) -> dict[int, ShardState]:
        """Read the states of the first ``shards`` shards; those without an intact file are absent."""
        loaded = ((shard, self.load(shard)) for shard in range(shards))
        return {shard: kept[1] for shard, kept in loaded if kept is not None}


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Flatten nested keys to one level, joined by dots, so that a difference can be named."""
    if not isinstance(value, dict):
        return {prefix: value}
    flat = {}
    for key, inner in value.items():
        flat.update(_flat(inner, f"{prefix}.{key}" if prefix else str(key)))
    return flat


def _state(value: Any) -> ShardState | None:
    """Make a state from plain data; None if a field is missing or of another type."""
    names = {field.name for field in fields(ShardState)}
    if not isinstance(value, dict) or value.keys() != names:
        return None
    return ShardState(**value) if all(type(item) in (int, bool) for item in value.values()) else None

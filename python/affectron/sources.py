"""Sources of a corpus' rows: records in memory, a dataset of Hugging Face, a file."""

from __future__ import annotations

import copy
import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from affectron.errors import InputError
from affectron.formats import READERS
from affectron.rows import Columns, Rows


class Source:
    """Where lines come from; ``rows`` gives the same lines at each call."""

    path: Path | None
    name: str

    def __init__(self, columns: Columns) -> None:
        self.columns = columns

    def rows(self) -> Rows:
        raise NotImplementedError

    def check_unchanged(self) -> None:
        """Memory does not change; a file may."""

    def __str__(self) -> str:
        return str(self.path or self.name)


class Memory(Source):
    """Records held in memory, reduced to the columns in use so that later changes by their owner do not show."""

    path = None
    name = "records"

    def __init__(self, records: Iterable[Mapping[str, Any]], columns: Columns) -> None:
        super().__init__(columns)
        self._rows = [(line, copy.deepcopy(self.columns.checked_row(record))) for line, record in enumerate(records, 1)]

    def rows(self) -> Rows:
        return iter(self._rows)


class Dataset(Source):
    """A dataset of Hugging Face: an object, or where to load one from."""

    path = None

    def __init__(self, dataset: Any, config: str | None, columns: Columns) -> None:
        super().__init__(columns)
        try:
            import datasets
        except ImportError:
            raise InputError("reading a dataset needs datasets (pip install 'affectron[data]')") from None
        self.name = "dataset"
        if isinstance(dataset, (str, os.PathLike)):
            self.name = Path(dataset).name
            folder = Path(dataset)
            saved = any((folder / name).is_file() for name in ("dataset_info.json", "dataset_dict.json"))
            try:
                if saved:
                    dataset = datasets.load_from_disk(str(folder))
                else:
                    dataset = datasets.load_dataset(str(dataset), config, streaming=True)
            except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
                why = str(error).partition("\n")[0] or type(error).__name__
                raise InputError(f"cannot load the dataset {self.name}: {why}") from error
        if isinstance(dataset, Mapping):  # of several splits
            self._parts = {str(split): part for split, part in dataset.items()}
        else:
            own = str(getattr(dataset, "split", None) or "")
            self._parts = {own: dataset}

    def rows(self) -> Rows:
        line = 0
        for split, part in self._parts.items():
            features = getattr(part, "features", None) or {}
            named = {name: _class_names(features.get(name)) for name in (*self.columns.labels, self.columns.task)}
            for record in part:
                line += 1
                record = {**record, self.columns.split: record.get(self.columns.split, split or None)}
                for name, names in named.items():
                    if names is not None and record.get(name) is not None:
                        record[name] = _by_name(record[name], names)
                yield line, self.columns.checked_row(record)


def _class_names(feature: Any) -> list[str] | None:
    """The names of a column of class labels, or of lists of them."""
    inner = getattr(feature, "feature", feature)
    if isinstance(inner, list) and inner:
        inner = inner[0]
    names = getattr(inner, "names", None)
    return list(names) if names else None


def _by_name(value: Any, names: list[str]) -> Any:
    if isinstance(value, list):
        return [_by_name(one, names) for one in value]
    return names[value] if isinstance(value, int) and 0 <= value < len(names) else None


class File(Source):
    """A file, whose suffix says how it is read and whose size and time of change say whether it is still the same."""

    path: Path

    def __init__(self, path: Path, columns: Columns) -> None:
        super().__init__(columns)
        self.path = path
        self.name = "/".join(path.absolute().parts[-2:])  # many files are called data.jsonl
        suffix = path.suffix.lower()
        if suffix == ".json":
            raise InputError(f"{path}: one JSON document is not read line by line; write an object a line as .jsonl")
        if suffix not in READERS:
            raise InputError(f"{path}: suffix is {suffix!r}, expected one of {', '.join(READERS)}")
        self._read = READERS[suffix]
        with self._reading() as file:
            self._stamp = self._stamp_of(file)

    def rows(self) -> Rows:
        with self._reading() as file:
            self._check_unchanged(file)
            try:
                yield from self._read(self.path, file, self.columns)
            except OSError as error:
                why = error.strerror or str(error).partition("\n")[0]  # Parquet's own have lines
                raise InputError(f"cannot read {self.path}: {why}") from error
            self._check_unchanged(file)

    def check_unchanged(self) -> None:
        with self._reading() as file:
            self._check_unchanged(file)

    def _reading(self) -> BinaryIO:
        try:
            # Looked at before it is opened: opening a pipe would wait for a writer.
            if not stat.S_ISREG(os.stat(self.path).st_mode):
                raise InputError(f"{self.path} is not a regular file; a corpus is read more than once")
            return open(self.path, "rb")
        except OSError as error:
            raise InputError(f"cannot read {self.path}: {error.strerror or error}") from error

    @staticmethod
    def _stamp_of(file: BinaryIO) -> tuple[int, int]:
        status = os.fstat(file.fileno())
        return status.st_size, status.st_mtime_ns

    def _check_unchanged(self, file: BinaryIO) -> None:
        if self._stamp_of(file) != self._stamp:
            raise InputError(f"{self.path} was changed after it was scanned; make the corpus anew")

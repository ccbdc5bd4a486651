"""Sources of a corpus' rows: records in memory, a dataset of Hugging Face, a file."""

from __future__ import annotations

import copy
import os
import stat
from collections.abc import Iterable, Mapping
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

from affectron.corpus.formats import READERS, TABLES, by_name, class_labels, file_classes
from affectron.corpus.rows import Bad, Columns, Rows
from affectron.errors import InputError


class Source:
    """Where lines come from; ``rows`` gives the same lines at each call."""

    path: Path | None
    name: str
    separator: str | None = None  # what stands between the names in a string

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


#: How the name of a dataset on the Hugging Face Hub begins. Nothing else is looked up there.
HUB = "hf://datasets/"


class Dataset(Source):
    """A dataset of Hugging Face: an object, or where to load one from."""

    path = None

    def __init__(self, dataset: Any, config: str | None, columns: Columns) -> None:
        super().__init__(columns)
        place = os.fspath(dataset) if isinstance(dataset, (str, os.PathLike)) else None
        if place is not None and not place.startswith(HUB) and not os.path.isdir(place):
            what = "is not a folder" if os.path.exists(place) else "does not exist"
            raise InputError(f"{place} {what}; a dataset of the Hugging Face Hub is {HUB}OWNER/NAME")
        try:
            import datasets
        except ImportError:
            raise InputError("reading a dataset needs datasets (pip install 'affectron[data]')") from None
        self.name = "dataset"
        if place is not None:
            self.name = Path(place).name
            try:
                dataset = self._load(place, config)
            except InputError:
                raise
            except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
                why = str(error).partition("\n")[0] or type(error).__name__
                raise InputError(f"cannot load the dataset {self.name}: {why}") from error
        if isinstance(dataset, Mapping):  # of several splits
            self._parts = {str(split): part for split, part in dataset.items()}
        else:
            own = str(getattr(dataset, "split", None) or "")
            self._parts = {own: dataset}

    def _load(self, place: str, config: str | None) -> Any:
        import datasets

        if place.startswith(HUB):
            return datasets.load_dataset(place.removeprefix(HUB), config, streaming=True)
        folder = Path(place).absolute()  # a relative one looks like a name on the Hub
        if any((folder / info).is_file() for info in ("dataset_info.json", "dataset_dict.json")):
            return datasets.load_from_disk(str(folder))
        parts = datasets.load_dataset(str(folder), config, streaming=True)
        files = datasets.load_dataset_builder(str(folder), config).config.data_files or {}
        self._check_classes([Path(file) for of_split in files.values() for file in of_split])
        return parts

    def _check_classes(self, files: Iterable[Path]) -> None:
        """Check that Parquet files agree about their classes, as ``datasets`` takes those of the first for all."""
        of_file = {file: file_classes(file, self.columns.names) for file in files if file.suffix == ".parquet"}
        for first, second in pairwise(of_file):
            if of_file[first] != of_file[second]:
                raise InputError(f"{second} does not name its classes as {first} does; read the files one by one")

    def rows(self) -> Rows:
        line = 0
        for split, part in self._parts.items():
            known = getattr(part, "features", None)
            classes = class_labels(known.to_dict() if known else {}, self.columns.names)
            for record in part:
                line += 1
                record = {**record, self.columns.split: record.get(self.columns.split, split or None)}
                named = by_name(record, classes)
                yield line, named if isinstance(named, Bad) else self.columns.checked_row(named)


class File(Source):
    """A file, whose suffix says how it is read and whose size and time of change say whether it is still the same."""

    path: Path

    def __init__(self, path: Path, columns: Columns, quoting: bool | None) -> None:
        super().__init__(columns)
        self.path = path
        self.name = "/".join(path.absolute().parts[-2:])  # many files are called data.jsonl
        suffix = path.suffix.lower()
        if suffix == ".json":
            raise InputError(f"{path}: one JSON document is not read line by line; write an object a line as .jsonl")
        if suffix not in READERS:
            raise InputError(f"{path}: suffix is {suffix!r}, expected one of {', '.join(READERS)}")
        self._read = READERS[suffix]
        if suffix in TABLES:
            self.separator = "|"
            self._read = partial(self._read, quoting=quoting)
        elif quoting is not None:
            raise InputError(f"quoting is {quoting}, and {path} is no table; it is for {', '.join(TABLES)}")
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

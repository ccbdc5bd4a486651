"""Sources of a corpus' rows: records in memory, a dataset of Hugging Face, a file."""

from __future__ import annotations

import copy
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from affectron._internal.frames import pandas_module
from affectron.corpus.formats import FORMATS, TABLES, by_name, class_labels, file_classes
from affectron.corpus.schema import Rows, Schema
from affectron.corpus.values import BadRow, kind_of
from affectron.errors import InputError
from affectron.options import Columns


class Source:
    """A source of rows that gives the same rows at each pass.

    Attributes:
        path: the file, or None.
        name: the name of a corpus from this source.
        separator: characters between the labels in a string where the caller names none; None if a string is one label.
        schema: the columns.

    Raises:
        InputError: an unusable schema; ``quoting`` is given, and the source is no table.
    """

    path: Path | None = None
    name: str
    separator: str | None = None

    def __init__(self, columns: Columns) -> None:
        self.schema = Schema(columns)
        if columns.quoting is not None and not self._is_table():
            raise InputError(f"quoting is {columns.quoting}, and {self} is no table; it is for {', '.join(TABLES)}")

    def rows(self) -> Rows:
        """Stream the rows from the first on.

        Raises:
            InputError: the source cannot be read.
        """
        raise NotImplementedError

    def check_unchanged(self) -> None:
        """Raise InputError if the source was changed since it was made; only a file can be."""

    def _is_table(self) -> bool:
        return False

    def __str__(self) -> str:
        return str(self.path or self.name)


class Records(Source):
    """Records in memory. Only the columns in use are kept, as copies: later changes to the records do not show."""

    name = "records"

    def __init__(self, records: Iterable[Mapping[str, Any]], columns: Columns) -> None:
        super().__init__(columns)
        self._rows = [(line, copy.deepcopy(self.schema.checked_row(record))) for line, record in enumerate(records, 1)]

    def rows(self) -> Rows:
        return iter(self._rows)


class Frame(Records):
    """A data frame of pandas, or of a library whose frames have ``to_pandas``, as records."""

    name = "frame"

    def __init__(self, frame: Any, columns: Columns) -> None:
        super().__init__(self._records(frame, Schema(columns)), columns)

    def _records(self, frame: Any, schema: Schema) -> Iterator[dict[str, Any]]:
        """The rows, with the columns that the schema names."""
        pandas = pandas_module()
        if not isinstance(frame, pandas.DataFrame) and callable(getattr(frame, "to_pandas", None)):
            frame = frame.to_pandas()
        if not isinstance(frame, pandas.DataFrame):
            raise InputError(f"frame is {kind_of(frame)}, expected a data frame of pandas or polars")
        if frame.columns.nlevels > 1:
            raise InputError(f"frame has columns of {frame.columns.nlevels} levels, expected columns of one name each")
        found = pandas.Index([str(name) for name in frame.columns])  # a table without a header has 0, 1, ...
        if not found.is_unique:
            raise InputError(
                f"frame has the column {found[found.duplicated()][0]!r} twice, expected columns of different names"
            )
        try:
            schema.require(found)
        except BadRow as reason:
            raise InputError(f"frame has {reason}") from None
        names = [name for name in schema.names if name in found]
        columns = (frame.iloc[:, found.get_loc(name)] for name in names)
        cells = (map(_cell, column.astype(object), column.isna()) for column in columns)
        return (dict(zip(names, row, strict=True)) for row in zip(*cells, strict=True))


def _cell(value: Any, missing: bool) -> Any:
    """A cell as plain Python: None where there is no value, lists and numbers of numpy as those of Python."""
    return None if missing else value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value


#: Prefix of the address of a dataset on the Hugging Face Hub. Nothing else is looked up there.
HUB = "hf://datasets/"


class Dataset(Source):
    """A dataset of Hugging Face: an object, or the folder or address to load it from."""

    name = "dataset"

    def __init__(self, dataset: Any, config: str | None, columns: Columns) -> None:
        address = os.fspath(dataset) if isinstance(dataset, (str, os.PathLike)) else None
        self._address = address
        if address is not None:
            self.name = Path(address).name
        super().__init__(columns)
        if address is not None and not address.startswith(HUB) and not os.path.isdir(address):
            problem = "is not a folder" if os.path.exists(address) else "does not exist"
            raise InputError(f"{address} {problem}; a dataset of the Hugging Face Hub is {HUB}OWNER/NAME")
        try:
            import datasets
        except ImportError:
            raise InputError("reading a dataset needs datasets (pip install 'affectron[data]')") from None
        if address is not None:
            try:
                dataset = self._load(address, config)
            except InputError:
                raise
            except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
                why = str(error).partition("\n")[0] or type(error).__name__
                raise InputError(f"cannot load the dataset {self.name}: {why}") from error
        if isinstance(dataset, Mapping):  # of several splits
            self._parts = {str(split): part for split, part in dataset.items()}
        else:
            self._parts = {str(getattr(dataset, "split", None) or ""): dataset}

    def __str__(self) -> str:
        return self._address or self.name

    def _load(self, address: str, config: str | None) -> Any:
        import datasets

        if address.startswith(HUB):
            return datasets.load_dataset(address.removeprefix(HUB), config, streaming=True)
        folder = Path(address).absolute()  # a relative one looks like a name on the Hub
        if any((folder / info).is_file() for info in ("dataset_info.json", "dataset_dict.json")):
            return datasets.load_from_disk(str(folder))
        parts = datasets.load_dataset(str(folder), config, streaming=True)
        files = datasets.load_dataset_builder(str(folder), config).config.data_files or {}
        self._check_classes([Path(file) for of_split in files.values() for file in of_split])
        return parts

    def _check_classes(self, files: Iterable[Path]) -> None:
        """Check that Parquet files name the same classes: ``datasets`` applies those of the first file to all."""
        of_file = {file: file_classes(file, self.schema.names) for file in files if file.suffix == ".parquet"}
        for first, second in pairwise(of_file):
            if of_file[first] != of_file[second]:
                raise InputError(f"{second} does not name its classes as {first} does; read the files one by one")

    def rows(self) -> Rows:
        line = 0
        options = self.schema.options
        whole = options.held_out is not None and len(self._parts) == 1  # one split is no division
        for split, part in self._parts.items():
            features = getattr(part, "features", None)
            classes = class_labels(features.to_dict() if features else {}, self.schema.names)
            for record in part:
                line += 1
                own = None if whole else split or None
                record = {**record, options.split: record.get(options.split, own)}
                named = by_name(record, classes)
                yield line, named if isinstance(named, BadRow) else self.schema.checked_row(named)


class File(Source):
    """A file. Its suffix names the format; its size and time of change tell whether it is still the same file."""

    path: Path

    def __init__(self, path: Path, columns: Columns) -> None:
        self.path = path
        self.name = "/".join(path.absolute().parts[-2:])  # many files are called data.jsonl
        suffix = path.suffix.lower()
        if suffix == ".json":
            raise InputError(f"{path}: one JSON document is not read line by line; write an object a line as .jsonl")
        if suffix not in FORMATS:
            raise InputError(f"{path}: suffix is {suffix!r}, expected one of {', '.join(FORMATS)}")
        self._read = FORMATS[suffix]
        super().__init__(columns)
        if self._is_table():
            self.separator = "|"
        with self._open() as file:
            self._stamp = self._stamp_of(file)

    def rows(self) -> Rows:
        with self._open() as file:
            self._check_stamp(file)
            try:
                yield from self._read(self.path, file, self.schema)
            except OSError as error:
                why = error.strerror or str(error).partition("\n")[0]  # pyarrow's messages have several lines
                raise InputError(f"cannot read {self.path}: {why}") from error
            self._check_stamp(file)

    def check_unchanged(self) -> None:
        with self._open() as file:
            self._check_stamp(file)

    def _is_table(self) -> bool:
        return self.path.suffix.lower() in TABLES

    def _open(self) -> BinaryIO:
        try:
            # The kind is looked at before the file is opened: opening a pipe would wait for a writer.
            if not stat.S_ISREG(os.stat(self.path).st_mode):
                raise InputError(f"{self.path} is not a regular file; a corpus is read more than once")
            return open(self.path, "rb")
        except OSError as error:
            raise InputError(f"cannot read {self.path}: {error.strerror or error}") from error

    @staticmethod
    def _stamp_of(file: BinaryIO) -> tuple[int, int]:
        status = os.fstat(file.fileno())
        return status.st_size, status.st_mtime_ns

    def _check_stamp(self, file: BinaryIO) -> None:
        if self._stamp_of(file) != self._stamp:
            raise InputError(f"{self.path} was changed after it was scanned; make the corpus anew")

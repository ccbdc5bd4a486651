"""File formats of corpora: how the rows of an open file are read, a reader for each suffix."""

from __future__ import annotations

import codecs
import csv
import json
from collections.abc import Callable, Iterator
from itertools import repeat
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

from affectron.errors import InputError
from affectron.rows import Bad, Columns, Row, Rows, is_unicode

#: Reads the rows of an open file; the path is its name in messages.
Reader: TypeAlias = Callable[[Path, BinaryIO, Columns], Rows]

#: What separates the labels (and their tasks) in a cell of a CSV or TSV file.
CELL_SEPARATOR = "|"


def _read_jsonl(path: Path, file: BinaryIO, columns: Columns) -> Rows:
    decode = json.JSONDecoder().raw_decode  # json.loads takes twice the time
    for line, text in enumerate(map(str.strip, _lines(file)), 1):
        if not text:
            continue  # a blank line
        row: Row | Bad
        try:
            record, end = decode(text)
            if end < len(text):
                raise json.JSONDecodeError("Extra data", text, end)
            row = columns.checked_row(record) if is_unicode(text) else _not_utf8(text)
        except json.JSONDecodeError as error:
            row = Bad(f"not JSON: {error.msg} at column {error.colno}")
        except (ValueError, RecursionError) as error:  # a number too long to be read; nested too deep
            row = Bad(f"not JSON that can be read: {error}")
        yield line, row


def _read_table(path: Path, file: BinaryIO, columns: Columns, delimiter: str) -> Rows:
    # strict: a quote that is never closed is reported where it opens, not read as one long field.
    reader = csv.reader(_lines(file), delimiter=delimiter, strict=True)
    try:
        header = next(reader)
    except StopIteration:
        raise InputError(f"{path} is empty; expected a header line") from None
    except csv.Error as error:
        raise InputError(f"{path}:1: the header cannot be read: {error}") from None
    places = _find_columns(path, columns, header)
    while True:
        line = reader.line_num + 1
        row: Row | Bad
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            row = Bad(f"{error} (a field with quotes in it must be quoted whole, its quotes doubled)")
        else:
            if not cells:
                continue  # a blank line
            if not is_unicode("".join(cells)):
                row = _not_utf8("".join(cells))
            elif len(cells) != len(header):
                row = Bad(f"number of fields is {len(cells)}, expected {len(header)} as in the header")
            else:
                record: dict[str, Any] = {name: cells[at] for name, at in places.items() if at is not None}
                for name in (*columns.labels, columns.task):
                    record[name] = _cell_names(record.get(name))
                row = columns.row(record)
        yield line, row


def _read_csv(path: Path, file: BinaryIO, columns: Columns) -> Rows:
    return _read_table(path, file, columns, ",")


def _read_tsv(path: Path, file: BinaryIO, columns: Columns) -> Rows:
    return _read_table(path, file, columns, "\t")


def _read_parquet(path: Path, file: BinaryIO, columns: Columns) -> Rows:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise InputError(f"{path}: reading Parquet needs pyarrow (pip install 'affectron[data]')") from None
    try:
        table = pq.ParquetFile(file)
        places = _find_columns(path, columns, table.schema_arrow.names)
        names = [name for name, place in places.items() if place is not None]
        line = 0
        for batch in table.iter_batches(batch_size=4096, columns=names):
            for record in _arrow_records(batch, names):
                row = record if isinstance(record, Bad) else columns.row(record)
                line += 1
                yield line, row
    except pa.ArrowException as error:
        why = str(error).partition("\n")[0]
        raise InputError(f"{path} is not a Parquet file that can be read: {why}") from error


def _find_columns(path: Path, columns: Columns, header: list[str]) -> dict[str, int | None]:
    """The place of each column in a header; None for an optional one that is absent."""
    try:
        columns.require(header)
    except Bad as bad:
        raise InputError(f"{path}: {bad}") from None
    for column in columns.names:
        if header.count(column) > 1:
            raise InputError(f"{path}: the header names column {column!r} more than once")
    return {column: header.index(column) if column in header else None for column in columns.names}


def _lines(file: BinaryIO) -> Iterator[str]:
    """The file's lines without a byte-order mark; bytes that are not UTF-8 become lone surrogates, as an exception
    would end the reading."""
    if file.read(3) != codecs.BOM_UTF8:
        file.seek(0)
    return map(bytes.decode, file, repeat("utf-8"), repeat("surrogateescape"))


def _not_utf8(text: str) -> Bad:
    byte = next(ord(char) - 0xDC00 for char in text if 0xDC80 <= ord(char) <= 0xDCFF)
    return Bad(f"not UTF-8 (byte 0x{byte:02x})")


def _cell_names(cell: str | None) -> str | list[str] | None:
    return cell.split(CELL_SEPARATOR) if cell is not None and CELL_SEPARATOR in cell else cell


def _arrow_records(batch: Any, names: list[str]) -> Iterator[dict[str, Any] | Bad]:
    """The batch's rows by column."""
    try:
        values = [batch.column(name).to_pylist() for name in names]
    except UnicodeDecodeError as error:
        if len(batch) == 1:
            yield Bad(f"not UTF-8 (byte 0x{error.object[error.start]:02x})")
        else:  # one value spoils the whole batch
            for place in range(len(batch)):
                yield from _arrow_records(batch.slice(place, 1), names)
    else:
        for row in zip(*values, strict=True):
            yield dict(zip(names, row, strict=True))


READERS: dict[str, Reader] = {
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".parquet": _read_parquet,
}

"""File formats of corpora: a function for each suffix that reads the rows of an open file."""

from __future__ import annotations

import codecs
import csv
import json
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

from affectron._internal.files import HEAD_BYTES, check_text
from affectron.corpus.schema import Row, Rows, Schema
from affectron.corpus.values import BadRow, is_unicode
from affectron.errors import InputError

#: Reads the rows of an open file; the path is the file's name in messages.
Format: TypeAlias = Callable[[Path, BinaryIO, Schema], Rows]

#: The longest field of a table. A longer field begins with a quote that is never closed.
MOST_CHARACTERS = 1 << 26
#: Most distinct label fields of a table in which merged rows are looked for: with more, the fields are no labels.
MOST_LABELS = 1 << 14
# A field that CSV has quoted: its own quotes are doubled.
_QUOTED = re.compile(r'"(?:[^"]|"")*"')
# The csv module has one limit on a field's length for the whole process: it is raised for a row at a time.
_limit_lock = threading.Lock()


def _read_jsonl(path: Path, file: BinaryIO, schema: Schema) -> Rows:
    decode = json.JSONDecoder().raw_decode  # json.loads takes twice the time
    for line, text in enumerate(map(str.strip, _lines(path, file)), 1):
        if not text:
            continue  # a blank line
        row: Row | BadRow
        try:
            record, end = decode(text)
            if end < len(text):
                raise json.JSONDecodeError("Extra data", text, end)
            row = schema.checked_row(record) if is_unicode(text) else _not_utf8(text)
        except json.JSONDecodeError as error:
            row = BadRow(f"not JSON: {error.msg} at column {error.colno}")
        except (ValueError, RecursionError) as error:  # a number of too many digits; lists nested too deep
            row = BadRow(f"not JSON that can be read: {error}")
        yield line, row


def _read_table(delimiters: str, path: Path, file: BinaryIO, schema: Schema) -> Rows:
    """Rows of a table. Its delimiter is the first of ``delimiters`` that finds the columns in the header.

    Raises:
        InputError: the header cannot be used; ``quoting`` is not given, and the file may be quoted or not.
    """
    first = next(_lines(path, file), None)
    if first is None:
        raise InputError(f"{path} is empty; expected a header line")
    if "\r" in first.rstrip("\r\n"):
        raise InputError(f"{path}:1: a carriage return stands within the line; expected lines that end with LF or CRLF")
    headers = {delimiter: _header(first, delimiter) for delimiter in delimiters}
    fitting = [delimiter for delimiter, header in headers.items() if schema.is_met_by(header)]
    # If none finds the columns, the one that finds the most fields gives the best message.
    delimiter = fitting[0] if fitting else max(headers, key=lambda delimiter: len(headers[delimiter]))
    quoting = schema.options.quoting
    lines = _lines(path, file)
    if quoting or (quoting is None and delimiter != "\t"):
        rows = _quoted_rows(path, lines, delimiter)
    else:
        rows = _plain_rows(path, lines, delimiter, undecided=quoting is None)
    _, header = next(rows)
    if isinstance(header, BadRow):
        raise InputError(f"{path}:1: the header cannot be read: {header}")
    if not is_unicode("".join(header)):
        raise InputError(f"{path}:1: {_not_utf8(''.join(header))}")
    positions = _find_columns(path, schema, header)
    label_position = header.index(schema.labels[0])
    merged = _MergedRows(path, delimiter, len(header), label_position) if quoting is None else None
    for line, cells in rows:
        row: Row | BadRow
        if isinstance(cells, BadRow):
            row = cells
        elif not cells:
            continue  # a blank line
        elif not is_unicode(text := delimiter.join(cells)):
            row = _not_utf8(text)
        elif len(cells) != len(header):
            row = BadRow(f"number of fields is {len(cells)}, expected {len(header)} as in the header")
        else:
            row = schema.row({name: cells[position] for name, position in positions.items()})
            if merged:
                merged.add(line, text, cells[label_position])
        yield line, row
    if merged:
        merged.check()


class _MergedRows:
    """Finds rows that a stray quote has merged into a field.

    Such a field goes over several lines. Each of these would be a row, and one of them has a label of another row.
    """

    def __init__(self, path: Path, delimiter: str, width: int, label_position: int) -> None:
        self.path = path
        self.delimiter = delimiter
        self.width = width
        self.label_position = label_position
        self._labels: set[str] = set()
        self._within: dict[str, int] = {}  # label fields that lines within a row would have -> line of the row

    def add(self, line: int, text: str, label: str) -> None:
        """Add the row that begins in ``line``: its fields joined by delimiters, and its label field."""
        if max(len(self._labels), len(self._within)) >= MOST_LABELS:
            return
        self._labels.add(label.strip())
        if "\n" not in text:
            return
        rows = [part.split(self.delimiter) for part in text.split("\n")]
        if all(len(row) == self.width for row in rows):
            names = [row[self.label_position].strip() for row in rows]
            if label.strip() in names:
                names.remove(label.strip())
            for name in filter(None, names):
                self._within.setdefault(name, line)

    def check(self) -> None:
        """Raise InputError if rows have been merged."""
        if shared := self._labels & self._within.keys():
            line = min(self._within[name] for name in shared)
            raise InputError(
                f"{self.path}:{line}: a field in quotes goes over lines that would be rows with labels of this file; "
                "give quoting as false if its quotes are text, as true if it is one field"
            )


def _header(line: str, delimiter: str) -> list[str]:
    try:
        return _next_row(csv.reader([line], delimiter=delimiter))
    except csv.Error:  # reported when the file is read
        return []


def _quoted_rows(path: Path, lines: Iterator[str], delimiter: str) -> Iterator[tuple[int, list[str] | BadRow]]:
    """Rows of a table in which fields may be quoted as in CSV.

    Raises:
        InputError: a quote is never closed: where the next row begins is not known.
    """
    # strict: a quote that is never closed is an error, not the beginning of one long field.
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        line = reader.line_num + 1
        cells: list[str] | BadRow
        try:
            cells = _next_row(reader)
        except StopIteration:
            return
        except csv.Error as error:
            reason = str(error)
            if reason.startswith(("unexpected end of data", "field larger")):
                raise InputError(f"{path}:{line}: a field that opens here with a quote is never closed") from None
            if reason.startswith("new-line character"):
                reason = "a carriage return stands in a field without quotes"
            elif "expected after" in reason:
                reason += " (a field with quotes in it must be quoted whole, its quotes doubled)"
            cells = BadRow(reason if reader.line_num <= line else f"{reason}; the row ends in line {reader.line_num}")
        yield line, cells


def _next_row(reader: Iterator[list[str]]) -> list[str]:
    with _limit_lock:
        before = csv.field_size_limit(MOST_CHARACTERS)
        try:
            return next(reader)
        finally:
            csv.field_size_limit(before)


def _plain_rows(
    path: Path, lines: Iterator[str], delimiter: str, undecided: bool
) -> Iterator[tuple[int, list[str] | BadRow]]:
    """Rows of a table in which each line is a row and quotes are ordinary characters.

    Raises:
        InputError: ``undecided`` is set, and the file may be quoted as in CSV: a line with quotes in it has too many or
            too few fields; a field in quotes has its own quotes doubled, or is of the header; some fields stand in
            quotes, and no other field has a quote, which CSV would have quoted.
    """

    def unclear(line: int, field: str, why: str = "") -> InputError:
        shown = field if len(field) <= 40 else f"{field[:40]}..."
        return InputError(
            f"{path}:{line}: {why}the quotes in {shown} may be text, as in TSV, or around fields, as in CSV; "
            "give quoting as false to keep them, as true to read them as CSV does"
        )

    width = 0
    quoted: tuple[int, str] | None = None  # the first field that stands in quotes
    literal = False  # a quote stands as CSV would not write it
    for line, text in enumerate(lines, 1):
        text = text.removesuffix("\n").removesuffix("\r")
        cells = text.split(delimiter) if text else []
        width = width or len(cells)
        if undecided and '"' in text:
            for cell in (cell for cell in cells if '"' in cell):
                if len(cells) != width:
                    raise unclear(line, cell, f"number of fields is {len(cells)}, expected {width} as in the header; ")
                if not _QUOTED.fullmatch(cell):
                    literal = True
                elif line == 1 or '""' in cell[1:-1]:
                    raise unclear(line, cell)
                else:
                    quoted = quoted or (line, cell)
        yield line, cells
    if quoted and not literal:
        raise unclear(*quoted)


def _read_parquet(path: Path, file: BinaryIO, schema: Schema) -> Rows:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise InputError(f"{path}: reading Parquet needs pyarrow (pip install 'affectron[data]')") from None
    try:
        table = pq.ParquetFile(file)
        names = list(_find_columns(path, schema, table.schema_arrow.names))
        classes = class_labels(_features(path, table.schema_arrow.metadata), names)
        line = 0
        for batch in table.iter_batches(batch_size=4096, columns=names):
            for record in _arrow_records(batch, names):
                line += 1
                named = record if isinstance(record, BadRow) else by_name(record, classes)
                yield line, named if isinstance(named, BadRow) else schema.row(named)
    except pa.ArrowException as error:
        why = str(error).partition("\n")[0]
        raise InputError(f"{path} is not a Parquet file that can be read: {why}") from error


def _features(path: Path, metadata: Mapping[bytes, bytes] | None) -> Any:
    """Features of the columns, as Hugging Face ``datasets`` writes them into the metadata of a Parquet file."""
    try:
        return json.loads((metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
    except (KeyError, TypeError):
        return {}
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: the entry 'huggingface' of its metadata is not JSON: {error}") from error


def file_classes(path: Path, columns: Iterable[str]) -> dict[str, Any]:
    """The features with class labels (:func:`class_labels`) of a Parquet file."""
    import pyarrow.parquet as pq

    return class_labels(_features(path, pq.read_schema(path).metadata), columns)


def class_labels(features: Any, columns: Iterable[str]) -> dict[str, Any]:
    """The features of those columns that hold class labels; ``features`` as of ``datasets.Features.to_dict``."""
    if not isinstance(features, dict):
        return {}
    return {name: features[name] for name in columns if name in features and "ClassLabel" in json.dumps(features[name])}


def by_name(record: dict[str, Any], classes: Mapping[str, Any]) -> dict[str, Any] | BadRow:
    """The record with the numbers of class labels replaced by their names, or the reason why it cannot be used."""
    try:
        return {**record, **{name: _named(record.get(name), feature, name) for name, feature in classes.items()}}
    except BadRow as reason:
        return reason


def _named(value: Any, feature: Any, column: str) -> Any:
    """A value with class labels replaced by their names, also within lists and objects; -1 becomes None."""
    if isinstance(feature, list) and feature and isinstance(value, list):
        return [_named(item, feature[0], column) for item in value]
    if not isinstance(feature, Mapping):
        return value
    kind = feature.get("_type")
    if kind is None and isinstance(value, Mapping):  # an object, its features by name
        return {name: _named(item, feature.get(name), column) for name, item in value.items()}
    if "feature" in feature and isinstance(value, list):
        return [_named(item, feature["feature"], column) for item in value]
    names = feature.get("names")
    if kind != "ClassLabel" or not isinstance(names, list) or not isinstance(value, int) or value == -1:
        return None if kind == "ClassLabel" and value == -1 else value  # -1 stands for no label
    if not 0 <= value < len(names):
        raise BadRow(f"{column} has class {value}, expected one of the {len(names)} that have names")
    return names[value]


def _find_columns(path: Path, schema: Schema, header: list[str]) -> dict[str, int]:
    """The position in a header of each column that it has.

    Raises:
        InputError: a column that must exist is missing; a column is there more than once.
    """
    try:
        schema.require(header)
    except BadRow as reason:
        raise InputError(f"{path}: {reason}") from None
    for column in schema.names:
        if header.count(column) > 1:
            raise InputError(f"{path}: the header names column {column!r} more than once")
    return {column: header.index(column) for column in schema.names if column in header}


def _lines(path: Path, file: BinaryIO) -> Iterator[str]:
    """The file's lines, without a byte-order mark.

    Bytes that are not UTF-8 become lone surrogates, so that the next lines can still be read.

    Raises:
        InputError: the file has another encoding, or is no text.
    """
    file.seek(0)
    head = file.read(HEAD_BYTES)
    marked = head.startswith(codecs.BOM_UTF8)
    check_text(path, head[len(codecs.BOM_UTF8) if marked else 0 :])
    file.seek(len(codecs.BOM_UTF8) if marked else 0)
    return map(bytes.decode, file, repeat("utf-8"), repeat("surrogateescape"))


def _not_utf8(text: str) -> BadRow:
    byte = next(ord(char) - 0xDC00 for char in text if 0xDC80 <= ord(char) <= 0xDCFF)
    return BadRow(f"not UTF-8 (byte 0x{byte:02x})")


def _arrow_records(batch: Any, names: list[str]) -> Iterator[dict[str, Any] | BadRow]:
    """The rows of an Arrow record batch as mappings; in place of a row that is not UTF-8 stands the reason."""
    try:
        values = [batch.column(name).to_pylist() for name in names]
    except UnicodeDecodeError as error:
        if len(batch) == 1:
            yield BadRow(f"not UTF-8 (byte 0x{error.object[error.start]:02x})")
        else:  # the whole batch fails: read its rows one by one
            for row in range(len(batch)):
                yield from _arrow_records(batch.slice(row, 1), names)
    else:
        for row_values in zip(*values, strict=True):
            yield dict(zip(names, row_values, strict=True))


#: Formats of tables, by suffix. Spreadsheets delimit CSV with semicolons where the comma is the decimal mark, and with
#: tabs where they are told to.
TABLES: dict[str, Format] = {".csv": partial(_read_table, ",;\t"), ".tsv": partial(_read_table, "\t")}
#: Formats of files, by suffix.
FORMATS: dict[str, Format] = {".jsonl": _read_jsonl, ".ndjson": _read_jsonl, **TABLES, ".parquet": _read_parquet}

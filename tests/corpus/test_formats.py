"""Files as people have them: tables that quote otherwise than CSV, lists of labels in a field, class labels of Hugging
Face, other encodings. No row is merged, no text changed and no label made up without a word."""

from __future__ import annotations

import csv
import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from affectron.corpus import Corpus
from affectron.errors import InputError
from tests.support.errors import message

Pairs = list[tuple[str, tuple[str, ...]]]


def texts_and_labels(corpus: Corpus) -> Pairs:
    return [(sentence.text, sentence.labels) for sentence in corpus]


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_bytes(text.encode(encoding))
    return path


def table(path: Path, rows: Sequence[Sequence[str]], **options: Any) -> Path:
    """The rows below a header, as the csv module writes them."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="," if path.suffix == ".csv" else "\t", **options)
        writer.writerows([["text", "label"], *rows])
    return path


def parquet(path: Path, rows: list[dict[str, Any]], features: dict[str, Any]) -> Path:
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    datasets.Dataset.from_list(rows, datasets.Features(features)).to_parquet(str(path))
    return path


# --- quotes in TSV ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "texts",
    [
        ['"I hate it here', "Came by, said hello", 'and then he said "', "bye"],
        ['He said "no".', "plain"],
        ['"Well", he said', '"Hello there."', 'an inch: 1"'],  # quotes around a whole text, but elsewhere too
        ['"', "plain", '"a" and "b"'],
        ["", " 'x' "],
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_line_of_tsv_is_a_row_and_its_quotes_are_text(tmp_path: Path, texts: list[str], end: str) -> None:
    texts = [text or "filled" for text in texts]
    path = write(tmp_path / "c.tsv", end.join(["text\tlabel", *(f"{text}\tx" for text in texts)]))
    assert texts_and_labels(Corpus.from_file(path)) == [(text, ("x",)) for text in texts]


@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
@pytest.mark.parametrize("suffix", ["csv", "tsv"])
@given(texts=st.lists(st.text("ab\"\t\n\r,; '\\", min_size=1).filter(str.strip), min_size=1, max_size=5))
@example(texts=["a\tb\nc"])
@example(texts=['He said "no".'])
@example(texts=["two\nlines"])
@example(texts=["\t;\n\n"])
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_quoted_table_is_read_as_quoted_or_refused(
    tmp_path: Path, suffix: str, quoting: Any, texts: list[str]
) -> None:
    """Unless told, a TSV file that the csv module has quoted is refused, or every line of it is a row of its own."""
    path = table(tmp_path / f"c.{suffix}", [(text, "x") for text in texts], quoting=quoting)
    assert [sentence.text for sentence in Corpus.from_file(path, quoting=True)] == texts
    if suffix == "csv":
        assert [sentence.text for sentence in Corpus.from_file(path)] == texts
        return
    lines = [line.removesuffix("\r") for line in path.read_bytes().decode().split("\n")[1:]]
    fields = [line.split("\t") for line in lines if line]  # a blank line is no row
    try:
        read = texts_and_labels(Corpus.from_file(path))
    except InputError:
        assert '"' in path.read_text()
    else:
        assert read == [(text, (label.strip(),)) for text, label in fields]


@pytest.mark.parametrize(
    ("rows", "start"),
    [
        (['"Hello, there"\tx', "plain\tx"], '2: the quotes in "Hello, there" may'),
        (["plain\tx", '"He said ""no""."\tx', 'an inch: 1"\tx'], '3: the quotes in "He said ""no""." may'),
        (['"two', 'lines"\tx'], '2: number of fields is 1, expected 2 as in the header; the quotes in "two may'),
        (['"a\tb"\tx'], '2: number of fields is 3, expected 2 as in the header; the quotes in "a may'),
    ],
)
@pytest.mark.parametrize("on_bad_line", ["error", "skip"])
def test_tsv_that_may_be_quoted_is_refused(tmp_path: Path, rows: list[str], start: str, on_bad_line: Any) -> None:
    path = write(tmp_path / "c.tsv", "\n".join(["text\tlabel", *rows]))
    line = message(lambda: Corpus.from_file(path, on_bad_line=on_bad_line))
    assert line.startswith(f"{path}:{start} be text, as in TSV, or around fields, as in CSV; give quoting as false")
    with open(path, encoding="utf-8", newline="") as file:
        quoted = [tuple(row) for row in csv.reader(file, delimiter="\t")][1:]
    if all(len(row) == 2 for row in quoted):
        assert texts_and_labels(Corpus.from_file(path, quoting=True)) == [(text, (label,)) for text, label in quoted]
    fields = [row.split("\t") for row in rows]
    kept = Corpus.from_file(path, quoting=False, on_bad_line="skip") if any(len(f) == 2 for f in fields) else []
    assert [sentence.text for sentence in kept] == [f[0] for f in fields if len(f) == 2]


def test_a_quoted_header_of_tsv_and_quoting_of_other_files(tmp_path: Path) -> None:
    path = table(tmp_path / "c.tsv", [("a", "x")], quoting=csv.QUOTE_ALL)
    assert message(lambda: Corpus.from_file(path)).startswith(f'{path}:1: the quotes in "text" may be text')
    path = write(tmp_path / "c.jsonl", '{"text": "a", "label": "x"}')
    line = message(lambda: Corpus.from_file(path, quoting=True))
    assert line == f"quoting is True, and {path} is no table; it is for .csv, .tsv"


# --- CSV of spreadsheets ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_the_delimiter_of_csv_is_the_one_that_finds_the_columns(tmp_path: Path, delimiter: str, mark: str) -> None:
    rows = [("id", "text", "label"), ("1", "one, two; three", "x"), ("2", "vier", "y|x")]
    lines = [delimiter.join(f'"{field}"' if delimiter in field else field for field in row) for row in rows]
    path = write(tmp_path / "c.csv", mark + "\r\n".join(lines))
    assert texts_and_labels(Corpus.from_file(path)) == [("one, two; three", ("x",)), ("vier", ("x", "y"))]
    path = write(tmp_path / "d.csv", mark + "\r\n".join(lines).replace("label", "kind"))
    assert "no label column 'label'; columns found: " in message(lambda: Corpus.from_file(path))


@pytest.mark.parametrize(
    "row", ['"He said \\"no\\"",x', '"a" b,x', "a\rb,x", "a,x,x", "a"], ids=["backslash", "after", "cr", "many", "few"]
)
def test_a_row_that_csv_does_not_write_is_bad_and_only_that(tmp_path: Path, row: str) -> None:
    path = write(tmp_path / "c.csv", f"text,label\ngood,x\n{row}\nalso good,y\n")
    assert message(lambda: Corpus.from_file(path)).startswith(f"{path}:3: ")
    corpus = Corpus.from_file(path, on_bad_line="skip")
    assert (texts_and_labels(corpus), corpus.skipped) == ([("good", ("x",)), ("also good", ("y",))], 1)


@pytest.mark.parametrize("label_first", [False, True])
@pytest.mark.parametrize("delimiter", [",", ";"])
def test_a_quote_in_csv_that_swallows_rows_is_told_from_a_text_of_several_lines(
    tmp_path: Path, label_first: bool, delimiter: str
) -> None:
    def lines(*rows: tuple[str, str]) -> str:
        return "\n".join(delimiter.join(row[::-1] if label_first else row) for row in rows)

    swallowing = [('"I hate it', "anger"), ("Came by", "joy"), ('and said "', "sadness"), ("bye", "joy")]
    if label_first:  # a quote that opens within a line closes before its end
        swallowing = [('"I hate it', "anger"), ("Came by", "joy"), ('and said"', "sadness"), ("bye", "joy")]
    path = write(tmp_path / "c.csv", lines(("text", "label"), *swallowing))
    for on_bad_line in ("error", "skip"):
        error = message(lambda how=on_bad_line: Corpus.from_file(path, on_bad_line=how))
        assert error.startswith(f"{path}:2: a field in quotes goes over lines that would be rows with labels")
    assert len(Corpus.from_file(path, quoting=True)) == 2
    assert texts_and_labels(Corpus.from_file(path, quoting=False)) == [(text, (label,)) for text, label in swallowing]
    path = write(tmp_path / "c.csv", lines(("text", "label"), ("a", '"joy'), ("b", 'anger"'), ("c", "joy")))
    assert ":2: a field in quotes goes over lines" in message(lambda: Corpus.from_file(path))
    texts = [f"Dear all{delimiter}\nplease find it{delimiter}\nyours", f"a{delimiter} b\nc", "plain\n\ntext", "anger"]
    path = write(tmp_path / "d.csv", lines(("text", "label"), *((f'"{text}"', "joy") for text in texts)))
    assert texts_and_labels(Corpus.from_file(path)) == [(text, ("joy",)) for text in texts]


def test_a_stray_quote_within_a_field_is_text(tmp_path: Path) -> None:
    path = write(tmp_path / "c.csv", 'text,label\nan inch: 1",x\nHe said "no" and,y\n')
    assert texts_and_labels(Corpus.from_file(path)) == [('an inch: 1"', ("x",)), ('He said "no" and', ("y",))]


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl"])
@pytest.mark.parametrize("quoting", [None, True])
def test_long_fields_are_read_and_the_limit_is_left_alone(tmp_path: Path, suffix: str, quoting: bool | None) -> None:
    long = "word " * 40_000 + "end"
    if suffix == "jsonl":
        quoting = None
        path = write(tmp_path / "c.jsonl", "\n".join(json.dumps({"text": t, "label": "x"}) for t in (long, "hi")))
    else:
        path = table(tmp_path / f"c.{suffix}", [(long, "x"), ("hi", "x")])
        rows = [("unused", "text", "label"), (long, "hi", "x")]
        unused = write(tmp_path / f"unused.{suffix}", "\n".join(map(("," if suffix == "csv" else "\t").join, rows)))
        assert texts_and_labels(Corpus.from_file(unused, quoting=quoting)) == [("hi", ("x",))]
    before = csv.field_size_limit(1000)
    try:
        corpus = Corpus.from_file(path, quoting=quoting)
        sentences = iter(corpus)
        assert next(sentences).text == long
        assert csv.field_size_limit() == 1000
        assert [sentence.text for sentence in sentences] == ["hi"]
    finally:
        csv.field_size_limit(before)


def test_the_limit_is_put_back_when_several_threads_read(tmp_path: Path) -> None:
    path = table(tmp_path / "c.csv", [("word " * 30_000, "x")] * 20)
    before = csv.field_size_limit()
    lengths: list[int] = []
    threads = [threading.Thread(target=lambda: lengths.append(len(Corpus.from_file(path)))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert lengths == [20] * 4
    assert csv.field_size_limit() == before


# --- class labels ----------------------------------------------------------------------------------------------


def class_features() -> dict[str, Any]:
    datasets = pytest.importorskip("datasets")
    mood, tone = datasets.ClassLabel(names=["sad", "glad"]), datasets.ClassLabel(names=["wry", "plain", "loud"])
    return {"one": mood, "many": datasets.Sequence(tone), "text": datasets.Value("string")}


def test_parquet_has_the_class_labels_that_the_dataset_has(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = [
        {"one": 0, "many": [2], "text": "a"},
        {"one": 1, "many": [0, 1], "text": "b"},
        {"one": -1, "many": [1], "text": "c"},
    ]
    path = parquet(tmp_path / "c.parquet", rows, class_features())
    names = [("sad", "loud"), ("glad", "plain", "wry"), ("plain",)]
    for label_column, expected in (("many", [("loud",), ("plain", "wry"), ("plain",)]), (("one", "many"), names)):
        corpus = Corpus.from_file(path, label_column=label_column)
        same = Corpus.from_dataset(
            datasets.load_dataset("parquet", data_files=str(path), streaming=True), label_column=label_column
        )
        assert [set(sentence.labels) for sentence in corpus] == [set(labels) for labels in expected]
        assert (corpus.hash, corpus.tasks) == (same.hash, same.tasks)
    # -1 stands for no label
    assert message(lambda: Corpus.from_file(path, label_column="one")).startswith(f"{path}:3: one is null")


def test_class_labels_within_spans(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    number = datasets.Value("int32")
    kind = datasets.ClassLabel(names=["dull", "sharp"])
    features = {"text": datasets.Value("string"), "spans": [{"start": number, "end": number, "label": kind}]}
    rows = [{"text": "w1 w2", "spans": [{"start": 0, "end": 2, "label": 1}, {"start": 3, "end": 5, "label": 0}]}]
    path = parquet(tmp_path / "c.parquet", rows, features)
    data = datasets.Dataset.from_list(rows, datasets.Features(features))
    for corpus in (Corpus.from_file(path, span_column="spans"), Corpus.from_dataset(data, span_column="spans")):
        assert [(sentence.span, sentence.labels) for sentence in corpus] == [((0, 2), ("sharp",)), ((3, 5), ("dull",))]


def test_a_class_without_a_name_is_bad(tmp_path: Path) -> None:
    feature = {"names": ["sad", "glad"], "_type": "ClassLabel"}
    metadata = {"huggingface": json.dumps({"info": {"features": {"label": feature}}})}
    path = tmp_path / "c.parquet"
    pq.write_table(pa.table({"text": ["a", "b"], "label": [1, 2]}).replace_schema_metadata(metadata), path)
    error = message(lambda: Corpus.from_file(path))
    assert error == f"{path}:2: label has class 2, expected one of the 2 that have names"
    assert texts_and_labels(Corpus.from_file(path, on_bad_line="skip")) == [("a", ("glad",))]
    pq.write_table(pa.table({"text": ["a"], "label": [1]}).replace_schema_metadata({"huggingface": "{"}), path)
    assert "the entry 'huggingface' of its metadata is not JSON" in message(lambda: Corpus.from_file(path))


def test_a_folder_whose_files_name_classes_differently_is_refused(tmp_path: Path) -> None:
    """datasets takes the names of the first file for all, which gives the second the wrong labels."""
    datasets = pytest.importorskip("datasets")
    rows = [{"text": "a", "label": 0}, {"text": "b", "label": 1}]
    for split, names in (("train", ["sad", "glad"]), ("test", ["glad", "sad"])):
        features = {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=names)}
        parquet(tmp_path / f"{split}.parquet", rows, features)
    line = message(lambda: Corpus.from_dataset(tmp_path))
    assert line.endswith("train.parquet does; read the files one by one")
    (tmp_path / "train.parquet").unlink()
    assert texts_and_labels(Corpus.from_dataset(tmp_path)) == [("a", ("glad",)), ("b", ("sad",))]


@pytest.mark.parametrize(
    "kind",
    [
        pa.dictionary(pa.int8(), pa.string()),
        pa.large_string(),
        pa.string_view(),
        pa.list_(pa.string()),
        pa.large_list(pa.large_string()),
        pa.uint8(),
        pa.list_(pa.int32()),
    ],
    ids=str,
)
def test_arrow_types_of_labels(tmp_path: Path, kind: Any) -> None:
    inner = kind.value_type if pa.types.is_list(kind) or pa.types.is_large_list(kind) else kind
    names: list[Any] = [3, 0] if pa.types.is_integer(inner) else ["joy", "love"]
    values = [[names[0]], names] if inner is not kind else names
    column = pa.array(values, kind) if not pa.types.is_dictionary(kind) else pa.array(values).dictionary_encode()
    pq.write_table(pa.table({"text": ["a", "b"], "label": column}), tmp_path / "c.parquet")
    expected = [{str(names[0])}, set(map(str, names if inner is not kind else names[1:]))]
    assert [set(sentence.labels) for sentence in Corpus.from_file(tmp_path / "c.parquet")] == expected


@pytest.mark.parametrize("values", [[True, False], [1.0, 2.0], [b"joy", b"love"]], ids=["bool", "float", "bytes"])
def test_what_is_no_label_in_parquet_is_named(tmp_path: Path, values: list[Any]) -> None:
    path = tmp_path / "c.parquet"
    pq.write_table(pa.table({"text": ["a", "b"], "label": values}), path)
    assert message(lambda: Corpus.from_file(path)).startswith(f"{path}:1: label is ")


# --- encodings -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "ndjson"])
@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-16-le", "utf-8", "utf-8-sig", "latin-1"])
def test_only_utf8_is_read_and_the_others_are_named(tmp_path: Path, suffix: str, encoding: str) -> None:
    delimiter = "\t" if suffix == "tsv" else ","
    text = f"text{delimiter}label\ncaf\u00e9{delimiter}x\n"
    if suffix in ("jsonl", "ndjson"):
        text = '\n{"text": "caf\u00e9", "label": "x"}\n'
    path = write(tmp_path / f"c.{suffix}", text, encoding)
    if encoding.startswith("utf-8"):
        assert texts_and_labels(Corpus.from_file(path)) == [("caf\u00e9", ("x",))]
        return
    error = message(lambda: Corpus.from_file(path, on_bad_line="skip" if encoding != "latin-1" else "error"))
    endings = {
        "utf-16": " starts with the mark of UTF-16, expected UTF-8 text",
        "utf-32": " starts with the mark of UTF-32, expected UTF-8 text",
        "utf-16-le": " starts with a NUL byte, as UTF-16 without a mark does, expected UTF-8 text",
        "latin-1": ":2: not UTF-8 (byte 0xe9)",
    }
    assert error == f"{path}{endings[encoding]}"

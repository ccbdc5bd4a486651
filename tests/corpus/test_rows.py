"""Bad rows: each is reported with its line and reason, or skipped and counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from affectron.corpus import Corpus
from tests.support.corpora import GOOD, lines
from tests.support.errors import message

NAMES = "a string, a whole number or a list of them"


BAD_JSON: list[tuple[str | bytes, str]] = [
    ('{"text": "a", "label": "x"', "not JSON: Expecting ',' delimiter at column 27"),
    ('{"text": "a", "label": "x"} {}', "not JSON: Extra data at column 28"),
    ('["a", "x"]', "is a list, expected an object with 'text', 'label'"),
    ("null", "is null, expected an object with 'text', 'label'"),
    (b'{"text": "caf\xe9", "label": "x"}', "not UTF-8 (byte 0xe9)"),
    (b'{"text": "a", "label": "x", "unused": "\xff"}', "not UTF-8 (byte 0xff)"),
    ('{"text": "\\ud83d", "label": "x"}', "text holds half a surrogate pair"),
    ('{"label": "x", "id": 1}', "no text column 'text'; columns found: 'label', 'id'"),
    ('{"text": "a", "labels": "x"}', "no label column 'label'; columns found: 'text', 'labels'"),
    ("{}", "no text column 'text'; columns found: none"),
    ('{"text": "", "label": "x"}', "text is empty"),
    ('{"text": " \\n\\u00a0", "label": "x"}', "text is empty"),
    ('{"text": null, "label": "x"}', "text is null, expected a string"),
    ('{"text": 3.5, "label": "x"}', "text is the number 3.5, expected a string"),
    ('{"text": NaN, "label": "x"}', "text is the number nan, expected a string"),
    ('{"text": true, "label": "x"}', "text is the truth value True, expected a string"),
    ('{"text": ["a"], "label": "x"}', "text is a list, expected a string"),
    ('{"text": {"a": 1}, "label": "x"}', "text is an object, expected a string"),
    ('{"text": "a", "label": ""}', "label is empty"),
    ('{"text": "a", "label": [" "]}', "label is empty"),
    ('{"text": "a", "label": []}', "label is an empty list"),
    ('{"text": "a", "label": null}', f"label is null, expected {NAMES}"),
    ('{"text": "a", "label": 4.0}', f"label is the number 4.0, expected {NAMES}"),
    ('{"text": "a", "label": NaN}', f"label is the number nan, expected {NAMES}"),
    (
        '{"text": "a", "label": true}',
        f"label is the truth value True, expected {NAMES}",
    ),
    ('{"text": "a", "label": "nan"}', "label is 'nan', which stands for a missing value; expected a name"),
    ('{"text": "a", "label": {"x": 1}}', f"label is an object, expected {NAMES}"),
    ('{"text": "a", "label": ["x", 4.5]}', "label holds the number 4.5, expected strings or whole numbers"),
    ('{"text": "a", "label": ["x", ["y"]]}', "label holds a list, expected strings or whole numbers"),
    ('{"text": "a", "label": ["x", ""]}', "label holds an empty name"),
    ('{"text": "a", "label": ["\\udc00"]}', "label holds half a surrogate pair"),
    ('{"text": "a", "label": ["x", "y", "x"]}', "label holds 'x' twice"),
    ('{"text": "a", "label": ["x", " x"]}', "label holds 'x' twice"),
    ('{"text": "a", "label": "x", "task": "t"}', "has a task, unlike the lines before"),
    ('{"text": "a", "label": "x", "split": 1}', "split is the number 1, expected a string"),
    ('{"text": "a", "label": "x", "id": 1.5}', "id is the number 1.5, expected a string or an integer"),
    ('{"text": "a", "label": "x", "id": false}', "id is the truth value False, expected a string or an integer"),
]


TASKED = '{"text": "good", "label": ["x", "y"], "task": ["t", "u"]}'


BAD_TASKS: list[tuple[str | bytes, str]] = [
    ('{"text": "a", "label": "x"}', "has no task, unlike the lines before"),
    ('{"text": "a", "label": "x", "task": null}', "has no task, unlike the lines before"),
    ('{"text": "a", "label": "x", "task": ""}', "task is empty"),
    (
        '{"text": "a", "label": "x", "task": 1.5}',
        f"task is the number 1.5, expected {NAMES}",
    ),
    (
        '{"text": "a", "label": ["x", "y", "z"], "task": ["t", "u"]}',
        "number of tasks is 2, of labels 3; expected one, or one for each label",
    ),
    (
        '{"text": "a", "label": "x", "task": ["t", "u"]}',
        "number of tasks is 2, of labels 1; expected one, or one for each label",
    ),
]


BAD_CSV: list[tuple[str | bytes, str]] = [
    ("a", "number of fields is 1, expected 2 as in the header"),
    ("a,x,more", "number of fields is 3, expected 2 as in the header"),
    (b"caf\xe9,x", "not UTF-8 (byte 0xe9)"),
    (b'"two\nlin\xe9s",x', "not UTF-8 (byte 0xe9)"),
    (",x", "text is empty"),
    ("a,", "label is empty"),
    ("a,x||y", "label holds an empty name"),
    ("a,x|y|x", "label holds 'x' twice"),
    (
        '"a" b,x',
        "',' expected after '\"' (a field with quotes in it must be quoted whole, its quotes doubled)",
    ),
]


@pytest.mark.parametrize(
    ("suffix", "start", "bad", "reason"),
    [
        *[pytest.param("jsonl", GOOD, *case, id=f"json-{case[1]}") for case in BAD_JSON],
        *[pytest.param("jsonl", TASKED, *case, id=f"task-{case[1]}") for case in BAD_TASKS],
        *[pytest.param("csv", "text,label\ngood,x|y", *case, id=f"csv-{case[1]}") for case in BAD_CSV],
    ],
)
def test_a_bad_line_is_reported_with_its_number_or_skipped_and_counted(
    tmp_path: Path, suffix: str, start: str, bad: str | bytes, reason: str
) -> None:
    good = start.rpartition("\n")[2]
    path = lines(tmp_path / f"c.{suffix}", start, "", bad, good)
    line = start.count("\n") + 3
    assert message(lambda: Corpus.from_file(path)) == f"{path}:{line}: {reason}"
    corpus = Corpus.from_file(path, on_bad_line="skip")
    assert (corpus.skipped, corpus.bad_lines) == (1, [(line, reason)])
    assert [(s.text, s.labels) for s in corpus] == [("good", ("x", "y"))] * 2
    assert corpus.hash == Corpus.from_file(lines(tmp_path / f"good.{suffix}", start, good)).hash


def test_lines_too_deep_or_numbers_too_long_are_bad_lines(tmp_path: Path) -> None:
    # Python 3.10 reads numbers of any length and later ones nest deeper than 1000, so the reasons differ.
    path = lines(tmp_path / "c.jsonl", GOOD, '{"text": ' + "[" * 10**5 + "]" * 10**5 + ', "label": "x"}', GOOD)
    assert message(lambda: Corpus.from_file(path)).startswith(f"{path}:2: not JSON that can be read: ")
    path = lines(tmp_path / "d.jsonl", GOOD, '{"text": ' + "1" * 5000 + ', "label": "x"}', GOOD)
    assert message(lambda: Corpus.from_file(path)).startswith(f"{path}:2: ")
    assert len(Corpus.from_file(path, on_bad_line="skip")) == 2


def test_an_unclosed_quote_is_reported_where_it_opens(tmp_path: Path) -> None:
    path = lines(tmp_path / "c.csv", "text,label", "good,x", '"open,x', *["more,x"] * 5)
    for on_bad_line in ("error", "skip"):  # what follows is within the quotes, so that there is nothing to go on with
        line = message(lambda how=on_bad_line: Corpus.from_file(path, on_bad_line=how))
        assert line == f"{path}:3: a field that opens here with a quote is never closed"
    path = lines(tmp_path / "d.csv", "text,label", '"open,x', *["more,x"] * 5, '"closed",x', "good,x")
    assert message(lambda: Corpus.from_file(path)).startswith(f"{path}:2: ',' expected after '\"'")
    corpus = Corpus.from_file(path, on_bad_line="skip")
    assert [s.text for s in corpus] == ["good"]
    assert corpus.bad_lines[0][1].endswith("; the row ends in line 8")


def test_all_skipped_lines_are_counted_and_the_first_twenty_kept(tmp_path: Path) -> None:
    path = lines(tmp_path / "c.jsonl", *[GOOD, "{"] * 25)
    corpus = Corpus.from_file(path, on_bad_line="skip")
    assert (len(corpus), corpus.skipped) == (25, 25)
    assert [line for line, _ in corpus.bad_lines] == list(range(2, 42, 2))
    assert corpus.where(task="label").skipped == 25


def test_invalid_utf8_in_parquet(tmp_path: Path) -> None:
    raw = [b"one", b"caf\xe9", "drei \u00df".encode(), b"\xff"]
    text = pa.array(raw, pa.binary()).view(pa.string())
    pq.write_table(pa.table({"text": text, "label": ["x"] * 4}), tmp_path / "c.parquet")
    assert message(lambda: Corpus.from_file(tmp_path / "c.parquet")).endswith("c.parquet:2: not UTF-8 (byte 0xe9)")
    corpus = Corpus.from_file(tmp_path / "c.parquet", on_bad_line="skip")
    assert [(s.text, s.id) for s in corpus] == [("one", "1"), ("drei \u00df", "3")]
    assert corpus.bad_lines == [(2, "not UTF-8 (byte 0xe9)"), (4, "not UTF-8 (byte 0xff)")]


@pytest.mark.parametrize("on_bad_line", ["error", "skip"])
def test_a_label_in_two_tasks_is_always_refused(tmp_path: Path, on_bad_line: Any) -> None:
    rows = ['{"text": "a", "label": "x", "task": "t"}', '{"text": "b", "label": ["y", "x"], "task": "u"}']
    path = lines(tmp_path / "c.jsonl", *rows)
    expected = f"{path}:2: label 'x' is of task 'u' here and of task 't' before; a label belongs to one task"
    assert message(lambda: Corpus.from_file(path, on_bad_line=on_bad_line)) == expected

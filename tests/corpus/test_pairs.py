"""Pairs of texts from records and lines of JSON: what is read, and what is refused."""

from __future__ import annotations

from pathlib import Path

from affectron.corpus.pairs import Pair, load_pairs, read_pairs
from tests.support.errors import message


def test_pairs_that_cannot_be_used_are_named() -> None:
    assert message(lambda: read_pairs([])) == "pairs is empty, expected at least one"
    records = [{"label": "a", "text": "b", "other": "c"}, {"label": "a", "text": " ", "other": "c"}]
    assert message(lambda: read_pairs(records)) == "pair 2: text is ' ', expected text"
    assert read_pairs(records[:1]) == [Pair("a", "b", "c")]


def test_answers_are_read_where_a_pair_has_both() -> None:
    record = {"label": "a", "text": "b", "other": "c", "answer": "d", "other_answer": "e"}
    assert read_pairs([record]) == [Pair("a", "b", "c", "d", "e")]
    for missing in ("answer", "other_answer"):
        half = {key: value for key, value in record.items() if key != missing}
        assert message(lambda half=half: read_pairs([record, half])) == f"pair 2: {missing} is None, expected text"
    assert message(lambda: read_pairs([{**record, "answer": " "}])) == "pair 1: answer is ' ', expected text"


def test_pairs_are_read_from_lines_of_json(tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text('{"label": "a", "text": "b", "other": "c"}\n[1]\n')
    assert message(lambda: load_pairs(file)) == f"{file}: line 2 is no JSON object, expected label, text and other"
    file.write_text('{"label": "a", "text": "b\u2028d", "other": "c"}\n\n')
    assert load_pairs(file) == [Pair("a", "b\u2028d", "c")]
    file.write_text(file.read_text(encoding="utf-8"), encoding="utf-8-sig")
    assert load_pairs(file) == [Pair("a", "b\u2028d", "c")]
    file.write_text('{"label": "a"}', encoding="utf-16")
    assert message(lambda: load_pairs(file)) == f"{file} starts with the mark of UTF-16, expected UTF-8 text"
    assert message(lambda: load_pairs(tmp_path / "none")).endswith("No such file or directory")

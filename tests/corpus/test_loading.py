"""Corpora by their address: a file or the folder of a dataset, read alike."""

from __future__ import annotations

from pathlib import Path

import pytest

from affectron.corpus import Corpus
from affectron.corpus.loading import load_corpus
from affectron.options import Columns
from tests.support.corpora import ROWS, write
from tests.support.errors import message


def test_a_corpus_is_loaded_by_its_path_or_address(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = [{"words": row["text"], "label": row["label"], "split": row["split"]} for row in ROWS]
    columns = Columns(text="words")
    path = write(tmp_path / "c.jsonl", rows)
    datasets.Dataset.from_list(rows).save_to_disk(str(tmp_path / "data"))
    for address in (path, tmp_path / "data"):
        corpus = load_corpus(str(address), columns, split="train", task="mood")
        assert corpus.hash == Corpus.from_file(path, text_column="words", split="train").hash
        assert (corpus.split, list(corpus.tasks)) == ("train", ["mood"])
    assert message(lambda: load_corpus(str(tmp_path / "no.csv"), columns)).startswith("cannot read ")
    assert "; a dataset of the Hugging Face Hub is " in message(lambda: load_corpus("someone/sentences", columns))
    line = message(lambda: load_corpus(str(tmp_path / "data"), Columns(quoting=True)))
    assert line == f"quoting is True, and {tmp_path / 'data'} is no table; it is for .csv, .tsv"

"""Sources of rows: files that cannot be read or have changed, records, and datasets of Hugging Face."""

from __future__ import annotations

import io
import json
import os
import re
import sys
from collections import Counter
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from affectron.corpus import Corpus
from tests.support.corpora import GOOD, ROWS, lines, sentences_of, write
from tests.support.errors import message


def test_records_are_checked_alike_and_kept_as_they_were() -> None:
    rows = [{**row, "label": list(row["label"])} for row in ROWS]
    corpus = Corpus.from_records(MappingProxyType(row) for row in rows)
    rows[0]["text"] = "changed"
    rows[1]["label"].append("changed")
    assert list(corpus) == sentences_of(ROWS, None, None)
    assert (corpus.path, corpus.name) == (None, "records")
    bad = message(lambda: Corpus.from_records([ROWS[0], ["text", "label"]]))  # type: ignore[list-item]
    assert bad == "records:2: is a list, expected an object with 'text', 'label'"
    bad = message(lambda: Corpus.from_records([{"text": b"bytes", "label": "x"}]))
    assert bad == "records:1: text is a value of type bytes, expected a string"


def test_nothing_to_read(tmp_path: Path) -> None:
    for suffix in ("jsonl", "ndjson"):
        path = lines(tmp_path / f"c.{suffix}")
        assert message(lambda path=path: Corpus.from_file(path)) == f"{path} holds no sentence"
    for suffix in ("csv", "tsv"):
        path = lines(tmp_path / f"c.{suffix}")
        assert message(lambda path=path: Corpus.from_file(path)) == f"{path} is empty; expected a header line"
        path = lines(tmp_path / f"d.{suffix}", "text,label".replace(",", "," if suffix == "csv" else "\t"))
        assert message(lambda path=path: Corpus.from_file(path)) == f"{path} holds no sentence"
    path = lines(tmp_path / "c.parquet")
    assert message(lambda: Corpus.from_file(path)).startswith(f"{path} is not a Parquet file that can be read: ")
    assert message(lambda: Corpus.from_records([])) == "records holds no sentence"
    path = lines(tmp_path / "d.jsonl", "", '{"text": 1}', "[]")
    assert message(lambda: Corpus.from_file(path, on_bad_line="skip")) == (
        f"{path} holds no sentence: all 2 lines are bad, the first is line 2: "
        "no label column 'label'; columns found: 'text'"
    )


def test_paths_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    assert message(lambda: Corpus.from_file(path)) == f"cannot read {path}: No such file or directory"
    path.symlink_to(path)
    assert message(lambda: Corpus.from_file(path)).startswith(f"cannot read {path}: Too many levels")
    for make, name in ((os.mkdir, "d.csv"), (os.mkfifo, "e.csv")):
        make(tmp_path / name)
        expected = f"{tmp_path / name} is not a regular file; a corpus is read more than once"
        assert message(lambda name=name: Corpus.from_file(tmp_path / name)) == expected


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs a file that opens but cannot be read")
def test_a_file_that_fails_while_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    path.symlink_to("/proc/self/mem")  # nothing is mapped at address 0
    assert message(lambda: Corpus.from_file(path)) == f"cannot read {path}: Input/output error"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_without_permission(tmp_path: Path) -> None:
    path = write(tmp_path / "c.jsonl", ROWS)
    path.chmod(0)
    assert message(lambda: Corpus.from_file(path)) == f"cannot read {path}: Permission denied"


def test_suffixes(tmp_path: Path) -> None:
    path = write(tmp_path / "c.jsonl", ROWS).rename(tmp_path / "c.JSONL")
    assert len(Corpus.from_file(str(path))) == len(ROWS)
    for name in ("c.txt", "corpus", "c.jsonl.gz"):
        expected = f"suffix is {Path(name).suffix!r}, expected one of .jsonl, .ndjson, .csv, .tsv, .parquet"
        assert message(lambda name=name: Corpus.from_file(tmp_path / name)) == f"{tmp_path / name}: {expected}"
    assert message(lambda: Corpus.from_file("c.json")).endswith("write an object a line as .jsonl")


def test_a_damaged_parquet_file(tmp_path: Path) -> None:
    path = write(tmp_path / "c.parquet", ROWS)
    path.write_bytes(path.read_bytes()[:-20])
    assert message(lambda: Corpus.from_file(path)).startswith(f"{path} is not a Parquet file that can be read: ")


def test_parquet_needs_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "c.parquet", ROWS)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    expected = f"{path}: reading Parquet needs pyarrow (pip install 'affectron[data]')"
    assert message(lambda: Corpus.from_file(path)) == expected


@pytest.mark.parametrize("change", ["append", "touch", "replace", "remove"])
def test_a_file_that_changes_after_the_scan_is_refused(tmp_path: Path, change: str) -> None:
    path = write(tmp_path / "c.jsonl", ROWS)
    corpus = Corpus.from_file(path)
    if change == "append":
        with open(path, "a", encoding="utf-8") as file:
            file.write(GOOD)
    elif change == "touch":
        os.utime(path, ns=(0, 0))
    elif change == "replace":
        os.replace(write(tmp_path / "new.jsonl", ROWS[:3]), path)
    else:
        path.unlink()
    expected = "cannot read .*: No such file" if change == "remove" else "was changed after it was scanned"
    assert re.search(expected, message(lambda: next(iter(corpus))))


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "c.jsonl", ROWS * 2000)
    assert path.stat().st_size > io.DEFAULT_BUFFER_SIZE
    sentences = iter(Corpus.from_file(path))
    next(sentences)
    with open(path, "r+b") as file:
        file.truncate(path.stat().st_size // 2)
    assert "was changed after it was scanned" in message(lambda: list(sentences))


def test_datasets_by_object_folder_and_files(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["calm", "anger"])}
    )
    parts = {
        split: datasets.Dataset.from_dict(
            {"text": [f"w{i} w{i + 1}" for i in range(n)], "label": [i % 2 for i in range(n)]}, features
        )
        for split, n in (("train", 6), ("test", 3))
    }
    whole = datasets.DatasetDict(parts)
    whole.save_to_disk(str(tmp_path / "saved"))
    (tmp_path / "files").mkdir()
    for split, part in parts.items():
        part.to_parquet(str(tmp_path / "files" / f"{split}.parquet"))
    seen = [
        Corpus.from_dataset(whole),
        Corpus.from_dataset({split: part.to_iterable_dataset() for split, part in parts.items()}),
        Corpus.from_dataset(tmp_path / "saved"),
        Corpus.from_dataset(tmp_path / "files"),
    ]
    for corpus in seen:
        assert corpus.labels == ("anger", "calm")
        assert corpus.splits == ("test", "train")
        assert len(corpus) == len(list(corpus)) == 9
        assert Counter(sentence.labels for sentence in corpus.where(split="train")) == {("calm",): 3, ("anger",): 3}
    assert len({corpus.hash for corpus in seen}) == 1
    assert [corpus.name for corpus in seen] == ["dataset", "dataset", "saved", "files"]
    assert Corpus.from_dataset(parts["test"], task="mood").tasks == {"mood": ("anger", "calm")}
    assert message(lambda: Corpus.from_dataset(tmp_path / "absent")).startswith(f"{tmp_path / 'absent'} does not exist")


def test_a_folder_of_several_configurations_is_streamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    folder = tmp_path / "someone" / "sentences"
    folder.mkdir(parents=True)
    for config, n in (("short", 4), ("long", 7)):
        for split in ("train", "test"):
            rows = [{"text": f"w{i} w{i + 1}", "label": ["calm", "anger"][i % 2]} for i in range(n)]
            (folder / f"{config}-{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    configs = "".join(
        f"- config_name: {name}\n  data_files:\n"
        + "".join(f"  - split: {split}\n    path: {name}-{split}.jsonl\n" for split in ("train", "test"))
        for name in ("short", "long")
    )
    (folder / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    monkeypatch.chdir(tmp_path)
    loaded: list[Any] = []
    load = datasets.load_dataset
    monkeypatch.setattr(
        datasets, "load_dataset", lambda *args, **kwargs: (loaded.append(load(*args, **kwargs)), loaded[-1])[1]
    )
    corpus = Corpus.from_dataset("someone/sentences", config="long")
    assert isinstance(loaded[0], datasets.IterableDatasetDict)
    assert corpus.name == "sentences"
    assert corpus.splits == ("test", "train")
    assert [sentence.text for sentence in corpus.where(split="test")] == [f"w{i} w{i + 1}" for i in range(7)]
    assert len(Corpus.from_dataset("someone/sentences", config="short")) == len(list(corpus)) - 6
    assert "cannot load the dataset sentences: " in message(lambda: Corpus.from_dataset("someone/sentences"))


def test_only_a_name_of_the_hub_is_looked_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    asked: list[str] = []

    def load(name: str, config: str | None, streaming: bool) -> Any:
        asked.append(name)
        if "absent" in name:
            raise datasets.exceptions.DatasetNotFoundError(f"Dataset '{name}' doesn't exist")
        return datasets.Dataset.from_list([{"text": "w1", "label": "calm"}]).to_iterable_dataset()

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    hint = "; a dataset of the Hugging Face Hub is hf://datasets/OWNER/NAME"
    for name in ("someone/sentences", "sentences", "csv", tmp_path / "sentences"):
        assert message(lambda name=name: Corpus.from_dataset(name)) == f"{name} does not exist{hint}"
    assert message(lambda: Corpus.from_dataset("file")) == f"file is not a folder{hint}"
    assert asked == []
    corpus = Corpus.from_dataset("hf://datasets/someone/sentences")
    assert (corpus.name, corpus.labels) == ("sentences", ("calm",))
    line = message(lambda: Corpus.from_dataset("hf://datasets/someone/absent"))
    assert line == "cannot load the dataset absent: Dataset 'someone/absent' doesn't exist"
    assert asked == ["someone/sentences", "someone/absent"]
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert message(lambda: Corpus.from_dataset("sentences")) == f"sentences does not exist{hint}"
    assert message(lambda: Corpus.from_dataset(tmp_path)).startswith("reading a dataset needs datasets")

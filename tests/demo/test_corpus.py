"""The demo's generated corpus: its labels, splits and distinct texts, and that it is reproducible."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from affectron.corpus import Corpus
from affectron.demo import phrases
from affectron.demo.corpus import DEVICES, EMOTIONS, TASKS, generate, write

RECORDS = generate()


def labels(record: dict) -> list[str]:
    return record["label"] if isinstance(record["label"], list) else [record["label"]]


def test_the_same_seed_gives_the_same_corpus_in_any_process() -> None:
    code = "from affectron.demo.corpus import generate; from affectron._internal.files import digest; import json; "
    code += "print(digest(json.dumps(generate()).encode()))"
    hashes = set()
    for seed in ("0", "1"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        hashes.add(
            subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True).stdout
        )
    assert len(hashes) == 1
    assert generate(1) != RECORDS


def test_no_text_occurs_twice_whatever_its_case() -> None:
    assert len({record["text"].casefold() for record in RECORDS}) == len(RECORDS) == 14384


@pytest.mark.parametrize(("split", "rounds"), [("train", 200), ("dev", 16), ("test", 16)])
def test_every_label_has_its_share_of_each_split(split: str, rounds: int) -> None:
    counts = Counter(label for record in RECORDS if record["split"] == split for label in labels(record))
    assert counts == {**dict.fromkeys(EMOTIONS, 7 * rounds), **dict.fromkeys(DEVICES, 9 * rounds)}


def test_many_sentences_carry_an_emotion_and_a_device() -> None:
    both = [record for record in RECORDS if len(labels(record)) == 2]
    assert len(both) > len(RECORDS) / 4
    assert {(record["task"][0], record["task"][1]) for record in both} == {("emotion", "rhetoric")}
    pairs = {tuple(record["label"]) for record in both}
    assert {("anger", "metaphor"), ("sadness", "literal"), ("happiness", "hyperbole")} <= pairs


def test_held_out_phrases_are_new_to_train() -> None:
    """Every sixth phrase of a long table occurs in dev or test and never in train."""
    texts = {
        split: [r["text"].casefold() for r in RECORDS if r["split"] == split] for split in ("train", "dev", "test")
    }
    fixed = [
        phrase
        for emotion in EMOTIONS[:-1]
        for phrase in phrases.EMOTIONS[emotion]["act"][5::6]
        if not re.search(r"\{", phrase)
    ]
    assert len(fixed) >= 6
    unseen = 0
    for phrase in fixed:
        # A phrase of two emotions may be held out under one of them only.
        if sum(phrase in table["act"] for table in phrases.EMOTIONS.values()) > 1:
            continue
        unseen += 1
        assert not any(phrase in text for text in texts["train"]), phrase
        assert any(phrase in text for text in texts["dev"] + texts["test"]), phrase
    assert unseen >= 4


def test_no_single_word_gives_an_emotion_away() -> None:
    """The most telling word of a label occurs in fewer than a third of its sentences."""
    for emotion in EMOTIONS:
        sentences = [set(r["text"].casefold().split()) for r in RECORDS if emotion in labels(r)]
        rest = Counter(word for r in RECORDS if emotion not in labels(r) for word in set(r["text"].casefold().split()))
        telling = Counter(word for words in sentences for word in words if rest[word] < 5)
        assert telling.most_common(1)[0][1] < len(sentences) / 3


def test_the_written_file_reads_as_a_corpus(tmp_path: Path) -> None:
    write(tmp_path / "corpus.jsonl")
    corpus = Corpus.from_file(tmp_path / "corpus.jsonl")
    assert len(corpus) == len(RECORDS)
    assert corpus.tasks == {task: tuple(sorted(names)) for task, names in TASKS.items()}
    assert corpus.hash == Corpus.from_records(RECORDS).hash

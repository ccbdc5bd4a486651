"""The judge of texts, and what is counted of their words."""

from __future__ import annotations

import numpy as np
import pytest

from affectron.corpus import Sentence
from affectron.errors import InputError
from affectron.evaluation.judge import WordJudge, distinct_pairs, overused, words

OWN = {"joy": ["glad", "merry", "bright"], "grief": ["tears", "grey", "lost"], "rage": ["fury", "shout", "slam"]}


def sentences(seed: int, each: int = 40) -> list[Sentence]:
    rng = np.random.default_rng(seed)
    common = [f"word{letter}" for letter in "abcdefghij"]
    return [
        Sentence(" ".join(rng.permutation([*rng.choice(common, 5), rng.choice(own)])), (label,), None, str(number))
        for label, own in OWN.items()
        for number in range(each)
    ]


def test_it_finds_the_words_that_tell_labels_apart() -> None:
    judge = WordJudge(sentences(0), sentences(1), list(OWN))
    assert judge.accuracy(sentences(2)) > 0.95
    assert judge(["so Merry and GLAD", "tears", "slam! shout!"]) == list(OWN)
    assert judge([]) == []


def test_a_text_without_a_known_word_has_no_label() -> None:
    judge = WordJudge(sentences(0), sentences(1), list(OWN))
    assert judge(["", "12 34 ...", "unheard"]) == [None, None, None]


def test_marks_tell_labels_apart() -> None:
    def marked(seed: int) -> list[Sentence]:
        marks = {"joy": "!", "grief": "...", "rage": "?!"}
        return [
            Sentence(f"{one.text[: one.text.index('word') + 5]}{marks[one.labels[0]]}", one.labels, None, one.id)
            for one in sentences(seed)
        ]

    assert WordJudge(marked(0), marked(1), list(OWN)).accuracy(marked(2)) == 1


def test_labels_at_random_are_found_no_more_often_than_by_chance() -> None:
    rng = np.random.default_rng(3)
    train, dev, test = (
        [
            Sentence(one.text, (str(label),), None, one.id)
            for one, label in zip(of_split, rng.permutation([one.labels[0] for one in of_split]), strict=True)
        ]
        for of_split in (sentences(0), sentences(1), sentences(2))
    )
    assert abs(WordJudge(train, dev, list(OWN)).accuracy(test) - 1 / 3) < 0.15


@pytest.mark.parametrize("texts", [["a b", "c d"], ["", ""]])
def test_words_that_occur_once_fit_no_judge(texts: list[str]) -> None:
    rows = [Sentence(text, (label,), None, label) for text, label in zip(texts, OWN, strict=False)]
    with pytest.raises(InputError, match="expected sentences of two of them or more, and words that occur in two"):
        WordJudge(rows, rows, list(OWN))


def test_one_label_fits_no_judge() -> None:
    rows = [Sentence("a b", ("joy",), None, str(number)) for number in range(4)]
    with pytest.raises(InputError, match="labels are joy, grief, rage"):
        WordJudge(rows, rows, list(OWN))


def test_words_are_letters_and_digits_of_any_script_and_marks() -> None:
    assert words("Don't STOP, naïve 42 ?!") == ["don't", "stop", ",", "naïve", "42", "?", "!"]
    assert words("été-x мир 🙂") == ["été", "-", "x", "мир", "🙂"]


def test_distinct_pairs() -> None:
    assert distinct_pairs(["a b a b", "B a"]) == 2 / 4  # two pairs, each twice
    assert distinct_pairs(["a", ""]) is None


def test_overused_words_are_those_in_more_texts() -> None:
    steered, plain = ["love love you", "love it", "you go"], ["you go", "it", "go on"]
    assert overused(steered, plain, 5) == ["love", "you"]
    assert overused(steered, plain, 1) == ["love"]
    assert overused(plain, plain, 5) == []

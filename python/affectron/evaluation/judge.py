"""The judge of generated texts: a classifier of words that knows nothing of the model."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from affectron.corpus import Sentence
from affectron.errors import InputError

_WORD = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]")
# Inverse penalties of the regression to choose from on dev.
_STRENGTHS = (1.0, 3.0, 10.0, 30.0)


class WordJudge:
    """The label of a text by its words: logistic regression on the tf-idf of words and pairs of words (scikit-learn).

    Terms that occur in one sentence only are left out. It is fitted on one split, its penalty chosen on another, all
    labels weighted alike. A text without a known word gets no label.

    Args:
        train: sentences that it is fitted on; of a sentence with several labels the first counts.
        dev: sentences that choose the penalty.
        labels: the labels to choose from.

    Raises:
        InputError: fewer than two of the labels are in ``train``, or no word occurs in two of its sentences.
    """

    def __init__(self, train: Sequence[Sentence], dev: Sequence[Sentence], labels: Sequence[str]) -> None:
        # It takes a second to load, and few commands need it.
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
        from sklearn.multiclass import OneVsRestClassifier

        self.labels = tuple(labels)
        rows = [(sentence.text, known) for sentence in train if (known := self._first(sentence)) is not None]
        texts, targets = [text for text, _ in rows], [label for _, label in rows]
        if len(set(targets)) < 2 or max(_documents(texts).values(), default=0) < 2:
            raise InputError(
                f"labels are {', '.join(labels)}, expected sentences of two of them or more, and words that occur in "
                "two sentences, to fit a judge of texts"
            )
        self._vectors = TfidfVectorizer(analyzer=_terms, sublinear_tf=True, min_df=2)
        features = self._vectors.fit_transform(texts)
        best = -1.0
        for strength in _STRENGTHS:
            # One regression a label, by a solver that uses one thread.
            of_label = LogisticRegression(C=strength, class_weight="balanced", solver="liblinear")
            model = OneVsRestClassifier(of_label).fit(features, targets)
            accuracy = self._accuracy(model, dev)
            if accuracy > best:
                best, self._model = accuracy, model

    def _first(self, sentence: Sentence) -> str | None:
        return next((label for label in sentence.labels if label in self.labels), None)

    def __call__(self, texts: Sequence[str]) -> list[str | None]:
        """The likeliest label of each text; None where no word is known."""
        return self._labels_of(self._model, texts)

    def accuracy(self, sentences: Sequence[Sentence]) -> float:
        """The share of sentences that get one of their labels."""
        return self._accuracy(self._model, sentences)

    def _labels_of(self, model: Any, texts: Sequence[str]) -> list[str | None]:
        if not texts:
            return []
        features = self._vectors.transform(texts)
        known = np.diff(features.indptr) > 0
        return [str(label) if has else None for label, has in zip(model.predict(features), known, strict=True)]

    def _accuracy(self, model: Any, sentences: Sequence[Sentence]) -> float:
        found = self._labels_of(model, [sentence.text for sentence in sentences])
        right = [label in sentence.labels for label, sentence in zip(found, sentences, strict=True)]
        return float(np.mean(right)) if right else 0.0


def words(text: str) -> list[str]:
    """The words of a text in lower case: letters and digits, also with an apostrophe inside, or a single other mark.

    Marks count since they tell: a question is a plain sign of surprise.
    """
    return _WORD.findall(text.lower())


def _terms(text: str) -> list[str]:
    """Words and pairs of words next to one another."""
    single = words(text)
    return [*single, *map(" ".join, pairwise(single))]


def distinct_pairs(texts: Iterable[str]) -> float | None:
    """The share of different ones among all pairs of words next to one another (distinct-2 of Li et al. 2016).

    None where no text has two words.
    """
    pairs = [pair for text in texts for pair in pairwise(words(text))]
    return len(set(pairs)) / len(pairs) if pairs else None


def overused(texts: Sequence[str], plain: Sequence[str], most: int) -> list[str]:
    """The words that are in more of ``texts`` than of ``plain``, those of the largest difference first.

    Args:
        texts: steered texts.
        plain: as many texts without steering.
        most: number of words at most.
    """
    counts = _documents(texts)
    counts.subtract(_documents(plain))
    return [word for word, more in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:most] if more > 0]


def _documents(texts: Iterable[str]) -> Counter[str]:
    """Word -> the number of texts that it is in."""
    return Counter(word for text in texts for word in set(words(text)))

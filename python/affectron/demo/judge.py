"""A judge of texts that knows nothing of the model: naive Bayes on words, fitted on labelled sentences."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from affectron.corpus import Sentence

_WORD = re.compile(r"[a-z']+")


class Judge:
    """Multinomial naive Bayes on the words of a text (McCallum and Nigam 1998), each count plus one.

    Args:
        sentences: what it is fitted on; of a sentence with several labels the first counts.
        labels: the labels to choose from.
    """

    def __init__(self, sentences: Iterable[Sentence], labels: Sequence[str]) -> None:
        self.labels = tuple(labels)
        counts = {label: Counter[str]() for label in labels}
        for sentence in sentences:
            known = next((label for label in sentence.labels if label in counts), None)
            if known is not None:
                counts[known].update(_words(sentence.text))
        self._words = {word: row for row, word in enumerate(sorted(set().union(*counts.values())))}
        table = np.array([[counts[label][word] for label in labels] for word in self._words]) + 1.0
        self._likelihood = np.log(table / table.sum(axis=0))

    def __call__(self, text: str) -> str:
        """The likeliest label; all labels are as likely before a word is read."""
        rows = [self._words[word] for word in _words(text) if word in self._words]
        return self.labels[int(self._likelihood[rows].sum(axis=0).argmax())]

    def accuracy(self, sentences: Iterable[Sentence]) -> float:
        """The share of sentences whose label it gives."""
        right = [self(sentence.text) in sentence.labels for sentence in sentences]
        return float(np.mean(right))


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())

"""Labels of sentences as arrays: the labels that each sentence has, and the label of the highest score."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from affectron.corpus import Sentence


def label_matrix(sentences: Sequence[Sentence], labels: Sequence[str]) -> NDArray[np.bool_]:
    """bool [n, L]: which of L labels each of n sentences has."""
    rows = [[label in sentence.labels for label in labels] for sentence in sentences]
    return np.array(rows, dtype=np.bool_).reshape(len(sentences), len(labels))


def best_label(scores: NDArray[np.float64]) -> NDArray[np.int64]:
    """int64 [...]: the position of the highest score [..., L], the first of equals; -1 if no score is a number."""
    usable = np.where(np.isnan(scores), -np.inf, scores)
    return np.where(np.isneginf(usable).all(axis=-1), -1, usable.argmax(axis=-1)).astype(np.int64)

"""Label matrices and best labels against loops over sentences and scores."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from affectron.corpus import Sentence
from affectron.evaluation.labels import best_label, label_matrix


@given(arrays.arrays(np.float64, st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 5))))
@example(np.array([[[math.nan, -math.inf], [-math.inf, -1e308]]]))
@example(np.array([[[2.0, 2.0, math.nan], [math.inf, math.inf, 1.0]]]))
def test_the_best_label_is_the_first_of_the_highest_numbers(scores: np.ndarray) -> None:
    for row, answer in zip(scores.reshape(-1, scores.shape[-1]), best_label(scores).ravel(), strict=True):
        numbers = [score for score in row if not math.isnan(score) and score != -math.inf]
        assert answer == (list(row).index(max(numbers)) if numbers else -1)


@given(st.lists(st.sets(st.sampled_from("abc"), min_size=1)), st.lists(st.sampled_from("abcd"), unique=True))
def test_the_label_matrix_has_each_label_of_each_sentence(label_sets: list[set[str]], labels: list[str]) -> None:
    sentences = [Sentence("text", tuple(sorted(chosen)), None, "1") for chosen in label_sets]
    matrix = label_matrix(sentences, labels)
    assert matrix.shape == (len(label_sets), len(labels))
    assert matrix.tolist() == [[label in chosen for label in labels] for chosen in label_sets]

"""The numbers of a sentence against their definitions in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import softmax

from affectron.errors import InputError
from affectron.evaluation.label_likelihood import LabelLikelihood
from affectron.evaluation.linear_probe import LinearProbe
from affectron.evaluation.metrics import Question, log_probability, margin
from tests.evaluation.questions import MIXED, PROMPT, SENTENCES
from tests.support.errors import message
from tests.support.families import FAMILIES
from tests.support.tiny import build, make_tokenizer

RNG = np.random.default_rng(8)
TRUTH = RNG.random((37, 5)) < 0.3
TRUTH[~TRUTH.any(1), 2] = True


def test_the_log_of_the_probability_of_all_labels_that_a_sentence_has() -> None:
    scores = RNG.normal(0, 30, (3, 37, 5))
    expected = np.log((softmax(scores, -1) * TRUTH).sum(-1))
    found = log_probability(torch.from_numpy(scores), torch.from_numpy(TRUTH))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12, atol=1e-12)


def test_the_probability_of_a_label_that_is_all_but_excluded() -> None:
    """Its probability is 0 in float64, and its log is not."""
    scores = torch.tensor([[0.0, -1000.0]], dtype=torch.float64, requires_grad=True)
    found = log_probability(scores, torch.tensor([[False, True]]))
    found.sum().backward()
    assert float(found) == -1000
    np.testing.assert_allclose(scores.grad, [[-1.0, 1.0]], atol=1e-12)


def test_a_sentence_of_all_labels_has_the_probability_1() -> None:
    scores = torch.from_numpy(RNG.normal(0, 30, (4, 5)))
    assert torch.equal(log_probability(scores, torch.ones(4, 5, dtype=torch.bool)), torch.zeros(4, dtype=torch.float64))


def test_the_margin_of_the_best_label_that_a_sentence_has() -> None:
    scores = RNG.normal(0, 30, (3, 37, 5))
    expected = [[row[own].max() - row[~own].max() for row, own in zip(part, TRUTH, strict=True)] for part in scores]
    found = margin(torch.from_numpy(scores), torch.from_numpy(TRUTH))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)


def test_a_metric_is_what_the_classifier_scores() -> None:
    """And the rows of a question are those of the classifier."""
    model, tokenizer = build("llama"), make_tokenizer()
    evaluator = LabelLikelihood({"task": PROMPT})
    metric = evaluator.differentiable(model, tokenizer, "task", MIXED)
    questions = metric.questions(SENTENCES)
    assert [question.sentence for question in questions] == SENTENCES
    for question in questions:
        assert isinstance(question, Question)
        assert question.defined
        assert question.width == max(map(len, question.ids))
        assert [sum(row) for row in question.text] == [len(question.sentence.text.split())] * len(question.ids)
    classifier = evaluator.classifier(model, tokenizer, SENTENCES, "task", MIXED)
    assert [[row.ids for row in rows] for rows in classifier._rows] == [list(question.ids) for question in questions]


def test_a_metric_of_a_probe_needs_a_fitted_one() -> None:
    with pytest.raises(InputError, match="task 'task': the probe has not been fitted"):
        LinearProbe().differentiable(build("llama"), make_tokenizer(), "task", MIXED)


@pytest.mark.parametrize("name", ["bert", "t5"])
def test_a_model_that_writes_no_text_gives_no_likelihoods(name: str) -> None:
    model = FAMILIES[name].build()
    line = f"model is a {type(model).__name__}, expected a causal language model to read likelihoods from"
    for call in (
        lambda: LabelLikelihood().classifier(model, make_tokenizer(), SENTENCES, "task", MIXED),
        lambda: LabelLikelihood().differentiable(model, make_tokenizer(), "task", MIXED),
    ):
        assert message(call) == line

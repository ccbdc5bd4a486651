"""Calibrated labels against plain forwards in float64, and a bias for a label that calibration takes away."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch

from affectron.corpus import Sentence
from affectron.evaluation import label_likelihood
from affectron.evaluation.exam import Exam
from affectron.evaluation.label_likelihood import LabelLikelihood
from affectron.evaluation.metrics import log_probability
from tests.evaluation.questions import ALL, MIXED, PROMPT, SENTENCES, SINGLE, make_sentences, programs_of
from tests.evaluation.test_label_likelihood import likelihood, seen
from tests.support.errors import message
from tests.support.planted import MOODS, PROMPTS, TASKS, TOKENIZER, make_corpus, make_model
from tests.support.tiny import build, make_tokenizer

pytestmark = pytest.mark.usefixtures("one_thread")

TRAIN = make_sentences(17, seed=1)
CONTENT_FREE = ["N/A", "[MASK]", ""]
CALIBRATED = ["content_free", "train"]


def plain_scores(model: Any, texts: Sequence[str], labels: Sequence[str]) -> np.ndarray:
    """The mean log-likelihood of each label after each text, a sequence at a time."""
    tokenizer = make_tokenizer()
    answers = [tokenizer(label, add_special_tokens=False)["input_ids"] for label in labels]
    prompts = [tokenizer(f"<s>w1 {text} w2 w3", add_special_tokens=False)["input_ids"] for text in texts]
    return np.array([[likelihood(model, prompt, answer) for answer in answers] for prompt in prompts])


def calibrated(model: Any, calibrate: str, labels: Sequence[str]) -> LabelLikelihood:
    evaluator = LabelLikelihood({"mood": PROMPT}, calibrate)
    assert evaluator.trains == (calibrate == "train")
    if evaluator.trains:
        evaluator.fit(model, make_tokenizer(), TRAIN, [], "mood", labels)
    return evaluator


@contextmanager
def favoured(model: Any, label: str, nats: float) -> Iterator[None]:
    """Raise the logit of a label of one token everywhere."""
    inner, token = model.forward, make_tokenizer().convert_tokens_to_ids(label)

    def biased(*args: Any, **kwargs: Any) -> Any:
        out = inner(*args, **kwargs)
        out.logits[..., token] += nats
        return out

    model.forward = biased
    yield
    model.forward = inner


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("labels", [SINGLE, MIXED, ("w7 w8",)], ids=["single", "mixed", "one"])
@pytest.mark.parametrize("calibrate", CALIBRATED)
def test_a_score_is_the_likelihood_less_its_mean(family: str, labels: tuple[str, ...], calibrate: str) -> None:
    model = build(family)
    evaluator = calibrated(model, calibrate, labels)
    classifier = evaluator.classifier(model, make_tokenizer(), SENTENCES, "mood", labels)
    (scores,), (answers,) = classifier.scores(ALL), classifier(ALL)
    texts = CONTENT_FREE if calibrate == "content_free" else [sentence.text for sentence in TRAIN]
    model.double()
    offsets = plain_scores(model, texts, labels).mean(0)
    expected = plain_scores(model, [sentence.text for sentence in SENTENCES], labels) - offsets
    np.testing.assert_allclose(scores, expected, rtol=2e-5, atol=4e-5)
    assert np.array_equal(answers, expected.argmax(1))
    chosen = json.loads(json.dumps(evaluator.options))
    assert chosen.pop("offsets") == {"mood": pytest.approx(dict(zip(labels, offsets, strict=True)), rel=2e-5)}
    assert chosen == {"prompts": {"mood": PROMPT}, "calibrate": calibrate}


@pytest.mark.parametrize("calibrate", CALIBRATED)
def test_the_offsets_are_the_same_under_every_program(calibrate: str) -> None:
    model, tokenizer = build("llama"), make_tokenizer()
    evaluator = calibrated(model, calibrate, MIXED)
    classifier = evaluator.classifier(model, tokenizer, SENTENCES, "mood", MIXED)
    plain = LabelLikelihood({"mood": PROMPT}).classifier(model, tokenizer, SENTENCES, "mood", MIXED)
    offsets = np.array(list(evaluator.options["offsets"]["mood"].values()))
    programs = programs_of(model, 1)
    scores = plain.scores(ALL, programs)
    assert np.abs(scores - scores[4]).max() > 0.1  # the fifth changes nothing
    assert np.array_equal(classifier.scores(ALL, programs), scores - offsets)
    assert list(evaluator.options["offsets"]["mood"].values()) == offsets.tolist()


@pytest.mark.parametrize("calibrate", CALIBRATED)
def test_a_bias_for_a_label_of_one_token_changes_nothing(calibrate: str) -> None:
    """It moves the log-likelihoods of all labels of a text alike, beside that of the label by a constant."""
    model, tokenizer = build("llama"), make_tokenizer()
    truth = torch.tensor([[number % 3 == label for label in range(3)] for number in range(len(SENTENCES))])
    found = []
    for nats in (0.0, 9.0):
        with favoured(model, "w51", nats):
            evaluator = calibrated(model, calibrate, SINGLE)
            classifier = evaluator.classifier(model, tokenizer, SENTENCES, "mood", SINGLE)
            raw = LabelLikelihood({"mood": PROMPT}).classifier(model, tokenizer, SENTENCES, "mood", SINGLE)
            assert (raw(ALL) == 1).all() == (nats > 0)
            found.append(log_probability(torch.from_numpy(classifier.scores(ALL)[0]), truth))
    np.testing.assert_allclose(found[1], found[0], rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("calibrate", CALIBRATED)
def test_accuracy_rises_where_a_model_prefers_a_label_whatever_the_text_says(calibrate: str) -> None:
    model, corpus = make_model(), make_corpus()
    accuracy = {}
    with favoured(model, "w51", 20.0):
        for option in ("none", calibrate):
            exam = Exam(model, TOKENIZER, corpus, prompts=PROMPTS, calibrate=option)
            questions = exam.questions("test", "mood")
            accuracy[option] = questions.accuracy(questions.unmasked)["accuracy"]
    assert accuracy == {"none": pytest.approx(1 / 3), calibrate: pytest.approx(1.0)}


def test_an_exam_calibrates_on_its_train_split_within_the_limit() -> None:
    model, corpus = make_model(), make_corpus()
    exam = Exam(model, TOKENIZER, corpus, prompts=PROMPTS, calibrate="train", limit=5)
    assert exam.splits == {"dev": "dev", "test": "test", "train": "train"}
    for task in TASKS:
        exam.questions("test", task)
    found = exam.options(["mood"])["offsets"]
    read = exam.sentences("train", "mood")
    assert len(read) == 5 * len(MOODS)
    plain = LabelLikelihood(PROMPTS).classifier(model, TOKENIZER, read, "mood", tuple(MOODS))
    means = plain.scores(np.arange(len(read)))[0].mean(0)
    assert found == {"mood": pytest.approx(dict(zip(MOODS, means, strict=True)), rel=1e-6)}
    content_free = Exam(model, TOKENIZER, corpus, prompts=PROMPTS, calibrate="content_free")
    assert content_free.splits == {"dev": "dev", "test": "test"}


def test_of_many_sentences_the_same_few_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label_likelihood, "_CALIBRATED", 7)
    model, tokenizer = build("llama"), make_tokenizer()
    offsets = []
    for _ in range(2):
        evaluator = LabelLikelihood({"mood": PROMPT}, "train")
        with seen(model) as (ids, _):
            evaluator.fit(model, tokenizer, SENTENCES, [], "mood", SINGLE)
        offsets.append(evaluator.options["offsets"]["mood"])
    assert offsets[0] == offsets[1]
    words = [[token for token in row if token] for batch in ids for row in batch.tolist()]
    texts = [" ".join(f"w{token - 3}" for token in row[2:-2]) for row in words]
    assert len(set(texts)) == 7
    assert set(texts) <= {sentence.text for sentence in SENTENCES}
    expected = plain_scores(model.double(), texts, SINGLE).mean(0)
    np.testing.assert_allclose(list(offsets[0].values()), expected, rtol=2e-5)


def test_labels_that_cannot_be_calibrated_are_refused() -> None:
    model, tokenizer = build("llama"), make_tokenizer()
    line = "calibrate is 'batch', expected one of none, content_free, train"
    assert message(lambda: LabelLikelihood(calibrate="batch")) == line
    evaluator = LabelLikelihood({"mood": PROMPT}, "train")
    line = "task 'mood': its labels have not been calibrated"
    assert message(lambda: evaluator.differentiable(model, tokenizer, "mood", SINGLE)) == line
    evaluator.fit(model, tokenizer, TRAIN, [], "mood", SINGLE)
    evaluator.differentiable(model, tokenizer, "mood", SINGLE)
    assert message(lambda: evaluator.classifier(model, tokenizer, SENTENCES, "mood", SINGLE[::-1])) == line
    with favoured(model, "w51", -float("inf")):
        line = "task 'mood': the mean score of label 'w51' is -inf, expected a finite one"
        assert message(lambda: evaluator.fit(model, tokenizer, TRAIN, [], "mood", SINGLE)) == line


def test_a_prompt_that_cannot_ask_about_an_empty_text_is_refused() -> None:
    tokenizer = make_tokenizer(bos=None)
    evaluator = LabelLikelihood({"mood": "{text}"}, "content_free")
    sentences = [Sentence("w3", ("w50",), "test", "0")]
    line = (
        "sentence '' (content-free): no token precedes the label in prompt '{text}'; begin it with {bos} or with words"
    )
    assert message(lambda: evaluator.classifier(build("llama"), tokenizer, sentences, "mood", SINGLE)) == line

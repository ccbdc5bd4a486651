"""Linear probes against least squares in closed form, on states of one sentence at a time in float64."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from affectron.corpus import Sentence
from affectron.errors import InputError
from affectron.evaluation.labels import label_matrix
from affectron.evaluation.linear_probe import LinearProbe, ridge
from affectron.models import intervene
from tests.evaluation.questions import SENTENCES, SINGLE, programs_of
from tests.support.tiny import build, make_tokenizer, state

pytestmark = pytest.mark.usefixtures("one_thread")


def test_ridge_solves_the_augmented_least_squares_problem() -> None:
    rng = np.random.default_rng(0)
    for n, width in ((40, 7), (9, 30)):
        x, y = rng.normal(size=(n, width)) * rng.lognormal(size=width) + 5, rng.normal(size=(n, 3))
        centred = x - x.mean(0)
        unit = np.square(centred).sum() / width
        fits = list(ridge(x, y))
        assert [penalty for penalty, _, _ in fits] == sorted((penalty for penalty, _, _ in fits), reverse=True)
        for penalty, weights, intercept in fits[:: 4 if n > width else 2][:5]:
            # [x 1; sqrt(p) I 0] (w, b) = [y; 0]: the intercept is fitted too, and not penalised.
            design = np.vstack([np.c_[x, np.ones(n)], np.c_[np.sqrt(penalty * unit) * np.eye(width), np.zeros(width)]])
            solution = np.linalg.lstsq(design, np.vstack([y, np.zeros((width, 3))]), rcond=None)[0]
            np.testing.assert_allclose(weights, solution[:-1], rtol=1e-6, atol=1e-8)
            np.testing.assert_allclose(intercept, solution[-1], rtol=1e-6, atol=1e-6)


@torch.no_grad()
def mean_states(model: torch.nn.Module, tokenizer, sentences: Sequence[Sentence]) -> np.ndarray:
    """The final hidden states of one sentence at a time, without its <s>, in float64."""
    states = []
    for sentence in sentences:
        ids = tokenizer(sentence.text)["input_ids"]
        states.append(model.base_model(input_ids=torch.tensor([ids])).last_hidden_state[0, 1:].double().mean(0).numpy())
    return np.array(states)


def separable(number: int, seed: int) -> list[Sentence]:
    """Any words, and w50 in those labelled a, w51 in those labelled b, both in those labelled with both."""
    rng = np.random.default_rng(seed)
    sentences = []
    for index in range(number):
        labels = (("a",), ("b",), ("c",), ("a", "b"))[index % 4]
        words = [f"w{w}" for w in rng.integers(0, 48, rng.integers(1, 6))]
        words += ["w50"] * 12 * ("a" in labels) + ["w51"] * 12 * ("b" in labels)
        sentences.append(Sentence(" ".join(rng.permutation(words)), labels, "train", str(index)))
    return sentences


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_probe_learns_what_is_there_and_answers_as_its_closed_form(family: str) -> None:
    model, tokenizer = build(family), make_tokenizer()
    train, dev, test = (separable(n, seed) for n, seed in ((200, 1), (60, 2), (61, 3)))
    labels = ("a", "b", "c")
    probe = LinearProbe()
    before = state(model)
    probe.fit(model, tokenizer, train, dev, "mood", labels)
    (answers,) = probe.classifier(model, tokenizer, test, "mood", labels)(np.arange(len(test)))
    assert state(model) == before
    assert label_matrix(test, labels)[np.arange(len(test)), answers].mean() > 0.95

    # The penalty is the largest among those of best dev accuracy.
    x, x_dev, x_test = (mean_states(model, tokenizer, part) for part in (train, dev, test))
    fits = list(ridge(x, label_matrix(train, labels).astype(float)))
    right = label_matrix(dev, labels)
    accuracy = [right[np.arange(60), (x_dev @ w + b).argmax(1)].mean() for _, w, b in fits]
    penalty, weights, intercept = fits[int(np.argmax(accuracy))]
    assert probe.options == {"ridge_penalty": {"mood": penalty}}
    assert np.array_equal(answers, (x_test @ weights + intercept).argmax(1))


def test_the_probe_reads_the_model_as_it_is_now() -> None:
    model, tokenizer = build("llama"), make_tokenizer()
    probe = LinearProbe()
    sentences = separable(80, 4)
    probe.fit(model, tokenizer, sentences, sentences[:40], "mood", ("a", "b", "c"))
    classifier = probe.classifier(model, tokenizer, sentences, "mood", ("a", "b", "c"))
    rows = np.arange(80)
    before = classifier(rows)
    with torch.no_grad():
        model.model.norm.weight.neg_()
    assert (classifier(rows) != before).mean() > 0.5


def test_a_probe_that_was_not_fitted_or_cannot_be_says_so() -> None:
    model, tokenizer = build("llama"), make_tokenizer()
    with pytest.raises(InputError, match="task 'mood': the probe has not been fitted"):
        LinearProbe().classifier(model, tokenizer, SENTENCES, "mood", SINGLE)
    with torch.no_grad():
        model.model.norm.weight[0] = float("nan")
    with pytest.raises(InputError, match="task 'mood': the model's final hidden states are not finite"):
        LinearProbe().fit(model, tokenizer, SENTENCES, SENTENCES, "mood", SINGLE)


@pytest.mark.parametrize("family", ["llama", "opt"])
def test_the_probe_reads_many_programs_at_once(family: str) -> None:
    model, tokenizer = build(family), make_tokenizer()
    probe, sentences = LinearProbe(), separable(80, 4)
    probe.fit(model, tokenizer, sentences, sentences[:40], "mood", ("a", "b", "c"))
    classifier = probe.classifier(model, tokenizer, sentences, "mood", ("a", "b", "c"))
    programs = programs_of(model, 1)
    answers = classifier(np.arange(80), programs)
    for position, program in enumerate(programs):
        with intervene(model, [program]):
            assert np.array_equal(answers[position], classifier(np.arange(80))[0])

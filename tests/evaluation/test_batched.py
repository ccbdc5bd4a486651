"""Batches under many programs against one program and one sentence at a time; the loss of plain text."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from affectron.evaluation.batched import AS_IT_IS, text_loss
from affectron.evaluation.label_likelihood import LabelLikelihood
from affectron.models import intervene
from tests.evaluation.questions import ALL, MIXED, PROMPT, SENTENCES, SHARED, programs_of
from tests.support.tiny import FAMILIES, build, make_tokenizer, state

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("bos", [True, False])
def test_loss_is_that_of_one_sentence_at_a_time(family: str, bos: bool) -> None:
    model, tokenizer = build(family), make_tokenizer(bos)
    read, tokens = text_loss(model, tokenizer, SENTENCES)
    rows = ALL[::-2]
    (losses,) = read(rows, AS_IT_IS)
    model.double()
    for row, loss in zip(rows, losses, strict=True):
        words = SENTENCES[row].text.split()
        # <s> goes first even where the tokenizer adds none, so that every word counts.
        ids = [1, *tokenizer(SENTENCES[row].text, add_special_tokens=False)["input_ids"]]
        with torch.no_grad():
            likelihoods = torch.log_softmax(model(input_ids=torch.tensor([ids])).logits[0], -1)
        expected = -sum(float(likelihoods[position, token]) for position, token in enumerate(ids[1:]))
        assert tokens[row] == len(words)
        assert loss == pytest.approx(expected, rel=2e-5)


def test_without_any_first_token_the_first_word_does_not_count() -> None:
    tokenizer = make_tokenizer(bos=False)
    tokenizer.bos_token = None
    _, tokens = text_loss(build("llama"), tokenizer, SENTENCES)
    assert tokens.tolist() == [len(sentence.text.split()) - 1 for sentence in SENTENCES]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("prompt", "lowest"), [(PROMPT, 0), (SHARED, 1)])
def test_many_programs_at_once_answer_as_one_after_the_other(family: str, prompt: str, lowest: int) -> None:
    model, tokenizer = build(family), make_tokenizer()
    programs = programs_of(model, lowest)
    classifier = LabelLikelihood({"mood": prompt}).classifier(model, tokenizer, SENTENCES, "mood", MIXED)
    loss, _ = text_loss(model, tokenizer, SENTENCES)
    before = state(model)
    rows = ALL[::3]
    scores, losses = classifier.scores(rows, programs), loss(rows, programs)
    assert state(model) == before
    for position, program in enumerate(programs):
        with intervene(model, [program]):
            expected = [[*classifier.scores(np.array([row]))[0]] for row in rows]  # alone: no prefix is shared
            np.testing.assert_allclose(losses[position], loss(rows, AS_IT_IS)[0], rtol=2e-5, atol=2e-5)
        np.testing.assert_allclose(scores[position], np.concatenate(expected), rtol=5e-5, atol=5e-5)
    assert len(np.unique(scores.round(3), axis=0)) >= len(programs) - 1

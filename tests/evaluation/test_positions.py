"""Programs limited to positions in every evaluator, against hooks that change h at exactly those tokens of one sequence
at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from affectron.corpus import Corpus, Sentence
from affectron.errors import InputError
from affectron.evaluation.batched import AS_IT_IS, text_loss
from affectron.evaluation.evaluators import Evaluator
from affectron.evaluation.exam import Exam
from affectron.evaluation.label_likelihood import LabelLikelihood
from affectron.evaluation.linear_probe import LinearProbe
from affectron.interventions import Program, Schedule, schedule, zero
from affectron.models import find_sites, intervene
from tests.evaluation.questions import MIXED, PROMPT, SENTENCES, SHARED, SINGLE, programs_of
from tests.support.errors import message
from tests.support.families import FAMILIES as MORE
from tests.support.tiny import build, make_tokenizer, state

pytestmark = pytest.mark.usefixtures("one_thread")

WHERE = ["all", "text", "prompt"]
ROWS = np.arange(0, len(SENTENCES), 4)
CLOSE = {"rtol": 5e-5, "atol": 5e-5}


@contextmanager
def hooked(model: nn.Module, program: Program | None, wanted: Tensor) -> Iterator[None]:
    """Scale the program's neurons at the tokens ``wanted`` [T] of one sequence."""

    def changed(name: str) -> Callable[..., tuple[Tensor]]:
        part = None if program is None else program.sites.get(name)

        def hook(module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
            h = args[0].clone()
            if part is not None:
                rows = h.view(-1, h.shape[-1])
                factor = torch.from_numpy(part.scale).to(h)
                for token in wanted.nonzero()[:, 0].tolist():
                    rows[token, part.index] *= factor
            return (h,)

        return hook

    sites = find_sites(model)
    handles = [
        site.module.get_submodule(site.structure.last).register_forward_pre_hook(changed(site.name)) for site in sites
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def positions(where: str, before: int, words: int, length: int) -> Tensor:
    """bool [length]: the tokens at a position, where ``words`` tokens of text follow ``before`` others."""
    text = (torch.arange(length) >= before) & (torch.arange(length) < before + words)
    return {"all": text | True, "text": text, "prompt": ~text}[where]


def limited(programs: Sequence[Program | None], where: str) -> list[Program | Schedule | None]:
    return [None if program is None else schedule(program, where=where) for program in programs]


@torch.no_grad()
def likelihoods(
    model: nn.Module, program: Program | None, where: str, template: str, text: str, labels: Sequence[str]
) -> list[float]:
    """Mean log-likelihood of each label after the prompt."""
    tokenizer = make_tokenizer()
    before, after = template.replace("{bos}", "<s> ").split("{text}")
    words = len(text.split())

    def ids(part: str) -> list[int]:
        return tokenizer(part, add_special_tokens=False)["input_ids"]

    prompt = [*ids(before), *ids(text), *ids(after)]
    scores = []
    for label in labels:
        answer = ids(label)
        sequence = [*prompt, *answer]
        with hooked(model, program, positions(where, len(ids(before)), words, len(sequence))):
            found = torch.log_softmax(model(input_ids=torch.tensor([sequence])).logits[0].double(), -1)
        scores.append(float(np.mean([found[len(prompt) - 1 + k, token] for k, token in enumerate(answer)])))
    return scores


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize(("prompt", "lowest"), [(PROMPT, 0), (SHARED, 0), (SHARED, 1)])
@pytest.mark.parametrize("labels", [SINGLE, MIXED], ids=["single", "mixed"])
def test_label_likelihood_masks_where_it_says(where: str, prompt: str, lowest: int, labels: tuple[str, ...]) -> None:
    """Many programs and one; with tokens that all rows share, and without; from the first layer on and above it."""
    model, tokenizer = build("llama"), make_tokenizer()
    programs = programs_of(model, lowest)
    classifier = LabelLikelihood({"mood": prompt}).classifier(model, tokenizer, SENTENCES, "mood", labels)
    before = state(model)
    scores = classifier.scores(ROWS, limited(programs, where))
    (alone,) = classifier.scores(ROWS, limited(programs[:1], where))
    assert state(model) == before
    for program, found in zip((*programs[:6], programs[0]), (*scores[:6], alone), strict=True):
        expected = [likelihoods(model, program, where, prompt, SENTENCES[row].text, labels) for row in ROWS]
        np.testing.assert_allclose(found, expected, **CLOSE)
    # At the text's tokens nothing of the last layer reaches the answer, which is read after them.
    last = find_sites(model)[-1].name
    acting = [program for program in programs if program and (where != "text" or last not in program.sites)]
    assert len(np.unique(scores.round(3), axis=0)) >= len(acting) >= 5


@pytest.mark.parametrize("family", ["gpt2", "opt", "neox"])
@pytest.mark.parametrize("where", WHERE)
def test_label_likelihood_in_other_families(family: str, where: str) -> None:
    model, tokenizer = build(family), make_tokenizer()
    programs = programs_of(model, 0)[:3]
    classifier = LabelLikelihood({"mood": SHARED}).classifier(model, tokenizer, SENTENCES, "mood", MIXED)
    for program, found in zip(programs, classifier.scores(ROWS, limited(programs, where)), strict=True):
        expected = [likelihoods(model, program, where, SHARED, SENTENCES[row].text, MIXED) for row in ROWS]
        np.testing.assert_allclose(found, expected, **CLOSE)


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize(
    ("prompt", "texts"),
    [
        # The shared tokens hold words of both texts; the template goes on as the second text does.
        ("{bos}w1 {text} w7 w7 w2", ["w5 " * 18, "w5 " * 18 + "w7"]),
        ("{bos}w1 {text} w2", ["w3 " * 20 + "w4", "w3 " * 20 + "w5"]),
    ],
)  # fmt: skip
def test_texts_that_begin_alike(where: str, prompt: str, texts: list[str]) -> None:
    model, tokenizer = build("llama"), make_tokenizer()
    sentences = [Sentence(text.strip(), ("w50",), "test", str(number)) for number, text in enumerate(texts)]
    program = programs_of(model, 0)[1]
    classifier = LabelLikelihood({"mood": prompt}).classifier(model, tokenizer, sentences, "mood", SINGLE)
    assert len(classifier._prefix) >= 18
    (found,) = classifier.scores(np.arange(len(texts)), limited([program], where))
    expected = [likelihoods(model, program, where, prompt, sentence.text, SINGLE) for sentence in sentences]
    np.testing.assert_allclose(found, expected, **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("where", WHERE)
def test_the_loss_of_plain_text(where: str) -> None:
    model, tokenizer = build("llama"), make_tokenizer()
    programs = programs_of(model, 0)
    loss, _ = text_loss(model, tokenizer, SENTENCES)
    found = loss(ROWS, limited(programs, where))
    for program, losses in zip(programs[:5], found, strict=False):
        for row, value in zip(ROWS, losses, strict=True):
            ids = tokenizer(SENTENCES[row].text)["input_ids"]
            with hooked(model, program, positions(where, 1, len(ids) - 1, len(ids))):
                likelihood = torch.log_softmax(model(input_ids=torch.tensor([ids])).logits[0].double(), -1)
            expected = -sum(float(likelihood[place, token]) for place, token in enumerate(ids[1:]))
            assert value == pytest.approx(expected, rel=5e-5)


@torch.no_grad()
@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("family", ["llama", "bert"])
def test_the_states_that_a_probe_reads(family: str, where: str) -> None:
    """Of an encoder, too, which is given a mask of the padding."""
    model, tokenizer = build("llama") if family == "llama" else MORE["bert"].build(), make_tokenizer()
    sites = [site.name for site in find_sites(model)]
    programs = [zero([(site, index) for index in range(0, 43, 2)]) for site in sites] + [None]
    probe = LinearProbe()
    labels = ("a", "b")
    sentences = [Sentence(sentence.text, (labels[n % 2],), "train", str(n)) for n, sentence in enumerate(SENTENCES)]
    probe.fit(model, tokenizer, sentences, sentences, "mood", labels)
    classifier = probe.classifier(model, tokenizer, sentences, "mood", labels)
    found = classifier._states(ROWS, limited(programs, where))
    for program, states in zip(programs, found, strict=True):
        for row, value in zip(ROWS, states, strict=True):
            ids = tokenizer(SENTENCES[row].text)["input_ids"]
            with hooked(model, program, positions(where, 1, len(ids) - 1, len(ids))):
                hidden = model.base_model(input_ids=torch.tensor([ids])).last_hidden_state[0, 1:]
            np.testing.assert_allclose(value, hidden.double().mean(0).numpy(), **CLOSE)


def test_a_text_without_a_known_token_has_none_of_its_own() -> None:
    """A probe then reads all tokens, which are not the text's."""
    model, tokenizer = build("llama"), make_tokenizer()
    program = programs_of(model, 0)[1]
    sentences = [Sentence(" ", ("a",), "train", "0"), Sentence("w3 w4", ("b",), "train", "1")] * 4
    probe = LinearProbe()
    probe.fit(model, tokenizer, sentences, sentences, "mood", ("a", "b"))
    classifier = probe.classifier(model, tokenizer, sentences, "mood", ("a", "b"))
    plain, text, prompt = (
        classifier._states(np.array([0]), programs)[0]
        for programs in (AS_IT_IS, limited([program], "text"), limited([program], "prompt"))
    )
    np.testing.assert_allclose(text, plain, **CLOSE)
    assert np.abs(prompt - plain).max() > 1e-2


def test_a_context_around_an_evaluator_is_not_told_its_tokens() -> None:
    model, tokenizer = build("llama"), make_tokenizer()
    program = programs_of(model, 0)[1]
    assert program is not None
    classifier = LabelLikelihood({"mood": PROMPT}).classifier(model, tokenizer, SENTENCES, "mood", SINGLE)
    with intervene(model, schedule(program, where="text")), pytest.raises(InputError, match=r"expected steering\.text"):
        classifier(ROWS)


# --- exams ---


def corpus() -> Corpus:
    rows = [
        {"text": sentence.text, "label": SINGLE[number % 3], "task": "mood", "split": split}
        for number, sentence in enumerate(SENTENCES)
        for split in ("dev", "test", "train")
    ]
    return Corpus.from_records(rows)


@pytest.mark.parametrize("evaluator", ["label_likelihood", "linear_probe"])
def test_an_exam_asks_under_programs_at_its_positions(evaluator: str) -> None:
    model, tokenizer = build("llama"), make_tokenizer()
    programs = programs_of(model, 0)[:5]
    asked: dict[str, np.ndarray] = {}
    lost: dict[str, list[float | None]] = {}
    for where in WHERE:
        given: dict[str, Any] = {"prompts": {"mood": PROMPT}} if evaluator == "label_likelihood" else {}
        exam = Exam(model, tokenizer, corpus(), evaluator=evaluator, where=where, **given)
        assert exam.options(["mood"])["where"] == where
        questions, text = exam.questions("test", "mood"), exam.text("test", "mood")
        asked[where], lost[where] = questions.ask(programs), text.deltas(programs)
        rows = np.arange(len(questions))
        assert np.array_equal(asked[where], questions.classifier(rows, limited(programs, where)))
        losses = text.loss(rows, limited(programs, where)).sum(1) - text.unmasked.sum()
        np.testing.assert_allclose(lost[where], losses / text.tokens.sum(), rtol=1e-12)
    for one, other in (("all", "text"), ("all", "prompt"), ("text", "prompt")):
        assert (asked[one] != asked[other]).any()
        assert lost[one] != lost[other]


class Own:
    """An evaluator that runs the model by itself, and says nothing of the text's own tokens."""

    name, trains = "own", False

    def __init__(self) -> None:
        self.options: dict[str, Any] = {}
        self.given: list[Program | Schedule | None] = []

    def fit(self, *_: Any) -> None:
        pass

    def classifier(self, model: Any, tokenizer: Any, sentences: Sequence[Sentence], task: str, labels: Any) -> Any:
        def classify(rows: np.ndarray, programs: Sequence[Program | Schedule | None] = AS_IT_IS) -> np.ndarray:
            self.given = list(programs)
            answers = []
            for program in programs:
                with intervene(model, [program]), torch.no_grad():
                    ids = [tokenizer(sentences[row].text)["input_ids"] for row in rows]
                    answers.append([int(model(torch.tensor([row])).logits[0, -1, :3].argmax()) for row in ids])
            return np.array(answers)

        return classify


def test_an_evaluator_of_ones_own_is_given_schedules_and_refused_without_a_mask() -> None:
    model, own = build("llama"), Own()
    evaluator: Evaluator = own
    programs = programs_of(model, 0)[3:6]
    exams = {where: Exam(model, make_tokenizer(), corpus(), evaluator=evaluator, where=where) for where in WHERE}
    exams["all"].questions("test", "mood").ask(programs)
    assert all(given is program for given, program in zip(own.given, programs, strict=True))
    for where in ("text", "prompt"):
        with pytest.raises(InputError, match=r"it is not known which they are: expected steering\.text to be set"):
            exams[where].questions("test", "mood").ask(programs)
        assert [type(given) for given in own.given] == [Schedule, type(None), Schedule]


def test_unknown_positions_are_named() -> None:
    expected = "where is 'generated', expected one of all, text, prompt"
    assert message(lambda: Exam(None, None, corpus(), where="generated")) == expected

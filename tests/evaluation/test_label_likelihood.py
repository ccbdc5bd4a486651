"""Likelihoods of labels against one sentence at a time: no batch, no padding, every logit computed, in float64."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers import models as token_models
from transformers import PreTrainedTokenizerFast

from affectron.corpus import Corpus, Sentence
from affectron.errors import InputError, Note
from affectron.evaluation.label_likelihood import LabelLikelihood, default_prompt
from affectron.evaluation.labels import label_matrix
from affectron.models import load_model
from tests.evaluation.questions import ALL, MIXED, PROMPT, SENTENCES, SHARED, SINGLE, programs_of
from tests.support.tiny import build, make_tokenizer, state

pytestmark = pytest.mark.usefixtures("one_thread")


@torch.no_grad()
def likelihood(model: torch.nn.Module, context: list[int], answer: list[int]) -> float:
    """Mean log-likelihood of the answer's tokens after the context, from all logits of one sequence, in float64."""
    logits = model(input_ids=torch.tensor([context + answer])).logits[0].double()
    likelihoods = torch.log_softmax(logits, -1)
    return float(np.mean([likelihoods[len(context) - 1 + k, token] for k, token in enumerate(answer)]))


def expected_scores(model: torch.nn.Module, tokenizer, labels: Sequence[str]) -> np.ndarray:
    scores = []
    for sentence in SENTENCES:
        prompt = tokenizer(f"<s>w1 {sentence.text} w2 w3", add_special_tokens=False)["input_ids"]
        answers = [tokenizer(label, add_special_tokens=False)["input_ids"] for label in labels]
        scores.append([likelihood(model, prompt, answer) for answer in answers])
    return np.array(scores)


@contextmanager
def seen(model: torch.nn.Module) -> Iterator[tuple[list[torch.Tensor], list[torch.Tensor]]]:
    """The token ids of every forward, and the hidden states that the output layer was given."""
    ids: list[torch.Tensor] = []
    heads: list[torch.Tensor] = []
    handles = [
        model.register_forward_pre_hook(lambda _m, _a, kw: ids.append(kw["input_ids"]), with_kwargs=True),
        model.get_output_embeddings().register_forward_hook(lambda _m, args, _out: heads.append(args[0])),
    ]
    try:
        yield ids, heads
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt", "neox"])
@pytest.mark.parametrize("labels", [SINGLE, MIXED, ("w7 w8",)], ids=["single", "mixed", "one"])
def test_scores_are_those_of_one_sequence_at_a_time(family: str, labels: tuple[str, ...]) -> None:
    model, tokenizer = build(family), make_tokenizer()
    classifier = LabelLikelihood({"mood": PROMPT}).classifier(model, tokenizer, SENTENCES, "mood", labels)
    (scores,) = classifier.scores(ALL)
    expected = expected_scores(model.double(), tokenizer, labels)
    np.testing.assert_allclose(scores, expected, rtol=2e-5, atol=2e-5)
    model.float()
    assert np.array_equal(classifier(ALL)[0], expected.argmax(1))


def test_models_that_change_their_logits_are_read_through_their_own_forward() -> None:
    model, tokenizer = build("llama"), make_tokenizer()
    plain = LabelLikelihood({"mood": PROMPT}).classifier(model, tokenizer, SENTENCES, "mood", MIXED).scores(ALL)[0]
    inner = model.forward

    def capped(**kwargs):
        out = inner(**kwargs)
        out.logits = 3 * torch.tanh(out.logits / 3)
        return out

    model.forward = capped
    scores = LabelLikelihood({"mood": PROMPT}).classifier(model, tokenizer, SENTENCES, "mood", MIXED).scores(ALL)[0]
    np.testing.assert_allclose(scores, expected_scores(model, tokenizer, MIXED), rtol=2e-5, atol=2e-5)
    assert np.abs(scores - plain).max() > 0.1


def test_labels_of_one_token_cost_one_forward_and_one_row_of_logits() -> None:
    model, tokenizer = build("llama"), make_tokenizer()
    classifier = LabelLikelihood({"mood": PROMPT}).classifier(model, tokenizer, SENTENCES, "mood", SINGLE)
    before = state(model)
    with seen(model) as (ids, heads):
        classifier(ALL)
    assert [batch.shape[0] for batch in ids] == [len(SENTENCES)]
    assert heads[0].shape[:2] == (len(SENTENCES), 1)
    assert ids[0].shape[1] == max(len(sentence.text.split()) for sentence in SENTENCES) + 4
    assert state(model) == before


def test_a_sentence_is_read_once_for_all_labels_that_begin_alike() -> None:
    model, tokenizer = build("llama"), make_tokenizer()
    classifier = LabelLikelihood({"mood": PROMPT}).classifier(model, tokenizer, SENTENCES, "mood", MIXED)
    with seen(model) as (ids, heads):
        classifier(ALL)
    # w50 and w50 w51 in one row, w52 w50 w53 and w52 w50 w54 in another, w9 w9 in a third.
    assert sum(batch.shape[0] for batch in ids) == 3 * len(SENTENCES)
    assert {hidden.shape[1] for hidden in heads} <= {2, 3}


def test_any_selection_of_rows_gives_the_same_answers() -> None:
    model, tokenizer = build("gpt2"), make_tokenizer()
    classifier = LabelLikelihood({"mood": PROMPT}).classifier(model, tokenizer, SENTENCES, "mood", MIXED)
    (scores,) = classifier.scores(ALL)
    rows = np.array([7, 3, 3, 21])
    np.testing.assert_allclose(classifier.scores(rows)[0], scores[rows], rtol=1e-5, atol=1e-5)
    assert classifier(np.array([], dtype=np.int64)).shape == (1, 0)


def test_an_answer_that_is_no_number_is_none() -> None:
    model, tokenizer = build("llama"), make_tokenizer()
    classifier = LabelLikelihood({"mood": PROMPT}).classifier(model, tokenizer, SENTENCES, "mood", SINGLE)
    with torch.no_grad():
        model.model.norm.weight[0] = float("nan")
    assert (classifier(ALL) == -1).all()


def joining_tokenizer() -> PreTrainedTokenizerFast:
    """Characters, but a colon and the space behind it become one token."""
    vocabulary = {c: i for i, c in enumerate("_: abcdefghijklmnop\n")} | {": ": 40, " a": 41}
    backend = Tokenizer(token_models.BPE(vocab=vocabulary, merges=[(":", " "), (" ", "a")], unk_token="_"))
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="_")


def test_a_token_that_joins_prompt_and_label_belongs_to_the_label() -> None:
    model, tokenizer = build("llama"), joining_tokenizer()
    sentences = [Sentence("bad egg", ("fa",), "test", "1")]
    ids = tokenizer.get_vocab()
    classifier = LabelLikelihood({"mood": "{text}:"}).classifier(model, tokenizer, sentences, "mood", ["fa", "a", "go"])
    context = [ids[c] for c in "bad"] + [ids[" "], ids["e"], ids["g"], ids["g"]]
    answers = [[ids[": "], ids["f"], ids["a"]], [ids[": "], ids["a"]], [ids[": "], ids["g"], ids["o"]]]
    expected = [likelihood(model, context, answer) for answer in answers]
    np.testing.assert_allclose(classifier.scores(np.array([0]))[0, 0], expected, rtol=2e-5)


@pytest.mark.parametrize(
    ("prompt", "space"), [("{text}\nm", " "), ("{text}\n", ""), ("{text} ", ""), ("b {text}", " ")]
)
def test_a_label_follows_one_space_unless_the_prompt_ends_in_white_space(prompt: str, space: str) -> None:
    model, tokenizer = build("llama"), joining_tokenizer()
    sentences = [Sentence("ddef", ("a",), "test", "1")]
    classifier = LabelLikelihood({"mood": prompt}).classifier(model, tokenizer, sentences, "mood", ["f"])
    with seen(model) as (ids, _):
        classifier(np.array([0]))
    whole = tokenizer(prompt.replace("{text}", "ddef") + space + "f")["input_ids"]
    assert ids[0][0].tolist() == whole[:-1]


def test_too_long_a_prompt_loses_the_end_of_the_text_and_nothing_else() -> None:
    model, tokenizer = build("gpt2"), make_tokenizer()  # 64 positions
    sentences = [
        Sentence(" ".join(f"w{20 + i % 20}" for i in range(200)), ("w50",), "test", "7"),
        Sentence("w4 w5", ("w50",), "test", "8"),
    ]
    labels = ["w50", "w51 w52 w53"]
    classifier = LabelLikelihood({"mood": PROMPT}).classifier(model, tokenizer, sentences, "mood", labels)
    # The longest input has 64 tokens: <s> w1, 58 of the text, w2 w3 and the label's first two.
    context = [1, *tokenizer(f"w1 {' '.join(sentences[0].text.split()[:58])} w2 w3")["input_ids"][1:]]
    assert len(context) == 62
    answers = [tokenizer(label, add_special_tokens=False)["input_ids"] for label in labels]
    expected = [likelihood(model, context, answers[0]), np.nan]
    expected[1] = float(np.mean([likelihood(model, context + answers[1][:k], answers[1][k : k + 1]) for k in range(2)]))
    (scores,) = classifier.scores(np.array([0, 1]))
    np.testing.assert_allclose(scores[0, 0], expected[0], rtol=2e-5)
    with torch.no_grad():  # all three tokens, the last one predicted from the 64th position
        logits = model(input_ids=torch.tensor([context + answers[1][:2]])).logits[0].double()
    last = torch.log_softmax(logits, -1)[63, answers[1][2]]
    np.testing.assert_allclose(scores[0, 1], (2 * expected[1] + float(last)) / 3, rtol=2e-5)


def test_a_prompt_without_room_for_the_text_is_refused() -> None:
    model, tokenizer = build("gpt2"), make_tokenizer()
    prompt = "{text} " + "w1 " * 70 + "w2"
    with pytest.raises(InputError, match=r"sentence 0: prompt .* leaves no room for the text in the model's 64 posi"):
        LabelLikelihood({"mood": prompt}).classifier(model, tokenizer, SENTENCES, "mood", SINGLE)


def test_a_label_needs_a_token_before_it() -> None:
    sentences = [Sentence(" ", ("a",), "test", "9")]
    tokenizer = make_tokenizer(bos=False)
    tokenizer.bos_token = None
    with pytest.raises(InputError, match=r"sentence 9: no token precedes the label in prompt '\{text\}'"):
        LabelLikelihood({"mood": "{text}"}).classifier(build("llama"), tokenizer, sentences, "mood", SINGLE)


@pytest.mark.parametrize("prompt", ["", "Say:", "{bos} only"])
def test_a_prompt_needs_a_text(prompt: str) -> None:
    with pytest.raises(InputError, match=r"prompt without \{text\}"):
        LabelLikelihood({"mood": prompt})


def test_a_task_without_a_prompt_is_asked_in_words() -> None:
    tokenizer = make_tokenizer()
    assert default_prompt(tokenizer, "mood", ["glum", "gay", "wry"]) == (
        "{bos}Text: {text}\nThe mood of this text (glum, gay or wry) is:"
    )
    assert default_prompt(make_tokenizer(bos=False), "mood", ["glum"]).startswith("{bos}Text: {text}")
    bare = make_tokenizer(bos=False)
    bare.bos_token = None
    assert default_prompt(bare, "mood", ["glum"]).startswith("Text: {text}")
    tokenizer.chat_template = (
        "{% for m in messages %}[{{ m.role }}] {{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '\n[assistant]' }}{% endif %}"
    )
    prompt = default_prompt(tokenizer, "mood", ["glum", "gay"])
    assert prompt.startswith("[user] Which mood does this text have: glum or gay?")
    assert prompt.endswith("{text}\n[assistant]The mood of this text is")
    evaluator, model = LabelLikelihood(), build("llama")
    classifier = evaluator.classifier(model, tokenizer, SENTENCES, "mood", ["glum", "gay"])
    assert evaluator.options == {"prompts": {"mood": prompt}}
    # A chat template is the model's own format: where it writes no <s>, there is none.
    with seen(model) as (ids, _):
        classifier(ALL)
    assert ids[0][0, 0] != 1


@pytest.mark.parametrize("bos", [True, False])
def test_a_prompt_begins_with_bos_once(bos: bool) -> None:
    """Whoever writes it: the template, the text or nobody."""
    model, tokenizer = build("llama"), make_tokenizer(bos)
    expected = (
        LabelLikelihood({"mood": "{bos}{text} w2"}).classifier(model, tokenizer, SENTENCES, "mood", MIXED).scores(ALL)
    )
    rendered = [replace(sentence, text=f"<s> {sentence.text}") for sentence in SENTENCES]
    for sentences, prompt in ((SENTENCES, "{text} w2"), (rendered, "{text} w2"), (rendered, "{bos}{text} w2")):
        classifier = LabelLikelihood({"mood": prompt}).classifier(model, tokenizer, sentences, "mood", MIXED)
        np.testing.assert_array_equal(classifier.scores(ALL), expected)
    tokenizer.bos_token = None
    with seen(model) as (ids, _):
        LabelLikelihood({"mood": "{text} w2"}).classifier(model, tokenizer, SENTENCES, "mood", SINGLE)(ALL)
    assert not (ids[0][:, 0] == 1).any()


def test_a_task_whose_prompt_is_missing_is_told() -> None:
    model, tokenizer = build("llama"), make_tokenizer()
    evaluator = LabelLikelihood({"mood": PROMPT})
    prompt = default_prompt(tokenizer, "tone", SINGLE)
    with pytest.warns(Note, match=re.escape(f"task 'tone' has no prompt of its own: it is asked {prompt!r}")):
        evaluator.classifier(model, tokenizer, SENTENCES, "tone", SINGLE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluator.classifier(model, tokenizer, SENTENCES, "mood", SINGLE)
        LabelLikelihood().classifier(model, tokenizer, SENTENCES, "tone", SINGLE)


def test_the_tokenizer_s_own_limit_holds_for_prompts() -> None:
    model, tokenizer = build("llama"), make_tokenizer()
    tokenizer.model_max_length = 10
    with seen(model) as (ids, _):
        LabelLikelihood({"mood": PROMPT}).classifier(model, tokenizer, SENTENCES, "mood", SINGLE)(ALL)
    assert ids[0].shape[1] == 10


def test_what_no_program_changes_is_computed_once() -> None:
    model, tokenizer = build("llama"), make_tokenizer()
    programs = programs_of(model, 2)[:6]
    classifier = LabelLikelihood({"mood": SHARED}).classifier(model, tokenizer, SENTENCES, "mood", SINGLE)
    tokens = [0, 0, 0]

    def count(layer: int) -> object:
        def hook(_: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> None:
            tokens[layer] += args[0].shape[0] * args[0].shape[1]

        return model.model.layers[layer].self_attn.q_proj.register_forward_pre_hook(hook)

    for layer in range(3):
        count(layer)
    classifier(ALL, programs)
    own_tokens = sum(len(sentence.text.split()) + 2 for sentence in SENTENCES)
    # The prefix of <s> and 20 words once; padding adds to the sentences' own tokens, at most half here.
    assert tokens[0] == tokens[1] <= 21 + 1.5 * own_tokens
    assert tokens[2] == 6 * tokens[0]


def test_a_promptable_model_reaches_its_known_accuracy(shared: Path) -> None:
    model, tokenizer = load_model(shared / "models" / "emorhet-3m", dtype="float32")
    prompts = {"emotion": "{bos}{text}\nEmotion:", "rhetoric": "{bos}{text}\nDevice:"}
    corpus = Corpus.from_file(shared / "data" / "core" / "data.jsonl", split="test")
    for task, known in (("emotion", 0.629), ("rhetoric", 0.695)):
        sentences = list(corpus.where(task=task))
        labels = corpus.tasks[task]
        classifier = LabelLikelihood(prompts).classifier(model, tokenizer, sentences, task, labels)
        (answers,) = classifier(np.arange(len(sentences)))
        accuracy = label_matrix(sentences, labels)[np.arange(len(sentences)), answers].mean()
        # Known from bfloat16, one sentence at a time; a sentence is 0.0014 or 0.0017.
        assert accuracy == pytest.approx(known, abs=0.004)

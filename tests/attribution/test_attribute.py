"""Attributions against autograd on one sentence at a time, and what they must not depend on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from affectron import ActivationStats, Corpus, attribute, screen
from affectron.attribution import recompute as recomputation
from affectron.errors import Note
from affectron.evaluation import evaluators
from affectron.evaluation.linear_probe import LinearProbe
from tests.attribution.oracle import (
    PROMPTS,
    TOKENIZER,
    Plain,
    Truth,
    answers,
    check,
    make_corpus,
    same_bits,
    watching_tiny,
)
from tests.support.tiny import FAMILIES, build, make_tokenizer, state

pytestmark = pytest.mark.usefixtures("one_thread")

CORPUS = make_corpus()


def run(model: Any, corpus: Corpus = CORPUS, **options: Any) -> ActivationStats:
    return attribute(model, TOKENIZER, corpus, **{"prompts": PROMPTS, "batch_tokens": 97, **options})


@pytest.mark.parametrize("family", FAMILIES)
def test_attributions_of_the_answer_are_those_of_autograd(family: str) -> None:
    model = build(family)
    truths = answers(Plain(model, watching_tiny(family)), CORPUS, TOKENIZER)
    check(run(model), CORPUS, truths)


@pytest.mark.parametrize("positions", ["text", "prompt"])
@pytest.mark.parametrize("baseline", ["zero", "mean"])
def test_positions_and_baselines(positions: str, baseline: str) -> None:
    model = build("llama")
    stats = screen(model, TOKENIZER, CORPUS) if baseline == "mean" else None
    found = run(model, positions=positions, baseline=baseline, stats=stats)
    for task in CORPUS.tasks:  # each task has its own mean
        view = CORPUS.where(task=task)
        means = None if stats is None else {site: part.mean for site, part in stats.task_total(task).items()}
        truths = answers(Plain(model, watching_tiny("llama"), positions, means), view, TOKENIZER)
        check(found, view, truths)


def test_text_and_prompt_add_up_to_all() -> None:
    model = build("gpt2")
    text, prompt, whole = (run(model, positions=positions) for positions in ("text", "prompt", "all"))
    for site in whole.sites:
        largest = np.abs(whole.mean[site]).max()
        np.testing.assert_allclose(text.mean[site] + prompt.mean[site], whole.mean[site], rtol=0, atol=1e-5 * largest)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_metric_text_keeps_the_gradient(family: str) -> None:
    model = build(family)
    plain = Plain(model, watching_tiny(family), "text")
    plain.gradient_alone = True
    longer = Corpus.from_records(
        {"text": f"w3 {one.text}", "label": list(one.labels), "task": [CORPUS.task_of[label] for label in one.labels]}
        for one in CORPUS
    )
    truths = [plain.likelihood(sentence, TOKENIZER) for sentence in longer]
    found = run(model, longer, metric="text", prompts=None, positions="text")
    for task, labels in longer.tasks.items():
        of_task = [truth for truth, one in zip(truths, longer, strict=True) if set(labels) & set(one.labels)]
        check(found, longer.where(task=task), {task: of_task})


def test_a_text_without_a_token_to_predict_is_not_counted() -> None:
    """A tokenizer without <s> leaves a text of one word nothing to read before it."""
    records = [{"text": text, "label": "ab"[i % 2]} for i, text in enumerate(["w1 w2 w3", "w4 w5", "w6", "w7"])]
    corpus = Corpus.from_records(records)
    for batch_tokens in (1, 1000):
        found = attribute(build("llama"), make_tokenizer(bos=None), corpus, metric="text", batch_tokens=batch_tokens)
        assert [found.label(label)[found.sites[0]].count for label in "ab"] == [1, 1]
        assert not any(found.nonfinite[site].any() for site in found.sites)


@pytest.mark.parametrize("family", ["llama", "opt"])
def test_attributions_of_the_margin_of_a_probe(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fitted: list[LinearProbe] = []
    monkeypatch.setattr(evaluators, "LinearProbe", lambda: fitted.append(LinearProbe()) or fitted[0])
    model = build(family)
    found = run(model, evaluator="linear_probe", prompts=None)
    plain = Plain(model, watching_tiny(family))
    assert found.provenance["evaluator"] == "linear_probe"
    assert set(found.provenance["ridge_penalty"]) == set(CORPUS.tasks)
    truths: dict[str, list[Truth]] = {}
    for task, labels in CORPUS.tasks.items():
        weights, intercept = (torch.from_numpy(part) for part in fitted[0]._fitted[task])
        for one in CORPUS.where(task=task):
            ids = TOKENIZER(one.text)["input_ids"]
            hidden = plain.forward(ids, range(1, len(ids)), plain.model.base_model).last_hidden_state[0, 1:]
            scores = hidden.double().mean(0) @ weights + intercept
            own = torch.tensor([label in one.labels for label in labels])
            truths.setdefault(task, []).append(plain.attributed(scores[own].max() - scores[~own].max()))
    check(found, CORPUS, truths)


@pytest.mark.parametrize("calibrate", ["content_free", "train"])
def test_attributions_of_the_calibrated_answer(calibrate: str) -> None:
    model = build("llama")
    found = run(model, calibrate=calibrate)
    plain = Plain(model, watching_tiny("llama"))
    truths: dict[str, list[Truth]] = {}
    for task, labels in CORPUS.tasks.items():
        sentences = list(CORPUS.where(task=task))
        kept = [one.text for number, one in enumerate(sentences) if number % 5]  # every fifth is held out
        texts = kept if calibrate == "train" else ["N/A", "[MASK]", ""]
        offsets = plain.offsets(texts, labels, PROMPTS[task], TOKENIZER)
        recorded = found.provenance["offsets"][task]
        assert recorded == pytest.approx(dict(zip(labels, offsets.tolist(), strict=True)), rel=1e-5)
        truths[task] = [plain.answer(one, labels, PROMPTS[task], TOKENIZER, offsets) for one in sentences]
    assert found.provenance["calibrate"] == calibrate
    check(found, CORPUS, truths)


def test_batches_change_attributions_by_rounding_alone() -> None:
    model = build("llama")
    one = run(model, batch_tokens=1)
    for batch_tokens in (13, 100_000):
        other = run(model, batch_tokens=batch_tokens)
        for site in one.sites:
            assert np.array_equal(one.count[site], other.count[site])
            for name in ("mean", "min", "max"):
                a, b = getattr(one, name)[site], getattr(other, name)[site]
                np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(a).max())


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_same_bits_come_out_again_also_where_layers_are_computed_again(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(family)
    first = run(model)
    for recompute in (None, False, True):
        same_bits(run(model, recompute=recompute), first)
    monkeypatch.setattr(recomputation, "free_bytes", lambda _device: 1 << 17)
    with pytest.warns(Note, match=r"a batch of \d+ tokens keeps more than .* each layer is computed again"):
        found = run(model)
    same_bits(found, first)


def test_memory_that_suffices_is_not_saved(monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder) -> None:
    monkeypatch.setattr(recomputation, "free_bytes", lambda _device: 1 << 30)
    run(build("llama"))
    assert not [one for one in recwarn if issubclass(one.category, Note)]


def test_the_model_is_left_as_it_was_and_dropout_is_off_meanwhile() -> None:
    model = build("gpt2", resid_pdrop=0.5, embd_pdrop=0.5, attn_pdrop=0.5)
    quiet = run(model)
    model.train()
    model.transformer.h[1].eval()
    for parameter in list(model.parameters())[::2]:
        parameter.requires_grad_(False)
    before, modes = state(model), [module.training for module in model.modules()]
    trained = [parameter.requires_grad for parameter in model.parameters()]
    same_bits(run(model), quiet)
    assert state(model) == before
    assert [module.training for module in model.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == trained
    assert all(parameter.grad is None for parameter in model.parameters())
    with torch.inference_mode():
        assert model(torch.tensor([[3, 4]])).logits.isfinite().all()


@pytest.mark.parametrize("recompute", [False, True])
def test_an_error_leaves_the_model_as_it_was(recompute: bool) -> None:
    model = build("llama")
    before, calls = state(model), []

    def fail(_module: object, _args: object, out: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 3:
            raise ArithmeticError
        return out

    handle = model.lm_head.register_forward_hook(fail)
    with pytest.raises(ArithmeticError):
        run(model, recompute=recompute)
    handle.remove()
    assert state(model) == before
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("name", ["bfloat16", "float16"])
def test_models_in_half_precision(name: str) -> None:
    """Against the same model in float64: the rounding of the dtype, many times over."""
    dtype = getattr(torch, name)
    model = build("llama").to(dtype)
    corpus = make_corpus(9, ("way",))
    found = run(model, corpus, prompts={"way": PROMPTS["way"]})
    truths = answers(Plain(model, watching_tiny("llama")), corpus, TOKENIZER)
    check(found, corpus, truths, 8 * torch.finfo(dtype).eps)


def test_small_gradients_of_a_model_in_float16_do_not_vanish() -> None:
    """Without a scale they are near the smallest float16."""
    model = build("llama").to(torch.float16)
    with torch.no_grad():
        model.lm_head.weight *= 2.0**-14
    corpus = make_corpus(9, ("way",))
    found = run(model, corpus, prompts={"way": PROMPTS["way"]})
    truths = answers(Plain(model, watching_tiny("llama")), corpus, TOKENIZER)
    check(found, corpus, truths, 8 * torch.finfo(torch.float16).eps)


def test_provenance_says_what_was_attributed() -> None:
    model = build("llama")
    found = run(model, positions="text").provenance
    wanted = {
        "kind": "attribution", "tokens": "sentence", "active": "product", "metric": "answer", "positions": "text",
        "evaluator": "label_likelihood", "prompts": PROMPTS, "baseline": "zero", "corpus": [CORPUS.hash],
    }  # fmt: skip
    assert {name: found[name] for name in wanted} == wanted
    by_task = [CORPUS.where(task=task) for task in CORPUS.tasks]
    assert found["sentences"] == sum(map(len, by_task))
    assert 0 < found["padding"] < 0.5

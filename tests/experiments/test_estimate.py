"""The check of the estimate: effects of single neurons against plain hooks, and attributions against plain autograd."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import scipy
import torch

from affectron.corpus import Corpus
from affectron.evaluation.exam import Exam
from affectron.experiments.estimate import check_estimate
from affectron.interventions import zero
from affectron.models import find_sites
from affectron.neurons import NeuronSet
from affectron.screening.screen import screen
from affectron.selection import select
from affectron.stats import ActivationStats
from tests.experiments.scripted import Scripted
from tests.support.attributions import attributions_by_autograd
from tests.support.errors import message
from tests.support.tiny import build, make_tokenizer

pytestmark = pytest.mark.usefixtures("one_thread")

TOKENIZER = make_tokenizer()
LABELS = ("w50", "w51", "w52")


def make_corpus() -> Corpus:
    rng = np.random.default_rng(4)
    records = [
        {
            "text": " ".join(f"w{w}" for w in rng.integers(0, 48, rng.integers(2, 9))),
            "label": label, "task": "mood", "split": split,
        }
        for split in ("train", "dev", "test")
        for label in LABELS
        for _ in range(7)
    ]  # fmt: skip
    return Corpus.from_records(records)


MODEL = build("llama").eval()
CORPUS = make_corpus()
SITES = [site.name for site in find_sites(MODEL)]


@pytest.fixture(scope="module")
def attributions() -> ActivationStats:
    train = CORPUS.where(split="train")
    measured = screen(MODEL, TOKENIZER, train)
    return attributions_by_autograd(MODEL, TOKENIZER, train, SITES, measured.provenance)


@pytest.fixture(scope="module")
def neurons(attributions: ActivationStats) -> NeuronSet:
    return select(attributions, count=9, score="attribution_t")


@pytest.fixture
def exam() -> Exam:
    return Exam(MODEL, TOKENIZER, CORPUS, prompts={"mood": "{bos}{text}"})


@torch.no_grad()
def metric(text: str, label: str) -> float:
    ids = torch.tensor([TOKENIZER(text)["input_ids"]])
    logits = MODEL(input_ids=ids).logits[0, -1, TOKENIZER.convert_tokens_to_ids(list(LABELS))]
    return float(torch.log_softmax(logits.double(), -1)[LABELS.index(label)])


def decrease(site: str, index: int, label: str) -> float:
    """Loss of the metric on the label's dev sentences when a hook sets the neuron to zero."""
    texts = [one.text for one in CORPUS.where(split="dev") if one.labels == (label,)]
    before = [metric(text, label) for text in texts]

    def mask(_: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        h = args[0].clone()
        h[..., index] = 0
        return (h,)

    handle = MODEL.get_submodule(f"{site}.down_proj").register_forward_pre_hook(mask)
    try:
        return float(np.mean(before) - np.mean([metric(text, label) for text in texts]))
    finally:
        handle.remove()


def test_effects_are_those_of_a_hook_and_the_summary_follows(
    exam: Exam, neurons: NeuronSet, attributions: ActivationStats
) -> None:
    result = check_estimate(exam, neurons, attributions, neurons=7)
    assert result.options.neurons == 7
    for label, estimated in result.tasks["mood"].items():
        assert estimated.sentences == 7
        selected = [neuron for neuron in estimated.neurons if neuron.selected]
        assert [(one.site, one.index) for one in selected] == [neuron[:2] for neuron in neurons[label][:7]]
        drawn = {(one.site, one.index) for one in estimated.neurons if not one.selected}
        assert not drawn & {neuron[:2] for neuron in neurons[label]}
        by_site = neurons[label][:7].by_site()
        assert {site: sum(one[0] == site for one in drawn) for site in by_site} == {
            site: len(index) for site, index in by_site.items()
        }
        for one in estimated.neurons:
            assert one.effect == pytest.approx(decrease(one.site, one.index, label), abs=2e-6)
            assert one.attribution == attributions.label(label)[one.site].mean[one.index]
        for part, correlation in (
            (estimated.neurons, estimated.correlation), (selected, estimated.selected_correlation)
        ):  # fmt: skip
            ranks = [scipy.stats.rankdata([getattr(one, name) for one in part]) for name in ("attribution", "effect")]
            assert correlation == pytest.approx(np.corrcoef(ranks)[0, 1])
        sums = [sum(getattr(one, name) for one in selected) for name in ("effect", "attribution")]
        assert estimated.ratio == pytest.approx(sums[0] / sums[1])


@pytest.mark.parametrize("seed", range(5))
def test_attributions_are_close_to_effects_on_the_same_sentences(seed: int) -> None:
    """To first order: where neurons write little, so that the metric is nearly linear in each, effects follow the
    attributions of the same sentences, whichever neurons are drawn."""
    model = copy.deepcopy(MODEL)
    with torch.no_grad():
        for site in SITES:
            model.get_submodule(site).down_proj.weight *= 0.05
    dev = CORPUS.where(split="dev")
    same = attributions_by_autograd(model, TOKENIZER, dev, SITES, screen(model, TOKENIZER, dev).provenance)
    exam = Exam(model, TOKENIZER, CORPUS, prompts={"mood": "{bos}{text}"}, allow_overlap=True, seed=seed)
    for estimated in check_estimate(exam, select(same, count=9, score="attribution_t"), same).tasks["mood"].values():
        assert estimated.correlation is not None
        assert estimated.correlation > 0.95
        assert estimated.ratio == pytest.approx(1, abs=0.05)


def test_what_is_undefined_is_none(exam: Exam, neurons: NeuronSet, attributions: ActivationStats) -> None:
    none = NeuronSet([neurons[label][:0] for label in LABELS], neurons.widths, neurons.provenance, neurons.screened)
    for estimated in check_estimate(exam, none, attributions).tasks["mood"].values():
        assert estimated.neurons == ()
        assert (estimated.correlation, estimated.selected_correlation, estimated.ratio) == (None, None, None)
    for estimated in check_estimate(exam, neurons, attributions, neurons=1).tasks["mood"].values():
        assert len(estimated.neurons) == 2
        assert estimated.selected_correlation is None
        assert estimated.ratio is not None


def test_the_probe_s_metric_is_its_margin(neurons: NeuronSet, attributions: ActivationStats) -> None:
    exam = Exam(MODEL, TOKENIZER, CORPUS, evaluator="linear_probe")
    result = check_estimate(exam, neurons, attributions, neurons=2)
    asked = exam.questions("dev", "mood")
    for target, label in enumerate(LABELS):
        rows = asked.own(target)
        for one in result.tasks["mood"][label].neurons:
            margins = []
            for program in (None, zero([(one.site, one.index)])):
                scores = asked.classifier.scores(rows, [program])[0]  # type: ignore[attr-defined]
                margins.append(scores[:, target] - np.delete(scores, target, axis=1).max(1))
            assert one.effect == pytest.approx(np.mean(margins[0] - margins[1]), abs=1e-6)


@pytest.mark.parametrize(
    ("field", "value", "line"),
    [
        ("metric", "text", "the attributions have metric 'text', expected 'answer'"),
        ("baseline", "mean", "the attributions have baseline 'mean', expected 'zero'"),
        ("evaluator", "linear_probe", "the attributions have evaluator 'linear_probe', expected 'label_likelihood'"),
        ("calibrate", "train", "the attributions have calibrate 'train', expected 'none'"),
        ("positions", "text", "the attributions have positions 'text', expected 'all'"),
        (
            "prompts",
            {"mood": "{text} is"},
            "the attributions have the prompt '{text} is' of task 'mood', expected '{bos}{text}'",
        ),
        ("kind", "activation", "attributions are statistics of activations, expected of attributions"),
    ],
)
def test_other_attributions_are_refused(
    exam: Exam, neurons: NeuronSet, attributions: ActivationStats, field: str, value: Any, line: str
) -> None:
    other = ActivationStats.pooled([attributions], {**attributions.provenance, field: value})
    assert message(lambda: check_estimate(exam, neurons, other)) == line


def test_an_evaluator_without_a_metric_is_refused(neurons: NeuronSet, attributions: ActivationStats) -> None:
    class Told(Scripted):
        metric: Any = None

    for evaluator, line in (
        (Scripted(), "evaluator 'scripted' has no metric of the scores of labels"),
        (Told(), "the classifier of evaluator 'scripted' gives no scores of labels"),
    ):
        exam = Exam(MODEL, TOKENIZER, CORPUS, evaluator=evaluator)
        assert message(lambda exam=exam: check_estimate(exam, neurons, attributions)) == line
    assert "neurons is 0, expected an integer of at least 1" in message(
        lambda: check_estimate(exam, neurons, attributions, neurons=0)
    )

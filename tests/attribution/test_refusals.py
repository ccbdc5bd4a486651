"""Attributions that are refused, each in a line that names what was given; and programs from them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from affectron import ActivationStats, Corpus, attenuate, attribute, cross_signal, induce, mean, screen, select
from affectron.attribution.pairs import attribute_pairs
from affectron.corpus.pairs import Pair
from affectron.evaluation.label_likelihood import LabelLikelihood
from tests.attribution.oracle import PROMPTS, TOKENIZER, make_corpus
from tests.support.errors import message
from tests.support.tiny import build, make_tokenizer

pytestmark = pytest.mark.usefixtures("one_thread")

CORPUS = make_corpus(9, ("way",), 7)


def refused(model: Any, corpus: Corpus = CORPUS, tokenizer: Any = TOKENIZER, **options: Any) -> str:
    return message(lambda: attribute(model, tokenizer, corpus, **options))


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"metric": "loss"}, "metric is 'loss', expected one of answer, text"),
        ({"positions": "last"}, "positions is 'last', expected one of all, text, prompt"),
        ({"baseline": "median"}, "baseline is 'median', expected one of zero, mean"),
        ({"batch_tokens": 0}, "batch_tokens is 0, expected an integer of at least 1"),
        ({"evaluator": "probe"}, "evaluator is 'probe', expected one of label_likelihood, linear_probe"),
        ({"prompts": {"mood": "{text} is"}}, "prompts has task 'mood', expected way"),
        ({"prompts": {"way": "no place"}}, "'no place'"),
        ({"prompts": PROMPTS, "evaluator": "linear_probe"}, "prompts go with 'label_likelihood'"),
        (
            {"calibrate": "train", "evaluator": "linear_probe"},
            "calibrate is 'train', which goes with 'label_likelihood'",
        ),
        ({"metric": "text", "baseline": "mean"}, "baseline is 'mean', and the metric 'text' keeps the gradient"),
        ({"metric": "text", "prompts": PROMPTS}, "prompts is {'kind'"),
        (
            {"metric": "text", "evaluator": "linear_probe"},
            "evaluator is 'linear_probe', which goes with the metric 'answer', and it is 'text'",
        ),
        (
            {"metric": "text", "calibrate": "content_free"},
            "calibrate is 'content_free', which goes with the metric 'answer', and it is 'text'",
        ),
        ({"baseline": "mean"}, "baseline is 'mean' and stats is not given; expected stats with 'mean' alone"),
        ({"shards": 10}, "shards is 10, expected 1 to 9"),
        ({"resume": True}, "checkpoint is None and resume is True"),
    ],
)
def test_options_that_do_not_exist_or_go_together(options: dict[str, Any], line: str) -> None:
    assert line in refused(build("llama"), **options)


def test_statistics_that_are_no_baseline_of_the_model() -> None:
    model = build("llama")
    stats = screen(model, TOKENIZER, CORPUS)
    assert refused(model, stats=stats) == "baseline is 'zero' and stats is given; expected stats with 'mean' alone"
    for other, line in (
        (build("llama", seed=1), "stats are of another model: the weights"),
        (build("gpt2"), "stats are of another model: "),
        (build("llama", rms_norm_eps=1e-5), "stats are of another model: "),
    ):
        assert refused(other, baseline="mean", stats=stats).startswith(line)
    assert refused(model, tokenizer=make_tokenizer(words=59), baseline="mean", stats=stats).startswith(
        "stats are of another model: the tokenizer"
    )
    attributions = attribute(model, TOKENIZER, CORPUS)
    wanted = "stats are of attributions, expected activations for the baseline 'mean'"
    assert refused(model, baseline="mean", stats=attributions) == wanted
    elsewhere = screen(model, TOKENIZER, make_corpus(9, ("kind",)))
    assert "'way'" in refused(model, baseline="mean", stats=elsewhere)


def test_a_task_with_nothing_to_choose_from() -> None:
    corpus = Corpus.from_records([{"text": "w1 w2", "label": "w9"}, {"text": "w3", "label": "w9"}])
    task = next(iter(corpus.tasks))
    line = f"task {task!r} has the label 'w9' alone, expected two or more to choose from"
    assert refused(build("llama"), corpus) == line
    assert attribute(build("llama"), TOKENIZER, corpus, metric="text").label("w9")  # which asks nothing


def test_a_task_of_one_sentence_teaches_no_probe() -> None:
    corpus = Corpus.from_records([{"text": "w1 w2", "label": ["w9", "w10"], "task": ["way", "way"]}])
    line = "task 'way' has 1 sentence, expected 2 or more for 'linear_probe' to learn from"
    assert refused(build("llama"), corpus, evaluator="linear_probe") == line


def test_a_sentence_of_all_labels_has_no_margin() -> None:
    """There is no other label to prefer its own to."""
    records = [{"text": one.text, "label": one.labels[0], "task": "way"} for one in CORPUS]
    both = {"text": "w1 w2", "label": ["w9", "w10"], "task": ["way", "way"]}
    found = attribute(build("llama"), TOKENIZER, Corpus.from_records([*records, both]), evaluator="linear_probe")
    assert sum(found.count[found.sites[0]]) == len(records)


def test_an_evaluator_of_ones_own() -> None:
    class Judge:
        name, trains, options = "judge", False, {}

    assert refused(build("llama"), evaluator=Judge()) == (
        "evaluator 'judge' has no method differentiable, expected one that gives a metric"
    )
    evaluator = LabelLikelihood({"way": PROMPTS["way"]})
    found, wanted = (attribute(build("llama"), TOKENIZER, CORPUS, **options) for options in (
        {"evaluator": evaluator}, {"prompts": {"way": PROMPTS["way"]}},
    ))  # fmt: skip
    assert found.provenance == wanted.provenance


def test_a_tokenizer_of_another_model_is_refused() -> None:
    line = refused(build("llama"), tokenizer=make_tokenizer(words=200))
    assert line.startswith("the tokenizer does not fit the model")


@pytest.mark.parametrize("options", [{}, {"metric": "text"}, {"recompute": True}])
def test_a_model_without_a_finite_answer_is_refused(options: dict[str, Any]) -> None:
    model = build("llama")
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight.fill_(float("nan"))
    assert refused(model, **options).startswith("model.layers.0.mlp: all ")


def test_a_sentence_without_a_finite_answer_spoils_no_other() -> None:
    """They are counted, and said."""
    model = build("llama")
    clean = attribute(model, TOKENIZER, CORPUS, metric="text", batch_tokens=1000)
    records = [
        {"text": text, "label": label, "task": "way"}
        for text, label in [*((one.text, one.labels[0]) for one in CORPUS), ("w58 w1 w2", "w9")]
    ]
    with torch.no_grad():
        model.model.embed_tokens.weight[61] = float("nan")  # w58
    with pytest.warns(UserWarning, match="NaN or infinite"):
        found = attribute(model, TOKENIZER, Corpus.from_records(records), metric="text", batch_tokens=1000)
    for site in clean.sites:
        one, other = clean.label("w9")[site], found.label("w9")[site]
        assert other.count == one.count + 1
        assert (other.nonfinite == 1).all()
        np.testing.assert_allclose(other.mean, one.mean, rtol=1e-4, atol=1e-7)


def attributions() -> list[ActivationStats]:
    model = build("llama")
    pairs = [Pair("w9", "w1 w2", "w3 w4", "w5", "w6"), Pair("w9", "w1 w7", "w3 w9", "w5", "w6")]
    return [attribute(model, TOKENIZER, CORPUS), attribute_pairs(model, TOKENIZER, pairs)]


def test_programs_from_attributions_are_refused() -> None:
    """They would set a neuron to nats."""
    for stats in attributions():
        neurons = select(stats, count=5)["w9"]
        for kind, program in (
            ("mean", lambda stats=stats, neurons=neurons: mean(neurons, stats)),
            ("attenuate", lambda stats=stats, neurons=neurons: attenuate(neurons, stats, 0.5)),
            ("induce", lambda stats=stats, neurons=neurons: induce(neurons, stats)),
            ("cross-signal", lambda stats=stats, neurons=neurons: cross_signal(neurons, stats, "w9", 1.0)),
        ):
            assert message(program) == f"{kind} needs activations, and these statistics hold attributions"

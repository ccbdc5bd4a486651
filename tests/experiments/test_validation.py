"""Causal validation on a model with one planted neuron, and what it refuses."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from affectron.corpus import Corpus, Sentence
from affectron.errors import InputError
from affectron.evaluation.intervals import Paired, contrast_interval, contrast_p
from affectron.experiments.results import Validation
from affectron.experiments.validation import validate
from affectron.interventions import attenuate, zero
from affectron.models import config_hash, find_sites, fingerprint, intervene, load_model, tokenizer_hash
from affectron.neurons import NeuronList, NeuronSet
from affectron.report import build_report
from affectron.screening.screen import screen
from affectron.selection import select
from affectron.stats import FIELDS, ActivationStats
from tests.experiments.one_neuron import (
    CALM,
    CORPUS,
    FIRST,
    GLOOM,
    JOY,
    MODEL,
    PLANTED,
    SECOND,
    TOKENIZER,
    planted_model,
)
from tests.experiments.scripted import Scripted
from tests.support.tiny import build, make_tokenizer, state

PROMPTS = {"mood": "{bos}{text}"}

pytestmark = pytest.mark.usefixtures("one_thread")


def arrays_of(stats: ActivationStats) -> dict[str, dict[str, np.ndarray]]:
    return {site: {name: getattr(stats, name)[site].copy() for name in FIELDS} for site in stats.sites}


@pytest.fixture(scope="module")
def stats() -> ActivationStats:
    return screen(MODEL, TOKENIZER, CORPUS.where(split="train"))


def neuron_set(stats: ActivationStats, lists: Mapping[str, Sequence[tuple[str, int]]]) -> NeuronSet:
    made = [NeuronList(label, stats.task_of[label], [(s, i, 0.5) for s, i in found]) for label, found in lists.items()]
    return NeuronSet(made, stats.widths, {**stats.provenance, "select": {"score": "by hand"}})


@pytest.fixture(scope="module")
def neurons(stats: ActivationStats) -> NeuronSet:
    # The planted one is last: the ranking by the differential score has to find it.
    joy = [(FIRST, 3), (FIRST, 20), (SECOND, 1), (SECOND, 2), PLANTED]
    return neuron_set(stats, {JOY: joy, GLOOM: [(FIRST, 5), (SECOND, 9), (SECOND, 11)], CALM: []})


@pytest.fixture(scope="module")
def result(stats: ActivationStats, neurons: NeuronSet) -> Validation:
    return validate(MODEL, TOKENIZER, CORPUS, neurons, stats, prompts=PROMPTS)


def test_the_planted_neuron_is_found_to_carry_its_label(result: Validation) -> None:
    mood = result.tasks["mood"]
    assert mood.baseline["test"].per_label == {JOY: 1.0, GLOOM: 1.0, CALM: 0.0}
    joy = mood.results[JOY]
    # The neuron is 1.5 times as strong as needed: attenuated by 0.3 it still wins, by 0.4 no longer.
    assert [(one.reference, one.alpha, one.share, one.neurons, one.dev_accuracy) for one in joy.trace] == [
        ("rms", 0.3, 0.1, 1, 1.0), ("rms", 0.4, 0.2, 1, 0.0)
    ]  # fmt: skip
    assert [one.dev_drop for one in joy.trace] == [0.0, 1.0]
    assert [one.relative_change for one in joy.trace] == pytest.approx([0.3, 0.4])
    assert (joy.stopped, joy.reference, joy.alpha, joy.share) == ("drop reached", "rms", 0.4, 0.2)
    assert (joy.selected, joy.masked, joy.sites) == (5, 1, {SECOND: 1})
    own, others = Paired(16, 0, 16), Paired(0, 0, 32)
    for mask in joy.masks.values():
        assert (mask.accuracy, mask.delta, mask.interval) == (0.0, -1.0, own.interval())
        assert (mask.lost, mask.gained, mask.p, mask.adjusted_p) == (16, 0, own.p(), 2 * own.p())
        assert (mask.others_delta, mask.others_interval) == (0.0, others.interval())
        assert (mask.specific_interval, mask.specific_p) == (contrast_interval(own, others), contrast_p(own, others))
        # Each of the 40 neurons of the site that were not selected is a set of its own.
        assert (mask.random.sets, mask.random.beyond, mask.random.deltas) == (40, 0, (0.0,) * 10)
        assert (mask.specific_adjusted_p, mask.verdict, mask.reason) == (2 / 41, "specific", "")
    assert joy.masks["adaptive"].relative_change == pytest.approx(0.4)
    assert joy.masks["zero"].relative_change == pytest.approx(1.0)


def test_neurons_that_do_nothing_are_found_to_do_nothing_where_there_are_enough_sentences(
    result: Validation, stats: ActivationStats, neurons: NeuronSet
) -> None:
    gloom = result.tasks["mood"].results[GLOOM]
    assert gloom.stopped == "caps reached"
    assert [(one.alpha, one.share) for one in gloom.trace] == [
        (min(3 + k, 10) / 10, (k + 1) / 10) for k in range(10)
    ]  # fmt: skip
    assert gloom.trace[-1].neurons == gloom.masked == gloom.selected == 3
    assert gloom.sites == {FIRST: 1, SECOND: 2}
    few = "16 sentences are too few: a change of 5 points is neither shown nor excluded"
    for mask in gloom.masks.values():
        assert (mask.delta, mask.p, mask.random.sets, mask.random.beyond) == (0.0, 1.0, 10, 10)
        assert (mask.verdict, mask.reason) == ("cannot tell", few)
    coarse = validate(MODEL, TOKENIZER, CORPUS, neurons, stats, prompts=PROMPTS, random_sets=0, smallest_effect=0.2)
    for mask in coarse.tasks["mood"].results[GLOOM].masks.values():
        assert (mask.verdict, mask.reason) == ("no effect", "a change of 20 points is excluded")


def test_a_label_without_neurons_is_listed_and_not_tested(result: Validation) -> None:
    calm = result.tasks["mood"].results[CALM]
    assert (calm.selected, calm.masked, calm.stopped) == (0, 0, "no neuron selected")
    assert (calm.masks, calm.trace) == ({}, ())
    assert (calm.baseline, calm.sentences) == (0.0, 16)


def test_a_tested_label_has_its_effects(result: Validation) -> None:
    assert list(result.results) == [JOY, GLOOM, CALM]
    joy = result.results[JOY]
    assert (joy.baseline, joy.sentences) == (1.0, 16)
    for mask in joy.masks.values():
        assert (mask.delta, mask.others_delta, mask.verdict, mask.reason) == (-1.0, 0.0, "specific", "")
        assert (mask.adjusted_p, mask.specific_adjusted_p) == (2 * mask.p, 2 / 41)
        assert (mask.random.mean, mask.random.sets, mask.random.p) == (0.0, 40, 1 / 41)


@pytest.mark.parametrize("neutral", [None, CALM])
def test_loss_is_taken_on_neutral_text(stats: ActivationStats, neurons: NeuronSet, neutral: str | None) -> None:
    found = validate(MODEL, TOKENIZER, CORPUS, neurons, stats, prompts=PROMPTS, neutral=neutral, random_sets=0)
    test = CORPUS.where(split="test")
    texts = [one.text for one in test if (one.labels != (JOY,) if neutral is None else one.labels == (neutral,))]
    ids = torch.tensor([TOKENIZER(text)["input_ids"] for text in texts])

    @torch.no_grad()
    def loss(model: torch.nn.Module) -> float:
        likelihoods = torch.log_softmax(model(input_ids=ids).logits[:, :-1].double(), -1)
        return -float(likelihoods.gather(-1, ids[:, 1:, None]).mean())

    before = loss(MODEL)
    for kind, program in (("adaptive", attenuate([PLANTED], stats, 0.4, label=JOY)), ("zero", zero([PLANTED]))):
        with intervene(MODEL, program):
            expected = loss(MODEL) - before
        mask = found.tasks["mood"].results[JOY].masks[kind]
        assert mask.loss_delta == pytest.approx(expected, abs=1e-6)
        assert expected < -1e-3  # after w10 the model wastes less on w50, which never follows
        assert (mask.random, mask.verdict) == (None, "lowers accuracy")
        assert mask.reason == "no random sets to compare with"


def test_the_probe_finds_the_planted_neuron_too(stats: ActivationStats, neurons: NeuronSet) -> None:
    found = validate(MODEL, TOKENIZER, CORPUS, neurons, stats, evaluator="linear_probe", random_sets=5, share_cap=0.2)
    joy = found.tasks["mood"].results[JOY]
    assert found.options["evaluator"] == "linear_probe"
    assert set(found.options["ridge_penalty"]) == {"mood"}
    assert joy.baseline > 0.7
    assert joy.masks["zero"].delta < 0
    assert joy.trace[0].neurons == 1
    assert joy.masks["zero"].random.deltas == (0.0,) * 5


def test_the_model_is_left_as_it_was_also_after_an_error(stats: ActivationStats, neurons: NeuronSet) -> None:
    model = planted_model().train()
    model.model.layers[0].eval()
    before, modes = state(model), [module.training for module in model.modules()]
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    runs = []

    class Stopping(Scripted):
        def answers(self, sentences: Sequence[Sentence], target: int) -> np.ndarray:
            runs.append(model.training or model.model.layers[1].training)
            if len(runs) == 9:
                raise KeyboardInterrupt
            return super().answers(sentences, target)

    with pytest.raises(KeyboardInterrupt):
        validate(model, TOKENIZER, CORPUS, neurons, stats, evaluator=Stopping())
    assert runs == [False] * 9
    validate(model, TOKENIZER, CORPUS, neurons, stats, prompts=PROMPTS, random_sets=1)
    assert state(model) == before
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_no_random_set_where_a_site_has_too_few_other_neurons(stats: ActivationStats) -> None:
    everything = [(SECOND, i) for i in range(30)]
    found = validate(
        MODEL, TOKENIZER, CORPUS, neuron_set(stats, {JOY: everything}), stats,
        prompts=PROMPTS, share=1.0, min_drop=1.0,
    )  # fmt: skip
    joy = found.tasks["mood"].results[JOY]
    assert joy.masked == 30
    assert [mask.random for mask in joy.masks.values()] == [None] * 3
    assert list(found.tasks["mood"].results) == [JOY]


def test_a_result_survives_its_file_and_the_report_takes_it(
    result: Validation, stats: ActivationStats, neurons: NeuronSet, tmp_path: Path
) -> None:
    path = tmp_path / "validation.json"
    result.save(path)
    assert Validation.load(path) == result
    assert json.loads(path.read_text())["format"] == "affectron.validation"
    stats.save(tmp_path / "stats.safetensors")
    neurons.save(tmp_path / "neurons.json")
    page = build_report(tmp_path).read_text(encoding="utf-8")
    assert "do not belong together" not in page
    assert CALM in page


def test_nothing_that_is_not_a_number_reaches_the_file(stats: ActivationStats, neurons: NeuronSet) -> None:
    model = planted_model()
    with torch.no_grad():
        model.lm_head.weight[5] = float("nan")
    altered = NeuronSet([neurons[label] for label in neurons.labels], stats.widths, {"weights": fingerprint(model)})
    plain = ActivationStats(stats.tasks, stats.segments, arrays_of(stats))
    found = validate(model, TOKENIZER, CORPUS, altered, plain, prompts=PROMPTS, random_sets=2)
    text = json.dumps(found.content, allow_nan=False)
    assert found.tasks["mood"].results[JOY].masks["zero"].loss_delta is None
    assert found.tasks["mood"].baseline["test"].accuracy == 0.0
    assert "loss_delta" in text


def test_options_and_provenance_say_what_was_done(result: Validation, neurons: NeuronSet) -> None:
    options, provenance = result.options, result.provenance
    assert options["evaluator"] == "label_likelihood"
    assert options["prompts"] == {"mood": "{bos}{text}"}
    assert (options["alpha"], options["share"], options["min_drop"]) == (0.3, 0.1, 0.05)
    assert (options["random_sets"], options["smallest_effect"]) == (None, 0.05)
    assert (options["dev"], options["test"], options["neutral"], options["limit"]) == ("dev", "test", None, None)
    assert provenance["weights"] == fingerprint(MODEL)
    assert provenance["model_hash"] == config_hash(MODEL)
    assert provenance["tokenizer"] == tokenizer_hash(TOKENIZER)
    assert provenance["corpus"] == [CORPUS.hash]
    assert provenance["corpus_splits"]["test"] == CORPUS.where(split="test").hash
    assert provenance["neurons"] == neurons.provenance


def test_a_limit_takes_that_many_sentences_of_each_label(stats: ActivationStats, neurons: NeuronSet) -> None:
    script = Scripted()
    found = validate(MODEL, TOKENIZER, CORPUS, neurons, stats, evaluator=script, random_sets=1, limit=4)
    mood = found.tasks["mood"]
    assert (mood.dev_sentences, mood.test_sentences) == (12, 12)
    assert all(entry.sentences == 4 for entry in mood.results.values())
    asked = [one.id for _, sentences, _ in script.calls for one in sentences]
    first = next(i for i, (_, sentences, _) in enumerate(script.calls) if sentences[0].split == "test")
    assert len({one.id for one in script.calls[first][1]}) == 12
    other = Scripted()
    validate(MODEL, TOKENIZER, CORPUS, neurons, stats, evaluator=other, random_sets=1, limit=4, seed=9)
    assert [one.id for one in other.calls[0][1]] != asked[:12]


# --- bad input ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": 0}, r"alpha is 0, expected a number in \(0, 1\]"),
        ({"alpha": float("nan")}, r"alpha is nan, expected a number in \(0, 1\]"),
        ({"alpha_cap": 1.5}, r"alpha_cap is 1.5, expected a number in \(0, 1\]"),
        ({"alpha": 0.9, "alpha_cap": 0.5}, "alpha is 0.9, which is above alpha_cap, 0.5"),
        ({"share": 1.1}, r"share is 1.1, expected a number in \(0, 1\]"),
        ({"share_step": -0.1}, r"share_step is -0.1, expected a number in \[0, 1\]"),
        ({"min_drop": 0}, r"min_drop is 0, expected a number in \(0, 1\]"),
        ({"random_sets": -1}, "random_sets is -1, expected an integer of at least 0"),
        ({"random_sets": 10.0}, "random_sets is 10.0, expected an integer of at least 0"),
        ({"smallest_effect": 0}, r"smallest_effect is 0, expected a number in \(0, 1\]"),
        ({"seed": True}, "seed is True, expected an integer of at least 0"),
        ({"limit": 0}, "limit is 0, expected an integer of at least 1"),
        ({"evaluator": "guess"}, "evaluator is 'guess', expected one of label_likelihood, linear_probe"),
        ({"prompts": {"mood": "Say:"}}, r"prompt without \{text\}: prompts.mood is 'Say:'"),
        ({"prompts": {"moods": "{text}"}}, "prompts has task 'moods', expected mood"),
        ({"prompts": PROMPTS, "evaluator": "linear_probe"}, "prompts go with 'label_likelihood'"),
        ({"task": "tone"}, "task is 'tone', expected one of the neurons' tasks: mood"),
        ({"dev": "valid"}, "split 'valid' is not in records; known: 'dev', 'test', 'train'"),
        ({"test": "valid"}, "split 'valid' is not in records"),
        ({"test": "dev"}, "the splits are dev 'dev', test 'dev'; expected different ones"),
        ({"evaluator": "linear_probe", "train": "test"}, "test 'test', train 'test'; expected different ones"),
        ({"neutral": "dull"}, "label 'dull' has no sentence in split 'test' of records"),
    ],
)
def test_bad_options_are_named_before_anything_is_run(
    stats: ActivationStats, neurons: NeuronSet, options: dict[str, Any], message: str
) -> None:
    ran = []
    handle = MODEL.register_forward_pre_hook(lambda *_: ran.append(None))
    try:
        with pytest.raises(InputError, match=message) as raised:
            validate(MODEL, TOKENIZER, CORPUS, neurons, stats, **options)
    finally:
        handle.remove()
    assert not ran
    assert "\n" not in str(raised.value)


def test_neurons_and_statistics_of_another_model_are_refused(stats: ActivationStats, neurons: NeuronSet) -> None:
    other = planted_model()
    with torch.no_grad():
        other.lm_head.weight[3] = 1.0
    message = f"the statistics are of another model: weights is {fingerprint(MODEL)} there and "
    with pytest.raises(InputError, match=message + fingerprint(other)):
        validate(other, TOKENIZER, CORPUS, neurons, stats, prompts=PROMPTS)
    foreign = NeuronSet(list(neurons.values()), neurons.widths, {"model_hash": "abc"})
    with pytest.raises(InputError, match=f"the neurons are .*: model_hash is abc there and {config_hash(MODEL)} here"):
        validate(MODEL, TOKENIZER, CORPUS, foreign, stats, prompts=PROMPTS)
    with pytest.raises(InputError, match="of another model: tokenizer is "):
        validate(MODEL, make_tokenizer(words=50), CORPUS, neurons, stats, prompts=PROMPTS)
    wider = NeuronSet([NeuronList(JOY, "mood", [(FIRST, 43, 1.0)])], {FIRST: 50, SECOND: 50})
    with pytest.raises(InputError, match=f"neuron index beyond the model: index 43 of {FIRST}, which has 43 neurons"):
        validate(MODEL, TOKENIZER, CORPUS, wider, stats, prompts=PROMPTS)
    three = screen(build("llama"), TOKENIZER, CORPUS)
    bare = ActivationStats(three.tasks, three.segments, arrays_of(three))
    message = "the statistics are of another model: model.layers.2.mlp has 43 neurons there and none here"
    with pytest.raises(InputError, match=message):
        validate(MODEL, TOKENIZER, CORPUS, neurons, bare, prompts=PROMPTS)


def test_a_label_without_a_sentence_in_a_split_is_named(stats: ActivationStats, neurons: NeuronSet) -> None:
    for split in ("dev", "test"):
        records = [
            {"text": one.text, "label": one.labels[0], "task": "mood", "split": one.split}
            for one in CORPUS
            if (one.split, one.labels) != (split, (GLOOM,))
        ]
        with pytest.raises(InputError, match=f"label '{GLOOM}' has no sentence in split '{split}' of records"):
            validate(MODEL, TOKENIZER, Corpus.from_records(records), neurons, stats, prompts=PROMPTS)


def test_labels_and_tasks_must_mean_the_same_everywhere(stats: ActivationStats, neurons: NeuronSet) -> None:
    tone_of = {JOY: "tone", GLOOM: "mood", CALM: "mood"}
    records = [
        {"text": one.text, "label": one.labels[0], "task": tone_of[one.labels[0]], "split": one.split} for one in CORPUS
    ]
    with pytest.raises(InputError, match=f"label '{JOY}' is of task 'mood' in the neurons and of 'tone' in records"):
        validate(MODEL, TOKENIZER, Corpus.from_records(records), neurons, stats, prompts=PROMPTS)
    records = [{"text": "w1", "label": "a", "task": "tone", "split": split} for split in ("dev", "test")]
    with pytest.raises(InputError, match="task 'mood' is not in records; known: 'tone'"):
        validate(MODEL, TOKENIZER, Corpus.from_records(records), neurons, stats, prompts={"tone": "{text}"})


def test_a_mask_that_cannot_be_made_is_refused_before_the_loop(stats: ActivationStats) -> None:
    arrays = arrays_of(stats)
    arrays[SECOND]["nonfinite"][:, 7] = arrays[SECOND]["count"]
    blind = ActivationStats(stats.tasks, stats.segments, arrays, stats.provenance)
    with pytest.raises(InputError, match=f"neuron 7 of {SECOND} has no finite activation under label '{JOY}'"):
        validate(MODEL, TOKENIZER, CORPUS, neuron_set(stats, {JOY: [PLANTED]}), blind, prompts=PROMPTS)


# --- a real model ------------------------------------------------------------------------------------------------


def test_a_real_model_and_corpus(shared: Path, tmp_path: Path) -> None:
    model, tokenizer = load_model(shared / "models" / "emorhet-3m", dtype="float32")
    taken: Counter[tuple[str | None, tuple[str, ...]]] = Counter()
    records = []
    for one in Corpus.from_file(shared / "data" / "core" / "data.jsonl", task="rhetoric"):
        taken[one.split, one.labels] += 1
        if taken[one.split, one.labels] <= 10:
            records.append({"text": one.text, "label": one.labels[0], "task": "rhetoric", "split": one.split})
    corpus = Corpus.from_records(records)
    measured = screen(model, tokenizer, corpus.where(split="train"))
    chosen = select(measured, top=0.05)
    found = validate(
        model, tokenizer, corpus, chosen, measured,
        prompts={"rhetoric": "{bos}{text}\nDevice:"}, limit=6, random_sets=2,
    )  # fmt: skip
    assert set(found.tasks["rhetoric"].results) == set(corpus.tasks["rhetoric"])
    assert 0.4 < found.tasks["rhetoric"].baseline["test"].accuracy <= 1
    assert len(find_sites(model)) == 6
    found.save(tmp_path / "validation.json")
    assert build_report(tmp_path).is_file()

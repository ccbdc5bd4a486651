"""Candidates are judged by what selected them: the tables add up to the screening's own counts and means, and AUROC
and examples follow the quantity and the direction of the score."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import mannwhitneyu
from tokenizers import normalizers

from affectron.corpus import Corpus
from affectron.experiments.candidates import Activations, collect, examine
from affectron.neurons import NeuronList, NeuronSet
from affectron.scores import SCORES, directions, score, scores_for
from affectron.screening.screen import screen
from affectron.selection import select
from affectron.stats import FIELDS, PAIRS, ActivationStats
from tests.support.families import FAMILIES
from tests.support.raw_activations import raw
from tests.support.tiny import build, make_tokenizer

pytestmark = pytest.mark.usefixtures("one_thread")

TOKENIZER = make_tokenizer()
TASK = ("a", "b", "c")
RATE = {"entropy", "raw_entropy", "frequency_difference", "log_odds", "mutual_information"}
UNPAIRED = [name for name, kind in SCORES.items() if not kind.paired]


def make_corpus() -> Corpus:
    rng = np.random.default_rng(4)
    records = []
    for place in range(35):
        words = [f"w{w}" for w in rng.integers(0, 60, rng.integers(1, 8))]
        labels = [TASK[place % 3]] if place % 5 else list(TASK[:2])
        records.append({"text": " ".join(words), "label": labels, "task": "t", "split": "train"})
    return Corpus.from_records(records)


CORPUS = make_corpus()


def everything(stats: ActivationStats) -> NeuronSet:
    """A list of all neurons, so that the tables have a column for each."""
    items = [(site, index, 0.0) for site, width in stats.widths.items() for index in range(width)]
    return NeuronSet([NeuronList("a", "t", items)], stats.widths)


# --- the tables --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tokens", ["all", "last", "mean"])
@pytest.mark.parametrize("active", ["gate", "product"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "bert"])
@pytest.mark.filterwarnings("ignore:.*exact, but not fused")
def test_the_tables_add_up_to_what_the_screening_counted(family: str, active: str, tokens: str) -> None:
    model = FAMILIES["bert"].build() if family == "bert" else build(family)
    rules = {"tokens": tokens, "active": active, "template": "w3 {text} w4", "batch_tokens": 40}
    stats = screen(model, TOKENIZER, CORPUS, **rules)
    with collect(model, TOKENIZER, CORPUS, everything(stats), **rules) as found:
        rate, mean = np.array(found.rate, np.float64), np.array(found.mean, np.float64)
        assert (found.tokens, found.active) == (tokens, active)
    lengths = np.array([len(one.text.split()) if tokens == "all" else 1 for one in found.sentences])
    for row, segment in enumerate(stats.segments):
        own = np.array([set(one.labels) == set(segment) for one in found.sentences])
        active_tokens = lengths[own] @ rate[own]
        means = lengths[own] @ mean[own] / lengths[own].sum()
        for column, (site, index) in enumerate(found.neurons):
            assert lengths[own].sum() == stats.count[site][row]
            assert active_tokens[column] == pytest.approx(stats.active[site][row, index], abs=1e-4)
            assert means[column] == pytest.approx(stats.mean[site][row, index], rel=2e-4, abs=2e-5)


def test_special_tokens_count_where_they_counted_in_the_screening() -> None:
    model = build("llama")
    stats = screen(model, TOKENIZER, CORPUS, count_special=True)
    with collect(model, TOKENIZER, CORPUS, everything(stats), count_special=True) as found:
        lengths = np.array([1 + len(one.text.split()) for one in found.sentences])
        active = lengths @ found.rate.astype(np.float64)
    expected = [stats.active[site][:, index].sum() for site, index in found.neurons]
    np.testing.assert_allclose(active, expected, atol=1e-3)


def test_a_sentence_without_a_token_of_its_own_is_left_out() -> None:
    records = [{"text": text, "label": "ab"[place % 2]} for place, text in enumerate(["w1 w2", "w3", "~", "w4 w5 w6"])]
    tokenizer, corpus = make_tokenizer(), Corpus.from_records(records)
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("~", "")
    stats = screen(build("llama"), tokenizer, corpus)
    with collect(build("llama"), tokenizer, corpus, everything(stats)) as found:
        assert sorted(one.text for one in found.sentences) == ["w1 w2", "w3", "w4 w5 w6"]
        assert found.rate.shape == found.mean.shape == (3, sum(stats.widths.values()))
        assert np.isfinite(found.mean).all()


def test_equal_shares_are_equal_numbers() -> None:
    """1 of 3 and 2 of 6 tokens: were the shares not equal to the bit, such sentences would not tie."""
    corpus = Corpus.from_records([{"text": " ".join(["w5 w6 w7"] * n), "label": "ab"[n % 2]} for n in range(1, 8)])
    model = build("llama")
    for layer in model.model.layers:  # each token by itself: attention adds nothing
        layer.self_attn.o_proj.weight.data.zero_()
    stats = screen(model, TOKENIZER, corpus)
    with collect(model, TOKENIZER, corpus, everything(stats)) as found:
        rate = np.array(found.rate)
    assert {*np.unique(rate)} == {np.float32(0), np.float32(1 / 3), np.float32(2 / 3), np.float32(1)}
    assert (rate == rate[0]).all()


# --- what a score reads ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCORES)
def test_a_score_changes_with_what_it_reads_and_with_nothing_else(name: str) -> None:
    kind = SCORES[name]
    stats = raw(both=False).stats(tokens=PAIRS if kind.paired else "all")
    task = "emotion"
    rng = np.random.default_rng(0)

    def changed(*fields: str) -> bool:
        arrays = {site: {field: getattr(stats, field)[site] for field in FIELDS} for site in stats.sites}
        for found in arrays.values():
            for field in fields:
                factor = rng.uniform(0.3, 0.9, found[field].shape)
                found[field] = (found[field] * factor).astype(FIELDS[field])
        other = ActivationStats(stats.tasks, stats.segments, arrays, stats.provenance)
        pairs = zip(score(stats, name, task).values(), score(other, name, task).values(), strict=True)
        return not all(np.array_equal(one, two, equal_nan=True) for one, two in pairs)

    assert changed("active") == (kind.reads == "rate")
    assert changed("mean", "m2") == (kind.reads == "mean")
    assert (kind.reads == "rate") == (name in RATE)


@pytest.mark.parametrize("sign", [None, "positive", "negative"])
@pytest.mark.parametrize("name", UNPAIRED)
def test_auroc_on_the_tokens_selected_on_has_the_direction_of_the_selection(name: str, sign: str | None) -> None:
    """Sentences of one token: AUROC of activity is 1/2 + (P of the label - P of the rest)/2, in the direction."""
    tokens = raw(both=False)
    stats = tokens.stats(tokens="last")
    whole = {} if SCORES[name].per_label else {"filter_rate": None}
    neurons = select(stats, top=1.0, score=name, sign=sign, **whole)
    found, corpus = as_sentences(tokens)
    result = examine(found, neurons, stats, corpus, bootstrap=2, permutations=2, examples=3)
    assert (result["options"]["score"], result["options"]["reads"]) == (name, SCORES[name].reads)
    checked = 0
    for label, entry in result["labels"].items():
        target, rest = tokens.target(label), tokens.rest(label)
        for one, (site, index, value) in zip(entry["neurons"], neurons[label], strict=True):
            h, active = tokens.values[site][:, index].astype(np.float32), tokens.active[site][:, index]
            quantity = active if SCORES[name].reads == "rate" else h
            difference = quantity[target].mean() - quantity[rest].mean()
            way = 1 if not SCORES[name].per_label or difference >= 0 else -1
            assert one["direction"] == ("higher" if way > 0 else "lower")
            if SCORES[name].signed and name != "log_odds":  # half a token more can turn its sign
                assert np.sign(value) == way
            area = mannwhitneyu(way * quantity[target].astype(float), way * quantity[rest].astype(float)).statistic
            assert one["auroc"] == pytest.approx(area / (target.sum() * rest.sum()), abs=1e-9)
            if SCORES[name].reads == "rate":
                assert one["auroc"] == pytest.approx(0.5 + way * difference / 2, abs=1e-9)
                assert one["auroc"] >= 0.5
            order = sorted(
                np.flatnonzero(target | rest), key=lambda t: (-way * quantity[t].astype(float), -way * abs(h[t]))
            )  # fmt: skip
            assert [example["text"] for example in one["examples"]] == [str(t) for t in order[:3]]
            checked += 1
    assert checked > 3


def as_sentences(tokens) -> tuple[Activations, Corpus]:
    """Each token as a sentence of its own, whose text is its number."""
    task_of = {label: task for task, labels in tokens.tasks.items() for label in labels}
    corpus = Corpus.from_records(
        [
            {"text": str(number), "label": list(labels), "task": [task_of[label] for label in labels]}
            for number, labels in enumerate(tokens.labels)
        ]
    )
    names = tuple((site, index) for site, values in tokens.values.items() for index in range(values.shape[1]))
    rate = np.concatenate([tokens.active[site] for site in tokens.values], axis=1).astype(np.float32)
    mean = np.concatenate([tokens.values[site] for site in tokens.values], axis=1).astype(np.float32)
    return Activations(rate, mean, names, tuple(corpus), "last", "gate"), corpus


def test_directions_of_pairs_are_those_of_their_differences() -> None:
    stats = raw(both=False).stats(tokens=PAIRS)
    for name in scores_for(stats):
        for site, found in directions(stats, name, "emotion").items():
            expected = [np.where(stats.label(label)[site].mean < 0, -1, 1) for label in stats.tasks["emotion"]]
            np.testing.assert_array_equal(found, expected)


def test_a_neuron_active_with_negative_values_shows_its_own_label() -> None:
    """Active where its gate is, with a negative product: the mean activation is lowest where it is active most."""
    records = [{"text": f"{label}{k}", "label": label} for label in "ab" for k in range(6)]
    corpus = Corpus.from_records(records)
    sentences = tuple(corpus)
    mine = np.array(["a" in one.labels for one in sentences])
    rate = np.where(mine, 0.75, 0.25).astype(np.float32)[:, None]
    mean = np.where(mine, -3.0, -0.5).astype(np.float32)[:, None]
    mean[0] = -5.0
    arrays = {
        "count": np.array([24, 24]), "active": np.array([[18], [6]]), "nonfinite": np.zeros((2, 1), np.int64),
        "mean": np.array([[-3.0], [-0.5]]), "m2": np.ones((2, 1)),
        "min": np.full((2, 1), -5, np.float32), "max": np.zeros((2, 1), np.float32),
    }  # fmt: skip
    task = next(iter(corpus.tasks))
    stats = ActivationStats({task: ["a", "b"]}, [("a",), ("b",)], {"site": arrays})
    found = Activations(rate, mean, (("site", 0),), sentences)
    for name, way in (("entropy", "higher"), ("mean_difference", "lower")):
        neurons = select(stats, top=1.0, score=name)
        (one,) = examine(found, neurons, stats, corpus, bootstrap=2, permutations=2)["labels"]["a"]["neurons"]
        assert (one["direction"], one["auroc"]) == (way, 1.0)
        assert all(example["labels"] == ["a"] for example in one["examples"])
        # Of equal rates the larger absolute mean comes first.
        assert one["examples"][0] == {"text": "a0", "labels": ["a"], "rate": 0.75, "mean": -5.0}


def test_a_value_that_is_not_finite_is_told_and_the_file_is_written(tmp_path: Path) -> None:
    tokens = raw(both=False)
    stats = tokens.stats(tokens="last")
    neurons = select(stats, top=1.0, score="mean_difference")
    found, corpus = as_sentences(tokens)
    found.mean[7, 0] = np.nan
    result = examine(found, neurons, stats, corpus, bootstrap=2, permutations=2, examples=300)
    task = corpus.task_of[tokens.labels[7][0]]
    for entry in result["labels"].values():
        for one in entry["neurons"]:
            lost = (one["site"], one["index"]) == found.neurons[0] and entry["task"] == task
            assert [one[key] is None for key in ("auroc", "interval", "p", "q")] == [lost] * 4
            assert ("7" in {example["text"] for example in one["examples"]}) == (entry["task"] == task and not lost)
            assert len(one["examples"]) == entry["sentences"] + entry["rest"] - lost
    result.save(tmp_path / "candidates.json")
    assert json.loads((tmp_path / "candidates.json").read_text())["labels"] == result["labels"]

"""Candidates: the tables add up to the screening's counts and means, and AUROC follows the quantity and the
direction of the score."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from scipy import stats as distributions
from scipy.stats import mannwhitneyu
from tokenizers import normalizers

from affectron.corpus import Corpus
from affectron.errors import InputError
from affectron.experiments.activity import Activations, collect
from affectron.experiments.candidates import auroc, examine, permutation_test
from affectron.experiments.results import Candidates
from affectron.neurons import NeuronList, NeuronSet
from affectron.scores import SCORES, directions, score, scores_for
from affectron.screening.screen import screen
from affectron.selection import select
from affectron.stats import ACTIVATION, ATTRIBUTION, FIELDS, PAIRS, ActivationStats
from tests.experiments.planted_model import CORPUS, MODEL, SITES
from tests.support.errors import message
from tests.support.families import FAMILIES, available, watched
from tests.support.planted import MOODS, TONES, make_corpus
from tests.support.raw_activations import raw
from tests.support.tiny import build, make_tokenizer

pytestmark = pytest.mark.usefixtures("one_thread")

TOKENIZER = make_tokenizer()
TASK = ("a", "b", "c")
RATE = {"entropy", "raw_entropy", "frequency_difference", "log_odds", "mutual_information"}
UNPAIRED = [name for name, kind in SCORES.items() if kind.kind == "activation"]


def make_sentences() -> Corpus:
    rng = np.random.default_rng(4)
    records = []
    for place in range(35):
        words = [f"w{w}" for w in rng.integers(0, 60, rng.integers(1, 8))]
        labels = [TASK[place % 3]] if place % 5 else list(TASK[:2])
        records.append({"text": " ".join(words), "label": labels, "task": "t", "split": "train"})
    return Corpus.from_records(records)


SENTENCES = make_sentences()


def everything(stats: ActivationStats) -> NeuronSet:
    """A list of all neurons, so that the tables have a column for each."""
    items = [(site, index, 0.0) for site, width in stats.widths.items() for index in range(width)]
    return NeuronSet([NeuronList("a", "t", items)], stats.widths)


# --- the tables --------------------------------------------------------------------------------------------------


def test_sentences_that_are_cut_are_told_of() -> None:
    tokenizer = make_tokenizer()
    tokenizer.model_max_length = 5
    stats = screen(build("llama"), tokenizer, SENTENCES)
    cut = sum(len(sentence.text.split()) > 4 for sentence in SENTENCES)  # <s> takes one
    assert 0 < cut < len(SENTENCES)
    with (
        pytest.warns(UserWarning, match=f"^{cut} sentences of {len(SENTENCES)} cut to the model's maximum length"),
        collect(build("llama"), tokenizer, SENTENCES, everything(stats)),
    ):
        pass


@pytest.mark.parametrize("tokens", ["all", "last", "mean"])
@pytest.mark.parametrize("active", ["gate", "product"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "bert"])
@pytest.mark.filterwarnings("ignore:.*exact, but not fused")
def test_the_tables_add_up_to_what_the_screening_counted(family: str, active: str, tokens: str) -> None:
    model = FAMILIES["bert"].build() if family == "bert" else build(family)
    rules = {"tokens": tokens, "active": active, "template": "w3 {text} w4", "batch_tokens": 40}
    stats = screen(model, TOKENIZER, SENTENCES, **rules)
    with collect(model, TOKENIZER, SENTENCES, everything(stats), **rules) as found:
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
    stats = screen(model, TOKENIZER, SENTENCES, count_special=True)
    with collect(model, TOKENIZER, SENTENCES, everything(stats), count_special=True) as found:
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


@pytest.mark.parametrize("memory", [0, 1 << 28])
def test_activations_are_the_means_that_hooks_see(neurons: NeuronSet, memory: int) -> None:
    corpus = CORPUS.where(split="dev")
    with collect(MODEL, TOKENIZER, corpus, neurons, batch_tokens=40, memory=memory) as found:
        assert isinstance(found.mean, np.memmap) == (memory == 0)
        assert len(found.sentences) == len(corpus) == len(found.mean)
        assert {one.text for one in found.sentences} == {one.text for one in corpus}
        values = np.array(found.mean)
    for row, sentence in list(enumerate(found.sentences))[::7]:
        ids = torch.tensor([TOKENIZER(sentence.text)["input_ids"]])
        seen: dict[str, torch.Tensor] = {}
        handles = [
            MODEL.get_submodule(f"{site}.down_proj").register_forward_pre_hook(
                lambda _m, args, site=site, seen=seen: seen.__setitem__(site, args[0][0])
            )
            for site in SITES
        ]
        with torch.no_grad():
            MODEL(input_ids=ids)
        for handle in handles:
            handle.remove()
        own = len(sentence.text.split())
        expected = [float(seen[site][-own:, index].double().mean()) for site, index in found.neurons]
        np.testing.assert_allclose(values[row], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["bert", "t5"])
@pytest.mark.filterwarnings("ignore:.*exact, but not fused")
def test_activations_in_an_encoder_are_the_means_that_hooks_see(name: str) -> None:
    family, tokenizer, corpus = FAMILIES[name], make_tokenizer(), CORPUS.where(split="dev")
    model = family.build()
    sites = family.names[: family.layers]
    widths = dict.fromkeys(sites, family.neurons)
    chosen = NeuronSet(
        [NeuronList("w50", "mood", [(site, index, 0.0) for site in sites for index in (2, 31)])], widths, {}
    )
    with collect(model, tokenizer, corpus, chosen, batch_tokens=70) as found:
        values, sentences = np.array(found.mean), found.sentences
    assert {len(one.text.split()) for one in sentences} == {8}
    lengths = [len(tokenizer(one.text)["input_ids"]) for one in sentences]
    seen: dict[str, torch.Tensor] = {}

    def keep(site: str, h: torch.Tensor, *_: object) -> torch.Tensor:
        seen[site] = h.reshape(-1, h.shape[-1])
        return h

    for row, sentence in list(enumerate(sentences))[::9]:
        ids = torch.tensor([tokenizer(sentence.text)["input_ids"]])
        with torch.no_grad(), watched(model, family, keep):
            model(input_ids=ids, **({"decoder_input_ids": ids[:, :1]} if name == "t5" else {}))
        own = slice(lengths[row] - 8, None)
        expected = [float(seen[site][own, index].double().mean()) for site, index in found.neurons]
        np.testing.assert_allclose(values[row], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.*exact, but not fused")
@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("t5", "site 'decoder.block.0.layer.2.DenseReluDense' is not in the model"),  # it does not read the text
        ("mixtral", "model.layers.0.mlp.experts.0 is an expert, expected neurons of MLPs that every token passes"),
    ],
)
def test_neurons_that_do_not_read_every_sentence_are_refused(name: str, told: str) -> None:
    if not available(name):
        pytest.skip(f"transformers {transformers.__version__} has no such {name}")
    family = FAMILIES[name]
    site = family.names[-2 if name == "t5" else 0]
    chosen = NeuronSet([NeuronList("w50", "mood", [(site, 3, 0.0)])], {site: family.neurons}, {})

    def run() -> None:
        with collect(family.build(), make_tokenizer(), CORPUS.where(split="dev"), chosen):
            raise AssertionError

    assert told in message(run)


# --- what a score reads ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name, kind in SCORES.items() if not kind.shifted])
def test_a_score_changes_with_what_it_reads_and_with_nothing_else(name: str) -> None:
    kind = SCORES[name]
    quantity = ATTRIBUTION if kind.kind == ATTRIBUTION else ACTIVATION
    stats = raw(both=False).stats(tokens=PAIRS if kind.kind == "pair" else "all", kind=quantity)
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
    result = examine(found, neurons, stats, corpus, permutations=2)
    assert (result.options.score, result.options.reads) == (name, SCORES[name].reads)
    checked = 0
    for label, entry in result.labels.items():
        target, rest = tokens.target(label), tokens.rest(label)
        for one, (site, index, value) in zip(entry.neurons, neurons[label], strict=True):
            h, active = tokens.values[site][:, index].astype(np.float32), tokens.active[site][:, index]
            quantity = active if SCORES[name].reads == "rate" else h
            difference = quantity[target].mean() - quantity[rest].mean()
            way = 1 if not SCORES[name].per_label or difference >= 0 else -1
            assert one.direction == ("higher" if way > 0 else "lower")
            if SCORES[name].signed and name != "log_odds":  # half a token more can turn its sign
                assert np.sign(value) == way
            area = mannwhitneyu(way * quantity[target].astype(float), way * quantity[rest].astype(float)).statistic
            assert one.auroc == pytest.approx(area / (target.sum() * rest.sum()), abs=1e-9)
            if SCORES[name].reads == "rate":
                assert one.auroc == pytest.approx(0.5 + way * difference / 2, abs=1e-9)
                assert one.auroc >= 0.5
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


def test_a_neuron_active_with_negative_values_has_the_direction_of_what_its_score_reads() -> None:
    """Active where its gate is, with a negative product: the mean activation is lowest where it is active most."""
    records = [{"text": f"{label}{k}", "label": label} for label in "ab" for k in range(6)]
    corpus = Corpus.from_records(records)
    sentences = tuple(corpus)
    mine = np.array(["a" in one.labels for one in sentences])
    rate = np.where(mine, 0.75, 0.25).astype(np.float32)[:, None]
    mean = np.where(mine, -3.0, -0.5).astype(np.float32)[:, None]
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
        (one,) = examine(found, neurons, stats, corpus, permutations=2).labels["a"].neurons
        assert (one.direction, one.auroc) == (way, 1.0)


def test_a_value_that_is_not_finite_is_told_and_the_file_is_written(tmp_path: Path) -> None:
    tokens = raw(both=False)
    stats = tokens.stats(tokens="last")
    neurons = select(stats, top=1.0, score="mean_difference")
    found, corpus = as_sentences(tokens)
    found.mean[7, 0] = np.nan
    result = examine(found, neurons, stats, corpus, permutations=2)
    task = corpus.task_of[tokens.labels[7][0]]
    for entry in result.labels.values():
        for one in entry.neurons:
            lost = (one.site, one.index) == found.neurons[0] and entry.task == task
            assert [getattr(one, key) is None for key in ("auroc", "interval", "p", "q")] == [lost] * 4
    result.save(tmp_path / "candidates.json")
    assert Candidates.load(tmp_path / "candidates.json") == result


# --- AUROC, its interval and its test ------------------------------------------------------------------------------


def test_auroc_is_that_of_mann_and_whitney_with_ties() -> None:
    rng = np.random.default_rng(0)
    values = np.stack([rng.normal(size=90), rng.integers(0, 4, 90), np.zeros(90)], axis=1).astype(float)
    has = rng.random(90) < 0.3
    expected = [mannwhitneyu(column[has], column[~has]).statistic / (has.sum() * (~has).sum()) for column in values.T]
    np.testing.assert_allclose(auroc(values, has), expected, rtol=1e-12)
    assert auroc(values, has)[2] == 0.5


def test_permutation_p_values_are_uniform_without_an_effect_and_small_with_one() -> None:
    rng = np.random.default_rng(3)
    has = np.arange(60) < 20
    values = rng.normal(size=(60, 400))
    area, p = permutation_test(values, has, 199, rng)
    np.testing.assert_allclose(area, auroc(values, has))
    # At level 0.05 of 400 true nulls, 0.05 ± 4 standard errors.
    assert abs((p <= 0.05).mean() - 0.05) < 4 * np.sqrt(0.05 * 0.95 / 400)
    assert distributions.kstest(p, "uniform").pvalue > 1e-3
    _, p = permutation_test(values[:, :5] + 3 * has[:, None], has, 199, rng)
    assert (p == 1 / 200).all()


def test_planted_candidates_separate_their_label_and_shuffled_labels_nothing(
    neurons: NeuronSet, stats: ActivationStats
) -> None:
    corpus = CORPUS.where(split="dev")
    with collect(MODEL, TOKENIZER, corpus, neurons) as found:
        entries = examine(found, neurons, stats, corpus, permutations=400).labels
    for label in {**MOODS, **TONES}:
        first = entries[label].neurons[0]
        assert first.auroc == 1
        # As that of a share of 1 in 12 trials: the label has 12 sentences, and the rest no fewer.
        assert first.interval == (pytest.approx(0.025 ** (1 / 12)), 1.0)
        assert first.q is not None
        assert first.q < 0.05
        assert first.redundancy is None

    # Labels that say nothing: of all neurons, tested at a false discovery rate of 0.05, none or hardly one is found.
    shuffled = make_corpus(shuffled=True).where(split="dev")
    width = neurons.widths[SITES[0]]
    everything = [
        NeuronList(label, "mood", [(site, k, 0.0) for site in SITES for k in range(width)]) for label in MOODS
    ]
    all_neurons = NeuronSet(everything, neurons.widths, {"select": {"score": "hedges_g"}})
    with collect(MODEL, TOKENIZER, shuffled, all_neurons) as found:
        entries = examine(found, all_neurons, stats, shuffled, permutations=400).labels
    p = np.array([one.p for entry in entries.values() for one in entry.neurons])
    q = np.array([one.q for entry in entries.values() for one in entry.neurons])
    assert (p <= 0.05).mean() < 0.15  # neurons of one model move together
    assert (q <= 0.05).mean() < 0.02


def test_redundant_neurons_are_told(stats: ActivationStats) -> None:
    rng = np.random.default_rng(5)
    base = rng.normal(size=(24, 2)).astype(np.float32)
    values = np.column_stack([base[:, 0], base[:, 1], -3 * base[:, 0], np.ones(24, np.float32)])
    sentences = list(CORPUS.where(split="dev", task="tone"))
    names = tuple((SITES[0], k) for k in range(4))
    lists = [NeuronList("w7", "tone", [(*one, 0.0) for one in names])]
    found = examine(
        Activations(np.zeros_like(values), values, names, tuple(sentences)),
        NeuronSet(lists, stats.widths, {"select": {"score": "hedges_g"}}), stats, CORPUS.where(split="dev"),
        permutations=2,
    )  # fmt: skip
    shown = [one.redundancy for one in found.labels["w7"].neurons]
    assert shown[0] is None
    assert shown[1] == pytest.approx(abs(np.corrcoef(base.T)[0, 1]), abs=1e-6)
    assert shown[2] == pytest.approx(1.0)
    assert shown[3] is None


def test_labels_and_neurons_that_cannot_be_judged_are_told(neurons: NeuronSet, stats: ActivationStats) -> None:
    one_label = NeuronSet([NeuronList("w50", "mood", [(SITES[0], 0, 0.0)])], neurons.widths, neurons.provenance)
    sentences = [one for one in CORPUS.where(split="dev") if one.labels == ("w50",)]
    nothing = np.zeros((len(sentences), 1), np.float32)
    found = Activations(nothing, nothing, ((SITES[0], 0),), tuple(sentences))
    with pytest.raises(InputError, match="'w50': 12 of the 12 sentences of its task have it; AUROC needs both"):
        examine(found, one_label, stats, CORPUS.where(split="dev"))
    unknown = NeuronSet([NeuronList("w50", "mood", [(SITES[0], 0, 0.0)])], neurons.widths, {})
    with pytest.raises(InputError, match=r"provenance has None for select\.score, expected the score that selected"):
        examine(found, unknown, stats, CORPUS.where(split="dev"))

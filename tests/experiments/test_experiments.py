"""Experiments on a model whose neurons were written by hand: what was planted is found, ranks first, and does what it
was planted for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers
from scipy import stats as distributions
from scipy.stats import mannwhitneyu

from affectron.errors import InputError
from affectron.evaluation.exam import Exam
from affectron.experiments.ablations import ablate, site_thirds
from affectron.experiments.associations import associate, overlap_p
from affectron.experiments.candidates import Activations, auroc, auroc_intervals, collect, examine, permutation_test
from affectron.experiments.methods import compare_methods
from affectron.experiments.regulation import cross_signal, induction
from affectron.experiments.stability import keep_stable, stability
from affectron.interventions import cross_signal as cross_program
from affectron.interventions import induce
from affectron.models import intervene
from affectron.neurons import NeuronList, NeuronSet
from affectron.screening.screen import screen, screen_folds
from affectron.selection import METHODS, select, select_by
from affectron.stats import FIELDS, ActivationStats
from tests.support.errors import message
from tests.support.families import FAMILIES, available, watched
from tests.support.planted import LAYERS, MOODS, PROMPTS, TASKS, TOKENIZER, TONES, make_corpus, make_model
from tests.support.tiny import make_tokenizer

pytestmark = pytest.mark.usefixtures("one_thread")

MODEL, CORPUS = make_model(), make_corpus()
SITES = [f"model.layers.{layer}.mlp" for layer in range(LAYERS)]


@pytest.fixture(scope="module")
def folds() -> list[ActivationStats]:
    return screen_folds(MODEL, TOKENIZER, CORPUS.where(split="train"), 4)


@pytest.fixture(scope="module")
def stats(folds: list[ActivationStats]) -> ActivationStats:
    return ActivationStats.pooled(folds)


@pytest.fixture(scope="module")
def neurons(stats: ActivationStats) -> NeuronSet:
    return select(stats, top=0.05, filter_rate=None)


@pytest.fixture(scope="module")
def exam() -> Exam:
    return Exam(MODEL, TOKENIZER, CORPUS, prompts=PROMPTS)


def where(label: str) -> tuple[str, int]:
    _, layer, index = {**MOODS, **TONES}[label]
    return SITES[layer], index


# --- what was planted is found -----------------------------------------------------------------------------------


def test_the_model_answers_and_the_planted_neurons_rank_first(exam: Exam, neurons: NeuronSet) -> None:
    for task in TASKS:
        questions = exam.questions("test", task)
        assert questions.right(questions.unmasked).all()
    for label, found in neurons.items():
        assert found[0][:2] == where(label)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_finds_the_planted_neurons(stats: ActivationStats, method: str) -> None:
    for task, labels in TASKS.items():
        found = select_by(stats, method, task, top=0.04)
        for label in labels:
            assert where(label) in {one[:2] for one in found[label]}


def test_a_mask_of_the_planted_neuron_drops_its_label_alone(
    exam: Exam, neurons: NeuronSet, stats: ActivationStats
) -> None:
    found = ablate(
        exam, neurons, stats, alphas=(0.2, 1.0), shares=(0.01,), model_shares=(0.05,),
        selection={"filter_rate": None}, random_sets=20, bootstrap=50,
    )  # fmt: skip
    rows = {(row["label"], row["sweep"], row["setting"]): row for row in found["rows"]}
    for label in [*MOODS, *TONES]:
        third = "middle" if label in MOODS else "bottom"
        for setting in ("all", "bottom", "middle", "top"):
            row = rows[label, "sites", setting]
            hit = setting in ("all", third)
            assert row["masked"] == 0 or row["verdict"] == ("specific" if hit else "no effect")
            if row["masked"]:
                assert (row["delta"], row["others_delta"]) == ((-1.0, 0.0) if hit else (0.0, 0.0))
                assert set(row["random"]["deltas"]) == {0.0}
        assert rows[label, "alpha", 0.2]["delta"] == 0.0  # what is left of the signal still wins
        assert rows[label, "alpha", 1.0]["delta"] == -1.0
        assert rows[label, "share", 0.01]["masked"] == 1
        assert rows[label, "model_share", 0.05]["delta"] == -1.0
        # One mask under several names is one measurement.
        assert rows[label, "alpha", 1.0]["random"] == rows[label, "sites", "all"]["random"]


def test_thirds_cover_the_sites_in_order() -> None:
    for count in range(3, 20):
        sites = [f"s{k}" for k in range(count)]
        thirds = site_thirds(sites)
        assert [site for part in thirds.values() for site in part] == sites
        sizes = [len(part) for part in thirds.values()]
        assert sizes == sorted(sizes, reverse=True)
        assert sizes[0] - sizes[2] <= 1
    assert message(lambda: site_thirds(["a", "b"])) == "thirds of the sites are asked for, and the model has 2"


def test_methods_side_by_side_name_the_one_that_drops_most(
    exam: Exam, neurons: NeuronSet, stats: ActivationStats
) -> None:
    found = compare_methods(
        exam,
        neurons,
        stats,
        task="mood",
        methods=("lee", "effect_size", "npti"),
        top=0.04,
        random_sets=20,
        bootstrap=50,
    )
    part = found["tasks"]["mood"]
    for label in MOODS:
        entry = part["labels"][label]
        assert all(one["delta"] == -1.0 and one["verdict"] == "specific" for one in entry["methods"].values())
        assert entry["best"] in entry["methods"]
    matrix = np.array(part["agreement"])
    np.testing.assert_allclose(matrix, matrix.T)
    np.testing.assert_array_equal(np.diag(matrix), 1.0)
    lists = [select_by(stats, method, "mood", 0.04) for method in ("lee", "npti")]
    shares = []
    for label in MOODS:
        one, two = ({item[:2] for item in found[label]} for found in lists)
        shares.append(len(one & two) / len(one | two))
    assert matrix[0, 2] == pytest.approx(np.mean(shares))


# --- regulation --------------------------------------------------------------------------------------------------


def test_induction_moves_sentences_to_the_label_and_random_neurons_do_not(
    exam: Exam, neurons: NeuronSet, stats: ActivationStats
) -> None:
    found = induction(exam, neurons, stats, (0.1, 40.0), task="mood", random_sets=3, bootstrap=50)
    for label, curve in found["tasks"]["mood"].items():
        assert curve["sentences"] == 2 * 12
        assert (curve["baseline"], curve["share"], curve["random"]) == (0.0, [0.0, 1.0], [0.0, 0.0])
        assert curve["interval"][1] == [1.0, 1.0]
        questions, text = exam.questions("test", "mood"), exam.text("test", "mood")
        rows = questions.others(list(MOODS).index(label))
        before = text.unmasked[rows].sum()
        with torch.no_grad(), intervene(MODEL, induce(neurons[label], stats, 40.0)):
            after = text.loss(rows, (None,))[0].sum()
        assert curve["loss_delta"][1] == pytest.approx((after - before) / text.tokens[rows].sum(), rel=1e-5)


def test_cross_signal_chooses_on_dev_and_reports_on_test(
    exam: Exam, neurons: NeuronSet, stats: ActivationStats
) -> None:
    found = cross_signal(exam, neurons, stats, "tone", "mood", (0.5, -500.0, 1.0), random_sets=2, bootstrap=50)
    assert found["options"]["omegas"] == [0.5, 1.0, -500.0]
    for label, entry in found["labels"].items():
        for device, pair in entry["devices"].items():
            assert len(pair["dev"]) == 3
            assert pair["omega"] == 0.5  # none helps a model that is always right: the weakest of equals
            assert max(pair["dev"]) == 0.0
            assert pair["helps"] is False
            questions = exam.questions("test", "mood")
            with torch.no_grad(), intervene(MODEL, cross_program(neurons[label], stats, device, 0.5)):
                answers = questions.classifier(np.arange(len(questions)))[0]
            own = questions.own(list(MOODS).index(label))
            assert pair["accuracy"] == questions.right(answers)[own].mean()
    assert "source and target are both 'mood'" in message(lambda: cross_signal(exam, neurons, stats, "mood", "mood"))


# --- stability ---------------------------------------------------------------------------------------------------


def test_folds_are_the_whole_dealt_out(folds: list[ActivationStats], stats: ActivationStats) -> None:
    whole = screen(MODEL, TOKENIZER, CORPUS.where(split="train"))
    for site in whole.sites:
        assert len({tuple(fold.count[site]) for fold in folds}) == 1  # 36 sentences a label in four
        for name in FIELDS:
            np.testing.assert_allclose(getattr(stats, name)[site], getattr(whole, name)[site], rtol=2e-5, atol=1e-6)
        np.testing.assert_array_equal(stats.active[site], whole.active[site])
    assert stats.provenance == {key: value for key, value in whole.provenance.items() if key != "padding"}
    assert folds[2].provenance["fold"] == [2, 4]
    twice = ActivationStats.pooled([folds[0], folds[0], folds[1]])
    by_merging = folds[0].merge(folds[0]).merge(folds[1])
    for site in whole.sites:
        np.testing.assert_allclose(twice.m2[site], by_merging.m2[site], rtol=1e-9)
        np.testing.assert_array_equal(twice.active[site], by_merging.active[site])


def test_planted_neurons_are_stable_and_chance_is_not(folds: list[ActivationStats], neurons: NeuronSet) -> None:
    found = stability(folds, selection={"top": 0.05, "filter_rate": None}, resamples=25, splits=4, seed=1)
    for label, entry in found["labels"].items():
        share = {(site, index): frequency for site, index, frequency in entry["neurons"]}
        assert share[where(label)] == 1.0
        assert 0 <= entry["split_half"] <= 1
        assert all(0 < frequency <= 1 for _, _, frequency in entry["others"])
    kept = keep_stable(neurons, found, 1.0)
    for label in neurons:
        entry = found["labels"][label]
        stable = {(site, index) for site, index, frequency in entry["neurons"] if frequency == 1.0}
        assert [one[:2] for one in kept[label]] == [one[:2] for one in neurons[label] if one[:2] in stable]
    assert kept.provenance["select"]["min_frequency"] == 1.0
    noise = screen_folds(MODEL, TOKENIZER, make_corpus(shuffled=True).where(split="train"), 4)
    chance = stability(noise, selection={"top": 0.05, "filter_rate": None}, resamples=25, splits=4, seed=1)
    halves = [entry["split_half"] for part in (found, chance) for entry in part["labels"].values()]
    assert np.mean(halves[:5]) > np.mean([half or 0.0 for half in halves[5:]]) + 0.2
    assert message(lambda: stability(folds[:1])) == "folds is 1, expected at least two"


# --- candidates --------------------------------------------------------------------------------------------------


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


def test_auroc_is_that_of_mann_and_whitney_with_ties() -> None:
    rng = np.random.default_rng(0)
    values = np.stack([rng.normal(size=90), rng.integers(0, 4, 90), np.zeros(90)], axis=1).astype(float)
    has = rng.random(90) < 0.3
    expected = [mannwhitneyu(column[has], column[~has]).statistic / (has.sum() * (~has).sum()) for column in values.T]
    np.testing.assert_allclose(auroc(values, has), expected, rtol=1e-12)
    assert auroc(values, has)[2] == 0.5


def test_auroc_intervals_are_those_of_resampled_sentences() -> None:
    rng = np.random.default_rng(1)
    has = np.arange(80) < 30
    values = np.round(rng.normal(size=(80, 2)) + has[:, None] * 0.6, 1)  # with ties
    low, high = np.array(auroc_intervals(values, has, 4000, np.random.default_rng(2))).T
    draws = np.array(
        [
            auroc(np.concatenate([values[rng.integers(0, 30, 30)], values[30 + rng.integers(0, 50, 50)]]), has)
            for _ in range(4000)
        ]
    )
    np.testing.assert_allclose([low, high], np.quantile(draws, [0.025, 0.975], axis=0), atol=0.015)


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
        entries = examine(found, neurons, stats, corpus, bootstrap=50, permutations=400, examples=2)["labels"]
    for label, (word, _, _) in {**MOODS, **TONES}.items():
        first = entries[label]["neurons"][0]
        assert (first["auroc"], first["interval"]) == (1.0, [1.0, 1.0])
        assert first["q"] < 0.05
        assert first["redundancy"] is None
        assert all(one["text"].endswith(word) and one["labels"] == [label] for one in first["examples"])

    # Labels that say nothing: of all neurons, tested at a false discovery rate of 0.05, none or hardly one is found.
    shuffled = make_corpus(shuffled=True).where(split="dev")
    width = neurons.widths[SITES[0]]
    everything = [
        NeuronList(label, "mood", [(site, k, 0.0) for site in SITES for k in range(width)]) for label in MOODS
    ]
    all_neurons = NeuronSet(everything, neurons.widths, {"select": {"score": "hedges_g"}})
    with collect(MODEL, TOKENIZER, shuffled, all_neurons) as found:
        entries = examine(found, all_neurons, stats, shuffled, bootstrap=2, permutations=400, examples=0)["labels"]
    p = np.array([one["p"] for entry in entries.values() for one in entry["neurons"]])
    q = np.array([one["q"] for entry in entries.values() for one in entry["neurons"]])
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
        bootstrap=2, permutations=2,
    )  # fmt: skip
    shown = [one["redundancy"] for one in found["labels"]["w7"]["neurons"]]
    assert shown[0] is None
    assert shown[1] == pytest.approx(abs(np.corrcoef(base.T)[0, 1]), abs=1e-6)
    assert shown[2] == pytest.approx(1.0)
    assert shown[3] is None


# --- associations ------------------------------------------------------------------------------------------------


def test_overlap_p_is_the_tail_of_the_hypergeometric() -> None:
    rng = np.random.default_rng(0)
    drawn = [len(set(rng.permutation(30)[:9]) & set(range(7))) for _ in range(20_000)]
    for common in range(6):
        assert overlap_p(30, 7, 9, common) == pytest.approx(np.mean([one >= common for one in drawn]), abs=0.012)


def test_associations_count_and_correlate(stats: ActivationStats) -> None:
    lists = [
        NeuronList("w50", "mood", [(SITES[0], k, 0.0) for k in range(6)]),
        NeuronList("w51", "mood", [(SITES[2], 1, 0.0)]),
        NeuronList("w52", "mood", []),
        NeuronList("w7", "tone", [(SITES[0], k, 0.0) for k in range(3, 9)]),
        NeuronList("w8", "tone", [(SITES[1], 4, 0.0)]),
    ]
    found = associate(NeuronSet(lists, stats.widths), stats)
    pairs = {(pair["first"], pair["second"]): pair for pair in found["pairs"]}
    assert len(pairs) == 10
    pair = pairs["w50", "w7"]
    assert (pair["overlap"], pair["jaccard"], pair["same_task"]) == (3, 3 / 9, False)
    assert pair["expected"] == pytest.approx(36 / 129)
    assert pair["p"] == pytest.approx(float(distributions.hypergeom(129, 6, 6).sf(2)))
    tests = [one["p"] for one in found["pairs"] if not one["same_task"] and one["p"] is not None]
    adjusted = distributions.false_discovery_control(tests)
    shown = [one["q"] for one in found["pairs"] if not one["same_task"] and one["p"] is not None]
    np.testing.assert_allclose(shown, adjusted)
    assert pairs["w50", "w52"]["p"] is None
    # Of three labels, one's contrast is partly the others' turned round.
    assert pairs["w50", "w51"]["correlation"] < pairs["w50", "w7"]["correlation"] + 1
    assert found["layers"]["w50"] == {
        "sites": dict(zip(SITES, (6, 0, 0), strict=True)), "thirds": {"bottom": 6, "middle": 0, "top": 0},
    }  # fmt: skip


def test_what_cannot_be_examined_says_why(exam: Exam, neurons: NeuronSet, stats: ActivationStats) -> None:
    one_label = NeuronSet([NeuronList("w50", "mood", [(SITES[0], 0, 0.0)])], neurons.widths, neurons.provenance)
    sentences = [one for one in CORPUS.where(split="dev") if one.labels == ("w50",)]
    nothing = np.zeros((len(sentences), 1), np.float32)
    found = Activations(nothing, nothing, ((SITES[0], 0),), tuple(sentences))
    with pytest.raises(InputError, match="'w50': 12 of the 12 sentences of its task have it; AUROC needs both"):
        examine(found, one_label, stats, CORPUS.where(split="dev"))
    unknown = NeuronSet([NeuronList("w50", "mood", [(SITES[0], 0, 0.0)])], neurons.widths, {})
    with pytest.raises(InputError, match=r"provenance has None for select\.score, expected the score that selected"):
        examine(found, unknown, stats, CORPUS.where(split="dev"))
    with pytest.raises(InputError, match=r"alphas is 1.5, expected a number in \(0, 1\]"):
        ablate(exam, neurons, stats, alphas=(1.5,))
    with pytest.raises(InputError, match="betas has inf, expected finite numbers"):
        induction(exam, neurons, stats, (1.0, float("inf")))
    with pytest.raises(InputError, match="method is 'mine', expected one of paper"):
        compare_methods(exam, neurons, stats, methods=("mine",))

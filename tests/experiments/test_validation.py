"""Causal validation: on a model with planted neurons, on one that answers by a script, and what it refuses."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from affectron.corpus import Corpus, Sentence
from affectron.errors import InputError
from affectron.evaluation.effects import bootstrap_interval, draw_matched, verdict
from affectron.experiments.results import read_validation
from affectron.experiments.validation import Validation, validate
from affectron.interventions import Program, attenuate, zero
from affectron.models import config_hash, find_sites, fingerprint, intervene, load_model, tokenizer_hash
from affectron.neurons import NeuronList, NeuronSet
from affectron.report import build_report
from affectron.screening.screen import screen
from affectron.selection import select
from affectron.stats import FIELDS, ActivationStats
from tests.support.tiny import build, make_tokenizer, state

FIRST, SECOND = "model.layers.0.mlp", "model.layers.1.mlp"
WIDTH = 43
PROMPTS = {"mood": "{bos}{text}"}
BOTH = {"mood": "{bos}{text}", "tone": "{bos}{text}"}
TOKENIZER = make_tokenizer()


pytestmark = pytest.mark.usefixtures("one_thread")


# --- a model whose answer hangs on one neuron --------------------------------------------------------------------

# The labels are words of the vocabulary; the last word of a text, w10 or w11, decides.
JOY, GLOOM, CALM = "w50", "w51", "w52"
PLANTED = (SECOND, 7)


def planted_model() -> torch.nn.Module:
    """Two layers in which attention does nothing. One neuron alone fires at w10 and writes to the logit of w50, one and
    a half times as strongly as every token's bias writes to that of w51; the other neurons write nothing."""
    model = build("llama", num_hidden_layers=2, rms_norm_eps=1e-9)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name:
                parameter.zero_()
        ids = TOKENIZER.convert_tokens_to_ids(["w10", JOY, GLOOM, CALM])
        model.model.embed_tokens.weight[:, 0] = 1.0
        model.model.embed_tokens.weight[:, 2:8] = torch.randn(97, 6, generator=torch.Generator().manual_seed(0)) * 0.3
        model.model.embed_tokens.weight[ids[0], 1] = 1.0
        for layer in model.model.layers:
            generator = torch.Generator().manual_seed(1)
            layer.mlp.gate_proj.weight[:, 0] = 0.5 + torch.rand(WIDTH, generator=generator)
            layer.mlp.up_proj.weight[:, 0] = 0.5 + torch.rand(WIDTH, generator=generator)
            layer.mlp.gate_proj.weight[:, 2:8] = torch.randn(WIDTH, 6, generator=generator) * 0.1
        mlp = model.model.layers[1].mlp
        for weight in (mlp.gate_proj.weight, mlp.up_proj.weight):
            weight[7] = 0.0
            weight[7, 1] = 2.0
        h: list[torch.Tensor] = []
        handle = mlp.down_proj.register_forward_pre_hook(lambda _m, args: h.append(args[0]))
        model(input_ids=torch.tensor([[1, int(ids[0])]]))
        handle.remove()
        mlp.down_proj.weight[9, 7] = 1.5 / h[0][0, 1, 7]
        model.lm_head.weight[ids[1], 9] = 1.0
        model.lm_head.weight[ids[2], 0] = 1.0
        model.lm_head.weight[ids[3], 0] = -1.0
    return model


def planted_corpus(each: int = 16) -> Corpus:
    """joy ends in w10, gloom in w11; calm does too, so that it is always answered wrong, and has w10 inside."""
    rng = np.random.default_rng(5)
    records = []
    for split in ("train", "dev", "test"):
        for label, last in ((JOY, "w10"), (GLOOM, "w11"), (CALM, "w11")):
            for _ in range(each):
                words = [f"w{w}" for w in rng.integers(12, 48, 3)]
                if label == CALM:
                    words[1] = "w10"
                records.append({"text": " ".join([*words, last]), "label": label, "task": "mood", "split": split})
    return Corpus.from_records(records)


MODEL = planted_model()
CORPUS = planted_corpus()


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
    return validate(MODEL, TOKENIZER, CORPUS, neurons, stats, prompts=PROMPTS, bootstrap=200)


def test_the_planted_neuron_is_found_to_carry_its_label(result: Validation) -> None:
    mood = result.tasks["mood"]
    assert mood["baseline"]["test"]["per_label"] == {JOY: 1.0, GLOOM: 1.0, CALM: 0.0}
    joy = mood["results"][JOY]
    # The neuron is 1.5 times as strong as needed: attenuated by 0.3 it still wins, by 0.4 no longer.
    assert joy["trace"] == [
        {"alpha": 0.3, "share": 0.1, "neurons": 1, "dev_accuracy": 1.0, "dev_drop": 0.0},
        {"alpha": 0.4, "share": 0.2, "neurons": 1, "dev_accuracy": 0.0, "dev_drop": 1.0},
    ]
    assert (joy["stopped"], joy["alpha"], joy["share"]) == ("drop reached", 0.4, 0.2)
    assert (joy["selected"], joy["masked"], joy["sites"]) == (5, 1, {SECOND: 1})
    for mask in joy["masks"].values():
        assert (mask["accuracy"], mask["delta"], mask["interval"]) == (0.0, -1.0, [-1.0, -1.0])
        assert (mask["others_delta"], mask["others_interval"]) == (0.0, [0.0, 0.0])
    assert joy["random"]["deltas"] == [0.0] * 20
    assert joy["beats_random"] is True
    assert joy["verdict"] == "specific"
    assert joy["masks"]["adaptive"]["specific_interval"] == [-1.0, -1.0]


def test_neurons_that_do_nothing_are_found_to_do_nothing(result: Validation) -> None:
    gloom = result.tasks["mood"]["results"][GLOOM]
    assert gloom["stopped"] == "caps reached"
    assert [(one["alpha"], one["share"]) for one in gloom["trace"]] == [
        (min(3 + k, 10) / 10, (k + 1) / 10) for k in range(10)
    ]  # fmt: skip
    assert gloom["trace"][-1]["neurons"] == gloom["masked"] == gloom["selected"] == 3
    assert gloom["sites"] == {FIRST: 1, SECOND: 2}
    assert all(mask["delta"] == 0.0 for mask in gloom["masks"].values())
    assert gloom["beats_random"] is False
    assert gloom["verdict"] == "no effect"


def test_a_label_without_neurons_is_listed_and_not_tested(result: Validation) -> None:
    calm = result.tasks["mood"]["results"][CALM]
    assert (calm["selected"], calm["masked"], calm["stopped"]) == (0, 0, "no neuron selected")
    assert (calm["masks"], calm["random"], calm["beats_random"], calm["trace"]) == ({}, None, None, [])
    assert (calm["baseline"], calm["sentences"]) == (0.0, 16)


def test_rows_hold_what_the_table_needs(result: Validation) -> None:
    rows = {row["label"]: row for row in result.rows()}
    assert list(rows) == [JOY, GLOOM, CALM]
    joy = rows[JOY]
    assert (joy["task"], joy["baseline"], joy["adaptive"], joy["zero"], joy["mean"]) == ("mood", 1.0, -1.0, -1.0, -1.0)
    assert (joy["random"], joy["random_interval"], joy["others"], joy["beats_random"]) == (0.0, [0.0, 0.0], 0.0, True)
    assert joy["loss"] == result.tasks["mood"]["results"][JOY]["masks"]["adaptive"]["loss_delta"]
    assert rows[CALM]["adaptive"] is None
    assert rows[CALM]["random_interval"] is None


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
        mask = found.tasks["mood"]["results"][JOY]["masks"][kind]
        assert mask["loss_delta"] == pytest.approx(expected, abs=1e-6)
        assert expected < -1e-3  # after w10 the model wastes less on w50, which never follows
    assert found.tasks["mood"]["results"][JOY]["random"] is None
    assert found.tasks["mood"]["results"][JOY]["beats_random"] is None


def test_the_probe_finds_the_planted_neuron_too(stats: ActivationStats, neurons: NeuronSet) -> None:
    found = validate(
        MODEL, TOKENIZER, CORPUS, neurons, stats, evaluator="linear_probe", random_sets=5, bootstrap=50, share_cap=0.2
    )
    joy = found.tasks["mood"]["results"][JOY]
    assert found.options["evaluator"] == "linear_probe"
    assert set(found.options["ridge_penalty"]) == {"mood"}
    assert joy["baseline"] > 0.7
    assert joy["masks"]["zero"]["delta"] < 0
    assert joy["trace"][0]["neurons"] == 1
    assert joy["random"]["deltas"] == [0.0] * 5


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
    validate(model, TOKENIZER, CORPUS, neurons, stats, prompts=PROMPTS, random_sets=1, bootstrap=10)
    assert state(model) == before
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


# --- an evaluator that answers by a script: all bookkeeping against its record ------------------------------------


class Scripted:
    """Answers at random, and remembers each call: the sentences asked about and the answers given."""

    name = "scripted"
    trains = False

    def __init__(self, seed: int = 0) -> None:
        self.options: dict[str, Any] = {"script": seed}
        self.rng = np.random.default_rng(seed)
        self.calls: list[tuple[str, list[Sentence], np.ndarray]] = []
        self.programs: list[Program | None] = []

    def fit(self, *_: Any) -> None:
        raise AssertionError("it does not train")

    def answers(self, sentences: Sequence[Sentence], target: int) -> np.ndarray:
        return self.rng.integers(-1, target, len(sentences))

    def classifier(self, model: Any, tokenizer: Any, sentences: Sequence[Sentence], task: str, labels: Sequence[str]):
        def read(rows: np.ndarray, programs: Sequence[Program | None] = (None,)) -> np.ndarray:
            asked = [sentences[row] for row in rows]
            answers = [self.answers(asked, len(labels)) for _ in programs]
            self.calls += [(task, asked, one) for one in answers]
            self.programs += programs
            return np.array(answers)

        return read


def mixed_corpus() -> Corpus:
    """Two tasks; sentences with two labels of one task, or one of each."""
    rng = np.random.default_rng(8)
    kinds = [("w50",), ("w51",), ("w52",), ("w50", "w52"), ("dry",), ("wet",), ("w51", "dry")]
    records = []
    for i in range(210):
        labels = kinds[i % len(kinds)]
        records.append(
            {
                "text": " ".join(f"w{w}" for w in rng.integers(0, 48, rng.integers(2, 8))),
                "label": list(labels),
                "task": ["tone" if label in ("dry", "wet") else "mood" for label in labels],
                "split": ("train", "dev", "test")[int(rng.integers(3))],
                "id": str(i),
            }
        )
    return Corpus.from_records(records)


MIXED = mixed_corpus()


@pytest.fixture(scope="module")
def mixed() -> tuple[torch.nn.Module, ActivationStats, NeuronSet]:
    model = build("llama")
    found = screen(model, TOKENIZER, MIXED.where(split="train"))
    return model, found, select(found, top=0.3, filter_rate=None)


def test_every_number_follows_from_the_answers(mixed: tuple[torch.nn.Module, ActivationStats, NeuronSet]) -> None:
    model, stats, neurons = mixed
    script = Scripted(3)
    found = validate(
        model, TOKENIZER, MIXED, neurons, stats, evaluator=script, min_drop=0.2, random_sets=4, bootstrap=300, seed=2
    )
    assert found.options["script"] == 3
    calls = iter(script.calls)

    def told(part: Sequence[Sentence], answers: np.ndarray, labels: Sequence[str]) -> np.ndarray:
        return np.array([float(a >= 0 and labels[a] in one.labels) for one, a in zip(part, answers, strict=True)])

    for task, labels in MIXED.tasks.items():
        part = found.tasks[task]
        every = list(MIXED.where(split="dev", task=task))
        assert part["labels"] == list(labels)
        assert part["dev_sentences"] == len(every)
        name, asked, answers = next(calls)
        assert (name, asked) == (task, every)
        right = told(asked, answers, labels)
        assert part["baseline"]["dev"]["accuracy"] == pytest.approx(right.mean())
        for label in labels:
            own = [place for place, one in enumerate(every) if label in one.labels]
            before = right[own].mean()
            assert part["baseline"]["dev"]["per_label"][label] == pytest.approx(before)
            trace = part["results"][label]["trace"]
            previous = None
            for place, step in enumerate(trace):
                assert step["alpha"] == pytest.approx(min(0.3 + 0.1 * place, 1))
                assert step["share"] == pytest.approx(min(0.1 + 0.1 * place, 1))
                if (step["alpha"], step["neurons"]) != previous:
                    _, asked, answers = next(calls)
                    assert asked == [every[place] for place in own]
                    accuracy = told(asked, answers, labels).mean()
                previous = (step["alpha"], step["neurons"])
                assert step["dev_accuracy"] == pytest.approx(accuracy)
                assert step["dev_drop"] == pytest.approx(before - accuracy)
                assert step["dev_drop"] < 0.2 or place == len(trace) - 1  # the first that is enough is the last
            last = trace[-1]["dev_drop"] >= 0.2
            assert part["results"][label]["stopped"] == ("drop reached" if last else "caps reached")
            assert last or len(trace) == 10

    for task, labels in MIXED.tasks.items():
        part = found.tasks[task]
        every = list(MIXED.where(split="test", task=task))
        assert part["test_sentences"] == len(every)
        _, asked, answers = next(calls)
        assert asked == every
        before = told(asked, answers, labels)
        assert part["baseline"]["test"]["accuracy"] == pytest.approx(before.mean())
        for label in labels:
            own = np.array([label in one.labels for one in every])
            entry = part["results"][label]
            assert entry["sentences"] == own.sum()
            assert entry["baseline"] == pytest.approx(before[own].mean())
            for mask in ("adaptive", "zero", "mean"):
                _, asked, answers = next(calls)
                assert asked == every
                change = told(asked, answers, labels) - before
                shown = entry["masks"][mask]
                assert shown["accuracy"] == pytest.approx((before + change)[own].mean())
                for rows, delta, interval in ((own, "delta", "interval"), (~own, "others_delta", "others_interval")):
                    assert shown[delta] == pytest.approx(change[rows].mean())
                    draws = np.random.default_rng(0).choice(change[rows], (4000, rows.sum()))
                    low, high = np.quantile(draws.mean(1), (0.025, 0.975))
                    # Means of few sentences lie on a lattice: one step of it, or the noise of 300 resamples.
                    assert shown[interval] == pytest.approx([low, high], abs=max(0.08, 1.01 / rows.sum()))
            deltas = []
            for _ in range(4):
                _, asked, answers = next(calls)
                assert asked == [one for one, is_own in zip(every, own, strict=True) if is_own]
                deltas.append((told(asked, answers, labels) - before[own]).mean())
            drawn = entry["random"]
            assert (drawn["sets"], drawn["deltas"]) == (4, pytest.approx(deltas))
            assert drawn["mean"] == pytest.approx(np.mean(deltas))
            assert drawn["interval"] == pytest.approx(np.quantile(deltas, [0.025, 0.975]).tolist())
            assert entry["beats_random"] == (entry["masks"]["adaptive"]["delta"] < drawn["interval"][0])
    assert next(calls, None) is None


class Watched(Corpus):
    """Remembers which splits are read, and how many answers had been given by then."""

    reads: ClassVar[list[tuple[str | None, int]]] = []
    answers: Callable[[], int] = staticmethod(lambda: 0)

    def __iter__(self) -> Iterator[Sentence]:
        Watched.reads.append((self.split, Watched.answers()))
        return super().__iter__()

    def where(self, **kwargs: Any) -> Corpus:
        view = super().where(**kwargs)
        view.__class__ = Watched
        return view


def test_no_test_sentence_is_read_before_every_mask_is_settled(
    mixed: tuple[torch.nn.Module, ActivationStats, NeuronSet], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, stats, neurons = mixed
    script = Scripted(1)
    corpus = mixed_corpus()
    corpus.__class__ = Watched
    monkeypatch.setattr(Watched, "reads", [])
    monkeypatch.setattr(Watched, "answers", staticmethod(lambda: len(script.calls)))
    validate(model, TOKENIZER, corpus, neurons, stats, evaluator=script, random_sets=1, bootstrap=10, limit=9)
    splits = [sentences[0].split for _, sentences, _ in script.calls]
    first_test = splits.index("test")
    assert set(splits[:first_test]) == {"dev"}
    assert set(splits[first_test:]) == {"test"}
    # But for a look at all texts before the first question: whether they were screened.
    for split, answers in [read for read in Watched.reads if read[1]]:
        assert (split, answers >= first_test) in {("dev", False), ("test", True)}
    assert {split for split, _ in Watched.reads} == {"dev", "test"}


def test_the_settled_mask_does_not_depend_on_the_test_split(
    mixed: tuple[torch.nn.Module, ActivationStats, NeuronSet],
) -> None:
    model, stats, neurons = mixed
    records = [
        {
            "text": one.text if one.split != "test" else "w1 w2",
            "label": list(one.labels),
            "task": [MIXED.task_of[label] for label in one.labels],
            "split": one.split,
        }
        for one in MIXED
    ]
    other = Corpus.from_records(records)
    found = [
        validate(model, TOKENIZER, corpus, neurons, stats, prompts=BOTH, random_sets=0, bootstrap=10, min_drop=0.1)
        for corpus in (MIXED, other)
    ]
    moved = 0
    for task in MIXED.tasks:
        one, two = (result.tasks[task] for result in found)
        assert one["baseline"]["dev"] == two["baseline"]["dev"]
        moved += one["baseline"]["test"] != two["baseline"]["test"]
        for label in MIXED.tasks[task]:
            for key in ("trace", "stopped", "alpha", "share", "masked", "sites"):
                assert one["results"][label][key] == two["results"][label][key]
    assert moved


def test_the_same_seed_gives_the_same_result_and_labels_do_not_depend_on_each_other(
    mixed: tuple[torch.nn.Module, ActivationStats, NeuronSet],
) -> None:
    model, stats, neurons = mixed
    options: dict[str, Any] = {"prompts": BOTH, "random_sets": 3, "bootstrap": 50, "min_drop": 0.1}
    one = validate(model, TOKENIZER, MIXED, neurons, stats, **options)
    again = validate(model, TOKENIZER, MIXED, neurons, stats, **options)
    assert one.content == again.content
    alone = validate(model, TOKENIZER, MIXED, neurons, stats, task="tone", **options)
    assert alone.tasks == {"tone": one.tasks["tone"]}
    other = validate(model, TOKENIZER, MIXED, neurons, stats, seed=1, **options)
    for task in MIXED.tasks:
        for label in MIXED.tasks[task]:
            before, after = (result.tasks[task]["results"][label] for result in (one, other))
            assert before["trace"] == after["trace"]
            assert before["masks"]["zero"]["delta"] == after["masks"]["zero"]["delta"]
    assert any(
        one.tasks[task]["results"][label]["random"] != other.tasks[task]["results"][label]["random"]
        for task, label in ((MIXED.task_of[label], label) for label in MIXED.labels)
    )


def test_random_sets_are_matched_by_site_and_attenuated_as_the_label_is(
    mixed: tuple[torch.nn.Module, ActivationStats, NeuronSet],
) -> None:
    model, stats, neurons = mixed
    script = Scripted()
    found = validate(
        model, TOKENIZER, MIXED, neurons, stats, task="mood", evaluator=script, random_sets=12, bootstrap=10
    )
    programs = script.programs
    label = MIXED.tasks["mood"][0]
    entry = found.tasks["mood"]["results"][label]
    # The mean mask comes last of a label's own.
    last = max(place for place, program in enumerate(programs) if program and program.name == f"mean {label}")
    sets = programs[last + 1 : last + 13]
    selected = {(site, index) for site, index, _ in neurons[label]}
    drawn = [{(site, int(i)) for site, part in p.sites.items() for i in part.index} for p in sets]
    for program, members in zip(sets, drawn, strict=True):
        assert {site: len(part.index) for site, part in program.sites.items()} == entry["sites"]
        assert not members & selected
        expected = attenuate(sorted(members), stats, entry["alpha"], label=label)
        for site, part in expected.sites.items():
            np.testing.assert_array_equal(part.damping, program.sites[site].damping)
            np.testing.assert_array_equal(part.floor, program.sites[site].floor)
    assert len({frozenset(members) for members in drawn}) == 12


def test_no_random_set_where_a_site_has_too_few_other_neurons(stats: ActivationStats) -> None:
    everything = [(SECOND, i) for i in range(30)]
    found = validate(
        MODEL, TOKENIZER, CORPUS, neuron_set(stats, {JOY: everything}), stats,
        prompts=PROMPTS, share=1.0, bootstrap=10, min_drop=1.0,
    )  # fmt: skip
    joy = found.tasks["mood"]["results"][JOY]
    assert joy["masked"] == 30
    assert joy["random"] is None
    assert joy["beats_random"] is None
    assert list(found.tasks["mood"]["results"]) == [JOY]


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_drawn_neurons_are_distinct_and_of_the_pool(data: st.DataObject) -> None:
    sizes = data.draw(st.dictionaries(st.sampled_from("abc"), st.integers(1, 12), min_size=1))
    pool = {site: np.array(sorted(data.draw(st.sets(st.integers(0, 60), max_size=25)))) for site in "abc"}
    wanted = {site: np.arange(size) for site, size in sizes.items()}
    drawn = draw_matched(wanted, pool, np.random.default_rng(data.draw(st.integers(0, 9))))
    if any(len(pool[site]) < size for site, size in sizes.items()):
        assert drawn is None
        return
    assert drawn is not None
    assert len(set(drawn)) == len(drawn)
    for site in "abc":
        members = {index for where, index in drawn if where == site}
        assert len(members) == sizes.get(site, 0)
        assert members <= set(pool[site].tolist())


def test_draws_are_uniform() -> None:
    rng = np.random.default_rng(0)
    counts = np.zeros(20)
    for _ in range(2000):
        for _, index in draw_matched({"a": np.arange(5)}, {"a": np.arange(20)}, rng) or []:
            counts[index] += 1
    assert scipy.stats.chisquare(counts).pvalue > 1e-3


# --- the verdict -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("interval", "beats", "specific", "expected"),
    [
        ((-0.2, -0.01), True, (-0.2, -0.01), "specific"),
        ((-0.2, -0.01), True, None, "specific"),  # there are no others to suffer
        ((-0.2, -0.01), True, (-0.2, 0.0), "unspecific"),
        ((-0.2, -0.01), False, (-0.2, -0.01), "unspecific"),
        ((-0.2, 0.0), True, (-0.2, -0.01), "no effect"),
        ((0.1, 0.2), False, (0.1, 0.2), "no effect"),
        ((-0.2, 0.0), None, None, "no effect"),
        ((-0.2, -0.01), None, (-0.2, -0.01), None),
    ],
)
def test_the_verdict_follows_its_rule(interval, beats, specific, expected) -> None:
    assert verdict(interval, beats, specific) == expected


# --- intervals ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 37, 400])
def test_the_interval_is_the_percentile_bootstrap_of_scipy(n: int) -> None:
    differences = np.random.default_rng(n).choice([-1.0, 0.0, 1.0], n, p=[0.3, 0.6, 0.1])
    low, high = bootstrap_interval(differences, 20_000, np.random.default_rng(0))
    assert differences.min() <= low <= differences.mean() <= high <= differences.max()
    if n > 2:
        expected = scipy.stats.bootstrap(
            (differences,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(1)
        ).confidence_interval
        # Two bootstraps of 20,000 resamples differ by about 0.02 standard errors at these quantiles.
        assert (low, high) == pytest.approx((expected.low, expected.high), abs=0.1 * differences.std() / np.sqrt(n))


def test_the_interval_covers_the_true_change() -> None:
    rng = np.random.default_rng(4)
    covered = 0
    for _ in range(300):
        low, high = bootstrap_interval(rng.choice([-1.0, 0.0, 1.0], 110, p=[0.2, 0.7, 0.1]), 400, rng)
        covered += low <= -0.1 <= high
    assert 0.90 < covered / 300 < 0.985


def test_parts_of_a_large_bootstrap_are_put_together() -> None:
    differences = np.random.default_rng(0).normal(size=1 << 21)
    low, high = bootstrap_interval(differences, 5, np.random.default_rng(0))
    error = 1 / np.sqrt(1 << 21)
    assert -5 * error < low - differences.mean() < high - differences.mean() < 5 * error


# --- the file ----------------------------------------------------------------------------------------------------


def test_a_result_survives_its_file_and_the_report_takes_it(
    result: Validation, stats: ActivationStats, neurons: NeuronSet, tmp_path: Path
) -> None:
    path = tmp_path / "validation.json"
    result.save(path)
    assert Validation.load(path) == result
    assert json.loads(path.read_text())["format"] == "affectron.validation"
    read = read_validation(path)
    by_label = {one.label: one for one in read.labels()}
    assert by_label[JOY].masks["adaptive"].delta == -1.0
    assert by_label[CALM].masks == {}
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
    found = validate(model, TOKENIZER, CORPUS, altered, plain, prompts=PROMPTS, random_sets=2, bootstrap=10)
    text = json.dumps(found.content, allow_nan=False)
    assert found.tasks["mood"]["results"][JOY]["masks"]["zero"]["loss_delta"] is None
    assert found.tasks["mood"]["baseline"]["test"]["accuracy"] == 0.0
    assert "loss_delta" in text


def test_options_and_provenance_say_what_was_done(result: Validation, neurons: NeuronSet) -> None:
    options, provenance = result.options, result.provenance
    assert options["evaluator"] == "label_likelihood"
    assert options["prompts"] == {"mood": "{bos}{text}"}
    assert (options["alpha"], options["share"], options["min_drop"], options["random_sets"]) == (0.3, 0.1, 0.05, 20)
    assert (options["dev"], options["test"], options["neutral"], options["limit"]) == ("dev", "test", None, None)
    assert provenance["weights"] == fingerprint(MODEL)
    assert provenance["model_hash"] == config_hash(MODEL)
    assert provenance["tokenizer"] == tokenizer_hash(TOKENIZER)
    assert provenance["corpus"] == [CORPUS.hash]
    assert provenance["corpus_splits"]["test"] == CORPUS.where(split="test").hash
    assert provenance["neurons"] == neurons.provenance


def test_a_limit_takes_that_many_sentences_of_each_label(stats: ActivationStats, neurons: NeuronSet) -> None:
    script = Scripted()
    found = validate(MODEL, TOKENIZER, CORPUS, neurons, stats, evaluator=script, random_sets=1, bootstrap=5, limit=4)
    mood = found.tasks["mood"]
    assert (mood["dev_sentences"], mood["test_sentences"]) == (12, 12)
    assert all(entry["sentences"] == 4 for entry in mood["results"].values())
    asked = [one.id for _, sentences, _ in script.calls for one in sentences]
    first = next(i for i, (_, sentences, _) in enumerate(script.calls) if sentences[0].split == "test")
    assert len({one.id for one in script.calls[first][1]}) == 12
    other = Scripted()
    validate(MODEL, TOKENIZER, CORPUS, neurons, stats, evaluator=other, random_sets=1, bootstrap=5, limit=4, seed=9)
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
        ({"bootstrap": 0}, "bootstrap is 0, expected an integer of at least 1"),
        ({"bootstrap": 10.0}, "bootstrap is 10.0, expected an integer of at least 1"),
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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ('{"format": "affectron.neurons", "version": 1}', "format is 'affectron.neurons'"),
        ('{"format": "affectron.validation", "version": 9}', "version is 9, expected 1"),
        ('{"format": "affectron.validation", "version": 1}', "provenance is missing, expected an object"),
    ],
)
def test_a_bad_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "validation.json"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        Validation.load(path)


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
        prompts={"rhetoric": "{bos}{text}\nDevice:"}, limit=6, random_sets=2, bootstrap=50,
    )  # fmt: skip
    assert set(found.tasks["rhetoric"]["results"]) == set(corpus.tasks["rhetoric"])
    assert 0.4 < found.tasks["rhetoric"]["baseline"]["test"]["accuracy"] <= 1
    assert len(find_sites(model)) == 6
    found.save(tmp_path / "validation.json")
    assert build_report(tmp_path).is_file()

"""Causal validation under an evaluator that answers by a script: every number follows from its record."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from affectron.corpus import Corpus, Sentence
from affectron.evaluation.intervals import LEVEL, Paired, contrast_interval, contrast_p, holm
from affectron.experiments.validation import validate
from affectron.interventions import attenuate, mean, relative_change, zero
from affectron.neurons import NeuronSet
from affectron.scores import score as score_of
from affectron.screening.quantiles import magnitude_quantiles
from affectron.screening.screen import screen
from affectron.selection import select
from affectron.stats import ActivationStats
from tests.experiments.scripted import Scripted
from tests.support.tiny import build, make_tokenizer

REFERENCES = ("max", "q99", "rms")
BOTH = {"mood": "{bos}{text}", "tone": "{bos}{text}"}
TOKENIZER = make_tokenizer()


pytestmark = pytest.mark.usefixtures("one_thread")


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
        model, TOKENIZER, MIXED, neurons, stats, evaluator=script, min_drop=0.2, random_sets=4, seed=2,
        reference=REFERENCES, alpha_cap=0.5, share_cap=0.3,
    )  # fmt: skip
    assert found.options["script"] == 3
    calls = iter(script.calls)
    ended = set()

    def told(part: Sequence[Sentence], answers: np.ndarray, labels: Sequence[str]) -> np.ndarray:
        return np.array([float(a >= 0 and labels[a] in one.labels) for one, a in zip(part, answers, strict=True)])

    for task, labels in MIXED.tasks.items():
        part = found.tasks[task]
        every = list(MIXED.where(split="dev", task=task))
        assert part.labels == tuple(labels)
        assert part.dev_sentences == len(every)
        name, asked, answers = next(calls)
        assert (name, asked) == (task, every)
        right = told(asked, answers, labels)
        assert part.baseline["dev"].accuracy == pytest.approx(right.mean())
        for label in labels:
            own = [place for place, one in enumerate(every) if label in one.labels]
            before = right[own].mean()
            assert part.baseline["dev"].per_label[label] == pytest.approx(before)
            trace = part.results[label].trace
            previous = None
            for place, step in enumerate(trace):
                assert step.reference == REFERENCES[place // 3]
                assert step.alpha == pytest.approx(0.3 + 0.1 * (place % 3))
                assert step.share == pytest.approx(0.1 + 0.1 * (place % 3))
                if (step.reference, step.alpha, step.neurons) != previous:
                    _, asked, answers = next(calls)
                    assert asked == [every[place] for place in own]
                    accuracy = told(asked, answers, labels).mean()
                previous = (step.reference, step.alpha, step.neurons)
                assert step.dev_accuracy == pytest.approx(accuracy)
                assert step.dev_drop == pytest.approx(before - accuracy)
                assert step.dev_drop < 0.2 or place == len(trace) - 1  # the first that is enough is the last
            last = trace[-1].dev_drop >= 0.2
            assert part.results[label].stopped == ("drop reached" if last else "caps reached")
            assert last or len(trace) == 9
            assert part.results[label].reference == trace[-1].reference
            ended.add((last, trace[-1].reference))
    assert len(ended) > 1

    # On the test split all labels' masks come first: they decide how many random sets are asked about.
    unmasked: dict[str, np.ndarray] = {}
    changes: dict[tuple[str, str], np.ndarray] = {}
    for task, labels in MIXED.tasks.items():
        part = found.tasks[task]
        every = list(MIXED.where(split="test", task=task))
        assert part.test_sentences == len(every)
        _, asked, answers = next(calls)
        assert asked == every
        unmasked[task] = told(asked, answers, labels)
        assert part.baseline["test"].accuracy == pytest.approx(unmasked[task].mean())
        for label in labels:
            for mask in ("adaptive", "zero", "mean"):
                _, asked, answers = next(calls)
                assert asked == every
                changes[mask, label] = told(asked, answers, labels) - unmasked[task]
    judged: dict[str, list[tuple[Any, float]]] = {}
    for mask in ("adaptive", "zero", "mean"):
        for task, labels in MIXED.tasks.items():
            every = list(MIXED.where(split="test", task=task))
            for label in labels:
                own = np.array([label in one.labels for one in every])
                entry = found.tasks[task].results[label]
                before, change, shown = unmasked[task], changes[mask, label], entry.masks[mask]
                assert entry.sentences == own.sum()
                assert entry.baseline == pytest.approx(before[own].mean())
                assert shown.accuracy == pytest.approx((before + change)[own].mean())
                on_own, on_others = (
                    Paired(int((part < 0).sum()), int((part > 0).sum()), len(part))
                    for part in (change[own], change[~own])
                )
                assert (shown.delta, shown.interval) == (pytest.approx(change[own].mean()), on_own.interval())
                assert (shown.lost, shown.gained, shown.p) == (on_own.lost, on_own.gained, on_own.p())
                assert shown.others_delta == pytest.approx(change[~own].mean())
                assert shown.others_interval == on_others.interval()
                assert shown.specific_delta == pytest.approx(change[own].mean() - change[~own].mean())
                assert shown.specific_interval == contrast_interval(on_own, on_others)
                assert shown.specific_p == contrast_p(on_own, on_others)
                # Four sets decide nothing: no further one is asked about.
                moves = []
                for _ in range(4):
                    _, asked, answers = next(calls)
                    assert asked == [one for one, is_own in zip(every, own, strict=True) if is_own]
                    moves.append(told(asked, answers, labels) - before[own])
                deltas = [move.mean() for move in moves]
                random = shown.random
                assert (random.sets, random.ranked, random.deltas) == (4, own.sum(), pytest.approx(deltas))
                assert (random.mean, random.interval) == (pytest.approx(np.mean(deltas)), (min(deltas), max(deltas)))
                assert random.beyond == sum(move.sum() <= change[own].sum() for move in moves)
                assert random.p == (1 + random.beyond) / 5
                judged.setdefault(mask, []).append((shown, max(shown.p, shown.specific_p, shown.answers_p, random.p)))
    for shown in judged.values():
        effects, claims = zip(*shown, strict=True)
        assert [effect.adjusted_p for effect in effects] == pytest.approx(holm([effect.p for effect in effects]))
        assert [effect.specific_adjusted_p for effect in effects] == pytest.approx(holm(claims))
        # A script that answers at random shows nothing of about 20 sentences, and excludes nothing.
        assert {(effect.adjusted_p > LEVEL, effect.verdict) for effect in effects} == {(True, "cannot tell")}
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
    validate(model, TOKENIZER, corpus, neurons, stats, evaluator=script, random_sets=1, limit=9)
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
        validate(model, TOKENIZER, corpus, neurons, stats, prompts=BOTH, random_sets=0, min_drop=0.1)
        for corpus in (MIXED, other)
    ]
    moved = 0
    for task in MIXED.tasks:
        one, two = (result.tasks[task] for result in found)
        assert one.baseline["dev"] == two.baseline["dev"]
        moved += one.baseline["test"] != two.baseline["test"]
        for label in MIXED.tasks[task]:
            for key in ("trace", "stopped", "alpha", "share", "masked", "sites"):
                assert getattr(one.results[label], key) == getattr(two.results[label], key)
    assert moved


def test_the_same_seed_gives_the_same_result_and_labels_do_not_depend_on_each_other(
    mixed: tuple[torch.nn.Module, ActivationStats, NeuronSet],
) -> None:
    model, stats, neurons = mixed
    options: dict[str, Any] = {"prompts": BOTH, "random_sets": 3, "min_drop": 0.1}
    one = validate(model, TOKENIZER, MIXED, neurons, stats, **options)
    again = validate(model, TOKENIZER, MIXED, neurons, stats, **options)
    assert one.content == again.content
    alone = validate(model, TOKENIZER, MIXED, neurons, stats, task="tone", **options)
    assert alone.tasks == {"tone": one.tasks["tone"]}
    other = validate(model, TOKENIZER, MIXED, neurons, stats, seed=1, **options)
    for task in MIXED.tasks:
        for label in MIXED.tasks[task]:
            before, after = (result.tasks[task].results[label] for result in (one, other))
            assert before.trace == after.trace
            assert before.masks["zero"].delta == after.masks["zero"].delta
    assert any(
        one.tasks[task].results[label].masks != other.tasks[task].results[label].masks
        for task, label in ((MIXED.task_of[label], label) for label in MIXED.labels)
    )


def test_the_loop_goes_through_all_rounds_with_each_reference_in_turn(
    mixed: tuple[torch.nn.Module, ActivationStats, NeuronSet],
) -> None:
    model, stats, neurons = mixed
    script = Scripted()
    label, dev = MIXED.tasks["tone"][0], MIXED.where(split="dev", task="tone")
    found = validate(
        model, TOKENIZER, MIXED, neurons, stats, task="tone", evaluator=script, random_sets=0, min_drop=1,
        reference=REFERENCES, alpha_cap=0.5,
    )  # fmt: skip
    entry = found.tasks["tone"].results[label]
    assert (entry.stopped, entry.reference, entry.alpha, entry.share) == ("caps reached", "rms", 0.5, 1.0)
    assert [(one.reference, one.alpha, one.share) for one in entry.trace] == [
        (reference, min(3 + k, 5) / 10, (k + 1) / 10) for reference in REFERENCES for k in range(10)
    ]  # fmt: skip
    own = [sentence for sentence in dev if label in sentence.labels]
    quantiles = magnitude_quantiles(model, TOKENIZER, dev, sentences=own)
    differential = score_of(stats, "differential", "tone")
    ranked = sorted(neurons[label], key=lambda one: -differential[one[0]][0, one[1]])
    settings = list(dict.fromkeys((one.reference, one.alpha, one.neurons) for one in entry.trace))
    asked = [program for program in script.programs if program is not None][: len(settings)]
    changes = {(one.reference, one.alpha, one.neurons): one.relative_change for one in entry.trace}
    for program, (reference, alpha, count) in zip(asked, settings, strict=True):
        given = quantiles if reference == "q99" else reference
        expected = attenuate(ranked[:count], stats, alpha, label=label, reference=given)
        for site, width in stats.widths.items():
            np.testing.assert_array_equal(program.table(site, width), expected.table(site, width))
        assert changes[reference, alpha, count] == relative_change(expected, stats.label(label))


def test_random_sets_are_matched_by_site_and_treated_as_the_label_is_by_each_mask(
    mixed: tuple[torch.nn.Module, ActivationStats, NeuronSet],
) -> None:
    model, stats, neurons = mixed
    script = Scripted()
    found = validate(model, TOKENIZER, MIXED, neurons, stats, task="mood", evaluator=script, random_sets=9)
    programs = script.programs
    label, *others = MIXED.tasks["mood"]
    entry = found.tasks["mood"].results[label]
    # The mean mask of the last label comes last; then, mask by mask, the random sets of each label.
    last = max(place for place, program in enumerate(programs) if program and program.name == f"mean {others[-1]}")
    starts = [last + 1 + 9 * len(MIXED.tasks["mood"]) * mask for mask in range(3)]
    adaptive, zeroed, averaged = (programs[start : start + 9] for start in starts)
    selected = {(site, index) for site, index, _ in neurons[label]}
    drawn = [{(site, int(i)) for site, part in p.sites.items() for i in part.index} for p in adaptive]
    for number, members in enumerate(drawn):
        assert {site: len(part.index) for site, part in adaptive[number].sites.items()} == entry.sites
        assert not members & selected
        ordered = sorted(members)
        for program, expected in (
            (adaptive[number], attenuate(ordered, stats, entry.alpha, label=label, reference=entry.reference)),
            (zeroed[number], zero(ordered)),
            (averaged[number], mean(ordered, stats, "mood")),
        ):
            for site, width in stats.widths.items():
                np.testing.assert_array_equal(program.table(site, width), expected.table(site, width))
    assert len({frozenset(members) for members in drawn}) == 9


def test_neurons_selected_by_attribution_keep_their_order(
    mixed: tuple[torch.nn.Module, ActivationStats, NeuronSet],
) -> None:
    model, stats, neurons = mixed
    options: dict[str, Any] = {"task": "tone", "random_sets": 0, "share": 0.2, "share_step": 0.0}
    for score in ("attribution_t", "hedges_g"):
        chosen = NeuronSet(list(neurons.values()), neurons.widths, {**neurons.provenance, "select": {"score": score}})
        script = Scripted()
        found = validate(model, TOKENIZER, MIXED, chosen, stats, evaluator=script, **options)
        differential = score_of(stats, "differential", "tone")
        for row, (label, entry) in enumerate(found.tasks["tone"].results.items()):
            ranked = [neuron[:2] for neuron in neurons[label]]
            if score == "hedges_g":
                ranked.sort(key=lambda neuron: -differential[neuron[0]][row, neuron[1]])
            program = next(p for p in script.programs if p is not None and p.name == f"zero {label}")
            masked = {(site, int(i)) for site, part in program.sites.items() for i in part.index}
            assert masked == set(ranked[: entry.masked])
            assert 0 < entry.masked < len(ranked)

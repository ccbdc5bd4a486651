"""Generated texts of a model with planted neurons: what is written, judged, chosen and compared."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import affectron
from affectron.corpus import Corpus
from affectron.errors import InputError
from affectron.evaluation.exam import Exam
from affectron.evaluation.judge import WordJudge
from affectron.experiments.generation import compare_texts
from affectron.experiments.results import Generation, MethodGeneration
from affectron.options import Generate
from affectron.stats import ActivationStats
from tests.support.planted import LAYERS, MOODS, PROMPTS, TOKENIZER, make_corpus, make_model
from tests.support.tiny import NEURONS

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore::affectron.errors.Note")]

#: One neuron a label: each word of the corpus is followed by the label's own, as the label's neuron says.
OPTIONS = Generate(
    task="mood", shares=(1 / (LAYERS * NEURONS),), budgets=(0.2, 1.0), most_rise=9.0, layers=(0, 1), tried=6, count=7,
    texts=2, words=2, max_new_tokens=5, temperature=1.0,
)  # fmt: skip


def corpus() -> Corpus:
    """The planted corpus, each sentence followed by its label's word."""
    made = make_corpus(each=8)
    records = [
        {
            "text": f"{one.text} {one.labels[0]} {one.labels[0]}", "label": one.labels[0], "split": one.split,
            "task": made.task_of[one.labels[0]],
        }
        for one in made
    ]  # fmt: skip
    return Corpus.from_records(records)


CORPUS, MODEL = corpus(), make_model()


@pytest.fixture(scope="module")
def measured() -> tuple[ActivationStats, ActivationStats, ActivationStats]:
    train = CORPUS.where(split="train", task="mood")
    return (
        affectron.screen(MODEL, TOKENIZER, train),
        affectron.attribute(MODEL, TOKENIZER, train, metric="text"),
        affectron.screen(MODEL, TOKENIZER, train, at="layers"),
    )


def exam(**options: Any) -> Exam:
    return Exam(MODEL, TOKENIZER, CORPUS, prompts=PROMPTS, **options)


@pytest.fixture(scope="module")
def found(measured: tuple[ActivationStats, ...]) -> Generation:
    return compare_texts(exam(), *measured, OPTIONS)


def methods(found: Generation) -> dict[str, dict[str, MethodGeneration]]:
    return found.tasks["mood"].labels


def test_the_planted_neurons_write_their_label(found: Generation) -> None:
    share = f"{100 / (LAYERS * NEURONS):.3g} %"
    for of_label in methods(found).values():
        assert list(of_label) == ["unsteered", f"neurons {share}", f"random {share}", "residual", "prompt"]
        neurons = of_label[f"neurons {share}"]
        assert neurons.neurons == 1
        assert neurons.score.success > of_label[f"random {share}"].score.success


def test_numbers_are_those_of_the_texts(found: Generation) -> None:
    task = found.tasks["mood"]
    train, dev, test = (list(CORPUS.where(split=split, task="mood")) for split in ("train", "dev", "test"))
    judge = WordJudge(train, dev, list(MOODS))
    assert task.judge.accuracy == judge.accuracy(test)
    firsts = {" ".join(one.text.split()[:2]) for one in test}
    assert set(task.beginnings) <= firsts
    assert len(task.beginnings) == 7
    for label, of_label in task.labels.items():
        distinct = of_label["unsteered"].settings[0].score.distinct or 0.0
        plain = [text.judged == label for text in of_label["unsteered"].texts]
        assert of_label["unsteered"].score.rise == 0
        for method, result in of_label.items():
            texts = [text.text for text in result.texts]
            assert [text.judged for text in result.texts] == judge(texts)
            hits = [text.judged == label for text in result.texts]
            assert result.score.success == np.mean(hits)
            low, high = result.interval
            assert low <= result.score.success <= high
            chosen = result.settings[result.chosen]
            various = [one for one in result.settings if one.score.distinct >= 0.85 * distinct] or [chosen]
            assert chosen.score.success == max(one.score.success for one in various)
            assert (chosen.layer is not None) == (method == "residual")
            for other, versus in result.versus.items():
                others = [text.judged == label for text in of_label[other].texts]
                assert versus.difference == pytest.approx(np.mean(hits) - np.mean(others))
                assert versus.interval[0] <= versus.difference <= versus.interval[1]
                assert versus.p <= versus.adjusted_p <= 1
        assert len(plain) == 14


def test_the_same_seed_gives_the_same_texts_and_another_one_others(
    found: Generation, measured: tuple[ActivationStats, ...]
) -> None:
    assert compare_texts(exam(), *measured, OPTIONS).to_json() == found.to_json()
    other = compare_texts(exam(seed=1), *measured, OPTIONS)
    assert other.tasks["mood"].beginnings != found.tasks["mood"].beginnings


def test_beginnings_of_a_file_are_shared_out_and_texts_stop(
    measured: tuple[ActivationStats, ...], tmp_path: Path
) -> None:
    file = tmp_path / "beginnings.txt"
    lines = [f"w{n} w{n + 1}" for n in range(20, 30)]
    file.write_text("\n".join(lines) + "\n\n", encoding="utf-8")
    options = replace(OPTIONS, beginnings=file, stop="w5", instruction="w60 {label} {text}")
    task = compare_texts(exam(), *measured, options).tasks["mood"]
    assert sorted(task.beginnings) == sorted(lines[1::2])
    texts = [text.text for of_label in task.labels.values() for one in of_label.values() for text in one.texts]
    assert not any("w5" in text for text in texts)
    assert len({len(text.split()) for text in texts}) > 1


def test_neurons_are_beside_as_many_random_ones(measured: tuple[ActivationStats, ...]) -> None:
    both = compare_texts(exam(), *measured, replace(OPTIONS, shares=(*OPTIONS.shares, 2 * OPTIONS.shares[0])))
    for of_label in methods(both).values():
        for method, result in of_label.items():
            named, _, share = method.partition(" ")
            others = ["unsteered", f"random {share}", "residual", "prompt"] if named == "neurons" else []
            assert list(result.versus) == others


def test_a_dose_too_far_from_fluent_is_not_chosen(measured: tuple[ActivationStats, ...]) -> None:
    result = compare_texts(exam(), *measured, replace(OPTIONS, most_rise=1e-9))
    for of_label in methods(result).values():
        for method in of_label.values():
            rises = [one.score.rise for one in method.settings]
            if min(rises) > 1e-9:
                assert rises[method.chosen] == min(rises)


def test_bad_input_is_refused(measured: tuple[ActivationStats, ...], tmp_path: Path) -> None:
    stats, gradients, layers = measured
    with pytest.raises(InputError, match=f"layers has 9, expected numbers below {LAYERS}"):
        compare_texts(exam(), stats, gradients, layers, replace(OPTIONS, layers=(9,)))
    with pytest.raises(InputError, match="task"):
        compare_texts(exam(), stats, gradients, layers, replace(OPTIONS, task="none"))
    empty = tmp_path / "one.txt"
    empty.write_text("w3\n", encoding="utf-8")
    with pytest.raises(InputError, match="has 1 beginning of a text, expected two at least"):
        compare_texts(exam(), stats, gradients, layers, replace(OPTIONS, beginnings=empty))
    with pytest.raises(InputError, match="residual needs the outputs of layers"):
        compare_texts(exam(), stats, gradients, stats, replace(OPTIONS, layers=None))
    with pytest.raises(InputError, match="expected"):
        compare_texts(exam(), stats, stats, layers, OPTIONS)
    other = make_model()
    with torch.no_grad():
        other.lm_head.weight += 1
    of_other = affectron.screen(other, TOKENIZER, CORPUS.where(split="train", task="mood"), at="layers")
    with pytest.raises(InputError, match="the statistics of layers are of another model: weights is"):
        compare_texts(exam(), stats, gradients, of_other, OPTIONS)
    for wrong in ({"temperature": 0.0}, {"instruction": "no place"}, {"budgets": (0.0,)}, {"shares": ()}):
        with pytest.raises(InputError, match=next(iter(wrong)) if "temperature" not in wrong else "texts is 2"):
            replace(OPTIONS, **wrong)

"""Responses: changes of P under each factor against plain hooks, and intervals against scipy's t test."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy
import torch

import affectron
from affectron.evaluation.exam import Exam
from affectron.evaluation.intervals import mean_interval
from affectron.experiments.responses import responses
from affectron.experiments.results import ResponsePoint, Responses
from affectron.neurons import NeuronList, NeuronSet
from affectron.stats import ActivationStats
from tests.experiments.planted_model import CORPUS, MODEL, SITES, planted
from tests.experiments.scripted import Scripted
from tests.support.errors import message
from tests.support.planted import MOODS, PROMPTS, TOKENIZER

pytestmark = pytest.mark.usefixtures("one_thread")


@torch.no_grad()
def probabilities(label: str, site: str, index: int, factor: float) -> np.ndarray:
    """P of a mood on its own dev sentences, with a hook that multiplies one neuron."""
    before, _, after = PROMPTS["mood"].partition("{text}")
    labels = TOKENIZER.convert_tokens_to_ids(list(MOODS))

    def multiply(_: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        h = args[0].clone()
        h[..., index] *= factor
        return (h,)

    handle = MODEL.get_submodule(f"{site}.down_proj").register_forward_pre_hook(multiply)
    found = []
    for one in CORPUS.where(split="dev", task="mood"):
        if label in one.labels:
            text = before.replace("{bos}", TOKENIZER.bos_token) + one.text + after
            ids = torch.tensor([TOKENIZER(text, add_special_tokens=False)["input_ids"]])
            logits = MODEL(input_ids=ids).logits[0, -1, labels].double()
            found.append(float(torch.softmax(logits, -1)[list(MOODS).index(label)]))
    handle.remove()
    return np.array(found)


def test_changes_are_those_of_hooks(exam: Exam, neurons: NeuronSet, stats: ActivationStats) -> None:
    result = responses(exam, neurons, stats, neurons=3, factors=(3, 0, 1, 0.25), task="mood")
    assert result.options.factors == (0, 0.25, 1, 3)
    assert set(result.labels) == set(MOODS)
    for label, of_label in result.labels.items():
        before = probabilities(label, *planted(label), 1.0)
        assert (of_label.task, of_label.sentences) == ("mood", len(before))
        assert of_label.baseline == pytest.approx(before.mean(), abs=1e-6)
        assert [(one.site, one.index) for one in of_label.neurons] == [one[:2] for one in neurons[label][:3]]
        for one in of_label.neurons:
            assert one.points[2] == ResponsePoint(0.0, (0.0, 0.0))
            for factor, point in zip(result.options.factors, one.points, strict=True):
                change = probabilities(label, one.site, one.index, factor) - before
                assert point.delta == pytest.approx(change.mean(), abs=2e-6)
                expected = scipy.stats.ttest_1samp(change, 0).confidence_interval(0.95) if change.any() else (0, 0)
                low, high = max(expected[0], -before.mean()), min(expected[1], 1 - before.mean())
                assert point.interval == pytest.approx((low, high), abs=5e-6)
    first = {label: of_label.neurons[0] for label, of_label in result.labels.items()}
    assert all((one.site, one.index) == planted(label) for label, one in first.items())
    assert all(one.points[0].delta < -0.1 for one in first.values())
    assert Responses.from_json(result.to_json()) == result


def test_a_factor_of_one_is_not_run_and_neurons_do_not_depend_on_each_other(
    neurons: NeuronSet, stats: ActivationStats
) -> None:
    calls: list[int] = []

    def asked(neurons_of: int, factors: tuple[float, ...]) -> Any:
        exam = Exam(MODEL, TOKENIZER, CORPUS, prompts=PROMPTS)
        classifier: Any = exam.questions("dev", "mood").classifier
        scores = classifier.scores
        classifier.scores = lambda rows, programs: (calls.append(len(programs)), scores(rows, programs))[1]
        return responses(exam, neurons, stats, neurons=neurons_of, factors=factors, task="mood").labels

    few, more = asked(1, (0, 1, 2)), asked(2, (2, 0))
    both = [2 * min(2, len(neurons[label])) for label in MOODS]
    assert 4 in both
    assert calls == [1, 2] * len(MOODS) + [number for programs in both for number in (1, programs)]
    for label, of_label in few.items():
        (one,), (same, *_) = of_label.neurons, more[label].neurons
        assert (one.points[0].delta, one.points[2].delta) == pytest.approx(
            [point.delta for point in same.points], abs=1e-6
        )  # fmt: skip
    assert all(one.points == (ResponsePoint(0.0, (0.0, 0.0)),) for one in asked(1, (1,))["w50"].neurons)


def test_an_answer_that_is_no_number_has_no_change(exam: Exam, stats: ActivationStats) -> None:
    class Lost:
        def scores(self, rows: np.ndarray, programs: Any = (None,)) -> np.ndarray:
            found = np.zeros((len(programs), len(rows), len(MOODS)))
            found[0, 0] = np.nan if programs[0] is not None else 0
            return found

    lost = Exam(MODEL, TOKENIZER, CORPUS, prompts=PROMPTS)
    lost.questions("dev", "mood").classifier = Lost()  # type: ignore[assignment]
    site, index = planted("w50")
    one_neuron = NeuronSet([NeuronList("w50", "mood", [(site, index, 0.0)])], stats.widths)
    result = responses(lost, one_neuron, stats, factors=(0, 2)).labels["w50"]
    assert result.neurons[0].points == (ResponsePoint(None, None), ResponsePoint(0.0, (0.0, 0.0)))


def test_one_sentence_has_the_interval_of_all_that_can_be(stats: ActivationStats) -> None:
    exam = Exam(MODEL, TOKENIZER, CORPUS, prompts=PROMPTS, limit=1)
    site, index = planted("w50")
    neurons = NeuronSet([NeuronList("w50", "mood", [(site, index, 0.0)])], stats.widths)
    result = responses(exam, neurons, stats, factors=(0,)).labels["w50"]
    assert result.sentences == 1
    assert result.neurons[0].points[0].interval == (-result.baseline, 1 - result.baseline)


def test_the_probe_and_labels_without_neurons(stats: ActivationStats) -> None:
    exam = Exam(MODEL, TOKENIZER, CORPUS, evaluator="linear_probe")
    site, index = planted("w50")
    lists = [NeuronList("w50", "mood", [(site, index, 0.0)]), NeuronList("w51", "mood", [])]
    result = affectron.responses(exam, NeuronSet(lists, stats.widths), stats, factors=(0,))
    assert result.labels["w51"].neurons == ()
    assert 0 < result.labels["w50"].baseline < 1


def test_what_cannot_be_measured_is_refused(exam: Exam, neurons: NeuronSet, stats: ActivationStats) -> None:
    scripted = Exam(MODEL, TOKENIZER, CORPUS, evaluator=Scripted())
    assert message(lambda: responses(scripted, neurons, stats)) == (
        "the classifier of evaluator 'scripted' gives no scores of labels"
    )
    assert "factors[0] is -1.0, expected a number >= 0" in message(
        lambda: responses(exam, neurons, stats, factors=(-1.0,))
    )
    assert "neurons is 0" in message(lambda: responses(exam, neurons, stats, neurons=0))
    beyond = NeuronSet([NeuronList("w50", "mood", [(SITES[0], 9999, 0.0)])], {SITES[0]: 10000})
    assert "neuron index beyond the model" in message(lambda: responses(exam, beyond, stats))


@pytest.mark.parametrize("n", [2, 5, 40])
def test_intervals_of_a_mean_cover_as_often_as_they_say(n: int) -> None:
    rng = np.random.default_rng(1)
    trials = 4000
    covered = np.mean([low <= 0.3 <= high for low, high in map(mean_interval, rng.normal(0.3, 2, (trials, n)))])
    assert abs(covered - 0.95) < 4 * np.sqrt(0.95 * 0.05 / trials)
    assert mean_interval(np.array([2.0])) == (-np.inf, np.inf)
    assert mean_interval(np.full(3, 2.0)) == (2.0, 2.0)


@pytest.mark.parametrize(("n", "share", "covers"), [(20, 0.1, 0.87), (50, 0.1, 0.87), (20, 0.03, 0.46)])
def test_intervals_of_a_mean_cover_less_where_few_values_change(n: int, share: float, covers: float) -> None:
    """The interval holds the mean where the number of changes is in reach: a sum of binomial probabilities."""
    number = np.arange(n + 1)
    intervals = [mean_interval(np.repeat([-1.0, 0.0], [changed, n - changed])) for changed in number.tolist()]
    covered = np.array([low <= -share <= high for low, high in intervals])
    assert scipy.stats.binom.pmf(number, n, share)[covered].sum() == pytest.approx(covers, abs=0.01)

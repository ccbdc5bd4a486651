"""Selection methods side by side: each finds the planted neurons, and the curves are what zeroing does."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest

from affectron.errors import InputError
from affectron.evaluation.exam import Exam
from affectron.experiments.methods import compare_methods
from affectron.interventions import zero
from affectron.neurons import NeuronSet
from affectron.options import METHODS
from affectron.selection import select_by
from affectron.stats import ActivationStats
from tests.experiments.planted_model import CORPUS, MODEL, planted
from tests.experiments.scripted import Scripted
from tests.support.attributions import attribution_stats
from tests.support.planted import MOODS, TASKS, TOKENIZER

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def attributions(stats: ActivationStats) -> ActivationStats:
    """Noise, but for the planted neuron of the sentence's own label."""
    rng = np.random.default_rng(0)
    values = {
        label: {site: rng.normal(size=(9, width)) for site, width in stats.widths.items()} for label in stats.labels
    }
    for label, of_sites in values.items():
        site, index = planted(label)
        of_sites[site][:, index] += 9
    return attribution_stats(stats.tasks, values, stats.provenance)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_finds_the_planted_neurons(
    stats: ActivationStats, attributions: ActivationStats, method: str
) -> None:
    measured = {"activation": stats, "attribution": attributions}
    for task, labels in TASKS.items():
        selected = select_by(measured, method, task, top=0.04)
        for label in labels:
            assert planted(label) in {neuron[:2] for neuron in selected[label]}


def test_methods_side_by_side_name_the_one_that_drops_most(
    exam: Exam, neurons: NeuronSet, stats: ActivationStats
) -> None:
    result = compare_methods(exam, neurons, stats, task="mood", methods=("lee", "effect_size", "npti"), top=0.04)
    mood = result.tasks["mood"]
    for label in MOODS:
        compared = mood.labels[label]
        effects = [selected.effect for selected in compared.methods.values()]
        assert all(effect and (effect.delta, effect.verdict) == (-1.0, "specific") for effect in effects)
        assert all(effect and effect.random and effect.random.deltas == (0.0,) * 10 for effect in effects)
        assert compared.best in compared.methods
    matrix = np.array(mood.agreement)
    np.testing.assert_allclose(matrix, matrix.T)
    np.testing.assert_array_equal(np.diag(matrix), 1.0)
    lists = [select_by({"activation": stats}, method, "mood", top=0.04) for method in ("lee", "npti")]
    shares = []
    for label in MOODS:
        first, second = ({neuron[:2] for neuron in selected[label]} for selected in lists)
        shares.append(len(first & second) / len(first | second))
    assert matrix[0, 2] == pytest.approx(np.mean(shares))


def test_a_curve_is_what_zeroing_the_best_of_the_ranking_does(
    exam: Exam, neurons: NeuronSet, stats: ActivationStats
) -> None:
    counts = (1, 2, 5, 11, 23)
    names = ("lee", "npti")
    result = compare_methods(exam, neurons, stats, task="mood", methods=names, counts=counts, random_sets=6)
    asked = exam.questions("test", "mood")
    before = asked.right(asked.unmasked)
    for name in names:
        ranking = select_by({"activation": stats}, name, "mood", count=23)
        for target, label in enumerate(MOODS):
            points = result.tasks["mood"].labels[label].methods[name].curve.points
            # An entropy gives a label as many as it assigns: there the curve ends.
            expected = sorted({min(count, len(ranking[label])) for count in counts})
            assert [point.masked for point in points] == expected
            for point in points:
                change = asked.right(asked.ask([zero(ranking[label][: point.masked])])[0]) - before
                assert point.height.own == pytest.approx(change[asked.own(target)].mean())
                assert point.height.others == pytest.approx(change[asked.others(target)].mean())
    ends = [of_label.methods["lee"].curve.points[-1].masked for of_label in result.tasks["mood"].labels.values()]
    assert min(ends) < max(counts)


def test_an_area_is_the_mean_height_over_the_logarithm(exam: Exam, neurons: NeuronSet, stats: ActivationStats) -> None:
    # 40 of 43 neurons of a site leave too few for a random set: the curve has a gap there, and no area.
    for counts in ((1, 3, 10), (7,), (1, 129)):
        result = compare_methods(exam, neurons, stats, methods=("npti",), counts=counts, top=0.01, random_sets=3)
        for task in result.tasks.values():
            for of_label in task.labels.values():
                curve = of_label.methods["npti"].curve
                assert curve.area is not None
                for name in ("own", "others", "random"):
                    heights = [getattr(point.height, name) for point in curve.points]
                    area = getattr(curve.area, name)
                    if None in heights:
                        assert area is None
                    elif len(heights) == 1:
                        assert area == heights[0]
                    else:
                        masked = [point.masked for point in curve.points]
                        parts = [
                            (heights[k] + heights[k + 1]) / 2 * math.log(masked[k + 1] / masked[k])
                            for k in range(len(masked) - 1)
                        ]
                        assert area == pytest.approx(sum(parts) / math.log(masked[-1] / masked[0]))


def test_a_selection_and_each_point_have_their_own_random_sets(neurons: NeuronSet, stats: ActivationStats) -> None:
    script = Scripted()
    exam = Exam(MODEL, TOKENIZER, CORPUS, evaluator=script)
    options: dict[str, Any] = {"task": "tone", "top": 0.02, "random_sets": 7}
    result = compare_methods(exam, neurons, stats, methods=("npti",), counts=(1, 3, 9), **options)
    selected = select_by({"activation": stats}, "npti", "tone", top=0.02)
    random = [p for p in script.programs if p is not None and p.name == "zero neurons"]
    expected: Counter[int] = Counter()
    for label, of_label in result.tasks["tone"].labels.items():
        found = of_label.methods["npti"]
        assert found.selected == len(selected[label])
        programs = [p for p in script.programs if p is not None and p.name == f"zero {label}"]
        assert sorted(map(len, programs)) == sorted([len(selected[label]), 1, 3, 9])
        # Four for each point of the curve, and as many as asked for the selection.
        expected += Counter({1: 4, 3: 4, 9: 4}) + Counter({len(selected[label]): 7})
        assert found.effect is not None
        assert found.effect.random is not None
        assert len(found.effect.random.deltas) == 7
    assert Counter(map(len, random)) == expected
    every = [p for p in script.programs if p is not None]
    masks = [{site: len(part.index) for site, part in p.sites.items()} for p in every if p.name != "zero neurons"]
    assert all({site: len(part.index) for site, part in p.sites.items()} in masks for p in random)


def test_a_point_that_several_methods_have_in_common_is_asked_once(neurons: NeuronSet, stats: ActivationStats) -> None:
    script = Scripted()
    exam = Exam(MODEL, TOKENIZER, CORPUS, evaluator=script)
    counts, names = (1, 3, 9), ("paper_raw", "effect_size", "npti")
    options: dict[str, Any] = {"task": "tone", "top": 0.02, "random_sets": 0}
    result = compare_methods(exam, neurons, stats, methods=names, counts=counts, **options)
    rankings = {name: select_by({"activation": stats}, name, "tone", count=9) for name in names}
    selected = {name: select_by({"activation": stats}, name, "tone", top=0.02) for name in names}
    shared = 0
    for label, of_label in result.tasks["tone"].labels.items():
        points = [
            frozenset(neuron[:2] for neuron in rankings[name][label][: point.masked])
            for name in names
            for point in of_label.methods[name].curve.points
        ]
        shared += len(points) - len(set(points))
        asked = [p for p in script.programs if p is not None and p.name == f"zero {label}"]
        assert len(asked) == len(set(points)) + sum(len(selected[name][label]) > 0 for name in names)
    assert shared


def test_attributions_are_read_where_they_are_given(
    exam: Exam, neurons: NeuronSet, stats: ActivationStats, attributions: ActivationStats
) -> None:
    options: dict[str, Any] = {"task": "mood", "counts": (1,), "random_sets": 0}
    without = compare_methods(exam, neurons, stats, **options)
    assert without.options.methods == tuple(name for name in METHODS if not name.startswith("attribution"))
    result = compare_methods(exam, neurons, stats, attributions, **options)
    assert result.options.methods == tuple(METHODS)
    for label in MOODS:
        (point,) = result.tasks["mood"].labels[label].methods["attribution"].curve.points
        assert (point.height.own, point.height.others, point.height.random) == (-1.0, 0.0, 0.0)
    with pytest.raises(InputError, match="method 'attribution' selects by statistics of attributions, which are not"):
        compare_methods(exam, neurons, stats, methods=("attribution", "lee"), **options)


def test_a_method_without_neurons_of_a_label_has_no_effect_there(
    exam: Exam, neurons: NeuronSet, stats: ActivationStats
) -> None:
    result = compare_methods(exam, neurons, stats, task="mood", methods=("lee",), top=1e-9, counts=(1,), random_sets=0)
    compared = result.tasks["mood"].labels
    for label, selected in select_by({"activation": stats}, "lee", "mood", top=1e-9).items():
        method = compared[label].methods["lee"]
        assert method.selected == len(selected)
        assert (method.effect is None) == (not selected)
    assert any(not labels.methods["lee"].selected for labels in compared.values())


def test_an_unknown_method_is_refused(exam: Exam, neurons: NeuronSet, stats: ActivationStats) -> None:
    with pytest.raises(InputError, match=r"methods\[0\] is 'mine', expected one of attribution, "):
        compare_methods(exam, neurons, stats, methods=("mine",))
    with pytest.raises(InputError, match=r"counts is \(\), expected a list of at least 1"):
        compare_methods(exam, neurons, stats, counts=())

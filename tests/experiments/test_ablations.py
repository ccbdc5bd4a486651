"""Ablations: a mask of a planted neuron drops its label alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from affectron.errors import InputError
from affectron.evaluation.exam import Exam
from affectron.evaluation.intervals import LEVEL, holm
from affectron.experiments.ablations import ablate, site_thirds
from affectron.neurons import NeuronSet
from affectron.options import Select
from affectron.selection import select
from affectron.stats import ActivationStats
from tests.experiments.planted_model import planted
from tests.support.attributions import attribution_stats
from tests.support.errors import message
from tests.support.planted import MOODS, TASKS, TONES

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_model_answers_and_the_planted_neurons_rank_first(exam: Exam, neurons: NeuronSet) -> None:
    for task in TASKS:
        questions = exam.questions("test", task)
        assert questions.right(questions.unmasked).all()
    for label, ranked in neurons.items():
        assert ranked[0][:2] == planted(label)


def test_a_mask_of_the_planted_neuron_drops_its_label_alone(
    exam: Exam, neurons: NeuronSet, stats: ActivationStats
) -> None:
    result = ablate(
        exam, neurons, stats, alphas=(0.2, 1.0), shares=(0.01,), model_shares=(0.05,),
        selection=Select(filter_rate=None), smallest_effect=0.25,
    )  # fmt: skip
    rows = {(row.label, row.sweep, row.setting): row for row in result.rows}
    labels = [*MOODS, *TONES]
    for setting in ("all", "bottom", "middle", "top"):
        of_setting = [rows[label, "sites", setting] for label in labels]
        assert [row.effect is None for row in of_setting] == [row.masked == 0 for row in of_setting]
        effects = {row.label: row.effect for row in of_setting if row.effect is not None}
        # p of a set of few neurons is not small: there are few others to draw.
        parts = [(e.p, e.specific_p or 0, e.answers_p or 0, e.random.p if e.random else 1) for e in effects.values()]
        claims = holm([max(part) for part in parts])
        for (label, effect), claim in zip(effects.items(), claims, strict=True):
            hit = setting in ("all", "middle" if label in MOODS else "bottom")
            lowered = "specific" if claim <= LEVEL + 1e-9 else "lowers accuracy"
            assert effect.verdict == (lowered if hit else "no effect")
            assert (effect.delta, effect.others_delta) == ((-1.0, 0.0) if hit else (0.0, 0.0))
            assert effect.random is not None
            assert set(effect.random.deltas) == {0.0}
    assert [rows[label, "model_share", 0.05].effect.verdict for label in labels] == ["specific"] * 5
    for label in labels:
        deltas = {key[1:]: row.effect and row.effect.delta for key, row in rows.items() if key[0] == label}
        assert deltas["alpha", 0.2] == 0.0  # the weakened signal still wins
        assert deltas["alpha", 1.0] == -1.0
        assert deltas["model_share", 0.05] == -1.0
        weakened = rows[label, "alpha", 0.2].effect
        assert weakened is not None
        assert weakened.relative_change == pytest.approx(0.2)
        single = rows[label, "share", 0.01]
        assert single.masked == 1
        assert single.effect is not None
        assert single.effect.random is not None
        assert single.effect.verdict == "lowers accuracy"
        assert single.effect.reason == f"{single.effect.random.sets} random sets are too few for 5 labels"
        # One mask under several names is one measurement.
        assert rows[label, "alpha", 1.0].effect == rows[label, "sites", "all"].effect


def test_model_shares_are_taken_of_what_the_neurons_were_selected_from(
    exam: Exam, neurons: NeuronSet, stats: ActivationStats
) -> None:
    rng = np.random.default_rng(0)
    values = {
        label: {site: rng.normal(size=(9, width)) for site, width in stats.widths.items()} for label in stats.labels
    }
    attributions = attribution_stats(stats.tasks, values, stats.provenance)
    chosen = select(attributions, count=3)
    options: dict[str, Any] = {
        "task": "mood", "alphas": (), "shares": (), "model_shares": (0.05,), "random_sets": 0,
        "selection": Select(count=3),
    }  # fmt: skip
    result = ablate(exam, chosen, stats, attributions, **options)
    masked = {row.label: row.masked for row in result.rows if row.sweep == "model_share"}
    assert masked == dict.fromkeys(MOODS, round(0.05 * 129))
    with pytest.raises(InputError, match="attributions are not given, and the neurons were selected from them"):
        ablate(exam, chosen, stats, **options)


def test_thirds_cover_the_sites_in_order() -> None:
    for count in range(3, 20):
        sites = [f"s{k}" for k in range(count)]
        thirds = site_thirds(sites)
        assert [site for part in thirds.values() for site in part] == sites
        sizes = [len(part) for part in thirds.values()]
        assert sizes == sorted(sizes, reverse=True)
        assert sizes[0] - sizes[2] <= 1
    assert message(lambda: site_thirds(["a", "b"])) == "thirds of the sites are asked for, and the model has 2"


def test_a_strength_out_of_its_range_is_refused(exam: Exam, neurons: NeuronSet, stats: ActivationStats) -> None:
    with pytest.raises(InputError, match=r"alphas\[0\] is 1.5, expected a number in \(0, 1\]"):
        ablate(exam, neurons, stats, alphas=(1.5,))

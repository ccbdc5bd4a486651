"""Stability: would another corpus of the same kind give the same neurons? From the folds of one screening, since
statistics merge. Apart from the selection, which sees one corpus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from affectron.errors import InputError
from affectron.evaluation.exam import fraction, whole_number
from affectron.experiments.findings import Findings
from affectron.neurons import NeuronList, NeuronSet
from affectron.selection import choose, selection_options
from affectron.stats import ActivationStats


def stability(
    folds: Sequence[ActivationStats],
    *,
    selection: Mapping[str, Any] | None = None,
    resamples: int = 100,
    splits: int = 20,
    seed: int = 0,
) -> Findings:
    """How often a neuron is selected for a label when the folds are resampled, and how far two halves agree.

    Args:
        folds: of one screening (:func:`affectron.screening.screen.screen_folds`).
        selection: options of :func:`affectron.select`.
        resamples: bootstrap samples, each of as many folds with replacement; a neuron's ``frequency`` is the share of
            them in which it is selected for the label.
        splits: random halves of the folds; ``split_half`` is the Jaccard index of the two halves' neurons.

    Raises:
        InputError: fewer than two folds, or an option of the selection that cannot be used.
    """
    whole_number("resamples", resamples, 1)
    whole_number("splits", splits, 1)
    if len(folds) < 2:
        raise InputError(f"folds is {len(folds)}, expected at least two")
    rng = np.random.default_rng(seed)
    options = dict(selection or {})
    checked = selection_options(**options)
    count = len(folds)

    def chosen(members: Sequence[int]) -> NeuronSet:
        return choose(ActivationStats.pooled([folds[member] for member in members]), checked)

    whole = chosen(range(count))
    times: dict[str, Counter[tuple[str, int]]] = {label: Counter() for label in whole}
    for _ in range(resamples):
        for label, neurons in chosen(rng.integers(0, count, count).tolist()).items():
            times[label].update((site, index) for site, index, _ in neurons)
    halves: dict[str, list[float]] = {label: [] for label in whole}
    for _ in range(splits):
        order = rng.permutation(count).tolist()
        one, two = chosen(order[: count // 2]), chosen(order[count // 2 :])
        for label in whole:
            mine, theirs = ({(site, index) for site, index, _ in half[label]} for half in (one, two))
            if mine | theirs:
                halves[label].append(len(mine & theirs) / len(mine | theirs))
    labels = {
        label: {
            "task": neurons.task,
            "selected": len(neurons),
            "neurons": [[site, index, times[label][site, index] / resamples] for site, index, _ in neurons],
            "others": [
                [site, index, many / resamples]
                for (site, index), many in times[label].most_common()
                if (site, index) not in {(where, which) for where, which, _ in neurons}
            ],
            "split_half": float(np.mean(halves[label])) if halves[label] else None,
        }
        for label, neurons in whole.items()
    }
    provenance = {key: value for key, value in folds[0].provenance.items() if key != "fold"}
    return Findings(
        "stability",
        {
            "provenance": provenance,
            "options": {
                "folds": count, "selection": options, "resamples": resamples, "splits": splits, "seed": seed,
            },
            "labels": labels,
        },
    )  # fmt: skip


def keep_stable(neurons: NeuronSet, found: Findings, min_frequency: float) -> NeuronSet:
    """The neurons that were selected in at least this share of the resamples; their order is kept.

    Raises:
        InputError: ``min_frequency`` is not in (0, 1], or a label is not in the findings.
    """
    fraction("min_frequency", min_frequency)
    lists = []
    for label, mine in neurons.items():
        if label not in found["labels"]:
            raise InputError(f"label {label!r} is not in the stability, which has {', '.join(found['labels'])}")
        entry = found["labels"][label]
        stable = {
            (site, index) for site, index, share in [*entry["neurons"], *entry["others"]] if share >= min_frequency
        }
        lists.append(NeuronList(label, mine.task, [one for one in mine if one[:2] in stable]))
    selection = {**neurons.provenance.get("select", {}), "min_frequency": min_frequency}
    return NeuronSet(lists, neurons.widths, {**neurons.provenance, "select": selection}, neurons.screened)

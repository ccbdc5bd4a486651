"""Stability of a selection under resampling of the folds of one screening: an estimate of what another corpus of the
same kind would select."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from affectron import options
from affectron._internal.options import check_option, documented
from affectron.errors import InputError
from affectron.experiments.results import LabelStability, Stability, StabilityOptions
from affectron.neurons import NeuronList, NeuronSet
from affectron.selection import choose
from affectron.stats import ActivationStats


@documented(options.Stability)
def stability(
    folds: Sequence[ActivationStats],
    *,
    selection: options.Select | None = None,
    resamples: int = options.Stability.resamples,
    splits: int = options.Stability.splits,
    seed: int = options.Common.seed,
) -> Stability:
    """Measure how often a neuron is selected for a label when the folds are resampled, and how far two halves agree.

    Args:
        folds: of one screening (:func:`affectron.screening.screen.screen_folds`).
        selection: options of :func:`affectron.select`.
        {options}
            (A neuron's frequency is the share of the resamples in which it is selected for the label, and
            ``split_half`` the mean Jaccard index of the neurons of two halves.)
        seed: of resamples and halvings.

    Raises:
        InputError: fewer than two folds, or an option of the selection that cannot be used.
    """
    options.Stability(resamples, splits)
    options.Common(seed=seed)
    if len(folds) < 2:
        raise InputError(f"folds is {len(folds)}, expected at least two")
    rng = np.random.default_rng(seed)
    chosen_by = selection or options.Select()
    count = len(folds)

    def chosen(members: Sequence[int]) -> NeuronSet:
        return choose(ActivationStats.pooled([folds[member] for member in members]), None, chosen_by)

    whole = chosen(range(count))
    times: dict[str, Counter[tuple[str, int]]] = {label: Counter() for label in whole}
    for _ in range(resamples):
        for label, neurons in chosen(rng.integers(0, count, count).tolist()).items():
            times[label].update((site, index) for site, index, _ in neurons)
    halves: dict[str, list[float]] = {label: [] for label in whole}
    for _ in range(splits):
        order = rng.permutation(count).tolist()
        selected = chosen(order[: count // 2]), chosen(order[count // 2 :])
        for label in whole:
            first, second = ({(site, index) for site, index, _ in half[label]} for half in selected)
            if first | second:
                halves[label].append(len(first & second) / len(first | second))
    labels = {}
    for label, neurons in whole.items():
        members = {(site, index): None for site, index, _ in neurons}
        frequency = {neuron: number / resamples for neuron, number in times[label].most_common()}
        labels[label] = LabelStability(
            task=neurons.task,
            selected=len(neurons),
            neurons=tuple((*neuron, frequency.get(neuron, 0.0)) for neuron in members),
            others=tuple((*neuron, share) for neuron, share in frequency.items() if neuron not in members),
            split_half=float(np.mean(halves[label])) if halves[label] else None,
        )
    provenance = {key: value for key, value in folds[0].provenance.items() if key != "fold"}
    return Stability(provenance, StabilityOptions(count, chosen_by.values(), resamples, splits, seed), labels)


def keep_stable(neurons: NeuronSet, measured: Stability, min_frequency: float) -> NeuronSet:
    """Keep the neurons that were selected in at least this share of the resamples, in their order.

    Raises:
        InputError: ``min_frequency`` is not in (0, 1], or a label is not in the stability.
    """
    check_option(options.KeepStable, "min_frequency", min_frequency)
    selection = {**neurons.provenance.get("select", {}), "min_frequency": min_frequency}
    removed = dict(selection.get("removed", {}))
    lists = []
    for label, members in neurons.items():
        if label not in measured.labels:
            raise InputError(f"label {label!r} is not in the stability, which has {', '.join(measured.labels)}")
        frequencies = measured.labels[label]
        stable = {
            (site, index)
            for site, index, share in (*frequencies.neurons, *frequencies.others)
            if share >= min_frequency
        }
        kept = [neuron for neuron in members if neuron[:2] in stable]
        lists.append(NeuronList(label, members.task, kept))
        removed[label] = {**removed.get(label, {}), "min_frequency": len(members) - len(kept)}
    provenance = {**neurons.provenance, "select": {**selection, "removed": removed}}
    return NeuronSet(lists, neurons.widths, provenance, neurons.screened)

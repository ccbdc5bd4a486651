"""Ablations: which part of a label's neurons the effect hangs on, each mask beside random ones.

Apart from the validation, which settles one mask on dev; here settings are laid out and none is chosen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from affectron.errors import InputError
from affectron.evaluation.effects import Ranked, label_rng, measure
from affectron.evaluation.exam import Exam, fraction, whole_number
from affectron.experiments.findings import Findings
from affectron.neurons import NeuronList, NeuronSet
from affectron.selection import choose, selection_options
from affectron.stats import ActivationStats

THIRDS = ("bottom", "middle", "top")


@dataclass(frozen=True)
class _Mask:
    """One setting: which sweep it belongs to, its value, and the mask."""

    sweep: str
    setting: str | float
    neurons: NeuronList
    alpha: float


def ablate(
    exam: Exam,
    neurons: NeuronSet,
    stats: ActivationStats,
    *,
    alpha: float = 1.0,
    alphas: Sequence[float] = (0.25, 0.5, 0.75, 1.0),
    shares: Sequence[float] = (0.1, 0.25, 0.5, 1.0),
    model_shares: Sequence[float] = (0.01, 0.02, 0.03, 0.04, 0.05),
    selection: Mapping[str, Any] | None = None,
    task: str | None = None,
    random_sets: int = 20,
    bootstrap: int = 1000,
    progress: bool = False,
) -> Findings:
    """Attenuate parts of each label's neurons and report the test split, in four sweeps.

    ``sites``: all of the label's neurons, and those in the bottom, middle and top third of the sites (in the order of
    the forward pass; where three does not divide them, the lower thirds are the larger ones). ``alpha``: all of them,
    at each strength. ``share``: the best of them by ``differential``. ``model_share``: as many neurons as a selection
    of this share of the whole model gives the label.

    Every mask has ``random_sets`` random ones, matched in size at each site, and a verdict; see
    :func:`affectron.evaluation.effects.measure` for what is measured.

    Args:
        alpha: the strength wherever it is not swept.
        alphas, shares, model_shares: the values of each sweep, all in (0, 1].
        selection: what :func:`affectron.select` was given beside ``top``, for the sweep of model shares.

    Raises:
        InputError: a value out of its range, or as :meth:`Exam.require`.
    """
    fraction("alpha", alpha)
    for name, values in (("alphas", alphas), ("shares", shares), ("model_shares", model_shares)):
        for value in values:
            fraction(name, value)
    whole_number("random_sets", random_sets, 0)
    whole_number("bootstrap", bootstrap, 1)
    tasks = exam.require(neurons, stats, task)
    selection = {key: value for key, value in (selection or {}).items() if key not in ("top", "task")}
    larger = {
        share: {name: choose(stats, selection_options(task=name, top=share, **selection)) for name in tasks}
        for share in sorted(model_shares)
    }
    rows: list[dict[str, Any]] = []
    masks = {label: [] for labels in tasks.values() for label in labels}  # type: dict[str, list[_Mask]]
    ranked: dict[str, Ranked] = {}
    for name, labels in tasks.items():
        for label in labels:
            one = ranked[label] = Ranked.of(neurons[label], exam.corpus.tasks[name], stats)
            masks[label] = [
                *_thirds(one, alpha),
                *(_Mask("alpha", value, one.neurons, value) for value in sorted(alphas)),
                *(_Mask("share", value, one.neurons.top(value), alpha) for value in sorted(shares)),
                *(_Mask("model_share", value, found[name][label], alpha) for value, found in larger.items()),
            ]
    runs = sum(len(set(map(_key, found))) for found in masks.values()) * (1 + random_sets)
    with exam.sitting("ablating", runs, progress) as step:
        for name, labels in tasks.items():
            asked = exam.questions(exam.test, name)
            for label in labels:
                one = ranked[label]
                # A mask that several sweeps have in common is measured once.
                distinct = {_key(mask): mask for mask in masks[label] if mask.neurons}
                programs, controls = {}, {}
                for key, mask in distinct.items():
                    rng = label_rng(exam.seed, name, f"{label} {key}")
                    drawn = one.random_sets(mask.neurons, random_sets, rng)
                    programs[key] = one.attenuated(mask.neurons, mask.alpha)
                    controls[key] = [one.attenuated(members, mask.alpha) for members in drawn]
                rng = label_rng(exam.seed, name, label)
                effects = measure(asked, one.target, programs, controls, bootstrap, rng) if programs else {}
                step(len(distinct) * (1 + random_sets))
                for mask in masks[label]:
                    place = {"task": name, "label": label, "sweep": mask.sweep, "setting": mask.setting}
                    place |= {"alpha": mask.alpha, "masked": len(mask.neurons), "sentences": len(asked.own(one.target))}
                    rows.append(place | effects.get(_key(mask), {}))
    options = {
        **exam.options(tasks), "alpha": alpha, "alphas": list(alphas), "shares": list(shares),
        "model_shares": list(model_shares), "selection": selection, "random_sets": random_sets, "bootstrap": bootstrap,
    }  # fmt: skip
    return Findings("ablations", {"provenance": exam.provenance(neurons), "options": options, "rows": rows})


def site_thirds(sites: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """bottom, middle, top -> their sites, in the order of the forward pass.

    Raises:
        InputError: fewer than three sites.
    """
    if len(sites) < 3:
        raise InputError(f"thirds of the sites are asked for, and the model has {len(sites)}")
    cuts = [0, *((len(sites) * k + 2) // 3 for k in (1, 2)), len(sites)]
    return {name: tuple(sites[cuts[k] : cuts[k + 1]]) for k, name in enumerate(THIRDS)}


def _thirds(one: Ranked, alpha: float) -> list[_Mask]:
    found = [_Mask("sites", "all", one.neurons, alpha)]
    if len(one.stats.sites) < 3:
        return found
    for name, sites in site_thirds(one.stats.sites).items():
        inside = [neuron for neuron in one.neurons if neuron[0] in sites]
        found.append(_Mask("sites", name, NeuronList(one.label, one.neurons.task, inside), alpha))
    return found


def _key(mask: _Mask) -> str:
    members = sorted((site, index) for site, index, _ in mask.neurons)
    return f"{mask.alpha} {members}"

"""Ablations: the effect of masking parts of each label's neurons, each mask beside random ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from affectron._internal.arguments import checked_arguments
from affectron._internal.options import documented
from affectron.errors import InputError
from affectron.evaluation.effects import Ranked, Trial, measure_effects, most_sets, selected_from
from affectron.evaluation.exam import Exam
from affectron.evaluation.resampling import label_rng
from affectron.experiments.results import THIRDS, Ablation, Ablations, AblationsOptions, ExamOptions
from affectron.neurons import NeuronList, NeuronSet
from affectron.options import Ablate, Select
from affectron.selection import choose
from affectron.stats import ATTRIBUTION, ActivationStats


@dataclass(frozen=True)
class _Setting:
    """One setting of a sweep, and the mask that it stands for."""

    sweep: str
    value: str | float
    neurons: NeuronList
    alpha: float

    @property
    def name(self) -> tuple[str, str | float]:
        """The sweep and the value."""
        return self.sweep, self.value

    @property
    def mask(self) -> str:
        """The mask, for its random numbers; settings that mask the same neurons by the same alpha share it."""
        members = sorted((site, index) for site, index, _ in self.neurons)
        return f"{self.alpha} {members}"


@checked_arguments
@documented(Ablate)
def ablate(
    exam: Exam,
    neurons: NeuronSet,
    stats: ActivationStats,
    attributions: ActivationStats | None = None,
    *,
    reference: str = Ablate.reference,
    alpha: float = Ablate.alpha,
    alphas: Sequence[float] = Ablate.alphas,
    shares: Sequence[float] = Ablate.shares,
    model_shares: Sequence[float] = Ablate.model_shares,
    selection: Select | None = None,
    task: str | None = None,
    random_sets: int | None = Ablate.random_sets,
    smallest_effect: float = Ablate.smallest_effect,
    progress: bool = False,
) -> Ablations:
    """Attenuate parts of each label's neurons and report the test split, in four sweeps.

    ``sites``: all of the label's neurons, and those in the bottom, middle and top third of the sites (in the order of
    the forward pass; where three does not divide them, the lower thirds are the larger ones). ``alpha``: all of them,
    at each strength. ``share``: the best of them, in the order of :func:`affectron.validate`. ``model_share``: as many
    neurons as a selection of this share of the whole model gives the label.

    Every mask has random ones and a verdict, as in :func:`affectron.validate`; the p values of a setting are adjusted
    over all labels.

    Args:
        stats: statistics of activations, which the masks are made from.
        attributions: what the neurons were selected from, where that is attributions, for the sweep of model shares.
        {options}
        selection: options that the neurons were selected with, for the same.

    Raises:
        InputError: a value out of its range, neurons selected from attributions that are not given, or as
            :meth:`Exam.require`.
    """
    asked = Ablate(
        random_sets=random_sets, smallest_effect=smallest_effect, reference=reference, alpha=alpha,
        alphas=tuple(alphas), shares=tuple(shares), model_shares=tuple(model_shares),
    )  # fmt: skip
    if attributions is not None:
        exam.require(neurons, attributions, task)
    tasks = exam.require(neurons, stats, task)
    selection = selection or Select()
    source = attributions if selected_from(neurons) == ATTRIBUTION else stats
    if source is None:
        raise InputError("attributions are not given, and the neurons were selected from them")
    larger = {
        share: {name: choose(source, name, replace(selection, top=share, count=None)) for name in tasks}
        for share in sorted(model_shares)
    }
    swept: list[tuple[Ranked, _Setting]] = []
    for ranked in Ranked.each(exam, neurons, stats, tasks):
        settings = [
            *_site_settings(ranked, alpha),
            *(_Setting("alpha", value, ranked.neurons, value) for value in sorted(alphas)),
            *(_Setting("share", value, ranked.neurons.top(value), alpha) for value in sorted(shares)),
            *(
                _Setting("model_share", value, chosen[ranked.task][ranked.label], alpha)
                for value, chosen in larger.items()
            ),
        ]
        swept += [(ranked, setting) for setting in settings]
    most = most_sets(random_sets, sum(map(len, tasks.values())))
    trials = {}
    for ranked, setting in swept:
        if setting.neurons:
            rng = label_rng(exam.seed, ranked.task, f"{ranked.label} {setting.mask}")
            treat = partial(ranked.attenuated, alpha=setting.alpha, reference=reference)
            trials[setting.name, ranked.label] = Trial(
                ranked, setting.neurons, treat, ranked.draw(setting.neurons, most, rng)
            )
    with exam.sitting("ablating", len(trials) * (1 + most), progress) as step:
        effects = measure_effects(exam, trials, asked, step)
    rows = tuple(
        Ablation(
            ranked.task, ranked.label, setting.sweep, setting.value, setting.alpha, len(setting.neurons),
            len(exam.questions(exam.test, ranked.task).own(ranked.target)), effects.get((setting.name, ranked.label)),
        )
        for ranked, setting in swept
    )  # fmt: skip
    options = AblationsOptions(
        ExamOptions.of(exam.options(tasks)), reference, alpha, tuple(alphas), tuple(shares), tuple(model_shares),
        selection.values(), random_sets, smallest_effect,
    )  # fmt: skip
    return Ablations(exam.provenance(neurons), options, rows)


def site_thirds(sites: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Third (bottom, middle, top) -> its sites, in the order of the forward pass.

    Raises:
        InputError: fewer than three sites.
    """
    if len(sites) < 3:
        raise InputError(f"thirds of the sites are asked for, and the model has {len(sites)}")
    cuts = [0, *((len(sites) * k + 2) // 3 for k in (1, 2)), len(sites)]
    return {name: tuple(sites[cuts[k] : cuts[k + 1]]) for k, name in enumerate(THIRDS)}


def _site_settings(ranked: Ranked, alpha: float) -> list[_Setting]:
    """All of the label's neurons, and those of each third of the sites."""
    settings = [_Setting("sites", "all", ranked.neurons, alpha)]
    if len(ranked.stats.sites) < 3:
        return settings
    for name, sites in site_thirds(ranked.stats.sites).items():
        inside = [neuron for neuron in ranked.neurons if neuron[0] in sites]
        settings.append(_Setting("sites", name, NeuronList(ranked.label, ranked.task, inside), alpha))
    return settings

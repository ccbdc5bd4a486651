"""The claims of the seed paper (Zheng et al. 2026), each judged on the results of a run by one rule.

A claim has parts. A part gives each label a number that is above 0 where the label bears the part out, and a sign test
over the labels decides. A claim holds if every part is shown, and does not hold if the opposite of a part is shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from statistics import fmean
from typing import Any

import scipy  # loads its submodules on first use

from affectron._internal.wording import count, p_value
from affectron.evaluation.intervals import LEVEL, Paired, contrast_p, holm
from affectron.experiments.results import Signal, TaskResult, Validation
from affectron.neurons import NeuronList
from affectron.options import METHODS, TOP
from affectron.report.pieces import Pieces
from affectron.report.text import points
from affectron.selection import choose

HOLDS, FAILS, OPEN = VERDICTS = ("holds", "does not hold", "cannot tell")
#: The task and the labels that the claims name.
EMOTION, HYPERBOLE, SARCASM, SADNESS = "emotion", "hyperbole", "sarcasm", "sadness"
#: Fewest labels on which a sign test can reach the level.
FEWEST = next(labels for labels in range(1, 99) if 2 * 0.5**labels <= LEVEL)

#: Label -> a number above 0 where the label bears a part out: a fraction.
Values = Mapping[str, float]


@dataclass(frozen=True)
class Answer:
    """A verdict on a claim, and its reason."""

    verdict: str
    reason: str


@dataclass(frozen=True)
class Part:
    """A part of a claim.

    Attributes:
        statement: what the part says of a label.
        values: of each label.
        every: whether it says that of every label, and not of labels as a rule.
        against: the labels that alone show the opposite, of a part that is about every label.
    """

    statement: str
    values: Values
    every: bool = False
    against: tuple[str, ...] = ()

    @property
    def up(self) -> int:
        """Number of labels that bear it out."""
        return sum(value > 0 for value in self.values.values())

    @property
    def down(self) -> int:
        """Number of labels that contradict it."""
        return sum(value < 0 for value in self.values.values())

    @property
    def p(self) -> float:
        """Two-sided p of the sign test; labels of 0 do not count."""
        told = self.up + self.down
        return float(scipy.stats.binomtest(self.up, told).pvalue) if told else 1.0

    @property
    def shown(self) -> bool:
        """True if the sign test shows it and, where it is about every label, no label lacks it."""
        return self.p <= LEVEL and self.up > self.down and (not self.every or self.up == len(self.values))

    @property
    def opposed(self) -> bool:
        """True if the sign test shows the opposite, or a label alone does."""
        return bool(self.against) or (self.p <= LEVEL and self.down > self.up)

    def __str__(self) -> str:
        mean = points(fmean(self.values.values()))
        told = f"{self.statement}: {self.up} of {count(len(self.values), 'label')}, p {p_value(self.p)}, mean {mean}"
        return f"{told} (against it: {', '.join(self.against)})" if self.against else told


def judge(parts: Iterable[Part], note: str = "") -> Answer:
    """Judge a claim by its parts; ``note`` ends the reason."""
    parts = list(parts)
    fewest = min(len(part.values) for part in parts)
    if not fewest:
        return Answer(OPEN, _joined("no label is left to ask", note))
    shown = HOLDS if all(part.shown for part in parts) else OPEN
    verdict = FAILS if any(part.opposed for part in parts) else shown
    if verdict == OPEN and fewest < FEWEST:
        note = _joined(f"{count(fewest, 'label')} cannot show it, as the test takes {FEWEST}", note)
    return Answer(verdict, _joined(*map(str, parts), note))


def _joined(*reasons: str) -> str:
    return "; ".join(filter(None, reasons))


def _unmeasured(what: str) -> Answer:
    return Answer(OPEN, f"{what} was not measured")


def chance(task: TaskResult) -> float:
    """Accuracy of an answer at random: the mean share of the sentences that have a label."""
    own = sum(result.sentences for result in task.results.values())
    return own / task.test_sentences / len(task.results)


def answered(validation: Validation, task: str | None = None) -> tuple[list[str], str]:
    """The labels of all tasks or of one that the model answers better than chance, and a note that names the others.

    They are those of a one-sided binomial test with p of at most the level. A label near chance cannot fall, and one
    that is never answered can only rise.
    """
    able: list[str] = []
    unable: list[str] = []
    for of_task in (of_task for name, of_task in validation.tasks.items() if task in (None, name)):
        for label, result in of_task.in_order():
            right = round(result.baseline * result.sentences)
            p = scipy.stats.binomtest(right, result.sentences, chance(of_task), alternative="greater").pvalue
            (able if p <= LEVEL else unable).append(label)
    return able, f"near chance and left out: {', '.join(unable)}" if unable else ""


def adaptive_lowers_zero_raises(pieces: Pieces) -> Answer:
    """Judge by the masks of the validation."""
    if pieces.validation is None:
        return _unmeasured("the validation")
    labels, note = answered(pieces.validation)
    masks = {label: pieces.validation.results[label].masks for label in labels}
    masks = {label: of_label for label, of_label in masks.items() if of_label}
    return judge(
        [
            Part("adaptive lowers", {label: -of_label["adaptive"].delta for label, of_label in masks.items()}),
            Part("zero raises", {label: of_label["zero"].delta for label, of_label in masks.items()}),
        ],
        note,
    )


def all_then_top_then_bottom(pieces: Pieces) -> Answer:
    """Judge by the ablations of the sites; a part of the sites without a neuron of the label drops by 0."""
    if pieces.ablations is None or pieces.validation is None:
        return _unmeasured("the ablation of parts of the sites")
    labels, note = answered(pieces.validation)
    drops: dict[str, dict[str, float]] = {label: {} for label in labels}
    for row in pieces.ablations.rows:
        if row.sweep == "sites" and row.label in drops:
            drops[row.label][row.setting] = -row.effect.delta if row.effect else 0.0
    drops = {label: of_label for label, of_label in drops.items() if of_label}
    return judge(
        [
            Part("all drops more than top", {label: drop["all"] - drop["top"] for label, drop in drops.items()}),
            Part("top more than bottom", {label: drop["top"] - drop["bottom"] for label, drop in drops.items()}),
        ],
        note,
    )


def late_as_selected(pieces: Pieces) -> Answer:
    """Judge by the neurons of the run."""
    if pieces.neurons is None or EMOTION not in pieces.neurons.tasks:
        return _unmeasured(f"the task {EMOTION}")
    lists = [pieces.neurons[label] for label in pieces.neurons.tasks[EMOTION]]
    return _late(lists, tuple(pieces.neurons.widths))


def late_as_in_the_paper(pieces: Pieces) -> Answer:
    """Judge by the neurons that the paper's way to select takes from the same statistics."""
    if pieces.stats is None or EMOTION not in pieces.stats.tasks:
        return _unmeasured(f"the task {EMOTION}")
    chosen = choose(pieces.stats, EMOTION, replace(METHODS["paper"].options, top=TOP))
    return _late(chosen.values(), pieces.stats.sites)


def _late(lists: Iterable[NeuronList], sites: Iterable[str]) -> Answer:
    sites = list(sites)
    late = sites[-ceil(len(sites) / 4) :]  # rounded in favour of the claim
    shares = {of_label.label: fmean(site in late for site, _, _ in of_label) for of_label in lists if len(of_label)}
    return judge(
        [Part("share in the last quarter, above one half", {label: share - 0.5 for label, share in shares.items()})],
        f"{len(late)} of {count(len(sites), 'site')} are in it",
    )


def rhetoric_helps_emotion(pieces: Pieces) -> Answer:
    """Judge by the changes of accuracy on each emotion, the mean over the signals of all devices."""
    crossed = _signals(pieces)
    return crossed if isinstance(crossed, Answer) else _help(pieces, "the mean signal", *crossed)


def hyperbole_helps_every_emotion(pieces: Pieces) -> Answer:
    """Judge by the changes of accuracy on each emotion under the signal of hyperbole. One emotion whose fall is shown,
    with p adjusted over the emotions, is against it."""
    crossed = _signals(pieces, HYPERBOLE)
    if isinstance(crossed, Answer):
        return crossed
    signals, note = crossed
    falls = holm([signal.p if signal.delta < 0 else 1.0 for (signal,) in signals.values()])
    against = tuple(label for label, p in zip(signals, falls, strict=True) if p <= LEVEL)
    return _help(pieces, HYPERBOLE, signals, note, every=True, against=against)


def _signals(pieces: Pieces, device: str | None = None) -> tuple[dict[str, list[Signal]], str] | Answer:
    """Emotion -> the signals of one device or of all, for the emotions that the model answers, and a note that names
    the others."""
    crossed = pieces.cross_signal
    if crossed is None or pieces.validation is None or crossed.options.target != EMOTION:
        return _unmeasured(f"a cross-signal to {EMOTION}")
    labels, note = answered(pieces.validation, EMOTION)
    found = {label: of_label.devices for label, of_label in crossed.labels.items() if label in labels}
    if device is None:
        return {label: list(devices.values()) for label, devices in found.items()}, note
    if any(device not in devices for devices in found.values()):
        return _unmeasured(f"the signal of {device}")
    return {label: [devices[device]] for label, devices in found.items()}, note


def _help(pieces: Pieces, name: str, signals: Mapping[str, Sequence[Signal]], note: str, **of_rise: Any) -> Answer:
    """Judge whether signals raise accuracy, the mean of each label's: on the label's sentences, more there than at
    random neurons, and on the sentences of all labels, which fall where every sentence is answered with the label."""
    assert pieces.validation is not None
    assert pieces.cross_signal is not None
    sentences = pieces.validation.tasks[EMOTION].test_sentences
    each = [signal for of_label in signals.values() for signal in of_label]
    told = f"alone shown to help: {sum(bool(signal.helps) for signal in each)} of {count(len(each), 'pair')}"
    rises, beyond, over_all = {}, {}, {}
    for label, of_label in signals.items():
        rises[label] = fmean(signal.delta for signal in of_label)
        controlled = [signal.delta - signal.random.mean for signal in of_label if signal.random]
        if controlled:
            beyond[label] = fmean(controlled)
        own = pieces.cross_signal.labels[label].sentences / sentences
        over_all[label] = fmean(own * signal.delta + (1 - own) * (signal.others_delta or 0.0) for signal in of_label)
    return judge(
        [
            Part(f"{name} raises the label's own", rises, **of_rise),
            Part("more than at random neurons", beyond),
            Part("raises all labels' together", over_all),
        ],
        _joined(told, note),
    )


def sarcasm_helps_sadness_most(pieces: Pieces) -> Answer:
    """Judge by the rise under the signal of sarcasm on sadness, against that on each other emotion.

    Two emotions have different sentences: p is that of a difference of two changes. The claim holds if sadness rises,
    and more than each of the others. It does not hold if another one rises more, with p adjusted over the others.
    """
    crossed = _signals(pieces, SARCASM)
    if isinstance(crossed, Answer):
        return crossed
    signals, note = crossed
    if SADNESS not in signals or len(signals) < 2:
        return Answer(OPEN, _joined(f"{SADNESS} is not answered or stands alone", note))
    assert pieces.cross_signal is not None
    changes = {
        label: Paired(signal.lost, signal.gained, pieces.cross_signal.labels[label].sentences)
        for label, (signal,) in signals.items()
    }
    sadness = changes.pop(SADNESS)
    p = [contrast_p(sadness, other) for other in changes.values()]
    above = [sadness.change > other.change for other in changes.values()]
    told = f"{SADNESS} {points(sadness.change)}, " + ", ".join(
        f"{label} {points(other.change)}" for label, other in changes.items()
    )
    raised = sadness.change > 0 and sadness.p() <= LEVEL
    if raised and all(above) and max(p) <= LEVEL:
        return Answer(HOLDS, _joined(told, note))
    if any(adjusted <= LEVEL and not more for adjusted, more in zip(holm(p), above, strict=True)):
        return Answer(FAILS, _joined(told, note))
    return Answer(OPEN, _joined(told, "no emotion is shown to rise most", note))


@dataclass(frozen=True)
class Claim:
    """A claim, and the function that judges it."""

    text: str
    judged: Callable[[Pieces], Answer]


#: The claims in the order of the page.
CLAIMS = (
    Claim("Adaptive attenuation lowers the label's accuracy, and zeroing raises it.", adaptive_lowers_zero_raises),
    Claim(
        "The drop is largest over all sites, then in the top third, then in the bottom third.", all_then_top_then_bottom
    ),
    Claim("Emotion neurons sit in the last quarter of the layers; neurons as selected in the study.", late_as_selected),
    Claim("The same; neurons by the paper's own selection from the same statistics.", late_as_in_the_paper),
    Claim("Signals of rhetoric raise the accuracy on emotions.", rhetoric_helps_emotion),
    Claim("The signal of hyperbole helps every emotion.", hyperbole_helps_every_emotion),
    Claim("The signal of sarcasm helps sadness most.", sarcasm_helps_sadness_most),
)

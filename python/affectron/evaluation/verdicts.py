"""Effects of an intervention on a label's answers, and the rule by which a claim about them may be made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, TypeVar

import numpy as np
import scipy  # loads its submodules on first use
from numpy.typing import NDArray

from affectron._internal.checks import OneOf, Whole
from affectron._internal.display import Shown
from affectron._internal.wording import count
from affectron.evaluation.intervals import LEVEL, holm

SPECIFIC, LOWERS, RAISES = "specific", "lowers accuracy", "raises accuracy"
NO_EFFECT, CANNOT_TELL = "no effect", "cannot tell"
#: Every verdict, the strongest claim about a label's neurons first.
VERDICTS = (SPECIFIC, LOWERS, RAISES, NO_EFFECT, CANNOT_TELL)

#: Relative change of an activation below which a mask hardly acts, and what it shows is no evidence.
LEAST_CHANGE = 0.1
# Reason of a p that is significant for its label alone.
_NOT_FOR_ALL = "p does not hold for {} together"
# An adjusted p of exactly LEVEL, as 11/220, may come out a rounding error above it.
_ROUNDING = 1e-12

#: Verdict -> its rule, as the report prints it.
RULE = {
    SPECIFIC: "accuracy on the label's own sentences falls, more than under random neurons of the same sites and of "
    "similar activity, and more than on the other labels' sentences; the answer itself falls more there than on the "
    f"others'; the largest of the four p values, adjusted over the labels (Holm), is at most {LEVEL:g}",
    LOWERS: "it falls, by McNemar's exact test with p so adjusted, and the rest is not shown",
    RAISES: "it rises, by the same test",
    NO_EFFECT: "the 95 % interval excludes a change of the smallest effect that matters, and the mask does change the "
    "activations of a model that answers better than chance",
    CANNOT_TELL: "none of these, with the reason",
}


@dataclass(frozen=True)
class Ordered:
    """Bound of an interval: its first number is not above its second."""

    def accepts(self, value: Any) -> bool:
        low, high = value
        return bool(low <= high)

    def __str__(self) -> str:
        return "two numbers, low and high"


Count = Annotated[int, Whole()]
Interval = Annotated[tuple[float, float], Ordered()]
Verdict = Annotated[str, OneOf(VERDICTS)]


@dataclass(frozen=True)
class RandomSets(Shown):
    """Random neurons, treated as the label's are: as many at each site, of similar activity under the label.

    Attributes:
        sets: number of random sets that were ranked.
        beyond: sets whose change is at least as far as the label's, in its direction, on ``ranked`` sentences.
        p: (1 + beyond) / (1 + sets).
        ranked: number of the label's own sentences on which sets are ranked: those nearest to a change of answer.
        deltas: the change of accuracy on all own sentences, under each of the first sets.
        mean: of the deltas.
        interval: the lowest and the highest of the deltas.
        activity: median RMS activation of the drawn neurons under the label, over that of the label's neurons.
    """

    sets: Count
    beyond: Count
    p: float
    ranked: Count
    deltas: tuple[float, ...]
    mean: float
    interval: Interval
    activity: float | None


@dataclass(frozen=True)
class Change(Shown):
    """Change of accuracy under one program. Shares and their changes are fractions; intervals are of 95 %.

    Attributes:
        accuracy: on the label's own sentences, under the program.
        delta, interval: the change of that accuracy against the model without the program (Tango 1998).
        lost, gained: own sentences that are answered right without the program alone, and with it alone.
        p: of no change on own sentences, McNemar's exact test, two-sided.
        others_delta, others_interval: the change on the task's other sentences; None where there are none.
        specific_delta, specific_interval: ``delta`` less ``others_delta``; None where there are no others.
        specific_p: of no such difference, two-sided.
        answers_delta, others_answers_delta: change of the share of own sentences, and of the others, that are answered
            with the label, right or wrong.
        answers_p: of no difference of these two, two-sided. A program that makes the answer rarer everywhere lowers
            accuracy on own sentences alone; the answer falls alike on both where it is as frequent on both.
        relative_change: how far the program changes a typical activation under the label, as a share of it
            (:func:`affectron.interventions.relative_change`).
    """

    accuracy: float
    delta: float
    interval: Interval
    lost: Count
    gained: Count
    p: float
    others_delta: float | None
    others_interval: Interval | None
    specific_delta: float | None
    specific_interval: Interval | None
    specific_p: float | None
    answers_delta: float
    others_answers_delta: float | None
    answers_p: float | None
    relative_change: float | None

    def measures(self) -> dict[str, Any]:
        """The fields of a :class:`Change`, for a record that adds others to them."""
        return {field.name: getattr(self, field.name) for field in fields(Change)}


@dataclass(frozen=True)
class Effect(Change):
    """Change of accuracy under one program, with its control and the verdict.

    Attributes:
        random: the control; None where no random sets were drawn or a site has too few other neurons.
        adjusted_p: ``p``, adjusted over the labels that the same mask was tested on (Holm 1979).
        specific_adjusted_p: the largest of ``p``, ``random.p``, ``specific_p`` and ``answers_p``, adjusted in the same
            way; None without random sets.
        verdict: the strongest claim that the rule allows.
        reason: why no stronger one; empty where none is.
    """

    random: RandomSets | None
    adjusted_p: float
    specific_adjusted_p: float | None
    verdict: Verdict
    reason: str

    @property
    def claim_p(self) -> tuple[float, float]:
        """p that the verdict rests on, by itself and adjusted over the labels: of ``specific`` the largest of its four
        p values, of any other verdict McNemar's."""
        if self.verdict != SPECIFIC or self.random is None or self.specific_adjusted_p is None:
            return self.p, self.adjusted_p
        return _largest(self, self.random), self.specific_adjusted_p


@dataclass(frozen=True)
class Measured(Shown):
    """Effect before its verdict.

    Attributes:
        change: what was measured.
        changes: float64 [n], the change of each own sentence: 1, 0 or -1.
        right: own sentences that the model answers right without the program.
        chance: accuracy of an answer at random.
        random: the control.
    """

    change: Change
    changes: NDArray[np.float64]
    right: int
    chance: float
    random: RandomSets | None = None

    @property
    def sentences(self) -> int:
        """Number of own sentences."""
        return len(self.changes)

    @property
    def claim_p(self) -> float | None:
        """p of the claim ``specific`` of this label alone: each part of it has to hold, so it is the largest of theirs
        (intersection-union test, Berger 1982); None without random sets."""
        return None if self.random is None else _largest(self.change, self.random)

    @property
    def partial_p(self) -> float:
        """The largest p of the parts that need no random sets."""
        return _largest(self.change, None)

    @property
    def below_others(self) -> bool:
        """True if accuracy and the share of answers with the label fall more on own sentences than on the others."""
        change = self.change
        if change.specific_delta is None or change.others_answers_delta is None:
            return True
        return change.specific_delta < 0 and change.answers_delta < change.others_answers_delta


Key = TypeVar("Key")


def _largest(change: Change, random: RandomSets | None) -> float:
    """The largest p of the parts of ``specific``, of those that were measured."""
    return max(change.p, change.specific_p or 0.0, change.answers_p or 0.0, random.p if random else 0.0)


def judge(measured: Mapping[Key, Measured], smallest_effect: float) -> dict[Key, Effect]:
    """Judge one mask on every label that it was tested on; p values are adjusted over these.

    Args:
        measured: label -> what the mask does.
        smallest_effect: change of accuracy, a fraction, that "no effect" excludes.
    """
    adjusted = adjust({key: of_label.change.p for key, of_label in measured.items()})
    claims = adjust({key: of_label.claim_p for key, of_label in measured.items()})
    partial = adjust({key: of_label.partial_p for key, of_label in measured.items()})
    effects = {}
    for key, of_label in measured.items():
        p, claim = adjusted[key], claims[key]
        assert p is not None
        verdict, reason = _verdict(of_label, p, partial[key], claim, len(measured), smallest_effect)
        effects[key] = Effect(
            **of_label.change.measures(), random=of_label.random, adjusted_p=p, specific_adjusted_p=claim,
            verdict=verdict, reason=reason,
        )  # fmt: skip
    return effects


def adjust(p: Mapping[Key, float | None]) -> dict[Key, float | None]:
    """Adjust p values over labels (Holm); one that was not measured counts as 1 and stays None."""
    raised = holm([1.0 if value is None else value for value in p.values()])
    return {key: None if value is None else up for (key, value), up in zip(p.items(), raised, strict=True)}


def significant(p: float | None) -> bool:
    """Tell whether an adjusted p allows the claim."""
    return p is not None and p <= LEVEL + _ROUNDING


def _verdict(
    measured: Measured, p: float, partial: float | None, claim: float | None, labels: int, smallest_effect: float
) -> tuple[Verdict, str]:
    """The verdict and its reason, from the adjusted p of the fall, of ``specific`` but for random sets, and of it."""
    change = measured.change
    if significant(p) and change.delta > 0:
        return RAISES, ""
    if significant(p) and change.delta < 0:
        if significant(claim) and measured.below_others:
            return SPECIFIC, ""
        return LOWERS, _unspecific(measured, partial, labels)
    low, high = change.interval
    blind = _blind(measured)
    if -smallest_effect < low and high < smallest_effect and not blind:
        return NO_EFFECT, f"a change of {100 * smallest_effect:g} points is excluded"
    if change.p <= LEVEL:
        blind.append(_NOT_FOR_ALL.format(count(labels, "label")))
    elif not blind:
        asked = count(measured.sentences, "sentence")
        blind.append(f"{asked} are too few: a change of {100 * smallest_effect:g} points is neither shown nor excluded")
    return CANNOT_TELL, "; ".join(blind)


def _blind(measured: Measured) -> list[str]:
    """Reasons for which this mask on this label could not have shown an effect."""
    reasons = []
    change = measured.change.relative_change
    if change is None:
        reasons.append("no masked neuron is active under the label")
    elif change < LEAST_CHANGE:
        reasons.append(f"the mask changes a typical activation by {100 * change:.2g} % only")
    right, sentences = measured.right, measured.sentences
    if scipy.stats.binomtest(right, sentences, measured.chance, alternative="greater").pvalue > LEVEL:
        reasons.append(f"the model answers {right} of {sentences} right, near chance ({100 * measured.chance:.0f} %)")
    return reasons


def _unspecific(measured: Measured, partial: float | None, labels: int) -> str:
    """Reasons for which a fall is not shown to be specific."""
    reasons = []
    random, change = measured.random, measured.change
    if random is None:
        reasons.append("no random sets to compare with")
    elif random.beyond and random.p > LEVEL:
        reasons.append(f"{random.beyond} of {count(random.sets, 'random set')} lower it as much")
    if not measured.below_others or max(change.specific_p or 0.0, change.answers_p or 0.0) > LEVEL:
        reasons.append("no larger fall than on the other labels is shown")
    if random is not None and not reasons:
        if not random.beyond and significant(partial):
            reasons.append(f"{count(random.sets, 'random set')} are too few for {count(labels, 'label')}")
        else:
            reasons.append(_NOT_FOR_ALL.format(count(labels, "label")))
    return "; ".join(reasons)

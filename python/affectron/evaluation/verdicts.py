"""Effects of an intervention on a label's answers, and the rule that judges them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Any

from affectron._internal.checks import OneOf, Whole

SPECIFIC, UNSPECIFIC, NO_EFFECT = "specific", "unspecific", "no effect"

#: The rule of :func:`verdict` in one sentence for each verdict, as the report prints it.
RULE = (
    f"{NO_EFFECT}: the 95 % interval of the change on the label's own sentences reaches zero. {SPECIFIC}: it lies "
    "below zero, the change is below the whole 95 % interval of the random sets, and the interval of (own − others) "
    f"lies below zero. {UNSPECIFIC}: accuracy falls, but random neurons do as much or the other labels suffer as much."
)


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
Verdict = Annotated[str, OneOf((SPECIFIC, UNSPECIFIC, NO_EFFECT))]


def verdict(
    interval: Sequence[float],
    beats_random: bool | None,
    specific_interval: Sequence[float] | None,
) -> Verdict | None:
    """Judge a mask; None where there is no control to judge it by.

    ``no effect``: the 95 % interval of the change of accuracy on the label's own sentences reaches zero. Otherwise
    accuracy has fallen, and the fall is ``specific`` if it lies below the whole 95 % interval of the random sets and
    the interval of (own - others) lies below zero; ``unspecific`` if random neurons do as much, or the other labels
    suffer as much.

    Args:
        interval: of the change on the label's own sentences.
        beats_random: whether that change is below the interval of the random sets; None without random sets.
        specific_interval: of the change on own minus the change on others' sentences; None without others.
    """
    if interval[1] >= 0:
        return NO_EFFECT
    if beats_random is None:
        return None
    below_others = specific_interval is None or specific_interval[1] < 0
    return SPECIFIC if beats_random and below_others else UNSPECIFIC


@dataclass(frozen=True)
class RandomSets:
    """Changes of accuracy on the label's own sentences when random neurons are treated as the label's are.

    Attributes:
        sets: number of random sets, each with as many neurons at each site as the label's.
        deltas: the change under each set, a fraction.
        mean: of the deltas.
        interval: the 2.5 and 97.5 % quantiles of the deltas.
    """

    sets: Count
    deltas: tuple[float, ...]
    mean: float
    interval: Interval


@dataclass(frozen=True)
class Change:
    """Change of accuracy under one program. All are fractions; an interval is the 95 % percentile bootstrap over the
    sentences.

    Attributes:
        accuracy: on the label's own sentences, under the program.
        delta, interval: the change of that accuracy against the model without the program.
        others_delta, others_interval: the change on the task's other sentences; None where there are none.
        specific_delta, specific_interval: ``delta`` less ``others_delta``; None where there are no others.
    """

    accuracy: float
    delta: float
    interval: Interval
    others_delta: float | None
    others_interval: Interval | None
    specific_delta: float | None
    specific_interval: Interval | None

    def measures(self) -> dict[str, Any]:
        """The fields of a :class:`Change`, for a record that adds others to them."""
        return {field.name: getattr(self, field.name) for field in fields(Change)}


@dataclass(frozen=True)
class Effect(Change):
    """Change of accuracy under one program, with its control and the verdict.

    Attributes:
        random: the control; None where no random sets were drawn or a site has too few other neurons.
        beats_random: whether ``delta`` is below the interval of the random sets; None without them.
        verdict: that of :func:`verdict`.
    """

    random: RandomSets | None
    beats_random: bool | None
    verdict: Verdict | None

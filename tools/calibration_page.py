"""The results of the blind exam, and the page that shows them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from textwrap import fill
from typing import NamedTuple, TypeAlias

from affectron.evaluation.intervals import share_interval
from affectron.evaluation.verdicts import NO_EFFECT, SPECIFIC, VERDICTS
from affectron.experiments.results import MASKS
from tools.planted import CONSTRUCTIONS, LABELS, SPLITS

PAGE = Path(__file__).resolve().parents[1] / "docs" / "calibration.md"
#: The false discovery rate that is asked for, and the share of models with a false verdict that is allowed.
RATE = 0.05

#: The kinds of neurons that are tested as a label's: under its own name, of which the first alone is causal, and under
#: names that are shuffled over the sentences.
CAUSAL, DECOYS, ANOTHER, RANDOM = KINDS = ("causal", "decoys", "causal of another label", "random")
ANYBODY, ANSWER = SHUFFLED = ("random, labels shuffled", "causal, labels shuffled")

#: (kind of neurons, mask, verdict) -> number of labels.
Verdicts: TypeAlias = Counter[tuple[str, str, str]]


class Found(NamedTuple):
    """Neurons that a selector took: their number, and how many are causal or decoys of their label."""

    selected: int
    causal: int
    decoys: int


@dataclass(frozen=True)
class Outcome:
    """The exam of one model.

    Attributes:
        construction: its construction.
        accuracy: share of the test sentences that it answers right, without any program.
        causal: number of its causal neurons, over all labels.
        found: selector -> what it took.
        claimed: statistic -> neurons that it claims at the false discovery rate on shuffled labels.
        verdicts: of every kind of neurons.
    """

    construction: str
    accuracy: float
    causal: int
    found: dict[str, Found]
    claimed: dict[str, int]
    verdicts: Verdicts


#: Construction -> the outcomes of its models.
_Each: TypeAlias = dict[str, list[Outcome]]


def page(outcomes: Sequence[Outcome], seed: int) -> str:
    """The page of all outcomes, in Markdown."""
    each = {name: [one for one in outcomes if one.construction == name] for name in CONSTRUCTIONS}
    (models,) = {len(of_one) for of_one in each.values()}
    sentences = ", ".join(f"{count} {name}" for name, count in SPLITS.items())
    return f"""# Calibration

`make calibrate` examines every selector and every verdict on models whose causal neurons are known, and writes this
page: {models} models of each construction, seed {seed}. The exam sees a model, its tokenizer and labelled sentences.
Which neurons are causal is looked up for the score alone.

## Models

A model is a small random Llama with {len(LABELS)} labels, each with {sentences} sentences.

- A label has trigger words. A sentence of the label has 1 to 3 of them, and up to 2 triggers of another label.
- The 4 to 6 **causal** neurons of a label write evidence for it. The answer reads the mean of the evidence over the
  words.
- As many **decoys** have the same law of activity and write where nothing reads: they have no effect at all.
- All other neurons are active at random words and write a little to everything.

{_table("construction | law of the planted neurons | models | accuracy: mean, lowest, highest", _models(each))}

## Selectors

Each selector takes as many neurons of a label as are causal. Those with `fdr` take all of positive sign at a false
discovery rate of {RATE}, where the observation is a sentence. The last column is the share of decoys among the planted
neurons that were taken. It is near one half where a selector cannot tell decoys from causal neurons.

{_table("construction | selector | P(causal given taken) | P(taken given causal) | decoys", _selectors(each))}

Under shuffled labels every claim on activations is false. A claim on attributions need not be: a neuron that writes to
an answer adds to its log P in any sentence, so that it is found under any labels.

{_table("construction | selector, labels shuffled | models with a claim | neurons claimed", _claims(each))}

## Verdicts

`affectron.validate` tests four kinds of neurons as those of a label: its causal ones, its decoys, the causal ones of
another label, and random ones that are not causal for it, as many at each site. A mask acts on the share of them that
the feedback loop settles on, so that a verdict is about that mask. The numbers are labels.

{_table(" | ".join(("construction", "mask", "neurons", *VERDICTS)), _counts(each, KINDS))}

The kinds are equally frequent. An interval is of 95 % (Clopper and Pearson 1934), and its cases are labels.

{_table(f"construction | mask | P(causal given {SPECIFIC}) | P({SPECIFIC} given causal)", _rates(each))}

Under shuffled labels no neuron is specific, not even one that causes an answer. Its mask makes the answer rarer on all
sentences alike. That takes right answers from those that have its label by chance, and from no others; so the rule
asks for more than a loss of accuracy on the label's own sentences.

{_table(" | ".join(("construction", "mask", "neurons", *VERDICTS)), _counts(each, SHUFFLED))}

{_table(f"neurons | mask | models with a label called {SPECIFIC}", _alarms(outcomes))}

## Reading

{chr(10).join(fill(f"- {sentence}", 120, subsequent_indent="  ") for sentence in _readings(each))}
"""


def _table(head: str, rows: Iterable[Sequence[object]]) -> str:
    lines = [head, " | ".join("---" for _ in head.split(" | ")), *(" | ".join(map(str, row)) for row in rows)]
    return "\n".join(f"| {line} |" for line in lines)


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.2f} ({part} of {whole})" if whole else "none"


def _with_interval(part: int, whole: int) -> str:
    low, high = share_interval(part, whole) if whole else (0.0, 1.0)
    return f"{_share(part, whole)}, {low:.2f} to {high:.2f}"


def _models(each: _Each) -> Iterator[Sequence[object]]:
    for name, outcomes in each.items():
        accuracy = [one.accuracy for one in outcomes]
        shown = f"{sum(accuracy) / len(accuracy):.2f}, {min(accuracy):.2f}, {max(accuracy):.2f}"
        yield name, CONSTRUCTIONS[name].description, len(outcomes), shown


def _selectors(each: _Each) -> Iterator[Sequence[object]]:
    for name, outcomes in each.items():
        planted = sum(one.causal for one in outcomes)
        for selector in outcomes[0].found:
            selected, causal, decoys = taken(outcomes, selector)
            yield name, selector, _share(causal, selected), _share(causal, planted), _share(decoys, causal + decoys)


def taken(outcomes: Iterable[Outcome], selector: str) -> Found:
    """Add up what a selector took."""
    return Found(*map(sum, zip(*(one.found[selector] for one in outcomes), strict=True)))


def _claims(each: _Each) -> Iterator[Sequence[object]]:
    for name, outcomes in each.items():
        for selector in outcomes[0].claimed:
            claims = [one.claimed[selector] for one in outcomes]
            yield name, selector, _with_interval(sum(map(bool, claims)), len(claims)), sum(claims)


def _counts(each: _Each, kinds: Sequence[str]) -> Iterator[Sequence[object]]:
    for (name, outcomes), mask, kind in product(each.items(), MASKS, kinds):
        counts = total(outcomes)
        yield name, mask, kind, *(counts[kind, mask, verdict] for verdict in VERDICTS)


def total(outcomes: Iterable[Outcome]) -> Verdicts:
    """Add up the verdicts."""
    counts: Verdicts = Counter()
    for one in outcomes:
        counts.update(one.verdicts)
    return counts


def _rates(each: _Each) -> Iterator[Sequence[object]]:
    for (name, outcomes), mask in product(each.items(), MASKS):
        counts = total(outcomes)
        both = counts[CAUSAL, mask, SPECIFIC]
        specific = sum(counts[kind, mask, SPECIFIC] for kind in KINDS)
        causal = sum(counts[CAUSAL, mask, verdict] for verdict in VERDICTS)
        yield name, mask, _with_interval(both, specific), _with_interval(both, causal)


def alarms(outcomes: Iterable[Outcome], kind: str, mask: str) -> int:
    """Count the models of which a label is called specific."""
    return sum(one.verdicts[kind, mask, SPECIFIC] > 0 for one in outcomes)


def _alarms(outcomes: Sequence[Outcome]) -> Iterator[Sequence[object]]:
    for kind, mask in product(SHUFFLED, MASKS):
        yield kind, mask, _with_interval(alarms(outcomes, kind, mask), len(outcomes))


def _readings(each: _Each) -> Iterator[str]:
    """Sentences on the numbers, each only where it holds."""
    every = [one for outcomes in each.values() for one in outcomes]
    for name, outcomes in each.items():
        blind = [selector for selector in outcomes[0].found if _near_half(taken(outcomes, selector))]
        if blind:
            yield f"{name}: these take decoys as often as causal neurons, within the error: {_listed(blind)}."
        lost = [selector for selector in outcomes[0].found if not taken(outcomes, selector).causal]
        if lost:
            yield f"{name}: these find no causal neuron: {_listed(lost)}."
    counts = total(every)
    for kinds, verdict, meaning in (
        (KINDS[1:], SPECIFIC, "neurons that are not causal for the label"),
        ((CAUSAL,), NO_EFFECT, "causal neurons"),
    ):
        said = sum(counts[kind, mask, verdict] for kind, mask in product(kinds, MASKS))
        asked = sum(counts[kind, mask, any_] for kind, mask, any_ in product(kinds, MASKS, VERDICTS))
        yield f"“{verdict}” was said of {meaning} in {said} of {asked} verdicts."
    for kind, mask in product(SHUFFLED, MASKS):
        if share_interval(alarms(every, kind, mask), len(every))[0] > RATE:
            yield f"The {mask} mask calls a label {SPECIFIC} in more than {RATE:.0%} of the models: {kind}."


def _near_half(found: Found) -> bool:
    planted = found.causal + found.decoys
    if not planted:
        return False
    low, high = share_interval(found.decoys, planted)
    return bool(low <= 0.5 <= high)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)

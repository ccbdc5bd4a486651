"""Numbers and sentences of the report.

Every sentence is a function of the results alone. It says what was measured and concludes nothing beyond that.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from affectron._internal.files import digest
from affectron._internal.wording import clean as clean
from affectron._internal.wording import count, p_value
from affectron._internal.wording import decimal as decimal
from affectron._internal.wording import pair as pair
from affectron._internal.wording import points as points
from affectron._internal.wording import signed as signed
from affectron.evaluation.verdicts import LOWERS, RAISES, SPECIFIC, VERDICTS
from affectron.experiments.results import Interval, LabelResult, Mask, Methods
from affectron.report.averages import best_method, mean_curve
from affectron.stats import PAIRS

#: Quantity that a score reads of one sentence (``scores.SCORES[name].reads``), by the rule of the observed tokens.
_QUANTITIES = {
    ("rate", "all"): "the share of its tokens at which the neuron is active",
    ("rate", "last"): "whether the neuron is active at its last token",
    ("rate", "mean"): "whether the neuron is active in the mean over its tokens",
    ("mean", "all"): "the neuron's mean activation over its tokens",
    ("mean", "last"): "the neuron's activation at its last token",
    ("mean", "mean"): "the neuron's mean activation over its tokens",
}
_OBSERVATIONS = {"mean": "sentences", PAIRS: "pairs"}


def file_name(text: str) -> str:
    """The text as part of a file's name and of an id.

    A short text of ASCII letters, digits, ``_`` and ``-`` stays as it is. Any other keeps these characters and gets a
    digest of the whole, so that two texts never share a name.
    """
    plain = re.sub(r"[^A-Za-z0-9_-]+", "-", text)[:40]
    return plain if plain == text and text else f"{plain.strip('-')}-{digest(text.encode(errors='replace'))[:8]}"


def quantity(reads: str, tokens: str) -> str:
    """Words for the quantity taken of one sentence: ``the share of its tokens at which the neuron is active``."""
    return _QUANTITIES[reads, tokens]


def observations(tokens: str) -> str:
    """Word for the units that the rule ``tokens`` counts: tokens, sentences or pairs."""
    return _OBSERVATIONS.get(tokens, "tokens")


def plain(value: Any) -> str:
    """A JSON value as a reader would write it."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list) and not any(isinstance(item, (list, dict)) for item in value):
        return ", ".join(plain(item) for item in value)
    return json.dumps(value, ensure_ascii=False, indent=1 if isinstance(value, dict) else None)


def percent(fraction: float) -> str:
    """0.615 -> ``61.5 %`` (with a no-break space)."""
    return f"{decimal(100 * fraction, 1)}\u00a0%"


def index(value: float) -> str:
    """A Jaccard index or a correlation: ``0.62``."""
    return decimal(value, 2)


def span(interval: Interval) -> str:
    """An interval of differences in points: ``−15.1 to −3.4``."""
    return f"{points(interval[0])} to {points(interval[1])}"


def p_told(p: float) -> str:
    """A p value in a sentence: ``p < 0.001`` or ``p = 0.0455``."""
    text = p_value(p)
    return f"p {text}" if text.startswith("<") else f"p = {text}"


def listing(names: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def layer_names(sites: Sequence[str]) -> tuple[str, list[str]]:
    """Name of the axis of sites, and a short name for each site: the first number in its module name
    (``model.layers.7.mlp`` -> ``7``) where that tells all of them apart, else its position in forward order."""
    matches = [re.search(r"\d+", site) for site in sites]
    numbers = [match.group() if match else "" for match in matches]
    if all(numbers) and len(set(numbers)) == len(numbers):
        return "layer", numbers
    return "site, in the order of the forward pass", [str(position) for position in range(len(sites))]


#: Mask -> what it does to neurons, in the order in which masks are told of.
_TREATED = {"zero": "set to zero", "mean": "set to their mean", "adaptive": "attenuated by the adaptive mask"}


def headline(results: Mapping[str, LabelResult]) -> str:
    """The number of labels of each verdict, for each mask."""
    told = []
    for name in _TREATED:
        verdicts = Counter(result.masks[name].verdict for result in results.values() if name in result.masks)
        numbers = ", ".join(f"{verdict} {verdicts[verdict]}" for verdict in VERDICTS if verdicts[verdict])
        if numbers:
            told.append(f"{name} mask: {numbers}")
    untested = sum(not result.masks for result in results.values())
    if untested:
        told.append(f"not tested {untested}")
    return f"Verdicts on {count(len(results), 'label')}. {_sentence('; '.join(told))}"


def claims(results: Mapping[str, LabelResult]) -> dict[str, str]:
    """Label -> the strongest claim about its neurons over the masks, with the evidence (the label not named)."""
    families = Counter(name for result in results.values() for name in result.masks)
    return {label: _claim(result, families) for label, result in results.items()}


def strongest(masks: Mapping[str, Mask]) -> str:
    """The mask of the strongest verdict; among masks of the same verdict that of the smallest adjusted p of the claim,
    then of its smallest p, then of McNemar's, then the one that changes the activations more."""

    def rank(name: str) -> tuple[float, ...]:
        mask = masks[name]
        p, adjusted = mask.claim_p
        return VERDICTS.index(mask.verdict), adjusted, p, mask.p, -(mask.relative_change or 0.0)

    return min(masks, key=rank)


def _claim(result: LabelResult, families: Mapping[str, int]) -> str:
    """The strongest claim about one label; ``families`` has the number of labels that each mask was tested on."""
    if not result.selected:
        return "not tested: no neuron was selected for it."
    if not result.masks:
        return "not tested."
    name = strongest(result.masks)
    mask, labels = result.masks[name], count(families[name], "label")
    every = count(result.selected, "neuron")
    neurons = f"its {every}" if result.masked == result.selected else f"{result.masked:,} of its {every}"
    evidence = [f"McNemar's {p_told(mask.p)}, adjusted over {labels} {p_told(mask.adjusted_p)}"]
    if mask.verdict in (SPECIFIC, LOWERS, RAISES) and mask.others_delta is not None:
        evidence.append(f"accuracy on the other labels changes by {points(mask.others_delta)} points")
    if mask.verdict == SPECIFIC and mask.random is not None and mask.specific_adjusted_p is not None:
        fall = f"{mask.random.beyond:,} of {count(mask.random.sets, 'random set')} fall as much"
        evidence.append(
            f"{fall}; the largest p of these comparisons, adjusted alike, {p_told(mask.specific_adjusted_p)}"
        )
    if mask.reason:
        evidence.append(f"not shown to be specific: {mask.reason}" if mask.verdict == LOWERS else mask.reason)
    return (
        f"{mask.verdict}. With {neurons} {_TREATED[name]}, accuracy on its {count(result.sentences, 'test sentence')} "
        f"changes from {percent(result.baseline)} by {points(mask.delta)} points ({span(mask.interval)}): "
        f"{'; '.join(evidence)}."
    )


def _sentence(text: str) -> str:
    """The text with a capital at its beginning and a full stop."""
    return f"{text[:1].upper()}{text[1:]}."


def best_claim(result: Methods) -> str:
    """A sentence on the method whose neurons matter most, with the number of neurons at which they do."""
    best = best_method(result)
    if best is None:
        return "No method's neurons matter more for their label's own sentences than for the others'."
    point = min(mean_curve(result, best), key=lambda point: point.height.own - (point.height.others or 0.0))
    height, labels = point.height, sum(len(task.labels) for task in result.tasks.values())
    others = "" if height.others is None else f", on the other labels' by {points(height.others)}"
    random = "" if height.random is None else f"; with as many random neurons by {points(height.random)}"
    return (
        f"With each label's {count(point.masked, 'best neuron')} by {best} set to zero, accuracy on the label's own "
        f"test sentences changes by {points(height.own)} points{others}{random} (means over {count(labels, 'label')}). "
        "Method and number are those of the largest difference between own and others on these sentences, out of "
        f"{count(len(result.options.methods), 'method')}: a description of this run and no estimate for another."
    )

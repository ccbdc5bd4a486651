"""Numbers and sentences of the report.

Every sentence is a function of the results alone. It says what was measured and concludes nothing beyond that.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from affectron._internal.files import digest
from affectron._internal.wording import count
from affectron.evaluation.verdicts import NO_EFFECT, SPECIFIC, UNSPECIFIC
from affectron.experiments.results import Interval, LabelResult, Mask, Methods
from affectron.report.averages import best_method, mean_curve
from affectron.stats import PAIRS

_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")

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


def clean(text: str) -> str:
    """Replace by U+FFFD the characters that HTML, SVG or UTF-8 cannot carry (control characters, lone surrogates), and
    the marks that embed or override a direction, which would turn the text after them around."""
    return _UNPRINTABLE.sub("\ufffd", text)


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


def decimal(value: float, places: int) -> str:
    """``value`` with that many decimals and a true minus sign; never a negative zero."""
    text = f"{value:.{places}f}"
    if text.startswith("-"):
        text = "−" + text[1:] if float(text) else text[1:]
    return text


def signed(value: float, places: int) -> str:
    """:func:`decimal` with a plus sign where the written number is above zero."""
    text = decimal(value, places)
    return text if text.startswith("−") or not float(text) else f"+{text}"


def percent(fraction: float) -> str:
    """0.615 -> ``61.5 %`` (with a no-break space)."""
    return f"{decimal(100 * fraction, 1)}\u00a0%"


def points(fraction: float) -> str:
    """A difference of two fractions in points: -0.093 -> ``−9.3``."""
    return signed(100 * fraction, 1)


def span(interval: Interval) -> str:
    """An interval of differences in points: ``−15.1 to −3.4``."""
    return f"{points(interval[0])} to {points(interval[1])}"


def pair(interval: Interval) -> str:
    """The same for a table: ``[−15.1, −3.4]``."""
    return f"[{points(interval[0])}, {points(interval[1])}]"


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


#: Mask -> what it does to neurons, in the order in which a sentence tells of the masks.
_TREATED = {"zero": "set to zero", "adaptive": "attenuated by the adaptive mask", "mean": "set to their mean"}


def label_sentence(result: LabelResult) -> str:
    """One label's result under each mask against its control, in plain words (the label not named)."""
    if not result.selected:
        return "no neuron was selected for it."
    if not result.masks:
        return "not tested."
    told = [f"{treated}, {_change(result.masks[name])}" for name, treated in _TREATED.items() if name in result.masks]
    return (
        f"from {percent(result.baseline)} on {count(result.sentences, 'test sentence')}, with {result.masked:,} of "
        f"{count(result.selected, 'neuron')}: {'; '.join(told)}."
    )


def _change(mask: Mask) -> str:
    """A mask's change in points, that of its random sets, and its verdict."""
    change = f"{points(mask.delta)} points ({span(mask.interval)})"
    if mask.random is None:
        return f"{change}, without random sets to compare with"
    random = f"{count(mask.random.sets, 'random set')} {points(mask.random.mean)}"
    return f"{change}, {random}: {mask.verdict}"


def headline(results: Mapping[str, LabelResult]) -> list[str]:
    """A sentence for each mask with its verdicts over the labels, the mask with most specific effects first.

    Args:
        results: label -> result.
    """
    masks = {
        name: {label: result.masks[name] for label, result in results.items() if name in result.masks}
        for name in _TREATED
    }
    by_specific = sorted(
        (name for name in masks if masks[name]),
        key=lambda name: sum(mask.verdict == SPECIFIC for mask in masks[name].values()),
        reverse=True,
    )
    return [f"Neurons {_TREATED[name]}: {_verdicts(masks[name])}." for name in by_specific]


def _verdicts(masks: Mapping[str, Mask]) -> str:
    """The labels of each verdict, and their mean change."""
    parts: list[str] = []
    for verdict in (SPECIFIC, UNSPECIFIC, NO_EFFECT, None):
        labels = [label for label, mask in masks.items() if mask.verdict == verdict]
        if labels:
            of_all = f"{len(labels)} of {count(len(masks), 'label')}" if not parts else str(len(labels))
            mean = sum(masks[label].delta for label in labels) / len(labels)
            told = "no verdict, without random sets," if verdict is None else verdict
            parts.append(f"{told} for {of_all} ({listing(labels)}; {points(mean)} points on average)")
    return "; ".join(parts)


def best_claim(result: Methods | None) -> list[str]:
    """A sentence on the method whose neurons matter most, with the number of neurons at which they do; none without a
    comparison of methods."""
    if result is None:
        return []
    best = best_method(result)
    if best is None:
        return ["No method's neurons matter more for their label's own sentences than for the others'."]
    point = min(mean_curve(result, best), key=lambda point: point.height.own - (point.height.others or 0.0))
    height, labels = point.height, sum(len(task.labels) for task in result.tasks.values())
    others = "" if height.others is None else f", on the other labels' by {points(height.others)}"
    random = "" if height.random is None else f"; with as many random neurons by {points(height.random)}"
    return [
        f"With each label's {count(point.masked, 'best neuron')} by {best} set to zero, accuracy on the label's own "
        f"test sentences changes by {points(height.own)} points{others}{random} (means over {count(labels, 'label')}). "
        "Method and number are those of the largest difference between own and others on these sentences, out of "
        f"{count(len(result.options.methods), 'method')}."
    ]

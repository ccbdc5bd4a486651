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
from affectron.experiments.results import Interval, LabelResult
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


def below_zero(result: LabelResult) -> bool | None:
    """Tell whether the whole 95 % interval of the adaptive mask's change is below zero; None without the mask."""
    mask = result.masks.get("adaptive")
    return None if mask is None else mask.interval[1] < 0


def outcome(result: LabelResult) -> str:
    """The adaptive mask's numbers for one label, in one clause."""
    if result.random is None or result.beats_random is None:
        return "there are no random sets to compare with"
    if result.beats_random and below_zero(result):
        return "beyond the random sets, and the interval is below zero"
    if result.beats_random:
        return "beyond the random sets, but the interval is not wholly below zero"
    if below_zero(result):
        return "the interval is below zero, but random sets did as much"
    return "no effect of these neurons in particular is shown"


def label_sentence(result: LabelResult) -> str:
    """One label's result under the adaptive mask against its control, in plain words (the label not named)."""
    mask = result.masks.get("adaptive")
    if not result.selected:
        return "no neuron was selected for it."
    if mask is None:
        return "not tested with the adaptive mask."
    words = (
        f"{points(mask.delta)} points ({span(mask.interval)}), from {percent(result.baseline)} on "
        f"{count(result.sentences, 'test sentence')}, with {result.masked:,} of "
        f"{count(result.selected, 'neuron')} attenuated; "
    )
    if result.random:
        words += f"{count(result.random.sets, 'random set')}: {points(result.random.mean)}"
        words += f" ({span(result.random.interval)}); "
    return f"{words}{outcome(result)}."


_OUTCOMES = (
    ("accuracy on own test sentences fell beyond what random sets did, with an interval below zero", True, True),
    ("accuracy fell beyond what random sets did, but the interval is not wholly below zero", True, False),
    ("accuracy fell, with an interval below zero, but random sets did as much", False, True),
    ("no effect of the selected neurons in particular is shown", False, False),
)


def headline(results: Mapping[str, LabelResult]) -> list[str]:
    """The run in a few sentences, each a count over the labels' results. Empty where nothing was tested.

    Args:
        results: label -> result.
    """
    tested = {label: result for label, result in results.items() if "adaptive" in result.masks}
    if not tested:
        return []
    compared = {label: r for label, r in tested.items() if r.random is not None and r.beats_random is not None}
    total = count(len(tested), "label")
    sentences = []
    for clause, beats, below in _OUTCOMES:
        names = [label for label, r in compared.items() if r.beats_random is beats and bool(below_zero(r)) is below]
        if names:
            sentences.append(f"For {len(names)} of {total} ({listing(names)}) {clause}.")
    if len(compared) < len(tested):
        names = [label for label in tested if label not in compared]
        sentences.append(f"For {len(names)} of {total} ({listing(names)}) there are no random sets to compare with.")
    return [*sentences, *_verdicts(tested), *_other_masks(tested)]


def _verdicts(tested: Mapping[str, LabelResult]) -> list[str]:
    """A sentence with the labels of each verdict, where there is any."""
    judged = {label: result.verdict for label, result in tested.items() if result.verdict is not None}
    parts = []
    for verdict in sorted(set(judged.values()), reverse=True):
        names = [label for label, of_label in judged.items() if of_label == verdict]
        parts.append(f"{verdict} for {len(names)} ({listing(names)})")
    return [f"The verdict by the rule of the main table: {'; '.join(parts)}."] if parts else []


def _other_masks(tested: Mapping[str, LabelResult]) -> list[str]:
    """A sentence for each other mask, which compares it with the adaptive one."""
    sentences = []
    for name in ("zero", "mean"):
        masked = [result for result in tested.values() if name in result.masks]
        if masked:
            fell = sum(result.masks[name].delta < 0 for result in masked)
            lower = sum(result.masks["adaptive"].delta < result.masks[name].delta for result in masked)
            sentences.append(
                f"With the {name} mask on the same neurons accuracy fell for {fell} of {len(masked)}; with the "
                f"adaptive mask it went lower than that for {lower} of {len(masked)}."
            )
    return sentences

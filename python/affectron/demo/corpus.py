"""Generator of the demo's labelled corpus: sentences with an emotion, a rhetorical device, or both.

Sentences are composed from the templates and phrases of :mod:`affectron.demo.phrases`. Every sixth phrase of a table
and every sixth template is *held out*: it is never chosen for train, and about a quarter of the choices for dev and
test are held-out ones. A test sentence is therefore new as a whole, and often in its words or construction too.
"""

from __future__ import annotations

import json
import os
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from affectron._internal.files import atomic_write
from affectron.demo import phrases

EMOTIONS = ("anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral")
DEVICES = ("metaphor", "simile", "hyperbole", "sarcasm", "literal")
TASKS: Mapping[str, tuple[str, ...]] = {"emotion": EMOTIONS, "rhetoric": DEVICES}

# Split -> repetitions of the table of cells (:func:`_cells`), which has 62 entries.
SPLITS: Mapping[str, int] = {"train": 200, "dev": 16, "test": 16}

_HOLD = 6
_HELD_SHARE = 0.25
_SLOT = re.compile(r"\{(\w+)\}")
_SENTENCE_START = re.compile(r'(?:^"?|[.!?]"? "?)([a-z])')
_PERSON_SLOTS = ("I", "i", "me", "my", "was", "myself")


def _cells() -> list[tuple[str | None, str | None]]:
    """List the (emotion, device) of each sentence in one round; None where that task is not labelled.

    Every emotion occurs 7 times and every device 9 times.
    """
    cells: list[tuple[str | None, str | None]] = []
    for emotion in EMOTIONS:
        devices = [d for d in DEVICES if d != "sarcasm" or emotion in phrases.SARCASTIC]
        cells += [(emotion, device) for device in devices]
        cells += [(emotion, None)] * (7 - len(devices))
    for device in DEVICES:
        cells += [(None, device)] * (9 - sum(d == device for _, d in cells))
    return cells


class _Writer:
    """Composer of sentences. It draws by ``rng.random()`` alone, the only method whose stream Python guarantees."""

    def __init__(self, rng: random.Random, held_share: float) -> None:
        self.rng = rng
        self.held_share = held_share

    def pick(self, items: Sequence[Any]) -> Any:
        """Draw one of ``items``; from a list with held-out items, one of these with probability ``held_share``."""
        if len(items) >= _HOLD:
            held = self.rng.random() < self.held_share
            items = [item for i, item in enumerate(items) if (i % _HOLD == _HOLD - 1) == held]
        return items[int(self.rng.random() * len(items))]

    def sentence(self, emotion: str | None, device: str | None) -> str:
        """Compose a sentence with this emotion and device; None leaves it without a label of that task."""
        figurative = device not in (None, "literal")
        if emotion is None or (emotion == "neutral" and figurative):
            templates = phrases.WITHOUT_EMOTION[device or "literal"]
        elif emotion == "neutral":
            templates = phrases.NEUTRAL
        else:
            templates = phrases.WITH_EMOTION[device or ""]
        slots: dict[str, Sequence[str]] = {**phrases.COMMON, **phrases.DEVICE_SLOTS}
        if emotion is not None:
            slots.update(phrases.EMOTIONS[emotion])
            others = [e for e in EMOTIONS[:-1] if e != emotion]
            slots["other"] = phrases.EMOTIONS[others[int(self.rng.random() * len(others))]]["state"]
        person = dict(zip(_PERSON_SLOTS, self.pick(phrases.PERSONS), strict=True))
        used: set[str] = set()

        def fill(match: re.Match[str]) -> str:
            name = match[1]
            if name in person:
                return f"<{name}>"
            text: str = self.pick(slots[name])
            while text in used:
                text = self.pick(slots[name])
            used.add(text)
            return _SLOT.sub(fill, text)

        text = _SLOT.sub(fill, self.pick(templates))
        return _capitalise(_name_once(text, person))


def _name_once(text: str, person: dict[str, str]) -> str:
    """Fill in the person's words in ``text``: the name at its first mention, the pronoun after that."""
    subjects = iter((person["I"],))

    def word(match: re.Match[str]) -> str:
        slot = match[1]
        return next(subjects, person["i"]) if slot in ("I", "i") else person[slot]

    return re.sub(r"<(\w+)>", word, text)


def _capitalise(text: str) -> str:
    return _SENTENCE_START.sub(lambda m: m[0][:-1] + m[1].upper(), text)


def _split(split: str, rounds: int, rng: random.Random, seen: set[str]) -> Iterator[dict[str, Any]]:
    """Yield the records of one split. ``seen`` holds the texts of all splits so far; each new text is added to it."""
    writer = _Writer(rng, 0.0 if split == "train" else _HELD_SHARE)
    cells = _cells() * rounds
    for last in range(len(cells) - 1, 0, -1):  # Fisher-Yates
        other = int(rng.random() * (last + 1))
        cells[last], cells[other] = cells[other], cells[last]
    for number, (emotion, device) in enumerate(cells):
        text = writer.sentence(emotion, device)
        while text.casefold() in seen:
            text = writer.sentence(emotion, device)
        seen.add(text.casefold())
        labels = [label for label in (emotion, device) if label is not None]
        tasks = [t for t, label in (("emotion", emotion), ("rhetoric", device)) if label is not None]
        yield {
            "id": f"{split}-{number:05d}",
            "text": text,
            "label": labels if len(labels) > 1 else labels[0],
            "task": tasks if len(tasks) > 1 else tasks[0],
            "split": split,
        }


def generate(seed: int = 0) -> list[dict[str, Any]]:
    """Generate the corpus: 14,384 records with id, text, label, task and split.

    The result depends on the seed alone, on every Python version.

    ``label`` and ``task`` are strings, or lists of the same length where a sentence carries both an emotion and
    a device. All texts are distinct, even with case ignored.
    """
    rng = random.Random(seed)
    seen: set[str] = set()
    return [record for split, rounds in SPLITS.items() for record in _split(split, rounds, rng, seen)]


def write(path: str | os.PathLike[str], seed: int = 0) -> None:
    """Write :func:`generate`'s records to ``path`` as JSONL, atomically.

    Raises:
        InputError: the file could not be written.
    """
    lines = [json.dumps(record) + "\n" for record in generate(seed)]
    with atomic_write(path) as temporary, open(temporary, "w", encoding="utf-8", newline="\n") as file:
        file.writelines(lines)

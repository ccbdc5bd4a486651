"""An evaluator that answers by a script and records each call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from affectron.corpus import Sentence
from affectron.interventions import Program


class Scripted:
    """Answers at random, and remembers each call: the sentences asked about and the answers given."""

    name = "scripted"
    trains = False

    def __init__(self, seed: int = 0) -> None:
        self.options: dict[str, Any] = {"script": seed}
        self.rng = np.random.default_rng(seed)
        self.calls: list[tuple[str, list[Sentence], np.ndarray]] = []
        self.programs: list[Program | None] = []

    def fit(self, *_: Any) -> None:
        raise AssertionError("it does not train")

    def answers(self, sentences: Sequence[Sentence], target: int) -> np.ndarray:
        return self.rng.integers(-1, target, len(sentences))

    def classifier(self, model: Any, tokenizer: Any, sentences: Sequence[Sentence], task: str, labels: Sequence[str]):
        def read(rows: np.ndarray, programs: Sequence[Program | None] = (None,)) -> np.ndarray:
            asked = [sentences[row] for row in rows]
            answers = [self.answers(asked, len(labels)) for _ in programs]
            self.calls += [(task, asked, one) for one in answers]
            self.programs += programs
            return np.array(answers)

        return read

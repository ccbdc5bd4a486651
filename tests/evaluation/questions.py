"""Sentences, labels and programs that the tests of all evaluators share."""

from __future__ import annotations

import numpy as np
import torch

from affectron.corpus import Sentence
from affectron.interventions import Program, amplify, zero
from affectron.models import find_sites

# Of one token; of one and several that begin alike, or not.
SINGLE = ("w50", "w51", "w52")
MIXED = ("w50", "w50 w51", "w52 w50 w53", "w52 w50 w54", "w9 w9")
PROMPT = "{bos}w1 {text} w2 w3"
SHARED = "{bos}" + " ".join(f"w{number}" for number in range(20)) + " {text} w2 w3"


def make_sentences(number: int = 23, longest: int = 20, seed: int = 0) -> list[Sentence]:
    rng = np.random.default_rng(seed)
    texts = [" ".join(f"w{w}" for w in rng.integers(0, 48, rng.integers(1, longest))) for _ in range(number)]
    return [Sentence(text, ("w50",), "test", str(number)) for number, text in enumerate(texts)]


SENTENCES = make_sentences()
ALL = np.arange(len(SENTENCES))


def programs_of(model: torch.nn.Module, lowest: int) -> list[Program | None]:
    """Programs of different sites from the ``lowest`` on, more than one batch takes, and none in their midst."""
    sites = [site.name for site in find_sites(model)][lowest:]
    neurons = [[(sites[number % len(sites)], index) for index in range(number, 40)] for number in range(10)]
    steered = [zero(selected) if number % 2 else amplify(selected, 3) for number, selected in enumerate(neurons)]
    return [*steered[:4], None, *steered[4:]]

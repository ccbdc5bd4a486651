"""The planted model and its corpus as constants, and where its neurons are."""

from __future__ import annotations

from tests.support.planted import LAYERS, MOODS, TONES, make_corpus, make_model

MODEL, CORPUS = make_model(), make_corpus()
SITES = [f"model.layers.{layer}.mlp" for layer in range(LAYERS)]


def planted(label: str) -> tuple[str, int]:
    """Site and index of the neuron that carries the label."""
    _, layer, index = {**MOODS, **TONES}[label]
    return SITES[layer], index

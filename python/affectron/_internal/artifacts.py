"""Names of a run's files, and the fields that identify a model."""

from __future__ import annotations

STATS, ATTRIBUTION, GRADIENTS, LAYERS, NEURONS, STEERING, VALIDATION, CROSS_DATASET = (
    "stats.safetensors", "attribution.safetensors", "gradients.safetensors", "layers.safetensors", "neurons.json",
    "steering.json", "validation.json", "cross_dataset.json",
)  # fmt: skip
REPORT, PAGE = "report", "index.html"

#: The kinds of findings; each is kept in a file of its name.
KINDS = (
    "ablations", "associations", "candidates", "cards", "cross_signal", "estimate", "generation", "induction",
    "methods", "responses", "stability",
)  # fmt: skip

#: What results of the same model agree on, and how that is named to a reader.
SAME_MODEL = {"model_hash": "model configuration", "weights": "weights", "tokenizer": "tokenizer"}


def findings_file(kind: str) -> str:
    """Name of the file of one kind of findings."""
    return f"{kind}.json"

"""Tokens that neurons promote and suppress: their output directions through the final norm and the lm_head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from affectron import models
from affectron.errors import InputError
from affectron.evaluation.batched import output_layer
from affectron.experiments.results import VocabularyToken
from affectron.models.directions import output_directions

Tokens = tuple[VocabularyToken, ...]

# Most logits that are computed at a time: 2^24 are 64 MiB in float32.
_LOGITS = 1 << 24


@torch.no_grad()
def vocabulary_effects(
    model: Any, tokenizer: Any, neurons: Mapping[str, NDArray[np.int64]], count: int
) -> dict[tuple[str, int], tuple[Tokens, Tokens]]:
    """The tokens whose logits the neurons' output directions raise and lower most, strongest first.

    The model itself computes the logits, its last layer's output replaced: by the direction v of a neuron
    (:func:`affectron.models.directions.output_directions`), and by 0. The change is logits(v) - logits(0), so that no
    bias of the final norm or the head is part of it. The direct path alone is seen, and no layer in between.

    Args:
        model, tokenizer: any model.
        neurons: site -> int64 [K], indices of neurons.
        count: tokens that are raised, and as many that are lowered.

    Returns:
        (site, index) -> the tokens that are raised, and those that are lowered. Without the neurons of sites that have
        no output direction; empty where the model is no causal language model.
    """
    try:
        head = output_layer(model)
    except InputError:
        return {}
    effects = {}
    rows = max(1, _LOGITS // next(head.parameters()).shape[0])
    directions = output_directions(model, neurons)
    last = models.find_layers(model)[-1:] if directions else []
    with models.evaluating(model):
        for site, of_site in directions.items():
            parts = [_change(model, last, part)[:, : len(tokenizer)] for part in of_site.split(rows)]
            for index, change in zip(neurons[site].tolist(), (row for part in parts for row in part), strict=True):
                raised, lowered = (_strongest(tokenizer, sign * change, sign, count) for sign in (1, -1))
                effects[site, index] = raised, lowered
    return effects


def _change(model: Any, last: Sequence[models.Site], directions: Tensor) -> Tensor:
    """float32 [K, V]: logits of the directions [K, H] as the output of the ``last`` layer, less those of 0."""
    states = torch.cat([directions, torch.zeros_like(directions[:1])])[:, None]

    def replace(position: int, gate: Tensor, up: Tensor | None, act: str, _: models.Routed | None = None) -> Tensor:
        return states.to(gate.device, gate.dtype)

    ids = torch.zeros(len(states), 1, dtype=torch.int64, device=model.device)
    with models.attach(last, replace):
        logits: Tensor = model(input_ids=ids, use_cache=False).logits[:, -1].float()
    return logits[:-1] - logits[-1]


def _strongest(tokenizer: Any, change: Tensor, sign: int, count: int) -> Tokens:
    logits, ids = change.topk(min(count, len(change)))
    return tuple(
        VocabularyToken(token_text(tokenizer, id), sign * logit)
        for id, logit in zip(ids.tolist(), logits.tolist(), strict=True)
    )


def token_text(tokenizer: Any, id: int) -> str:
    """A token as text, with the space that it begins with; the tokenizer's own name of one that is no whole text."""
    once, twice = (tokenizer.decode([id] * times, clean_up_tokenization_spaces=False) for times in (1, 2))
    text = str(twice)[len(once) :]
    return text if text and "\ufffd" not in text else str(tokenizer.convert_ids_to_tokens(id))

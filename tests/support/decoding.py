"""Steered decoding by hooks, with the whole text recomputed for every token: the reference for cached decoding."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from tests.support.bench import Bench
from tests.support.tiny import last_inputs, layer_outputs

# (site, h [T, F] of one request, number of its prompt's tokens) -> changed h.
Change = Callable[[str, Tensor, int], Tensor]
WRITTEN = 8


@torch.no_grad()
def slow(bench: Bench, inputs: dict[str, Tensor], changes: list[Change | None], layers: Sequence[str] = ()) -> Tensor:
    """Decode greedily without a cache; in every forward hooks change all activations, by request, and the outputs of
    ``layers``."""
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    rows, prompt = ids.shape

    def change(site: str, h: Tensor) -> Tensor:
        requests = zip(changes, h.view(rows, -1, h.shape[-1]), strict=True)
        parts = [part if change is None else change(site, part, prompt) for change, part in requests]
        return torch.stack(parts).view(h.shape)

    for _ in range(WRITTEN):
        position = (mask.cumsum(-1) - 1).clamp(min=0)
        with last_inputs(bench.model, bench.family, change), layer_outputs(bench.model, layers, change):
            logits = bench.model(ids, attention_mask=mask, position_ids=position, use_cache=False).logits
        ids = torch.cat([ids, logits[:, -1:].argmax(-1)], 1)
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
    return ids


def everywhere(change: Callable[[str, Tensor], Tensor]) -> Change:
    return lambda site, h, prompt: change(site, h)


def on(change: Callable[[str, Tensor], Tensor], start: int | None = None, stop: int | None = None) -> Change:
    """Restrict ``change`` to the positions [start, stop) relative to the end of the prompt."""

    def part(site: str, h: Tensor, prompt: int) -> Tensor:
        position = torch.arange(len(h)) - prompt
        inside = torch.ones(len(h), dtype=torch.bool)
        if start is not None:
            inside &= position >= start
        if stop is not None:
            inside &= position < stop
        return torch.where(inside[:, None], change(site, h), h)

    return part

"""Steered decoding by hooks on a model that computes its whole text anew for every token: the reference for caches."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tests.support.bench import Bench
from tests.support.tiny import last_inputs

# h [T, F] of one request and the number of its prompt's tokens -> what becomes of it.
Change = Callable[[str, Tensor, int], Tensor]
WRITTEN = 8


@torch.no_grad()
def slow(bench: Bench, inputs: dict[str, Tensor], changes: list[Change | None]) -> Tensor:
    """Greedy decoding without a cache: a hook changes every token's activation in every forward, by request."""
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    rows, prompt = ids.shape

    def change(site: str, h: Tensor) -> Tensor:
        each = zip(changes, h.view(rows, -1, h.shape[-1]), strict=True)
        return torch.stack([one if own is None else own(site, one, prompt) for own, one in each]).view(h.shape)

    for _ in range(WRITTEN):
        position = (mask.cumsum(-1) - 1).clamp(min=0)
        with last_inputs(bench.model, bench.family, change):
            found = bench.model(ids, attention_mask=mask, position_ids=position, use_cache=False).logits
        ids = torch.cat([ids, found[:, -1:].argmax(-1)], 1)
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
    return ids


def everywhere(change: Callable[[str, Tensor], Tensor]) -> Change:
    return lambda site, h, prompt: change(site, h)


def on(change: Callable[[str, Tensor], Tensor], start: int | None = None, stop: int | None = None) -> Change:
    """``change`` on the positions [start, stop) relative to the end of the prompt, and nowhere else."""

    def part(site: str, h: Tensor, prompt: int) -> Tensor:
        position = torch.arange(len(h)) - prompt
        inside = torch.ones(len(h), dtype=torch.bool)
        if start is not None:
            inside &= position >= start
        if stop is not None:
            inside &= position < stop
        return torch.where(inside[:, None], change(site, h), h)

    return part

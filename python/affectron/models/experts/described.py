"""Experts classes that describe what they compute, as those of transformers do from version 5 on.

They say it in ``has_gate``, ``has_bias`` and ``is_transposed``, so their forward can be computed expert by expert.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from affectron.models.chain import Routed

ExpertActivation = Callable[[int, Tensor, Routed], Tensor]
"""``activation(expert, z, routed)``: h of an expert from its first product z."""


def is_described(module: nn.Module) -> bool:
    """Return whether the module is an experts class that describes what it computes."""
    down = module._parameters.get("down_proj")
    return down is not None and down.dim() == 3 and hasattr(module, "has_bias") and hasattr(module, "is_transposed")


def has_gate(module: Any) -> bool:
    # The first releases of transformers 5 know no experts without a gate.
    return bool(getattr(module, "has_gate", True))


def activate(module: Any, z: Tensor) -> Tensor:
    """h from the first product z, as the class computes it."""
    h: Tensor = module._apply_gate(z) if has_gate(module) else module.act_fn(z)
    return h


def forward(module: Any, activation: ExpertActivation, hidden: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
    """The forward of the class, expert by expert, with ``activation`` in place of its own. The products are those of
    its eager forward.

    Args:
        hidden: [N, D].
        chosen: [N, K], the experts of each token. A number beyond the experts stands for one on another device.
        weights: [N, K], their weights.
    """
    rows, (total, k) = hidden.reshape(-1, hidden.shape[-1]), chosen.reshape(-1, chosen.shape[-1]).shape
    flat = chosen.reshape(-1)
    order = flat.argsort(stable=True)
    experts = len(module.down_proj)  # no parameter of the module while an adapter changes it
    counts = torch.bincount(flat, minlength=experts).tolist()
    first = "gate_up_proj" if has_gate(module) else "up_proj"
    parts = []
    start = 0
    for expert, count in enumerate(counts[:experts]):
        picked = order[start : start + count]
        start += count
        if not count:
            continue
        tokens = picked // k
        z = _linear(module, first, expert, rows[tokens])
        parts.append(_linear(module, "down_proj", expert, activation(expert, z, Routed(tokens, total))))
    out = torch.cat(parts) if parts else rows.new_zeros(0, hidden.shape[-1])
    if getattr(module, "has_post_expert_norm", False):
        out = module.post_expert_norm(out)
    picked = order[:start]
    out = out * weights.reshape(-1)[picked, None]
    # The experts of a token are added up in a fixed order; index_add on a GPU has none.
    placed = out.new_zeros(total * k, out.shape[-1]).index_copy(0, picked, out)
    return placed.view(total, k, -1).sum(1).to(hidden.dtype).reshape(hidden.shape)


def _linear(module: Any, name: str, expert: int, x: Tensor) -> Tensor:
    weight = getattr(module, name)[expert]
    bias = getattr(module, f"{name}_bias")[expert] if module.has_bias else None
    return F.linear(x, weight.T if module.is_transposed else weight, bias)

"""Stacked experts that no program touches run as the module itself runs them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from affectron.models import find_sites, intervene
from tests.support.families import FAMILIES, Family, available, experts_program, inputs
from tests.support.tiny import state

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore:.*exact, but not fused")]


def experts(model: Any, family: Family) -> list[nn.Module]:
    return list({site.module: None for site in find_sites(model) if site.expert is not None})


@torch.no_grad()
@pytest.mark.parametrize("name", ["mixtral", "gpt_oss", "jetmoe", "llama4"])
def test_experts_that_no_program_touches_run_in_their_own_way(name: str) -> None:
    if not available(name):
        pytest.skip(f"transformers has no such {name}")
    family = FAMILIES[name]
    model, given = family.build(), inputs(family)
    blocks, before = experts(model, family), state(model)
    plain = model(**given).logits
    ran: list[int] = []
    for layer, block in enumerate(blocks):  # what the instance runs, before anything is attached

        def own(*args: Any, layer: int = layer, block: Any = block, **named: Any) -> Any:
            ran.append(layer)
            return type(block).forward(block, *args, **named)

        block.forward = own
    watched = state(model)
    followed = name != "mixtral" and (name != "gpt_oss" or not hasattr(blocks[0], "is_transposed"))

    def logits() -> Tensor:
        ran.clear()
        return model(**given).logits

    # A shared expert is a gated MLP, whose product is fused even then; torch's silu rounds the last elements of a
    # tensor (up to 31 of them with AVX-512) otherwise than those before.
    tolerance = {"rtol": 1e-6, "atol": 1e-6} if name == "llama4" else {"rtol": 0.0, "atol": 0.0}
    with intervene(model, [None, None, None], capacity=2) as steering:
        untouched = logits()
        torch.testing.assert_close(untouched, plain, **tolerance)
        assert ran == [0, 1]
        steering[1] = experts_program(family, 1)
        steered = logits()
        # Those that are followed run their own forward in any case.
        assert ran == ([0, 1] if followed else [0])
        assert (steered[1] - plain[1]).abs().max() > 1e-3
        torch.testing.assert_close(steered[[0, 2]], plain[[0, 2]], rtol=2e-4, atol=2e-4)
        steering[1] = experts_program(family, 0)
        assert (logits()[1] - plain[1]).abs().max() > 1e-3
        assert ran == ([0, 1] if followed else [1])
        steering[1] = None
        assert torch.equal(logits(), untouched)
        assert ran == [0, 1]
    assert state(model) == watched
    for block in blocks:
        del block.forward
    assert state(model) == before

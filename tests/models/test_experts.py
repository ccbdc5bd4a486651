"""Stacked experts: what no program touches runs as the module itself runs it, and what cannot be followed is said."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from affectron import interventions
from affectron.models import attach, find_sites, intervene
from tests.support.families import EXPERTS, FAMILIES, Family, available, inputs
from tests.support.tiny import state

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore:.*exact, but not fused")]


def experts(model: Any, family: Family) -> list[nn.Module]:
    return list({site.module: None for site in find_sites(model) if site.expert is not None})


def program(family: Family, layer: int, factor: float = 3.0) -> interventions.Program:
    names = family.names[layer * EXPERTS : (layer + 1) * EXPERTS]
    return interventions.amplify([(name, i) for name in names for i in range(0, family.neurons, 3)], factor)


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
        steering[1] = program(family, 1)
        steered = logits()
        # Those that are followed run their own forward in any case.
        assert ran == ([0, 1] if followed else [0])
        assert (steered[1] - plain[1]).abs().max() > 1e-3
        torch.testing.assert_close(steered[[0, 2]], plain[[0, 2]], rtol=2e-4, atol=2e-4)
        steering[1] = program(family, 0)
        assert (logits()[1] - plain[1]).abs().max() > 1e-3
        assert ran == ([0, 1] if followed else [1])
        steering[1] = None
        assert torch.equal(logits(), untouched)
        assert ran == [0, 1]
    assert state(model) == watched
    for block in blocks:
        del block.forward
    assert state(model) == before


@torch.no_grad()
def test_contexts_on_followed_experts_nest() -> None:
    family = FAMILIES["jetmoe"]
    model, given = family.build(), inputs(family)
    with intervene(model, program(family, 0, 6.0)):
        wanted = model(**given).logits
    outer, inner = intervene(model, program(family, 0, 3.0)), intervene(model, program(family, 0, 2.0))
    outer.__enter__()
    inner.__enter__()
    torch.testing.assert_close(model(**given).logits, wanted, rtol=1e-4, atol=1e-4)
    outer.__exit__(None, None, None)
    with intervene(model, program(family, 0, 3.0)):
        torch.testing.assert_close(model(**given).logits, wanted, rtol=1e-4, atol=1e-4)
    inner.__exit__(None, None, None)


class Unusual(nn.Module):
    """Every expert for every token, as the shared experts of some models are."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up = (nn.Parameter(torch.randn(3, 11, 8)) for _ in range(2))
        self.down = nn.Parameter(torch.randn(3, 8, 11))
        self.act = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        h = self.act(torch.einsum("nd,efd->enf", x, self.gate)) * torch.einsum("nd,efd->enf", x, self.up)
        return torch.einsum("enf,edf->nd", h, self.down)


def test_a_form_that_is_not_known_is_said_once() -> None:
    mlp = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8))
    layers = [nn.ModuleDict({"experts": Unusual(), "mlp": mlp})]
    model = nn.ModuleDict({"layers": nn.ModuleList([*layers, *layers, nn.ModuleDict({"experts": Unusual()})])})
    with pytest.warns(UserWarning, match="neither measured nor steered; affectron.declare_mlp") as told:
        sites = find_sites(model)
    assert [site.name for site in sites] == ["layers.0.mlp"]
    assert len(told) == 1


class Einsum(nn.Module):
    """Shapes that are known, and products that are not seen."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Parameter(torch.randn(3, 22, 8)), nn.Parameter(torch.randn(3, 8, 11))

    def forward(self, x: Tensor) -> Tensor:
        gate, up = torch.einsum("nd,efd->enf", x, self.first).chunk(2, -1)
        return torch.einsum("enf,edf->nd", nn.functional.silu(gate) * up, self.last)


def test_experts_that_do_not_show_their_activation_are_refused_in_the_forward() -> None:
    block = Einsum()
    model = nn.ModuleDict({"layers": nn.ModuleList([block])})
    sites, x = find_sites(model), torch.randn(2, 8)
    assert [site.neurons for site in sites] == [11, 11, 11]
    plain = block(x)
    with (
        attach(sites, lambda *_: pytest.fail("no kernel can run")),
        pytest.raises(RuntimeError, match="Einsum computed its experts in a way that does not show their activation"),
    ):
        block(x)
    assert torch.equal(block(x), plain)

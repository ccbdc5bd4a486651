"""Stacks known by their shapes: contexts nest, and a stack that cannot be found or followed is named."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from affectron.models import attach, find_sites, intervene
from tests.support.families import FAMILIES, experts_program, inputs

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore:.*exact, but not fused")]


@torch.no_grad()
def test_contexts_on_followed_experts_nest() -> None:
    family = FAMILIES["jetmoe"]
    model, given = family.build(), inputs(family)
    with intervene(model, experts_program(family, 0, 6.0)):
        wanted = model(**given).logits
    outer, inner = intervene(model, experts_program(family, 0, 3.0)), intervene(model, experts_program(family, 0, 2.0))
    outer.__enter__()
    inner.__enter__()
    torch.testing.assert_close(model(**given).logits, wanted, rtol=1e-4, atol=1e-4)
    outer.__exit__(None, None, None)
    with intervene(model, experts_program(family, 0, 3.0)):
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

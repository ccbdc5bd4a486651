"""A kernel sees and replaces the activation of a site, and nothing of it stays."""

from __future__ import annotations

import dataclasses
from itertools import permutations

import pytest
import torch
from torch import Tensor, nn

from affectron.models import Kernel, attach, find_sites
from tests.support.bench import logits
from tests.support.tiny import (
    ACTIVATIONS,
    LAYERS,
    NEURONS,
    SITES,
    batch,
    build,
    last_inputs,
    site_names,
    state,
)


def plain_torch(position: int, gate: Tensor, up: Tensor | None, act: str) -> Tensor:
    h = ACTIVATIONS[act](gate)
    return h if up is None else h * up


def test_a_kernel_in_plain_torch_reproduces_the_model(model: nn.Module, family: str) -> None:
    expected = logits(model, batch())
    positions: list[int] = []

    def kernel(position: int, gate: Tensor, up: Tensor | None, act: str) -> Tensor:
        positions.append(position)
        assert gate.stride(-1) == 1
        assert gate.shape[-1] == NEURONS
        assert (up is None) == (SITES[family][2] == "plain")
        return plain_torch(position, gate, up, act)

    with attach(find_sites(model), kernel):
        torch.testing.assert_close(logits(model, batch()), expected, rtol=1e-5, atol=1e-5)
    assert positions == list(range(LAYERS))


def test_what_the_kernel_returns_is_what_the_last_linear_reads(model: nn.Module, family: str) -> None:
    given: dict[str, Tensor] = {}
    read: dict[str, Tensor] = {}
    sites = find_sites(model)[1:]

    def kernel(position: int, gate: Tensor, up: Tensor | None, act: str) -> Tensor:
        given[sites[position].name] = torch.full_like(gate, position + 0.5)
        return given[sites[position].name]

    with attach(sites, kernel), last_inputs(model, family, lambda name, h: read.setdefault(name, h)):
        logits(model, batch())
    assert list(given) == site_names(family)[1:]
    for name, h in given.items():
        assert torch.equal(read[name], h)


def test_leaving_restores_everything(model: nn.Module) -> None:
    before, expected, keys = state(model), logits(model, batch()), list(model.state_dict())
    with attach(find_sites(model), lambda position, gate, up, act: torch.zeros_like(gate)):
        assert not torch.equal(logits(model, batch()), expected)
        assert list(model.state_dict()) == keys
        assert state(model) != before
    assert state(model) == before
    assert torch.equal(logits(model, batch()), expected)


class Boom(BaseException):
    """Not an Exception, as KeyboardInterrupt is not."""


def test_an_exception_in_the_body_restores_everything(model: nn.Module) -> None:
    before, expected = state(model), logits(model, batch())

    def fail(position: int, gate: Tensor, up: Tensor | None, act: str) -> Tensor:
        raise Boom

    with pytest.raises(Boom), attach(find_sites(model), fail):
        logits(model, batch())
    assert state(model) == before
    assert torch.equal(logits(model, batch()), expected)


def test_an_exception_in_the_setup_restores_everything(model: nn.Module) -> None:
    before = state(model)
    sites = find_sites(model)
    lost = dataclasses.replace(sites[2], structure=dataclasses.replace(sites[2].structure, last="absent"))
    # The third step fails with two sites swapped.
    with pytest.raises(AttributeError, match="absent"), attach([*sites[:2], lost], plain_torch):
        pytest.fail("the body must not run")
    assert state(model) == before


def test_kernels_on_one_site_follow_each_other_and_leave_in_any_order(model: nn.Module) -> None:
    """Each is given what those before it returned; the last to leave puts everything back."""
    sites, before, plain = find_sites(model), state(model), logits(model, batch())

    def scaled(factor: float) -> Kernel:
        return lambda position, gate, up, act: factor * plain_torch(position, gate, up, act)

    def with_factor(factor: float) -> Tensor:
        with attach(sites, scaled(factor)):
            return logits(model, batch())

    for order in permutations(range(3)):
        contexts = [attach(sites, scaled(2.0)), attach(sites[1:], scaled(-1.0)), attach(sites, scaled(0.5))]
        for context in contexts:
            context.__enter__()
        with attach(sites[1:], scaled(-1.0)):
            torch.testing.assert_close(logits(model, batch()), plain, rtol=1e-5, atol=1e-5)
        contexts[order[0]].__exit__(None, None, None)
        contexts[order[1]].__exit__(None, None, None)
        if order[2] == 1:
            with attach(sites[:1], scaled(-1.0)):
                torch.testing.assert_close(logits(model, batch()), with_factor(1.0), rtol=1e-5, atol=1e-5)
        else:
            torch.testing.assert_close(logits(model, batch()), with_factor(1.0), rtol=1e-5, atol=1e-5)
        contexts[order[2]].__exit__(None, None, None)
        assert state(model) == before
    assert torch.equal(logits(model, batch()), plain)


def test_a_forward_that_someone_put_there_is_kept() -> None:
    """It may compute more than the MLP: the kernel is given h instead of taking its place."""
    model = build("llama")
    mlp = model.model.layers[1].mlp
    own = lambda x: 2 * type(mlp).forward(mlp, x)  # noqa: E731
    mlp.forward = own
    before, expected = state(model), logits(model, batch())
    with pytest.warns(UserWarning, match=r"LlamaMLP \(model.layers.1.mlp and the like\) is measured and steered at"):
        sites = find_sites(model)
    assert [site.path for site in sites] == ["fused", "fallback", "fused"]
    with attach(sites, plain_torch):
        torch.testing.assert_close(logits(model, batch()), expected, rtol=1e-5, atol=1e-5)
    assert mlp.forward is own
    assert state(model) == before


def test_layers_that_share_one_activation_object_are_told_apart() -> None:
    model = build("neox")
    shared = model.gpt_neox.layers[0].mlp.act
    for layer in model.gpt_neox.layers:
        layer.mlp.act = shared
    expected, positions = logits(model, batch()), []

    def kernel(position: int, gate: Tensor, up: Tensor | None, act: str) -> Tensor:
        positions.append(position)
        return plain_torch(position, gate, up, act)

    with attach(find_sites(model), kernel):
        torch.testing.assert_close(logits(model, batch()), expected, rtol=1e-5, atol=1e-5)
    assert positions == [0, 1, 2]
    assert all(layer.mlp.act is shared for layer in model.gpt_neox.layers)


class Clamped(type(build("llama").model.layers[0].mlp)):
    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.act_fn(self.gate_proj(x)).clamp(max=7) * self.up_proj(x))


@pytest.mark.parametrize("change", ["activation", "clamp", "multiplier", "residual"])
def test_what_computes_more_falls_back_and_stays_exact(change: str) -> None:
    """None of these is act(gate) * up alone: the block computes h, and the kernel is given it."""
    model = build("llama", hidden_act="quick_gelu" if change == "activation" else "silu")
    mlp = model.model.layers[2].mlp
    forwards = {
        "clamp": Clamped.forward,
        "multiplier": lambda self, x: self.down_proj(self.act_fn(0.75 * self.gate_proj(x)) * self.up_proj(x)),
        "residual": lambda self, x: x + self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x)),
    }
    if change in forwards:
        mlp.__class__ = type("Changed", (type(mlp),), {"forward": forwards[change]})
    before, expected = state(model), logits(model, batch())
    with pytest.warns(UserWarning, match="exact, but not fused"):
        sites = find_sites(model)
    assert sites[2].path == "fallback"
    assert (sites[2].layout == "gated") == (change == "residual")
    given: dict[int, Tensor] = {}
    read: dict[str, Tensor] = {}

    def doubled(position: int, h: Tensor, gate: Tensor | None) -> Tensor:
        assert gate is not None
        given[position] = h
        return 2 * h

    with (
        attach(sites, plain_torch, doubled),
        last_inputs(model, "llama", lambda name, h: read.setdefault(name, h)),
    ):
        assert not torch.equal(logits(model, batch()), expected)
    for position, h in given.items():
        assert torch.equal(read[sites[position].name], 2 * h)
    assert 2 in given
    assert state(model) == before
    with attach(sites, plain_torch):
        torch.testing.assert_close(logits(model, batch()), expected, rtol=1e-5, atol=1e-5)

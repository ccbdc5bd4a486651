"""The activation function of a block is recognised by what it computes."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers.activations import ACT2FN

from affectron.models import find_sites
from tests.support.tiny import ACTIVATIONS, build


@pytest.mark.parametrize(
    ("name", "act"),
    [
        ("silu", "silu"),
        ("swish", "silu"),
        ("gelu", "gelu"),
        ("gelu_python", "gelu"),
        ("gelu_new", "gelu_tanh"),
        ("gelu_fast", "gelu_tanh"),
        ("gelu_accurate", "gelu_tanh"),
        ("gelu_pytorch_tanh", "gelu_tanh"),
        ("relu", "relu"),
        ("relu2", "relu2"),
    ],
)
def test_the_activation_is_known_by_what_it_computes(name: str, act: str) -> None:
    x = torch.linspace(-6, 6, 1001)
    (site, *_) = find_sites(build("llama", hidden_act=name))
    assert site.act == act
    torch.testing.assert_close(ACTIVATIONS[site.act](x), ACT2FN[name](x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("module", "act"), [(nn.GELU(), "gelu"), (nn.GELU("tanh"), "gelu_tanh")])
def test_the_two_forms_of_torch_gelu_are_told_apart(module: nn.Module, act: str) -> None:
    model = build("gpt2")
    model.transformer.h[0].mlp.act = module
    assert find_sites(model)[0].act == act

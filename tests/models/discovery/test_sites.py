"""Sites are found in every layout, in forward order, and while kernels are on them."""

from __future__ import annotations

import pytest
from torch import nn

from affectron.errors import InputError
from affectron.models import attach, find_sites
from tests.support.bench import logits
from tests.support.tiny import NEURONS, SITES, batch, last_inputs, site_names


def test_sites_are_in_forward_order(model: nn.Module, family: str) -> None:
    called: list[str] = []
    sites = find_sites(model)
    with last_inputs(model, family, lambda name, h: (called.append(name), h)[1]):
        logits(model, batch())
    assert [site.name for site in sites] == called == site_names(family)
    for site in sites:
        assert (site.layout, site.act, site.neurons) == (*SITES[family][2:], NEURONS)
        assert site.module is model.get_submodule(site.name)


def test_sites_are_found_while_kernels_are_on_them(model: nn.Module) -> None:
    sites = find_sites(model)
    calls: list[int] = []
    with attach(sites[:2], lambda position, gate, up, act: (calls.append(position), gate)[1]):
        assert find_sites(model) == sites
    assert not calls  # looking for sites calls no kernel


def test_a_model_without_a_known_mlp_is_refused() -> None:
    with pytest.raises(InputError, match="Sequential has no MLP that can be found: expected blocks"):
        find_sites(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4)))

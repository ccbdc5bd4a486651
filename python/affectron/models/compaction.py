"""Compaction: a smaller model without some neurons, to save and to load like any other."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from affectron._internal.arguments import checked_arguments
from affectron.errors import InputError
from affectron.interventions import Neurons, zero
from affectron.models.attaching import attached_structures
from affectron.models.discovery.sites import find_sites
from affectron.models.layout import Site, set_sizes, sizes
from affectron.models.tables import check_sites
from affectron.models.wrappers import active_module, unwrapped

# Layouts whose first linear layers hold the neurons once, or those of the gate and then those of up.
_LAYOUTS = ("gated", "gate_up", "up_gate", "plain")
# Names of the number of neurons in the configs of known families.
_WIDTHS = ("intermediate_size", "ffn_dim", "n_inner")


@checked_arguments
def compact(model: Any, neurons: Neurons) -> Any:
    """Copy ``model`` without ``neurons``: the copy computes what ``model`` does with them masked by :func:`zero`.

    A config of transformers has one width for all layers. So every site is made as wide as the widest that is left, and
    a narrower one is filled up with neurons whose weights are 0, which add 0 to the output: size and time shrink by
    what the site that loses fewest neurons loses. Spread ``neurons`` over the sites, or skip them at any width with
    :func:`ops.masked_mlp`.

    The copy is of the same class: ``save_pretrained``, ``from_pretrained`` and :func:`load_model` take it like any
    other. ``model`` does not change; until it is deleted both are in memory. Outputs agree up to the order in which the
    terms of a sum are added.

    Args:
        model: a model of transformers whose sites are all of one width.
        neurons: a NeuronList, or anything that yields tuples beginning with (site, index).

    Raises:
        InputError: a site that the model lacks or a neuron beyond its width; no neuron left in any site; experts, or
            a site on the path ``fallback`` (:class:`Site`); sites of different widths, a config that does not tell
            the width, or layers that hold more than weight and bias.
        RuntimeError: the model is being steered or screened.
    """
    sites = find_sites(model)
    width = sites[0].neurons
    attached = attached_structures()
    for site in sites:
        _check_known(site)
        if site.neurons != width:
            raise InputError(f"{site.name} has {site.neurons} neurons, expected the {width} of {sites[0].name}")
        if id(site.module) in attached:
            raise RuntimeError(f"{site.name} is attached: leave the running intervene or screen first")
        if active_module(unwrapped(model).get_submodule(site.name))[0] not in ("", "_orig_mod"):
            raise InputError(f"{site.name} is an adapter's copy of a block, expected a model with its adapters merged")
        _check_plain(site)
    field = next((name for name in _WIDTHS if hasattr(model.config.get_text_config(), name)), None)
    if field is None:
        raise InputError(f"the config of {type(model).__name__} has none of {', '.join(_WIDTHS)}")
    removing = zero(neurons)
    check_sites(removing, sites)
    kept = [torch.from_numpy(np.flatnonzero(removing.table(site.name, width)[0])) for site in sites]
    widest = max(len(index) for index in kept)
    if widest == 0:
        raise InputError(f"neurons are all {width} of every site, expected some to be left")

    # deepcopy regards the entries of its memo as copied: here the weights that are left.
    memo: dict[int, Any] = {}
    for site, index in zip(sites, kept, strict=True):
        first, last = _projections(site)
        for layer in first:
            _keep_outputs(memo, layer, width, index, widest)
        _keep_inputs(memo, last, index, widest)
    smaller = copy.deepcopy(model, memo)
    setattr(smaller.config.get_text_config(), field, widest)
    for site in sites:
        module: Any = active_module(unwrapped(smaller).get_submodule(site.name))[1]
        if "intermediate_size" in vars(module):
            module.intermediate_size = widest
        first, last = _projections(replace(site, module=module))
        for layer in first:
            inputs, outputs = sizes(layer) or (0, 0)
            set_sizes(layer, inputs, outputs // width * widest)
        set_sizes(last, widest, (sizes(last) or (0, 0))[1])
    return smaller


def _check_known(site: Site) -> None:
    """Refuse a site of which it is not known which weights are a neuron's alone."""
    several = site.expert is not None or site.owner is not None
    if several or site.path != "fused" or site.layout not in _LAYOUTS:
        kind = "one of several experts" if several else f"of layout {site.layout} on the path {site.path}"
        raise InputError(
            f"{site.name} is {kind}, expected MLPs that are fused, of layout {', '.join(_LAYOUTS)}: of others it is "
            "not known which weights are a neuron's alone"
        )


def _projections(site: Site) -> tuple[list[nn.Module], nn.Module]:
    """The linear layers whose outputs are the site's neurons, and the one whose inputs they are."""
    structure = site.structure
    first = [site.module.get_submodule(name) for name in (structure.first, structure.second) if name is not None]
    return first, site.module.get_submodule(structure.last)


def _check_plain(site: Site) -> None:
    """Refuse linear layers with other parameters than a weight and a bias."""
    first, last = _projections(site)
    layers: list[Any] = [*first, last]
    for layer in layers:
        inputs, outputs = sizes(layer) or (0, 0)
        if {name for name, _ in layer.named_parameters()} - {"weight", "bias"} or layer.weight.numel() != (
            inputs * outputs
        ):
            raise InputError(
                f"{site.name} has a {type(layer).__name__} that holds more than a plain weight and a bias; "
                "expected a model that is not quantized, with its adapters merged"
            )


def _keep_outputs(memo: dict[int, Any], layer: Any, width: int, index: Tensor, widest: int) -> None:
    """Keep outputs of a layer: its outputs are the neurons once, or those of the gate and then those of up."""
    axis = 1 if hasattr(layer, "nf") else 0  # GPT-2's Conv1D holds [inputs, outputs]
    _keep(memo, layer.weight, axis, width, index, widest)
    if layer.bias is not None:
        _keep(memo, layer.bias, 0, width, index, widest)


def _keep_inputs(memo: dict[int, Any], layer: Any, index: Tensor, widest: int) -> None:
    """Keep inputs of a layer: each is a neuron."""
    axis = 0 if hasattr(layer, "nf") else 1
    _keep(memo, layer.weight, axis, layer.weight.shape[axis], index, widest)


def _keep(memo: dict[int, Any], parameter: nn.Parameter, axis: int, width: int, index: Tensor, widest: int) -> None:
    """Put the part of a parameter that is left into ``memo``: along ``axis``, of each ``width`` values those of
    ``index``, then zeros up to ``widest``."""
    groups = parameter.detach().unflatten(axis, (-1, width))
    shape = [*groups.shape[: axis + 1], widest, *groups.shape[axis + 2 :]]
    left = groups.new_zeros(shape)
    left.narrow(axis + 1, 0, len(index)).copy_(groups.index_select(axis + 1, index.to(groups.device)))
    memo[id(parameter)] = nn.Parameter(left.flatten(axis, axis + 1), requires_grad=parameter.requires_grad)

"""The layers of a model, and their outputs as sites: the residual stream."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn

from affectron._internal.arguments import checked_arguments
from affectron.errors import InputError
from affectron.models.discovery.sites import find_sites
from affectron.models.layout import OUTPUT, Site, Structure
from affectron.models.wrappers import active_module, unwrapped


@checked_arguments
def find_layers(model: nn.Module) -> list[Site]:
    """List the layers of the part of ``model`` that reads the text, as sites whose h [..., H] is the layer's output.

    The layers are the members of the outermost module list that holds MLPs (:func:`find_sites`); of an encoder-decoder
    model those of the encoder, then those of the decoder. H is the hidden size of the configuration.

    Raises:
        InputError: as :func:`find_sites`; the text is read by several such lists, by none, or by one whose members are
            nothing but MLPs; the configuration has no hidden size.
    """
    inner = unwrapped(model)
    return layers_around(inner, find_sites(inner))


def layers_around(model: nn.Module, sites: Sequence[Site]) -> list[Site]:
    """:func:`find_layers` for a model of which ``sites`` are the MLPs."""
    return [layer for part in reversed(text_parts(model)) for layer in _layers_of(model, part, sites)]


def _layers_of(model: nn.Module, part: Any, sites: Sequence[Site]) -> list[Site]:
    """The layers of a part of the model, in forward order."""
    inside = set(part.modules())
    sites = [site for site in sites if site.module in inside]
    lists = layer_lists(model, sites)
    if len(lists) != 1:
        raise InputError(
            f"{type(part).__name__} has its MLPs in {', '.join(lists) or 'no module list'}, expected them in the "
            "layers of one list"
        )
    ((name, layers),) = lists.items()
    mlps = {weight for site in sites for linear in _linears(site) for weight in linear.parameters()}
    if any(mlps.issuperset(layer.parameters()) for layer in layers):
        raise InputError(f"the members of {name} are MLPs alone, expected layers, whose output is the residual stream")
    config = getattr(part, "config", getattr(model, "config", None))  # FSMT's parts have none
    width = None if config is None else getattr(config.get_text_config(), "hidden_size", None)
    if width is None:
        raise InputError(f"{type(part).__name__} has no hidden_size in its config, expected the width of its layers")
    structure = Structure("output", "none", width, last="")
    return [Site(f"{name}.{number}{OUTPUT}", active_module(layer)[1], structure) for number, layer in enumerate(layers)]


def _linears(site: Site) -> list[nn.Module]:
    """The linear layers of an MLP; none of a stacked expert, whose weights are no layers of their own."""
    structure = site.structure
    names = () if site.expert is not None else (structure.first, structure.second, structure.last)
    return [site.module.get_submodule(name) for name in names if name is not None]


def layer_lists(model: nn.Module, sites: Iterable[Site]) -> dict[str, nn.ModuleList]:
    """The outermost module lists in which a site lies, by name, in the order of declaration."""
    lists: dict[str, nn.ModuleList] = {}
    modules = {site.module for site in sites}

    def walk(prefix: str, module: nn.Module) -> None:
        for name, child in module.named_children():
            if modules.isdisjoint(child.modules()):
                continue
            _, child = active_module(child)
            if isinstance(child, nn.ModuleList):
                lists[prefix + name] = child
            else:
                walk(f"{prefix}{name}.", child)

    walk("", model)
    return lists


def text_parts(model: Any) -> list[nn.Module]:
    """The modules of a model that read a text: the decoder, with or without a head on it, then the encoder of an
    encoder-decoder model. The decoder knows the cache."""
    find = getattr(model, "get_decoder", None)
    decoder = model if find is None else find()
    if decoder is None or not {"input_ids", "inputs_embeds"}.intersection(parameters(decoder)):
        decoder = model
    if not getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        return [decoder]
    return [decoder, model.get_encoder()]


def parameters(module: nn.Module) -> tuple[str, ...]:
    """Names of the arguments of a module's forward."""
    return tuple(inspect.signature(type(module).forward).parameters)[1:]

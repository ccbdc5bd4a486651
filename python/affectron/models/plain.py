"""The MLP without a gate of GPT-2, GPT-NeoX and OPT: last(act(first(x))).

Apart because only the activation function is replaced: OPT keeps the linear layers in the decoder layer
itself, and what else these blocks do (dropout, reshaping) stays theirs.
"""

from __future__ import annotations

from contextlib import ExitStack

from torch import nn

from affectron.models.layout import Kernel, KernelActivation, Match, Site, children, sizes, swap_child

# (first linear, activation, last linear): GPT-2, GPT-NeoX, OPT.
_NAMES = (
    ("c_fc", "act", "c_proj"),
    ("dense_h_to_4h", "act", "dense_4h_to_h"),
    ("fc1", "activation_fn", "fc2"),
)


def match(module: nn.Module) -> Match | None:
    """Recognise the block by its three submodules."""
    for names in _NAMES:
        found = children(module, *names)
        if found is None:
            continue
        first, activation, last = found
        first_size, last_size = sizes(first), sizes(last)
        if first_size is not None and last_size is not None and first_size[1] == last_size[0]:
            return Match(first_size[1], activation)
    return None


def _names(module: nn.Module) -> tuple[str, str, str]:
    return next(names for names in _NAMES if children(module, *names) is not None)


def projections(module: nn.Module) -> tuple[list[nn.Module], nn.Module]:
    first, _, last = _names(module)
    return [module.get_submodule(first)], module.get_submodule(last)


def swap(site: Site, position: int, kernel: Kernel, undo: ExitStack) -> None:
    swap_child(site.module, _names(site.module)[1], KernelActivation(position, kernel, site.act), undo)

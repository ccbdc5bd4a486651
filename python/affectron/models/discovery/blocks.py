"""The blocks of a model in which an MLP can be, and the linear layers in a block."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import NamedTuple

from torch import nn

from affectron.models.layout import sizes
from affectron.models.wrappers import active_module

# Attributes in which the layers of a model differ and with which no MLP computes.
_NUMBERING = frozenset({"layer_idx", "layer_id", "layer_index", "layer_number"})


class Block(NamedTuple):
    """A module with its name and its number in the order of declaration."""

    number: int
    name: str
    module: nn.Module


def named_blocks(model: nn.Module) -> Iterator[Block]:
    """The modules in which an MLP can be, inner ones first: those inside a list of layers, or, in a model without such
    a list, all modules inside the model."""
    seen: set[int] = set()
    blocks: list[tuple[Block, bool]] = []

    def walk(prefix: str, module: nn.Module, in_list: bool) -> None:
        for name, child in module._modules.items():
            if child is None:
                continue
            _, child = active_module(child)
            if id(child) in seen or sizes(child) is not None or not (child._modules or _has_stack(child)):
                continue
            seen.add(id(child))
            number, path, deeper = len(seen), f"{prefix}.{name}" if prefix else name, in_list or name.isdigit()
            walk(path, child, deeper)
            blocks.append((Block(number, path, child), deeper))

    walk("", model, False)
    has_list = any(in_list for _, in_list in blocks)
    return (block for block, in_list in blocks if in_list or not has_list)


def _has_stack(module: nn.Module) -> bool:
    return any(parameter is not None and parameter.dim() == 3 for parameter in module._parameters.values())


def linears(block: nn.Module) -> dict[str, tuple[int, int]]:
    """(inputs, outputs) of each linear layer in ``block`` by its name there, in the order of declaration; layers inside
    another, as an adapter has them, are left out."""
    layers: dict[str, tuple[int, int]] = {}

    def walk(prefix: str, module: nn.Module) -> None:
        for name, child in module._modules.items():
            if child is None:
                continue
            within, inner = active_module(child)
            path = f"{prefix}{name}.{within}" if within else prefix + name
            size = sizes(inner)
            if size is None:
                walk(f"{path}.", inner)
            else:
                layers[path] = size

    walk("", block)
    return layers


def fed_widths(layers: Collection[tuple[int, int]]) -> set[int]:
    """The input widths F of those layers, (inputs, outputs) each, that another can feed: one with F outputs, or 2F."""
    widths = {outputs for _, outputs in layers}
    return {inputs for inputs, _ in layers if inputs in widths or 2 * inputs in widths}


def signature(block: nn.Module) -> tuple[object, ...]:
    """A key that is equal for blocks that differ in their weights alone, judged by classes, forwards, sizes and plain
    attributes. Valid within one model, because it tells objects apart by their identity."""

    def of(module: nn.Module) -> tuple[object, ...]:
        attributes = vars(module)
        forward = attributes.get("forward")
        plain = tuple(
            (key, value)
            for key, value in attributes.items()
            if isinstance(value, (bool, int, float, str, tuple)) and key not in _NUMBERING and key != "training"
        )
        dtypes = tuple(parameter.dtype for parameter in module._parameters.values() if parameter is not None)
        children = tuple((name, of(child)) for name, child in module._modules.items() if child is not None)
        function = getattr(forward, "__func__", forward)
        return type(module), id(function) if function else None, sizes(module), plain, dtypes, children

    return of(block)


def is_passthrough(module: nn.Module) -> bool:
    """Return whether the module returns its input in evaluation mode: identity and dropout."""
    return isinstance(module, (nn.Identity, nn.Dropout, nn.modules.dropout._DropoutNd))


def has_dropout(block: nn.Module) -> bool:
    """Return whether the block drops out anything in training mode."""
    return any(isinstance(m, nn.modules.dropout._DropoutNd) and m.p > 0 for m in block.modules())

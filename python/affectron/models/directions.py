"""Output directions: what one unit of a neuron's activation adds to the residual stream.

It is the neuron's column of the last linear layer, after the norms that the layer's output passes alone. Both are run,
not read: weights may be transposed, quantised or have an adapter, and no norm is known by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from affectron._internal.names import LAYERS
from affectron.errors import InputError
from affectron.models import parallel
from affectron.models.chain import Routed
from affectron.models.discovery.sites import find_sites
from affectron.models.forward import Reader, evaluating
from affectron.models.layout import Site
from affectron.ops.float64 import in_float64

# Tokens that are read to see what the layers do.
_TOKENS = 3
# Relative error of a change of a layer's output that is a multiple of what was added, in float32 and, in units of the
# dtype's own, in smaller ones.
_ERROR, _ROUNDING = 1e-3, 4


@torch.no_grad()
def output_directions(model: Any, neurons: Mapping[str, NDArray[np.int64]]) -> dict[str, Tensor]:
    """The output direction of neurons, site -> [K, H] in the model's dtype.

    With W the last linear layer of the site and N the norms that its output passes by itself (as in Gemma 2 and OLMo 2;
    none in most models), that of neuron i is c (N(W e_i) - N(W 0)), e_i being 1 at neuron i and 0 elsewhere; c is what
    the layer multiplies the sum by before it adds it to the residual stream (as Granite does; else 1).

    Args:
        model: a model of transformers.
        neurons: site -> int64 [K], indices of neurons.

    Returns:
        A site is left out where a layer does not add what its MLP gives to the residual stream (such as one with a norm
        after the sum), where it is an expert or belongs to no layer, and where the weights are spread over processes.
    """
    if parallel.tensor_group(model) is not None or parallel.is_fully_sharded(model):
        return {}
    try:
        reader = Reader(model, at=LAYERS)
    except InputError:  # its MLPs are not in the layers of one list
        return {}
    around = {module: layer for layer in reader.sites for module in layer.module.modules()}
    writers = [
        _Writer(site, around[site.module])
        for site in find_sites(model)
        if site.name in neurons and site.module in around and site.owner is None and site.expert is None
    ]
    with evaluating(model):
        _run(reader, writers)
        return {
            writer.site.name: writer.directions(neurons[writer.site.name])
            for writer in writers if writer.factor is not None
        }  # fmt: skip


class _Writer:
    """The modules between the activation of a site and the residual stream.

    Attributes:
        site, layer: the site, and the output of its layer.
        last: its last linear layer.
        norms: the modules that the output of ``last`` passes by itself.
        factor: c; None where the layer does not add what they give.
    """

    def __init__(self, site: Site, layer: Site) -> None:
        self.site, self.layer = site, layer
        self.last = site.module.get_submodule(site.structure.last)
        self.norms: list[nn.Module] = []
        self.given: Tensor  # an input of ``last``
        self.output: Tensor  # what the layer has of the MLP so far
        self.factor: float | None = None

    def see(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """A forward hook of the modules in the layer: follow the output of ``last``."""
        if module is self.last:
            self.given, self.output, self.norms = args[0], output, []
        elif (
            hasattr(self, "output")
            and args
            and isinstance(args[0], Tensor)
            and isinstance(output, Tensor)
            and args[0].shape == self.output.shape == output.shape
            and torch.equal(args[0], self.output)
            and not torch.equal(output, self.output)
        ):
            self.norms.append(module)
            self.output = output

    @property
    def end(self) -> nn.Module:
        """The module whose output is added to the residual stream."""
        return self.norms[-1] if self.norms else self.last

    def directions(self, index: NDArray[np.int64]) -> Tensor:
        """[K, H] of the neurons ``index``."""
        one_hot = self.given.new_zeros(len(index) + 1, self.site.neurons)
        one_hot[torch.arange(len(index)), torch.from_numpy(index)] = 1
        assert self.factor is not None
        output: Tensor = self.last(one_hot)
        for norm in self.norms:
            output = norm(output)
        return (output[:-1] - output[-1]) * self.factor


def _run(reader: Reader, writers: Sequence[_Writer]) -> None:
    """Find the norms of the writers, and the factor of each: what a change of its output makes of the layer's.

    A row of the second forward changes the output of one writer, so that no other layer has changed before it.
    """
    layers = [writer.layer for writer in writers]
    vocabulary = reader.model.config.get_text_config().vocab_size
    row = np.arange(_TOKENS)[None] + vocabulary // 2  # special tokens stand at the ends
    size: dict[int, float] = {}

    def measure(position: int, h: Tensor, gate: Tensor | None, routed: Routed | None = None) -> Tensor:
        size[position] = float(h[0, -1].abs().max())
        return h

    with ExitStack() as undo, reader.attach(_unused, measure, layers):
        for writer in writers:
            for module in writer.layer.module.modules():
                if module is writer.last or not module._modules:
                    undo.callback(module.register_forward_hook(writer.see).remove)
        reader(row, np.ones_like(row))

    added = [_noise(writer.output) * size[position] for position, writer in enumerate(writers)]

    def compare(position: int, h: Tensor, gate: Tensor | None, routed: Routed | None = None) -> Tensor:
        change, given = map(in_float64, (h[position + 1, -1] - h[0, -1], added[position].to(h.device)))
        factor = float(change @ given / (given @ given))
        error = max(_ERROR, _ROUNDING * torch.finfo(h.dtype).eps)
        if factor and float((change - factor * given).norm()) <= error * abs(factor) * float(given.norm()):
            writers[position].factor = 1.0 if abs(factor - 1) <= error else factor
        return h

    rows = np.repeat(row, len(writers) + 1, axis=0)
    with ExitStack() as undo, reader.attach(_unused, compare, layers):
        for position, writer in enumerate(writers):

            def change(_module: nn.Module, _args: Any, output: Tensor, position: int = position) -> Tensor:
                changed = output.clone()
                changed.view(*rows.shape, -1)[position + 1] += added[position]  # OPT flattens its rows
                return changed

            undo.callback(writer.end.register_forward_hook(change).remove)
        reader(rows, np.ones_like(rows))


def _noise(like: Tensor) -> Tensor:
    """Numbers [H] within ±1 that have no direction in common with any norm's."""
    noise = torch.rand(like.shape[-1], generator=torch.Generator().manual_seed(0)) * 2 - 1
    return noise.to(like.device, like.dtype)


def _unused(position: int, gate: Tensor, up: Tensor | None, act: str, routed: Routed | None = None) -> Tensor:
    raise AssertionError("a layer's output is given, and not computed")

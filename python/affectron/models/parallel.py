"""Models whose weights are spread over processes: which neurons are here, and who computes together.

Tensor parallel, by the plan of transformers: a process holds a run of each site's neurons, and sees all tokens. Fully
sharded (FSDP2): a process holds a part of every weight, gathers the whole for each forward, and reads tokens of its
own. Both are found from the weights, which are DTensors then.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Shard
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from affectron.errors import InputError
from affectron.models.layout import Site

# What transformers calls the dimension of the mesh that a tensor parallel plan shards over.
_TENSOR_PARALLEL = "tp"


def _spread(module: nn.Module) -> Iterator[tuple[DTensor, int, str | None]]:
    """(weight, dimension of its mesh, that dimension's name) of each weight that lies on a mesh."""
    for weight in module.parameters():
        if isinstance(weight, DTensor):
            names = weight.device_mesh.mesh_dim_names or (None,) * weight.device_mesh.ndim
            for dimension, name in enumerate(names):
                yield weight, dimension, name


def tensor_group(model: nn.Module) -> dist.ProcessGroup | None:
    """The processes that share out the neurons of a tensor parallel model; None for any other."""
    for weight, dimension, name in _spread(model):
        if name == _TENSOR_PARALLEL and weight.device_mesh.size(dimension) > 1:
            return weight.device_mesh.get_group(dimension)
    return None


def is_fully_sharded(model: nn.Module) -> bool:
    """Whether every forward gathers weights from other processes, which have to make one at the same time."""
    return any(name != _TENSOR_PARALLEL and w.device_mesh.size(place) > 1 for w, place, name in _spread(model))


def neurons_here(site: Site, width: int) -> slice:
    """Which of the site's neurons an activation of ``width`` neurons holds: all, or under tensor parallelism the run of
    them that this process computes. The weights alone do not tell: a plan may gather what it has sharded."""
    if width == site.neurons:
        return slice(0, width)
    for weight, dimension, name in _spread(site.module):
        placement = weight.placements[dimension]
        # The last linear is the one that is sharded by its inputs.
        if name == _TENSOR_PARALLEL and isinstance(placement, Shard) and placement.dim % weight.ndim == weight.ndim - 1:
            whole = torch.Size((*weight.shape[:-1], site.neurons))
            mesh = weight.device_mesh[_TENSOR_PARALLEL] if weight.device_mesh.ndim > 1 else weight.device_mesh
            shape, offset = compute_local_shape_and_global_offset(whole, mesh, [placement])
            if shape[-1] == width:
                return slice(offset[-1], offset[-1] + width)
    raise RuntimeError(f"{site.name}: the activation has {width} neurons, expected {site.neurons}, or a run of them")


def assemble(local: Tensor, here: slice, neurons: int, group: dist.ProcessGroup) -> Tensor:
    """[..., neurons] from each process' run of them: exactly its bits, as zeros are added to them as integers."""
    whole = local.new_zeros((*local.shape[:-1], neurons))
    whole[..., here] = local
    dist.all_reduce(whole.view(torch.int64 if local.element_size() == 8 else torch.int32), group=group)
    return whole


def named_weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every parameter by name, whole: gathered from a mesh, for which every process has to ask, or read from where
    accelerate keeps what ``device_map`` has placed on no device. Quantised ones are given as they compute."""
    for name, parameter in model.named_parameters():
        weight = parameter.detach()
        if isinstance(weight, DTensor):
            weight = weight.full_tensor()
        elif weight.is_meta:
            owner, _, own = name.rpartition(".")
            hook = getattr(model.get_submodule(owner), "_hf_hook", None)
            kept = [one.weights_map for one in getattr(hook, "hooks", [hook]) if getattr(one, "weights_map", None)]
            if not kept:
                raise InputError(f"{name} has no values: the model is a skeleton on the device meta")
            weight = kept[0][own]
        elif type(weight) is not Tensor:
            weight = weight.dequantize()
        yield name, weight


def takes(model: Any, argument: str) -> bool:
    """Whether the model's forward has an argument of this name."""
    return argument in inspect.signature(model.forward).parameters

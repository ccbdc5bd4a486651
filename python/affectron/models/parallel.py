"""Models whose weights are spread over processes: the neurons of a process, and the processes of a group.

Tensor parallel, by the plan of transformers: a process holds a run of each site's neurons, and sees all tokens. Fully
sharded (FSDP2): a process holds a part of every weight, gathers the whole for each forward, and reads its own tokens.
The weights, which are DTensors then, show both.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Shard
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from affectron.errors import InputError
from affectron.models.layout import Site

# Name that transformers gives to the dimension of the mesh that a tensor parallel plan shards over.
_TENSOR_PARALLEL = "tp"


def _spread(module: nn.Module) -> Iterator[tuple[DTensor, int, str | None]]:
    """(weight, dimension of its mesh, name of that dimension) of each weight on a mesh."""
    for weight in module.parameters():
        if isinstance(weight, DTensor):
            names = weight.device_mesh.mesh_dim_names or (None,) * weight.device_mesh.ndim
            for dimension, name in enumerate(names):
                yield weight, dimension, name


def tensor_group(model: nn.Module) -> dist.ProcessGroup | None:
    """The processes that share out the neurons of a tensor parallel model; None for any other model."""
    for weight, dimension, name in _spread(model):
        if name == _TENSOR_PARALLEL and weight.device_mesh.size(dimension) > 1:
            return weight.device_mesh.get_group(dimension)
    return None


def is_fully_sharded(model: nn.Module) -> bool:
    """Return whether every forward gathers weights from other processes, which must run one at the same time."""
    return any(
        name != _TENSOR_PARALLEL and weight.device_mesh.size(dimension) > 1
        for weight, dimension, name in _spread(model)
    )


def local_neurons(site: Site, width: int) -> slice:
    """The neurons of the site that an activation of ``width`` neurons holds: all, or under tensor parallelism the run
    that this process computes. The weights alone do not show it, because a plan may gather what it has sharded.

    Raises:
        RuntimeError: no run of the site's neurons has this width.
    """
    if width == site.neurons:
        return slice(0, width)
    for weight, dimension, name in _spread(site.module):
        placement = weight.placements[dimension]
        # The last linear layer is the one sharded by its inputs.
        if name == _TENSOR_PARALLEL and isinstance(placement, Shard) and placement.dim % weight.ndim == weight.ndim - 1:
            whole = torch.Size((*weight.shape[:-1], site.neurons))
            mesh = weight.device_mesh[_TENSOR_PARALLEL] if weight.device_mesh.ndim > 1 else weight.device_mesh
            shape, offset = compute_local_shape_and_global_offset(whole, mesh, [placement])
            if shape[-1] == width:
                return slice(offset[-1], offset[-1] + width)
    raise RuntimeError(f"{site.name}: the activation has {width} neurons, expected {site.neurons}, or a run of them")


def assemble(local: Tensor, neurons: slice, total: int, group: dist.ProcessGroup) -> Tensor:
    """[..., total] from the ``neurons`` of each process, of which it has the values ``local``: bit for bit, because the
    values are padded with zeros and added as integers."""
    whole = local.new_zeros((*local.shape[:-1], total))
    whole[..., neurons] = local
    dist.all_reduce(whole.view(torch.int64 if local.element_size() == 8 else torch.int32), group=group)
    return whole


def named_weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every parameter by name, whole.

    One on a mesh is gathered, for which every process must ask; one that ``device_map`` has put on no device is read
    from where accelerate keeps it; a quantised one is dequantised.

    Raises:
        InputError: a parameter has no values, because the model is on the device meta.
    """
    for name, parameter in model.named_parameters():
        weight = parameter.detach()
        if isinstance(weight, DTensor):
            weight = weight.full_tensor()
        elif weight.is_meta:
            parent, _, key = name.rpartition(".")
            hook = getattr(model.get_submodule(parent), "_hf_hook", None)
            maps = [part.weights_map for part in getattr(hook, "hooks", [hook]) if getattr(part, "weights_map", None)]
            if not maps:
                raise InputError(f"{name} has no values: the model is a skeleton on the device meta")
            weight = maps[0][key]
        elif type(weight) is not Tensor:
            weight = weight.dequantize()
        yield name, weight

"""A pretended CUDA device, to rehearse these tests on a machine without one: values are stored and computed on the CPU,
and a call that mixes devices is refused as CUDA refuses it.

Streams, graphs, Triton and the CUDA kernels cannot be rehearsed.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map_only

_DEVICE = torch.device("cuda", 0)
_aten = torch.ops.aten
# Calls that take tensors of two devices.
_COPIES = {_aten.copy_.default, _aten._to_copy.default}
_INDEXING = {_aten.index.Tensor, _aten.index_put.default, _aten.index_put_.default, _aten._index_put_impl_.default}


class Pretended(Tensor):
    """A tensor on the CPU that says it is on a CUDA device."""

    inner: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner: Tensor) -> Pretended:
        self = Tensor._make_wrapper_subclass(
            cls, inner.size(), strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype
        )
        self.inner = inner
        return self

    # Overridden here and not set in torch: a build without CUDA has no guard for such a device.
    device = property(lambda self: _DEVICE)  # type: ignore[assignment]
    is_cuda = property(lambda self: True)  # type: ignore[assignment]
    is_cpu = property(lambda self: False)  # type: ignore[assignment]

    def get_device(self) -> int:
        return 0

    def __repr__(self) -> str:  # type: ignore[override]
        return f"Pretended({self.inner})"

    def tolist(self) -> Any:
        return self.inner.tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        tensors = [t for t in tree_flatten((args, kwargs))[0] if isinstance(t, Tensor)]
        strangers = [t for t in tensors if not isinstance(t, Pretended) and t.dim() > 0]
        if strangers and func not in _COPIES and not (func in _INDEXING and isinstance(args[0], Pretended)):
            raise RuntimeError(f"Expected all tensors to be on the same device: {func} got cpu and cuda:0")
        elsewhere = func is _aten.copy_.default and not isinstance(args[0], Pretended)
        if kwargs.get("device") is not None:
            elsewhere = kwargs["device"].type != "cuda"
            kwargs["device"] = torch.device("cpu")
        outer = {id(t.inner): t for t in tensors if isinstance(t, Pretended)}
        args, kwargs = tree_map_only(Pretended, lambda t: t.inner, (args, kwargs))
        result = func(*args, **kwargs)
        if elsewhere:
            return result
        return tree_map_only(Tensor, lambda t: outer[id(t)] if id(t) in outer else Pretended(t), result)


class PretendedDevice(TorchFunctionMode):
    """Inside the ``with`` block, ``device="cuda"`` and ``.cuda()`` give pretended tensors."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (Tensor.cuda, Tensor.cpu):
            func, args = Tensor.to, (args[0], _DEVICE if func is Tensor.cuda else torch.device("cpu"))
        if func is Tensor.to:
            wanted = next((torch.device(a) for a in (*args[1:], kwargs.pop("device", None)) if _is_device(a)), None)
            rest = [a for a in args[1:] if not _is_device(a)]
            value = args[0]
            if wanted is not None and wanted.type != value.device.type:
                value = Pretended(value.clone()) if wanted.type == "cuda" else value.inner.clone()
            return func(value, *rest, **kwargs) if rest or kwargs else value
        device = kwargs.get("device")
        if _is_device(device) and torch.device(device).type == "cuda" and not _has_pretended(args):
            return tree_map_only(Tensor, Pretended, func(*args, **{**kwargs, "device": "cpu"}))
        return func(*args, **kwargs)


def _is_device(value: Any) -> bool:
    return isinstance(value, torch.device) or (isinstance(value, str) and value.split(":")[0] in ("cuda", "cpu"))


def _has_pretended(args: Any) -> bool:
    return any(isinstance(a, Pretended) for a in tree_flatten(args)[0])

"""A pretended device, to rehearse tests on a machine without it: values are stored and computed on the CPU, and a call
that mixes devices is refused as CUDA refuses it.

Streams, graphs, Triton and the CUDA kernels cannot be rehearsed.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map_only

_aten = torch.ops.aten
# Calls that take tensors of two devices.
_COPIES = {_aten.copy_.default, _aten._to_copy.default}
_INDEXING = {_aten.index.Tensor, _aten.index_put.default, _aten.index_put_.default, _aten._index_put_impl_.default}


class Pretended(Tensor):
    """A tensor on the CPU that says it is on another device."""

    inner: Tensor
    pretends: PretendedDevice
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner: Tensor, pretends: PretendedDevice) -> Pretended:
        if inner.dtype is torch.float64 and not pretends.float64:
            raise TypeError(f"Cannot convert a tensor to float64, which {pretends.device} does not support")
        self = Tensor._make_wrapper_subclass(
            cls, inner.size(), strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype
        )
        self.inner, self.pretends = inner, pretends
        return self

    # Overridden here and not set in torch: a build without CUDA has no guard for such a device.
    device = property(lambda self: self.pretends.device)  # type: ignore[assignment]
    is_cuda = property(lambda self: self.device.type == "cuda")  # type: ignore[assignment]
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
        pretends = next(t.pretends for t in tensors if isinstance(t, Pretended))
        if torch._C._current_graph_task_id() >= 0:  # autograd makes its zeros where torch has the tensors, on the CPU
            args, kwargs = tree_map_only(Tensor, pretends.there, (args, kwargs))
            tensors = [t for t in tree_flatten((args, kwargs))[0] if isinstance(t, Tensor)]
        if func.namespace == "affectron" and pretends.device.type != "cuda":
            # The implementation for this device, on the pretended tensors. The mode is off while it passes a call on.
            with pretends:
                keys = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, pretends.device.type.upper()))
                return func.redispatch(keys, *args, **kwargs)
        strangers = [t for t in tensors if not isinstance(t, Pretended) and t.dim() > 0]
        if strangers and func not in _COPIES and not (func in _INDEXING and isinstance(args[0], Pretended)):
            raise RuntimeError(f"Expected all tensors to be on the same device: {func} got cpu and {pretends.device}")
        elsewhere = func is _aten.copy_.default and not isinstance(args[0], Pretended)
        if kwargs.get("device") is not None:
            elsewhere = kwargs["device"].type == "cpu"
            kwargs["device"] = torch.device("cpu")
        outer = {id(t.inner): t for t in tensors if isinstance(t, Pretended)}
        args, kwargs = tree_map_only(Pretended, lambda t: t.inner, (args, kwargs))
        result = func(*args, **kwargs)
        if elsewhere:
            return result
        return tree_map_only(Tensor, lambda t: outer[id(t)] if id(t) in outer else Pretended(t, pretends), result)


class PretendedDevice(TorchFunctionMode):
    """Inside the ``with`` block, a device of type ``kind``, such as ``device="cuda"`` and ``.cuda()``, gives pretended
    tensors. Without ``float64`` it refuses that dtype."""

    def __init__(self, kind: str = "cuda", float64: bool = True) -> None:
        super().__init__()
        self.device, self.float64 = torch.device(kind, 0), float64

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (Tensor.cuda, Tensor.cpu):
            func, args = Tensor.to, (args[0], self.device if func is Tensor.cuda else torch.device("cpu"))
        if func is Tensor.to:
            return self._moved(*args, **kwargs)
        device = kwargs.get("device")
        if self._is_device(device) and torch.device(device).type == self.device.type and not _has_pretended(args):
            made = func(*args, **{**kwargs, "device": "cpu"})
            return tree_map_only(Tensor, lambda tensor: Pretended(tensor, self), made)
        return func(*args, **kwargs)

    def _moved(self, value: Tensor, *args: Any, **kwargs: Any) -> Any:
        args = tuple(part for a in args for part in ((a.device, a.dtype) if isinstance(a, Tensor) else (a,)))
        places = (*args, kwargs.pop("device", None))
        wanted = next((torch.device(place) for place in places if self._is_device(place)), value.device)
        rest = [a for a in args if isinstance(a, torch.dtype)]  # flags tell about waiting and copies alone

        def converted(tensor: Tensor) -> Tensor:
            return tensor.to(*rest, **kwargs) if rest or kwargs else tensor

        if wanted.type == value.device.type:
            return converted(value)
        # A dtype is converted on the CPU on the way there, and on the device on the way back.
        return _Copy.apply(converted(value), self)

    def there(self, tensor: Tensor) -> Pretended:
        """The tensor as one that is on the device."""
        return tensor if isinstance(tensor, Pretended) else Pretended(tensor, self)

    def _is_device(self, value: Any) -> bool:
        if isinstance(value, str):
            return value.split(":")[0] in (self.device.type, "cpu")
        return isinstance(value, torch.device)


class _Copy(torch.autograd.Function):
    """A copy to the pretended device, or of a tensor that is there to the CPU."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, pretends: PretendedDevice) -> Tensor:
        ctx.pretends = pretends
        return value.inner.clone() if isinstance(value, Pretended) else Pretended(value.clone(), pretends)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _Copy.apply(grad, ctx.pretends), None


def _has_pretended(args: Any) -> bool:
    return any(isinstance(a, Pretended) for a in tree_flatten(args)[0])

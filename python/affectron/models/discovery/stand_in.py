"""Stand-ins: copies of a block that run without its weights and record the calls of their layers.

A stand-in is a copy of the block's module tree on the CPU (on a GPU if the block is there). Its linear layers return
prepared numbers of the right width. So it costs the same for a model of any size, and nothing of the model itself is
changed or called.
"""

from __future__ import annotations

import copy
import inspect
from collections import OrderedDict
from collections.abc import Callable
from types import MethodType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from affectron.models.layout import sizes
from affectron.models.wrappers import active_module

#: Tokens that a stand-in reads.
TOKENS = 3

_HOOKS = (
    "_backward_hooks", "_backward_pre_hooks", "_forward_hooks", "_forward_pre_hooks",
    "_forward_hooks_with_kwargs", "_forward_pre_hooks_with_kwargs", "_forward_hooks_always_called",
)  # fmt: skip

Numbers = Callable[[str, tuple[int, ...]], Tensor]
"""``numbers(kind, shape)``: the output of a leaf of this kind, of this shape. It differs from call to call and is the
same from run to run."""


class Call(NamedTuple):
    """A call of a leaf of the stand-in.

    Attributes:
        name: name of the leaf in the block.
        kind: ``linear``, ``weights`` (another leaf with parameters for its features) or ``function`` (any other leaf).
        input, output: its first argument and its result.
    """

    name: str
    kind: str
    input: Tensor
    output: Tensor


class Recording(NamedTuple):
    """A run of a stand-in: its input [1, T, width], the calls of its leaves in order, its output (None on failure)."""

    x: Tensor
    calls: list[Call]
    output: Any


def wide_numbers() -> Numbers:
    """Numbers in which a clamp, a multiplier, a threshold or an activation function that differs in the fourth digit
    shows: half of them within ±6, where activation functions bend, half spread over magnitudes from 1e-4 to 1e4."""
    generator = torch.Generator().manual_seed(0)

    def numbers(_kind: str, shape: tuple[int, ...]) -> Tensor:
        random = torch.rand((3, *shape), generator=generator)
        near = random[0] * 12 - 6
        far = (10 ** (random[1] * 8 - 4)).copysign(near)
        return torch.where(random[2] < 0.5, near, far)

    return numbers


def mild_numbers(change_first_token: bool) -> Numbers:
    """Numbers within ±1, so that no softmax is sharp enough to hide the tokens that attention reads."""
    generator = torch.Generator().manual_seed(0)

    def numbers(kind: str, shape: tuple[int, ...]) -> Tensor:
        out = torch.rand(shape, generator=generator) * 2 - 1
        if change_first_token and kind == "linear":
            out.view(-1, shape[-1])[0] *= -0.5
        return out

    return numbers


def run(block: nn.Module, width: int, numbers: Numbers | None = None) -> Recording:
    """Run a stand-in of ``block`` on :data:`TOKENS` tokens of ``width`` numbers.

    Never raises: calls up to a failure count.
    """
    device = next((p.device for p in block.parameters()), torch.device("cpu"))
    if device.type not in ("cpu", "cuda"):
        device = torch.device("cpu")
    x = wide_numbers()("input", (1, TOKENS, width)).to(device)
    calls: list[Call] = []
    output = None
    try:
        stand_in = copied(block, device, numbers or wide_numbers(), calls)
        arguments = [x, *(None for _ in _required(stand_in)[1:])]
        with torch.autocast(device.type, enabled=False):
            output = stand_in(*arguments)
    except Exception:  # foreign code on made-up arguments: an exception here is no error of the model
        pass
    return Recording(x, calls, output)


def _required(block: nn.Module) -> list[str]:
    """Names of the forward's positional arguments without a default."""
    parameters = inspect.signature(block.forward).parameters.values()
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [p.name for p in parameters if p.default is p.empty and p.kind in kinds]


def copied(block: nn.Module, device: torch.device, numbers: Numbers, calls: list[Call]) -> Any:
    """A stand-in of ``block`` on ``device`` whose leaves append to ``calls``."""
    return _Copier(device, numbers, calls).copy(block, "")


class _Copier:
    """Copies modules; a module that appears twice has one copy."""

    def __init__(self, device: torch.device, numbers: Numbers, calls: list[Call]) -> None:
        self.device, self.numbers, self.calls = device, numbers, calls
        self.copies: dict[int, nn.Module] = {}

    def copy(self, module: nn.Module, name: str) -> nn.Module:
        module = getattr(module, "stands_for", (module,))[0]  # a kernel that is attached now must not be called
        within, module = active_module(module)
        # A kernel takes the place of a function outside its wrapper, so a function is known by the wrapper's name.
        if within and _kind(module) != "function":
            name = f"{name}.{within}"
        if id(module) in self.copies:
            return self.copies[id(module)]
        twin: Any = copy.copy(module)
        self.copies[id(module)] = twin
        attributes = vars(twin)
        attributes["_modules"] = {
            key: None if child is None else self.copy(child, f"{name}.{key}" if name else key)
            for key, child in module._modules.items()
        }
        attributes["_parameters"] = {
            key: None if value is None else nn.Parameter(torch.ones((), device=self.device).expand(value.shape), False)
            for key, value in module._parameters.items()
        }
        attributes["_buffers"] = {
            key: None if value is None else self.buffer(value) for key, value in module._buffers.items()
        }
        attributes.update({hooks: OrderedDict() for hooks in _HOOKS}, training=False, _compiled_call_impl=None)
        _rebind(module, twin)
        kind = _kind(module)
        if kind is not None:
            attributes["forward"] = self.recorded(name, kind, sizes(module), twin.forward)
        return twin  # type: ignore[no-any-return]

    def buffer(self, value: Tensor) -> Tensor:
        if value.is_meta:
            return torch.zeros(value.shape, dtype=value.dtype, device=self.device)
        return value.to(self.device)

    def recorded(
        self, name: str, kind: str, size: tuple[int, int] | None, function: Callable[..., Any]
    ) -> Callable[..., Any]:
        """The forward of a leaf: prepared numbers in place of its product, the function itself if it has no weights."""

        def forward(value: Tensor, *args: Any, **kwargs: Any) -> Any:
            if kind == "function":
                out = function(value, *args, **kwargs)
            else:
                if size is not None and value.shape[-1] != size[0]:
                    raise ValueError
                width = value.shape[-1] if size is None else size[1]
                out = self.numbers(kind, (*value.shape[:-1], width)).to(self.device)
                if kind == "weights":  # such as a norm, whose output depends on its input
                    out = out + value
            if isinstance(out, Tensor) and out.dim():
                self.calls.append(Call(name, kind, value, out))
            return out

        return forward


def _kind(module: nn.Module) -> str | None:
    """The kind of a leaf (:class:`Call`), None for other modules. An activation function may have parameters, but not
    one for each feature."""
    if sizes(module) is not None:
        return "linear"
    if module._modules:
        return None
    parameters = (parameter for parameter in module._parameters.values() if parameter is not None)
    return "weights" if any(parameter.numel() > 1 for parameter in parameters) else "function"


def _rebind(module: nn.Module, twin: nn.Module) -> None:
    """Bind a forward on the instance, or the one that accelerate wraps there, to the twin. Drop any other, so that the
    class's forward runs."""
    attributes = vars(twin)
    forward = attributes.get("forward")
    if forward is None:
        return
    wrapped = attributes.get("_old_forward", forward)  # accelerate keeps the wrapped forward there
    if getattr(wrapped, "__self__", None) is module:
        attributes["forward"] = MethodType(wrapped.__func__, twin)
    else:
        del attributes["forward"]

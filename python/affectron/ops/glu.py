"""ops.glu: act(gate) up."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from affectron.ops import native, reference
from affectron.ops.library import LIBRARY, as_rows, check_activation, define


def _fake(gate: Tensor, up: Tensor | None, act: str) -> Tensor:
    return torch.empty_like(gate, memory_format=torch.contiguous_format)


_glu = define("glu(Tensor gate, Tensor? up, str act) -> Tensor", native.glu, reference.glu, _fake)


def activation_gradients(gate: Tensor, up: Tensor | None, act: str, grad: Tensor) -> tuple[Tensor, Tensor | None]:
    """Gradients of act(gate) up for gate and up, given that of the product: fp32 inside, rounded once."""
    g, dh = gate.float(), grad.float()
    if act == "silu":
        s = torch.sigmoid(g)
        value, slope = g * s, s * (1 + g * (1 - s))
    elif act == "gelu":
        cdf = 0.5 * (1 + torch.erf(g * 0.5**0.5))
        value, slope = g * cdf, cdf + g * torch.exp(-0.5 * g * g) * (2 * torch.pi) ** -0.5
    elif act == "gelu_tanh":
        s = torch.sigmoid(2 * (2 / torch.pi) ** 0.5 * (g + 0.044715 * g**3))
        value, slope = g * s, s + g * s * (1 - s) * 2 * (2 / torch.pi) ** 0.5 * (1 + 3 * 0.044715 * g * g)
    else:
        r = torch.relu(g)
        value, slope = (r, (g > 0).float()) if act == "relu" else (r * r, 2 * r)
    if up is None:
        return (dh * slope).to(gate.dtype), None
    return (dh * slope * up.float()).to(gate.dtype), (dh * value).to(up.dtype)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    gate, up, ctx.act = inputs
    ctx.save_for_backward(gate, up)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None]:
    gate, up = ctx.saved_tensors
    return (*activation_gradients(gate, up, ctx.act, grad), None)


torch.library.register_autograd("affectron::glu", _backward, setup_context=_setup, lib=LIBRARY)


def glu(gate: Tensor, up: Tensor | None = None, act: str = "silu") -> Tensor:
    """act(gate) up, the activation of a gated MLP; act(gate) alone where ``up`` is None, that of a plain one.

    Rounds as the eager model does: after the activation and again after the product.

    Args:
        gate: fp32, bf16 or fp16 [..., F], last stride 1; any stride between rows, so the two halves of one
            [N, 2F] tensor will do.
        up: like ``gate`` in shape, dtype and device, or None.
        act: silu, gelu (erf), gelu_tanh, relu or relu2.

    Returns:
        A contiguous tensor like ``gate``. Differentiable in gate and up.

    Raises:
        TypeError: a dtype is not one of the three, or the two differ.
        ValueError: shapes or devices differ, the last stride is not 1, or ``act`` is unknown.
    """
    check_activation(act)
    rows = as_rows("gate", gate)
    up_rows = None if up is None else as_rows("up", up, gate)
    h: Tensor = _glu(rows, up_rows, act)
    return h if gate.dim() == 2 else h.view(gate.shape)

"""ops.glu: act(gate) up."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from affectron.ops import native, reference
from affectron.ops.glu_backward import glu_backward
from affectron.ops.library import LIBRARY, as_rows, check_activation, define


def _fake(gate: Tensor, up: Tensor | None, act: str) -> Tensor:
    return torch.empty_like(gate, memory_format=torch.contiguous_format)


_glu = define("glu(Tensor gate, Tensor? up, str act) -> Tensor", native.glu, reference.glu, _fake)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    gate, up, ctx.act = inputs
    ctx.save_for_backward(gate, up)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None]:
    gate, up = ctx.saved_tensors
    if torch.is_grad_enabled():  # create_graph: plain torch can be differentiated again
        return (*reference.activation_gradients(gate, up, ctx.act, grad), None)
    return (*glu_backward(grad, gate, up, ctx.act), None)


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

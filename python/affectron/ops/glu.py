"""ops.glu: act(gate) up."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from affectron.ops._checks import as_rows, check_activation
from affectron.ops._registry import LIBRARY, kernel_op
from affectron.ops.backends import reference
from affectron.ops.glu_backward import glu_backward


@kernel_op("glu(Tensor gate, Tensor? up, str act) -> Tensor")
def _glu(gate: Tensor, up: Tensor | None, act: str) -> Tensor:
    return torch.empty_like(gate, memory_format=torch.contiguous_format)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    gate, up, ctx.act = inputs
    ctx.save_for_backward(gate, up)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None]:
    gate, up = ctx.saved_tensors
    if torch.is_grad_enabled():  # create_graph=True: only plain torch can be differentiated again
        return (*reference.activation_gradients(gate, up, ctx.act, grad), None)
    return (*glu_backward(grad, gate, up, ctx.act), None)


torch.library.register_autograd("affectron::glu", _backward, setup_context=_setup, lib=LIBRARY)


def glu(gate: Tensor, up: Tensor | None = None, act: str = "silu") -> Tensor:
    """Activation of a gated MLP, act(gate) up; of a plain MLP, act(gate), where ``up`` is None.

    It is rounded as the eager model rounds it: after the activation and again after the product.

    Args:
        gate: fp32, bf16 or fp16 [..., F], last stride 1. The stride between rows is free: the two halves of one
            [N, 2F] tensor need no copy.
        up: like ``gate`` in shape, dtype and device, or None.
        act: silu, gelu (erf), gelu_tanh, relu or relu2.

    Returns:
        A contiguous tensor like ``gate``. Differentiable in gate and up.

    Raises:
        TypeError: a dtype is not one of the three, or the dtypes of gate and up differ.
        ValueError: shapes or devices differ, the last stride is not 1, or ``act`` is unknown.
    """
    check_activation(act)
    rows = as_rows("gate", gate)
    up_rows = None if up is None else as_rows("up", up, gate)
    h = _glu(rows, up_rows, act)
    return h if gate.dim() == 2 else h.view(gate.shape)

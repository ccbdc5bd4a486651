"""ops.glu_attribution: act(gate) up, whose backward also sums the contribution of each neuron."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from affectron.ops._checks import as_rows, check_activation
from affectron.ops._registry import LIBRARY, torch_op
from affectron.ops.glu import glu
from affectron.ops.glu_backward import glu_backward
from affectron.ops.segments import SegmentPlan, plan_for


def _forward(gate: Tensor, up: Tensor | None, order: Tensor, tiles: Tensor, sums: Tensor, act: str) -> Tensor:
    return glu(gate, up, act)


@torch_op(
    "glu_attribution(Tensor gate, Tensor? up, Tensor order, Tensor tiles, Tensor sums, str act) -> Tensor", _forward
)
def _glu_attribution(gate: Tensor, up: Tensor | None, order: Tensor, tiles: Tensor, sums: Tensor, act: str) -> Tensor:
    return torch.empty_like(gate, memory_format=torch.contiguous_format)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    gate, up, order, tiles, sums, ctx.act = inputs
    ctx.save_for_backward(gate, up, order, tiles)
    ctx.sums = sums  # not by save_for_backward, which refuses a tensor that an earlier backward has added to


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    if torch.is_grad_enabled():
        raise RuntimeError("glu_attribution has no second derivative")
    gate, up, order, tiles = ctx.saved_tensors
    # Under a compiler, sum into a new tensor and add it: where a library op writes to a slice, inductor (torch 2.13)
    # loses the slice's offset, and add_ keeps it.
    sums = torch.zeros_like(ctx.sums) if torch.compiler.is_compiling() else ctx.sums
    gradients = glu_backward(grad, gate, up, ctx.act, order, tiles, sums)
    if sums is not ctx.sums:
        ctx.sums.add_(sums)
    return (*gradients, None, None, None, None)


torch.library.register_autograd("affectron::glu_attribution", _backward, setup_context=_setup, lib=LIBRARY)


def glu_attribution(
    gate: Tensor, up: Tensor | None, sums: Tensor, segments: Tensor | SegmentPlan, act: str = "silu"
) -> Tensor:
    """Output of :func:`ops.glu`, bit for bit, whose backward also adds each neuron's contribution to ``sums``.

    Given the gradient of the output h, backward computes the gradients of gate and up as :func:`ops.glu` does. In the
    same pass it adds h times its gradient, of every row, to ``sums`` at the row's segment. This gradient x activation
    is, to first order, what the differentiated value loses when the neuron is set to zero. Each backward adds once,
    even if checkpointing has computed the output again; the forward does not touch ``sums``.

    The products take the rounded h. The amount added to a sum is within 2^-20 of the sum of the products' absolute
    values; adding it to the earlier value of the sum rounds once more. A NaN or an infinity shows in the sum. The same
    shapes and segments give the same bits, for any number of threads.

    Args:
        gate, up, act: as for :func:`ops.glu`.
        sums: fp32 [S, F], contiguous, one row for each segment (a sentence, say); requires no gradient.
        segments: int32 or int64 [N], the segment of each row of the flattened ``gate``, -1 where it is not counted;
            or a SegmentPlan of them, which all layers share.

    Returns:
        A contiguous tensor like ``gate``. Differentiable once, in gate and up.

    Raises:
        TypeError, ValueError: as :func:`ops.glu`; or ``sums`` or ``segments`` is not as described here.
        IndexError: a segment is outside [-1, S) (checked on the CPU).
        Nothing has been written then.
    """
    check_activation(act)
    rows = as_rows("gate", gate)
    up_rows = None if up is None else as_rows("up", up, gate)
    f = rows.shape[1]
    if sums.dtype != torch.float32:
        raise TypeError(f"sums has dtype {sums.dtype}, expected float32")
    if sums.dim() != 2 or sums.shape[1] != f or not sums.is_contiguous():
        raise ValueError(f"sums has shape {list(sums.shape)}, expected contiguous [segments, {f}]")
    if sums.requires_grad:
        raise ValueError("sums requires a gradient, expected a tensor that does not")
    plan = plan_for(segments, rows, sums, sums.shape[0], "sums")
    h = _glu_attribution(rows, up_rows, plan.order, plan.tiles, sums, act)
    return h if gate.dim() == 2 else h.view(gate.shape)

"""ops.glu_attribution: act(gate) up, whose backward also sums what each neuron contributes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from affectron.ops.glu import glu
from affectron.ops.glu_backward import glu_backward
from affectron.ops.library import LIBRARY, as_rows, check_activation, define_plain
from affectron.ops.segments import SegmentPlan


def _forward(gate: Tensor, up: Tensor | None, order: Tensor, tiles: Tensor, sums: Tensor, act: str) -> Tensor:
    return glu(gate, up, act)


def _fake(gate: Tensor, up: Tensor | None, order: Tensor, tiles: Tensor, sums: Tensor, act: str) -> Tensor:
    return torch.empty_like(gate, memory_format=torch.contiguous_format)


_glu_attribution = define_plain(
    "glu_attribution(Tensor gate, Tensor? up, Tensor order, Tensor tiles, Tensor sums, str act) -> Tensor",
    _forward,
    _fake,
)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    gate, up, order, tiles, sums, ctx.act = inputs
    ctx.save_for_backward(gate, up, order, tiles)
    ctx.sums = sums  # not saved as the others: a backward in between may have added to it


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    if torch.is_grad_enabled():
        raise RuntimeError("glu_attribution has no second derivative")
    gate, up, order, tiles = ctx.saved_tensors
    # Inductor (torch 2.13) loses the offset of a slice that an op of a library writes to, and add_ keeps it.
    sums = torch.zeros_like(ctx.sums) if torch.compiler.is_compiling() else ctx.sums
    gradients = glu_backward(grad, gate, up, ctx.act, order, tiles, sums)
    if sums is not ctx.sums:
        ctx.sums.add_(sums)
    return (*gradients, None, None, None, None)


torch.library.register_autograd("affectron::glu_attribution", _backward, setup_context=_setup, lib=LIBRARY)


def glu_attribution(
    gate: Tensor, up: Tensor | None, sums: Tensor, segments: Tensor | SegmentPlan, act: str = "silu"
) -> Tensor:
    """The output of :func:`ops.glu`, bit for bit; its backward also adds what each neuron contributes to ``sums``.

    Given the gradient of the output h, backward computes those of gate and up as :func:`ops.glu` does and, in the same
    pass, adds h times its gradient, of every row, to ``sums`` at the row's segment: gradient x activation, to first
    order what the differentiated value loses when the neuron is set to zero. Each backward adds once, whether or not
    checkpointing has computed the output again; the forward does not touch ``sums``.

    The products are those of the rounded h. What is added to a sum is within 2^-20 of the sum of their absolute values,
    and is rounded once more with what was there. A NaN or an infinity shows in the sum. The same shapes and segments
    give the same bits, for any number of threads.

    Args:
        gate, up, act: as for :func:`ops.glu`.
        sums: fp32 [S, F], contiguous, one row for each segment (a sentence, say).
        segments: int32 or int64 [N], the segment of each row of the flattened ``gate``, -1 where it is not counted;
            or a SegmentPlan of them, made once and shared by all layers.

    Returns:
        A contiguous tensor like ``gate``. Differentiable once, in gate and up.

    Raises:
        TypeError, ValueError: as :func:`ops.glu`; or ``sums`` or ``segments`` is not what is named here.
        IndexError: a segment is outside [-1, S).
        In each case before anything is written.
    """
    check_activation(act)
    rows = as_rows("gate", gate)
    up_rows = None if up is None else as_rows("up", up, gate)
    n, f = rows.shape
    if sums.dtype != torch.float32:
        raise TypeError(f"sums has dtype {sums.dtype}, expected float32")
    if sums.dim() != 2 or sums.shape[1] != f or not sums.is_contiguous():
        raise ValueError(f"sums has shape {list(sums.shape)}, expected contiguous [segments, {f}]")
    if sums.requires_grad:
        raise ValueError("sums requires a gradient, expected a tensor that does not")
    plan = segments if isinstance(segments, SegmentPlan) else SegmentPlan(segments, sums.shape[0])
    if plan.num_segments != sums.shape[0]:
        raise ValueError(f"segments is planned for {plan.num_segments} segments, sums has {sums.shape[0]}")
    if plan.rows != n:
        raise ValueError(f"segments has {plan.rows} rows, expected the {n} of gate")
    if plan.order.device != gate.device or sums.device != gate.device:
        where = f"{gate.device}, {plan.order.device} and {sums.device}"
        raise ValueError(f"gate, segments and sums are on {where}, expected one device")
    h: Tensor = _glu_attribution(rows, up_rows, plan.order, plan.tiles, sums, act)
    return h if gate.dim() == 2 else h.view(gate.shape)

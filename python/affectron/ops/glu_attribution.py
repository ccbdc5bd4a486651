"""ops.glu_attribution: act(gate) up, whose backward also sums the contribution of each neuron."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from affectron.ops._checks import as_rows, check_activation, check_like
from affectron.ops._registry import LIBRARY, torch_op
from affectron.ops.glu import glu
from affectron.ops.glu_backward import glu_backward
from affectron.ops.segments import SegmentPlan, plan_for


def _forward(
    gate: Tensor, up: Tensor | None, order: Tensor, tiles: Tensor, sums: Tensor, gradients: Tensor | None, act: str
) -> Tensor:
    return glu(gate, up, act)


@torch_op(
    "glu_attribution(Tensor gate, Tensor? up, Tensor order, Tensor tiles, Tensor sums, Tensor? gradients, str act) "
    "-> Tensor",
    _forward,
)
def _glu_attribution(
    gate: Tensor, up: Tensor | None, order: Tensor, tiles: Tensor, sums: Tensor, gradients: Tensor | None, act: str
) -> Tensor:
    return torch.empty_like(gate, memory_format=torch.contiguous_format)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    gate, up, order, tiles, *ctx.targets, ctx.act = inputs
    # The targets are not saved by save_for_backward, which refuses a tensor that an earlier backward has added to.
    ctx.save_for_backward(gate, up, order, tiles)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    if torch.is_grad_enabled():
        raise RuntimeError("glu_attribution has no second derivative")
    gate, up, order, tiles = ctx.saved_tensors
    if not torch.compiler.is_compiling():
        return (*glu_backward(grad, gate, up, ctx.act, order, tiles, *ctx.targets), *[None] * 5)
    # Under a compiler, sum into new tensors and add these: where a library op writes to a slice, inductor (torch 2.13)
    # loses the slice's offset, and add_ keeps it.
    parts = [None if target is None else torch.zeros_like(target) for target in ctx.targets]
    of_inputs = glu_backward(grad, gate, up, ctx.act, order, tiles, *parts)
    for target, part in zip(ctx.targets, parts, strict=True):
        if target is not None:
            target.add_(part)
    return (*of_inputs, *[None] * 5)


torch.library.register_autograd("affectron::glu_attribution", _backward, setup_context=_setup, lib=LIBRARY)


def _check_target(name: str, target: Tensor, f: int) -> None:
    if target.dtype != torch.float32:
        raise TypeError(f"{name} has dtype {target.dtype}, expected float32")
    if target.dim() != 2 or target.shape[1] != f or not target.is_contiguous():
        raise ValueError(f"{name} has shape {list(target.shape)}, expected contiguous [segments, {f}]")
    if target.requires_grad:
        raise ValueError(f"{name} requires a gradient, expected a tensor that does not")


def glu_attribution(
    gate: Tensor, up: Tensor | None, sums: Tensor, segments: Tensor | SegmentPlan, act: str = "silu",
    gradients: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Output of :func:`ops.glu`, bit for bit, whose backward also adds each neuron's contribution to ``sums``.

    Given the gradient of the output h, backward computes the gradients of gate and up as :func:`ops.glu` does. In the
    same pass it adds h times its gradient, of every row, to ``sums`` at the row's segment. This gradient x activation
    is, to first order, what the differentiated value loses when the neuron is set to zero. Where ``gradients`` is
    given, the gradient of h alone is added to it likewise: to first order, what the value gains when the neuron is
    shifted by one in every row of the segment. The value loses ``sums - b * gradients`` when the neuron is set to b.
    Each backward adds once, even if checkpointing has computed the output again; the forward touches neither.

    The products take the rounded h. The amount added to a sum is within 2^-20 of the sum of the terms' absolute
    values; adding it to the earlier value of the sum rounds once more. A NaN or an infinity shows in the sum. The same
    shapes and segments give the same bits, for any number of threads, and ``sums`` the same without ``gradients``.

    Args:
        gate, up, act: as for :func:`ops.glu`.
        sums: fp32 [S, F], contiguous, one row for each segment (a sentence, say); requires no gradient.
        segments: int32 or int64 [N], the segment of each row of the flattened ``gate``, -1 where it is not counted;
            or a SegmentPlan of them, which all layers share.
        gradients: another tensor like ``sums``, or None.

    Returns:
        A contiguous tensor like ``gate``. Differentiable once, in gate and up.

    Raises:
        TypeError, ValueError: as :func:`ops.glu`; or ``sums``, ``segments`` or ``gradients`` is not as
            described here.
        IndexError: a segment is outside [-1, S) (checked on the CPU).
        Nothing has been written then.
    """
    check_activation(act)
    rows = as_rows("gate", gate)
    up_rows = None if up is None else as_rows("up", up, gate)
    f = rows.shape[1]
    _check_target("sums", sums, f)
    if gradients is not None:
        _check_target("gradients", gradients, f)
        check_like("gradients", gradients, sums, sums.shape)
        if gradients is sums:
            raise ValueError("gradients is the tensor of sums, expected another one")
    plan = plan_for(segments, rows, sums.device, sums.shape[0], "sums")
    h = _glu_attribution(rows, up_rows, plan.order, plan.tiles, sums, gradients, act)
    return h if gate.dim() == 2 else h.view(gate.shape)

"""The gradients of act(gate) up in one pass, and in the same pass the sums of ops.glu_attribution. No public function:
the autograd rules of ops.glu and ops.glu_attribution call it."""

from __future__ import annotations

from torch import Tensor

from affectron.ops import native, reference
from affectron.ops.library import define


def _fake(
    grad: Tensor, gate: Tensor, up: Tensor | None, order: Tensor | None, tiles: Tensor | None, sums: Tensor | None,
    act: str,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    return gate.new_empty(gate.shape), gate.new_empty(0 if up is None else gate.shape)


# Without `up` the second gradient is empty: an op that writes to an argument cannot return an optional tensor.
_glu_backward = define(
    "glu_backward(Tensor grad, Tensor gate, Tensor? up, Tensor? order, Tensor? tiles, Tensor(a!)? sums, str act) "
    "-> (Tensor, Tensor)",
    native.glu_backward,
    reference.glu_backward,
    _fake,
)


def glu_backward(
    grad: Tensor, gate: Tensor, up: Tensor | None, act: str,
    order: Tensor | None = None, tiles: Tensor | None = None, sums: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """Gradients of act(gate) up for the rows gate and up, given ``grad``, that of the product; and, where a plan and
    ``sums`` are given, the product times ``grad`` of every row added to its segment's sum."""
    if grad.shape[-1] > 1 and grad.stride(-1) != 1:
        grad = grad.contiguous()
    grad_gate, grad_up = _glu_backward(grad, gate, up, order, tiles, sums, act)
    return grad_gate, None if up is None else grad_up

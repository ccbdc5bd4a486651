"""The gradients of act(gate) up in one pass, and in the same pass the sums of ops.glu_attribution. Not public: the
autograd rules of ops.glu and ops.glu_attribution call it."""

from __future__ import annotations

from torch import Tensor

from affectron.ops._registry import kernel_op


# Without `up` the second gradient is empty: an op that writes to an argument cannot return an optional tensor.
@kernel_op(
    "glu_backward(Tensor grad, Tensor gate, Tensor? up, Tensor? order, Tensor? tiles, Tensor(a!)? sums, "
    "Tensor(b!)? gradients, str act) -> (Tensor, Tensor)"
)
def _glu_backward(
    grad: Tensor, gate: Tensor, up: Tensor | None, order: Tensor | None, tiles: Tensor | None, sums: Tensor | None,
    gradients: Tensor | None, act: str,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    return gate.new_empty(gate.shape), gate.new_empty(0 if up is None else gate.shape)


def glu_backward(
    grad: Tensor, gate: Tensor, up: Tensor | None, act: str,
    order: Tensor | None = None, tiles: Tensor | None = None, sums: Tensor | None = None,
    gradients: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """Gradients of h = act(gate) up with respect to gate and up, given ``grad``, the gradient of h.

    Where a plan (``order``, ``tiles``) and ``sums`` are given, h times ``grad`` of every row is also added to the sum
    of the row's segment; where ``gradients`` is given with them, ``grad`` of every row is added to it likewise.
    """
    if grad.shape[-1] > 1 and grad.stride(-1) != 1:
        grad = grad.contiguous()
    grad_gate, grad_up = _glu_backward(grad, gate, up, order, tiles, sums, gradients, act)
    return grad_gate, None if up is None else grad_up

"""ops.masked_mlp: a whole gated MLP for a few rows, which leaves out the neurons that a program masks."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import linear

from affectron import _native
from affectron.ops._checks import as_rows, check_activation, check_like, check_program
from affectron.ops._registry import kernel_op
from affectron.ops.backends import native
from affectron.ops.glu_steer import glu_steer

#: Rows that the kernel takes at most. With more, torch's matrix products are faster.
MLP_ROWS: int = _native.MLP_ROWS


@kernel_op(
    "masked_mlp(Tensor x, Tensor w_gate, Tensor? w_up, Tensor w_down, Tensor program, Tensor? rows, str act) -> Tensor"
)
def _masked_mlp(
    x: Tensor, w_gate: Tensor, w_up: Tensor | None, w_down: Tensor, program: Tensor, rows: Tensor | None, act: str
) -> Tensor:
    return x.new_empty((x.shape[0], w_down.shape[0]))


def neuron_major(w_down: Tensor) -> Tensor:
    """Copy of a down projection [O, F] with the weights of each neuron next to one another in memory: strides (1, O).

    With it :func:`masked_mlp` leaves out the down columns of masked neurons. To torch it is the same matrix, so it can
    replace the original (``layer.weight.data = neuron_major(layer.weight.data)``) and then costs no memory.
    """
    return w_down.t().contiguous().t()


def masked_mlp(
    x: Tensor,
    w_gate: Tensor,
    w_up: Tensor | None,
    w_down: Tensor,
    program: Tensor,
    rows: Tensor | None = None,
    act: str = "silu",
) -> Tensor:
    """Output down · h' of an MLP, with h = act(gate x) (up x) and h' its intervention (docs/method.md).

    Up to ``MLP_ROWS`` (16) rows take two passes over the weights, each weight read once: gate and up with the
    activation and the intervention, then down. Products are added up in fp32; gate, up, h, h' and the result are
    rounded to the dtype, as the eager model rounds them. A neuron is hard-masked in a row if its factor
    max(scale - damping |h|, floor) is 0 for every h, so that h' = shift. A neuron that is hard-masked in every row is
    not computed: its gate and up rows are not read, nor is its down column where the shift is 0 and ``w_down`` is
    :func:`neuron_major`. On a GPU, no down column of a :func:`neuron_major` matrix is read if h' of its neuron is 0 in
    every row; the host reads nothing, so that a captured graph stays right when ``program`` and ``rows`` change.

    More rows, and calls that need a gradient, take torch's matrix products with :func:`ops.glu_steer` between them,
    which compute every neuron. Leaving out masked neurons there would take a copy of the other weights and, on a GPU,
    a wait for the masks. With half of 5632 neurons masked and 2048 inputs, 32 rows take 42 ms this way, 35 ms with
    weights gathered in each call, and 17 ms with weights gathered once (fp32, 2 cores). Where masks stay the same,
    gather once, as :func:`affectron.compact` does for a whole model.

    Args:
        x: fp32, bf16 or fp16 [..., K], last stride 1.
        w_gate, w_up: [F, K] as torch.nn.Linear stores them, last stride 1; the halves of one [2F, K] need no copy.
            ``w_up`` is None in a plain MLP.
        w_down: [O, F], as torch.nn.Linear stores it or :func:`neuron_major`.
        program, rows: as for :func:`ops.glu_steer`, with the rows of the flattened ``x``.
        act: silu, gelu (erf), gelu_tanh, relu or relu2.

    Returns:
        [..., O], contiguous, in the dtype of x.

    Raises:
        TypeError, ValueError, IndexError: as :func:`ops.glu_steer`, also for the weights.
    """
    check_activation(act)
    x_rows = as_rows("x", x)
    n, inputs = x_rows.shape
    f = w_gate.shape[0] if w_gate.dim() == 2 else 0
    _check_weight("w_gate", w_gate, x, (f, inputs))
    if w_up is not None:
        _check_weight("w_up", w_up, x, (f, inputs))
    outputs = w_down.shape[0] if w_down.dim() == 2 else 0
    _check_weight("w_down", w_down, x, (outputs, f), by_neuron=native.stored_by_neuron(w_down))
    check_program(program, rows, n, f, x.device)
    factors = (x, w_gate, w_up, w_down)
    if n > MLP_ROWS or (torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in factors)):
        up = None if w_up is None else linear(x_rows, w_up)
        y = linear(glu_steer(linear(x_rows, w_gate), up, program, rows, act), w_down)
    else:
        y = _masked_mlp(x_rows, w_gate, w_up, w_down, program, rows, act)
    return y if x.dim() == 2 else y.view(*x.shape[:-1], y.shape[-1])


def _check_weight(name: str, weight: Tensor, x: Tensor, shape: tuple[int, int], by_neuron: bool = False) -> None:
    check_like(name, weight, x, shape)
    if weight.shape[1] > 1 and weight.stride(1) != 1 and not by_neuron:
        raise ValueError(f"{name} has strides {weight.stride()}, expected a last stride of 1: call .contiguous() first")

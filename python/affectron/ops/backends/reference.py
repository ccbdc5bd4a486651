"""The ops in plain torch, for any device: the oracle of the kernels' tests, and the backend where no kernel was built.

Sums are taken in fp64, on the CPU where the device has none. The files of the ops have checked the arguments.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from affectron.ops.float64 import in_float64


def activate(gate: Tensor, act: str) -> Tensor:
    """act(gate) in the dtype of ``gate``, rounded as the eager model rounds it."""
    if act == "silu":
        return F.silu(gate)
    if act == "gelu":
        return F.gelu(gate)
    if act == "gelu_tanh":
        return F.gelu(gate, approximate="tanh")
    return F.relu(gate) if act == "relu" else F.relu(gate).square()


def glu(gate: Tensor, up: Tensor | None, act: str) -> Tensor:
    """act(gate) up, rounded as the eager model rounds it."""
    h = activate(gate, act)
    # A new contiguous tensor, whatever the strides of the arguments, as from the other backends.
    return (h if up is None else h * up).clone(memory_format=torch.contiguous_format)


def activation_gradients(gate: Tensor, up: Tensor | None, act: str, grad: Tensor) -> tuple[Tensor, Tensor | None]:
    """Gradients of act(gate) up with respect to gate and up, given the gradient of the product; computed in fp32 and
    rounded once."""
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


def glu_backward(
    grad: Tensor, gate: Tensor, up: Tensor | None, order: Tensor | None, tiles: Tensor | None, sums: Tensor | None,
    gradients: Tensor | None, act: str,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Gradients of gate and up; of every row, h times ``grad`` is added to ``sums`` and ``grad`` to ``gradients`` at
    the row's segment, where they are given."""
    grad_gate, grad_up = activation_gradients(gate, up, act, grad)
    if order is not None and tiles is not None:
        dh = in_float64(grad)
        by_segment = rows_by_segment(order.to(dh.device), tiles)
        for target, terms in ((sums, in_float64(glu(gate, up, act)) * dh), (gradients, dh)):
            if target is None:
                continue
            for segment, rows in by_segment.items():
                target[segment] = (in_float64(target[segment]) + terms[rows].sum(0)).float().to(target.device)
    return grad_gate.contiguous(), gate.new_empty(0) if grad_up is None else grad_up.contiguous()


def damped(h: Tensor, damping: Tensor) -> Tensor:
    """damping |h| of the intervention; 0 where damping is 0 or h is NaN."""
    value = damping * h.abs()
    return value.where(~value.isnan(), 0.0)


def intervene(h: Tensor, scale: Tensor, damping: Tensor, floor: Tensor, shift: Tensor) -> Tensor:
    """h max(scale - damping |h|, floor) + shift (docs/method.md) in fp32. Where the factor is 0 so is the product,
    whatever h is."""
    factor = torch.maximum(scale - damped(h, damping), floor)
    return (h * factor).where(factor != 0, 0.0) + shift


def glu_steer(gate: Tensor, up: Tensor | None, program: Tensor, rows: Tensor | None, act: str) -> Tensor:
    """act(gate) up under each row's program; -1 in ``rows`` leaves a row as it is."""
    h = glu(gate, up, act)
    if rows is None:
        return intervene(h.float(), *program[0]).to(h.dtype)
    table = program[rows.clamp(min=0).long()]
    return torch.where((rows >= 0)[:, None], intervene(h.float(), *table.unbind(1)).to(h.dtype), h)


def masked_mlp(
    x: Tensor, w_gate: Tensor, w_up: Tensor | None, w_down: Tensor, program: Tensor, rows: Tensor | None, act: str
) -> Tensor:
    """The steered MLP, every neuron of it."""
    up = None if w_up is None else F.linear(x, w_up)
    return F.linear(glu_steer(F.linear(x, w_gate), up, program, rows, act), w_down)


def rows_by_segment(order: Tensor, tiles: Tensor) -> dict[int, Tensor]:
    """Row numbers of each segment that has rows, from the order and tiles of a SegmentPlan."""
    spans: dict[int, list[Tensor]] = {}
    for segment, start, rows in tiles.tolist():
        if segment >= 0 and rows > 0:
            spans.setdefault(segment, []).append(order[start : start + rows])
    return {segment: torch.cat(parts) for segment, parts in spans.items()}


def neuron_stats(
    h: Tensor, gate: Tensor | None, order: Tensor, tiles: Tensor,
    count: Tensor, tally: Tensor, moments: Tensor, extrema: Tensor,
) -> None:  # fmt: skip
    """Merge the statistics of ``h`` into the accumulators."""
    if h.device != count.device:  # it has no float64, so that StatsBuffers are on the CPU: its kernel takes copies
        h, order, tiles = (tensor.to(count.device) for tensor in (h, order, tiles))
        gate = None if gate is None else gate.to(count.device)
        torch.ops.affectron.neuron_stats(h, gate, order, tiles, count, tally, moments, extrema)
        return
    active = (h if gate is None else gate) > 0
    for segment, rows in rows_by_segment(order, tiles).items():
        values, finite = h[rows].double(), h[rows].isfinite()
        observed = finite.sum(0)
        before = count[segment] - tally[1, segment]
        seen = observed > 0
        mean = values.where(finite, 0.0).sum(0) / observed.clamp(min=1)
        m2 = (values - mean).where(finite, 0.0).square().sum(0)
        # Merge the means and squared deviations of two sets (Chan et al. 1979).
        share = observed / (before + observed).clamp(min=1)
        delta = (mean - moments[0, segment]).where(seen, 0.0)
        moments[0, segment] += delta * share
        moments[1, segment] += m2 + delta.square() * before * share
        infinity = float("inf")
        extrema[0, segment] = torch.minimum(extrema[0, segment], values.where(finite, infinity).amin(0).float())
        extrema[1, segment] = torch.maximum(extrema[1, segment], values.where(finite, -infinity).amax(0).float())
        tally[0, segment] += active[rows].sum(0)
        tally[1, segment] += len(rows) - observed
        count[segment] += len(rows)


def glu_stats(
    gate: Tensor, up: Tensor | None, order: Tensor, tiles: Tensor,
    count: Tensor, tally: Tensor, moments: Tensor, extrema: Tensor, act: str, product: bool,
) -> Tensor:  # fmt: skip
    """act(gate) up; its statistics are merged into the accumulators."""
    h = glu(gate, up, act)
    neuron_stats(h, None if product else gate, order, tiles, count, tally, moments, extrema)
    return h


def segment_plan(segments: Tensor, num_segments: int, tile_rows: int, num_tiles: int) -> tuple[Tensor, Tensor]:
    """Order and tiles of a SegmentPlan with tiles of at most ``tile_rows`` rows. No step waits for a GPU."""
    device = segments.device
    key = segments.long() + 1  # rows of no segment come first
    order = torch.argsort(key, stable=True)
    rows = torch.zeros(num_segments + 1, dtype=torch.int64, device=device).scatter_add_(0, key, torch.ones_like(key))
    tiles = (rows + tile_rows - 1) // tile_rows
    last_tile, last_row = tiles.cumsum(0), rows.cumsum(0)
    slot = torch.arange(num_tiles, device=device)
    of_slot = torch.searchsorted(last_tile, slot, right=True)  # the key of each tile's segment
    used = of_slot <= num_segments
    of_slot = of_slot.clamp(max=num_segments)
    within = (slot - (last_tile - tiles)[of_slot]) * tile_rows
    length = torch.minimum(rows[of_slot] - within, torch.full_like(within, tile_rows)).where(used, 0)
    start = ((last_row - rows)[of_slot] + within).where(used, 0)
    return order, torch.stack([(of_slot - 1).where(used, -1), start, length], dim=1)

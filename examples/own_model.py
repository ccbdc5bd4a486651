"""The ops in a model written by hand: measure its neurons by label, find those that tell the labels apart, and mask
them, each request with its own table.

    python examples/own_model.py
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from affectron import SegmentPlan, StatsBuffers, ops

WIDTH, NEURONS, LABELS = 64, 256, 3


class Mlp(nn.Module):
    """x + down(silu(gate x) · up x), with what the three tasks need at hand."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up = nn.Linear(WIDTH, NEURONS, bias=False), nn.Linear(WIDTH, NEURONS, bias=False)
        self.down = nn.Linear(NEURONS, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(ops.glu(self.gate(x), self.up(x)))

    def measured(self, x: Tensor, plan: SegmentPlan, stats: StatsBuffers) -> Tensor:
        return x + self.down(ops.glu_stats(self.gate(x), self.up(x), plan, stats))

    def steered(self, x: Tensor, table: Tensor, rows: Tensor) -> Tensor:
        """A few rows: one kernel for the whole MLP, which skips what all of them have masked."""
        return x + ops.masked_mlp(x, self.gate.weight, self.up.weight, self.down.weight, table, rows)


@torch.no_grad()
def main() -> None:
    torch.manual_seed(0)
    mlp = Mlp()
    # Stored by neuron, a masked neuron's down weights need not be read; replacing the weight costs no memory.
    mlp.down.weight.data = ops.neuron_major(mlp.down.weight.data)

    # Tokens of three labels, each with a direction of its own; -1 is not counted.
    directions = torch.randn(LABELS, WIDTH)
    labels = torch.randint(-1, LABELS, (4096,))
    tokens = torch.randn(4096, WIDTH) + directions[labels.clamp(min=0)] * (labels >= 0)[:, None]
    stats = StatsBuffers(LABELS, NEURONS)
    mlp.measured(tokens, SegmentPlan(labels, LABELS), stats)
    found = stats.finalize()
    rate = found.active / found.count[:, None]
    best = (rate - rate.mean(0)).topk(NEURONS // 10).indices  # [labels, K]: those that a label wakes most
    print("tokens a label:", found.count.tolist())
    print("active share of its neurons, own label against all:")
    for label in range(LABELS):
        own, others = rate[label, best[label]].mean(), rate[:, best[label]].mean()
        print(f"  label {label}: {own:.2f} against {others:.2f}")

    # One program a label: scale 0 masks its neurons. Rows: scale, damping, floor, shift; these values change nothing.
    table = torch.tensor([1.0, 0.0, -torch.inf, -0.0])[None, :, None].repeat(LABELS, 1, NEURONS)
    table[:, 0].scatter_(1, best, 0.0)
    requests = directions + 0.1 * torch.randn(LABELS, WIDTH)
    plain = mlp(requests)
    for label in range(LABELS):
        rows = torch.full((LABELS,), -1, dtype=torch.int32)
        rows[label] = label  # this request has its own label's neurons masked, the others keep theirs
        change = (mlp.steered(requests, table, rows) - plain).norm(dim=1) / (plain - requests).norm(dim=1)
        print(f"masking label {label} in request {label} changes the MLP's output by", [f"{c:.3f}" for c in change])


if __name__ == "__main__":
    main()

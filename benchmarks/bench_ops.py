"""The ops against plain torch on the CPU: 4096 tokens x 3584 neurons, 10 labels."""

from __future__ import annotations

import random
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import silu

from affectron import ops

TOKENS, NEURONS, LABELS = 4096, 3584, 10
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
TORCH = "torch silu(g) * u"


def segments(shuffled: bool = False) -> Tensor:
    """Labels in runs of 20 to 40 tokens, as sentences make them, or token by token in random order."""
    rng = random.Random(0)
    found: list[int] = []
    while len(found) < TOKENS:
        found += [rng.randrange(LABELS)] * rng.randint(20, 40)
    found = found[:TOKENS]
    if shuffled:
        rng.shuffle(found)
    return torch.tensor(found)


def gate_and_up(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    gate, up = (torch.randn(TOKENS, NEURONS, generator=generator).to(dtype) for _ in range(2))
    return gate, up


def index_add_statistics(gate: Tensor, up: Tensor, labels: Tensor, whole: bool) -> tuple[Tensor, ...]:
    """Statistics a label as torch users write them: count, active, sum and sum of squares in float32; or, ``whole``,
    what glu_stats gives, with float64 sums (its accuracy needs them), integer counts, minimum and maximum."""
    h = silu(gate) * up
    wide = h.double() if whole else h.float()
    tally = torch.int64 if whole else torch.float32
    count = torch.zeros(LABELS, dtype=tally).index_add_(0, labels, torch.ones(TOKENS, dtype=tally))
    active = torch.zeros(LABELS, NEURONS, dtype=tally).index_add_(0, labels, (gate > 0).to(tally))
    total, squares = (
        torch.zeros(LABELS, NEURONS, dtype=wide.dtype).index_add_(0, labels, values) for values in (wide, wide * wide)
    )
    if not whole:
        return h, count, active, total, squares
    values = h.float()
    low = torch.full((LABELS, NEURONS), torch.inf).index_reduce_(0, labels, values, "amin")
    high = torch.full((LABELS, NEURONS), -torch.inf).index_reduce_(0, labels, values, "amax")
    return h, count, active, total, squares, low, high


STATS_CONTENDERS = [TORCH, "copy", "glu", "index_add", "index_add, all of it", "glu_stats", "glu_stats shuffled"]


@pytest.mark.parametrize("contender", STATS_CONTENDERS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_glu_stats(contend: Any, dtype: str, contender: str) -> None:
    """``copy`` writes as many bytes as the product and reads half of what that reads: a bound that memory sets."""
    gate, up = gate_and_up(DTYPES[dtype])
    buffers = ops.StatsBuffers(LABELS, NEURONS)
    plan, shuffled = (ops.SegmentPlan(segments(in_disorder), LABELS) for in_disorder in (False, True))
    labels, copied = segments(), torch.empty_like(gate)
    mixed = {
        TORCH: lambda: silu(gate) * up,
        "copy": lambda: copied.copy_(gate),
        "glu": lambda: ops.glu(gate, up),
        "glu_stats": lambda: ops.glu_stats(gate, up, plan, buffers),
    }
    slow = {
        "index_add": lambda: index_add_statistics(gate, up, labels, whole=False),
        "index_add, all of it": lambda: index_add_statistics(gate, up, labels, whole=True),
        "glu_stats shuffled": lambda: ops.glu_stats(gate, up, shuffled, buffers),
    }
    goals = {TORCH: 1.0, "glu": 1.6, "index_add": 1 / 15, "index_add, all of it": 1 / 15}
    contend(
        f"glu_stats {dtype}",
        contender,
        (mixed | slow)[contender],
        rounds=5 if "index_add" in contender else 30,
        goals=goals if contender == "glu_stats" else {},
        others=[function for name, function in mixed.items() if name != contender],
    )


@pytest.mark.parametrize("contender", [TORCH, "glu_steer, one program", "glu_steer, 8 programs by row", "glu"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_glu_steer(contend: Any, dtype: str, contender: str) -> None:
    gate, up = gate_and_up(DTYPES[dtype])
    generator = torch.Generator().manual_seed(1)
    programs = torch.rand(8, 4, NEURONS, generator=generator)
    rows = torch.randint(-1, 8, (TOKENS,), dtype=torch.int32, generator=generator)
    one = programs[:1].contiguous()
    function = {
        TORCH: lambda: silu(gate) * up,
        "glu": lambda: ops.glu(gate, up),
        "glu_steer, one program": lambda: ops.glu_steer(gate, up, one),
        "glu_steer, 8 programs by row": lambda: ops.glu_steer(gate, up, programs, rows),
    }[contender]
    contend(f"glu_steer {dtype}", contender, function, rounds=30, goals={} if contender == TORCH else {TORCH: 1.0})


BACKWARD, AUTOGRAD = "backward of glu", "torch, autograd of silu(g) * u"
INDEX_ADD, INDEX_ADD_BOTH = f"{AUTOGRAD}, index_add", f"{AUTOGRAD}, index_add of both"
ATTRIBUTION = "backward of glu_attribution"
BACKWARD_GOALS = {
    AUTOGRAD: {},
    INDEX_ADD: {},
    INDEX_ADD_BOTH: {},
    BACKWARD: {AUTOGRAD: 1.0},
    ATTRIBUTION: {AUTOGRAD: 1.0, INDEX_ADD: 1.0, BACKWARD: 1.6},
    f"{ATTRIBUTION}, gradients": {AUTOGRAD: 1.0, INDEX_ADD_BOTH: 1.0, ATTRIBUTION: 1.25},
}


@pytest.mark.parametrize("contender", BACKWARD_GOALS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_glu_attribution(contend: Any, dtype: str, contender: str) -> None:
    """Sums of h times its gradient, and also of the gradient alone, for each sentence of 30 tokens."""
    gate, up = (t.requires_grad_() for t in gate_and_up(DTYPES[dtype]))
    sentences = torch.arange(TOKENS) // 30
    plan = ops.SegmentPlan(sentences, int(sentences[-1]) + 1)
    sums, gradients = torch.zeros(2, plan.num_segments, NEURONS)
    grad = torch.randn(TOKENS, NEURONS).to(DTYPES[dtype])
    eager = silu(gate) * up
    outputs = {
        BACKWARD: ops.glu(gate, up),
        ATTRIBUTION: ops.glu_attribution(gate, up, sums, plan),
        f"{ATTRIBUTION}, gradients": ops.glu_attribution(gate, up, sums, plan, gradients=gradients),
    }

    def backward(name: str) -> None:
        torch.autograd.grad(outputs.get(name, eager), (gate, up), grad, retain_graph=True)
        if name in (INDEX_ADD, INDEX_ADD_BOTH):
            sums.index_add_(0, sentences, eager.detach().float() * grad.float())
        if name == INDEX_ADD_BOTH:
            gradients.index_add_(0, sentences, grad.float())

    contend(
        f"glu_attribution {dtype}",
        contender,
        partial(backward, contender),
        rounds=20,
        goals=BACKWARD_GOALS[contender],
        others=[partial(backward, name) for name in (AUTOGRAD, *outputs) if name != contender],
    )

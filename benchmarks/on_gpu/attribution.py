"""The backward of glu_attribution, the gradients of gate and up and, in the same pass, h·∂L/∂h of every sentence; and
the attribution of a whole model by it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import silu

from affectron import ops
from on_gpu.attribute import attribute
from on_gpu.contenders import COPY, copy, variants
from on_gpu.record import Row, memory_rows, rows_of
from on_gpu.scale import Scale
from on_gpu.timing import Clock, Contender, compete

SENTENCE = 30  # tokens
TORCH = "torch autograd and index_add"


def works(scale: Scale, clock: Clock) -> Iterator[tuple[str, Callable[[], list[Row]]]]:
    yield "glu_attribution", partial(_attribution, scale, clock)
    yield "attribute", partial(attribute, scale, clock)


def _attribution(scale: Scale, clock: Clock) -> list[Row]:
    shape, element = (scale.tokens, scale.neurons), 2
    generator = torch.Generator(scale.device).manual_seed(0)
    gate, up, grad = (torch.randn(shape, generator=generator, device=scale.device).to(torch.bfloat16) for _ in range(3))
    gate.requires_grad_(), up.requires_grad_()
    sentences = -(-scale.tokens // SENTENCE)
    segments = torch.arange(scale.tokens, device=scale.device) // SENTENCE
    plan = ops.SegmentPlan(segments, sentences)
    sums, of_h = torch.zeros(2, sentences, scale.neurons, device=scale.device)

    def backward(h: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(h, (gate, up), grad, retain_graph=True)

    eager = silu(gate) * up

    def by_torch() -> None:
        backward(eager)
        sums.index_add_(0, segments, eager.detach().float() * grad.float())

    # The gradient, gate and up are read, those of gate and up written: five operands.
    contenders = [
        copy(scale, 5 * scale.tokens * scale.neurons * element),
        Contender(TORCH, "torch", by_torch),
        Contender("torch autograd", "torch", partial(backward, eager)),
    ]
    held = []
    for backend in scale.backends:
        for name, context in variants(backend, "short_silu"):
            with context():
                glu, attributed = ops.glu(gate, up), ops.glu_attribution(gate, up, sums, plan)
                both = ops.glu_attribution(gate, up, sums, plan, gradients=of_h)
            plain, ours = f"glu {name}: backward", f"glu_attribution {name}: backward"
            goals: dict[str, float | None] = {plain: 1.05, TORCH: None, COPY: None}
            held.append(Contender(ours, backend, partial(backward, attributed), goals, context=context))
            plainly = Contender(plain, backend, partial(backward, glu), {COPY: None}, context=context)
            in_both = Contender(f"{ours}, gradients", backend, partial(backward, both), {ours: None}, context=context)
            contenders += [plainly, held[-1], in_both]
    work = f"{scale.tokens} x {scale.neurons} bfloat16 silu, {sentences} sentences"
    times = compete(clock, contenders, scale.rounds)
    rows = rows_of(work, contenders, times)
    # The gradients of gate and up are made, and no temporary as large as half of one.
    made = 2 * scale.tokens * scale.neurons * element
    rows += memory_rows(contenders[1], work, times, None, made, "the two gradients")
    for one in held:
        goal = 1.25 if one.backend != "reference" else None
        rows += memory_rows(one, work, times, goal, made, "the two gradients")
    return rows

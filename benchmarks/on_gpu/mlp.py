"""One layer in decoding: the whole MLP for a few rows, and glu and glu_steer inside a captured step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import linear, silu

from affectron import ops
from on_gpu.contenders import READ, readers, serving, variants
from on_gpu.record import Row, rows_of
from on_gpu.scale import Scale
from on_gpu.timing import Captured, Clock, Contender, Times, compete

ROWS = (1, 4, 16)
TORCH, SMALLER = "torch, five kernels", "torch, five kernels, half the neurons left"


def works(scale: Scale, clock: Clock) -> Iterator[tuple[str, Callable[[], list[Row]]]]:
    for rows in ROWS:
        yield f"masked_mlp, {rows} rows", partial(_masked_mlp, scale, clock, rows)
    for rows in ROWS:
        yield f"captured layer, {rows} rows", partial(_captured_layer, scale, clock, rows)


def _mlp(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    return linear(silu(linear(x, gate)) * linear(x, up), down)


def _neutral(scale: Scale, neurons: int) -> Tensor:
    """A program that changes nothing."""
    return torch.tensor([1.0, 0.0, -torch.inf, -0.0], device=scale.device)[None, :, None].repeat(1, 1, neurons)


def _masked_mlp(scale: Scale, clock: Clock, rows: int) -> list[Row]:
    """masked_mlp in bf16, against a read of the weights, against the five kernels that a model runs, with neurons
    masked against none, and half of them masked against the MLP that ``affectron.compact`` leaves without them."""
    hidden, f = scale.llama["hidden_size"], scale.neurons
    generator = torch.Generator(scale.device).manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return (torch.randn(*shape, generator=generator, device=scale.device) * 0.02).to(torch.bfloat16)

    gate, up, down, x = draw(f, hidden), draw(f, hidden), draw(hidden, f), draw(rows, hidden)
    by_neuron = ops.neuron_major(down)
    neutral = _neutral(scale, f)
    order = torch.randperm(f, generator=torch.Generator().manual_seed(1)).to(scale.device)
    kept = order[f // 2 :].sort().values
    smaller = gate[kept], up[kept], down[:, kept].contiguous()
    smaller_by_neuron = ops.neuron_major(smaller[2])
    neutral_smaller = _neutral(scale, len(kept))

    size = 3 * hidden * f * 2
    floors = readers(scale, size)
    contenders = [
        *floors,
        Contender(TORCH, "torch", partial(_mlp, x, gate, up, down), moves=size),
        Contender(SMALLER, "torch", partial(_mlp, x, *smaller), moves=size // 2),
    ]
    for backend in scale.backends:
        # From 5 rows on arithmetic sets the pace of some backends.
        held = rows <= 4 and backend != "reference"
        for name, context in variants(backend, "short_silu"):
            none, left = f"masked_mlp {name}: none masked", f"masked_mlp {name}: half the neurons left"
            run = partial(ops.masked_mlp, x, gate, up, by_neuron, neutral)
            goals: dict[str, float | None] = {READ: 1 / 0.90, TORCH: 1.0} if held else {READ: None, TORCH: None}
            contenders.append(Contender(none, backend, run, goals, moves=size, context=context))
            for share in (0.1, 0.3, 0.5):
                table = neutral.clone()
                table[0, 0, order[: int(share * f)]], table[0, 3, order[: int(share * f)]] = 0.0, 0.0
                run = partial(ops.masked_mlp, x, gate, up, by_neuron, table)
                goals = {none: (1 / 1.9 if share == 0.5 else 1.05 * (1 - share)) if held else None}
                if share == 0.5:
                    goals |= {SMALLER: None, left: None}
                title = f"masked_mlp {name}: {share:.0%} masked"
                contenders.append(Contender(title, backend, run, goals, context=context))
            run = partial(ops.masked_mlp, x, *smaller[:2], smaller_by_neuron, neutral_smaller)
            contenders.append(Contender(left, backend, run, {SMALLER: None}, moves=size // 2, context=context))
            run = partial(ops.masked_mlp, x, gate, up, down, neutral)
            title = f"masked_mlp {name}: none masked, down by output"
            contenders.append(Contender(title, backend, run, {none: None}, moves=size, context=context))
    times = compete(clock, contenders, scale.rounds)
    times.name_fastest(READ, [one.name for one in floors])
    return rows_of(f"{rows} rows, {hidden} x {f} bfloat16", contenders, times)


def _captured_layer(scale: Scale, clock: Clock, rows: int) -> list[Row]:
    """glu and glu_steer of every layer of a model that decodes, in a captured graph: milliseconds of one layer."""
    layers, f = scale.llama["num_hidden_layers"], scale.neurons
    generator = torch.Generator(scale.device).manual_seed(0)
    gate, up = (torch.randn(rows, f, generator=generator, device=scale.device).bfloat16() for _ in range(2))
    table = torch.rand(8, 4, f, device=scale.device)
    mixed = torch.arange(rows, dtype=torch.int32, device=scale.device) % 9 - 1

    def every_layer(layer: Callable[[], Tensor]) -> None:
        for _ in range(layers):
            layer()

    def replayed(backend: str, layer: Callable[[], Tensor]) -> Callable[[], None]:
        return Captured(scale, partial(every_layer, layer), partial(serving, backend, {}))

    contenders = []
    for backend in scale.backends:
        run = replayed(backend, partial(ops.glu, gate, up))
        contenders.append(Contender(f"glu {backend}", backend, run))
        run = replayed(backend, partial(ops.glu_steer, gate, up, table, mixed))
        contenders.append(Contender(f"glu_steer {backend}", backend, run))
    whole = compete(clock, contenders, scale.rounds, cold=False)
    times = Times({name: [ms / layers for ms in found] for name, found in whole.rounds.items()}, whole.failed)
    for place, one in enumerate(contenders):
        glu = one.name.replace("glu_steer", "glu")
        if glu != one.name and glu in times.rounds:  # at most 3 us a layer more
            contenders[place] = replace(one, goals={glu: 1 + 3e-3 / times.median(glu)})
    return rows_of(f"one layer of a captured step, {rows} rows", contenders, times)

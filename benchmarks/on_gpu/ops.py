"""The ops on one layer's activations: glu, glu_stats and glu_steer, neuron_stats and the plan of segments.

bf16 with SiLU is compared in full, other precisions and activations by a row for each op. The copy and the read move as
many bytes as the op has to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec

import torch
from torch import Tensor
from torch.nn.functional import gelu, silu

from affectron import ops
from on_gpu.contenders import COPY, READ, copy, readers, variants
from on_gpu.record import Row, memory_rows, rows_of
from on_gpu.scale import LABELS, Scale
from on_gpu.timing import Clock, Contender, compete

RUNS, SHUFFLED, MANY = "10 labels in runs", "10 labels shuffled", "64 labels shuffled"
# Labels, and the largest time allowed over glu's.
STATS = {RUNS: (LABELS, 1.05), SHUFFLED: (LABELS, 1.15), MANY: (64, 1.25)}
PROGRAMS = 8
EAGER, COMPILED, LIGER, HOOK = "torch silu(g) * u", "torch.compile silu(g) * u", "Liger swiglu", "eager hook"


def works(scale: Scale, clock: Clock) -> Iterator[tuple[str, Callable[[], list[Row]]]]:
    yield "bfloat16 silu", partial(_in_full, scale, clock)
    for dtype, act in ((torch.bfloat16, "gelu_tanh"), (torch.float16, "silu"), (torch.float32, "silu")):
        yield f"{_name(dtype)} {act}", partial(_in_short, scale, clock, dtype, act)
    yield "neuron_stats", partial(_neuron_stats, scale, clock)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _draw(scale: Scale, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    generator = torch.Generator(scale.device).manual_seed(0)
    shape = (scale.tokens, scale.neurons)
    gate, up = (torch.randn(shape, generator=generator, device=scale.device).to(dtype) for _ in range(2))
    return gate, up


def _label_runs(scale: Scale, labels: int, shuffled: bool = False) -> Tensor:
    """Labels in runs of 30 tokens, as sentences make them, or token by token in random order."""
    generator = torch.Generator().manual_seed(0)
    sentences = torch.randperm(scale.tokens // 30 + 1, generator=generator) % labels
    segments = sentences.repeat_interleave(30)[: scale.tokens]
    if shuffled:
        segments = segments[torch.randperm(scale.tokens, generator=generator)]
    return segments.to(scale.device)


def _eager_hook(gate: Tensor, up: Tensor, segments: Tensor) -> Tensor:
    """The product and its statistics as a hook of one's own takes them: an fp32 copy, and four reductions a label."""
    h = silu(gate) * up
    wide = h.float()
    for label in range(LABELS):
        mine = wide[segments == label]
        (mine > 0).sum(0), mine.sum(0), mine.square().sum(0), mine.amax(0)
    return h


def _liger(gate: Tensor, up: Tensor) -> Tensor:
    from liger_kernel.ops.swiglu import LigerSiLUMulFunction

    return LigerSiLUMulFunction.apply(gate, up)


def _silu_forms(dtype: torch.dtype, act: str) -> tuple[str, ...]:
    """SiLU has two forms for what is rounded to 16 bits."""
    return ("short_silu",) if act == "silu" and dtype != torch.float32 else ()


def _glu(gate: Tensor, up: Tensor, act: str, scale: Scale, goals: dict[str, float | None]) -> list[Contender]:
    size = 3 * gate.numel() * gate.element_size()
    return [
        Contender(f"glu {name}", backend, partial(ops.glu, gate, up, act), goals, moves=size, context=context)
        for backend in scale.backends
        for name, context in variants(backend, *_silu_forms(gate.dtype, act))
    ]


def _glu_stats(gate: Tensor, up: Tensor, act: str, scale: Scale, work: str) -> list[Contender]:
    labels, goal = STATS[work]
    plan = ops.SegmentPlan(_label_runs(scale, labels, work != RUNS), labels)
    found = []
    for backend in scale.backends:
        stats = ops.StatsBuffers(labels, scale.neurons, device=scale.device)
        run = partial(ops.glu_stats, gate, up, plan, stats, act)
        for name, context in variants(backend, *_silu_forms(gate.dtype, act), "single_pass"):
            # Compared with glu in the same form of SiLU.
            goals: dict[str, float | None] = {f"glu {name.replace(', centred', '')}": goal}
            if work == RUNS:
                goals[HOOK] = 0.1
            found.append(Contender(f"glu_stats {name}: {work}", backend, run, goals, context=context))
    return found


def _glu_steer(gate: Tensor, up: Tensor, act: str, scale: Scale, mixes: dict[str, Tensor | None]) -> list[Contender]:
    table = torch.rand(PROGRAMS, 4, scale.neurons, device=scale.device)
    return [
        Contender(
            f"glu_steer {name}: {mix}",
            backend,
            partial(ops.glu_steer, gate, up, table[:1] if rows is None else table, rows, act),
            {f"glu {name}": 1.03},
            context=context,
        )
        for mix, rows in mixes.items()
        for backend in scale.backends
        for name, context in variants(backend, *_silu_forms(gate.dtype, act))
    ]


def _mixes(scale: Scale) -> dict[str, Tensor | None]:
    """The program of each row; None for one program of all rows."""
    token = torch.arange(scale.tokens, dtype=torch.int32, device=scale.device)
    return {
        "one program": None,
        "8 programs in runs": token * PROGRAMS // scale.tokens,
        "8 programs row by row": token % PROGRAMS,
        "8 programs and none row by row": token % (PROGRAMS + 1) - 1,
    }


def _in_full(scale: Scale, clock: Clock) -> list[Row]:
    gate, up = _draw(scale, torch.bfloat16)
    segments = _label_runs(scale, LABELS)
    compiled = torch.compile(lambda g, u: silu(g) * u, backend=scale.compiler, dynamic=False)
    replaced = [
        copy(scale, 3 * gate.numel() * 2),
        Contender(EAGER, "torch", lambda: silu(gate) * up),
        Contender(COMPILED, "torch", lambda: compiled(gate, up)),
        Contender(HOOK, "torch", lambda: _eager_hook(gate, up, segments)),
    ]
    if scale.on_gpu and find_spec("liger_kernel"):
        replaced.append(Contender(LIGER, "liger", partial(_liger, gate, up)))
    glu = _glu(gate, up, "silu", scale, {COPY: 1 / 0.95, COMPILED: 1.0, LIGER: 1.0})
    stats = [one for work in STATS for one in _glu_stats(gate, up, "silu", scale, work)]
    steer = _glu_steer(gate, up, "silu", scale, _mixes(scale))
    share: dict[str, float | None] = {f"glu_stats {backend}: {RUNS}": None for backend in scale.backends}
    plan = Contender("SegmentPlan", "torch", partial(ops.SegmentPlan, segments, LABELS), share)

    work = f"{scale.tokens} x {scale.neurons} bfloat16 silu"
    contenders = [*replaced, *glu, *stats, *steer, plan]
    times = compete(clock, contenders, scale.rounds)
    rows = rows_of(work, contenders, times)
    # An [N, F] fp32 temporary would be twice the output.
    by_name = {one.name: one for one in contenders}
    goals: dict[str, float | None] = {HOOK: None}
    for backend in scale.backends:
        goal = 1.5 if backend != "reference" else None
        goals |= {f"glu_stats {backend}: {RUNS}": goal, f"glu_steer {backend}: 8 programs row by row": goal}
    for name, goal in goals.items():
        rows += memory_rows(by_name[name], work, times, goal, gate.numel() * 2, "the output")
    return rows


def _in_short(scale: Scale, clock: Clock, dtype: torch.dtype, act: str) -> list[Row]:
    gate, up = _draw(scale, dtype)
    activation = {"silu": silu, "gelu_tanh": partial(gelu, approximate="tanh")}[act]
    contenders = [
        copy(scale, 3 * gate.numel() * gate.element_size()),
        Contender(f"torch {act}(g) * u", "torch", lambda: activation(gate) * up),
        *_glu(gate, up, act, scale, {COPY: None}),
        *_glu_stats(gate, up, act, scale, RUNS),
        *_glu_steer(gate, up, act, scale, {"one program": None}),
    ]
    work = f"{scale.tokens} x {scale.neurons} {_name(dtype)} {act}"
    return rows_of(work, contenders, compete(clock, contenders, scale.rounds))


def _neuron_stats(scale: Scale, clock: Clock) -> list[Row]:
    h, _ = _draw(scale, torch.bfloat16)
    plan = ops.SegmentPlan(_label_runs(scale, LABELS), LABELS)
    stats = ops.StatsBuffers(LABELS, scale.neurons, "product", device=scale.device)
    floors = readers(scale, h.numel() * 2)
    contenders = floors + [
        Contender(
            f"neuron_stats {name}: {RUNS}",
            backend,
            partial(ops.neuron_stats, h, plan, stats),
            {READ: None},
            moves=h.numel() * 2,
            context=context,
        )
        for backend in scale.backends
        for name, context in variants(backend, "single_pass")
    ]
    times = compete(clock, contenders, scale.rounds)
    times.name_fastest(READ, [one.name for one in floors])
    return rows_of(f"{scale.tokens} x {scale.neurons} bfloat16, one operand", contenders, times)

"""The kernels on a GPU against what they replace, in one run: ``python benchmarks/gpu.py``, or by ``make gpu``.

Apart from the pytest-benchmark suites because a GPU is timed differently, by events on its stream with a cold L2
cache, and because the machine that has one may have nothing but torch and transformers. Contenders of one piece of
work take turns, round by round; medians are compared. The last thing printed is a table; all of it goes, as JSON,
into $OUT if that is set, else into benchmarks/results/.

``--dry-run`` runs every contender at tiny sizes on the CPU and keeps nothing: it shows what is misspelt, not what is
fast.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import random
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor

import affectron
from affectron import ops
from affectron.batching import batches
from affectron.ops.library import BACKENDS, absence_of, backend_for

LABELS = 10
LLAMA_8B = {
    "vocab_size": 128_256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 8192,
}
LLAMA_TINY = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}


@dataclass(frozen=True)
class Scale:
    """How large a run is, and where it runs."""

    device: str
    tokens: int
    neurons: int
    rounds: int
    llama: dict[str, int]
    sentences: int
    batch_tokens: int

    @property
    def backends(self) -> list[str]:
        return [name for name in BACKENDS if absence_of(name, self.device) is None]


FULL = Scale("cuda", 8192, 14336, 50, LLAMA_8B, 1600, 8192)
DRY = Scale("cpu", 600, 48, 2, LLAMA_TINY, 12, 128)


@dataclass(frozen=True)
class Contender:
    """One way to do a piece of work. ``goals`` maps another contender's name to the largest allowed time over its."""

    name: str
    backend: str
    run: Callable[[], Any]
    goals: dict[str, float]


class Clock:
    """Milliseconds of a call, with nothing of its arguments in the L2 cache."""

    def __init__(self, scale: Scale) -> None:
        self.on_gpu = scale.device == "cuda"
        # Several times the largest L2: writing it evicts all else.
        self.flush = torch.empty(2**28 if self.on_gpu else 16, dtype=torch.int8, device=scale.device)

    def time(self, run: Callable[[], Any], cold: bool = True) -> float:
        if cold:
            self.flush.zero_()
        if not self.on_gpu:
            start = time.perf_counter()
            run()
            return (time.perf_counter() - start) * 1e3
        # The GPU is kept busy while the call is issued, so that Python's own time does not count.
        torch.cuda._sleep(1_000_000)
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        run()
        end.record()
        end.synchronize()
        return start.elapsed_time(end)


def compete(clock: Clock, contenders: list[Contender], rounds: int, cold: bool = True) -> dict[str, float]:
    """Median milliseconds of each contender by name, in turns."""
    for contender in contenders:
        for _ in range(3 if cold else 1):
            contender.run()
    times: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    for _ in range(rounds):
        for contender in contenders:
            times[contender.name].append(clock.time(contender.run, cold))
    return {name: statistics.median(found) for name, found in times.items()}


def rows_of(shape: str, contenders: list[Contender], times: dict[str, float]) -> list[dict[str, Any]]:
    """The record of one piece of work: a row for each contender and goal."""
    found = []
    for contender in contenders:
        row = {"name": contender.name, "shape": shape, "backend": contender.backend, "ms": times[contender.name]}
        goals = {other: goal for other, goal in contender.goals.items() if other in times}
        if not goals:
            found.append({**row, "ratio": None, "against": None, "goal": None, "ok": None})
        for other, goal in goals.items():
            ratio = times[contender.name] / times[other]
            found.append({**row, "ratio": ratio, "against": other, "goal": goal, "ok": ratio <= goal})
    return found


def served(backend: str, function: Callable[[], Any]) -> Callable[[], Any]:
    def run() -> Any:
        with ops.use_backend(backend):
            return function()

    return run


# --- the ops ------------------------------------------------------------------------------------------------------


def label_runs(tokens: int, labels: int, shuffled: bool) -> Tensor:
    """Labels in runs of 30 tokens, as sentences make them, or token by token in random order."""
    generator = torch.Generator().manual_seed(0)
    sentences = torch.randperm(tokens // 30 + 1, generator=generator) % labels
    segments = sentences.repeat_interleave(30)[:tokens]
    return segments[torch.randperm(tokens, generator=generator)] if shuffled else segments


def eager_hook(gate: Tensor, up: Tensor, segments: Tensor) -> Tensor:
    """The product and its statistics as a hook of one's own takes them: an fp32 copy, and four reductions a label."""
    h = torch.nn.functional.silu(gate) * up
    wide = h.float()
    for label in range(LABELS):
        mine = wide[segments == label]
        (mine > 0).sum(0), mine.sum(0), mine.square().sum(0), mine.amax(0)
    return h


def peak_bytes(scale: Scale, run: Callable[[], Any]) -> int:
    """The most memory that a call holds beyond what was held before."""
    if scale.device != "cuda":
        run()
        return 0
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def bench_ops(scale: Scale, clock: Clock, dtype: torch.dtype) -> tuple[list[dict[str, Any]], float]:
    """The GLU ops in one dtype, and the bandwidth of a device copy in TB/s."""
    n, f = scale.tokens, scale.neurons
    generator = torch.Generator(scale.device).manual_seed(0)
    gate, up = (torch.randn(n, f, generator=generator, device=scale.device).to(dtype) for _ in range(2))
    # A copy that moves as many bytes as glu: one and a half operands read, one and a half written.
    source = torch.empty(3 * n * f // 2, dtype=dtype, device=scale.device).normal_()
    target = torch.empty_like(source)
    bf16 = dtype == torch.bfloat16
    contenders = [
        Contender("copy of as many bytes", "torch", lambda: target.copy_(source), {}),
        Contender("torch silu(g) * u", "torch", lambda: torch.nn.functional.silu(gate) * up, {}),
    ]
    if bf16 and find_spec("liger_kernel"):
        from liger_kernel.ops.swiglu import LigerSiLUMulFunction

        contenders.append(Contender("Liger swiglu", "liger", lambda: LigerSiLUMulFunction.apply(gate, up), {}))
    work = {"10 labels in runs": (LABELS, False)}
    if bf16:
        work |= {"10 labels shuffled": (LABELS, True), "64 labels shuffled": (64, True)}
        one = torch.rand(1, 4, f, device=scale.device)
        eight = torch.rand(8, 4, f, device=scale.device)
        mixed = torch.arange(n, dtype=torch.int32, device=scale.device) % 8
        segments = label_runs(n, LABELS, False).to(scale.device)
        hook = Contender("eager hook", "torch", lambda: eager_hook(gate, up, segments), {})
        contenders.append(hook)
    allowed = {"10 labels in runs": 1.05, "10 labels shuffled": 1.15, "64 labels shuffled": 1.25}
    peaks = []
    for backend in scale.backends:
        glu = f"glu {backend}"
        goals = {"copy of as many bytes": 1 / 0.95, "Liger swiglu": 1.0} if bf16 else {}
        contenders.append(Contender(glu, backend, served(backend, lambda: ops.glu(gate, up)), goals))
        for name, (labels, shuffled) in work.items():
            plan = ops.SegmentPlan(label_runs(n, labels, shuffled).to(scale.device), labels)
            stats = ops.StatsBuffers(labels, f, device=scale.device)
            run = served(backend, lambda plan=plan, stats=stats: ops.glu_stats(gate, up, plan, stats))
            goals = {glu: allowed[name]}
            if bf16 and name == "10 labels in runs":
                goals["eager hook"] = 0.1
                peaks.append((backend, run))
            contenders.append(Contender(f"glu_stats {name} {backend}", backend, run, goals))
        if bf16:
            steer = served(backend, lambda: ops.glu_steer(gate, up, one))
            contenders.append(Contender(f"glu_steer one program {backend}", backend, steer, {glu: 1.03}))
            steer = served(backend, lambda: ops.glu_steer(gate, up, eight, mixed))
            contenders.append(Contender(f"glu_steer 8 programs by row {backend}", backend, steer, {glu: 1.03}))
    times = compete(clock, contenders, scale.rounds)
    shape = f"{n} x {f} {str(dtype).removeprefix('torch.')}"
    rows = rows_of(shape, contenders, times)
    if bf16:
        rows += [memory_row("eager hook", "torch", shape, peak_bytes(scale, hook.run), None, n * f * 4, "fp32 [N, F]")]
        # No [N, F] fp32 temporary: the output and well under half as much again.
        for backend, run in peaks:
            goal = n * f * 2 + n * f
            rows.append(memory_row("glu_stats", backend, shape, peak_bytes(scale, run), 1.0, goal, "1.5 x the output"))
    bandwidth = 2 * source.numel() * source.element_size() / times["copy of as many bytes"] / 1e9
    return rows, bandwidth


def memory_row(
    name: str, backend: str, shape: str, peak: int, goal: float | None, against: int, what: str
) -> dict[str, Any]:
    ratio = peak / against
    ok = None if goal is None else ratio <= goal
    row = {"name": f"{name}: peak memory", "shape": shape, "backend": backend, "ms": None}
    return {**row, "ratio": ratio, "against": what, "goal": goal, "ok": ok}


# --- a whole MLP, as decoding needs it ---


def bench_mlp(scale: Scale, clock: Clock, rows: int) -> list[dict[str, Any]]:
    """masked_mlp in bf16 for a few rows, against a copy of as many bytes as it reads, against the five kernels that a
    model runs, and with neurons masked against none."""
    hidden, f = scale.llama["hidden_size"], scale.llama["intermediate_size"]
    generator = torch.Generator(scale.device).manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return (torch.randn(*shape, generator=generator, device=scale.device) * 0.02).to(torch.bfloat16)

    gate, up, down, x = draw(f, hidden), draw(f, hidden), draw(hidden, f), draw(rows, hidden)
    by_neuron = ops.neuron_major(down)
    linear = torch.nn.functional.linear
    neutral = torch.tensor([1.0, 0.0, -torch.inf, -0.0], device=scale.device)[None, :, None].repeat(1, 1, f)
    order = torch.randperm(f, generator=torch.Generator().manual_seed(1)).to(scale.device)
    # A copy reads and writes: half as many bytes as are to be read take as long.
    read = torch.empty(3 * hidden * f // 2, dtype=torch.bfloat16, device=scale.device).normal_()
    written = torch.empty_like(read)
    floor, torchs = "copy of as many bytes", "torch, five kernels"
    contenders = [
        Contender(floor, "torch", lambda: written.copy_(read), {}),
        Contender(torchs, "torch", lambda: linear(torch.nn.functional.silu(linear(x, gate)) * linear(x, up), down), {}),
    ]
    for backend in scale.backends:
        none = f"masked_mlp, none masked {backend}"
        # From 5 rows on arithmetic sets the pace of some backends.
        goals = {floor: 1 / 0.90, torchs: 1.0} if rows <= 4 and backend != "reference" else {}
        run = served(backend, lambda: ops.masked_mlp(x, gate, up, by_neuron, neutral))
        contenders.append(Contender(none, backend, run, goals))
        for share in (0.1, 0.3, 0.5):
            table = neutral.clone()
            table[0, 0, order[: int(share * f)]], table[0, 3, order[: int(share * f)]] = 0.0, 0.0
            run = served(backend, lambda table=table: ops.masked_mlp(x, gate, up, by_neuron, table))
            goals = {none: 1.05 * (1 - share)} if rows <= 4 and backend != "reference" else {}
            contenders.append(Contender(f"masked_mlp, {share:.0%} masked {backend}", backend, run, goals))
        run = served(backend, lambda: ops.masked_mlp(x, gate, up, down, neutral))
        contenders.append(Contender(f"masked_mlp, down by output {backend}", backend, run, {}))
    shape = f"{rows} rows, {hidden} x {f} bfloat16"
    return rows_of(shape, contenders, compete(clock, contenders, scale.rounds))


def bench_captured(scale: Scale, clock: Clock, rows: int) -> list[dict[str, Any]]:
    """glu and glu_steer of every layer of a model that decodes, in a captured graph: milliseconds of one layer."""
    layers, f = scale.llama["num_hidden_layers"], scale.neurons
    generator = torch.Generator(scale.device).manual_seed(0)
    gate, up = (torch.randn(rows, f, generator=generator, device=scale.device).bfloat16() for _ in range(2))
    table = torch.rand(8, 4, f, device=scale.device)
    mixed = torch.arange(rows, dtype=torch.int32, device=scale.device) % 9 - 1

    def captured(backend: str, work: Callable[[], Any]) -> Callable[[], Any]:
        def every_layer() -> None:
            with ops.use_backend(backend):
                for _ in range(layers):
                    work()

        if scale.device != "cuda":
            return every_layer
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            every_layer()  # compiles
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            every_layer()
        return graph.replay

    found = []
    for backend in scale.backends:
        contenders = [
            Contender("glu", backend, captured(backend, lambda: ops.glu(gate, up)), {}),
            Contender("glu_steer", backend, captured(backend, lambda: ops.glu_steer(gate, up, table, mixed)), {}),
        ]
        times = {name: time / layers for name, time in compete(clock, contenders, scale.rounds, cold=False).items()}
        goal = (times["glu"] + 3e-3) / times["glu"]  # at most 3 us a layer more
        contenders[1] = replace(contenders[1], goals={"glu": goal})
        found += rows_of(f"one layer of a captured step, {rows} rows", contenders, times)
    return found


# --- screening ----------------------------------------------------------------------------------------------------


def tokenizer(words: int) -> Any:
    backend = Tokenizer(models.WordLevel({f"w{i}": i for i in range(words)}, unk_token="w0"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="w0")


def corpus(sentences: int, words: int) -> affectron.Corpus:
    """Sentences of 20 to 40 words with 10 labels."""
    rng = random.Random(0)
    return affectron.Corpus.from_records(
        {
            "text": " ".join(f"w{rng.randrange(words)}" for _ in range(rng.randint(20, 40))),
            "label": f"label {rng.randrange(LABELS)}",
        }
        for _ in range(sentences)
    )


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def bench_screen(scale: Scale, clock: Clock) -> list[dict[str, Any]]:
    """Screening a Llama with random weights against its plain forwards on the same batches."""
    words = min(scale.llama["vocab_size"], 32_000)
    tokens, sentences = tokenizer(words), corpus(scale.sentences, words)
    with torch.device(scale.device), default_dtype(torch.bfloat16):
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**scale.llama)).eval()

    @torch.no_grad()
    def forward(body: Any) -> None:
        for batch in batches(sentences, tokens, batch_tokens=scale.batch_tokens):
            body(
                input_ids=torch.from_numpy(batch.input_ids).to(scale.device),
                attention_mask=torch.from_numpy(batch.attention_mask).to(scale.device),
                use_cache=False,
            )

    def screen() -> None:
        affectron.screen(model, tokens, sentences, batch_tokens=scale.batch_tokens)

    contenders = [
        Contender("forward with lm_head", "torch", lambda: forward(model), {}),
        Contender("base model", "torch", lambda: forward(model.model), {}),
    ]
    goals = {"forward with lm_head": 1.0, "base model": 1 / 0.98}
    # Plain torch statistics wait for the GPU at every layer: not what anybody should run, and slow to time.
    contenders += [
        Contender(f"screen {name}", name, served(name, screen), goals)
        for name in scale.backends
        if name != "reference" or scale.device == "cpu"
    ]
    shape = f"Llama {scale.llama['num_hidden_layers']} layers, {scale.batch_tokens} tokens a batch"
    rows = rows_of(shape, contenders, compete(clock, contenders, 3, cold=False))
    # Memory is compared with the model included: that is what has to fit.
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    buffers = scale.llama["num_hidden_layers"] * (8 * LABELS + 40 * LABELS * scale.llama["intermediate_size"])
    base = weights + peak_bytes(scale, contenders[1].run)
    for contender in contenders[2:]:
        peak = weights + peak_bytes(scale, contender.run) - buffers
        rows.append(memory_row("screen", contender.backend, shape, peak, 1.01, base, "base model (buffers apart)"))
    return rows


# --- the record ---------------------------------------------------------------------------------------------------


def versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "cuda": str(torch.version.cuda), "hip": str(torch.version.hip)}
    for package in ("affectron", "torch", "triton", "transformers", "liger_kernel"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "absent"
    return found


def print_table(rows: list[dict[str, Any]]) -> None:
    def cell(value: Any, form: str) -> str:
        return "" if value is None else format(value, form)

    for row in rows:
        verdict = {None: "", True: "met", False: "MISSED"}[row["ok"]]
        against = f"of {row['against']}" if row["against"] else ""
        goal = f"goal {row['goal']:.3f} {verdict}" if row["goal"] is not None else ""
        print(f"{row['name']:<42} {cell(row['ms'], '.4f'):>10} {cell(row['ratio'], '.3f'):>8} {against:<28} {goal}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry-run", action="store_true", help="tiny sizes on the CPU; nothing is kept")
    scale = DRY if parser.parse_args().dry_run else FULL
    if scale.device == "cuda" and not torch.cuda.is_available():
        parser.exit(2, "error: no CUDA device was found (--dry-run needs none)\n")
    clock = Clock(scale)
    rows, bandwidth = bench_ops(scale, clock, torch.bfloat16)
    if scale.device == "cuda":
        torch.cuda.empty_cache()
    rows += bench_ops(scale, clock, torch.float32)[0]
    if scale.device == "cuda":
        torch.cuda.empty_cache()
    for few in (1, 4, 16):
        rows += bench_mlp(scale, clock, few)
        rows += bench_captured(scale, clock, few)
    if scale.device == "cuda":
        torch.cuda.empty_cache()
    rows += bench_screen(scale, clock)
    name = torch.cuda.get_device_name() if scale.device == "cuda" else "no GPU"
    record = {
        "gpu": name,
        "date": datetime.date.today().isoformat(),
        "versions": versions(),
        "copy_bandwidth_tb_s": bandwidth,
        "rows": rows,
    }
    if scale is FULL:
        file = f"{name.lower().replace(' ', '-')}-{record['date']}.json"
        folder = Path(os.environ.get("OUT") or Path(__file__).parent / "results")
        (folder / file).write_text(json.dumps(record, indent=2) + "\n")
        print(f"written to {folder / file}")
        print(
            {op: backend_for(op, "cuda")[0] for op in ("glu", "glu_stats", "glu_steer", "masked_mlp", "neuron_stats")}
        )
    print(f"{name}, a copy moves {bandwidth:.2f} TB/s")
    print_table(rows)


if __name__ == "__main__":
    main()

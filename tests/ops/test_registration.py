"""The ops as torch sees them: schemas, shape rules, autograd, torch.compile and export; and which backend serves."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys

import pytest
import torch

from affectron import _native, ops
from affectron.ops import _registry, backend_for
from affectron.ops._backends import BACKENDS, KERNELS
from affectron.ops._checks import as_rows
from affectron.ops.backends import native
from tests.ops.conftest import halves

L = torch.ops.affectron


def arguments(name: str, grad: bool) -> tuple:
    gate, up = (t.clone().requires_grad_(grad) for t in halves(40, 24, torch.float32))
    segments = torch.arange(40) % 4 - 1
    stats, plan = ops.StatsBuffers(3, 24), ops.SegmentPlan(segments, 3)
    table, rows = torch.rand(2, 4, 24), torch.arange(40, dtype=torch.int32) % 3 - 1
    return {
        "glu": (gate, up, "silu"),
        "glu_steer": (gate, up, table, rows, "gelu"),
        "glu_attribution": (gate, up, plan.order, plan.tiles, torch.zeros(3, 24), torch.zeros(3, 24), "silu"),
        "glu_backward": (gate, gate, up, plan.order, plan.tiles, torch.zeros(3, 24), torch.zeros(3, 24), "silu"),
        "glu_stats": (gate, up, plan.order, plan.tiles, *stats.tensors, "silu", False),
        "masked_mlp": (gate[:5], gate[5:20], up[5:20], up[:9, :15], torch.rand(2, 4, 15), rows[:5], "silu"),
        "neuron_stats": (gate, up, plan.order, plan.tiles, *stats.tensors),
        "segment_plan": (segments, 3),
    }[name]


@pytest.mark.parametrize(
    ("name", "grad"),
    [
        ("glu", True),
        ("glu_attribution", True),
        ("glu_backward", False),
        ("glu_steer", True),
        ("glu_stats", False),
        ("masked_mlp", False),
        ("neuron_stats", False),
        ("segment_plan", False),
    ],
)
def test_opcheck(name, grad):
    torch.library.opcheck(getattr(L, name).default, arguments(name, grad))


@pytest.mark.parametrize("gated", [True, False])
def test_opcheck_of_the_backward_without_sums(gated):
    gate, up = halves(40, 24, torch.float32)
    torch.library.opcheck(L.glu_backward.default, (gate, gate, up if gated else None, *[None] * 4, "gelu"))


@pytest.mark.parametrize(("name", "grad"), [("glu_attribution", True), ("glu_backward", False)])
def test_opcheck_of_sums_alone(name, grad):
    *tensors, _, act = arguments(name, grad)
    torch.library.opcheck(getattr(L, name).default, (*tensors, None, act))


class Block(torch.nn.Module):
    """A gated MLP with statistics and a steered twin, as a user's model would have them."""

    def __init__(self) -> None:
        super().__init__()
        self.stats = ops.StatsBuffers(3, 24)
        self.register_buffer("table", torch.rand(2, 4, 24))

    def forward(self, both: torch.Tensor, segments: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        gate, up = both.chunk(2, dim=-1)
        h = ops.glu_stats(gate, up, segments, self.stats)
        return h + ops.glu_steer(gate, up, self.table, rows) * ops.glu(gate, None, "gelu")


def inputs(n: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    both = torch.randn(n, 48, generator=torch.Generator().manual_seed(n))
    return both, torch.arange(n) % 4 - 1, torch.arange(n, dtype=torch.int32) % 3 - 1


def test_compile_fullgraph_with_dynamic_rows():
    eager, compiled = Block(), Block()
    compiled.load_state_dict(eager.state_dict())
    run = torch.compile(compiled, fullgraph=True, dynamic=True)
    with torch.no_grad():
        for n in (40, 41, 8):
            torch.testing.assert_close(run(*inputs(n)), eager(*inputs(n)))
    for a, b in zip(eager.stats.tensors, compiled.stats.tensors, strict=True):
        assert torch.equal(a, b)


def test_export():
    block = Block().requires_grad_(False)

    class Steered(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("table", block.table)

        def forward(self, both: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
            gate, up = both.chunk(2, dim=-1)
            return ops.glu_steer(gate, up, self.table, rows) + ops.glu(gate, up)

    both, _, rows = inputs(16)
    program = torch.export.export(Steered(), (both, rows), strict=False)
    assert torch.equal(program.module()(both, rows), Steered()(both, rows))


def test_export_with_statistics():
    """An exported program writes to its own copy of a buffer: the counts go there."""

    class Counted(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stats = ops.StatsBuffers(3, 24)
            for name, tensor in zip(("count", "tally", "moments", "extrema"), self.stats.tensors, strict=True):
                self.register_buffer(name, tensor)

        def forward(self, both: torch.Tensor, order: torch.Tensor, tiles: torch.Tensor) -> torch.Tensor:
            gate, up = both.chunk(2, dim=-1)
            accumulators = (self.count, self.tally, self.moments, self.extrema)
            return L.glu_stats(gate, up, order, tiles, *accumulators, "silu", False)

    both, segments, _ = inputs(16)
    plan = ops.SegmentPlan(segments, 3)
    program = torch.export.export(Counted(), (both, plan.order, plan.tiles), strict=False).module()
    eager = Counted()
    assert torch.equal(program(both, plan.order, plan.tiles), eager(both, plan.order, plan.tiles))
    assert torch.equal(program.count, eager.stats.count)
    assert torch.equal(program.moments, eager.stats.moments)


def test_no_copy_of_a_strided_half():
    """The two halves of a fused projection are read where they lie."""
    both = torch.randn(8, 48)
    gate, up = both.chunk(2, dim=-1)
    assert as_rows("gate", gate[None]).data_ptr() == gate.data_ptr()
    assert as_rows("up", up[None], gate[None]).data_ptr() == up.data_ptr()


def without(monkeypatch: pytest.MonkeyPatch, *backends: str) -> None:
    """Let ``backends`` be absent and the others present, whatever this machine has."""
    monkeypatch.setattr(_registry, "absence_of", lambda backend, kind: f"no {backend}" if backend in backends else None)


@pytest.mark.parametrize("op", KERNELS)
def test_backend_choice(monkeypatch, op):
    monkeypatch.setattr(_native, "openmp", lambda: True)
    assert backend_for(op, "cpu") == ("native", "compiled for this processor")
    monkeypatch.setattr(_native, "openmp", lambda: False)
    assert backend_for(op, "cpu") == ("native", "compiled for this processor without OpenMP: one thread")
    without(monkeypatch)
    assert backend_for(op, "cuda") == ("triton", "the first choice for this op")
    without(monkeypatch, "triton")
    assert backend_for(op, "cuda:1") == ("native", "no triton")
    without(monkeypatch, "triton", "native")
    assert backend_for(op, "cuda") == ("reference", "no triton; no native")


def test_no_silent_fallback(monkeypatch):
    """A backend that was asked for serves or raises, both when it is chosen and when an op is called."""
    without(monkeypatch, "triton", "native")
    for name in ("triton", "native"):
        with ops.use_backend(name), pytest.raises(RuntimeError, match=f"the {name} backend was asked for, and cannot"):
            backend_for("glu", "cuda")
    monkeypatch.undo()
    x = torch.zeros(2, 3)
    with ops.use_backend("triton"), pytest.raises(RuntimeError, match="Triton has no kernels for cpu tensors"):
        ops.glu(x, x)
    with ops.use_backend("native"), pytest.raises(RuntimeError, match="has no kernels for meta tensors"):
        backend_for("glu", "meta")


@pytest.mark.parametrize("op", KERNELS)
def test_every_backend_takes_the_arguments_of_the_schema(op):
    pytest.importorskip("triton")
    names = [argument.name for argument in getattr(L, op).default._schema.arguments]
    for backend in BACKENDS.values():
        assert list(inspect.signature(backend.implementation(op)).parameters) == names, backend.name


def test_unknown_backend_and_op():
    names = "triton, native, reference"
    with pytest.raises(ValueError, match=f"backend is 'fast', expected one of {names}"), ops.use_backend("fast"):
        pass
    with pytest.raises(ValueError, match="op is 'gelu', expected one of glu"):
        backend_for("gelu", "cpu")


def test_triton_is_not_imported_for_cpu_tensors():
    code = (
        "import sys, torch; from affectron import ops; x = torch.zeros(2, 3); ops.glu(x, x); "
        "print('affectron.kernels' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_backend_from_the_environment():
    code = "from affectron import ops; print(ops.backend_for('glu', 'cpu')[0])"
    for name, printed in (("reference", "reference"), ("fast", "AFFECTRON_BACKEND is 'fast'")):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={"AFFECTRON_BACKEND": name, "PATH": "", "PYTHONPATH": os.environ.get("PYTHONPATH", "")},
            capture_output=True,
            text=True,
        )
        assert printed in done.stdout + done.stderr


def test_unknown_instruction_set_level():
    with pytest.raises(ValueError, match="'avx9000' is not one that this machine can run"):
        native.set_isa_level("avx9000")

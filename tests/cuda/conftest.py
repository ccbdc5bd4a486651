"""The CUDA kernels without a GPU: their source, compiled as C++ with tests/cuda/emulation and run on the CPU."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from affectron import ops
from affectron.ops._codes import ACTIVATIONS, DTYPES
from affectron.ops.backends import native

HERE = Path(__file__).resolve().parent


def address(value: Tensor | None) -> tuple[int, int]:
    """Address and row stride."""
    return (0, 0) if value is None else (value.data_ptr(), value.stride(0))


@dataclass(frozen=True)
class Emulated:
    """The kernels with the signatures of affectron.ops, on CPU tensors."""

    library: ctypes.CDLL

    def call(self, name: str, *arguments: int) -> None:
        status = getattr(self.library, name)(*(ctypes.c_int64(a) for a in arguments))
        assert status == 0, f"{name} returned the CUDA error {status}"
        self.library.synchronize()

    def glu(self, gate: Tensor, up: Tensor | None, act: str = "silu") -> Tensor:
        out = torch.full(gate.shape, torch.nan, dtype=gate.dtype)
        codes = DTYPES.index(gate.dtype), ACTIVATIONS.index(act)
        self.call("glu", out.data_ptr(), *address(gate), *address(up), *gate.shape, *codes)
        return out

    def glu_backward(
        self, grad: Tensor, gate: Tensor, up: Tensor | None, act: str = "silu",
        sums: Tensor | None = None, segments: Tensor | None = None, gradients: Tensor | None = None,
    ) -> list[Tensor]:  # fmt: skip
        """Gradients of gate and, where it is given, up."""
        of_inputs = [torch.full(gate.shape, torch.nan, dtype=gate.dtype) for t in (gate, up) if t is not None]
        addresses, workspace = [0] * 6, torch.empty(0)
        if sums is not None:
            plan = ops.SegmentPlan(segments, sums.shape[0])
            targets = sums.data_ptr(), 0 if gradients is None else gradients.data_ptr()
            addresses = [plan.order.data_ptr(), plan.tiles.data_ptr(), len(plan.tiles), *targets, len(sums)]
            self.library.backward_workspace_size.restype = ctypes.c_int64
            sizes = gate.shape[1], len(plan.tiles), 1 if gradients is None else 2
            size = self.library.backward_workspace_size(*(ctypes.c_int64(v) for v in sizes))
            workspace = torch.full((size,), 255, dtype=torch.uint8)  # as below
        outputs = of_inputs[0].data_ptr(), of_inputs[1].data_ptr() if up is not None else 0
        codes = DTYPES.index(gate.dtype), ACTIVATIONS.index(act)
        self.call(
            "glu_backward", *outputs, *address(grad), *address(gate), *address(up), *gate.shape, *addresses, *codes,
            workspace.data_ptr(),
        )  # fmt: skip
        return of_inputs

    def glu_steer(self, gate: Tensor, up: Tensor | None, program: Tensor, rows: Tensor | None, act: str) -> Tensor:
        out = torch.full(gate.shape, torch.nan, dtype=gate.dtype)
        codes = DTYPES.index(gate.dtype), ACTIVATIONS.index(act)
        arguments = (
            *address(gate),
            *address(up),
            *gate.shape,
            program.data_ptr(),
            0 if rows is None else rows.data_ptr(),
        )
        self.call("glu_steer", out.data_ptr(), *arguments, *codes)
        return out

    def masked_mlp(
        self, x: Tensor, w_gate: Tensor, w_up: Tensor | None, w_down: Tensor, program: Tensor, rows: Tensor | None,
        act: str = "silu",
    ) -> Tensor:  # fmt: skip
        (n, inputs), (outputs, f) = x.shape, w_down.shape
        out = torch.full((n, outputs), torch.nan, dtype=x.dtype)
        by_neuron = native.stored_by_neuron(w_down)
        self.library.mlp_workspace_size.restype = ctypes.c_int64
        sizes = n, inputs, f, outputs, DTYPES.index(x.dtype), by_neuron
        size = self.library.mlp_workspace_size(*(ctypes.c_int64(v) for v in sizes))
        workspace = torch.full((size,), 255, dtype=torch.uint8)  # as below
        down = w_down.t() if by_neuron else w_down
        self.call(
            "masked_mlp", out.data_ptr(), *address(x), *address(w_gate), *address(w_up), *address(down), by_neuron,
            n, inputs, f, outputs, program.data_ptr(), 0 if rows is None else rows.data_ptr(),
            DTYPES.index(x.dtype), ACTIVATIONS.index(act), workspace.data_ptr(),
        )  # fmt: skip
        return out

    def _accumulate(
        self, name: str, before: tuple[int, ...], value: Tensor, segments: Tensor, stats: ops.StatsBuffers, *codes: int
    ) -> None:
        plan = stats.plan_for(value, segments)
        sizes = *value.shape, len(plan.tiles), stats.segments, DTYPES.index(value.dtype)
        self.library.workspace_size.restype = ctypes.c_int64
        size = self.library.workspace_size(*(ctypes.c_int64(v) for v in sizes))
        # A kernel must not read what the allocator left in the workspace: these bytes are NaN in every float.
        workspace = torch.full((size,), 255, dtype=torch.uint8)
        addresses = (
            plan.order.data_ptr(),
            plan.tiles.data_ptr(),
            len(plan.tiles),
            *(t.data_ptr() for t in stats.tensors),
        )
        codes = DTYPES.index(value.dtype), *codes
        self.call(name, *before, *value.shape, *addresses, stats.segments, workspace.data_ptr(), *codes)

    def glu_stats(
        self, gate: Tensor, up: Tensor | None, segments: Tensor, stats: ops.StatsBuffers, act: str = "silu"
    ) -> Tensor:
        out = torch.full(gate.shape, torch.nan, dtype=gate.dtype)
        codes = ACTIVATIONS.index(act), stats.active_rule == "product"
        self._accumulate("glu_stats", (out.data_ptr(), *address(gate), *address(up)), gate, segments, stats, *codes)
        return out

    def neuron_stats(
        self, h: Tensor, segments: Tensor, stats: ops.StatsBuffers, gate: Tensor | None = None, one_group: bool = False
    ) -> None:
        name = "neuron_stats_in_one_group" if one_group else "neuron_stats"
        self._accumulate(name, (*address(h), *address(gate)), h, segments, stats)


@pytest.fixture(scope="session")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> Emulated:
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("g++ is absent")
    library = tmp_path_factory.mktemp("cuda") / "emulated.so"
    # Undefined behaviour, such as a vector read from an odd address, ends the process. Under `make sanitize` a read
    # beyond a tensor does too.
    address = ["-fsanitize=address"] if "libasan" in os.environ.get("LD_PRELOAD", "") else []
    subprocess.run(
        [
            compiler, "-std=c++17", "-O1", "-shared", "-fPIC", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror",
            "-Wno-unknown-pragmas", "-fsanitize=undefined", "-fno-sanitize-recover=undefined", *address,
            "-I", HERE / "emulation", HERE / "emulated.cpp", "-o", library,
        ],
        check=True,
        env={key: value for key, value in os.environ.items() if key != "LD_PRELOAD"},
    )  # fmt: skip
    return Emulated(ctypes.CDLL(str(library)))


@pytest.fixture(params=[False, True], ids=["ascending", "descending"])
def order(request: pytest.FixtureRequest, emulated: Emulated) -> Iterator[None]:
    """Blocks and threads in ascending and in descending order."""
    emulated.library.reverse_order(int(request.param))
    yield
    emulated.library.reverse_order(0)


@pytest.fixture(params=[False, True], ids=["two_passes", "single_pass"])
def form(request: pytest.FixtureRequest, emulated: Emulated) -> Iterator[None]:
    """Both forms of the statistics."""
    emulated.library.use_single_pass(int(request.param))
    yield
    emulated.library.use_single_pass(1)

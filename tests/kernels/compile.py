"""Compile every Triton kernel ahead of time, as the wrappers launch it, and print facts of the machine code as JSON.

test_compiled.py runs this in a process of its own. It needs no GPU and launches nothing.
"""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from itertools import product
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from affectron import kernels
from affectron.kernels import launch
from affectron.ops import SegmentPlan, StatsBuffers
from affectron.ops._codes import ACTIVATIONS, DTYPES
from affectron.ops.forms import use_form
from affectron.ops.segments import TILE_ROWS

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
# Wide enough for full tiles, and a multiple of 16 as in all common models.
ROWS, NEURONS = 512, 4096
TOOLS = Path(triton.__file__).parent / "backends/nvidia/bin"
TYPES = {
    torch.float32: "*fp32",
    torch.float64: "*fp64",
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.int32: "*i32",
    torch.int64: "*i64",
}


def launches(name: str, dtype: torch.dtype, act: str, option: bool) -> list[tuple[JITFunction, tuple, dict]]:
    """The launches of the wrapper ``name``: (kernel, arguments, options). ``option`` selects the op's other form."""
    calls: list[tuple[JITFunction, tuple, dict]] = []
    JITFunction.run = lambda self, *args, grid, warmup, **kwargs: calls.append((self, args, kwargs))
    gate, up = torch.zeros(ROWS, 2 * NEURONS, dtype=dtype).chunk(2, dim=1)
    plan, stats = SegmentPlan(torch.arange(ROWS) // 30 % 10, 10), StatsBuffers(10, NEURONS)
    walk = (plan.order, plan.tiles, *stats.tensors)
    if name == "glu":
        kernels.glu(gate, None if option else up, act)
    elif name == "glu_backward":  # option: with sums, first without gradients
        sums = torch.zeros(10, NEURONS)
        of_plan = [(*walk[:2], sums, gradients) for gradients in (None, sums)] if option else [(None,) * 4]
        for arguments in of_plan:
            kernels.glu_backward(gate, gate, up, *arguments, act)
    elif name == "glu_steer":
        rows = torch.zeros(ROWS, dtype=torch.int32) if option else None
        kernels.glu_steer(gate, up, torch.zeros(1, 4, NEURONS), rows, act)
    elif name == "masked_mlp":  # option: down stored by neuron, a program by row
        x, down = torch.zeros(4, 1024, dtype=dtype), torch.zeros(1024, NEURONS, dtype=dtype)
        rows = torch.zeros(4, dtype=torch.int32) if option else None
        down = down.t().contiguous().t() if option else down
        w_gate, w_up = torch.zeros(2 * NEURONS, 1024, dtype=dtype).chunk(2)
        kernels.masked_mlp(x, w_gate, w_up, down, torch.zeros(1, 4, NEURONS), rows, act)
    elif name == "glu_stats":
        kernels.glu_stats(gate, up, *walk, act, option)
    else:
        kernels.neuron_stats(gate, up if option else None, *walk)
    return calls


def compiled(kernel: JITFunction, arguments: tuple, options: dict[str, Any], target: GPUTarget) -> Any:
    signature, constants, attributes = {}, {}, {}
    for position, (parameter, value) in enumerate(zip(kernel.params, arguments, strict=True)):
        if parameter.is_constexpr:
            signature[parameter.name], constants[parameter.name] = "constexpr", value
            continue
        tensor = isinstance(value, torch.Tensor)
        signature[parameter.name] = TYPES[value.dtype] if tensor else "i32"
        if tensor or (value % 16 == 0 and not parameter.do_not_specialize):
            attributes[(position,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, constants, attributes)
    return triton.compile(source, target=target, options=options)


def facts(code: Any, target: str) -> dict[str, int]:
    """Bytes of stack that spills would need, and how many loads and stores of global memory are 16 bytes wide."""
    if target == "gfx942":
        text = code.asm["amdgcn"]
        # Scalar registers spill into lanes of vector registers, which costs no memory.
        spills = sum(int(n) for n in re.findall(r"\.vgpr_spill_count:\s+(\d+)", text))
        loads, stores = r"(?:global|buffer|flat)_load_dwordx4", r"(?:global|buffer|flat)_store_dwordx4"
    else:
        with tempfile.NamedTemporaryFile(suffix=".cubin") as cubin:
            cubin.write(code.asm["cubin"])
            cubin.flush()
            text, usage = (
                subprocess.run([TOOLS / tool, *option, cubin.name], capture_output=True, text=True, check=True).stdout
                for tool, option in (("nvdisasm", ()), ("cuobjdump", ("-res-usage",)))
            )
        spills = int(re.search(r"STACK:(\d+)", usage)[1])
        # LDGSTS goes to shared memory, past the registers: tiles of a product.
        loads, stores = r"\bLDG(?:STS)?\.E\.(?:BYPASS\.)?(?:LTC\d+B\.)?128\b", r"\bSTG\.E\.128\b"
    return {"spills": spills, "loads": len(re.findall(loads, text)), "stores": len(re.findall(stores, text))}


def block_elements(constants: dict[str, Any]) -> int:
    """Elements of an operand that a block reads at a time; of weights, in masked_mlp."""
    if "DEPTH" in constants:
        return constants["OUTPUTS"] * constants["DEPTH"]
    return constants.get("NEURONS", constants.get("ROWS", TILE_ROWS)) * constants["COLUMNS"]


def main() -> None:
    wanted = [
        (name, dtype, "silu", False, target) for name in kernels.__all__ for dtype in DTYPES for target in TARGETS
    ]
    wanted += [(name, torch.bfloat16, "silu", True, "sm_90") for name in kernels.__all__]
    wanted += [
        (name, dtype, "silu", True, target)
        for name in ("glu_backward", "masked_mlp")
        for dtype in DTYPES
        for target in TARGETS
    ]
    # The other activations where registers are scarcest.
    wanted += [
        (name, torch.bfloat16, act, name == "glu_backward", target)
        for name in ("glu_stats", "glu_backward")
        for act in ACTIVATIONS[1:]
        for target in ("sm_80", "sm_90")
    ]
    results: dict[str, dict[str, Any]] = {}
    for single_pass, (name, dtype, act, option, target) in product((True, False), wanted):
        launch.WARP, launch.may_overlap = TARGETS[target].warp_size, lambda device, on=target == "sm_90": on
        with use_form("triton", "single_pass", single_pass):
            calls = launches(name, dtype, act, option)
        for kernel, arguments, options in calls:
            constants = {p.name: a for p, a in zip(kernel.params, arguments, strict=True) if p.is_constexpr}
            case = f"{kernel.__name__} {target} {arguments[0].dtype} {constants}"
            if case in results:  # most kernels have one form, and merging is the same for all
                continue
            results[case] = {
                "case": case,
                "kernel": kernel.__name__,
                "target": target,
                "gated": bool(constants.get("GATED")),
                "single_pass": constants.get("SINGLE_PASS"),
                "gradients": constants.get("GRADIENTS"),
                "bytes": block_elements(constants) * dtype.itemsize,
                "lanes": options["num_warps"] * TARGETS[target].warp_size,
                **facts(compiled(kernel, arguments, options, TARGETS[target]), target),
            }
    print(json.dumps(list(results.values())))


if __name__ == "__main__":
    main()

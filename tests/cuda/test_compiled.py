"""The CUDA kernels as they were compiled into the module: nothing spilled, and memory moved 16 bytes at a time.

Needs cuobjdump: from the CUDA toolkit, or from triton, which brings its own.
"""

from __future__ import annotations

import re

import pytest
from tools import instructions

from affectron import _native

# Vectors of 16 bytes that a thread reads and writes before it starts again; neuron_stats writes no output. A single
# pass has code for four rows and for one.
BACKWARD = ("glu_backward_kernel", "glu_attribution_kernel", "glu_attribution_kernel, gradients")
LOADS = dict.fromkeys(BACKWARD, 6)
LOADS |= {"glu_kernel": 4, "glu_stats_kernel": 4, "glu_steer_kernel": 4, "neuron_stats_kernel": 4}
LOADS |= {"glu_stats_kernel, single pass": 10, "neuron_stats_kernel, single pass": 10}
STORES = dict.fromkeys(BACKWARD, 4)  # beside the sums, which are floats
STORES |= {"glu_kernel": 2, "glu_stats_kernel": 2, "glu_steer_kernel": 2, "neuron_stats_kernel": 0}
STORES |= {"glu_stats_kernel, single pass": 5, "neuron_stats_kernel, single pass": 0}
# Loads of masked_mlp's kernels by the number of rows of an instance: of two rows of weights, or of down's neurons.
MLP_LOADS = {
    "gate_up_kernel": {1: 8, 4: 8, 16: 4},
    "down_by_neuron_kernel": {1: 8, 4: 8, 16: 2},
    "down_by_output_kernel": {1: 8, 4: 8, 16: 4},
}

pytestmark = pytest.mark.skipif(not _native.CUDA_BUILT, reason="this build has no CUDA kernels")


def dump(*options: str) -> str:
    if instructions.find_tool("cuobjdump") is None:
        pytest.skip("cuobjdump is absent")
    return instructions.run_tool("cuobjdump", *options, _native.__file__)


def kernel_of(function: str) -> tuple[str, bool, int]:
    """The kernel's name and form, whether it is the instance for aligned rows, and its number of rows (0: any)."""
    name = re.search(r"\d([a-z_]+_kernel)I", function)
    assert name, function
    rows = re.search(r"Lb[01]ELi(\d+)E", function)
    form = f", {instructions.FLAGS[name[1]]}" if re.search(r"Lb[01]ELb1E", function) else ""
    return name[1] + form, bool(re.search(r"E\dELb1E", function)), int(rows[1]) if rows else 0


@pytest.fixture(scope="module")
def usage() -> list[tuple[str, str, dict[str, int]]]:
    """(architecture, function, resources) of every kernel."""
    kernels, arch = [], ""
    for line, after in zip((lines := dump("--dump-resource-usage").splitlines()), [*lines[1:], ""], strict=True):
        if match := re.match(r"arch = (\w+)", line.strip()):
            arch = match[1]
        elif match := re.match(r"Function (\S+):", line.strip()):
            resources = {key: int(value) for key, value in re.findall(r"(\w+):(\d+)", after)}
            kernels.append((arch, match[1], resources))
    return kernels


def test_every_kernel_is_there_for_both_architectures(usage):
    for arch in ("sm_80", "sm_90"):
        kernels = [kernel_of(function) for its, function, _ in usage if its == arch]
        for name in LOADS:
            assert kernels.count((name, True, 0)) == 3, (arch, name)  # one a dtype
            assert kernels.count((name, False, 0)) == 3, (arch, name)
        for name, loads in MLP_LOADS.items():
            for rows in loads:
                assert kernels.count((name, True, rows)) == 3, (arch, name, rows)
            assert kernels.count((name, False, 16)) == 3, (arch, name)


def test_nothing_is_spilled(usage):
    assert usage
    for arch, function, resources in usage:
        assert resources["STACK"] == 0, (arch, function)
        assert resources["LOCAL"] == 0, (arch, function)


@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
def test_memory_moves_in_vectors(arch):
    seen = 0
    for section in dump("-sass", "-arch", arch).split("Function : ")[1:]:
        function, code = section.split("\n", 1)
        assert not re.search(r"\b(LDL|STL)\b", code), function  # local memory
        name, aligned, rows = kernel_of(function)
        if aligned and name in MLP_LOADS:
            seen += 1
            assert len(re.findall(r"\bLDG\.E\.EF\.128\b", code)) == MLP_LOADS[name][rows], function
            assert not re.search(r"\bLDG\.E\.EF(?!\.128)(?!\.U16)", code), function
        if not aligned or name not in LOADS:
            continue
        seen += 1
        loads = len(re.findall(r"\bLDG\.E\.EF\.128\b", code))
        # Reads that follow an exchange of row numbers may be compiled twice: also for a warp that has diverged.
        assert loads == LOADS[name] or ("single pass" in name and loads > LOADS[name]), function
        sums = {"glu_attribution_kernel": 1, "glu_attribution_kernel, gradients": 2}.get(name, 0)
        sums *= 1 if "DtypeE0" in function else 2  # vectors of floats
        assert len(re.findall(r"\bSTG\.E\.128\b", code)) == STORES[name] + sums, function
        # Narrower accesses are no activations but row numbers, tiles and partials.
        assert not re.search(r"\bLDG\.E\.EF(?!\.128)", code), function
        assert not re.search(r"\bSTG\.E\.U?(8|16)\b", code), function
    assert seen == 3 * len(LOADS) + 9 * len(MLP_LOADS)


def test_arithmetic_takes_less_time_than_memory():
    """In 16 bits an H200 (132 SMs at 1.98 GHz) moves an element's 6 bytes at 4.3 TB/s in the time of 47 slots, the 10
    bytes of a backward in that of 78."""
    if instructions.find_tool("nvdisasm") is None:
        pytest.skip("nvdisasm is absent")
    slots = {
        (kernel, dtype, form): float(slots)
        for cubin in instructions.native("sm_90")
        for kernel, dtype, form, _, _, _, slots, *_ in instructions.report(*cubin)
    }
    limits = {"glu_kernel": 47, "glu_steer_kernel": 47} | dict.fromkeys(BACKWARD, 78)
    for dtype in ("bfloat16", "float16"):
        assert slots["glu_stats_kernel, single pass", dtype, "silu by ex2"] < 47, dtype
    for kernel, limit in limits.items():
        for dtype in ("bfloat16", "float16"):
            for form in ("silu by expf", "silu by ex2"):
                assert slots[kernel, dtype, form] < limit, (kernel, dtype, form)


def test_what_starts_early_waits_before_it_reads():
    """Kernels that begin while the one before them ends (csrc/cuda/launch.h): before they wait they write nothing and
    read the plan at most; what they read later does not come from the read-only cache."""
    if instructions.find_tool("nvdisasm") is None:
        pytest.skip("nvdisasm is absent")
    seen = set()
    for _, listing, _ in instructions.native("sm_90"):
        for function, blocks in instructions.functions(listing):
            code = "\n".join(i for block in blocks for i in block.instructions)
            before, wait, after = code.partition("ACQBULK")
            if not wait:
                continue
            kernel = re.search(r"\d([a-z_]+_kernel)I", function)[1]
            seen.add(kernel)
            assert not re.search(r"\b(STG|ATOMG|RED)\b", before), function
            assert kernel == "merge_kernel" or not re.search(r"\bLDG\b", before), function
            assert not re.search(r"\bLDG\S*\.CONSTANT", before + after), function
    assert seen == {"merge_kernel", "down_by_neuron_kernel", "down_by_output_kernel"}

"""Count the machine instructions that a GPU kernel spends on an element, from its machine code. Needs no GPU.

    python tools/instructions.py [--arch sm_90] [--kernel REGEX] [--triton]

The machine code is that of the built module, or with --triton that of Triton's ahead-of-time compiler.

A kernel's hot loop is the innermost loop that reads the most vectors of 16 bytes. If no innermost loop reads any, it is
the smallest outer loop that does, else the whole kernel. The branches inside make a graph of basic blocks, and a turn
is a walk through it. The tool counts the shortest walk among those that do the whole work (MARKS):

- it loads and stores all vectors, with a power of two and a reciprocal for each element's silu;
- it has the fewest rare instructions, which leaves out merge_exactly, which few tiles take, and the end of a segment;
- of these it has the most multiplications: the product with up, the intervention, the statistics, masked_mlp's sums.

Other activations, the reading of another program and a division's rare cases do not count. The two forms of silu differ
in their power of two: CUDA's expf begins with a saturating FFMA, while the short silu and Triton's exp take ex2 as it
is. In the two-pass form of glu_stats and neuron_stats, the loop that measures a tile in shared memory has its own row.
Kernels that multiply on tensor cores are left out.

An element is one neuron of one token; in masked_mlp it is one weight. `slots` is the time that the busiest pipe of an
SM takes for an element, where 1 is an instruction for each of its 128 lanes: floating point takes 1, compare, logic,
integer and pack 2, loads and exchanges 4, MUFU 8 (compute capability 9.0), and the issue of any instruction 1.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import itertools
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

DTYPES = ("float32", "bfloat16", "float16")  # in the order of their numbers in csrc/common/types.h
# Number of operands of which each element is read, in vectors of 16 bytes, where it is not 2 (gate and up).
OPERANDS = {"gate_up_kernel": 1, "down_by_neuron_kernel": 1, "down_by_output_kernel": 1}
OPERANDS["neuron_stats_kernel, Triton"] = 1  # the C++ kernel reads h twice when there is no gate
# gate, up and the gradient
OPERANDS |= dict.fromkeys(("glu_backward_kernel", "glu_attribution_kernel", "glu_attribution_kernel, gradients"), 3)
# The form that the last flag of a C++ kernel's template selects.
FLAGS = {"glu_stats_kernel": "single pass", "neuron_stats_kernel": "single pass", "glu_attribution_kernel": "gradients"}
FLOAT = ("FFMA", "FMUL", "FADD", "HFMA2", "HMUL2", "HADD2")
MEMORY = ("LDG", "LDS", "LDL", "ST", "SHFL", "ATOM", "RED")
# Instructions that show the work of a walk, one regular expression each.
MARKS = {
    "loads": r"LDG\.E\.EF\.128 ",  # EF: marked for early eviction, since it is read once
    "stores": r"STG\.E\.(EF\.)?128 ",
    "powers": r"MUFU\.EX2 ",
    "reciprocals": r"MUFU\.RCP ",
    "rare": r"(MUFU\.RCP64H|STG\.E(?!\.(EF\.)?128)\S*) ",  # of merge_exactly and of a segment's end
    "expf": r"FFMA\.SAT ",
    "gelu_tanh": r"F\S+ .* 0\.0447149",  # its cubic term
    "products": r"(FMUL|FFMA|HMUL2|HFMA2)\S* (?!\S+ -RZ, RZ)",  # but not HFMA2 that loads a constant
}
COLUMNS = ("kernel", "dtype", "form", "turn", "elements", "each", "slots", "registers", "stack")
LINE = "{:33} {:9} {:13} {:>5} {:>9} {:>6} {:>6} {:>10} {:>6}"


def find_tool(name: str) -> str | None:
    """Path of cuobjdump or nvdisasm, from the CUDA toolkit or from the copy in triton; None if there is none."""
    candidates = [shutil.which(name)]
    if nvcc := shutil.which("nvcc"):
        candidates.append(str(Path(nvcc).resolve().with_name(name)))
    if (triton := importlib.util.find_spec("triton")) and triton.origin:
        candidates.append(str(Path(triton.origin).parent / "backends" / "nvidia" / "bin" / name))
    return next((path for path in candidates if path and Path(path).is_file()), None)


def run_tool(name: str, *arguments: str | Path, folder: str | None = None) -> str:
    tool = find_tool(name)
    if tool is None:
        raise FileNotFoundError(f"{name} is absent: install the CUDA toolkit or triton")
    return subprocess.run([tool, *arguments], check=True, capture_output=True, text=True, cwd=folder).stdout


class Work(NamedTuple):
    """The number of instructions of each of MARKS."""

    loads: int = 0
    stores: int = 0
    powers: int = 0
    reciprocals: int = 0
    rare: int = 0
    expf: int = 0
    gelu_tanh: int = 0
    products: int = 0


@dataclass
class Block:
    """A basic block: instructions that run one after the other, and the indices of the blocks that may follow."""

    instructions: list[str] = field(default_factory=list)
    next: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Cost:
    """The instructions of a walk, in all and by pipe."""

    instructions: int = 0
    floating: int = 0
    other: int = 0
    memory: int = 0
    mufu: int = 0

    def __add__(self, more: Cost) -> Cost:
        return Cost(*(getattr(self, name) + getattr(more, name) for name in self.__dataclass_fields__))

    @property
    def slots(self) -> int:
        return max(self.instructions, self.floating, 2 * self.other, 4 * self.memory, 8 * self.mufu)


def opcode(instruction: str) -> str:
    return re.sub(r"^@!?U?P\w+\s+", "", instruction).split()[0]


def cost(instruction: str) -> Cost:
    kind = opcode(instruction).split(".")[0]
    memory, floating, mufu = kind.startswith(MEMORY), kind in FLOAT, kind == "MUFU"
    elsewhere = memory or floating or mufu or kind.startswith(("U", "B", "LDC"))  # uniform, branch, constant
    return Cost(1, int(floating), int(not elsewhere), int(memory), int(mufu))


def functions(listing: str) -> Iterator[tuple[str, list[Block]]]:
    """The kernels of an nvdisasm listing, as graphs of basic blocks; block 0 is the entry."""
    for section in re.split(r"\n\.text\.", listing)[1:]:
        name, _, body = section.partition(":")
        blocks, labels, barriers = [Block()], {name: 0}, dict[str, str]()
        jumps: list[tuple[int, list[str]]] = []
        ended = False  # the next instruction begins a block
        for line in body.splitlines():
            if line.startswith("//-----"):
                break
            if label := re.match(r"(\.L_x_\d+|\$\S+):", line):
                if blocks[-1].instructions:
                    if not ended:
                        blocks[-1].next.append(len(blocks))
                    blocks.append(Block())
                labels[label[1]] = len(blocks) - 1
                ended = False
                continue
            instruction = re.match(r"\s+/\*[0-9a-f]{4,}\*/\s+(.*?)\s*(?:;|\(\*\"BRANCH_TARGETS (.*?)\"\*\))", line)
            if not instruction:
                continue
            if ended:
                blocks.append(Block())
                ended = False
            text, index = instruction[1].strip(), len(blocks) - 1
            blocks[-1].instructions.append(text)
            kind = opcode(text).split(".")[0]
            targets = re.findall(r"\.L_x_\d+", instruction[2] or text)
            if kind == "BSSY":
                barriers[text.split()[-2].rstrip(",")] = targets[0]
            elif kind in ("BRA", "BRX", "EXIT", "RET", "BSYNC"):
                if kind == "BSYNC":
                    targets = [barriers[text.split()[-1]]]
                jumps.append((index, targets))
                conditional = text.startswith("@") or re.match(r"BRA\S*\s+!?U?P\d", text)
                if conditional and kind != "BSYNC":
                    blocks[-1].next.append(len(blocks))
                    blocks.append(Block())
                else:
                    ended = True
        for index, targets in jumps:
            blocks[index].next += [labels[target] for target in targets]
        for block in blocks:
            block.next = [following for following in block.next if following < len(blocks)]
        yield name, blocks


def reachable(blocks: list[Block], head: int, body: set[int] | None = None) -> list[int]:
    """The blocks reachable from ``head``, inside ``body`` if given, in reverse postorder: back edges aside, each block
    comes after those that lead to it."""
    order: list[int] = []
    seen: set[int] = set()

    def visit(index: int) -> None:
        seen.add(index)
        for following in blocks[index].next:
            if following not in seen and (body is None or following in body):
                visit(following)
        order.append(index)

    visit(head)
    return order[::-1]


def natural_loops(blocks: list[Block]) -> dict[int, set[int]]:
    """The natural loops: head -> blocks of the loop."""
    order = reachable(blocks, 0)
    before: dict[int, set[int]] = {index: set() for index in order}
    for index in order:
        for following in blocks[index].next:
            before[following].add(index)
    dominators = {index: set(order) for index in order} | {0: {0}}
    changed = True
    while changed:
        changed = False
        for index in order[1:]:
            now = set.intersection(*(dominators[p] for p in before[index])) | {index}
            changed |= now != dominators[index]
            dominators[index] = now
    loops: dict[int, set[int]] = {}
    for index in order:
        for head in dominators[index].intersection(blocks[index].next):
            body, waiting = loops.setdefault(head, {head}), [index]
            while waiting:
                if (member := waiting.pop()) not in body:
                    body.add(member)
                    waiting += before[member]
    return loops


def walks(blocks: list[Block], head: int, body: set[int] | None = None) -> dict[Work, Cost]:
    """The shortest walk from ``head`` back to it, or to the kernel's end, for each amount of work; back edges are not
    taken."""
    steps = {index: step for step, index in enumerate(reachable(blocks, head, body))}
    arrivals: dict[int, dict[Work, Cost]] = {index: {} for index in steps}
    arrivals[head] = {Work(): Cost()}
    ends: dict[Work, Cost] = {}
    for index, step in steps.items():
        instructions, following = blocks[index].instructions, blocks[index].next
        spent = sum(map(cost, instructions), Cost())
        done = [sum(bool(re.search(rf"(^| ){mark}", i)) for i in instructions) for mark in MARKS.values()]
        departures = [arrivals[f] for f in following if step < steps.get(f, -1)]  # no back edges
        if head in following or not following:
            departures.append(ends)
        for so_far, paid in arrivals[index].items():
            work, total = Work(*map(int.__add__, so_far, done)), paid + spent
            for known in departures:
                if work not in known or total.instructions < known[work].instructions:
                    known[work] = total
    return ends


def loads_of(turn: dict[Work, Cost]) -> int:
    return max(work.loads for work in turn)


def measure(kernel: str, itemsize: int, operands: int, blocks: list[Block]) -> Iterator[tuple[str, int, Cost]]:
    """(form, elements of a turn, cost of a turn) of the hot loop, and of the loop over shared memory of two-pass
    statistics."""
    loops = natural_loops(blocks)
    # Innermost loops first, then outer loops by size.
    order = sorted(loops, key=lambda head: (bool(loops[head].intersection(loops.keys() - {head})), len(loops[head])))
    turns = [walks(blocks, head, loops[head]) for head in order]
    innermost = [turn for head, turn in zip(order, turns, strict=True) if not loops[head] & (loops.keys() - {head})]
    hot = max(innermost, key=loads_of, default={Work(): Cost()})
    if not loads_of(hot):
        hot = next((turn for turn in turns if loads_of(turn)), walks(blocks, 0))
    loads, stores = max(work[:2] for work in hot)
    elements = loads * 16 // itemsize // operands
    forms = {"no activation": (0, 0)}
    if max(work.powers for work in hot if work[:2] == (loads, stores)):
        forms = {"silu by expf": (elements, elements), "silu by ex2": (elements, 0)}
    for form, (powers, expf) in forms.items():
        complete = [
            (-work.reciprocals - work.rare, work.products, -paid.instructions, paid)
            for work, paid in hot.items()
            if work[:3] == (loads, stores, powers) and work.reciprocals >= powers
            and (work.expf, work.gelu_tanh) == (expf, 0)
        ]  # fmt: skip
        if elements and complete:
            yield form, elements, max(complete, key=lambda walk: walk[:3])[3]
    for body in loops.values() if "stats" in kernel else ():
        instructions = [i for index in body for i in blocks[index].instructions]
        words = sum(opcode(i) == "LDS" for i in instructions)
        if len(body) == 1 and words and any(opcode(i) == "FFMA" for i in instructions):
            yield "shared memory", words * 4 // itemsize, sum(map(cost, instructions), Cost())


def report(dtype: str, listing: str, usage: str) -> Iterator[tuple[str | int, ...]]:
    """The values of COLUMNS for each kernel of a cubin. ``dtype`` is empty if the kernels' names have it, as in C++."""
    resources = {name: (regs, stack) for name, regs, stack in re.findall(r"(\S+):\s+REG:(\d+) STACK:(\d+)", usage)}
    for name, blocks in functions(listing):
        kernel, element, rows = name, dtype, ""
        if not dtype:
            match = re.search(r"\d([a-z_]+_kernel)ILNS\w*?DtypeE(\d)ELb1E(?:Li(\d+)E|(Lb1E))?", name)
            if not match:  # kernels for rows that no vector fits, or without rows
                continue
            kernel, element, rows = match[1], DTYPES[int(match[2])], f", {match[3]} rows" if match[3] else ""
            kernel += f", {FLAGS[kernel]}" if match[4] else ""
        operands = OPERANDS.get(kernel + (", Triton" if dtype else ""), 2)
        for form, elements, paid in measure(kernel, 4 if element == "float32" else 2, operands, blocks):
            each = f"{paid.instructions / elements:.1f}", f"{paid.slots / elements:.1f}"
            yield kernel + rows, element, form, paid.instructions, elements, *each, *resources[name]


def native(arch: str) -> Iterator[tuple[str, str, str]]:
    """(no dtype, listing, resource usage) of each source of the module."""
    from affectron import _native

    with tempfile.TemporaryDirectory() as folder:
        run_tool("cuobjdump", "-xelf", arch, _native.__file__, folder=folder)
        for cubin in sorted(Path(folder).glob("*.cubin")):
            yield "", run_tool("nvdisasm", cubin), run_tool("cuobjdump", "--dump-resource-usage", cubin)


def triton(arch: str) -> Iterator[tuple[str, str, str]]:
    """(dtype, listing, resource usage) of each kernel of affectron.kernels, for each dtype."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    ahead = importlib.import_module("tests.kernels.compile")
    for name, dtype in itertools.product(ahead.kernels.__all__, ahead.DTYPES):
        for kernel, arguments, options in ahead.launches(name, dtype, "silu", False):
            code = ahead.compiled(kernel, arguments, options, ahead.TARGETS[arch])
            with tempfile.NamedTemporaryFile(suffix=".cubin") as cubin:
                cubin.write(code.asm["cubin"])
                cubin.flush()
                usage = run_tool("cuobjdump", "--dump-resource-usage", cubin.name)
                listing = run_tool("nvdisasm", cubin.name).replace("LDG.E.128 ", "LDG.E.EF.128 ")  # Triton sets no mark
                yield str(dtype).split(".")[-1], listing, usage


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="sm_90")
    parser.add_argument("--kernel", default="", metavar="REGEX")
    parser.add_argument("--triton", action="store_true", help="the Triton kernels instead of the module's")
    chosen = parser.parse_args()
    print(LINE.format(*COLUMNS))
    for cubin in triton(chosen.arch) if chosen.triton else native(chosen.arch):
        for row in report(*cubin):
            if re.search(chosen.kernel, str(row[0])):
                print(LINE.format(*row))


if __name__ == "__main__":
    main()

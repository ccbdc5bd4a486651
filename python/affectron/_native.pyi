"""The compiled module (csrc/bindings.cpp): addresses, sizes and codes; called through ops/backends/native.py only.

A structure of csrc/common/types.h is a tuple of its fields; the address 0 stands for what is absent.
"""

from typing import TypeAlias

TILE_ROWS: int
MLP_ROWS: int
CUDA_BUILT: bool  # without it, the functions cuda_* are absent
CUDA_TOOLKIT: int  # 13000 for 13.0, 0 without CUDA kernels

Rows: TypeAlias = tuple[int, int]  # address, stride between rows in elements
Shape: TypeAlias = tuple[int, int]  # rows N, neurons F
Plan: TypeAlias = tuple[int, int, int, int]  # addresses of order and tiles; number of tiles and of segments
Stats: TypeAlias = tuple[int, int, int, int, int]  # addresses of count, tally, moments, extrema; segments x neurons
Programs: TypeAlias = tuple[int, int]  # addresses of the table and of the rows' programs
MlpWeights: TypeAlias = tuple[Rows, Rows, Rows, bool]  # gate, up, down, whether down is stored by neuron
MlpShape: TypeAlias = tuple[int, int, int, int]  # rows N, inputs K, neurons F, outputs O

def isa_levels() -> list[str]: ...
def isa_level() -> str: ...
def set_isa_level(name: str, /) -> None: ...
def openmp() -> bool: ...  # whether the CPU kernels run in threads, those of torch's OpenMP
def glu(out: Rows, gate: Rows, up: Rows, shape: Shape, dtype: int, act: int, threads: int, /) -> None: ...
def glu_backward(
    grad_gate: Rows,
    grad_up: Rows,
    grad: Rows,
    gate: Rows,
    up: Rows,
    shape: Shape,
    plan: Plan,
    sums: int,
    gradients: int,
    dtype: int,
    act: int,
    threads: int,
    /,
) -> None: ...
def glu_stats(
    out: Rows,
    gate: Rows,
    up: Rows,
    shape: Shape,
    plan: Plan,
    stats: Stats,
    dtype: int,
    act: int,
    product: bool,
    threads: int,
    /,
) -> None: ...
def glu_steer(
    out: Rows, gate: Rows, up: Rows, shape: Shape, programs: Programs, dtype: int, act: int, threads: int, /
) -> None: ...
def masked_mlp(
    out: Rows, x: Rows, weights: MlpWeights, shape: MlpShape, programs: Programs, dtype: int, act: int, threads: int, /
) -> None: ...
def neuron_stats(h: Rows, gate: Rows, shape: Shape, plan: Plan, stats: Stats, dtype: int, threads: int, /) -> None: ...

# The CUDA kernels return a cudaError_t: 0, or a code that cuda_error_name and cuda_error_text explain.
def cuda_use_device(device: int, /) -> int: ...
def cuda_error_name(status: int, /) -> str: ...
def cuda_error_text(status: int, /) -> str: ...
def cuda_exchange_form(name: str, chosen: bool, /) -> bool: ...
def cuda_workspace_size(shape: Shape, num_tiles: int, num_segments: int, dtype: int, /) -> int: ...
def cuda_backward_workspace_size(neurons: int, num_tiles: int, sums: int, /) -> int: ...
def cuda_mlp_workspace_size(shape: MlpShape, dtype: int, by_neuron: bool, /) -> int: ...
def cuda_glu(out: Rows, gate: Rows, up: Rows, shape: Shape, dtype: int, act: int, stream: int, /) -> int: ...
def cuda_glu_backward(
    grad_gate: Rows,
    grad_up: Rows,
    grad: Rows,
    gate: Rows,
    up: Rows,
    shape: Shape,
    plan: Plan,
    sums: int,
    gradients: int,
    dtype: int,
    act: int,
    workspace: int,
    stream: int,
    /,
) -> int: ...
def cuda_glu_stats(
    out: Rows,
    gate: Rows,
    up: Rows,
    shape: Shape,
    plan: Plan,
    stats: Stats,
    dtype: int,
    act: int,
    product: bool,
    workspace: int,
    stream: int,
    /,
) -> int: ...
def cuda_glu_steer(
    out: Rows, gate: Rows, up: Rows, shape: Shape, programs: Programs, dtype: int, act: int, stream: int, /
) -> int: ...
def cuda_masked_mlp(
    out: Rows,
    x: Rows,
    weights: MlpWeights,
    shape: MlpShape,
    programs: Programs,
    dtype: int,
    act: int,
    workspace: int,
    stream: int,
    /,
) -> int: ...
def cuda_neuron_stats(
    h: Rows, gate: Rows, shape: Shape, plan: Plan, stats: Stats, dtype: int, workspace: int, stream: int, /
) -> int: ...

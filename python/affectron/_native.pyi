"""The compiled module (csrc/bindings.cpp): addresses, sizes and codes; called through affectron.ops.native only."""

TILE_ROWS: int
MLP_ROWS: int
CUDA_BUILT: bool  # without it, the functions cuda_* are absent
CUDA_TOOLKIT: int  # 13000 for 13.0, 0 without CUDA kernels

def isa_levels() -> list[str]: ...
def isa_level() -> str: ...
def set_isa_level(name: str) -> None: ...
def glu(
    out: int, gate: int, gate_stride: int, up: int, up_stride: int, n: int, f: int, dtype: int, act: int, threads: int
) -> None: ...
def glu_backward(
    grad_gate: int,
    grad_up: int,
    grad: int,
    grad_stride: int,
    gate: int,
    gate_stride: int,
    up: int,
    up_stride: int,
    n: int,
    f: int,
    order: int,
    tiles: int,
    num_tiles: int,
    sums: int,
    num_segments: int,
    dtype: int,
    act: int,
    threads: int,
) -> None: ...
def glu_stats(
    out: int,
    gate: int,
    gate_stride: int,
    up: int,
    up_stride: int,
    n: int,
    f: int,
    order: int,
    tiles: int,
    num_tiles: int,
    count: int,
    tally: int,
    moments: int,
    extrema: int,
    num_segments: int,
    dtype: int,
    act: int,
    product: bool,
    threads: int,
) -> None: ...
def glu_steer(
    out: int,
    gate: int,
    gate_stride: int,
    up: int,
    up_stride: int,
    n: int,
    f: int,
    table: int,
    program_rows: int,
    dtype: int,
    act: int,
    threads: int,
) -> None: ...
def masked_mlp(
    out: int,
    x: int,
    x_stride: int,
    gate: int,
    gate_stride: int,
    up: int,
    up_stride: int,
    down: int,
    down_stride: int,
    by_neuron: bool,
    n: int,
    inputs: int,
    neurons: int,
    outputs: int,
    table: int,
    program_rows: int,
    dtype: int,
    act: int,
    threads: int,
) -> None: ...
def neuron_stats(
    h: int,
    h_stride: int,
    gate: int,
    gate_stride: int,
    n: int,
    f: int,
    order: int,
    tiles: int,
    num_tiles: int,
    count: int,
    tally: int,
    moments: int,
    extrema: int,
    num_segments: int,
    dtype: int,
    threads: int,
) -> None: ...

# Those of the kernels return a cudaError_t: 0, or what cuda_error_name and cuda_error_text put in words.
def cuda_use_device(device: int) -> int: ...
def cuda_error_name(status: int) -> str: ...
def cuda_error_text(status: int) -> str: ...
def cuda_workspace_size(n: int, f: int, num_tiles: int, num_segments: int, dtype: int) -> int: ...

class CudaForms:
    short_silu: bool
    single_pass: bool

cuda_forms: CudaForms

def cuda_glu(
    out: int, gate: int, gate_stride: int, up: int, up_stride: int, n: int, f: int, dtype: int, act: int, stream: int
) -> int: ...
def cuda_backward_workspace_size(neurons: int, num_tiles: int) -> int: ...
def cuda_glu_backward(
    grad_gate: int,
    grad_up: int,
    grad: int,
    grad_stride: int,
    gate: int,
    gate_stride: int,
    up: int,
    up_stride: int,
    n: int,
    f: int,
    order: int,
    tiles: int,
    num_tiles: int,
    sums: int,
    num_segments: int,
    dtype: int,
    act: int,
    workspace: int,
    stream: int,
) -> int: ...
def cuda_glu_stats(
    out: int,
    gate: int,
    gate_stride: int,
    up: int,
    up_stride: int,
    n: int,
    f: int,
    order: int,
    tiles: int,
    num_tiles: int,
    count: int,
    tally: int,
    moments: int,
    extrema: int,
    num_segments: int,
    dtype: int,
    act: int,
    product: bool,
    workspace: int,
    stream: int,
) -> int: ...
def cuda_glu_steer(
    out: int,
    gate: int,
    gate_stride: int,
    up: int,
    up_stride: int,
    n: int,
    f: int,
    table: int,
    program_rows: int,
    dtype: int,
    act: int,
    stream: int,
) -> int: ...
def cuda_mlp_workspace_size(n: int, inputs: int, neurons: int, outputs: int, by_neuron: bool, dtype: int) -> int: ...
def cuda_masked_mlp(
    out: int,
    x: int,
    x_stride: int,
    gate: int,
    gate_stride: int,
    up: int,
    up_stride: int,
    down: int,
    down_stride: int,
    by_neuron: bool,
    n: int,
    inputs: int,
    neurons: int,
    outputs: int,
    table: int,
    program_rows: int,
    dtype: int,
    act: int,
    workspace: int,
    stream: int,
) -> int: ...
def cuda_neuron_stats(
    h: int,
    h_stride: int,
    gate: int,
    gate_stride: int,
    n: int,
    f: int,
    order: int,
    tiles: int,
    num_tiles: int,
    count: int,
    tally: int,
    moments: int,
    extrema: int,
    num_segments: int,
    dtype: int,
    workspace: int,
    stream: int,
) -> int: ...

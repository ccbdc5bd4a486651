"""The compiled module (csrc/bindings.cpp): addresses, sizes and codes; called through affectron.ops.native only."""

TILE_ROWS: int

def isa_levels() -> list[str]: ...
def isa_level() -> str: ...
def set_isa_level(name: str) -> None: ...
def glu(
    out: int, gate: int, gate_stride: int, up: int, up_stride: int, n: int, f: int, dtype: int, act: int, threads: int
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

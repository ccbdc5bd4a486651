"""Launch parameters that the kernels share: the shape of a block, the groups of a plan, and the addresses of rows."""

from functools import cache

import torch
from torch import Tensor

# Lanes of a warp.
WARP = 32 if torch.version.hip is None else 64

# Tiles in a group at most.
GROUP_TILES = 8
# Blocks below which groups are made smaller: some for each that the largest GPUs hold at once.
ENOUGH_BLOCKS = 4096
# Of a row, in a strip that gathers rows through the plan: whole cache lines.
STRIP_BYTES = 128


@cache
def may_overlap(device: torch.device) -> bool:
    """Tell whether a kernel may be launched while the one before it drains (CUDA's programmatic dependent launch)."""
    return device.type == "cuda" and torch.version.hip is None and torch.cuda.get_device_capability(device) >= (9, 0)


def block_shape(f: int, elements: int) -> tuple[int, int]:
    """(rows, columns) of a block of ``elements`` elements, a power of two: at most as wide as ``f`` neurons need."""
    columns = min(elements, 1 << (f - 1).bit_length())
    return elements // columns, columns


def make_groups(num_tiles: int, strips: int) -> tuple[int, int]:
    """(groups, tiles in each but the last) of a plan: a function of the shapes alone, and so are the bits of sums."""
    tiles_per_group = max(1, min(GROUP_TILES, num_tiles * strips // ENOUGH_BLOCKS))
    return -(-num_tiles // tiles_per_group), tiles_per_group


def rows_of(gate: Tensor, up: Tensor | None) -> tuple[Tensor, Tensor, int, int]:
    """gate, up and their row strides in elements; without ``up``, ``gate`` stands in for it and is not read twice."""
    second = gate if up is None else up
    return gate, second, gate.stride(0), second.stride(0)

"""What every launch needs: the shape of a tile and the addresses of rows."""

from functools import cache

import torch
from torch import Tensor

# Lanes of a warp.
WARP = 32 if torch.version.hip is None else 64


@cache
def may_overlap(device: torch.device) -> bool:
    """Whether a kernel may be launched while the one before it drains: CUDA's programmatic dependent launch."""
    return device.type == "cuda" and torch.version.hip is None and torch.cuda.get_device_capability(device) >= (9, 0)


def tile_shape(f: int, elements: int) -> tuple[int, int]:
    """(rows, columns) of a tile of ``elements`` elements, a power of two: as wide as ``f`` asks for."""
    columns = min(elements, 1 << (f - 1).bit_length())
    return elements // columns, columns


def rows_of(gate: Tensor, up: Tensor | None) -> tuple[Tensor, Tensor, int, int]:
    """gate, up and their row strides in elements; without ``up`` its place is taken by ``gate``, and not read."""
    other = gate if up is None else up
    return gate, other, gate.stride(0), other.stride(0)

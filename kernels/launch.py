"""What every launch needs: the shape of a tile and the addresses of rows."""

import torch
from torch import Tensor

# Lanes of a warp.
WARP = 32 if torch.version.hip is None else 64


def tile_shape(f: int, elements: int) -> tuple[int, int]:
    """(rows, columns) of a tile of ``elements`` elements, a power of two: as wide as ``f`` asks for."""
    columns = min(elements, 1 << (f - 1).bit_length())
    return elements // columns, columns


def rows_of(gate: Tensor, up: Tensor | None) -> tuple[Tensor, Tensor, int, int]:
    """gate, up and their row strides in elements; without ``up`` its place is taken by ``gate``, and not read."""
    other = gate if up is None else up
    return gate, other, gate.stride(0), other.stride(0)

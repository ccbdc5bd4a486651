"""SegmentPlan: which rows belong to which segment, as tiles that a kernel can walk. Made once a batch and shared by
all layers, because sorting the rows costs as much as a small layer does."""

from __future__ import annotations

import torch
from torch import Tensor

from affectron import _native
from affectron.ops import reference
from affectron.ops.library import define_plain

# Rows in a tile at most: the unit that is measured in fp32 before it is merged in fp64. The native kernels size their
# scratch by it.
TILE_ROWS: int = _native.TILE_ROWS


def _tile_slots(rows: int, num_segments: int) -> int:
    """Tiles that ``rows`` rows can need at most, whatever their segments: so the shape does not depend on the data."""
    return rows // TILE_ROWS + min(rows, num_segments + 1)


def _build(segments: Tensor, num_segments: int) -> tuple[Tensor, Tensor]:
    if segments.device.type == "cpu" and segments.numel():
        low, high = (int(v) for v in segments.aminmax())
        if low < -1 or high >= num_segments:
            wrong = low if low < -1 else high
            raise IndexError(f"segments holds {wrong}, expected -1 (not counted) to {num_segments - 1}")
    return reference.segment_plan(segments, num_segments, TILE_ROWS, _tile_slots(segments.numel(), num_segments))


def _fake(segments: Tensor, num_segments: int) -> tuple[Tensor, Tensor]:
    order = torch.empty_like(segments, dtype=torch.int64, memory_format=torch.contiguous_format)
    return order, order.new_empty((_tile_slots(segments.shape[0], num_segments), 3))


_segment_plan = define_plain("segment_plan(Tensor segments, int num_segments) -> (Tensor, Tensor)", _build, _fake)


class SegmentPlan:
    """Rows grouped by segment, in tiles of at most ``TILE_ROWS`` rows.

    Args:
        segments: int32 or int64 [N] (leading dimensions are flattened), the segment of each row; -1 where a row is
            not counted (padding, say).
        num_segments: S; segments lie in [-1, S).

    Attributes:
        order: int64 [N], row numbers; rows of one segment follow one another, in their own order.
        tiles: int64 [M, 3], (segment, first position in ``order``, rows); M depends on N and S alone, unused slots
            have no rows.

    Raises:
        TypeError: ``segments`` is not int32 or int64.
        IndexError: a segment is outside [-1, S).
    """

    def __init__(self, segments: Tensor, num_segments: int) -> None:
        if segments.dtype not in (torch.int32, torch.int64):
            raise TypeError(f"segments has dtype {segments.dtype}, expected int32 or int64")
        if num_segments < 1:
            raise ValueError(f"num_segments is {num_segments}, expected at least 1")
        self.num_segments = num_segments
        self.order, self.tiles = _segment_plan(segments.reshape(-1), num_segments)

    @property
    def rows(self) -> int:
        """N, the number of rows planned for."""
        return int(self.order.shape[0])

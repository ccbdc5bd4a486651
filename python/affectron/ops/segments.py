"""SegmentPlan: which rows belong to which segment, as tiles that a kernel can walk."""

from __future__ import annotations

import torch
from torch import Tensor

from affectron import _native
from affectron._internal.display import Shown, Summary
from affectron._internal.wording import count
from affectron.ops._checks import check_indices
from affectron.ops._registry import torch_op
from affectron.ops.backends import reference

#: Rows in a tile at most. A kernel measures a tile in fp32 and merges it in fp64.
TILE_ROWS: int = _native.TILE_ROWS


def _tile_slots(rows: int, num_segments: int) -> int:
    """Tiles that ``rows`` rows can need at most, whatever their segments: so the shape does not depend on the data."""
    return rows // TILE_ROWS + min(rows, num_segments + 1)


def _build(segments: Tensor, num_segments: int) -> tuple[Tensor, Tensor]:
    if segments.device.type == "cpu" and segments.numel():
        check_indices("segments", segments, num_segments, "not counted")
    return reference.segment_plan(segments, num_segments, TILE_ROWS, _tile_slots(segments.numel(), num_segments))


@torch_op("segment_plan(Tensor segments, int num_segments) -> (Tensor, Tensor)", _build)
def _segment_plan(segments: Tensor, num_segments: int) -> tuple[Tensor, Tensor]:
    order = torch.empty_like(segments, dtype=torch.int64, memory_format=torch.contiguous_format)
    return order, order.new_empty((_tile_slots(segments.shape[0], num_segments), 3))


class SegmentPlan(Shown):
    """Rows grouped by segment, in tiles of at most ``TILE_ROWS`` rows.

    Make one for a batch and share it among all layers: sorting the rows takes as long as a small layer does.

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
        ValueError: ``num_segments`` is below 1.
        IndexError: a segment is outside [-1, S) (checked on the CPU, where it costs no wait).
    """

    def __init__(self, segments: Tensor, num_segments: int) -> None:
        if segments.dtype not in (torch.int32, torch.int64):
            raise TypeError(f"segments has dtype {segments.dtype}, expected int32 or int64")
        if num_segments < 1:
            raise ValueError(f"num_segments is {num_segments}, expected at least 1")
        self.num_segments = num_segments
        self.order, self.tiles = _segment_plan(segments.reshape(-1), num_segments)

    def _summary(self) -> Summary:
        return Summary([count(self.rows, "row"), count(self.num_segments, "segment")])

    @property
    def rows(self) -> int:
        """N, the number of rows planned for."""
        return int(self.order.shape[0])


def plan_for(
    segments: Tensor | SegmentPlan, rows: Tensor, device: torch.device, num_segments: int, target_name: str
) -> SegmentPlan:
    """The plan of ``segments`` for an activation's ``rows`` [N, F], checked to fit them and a target, which
    accumulates ``num_segments`` segments of activations on ``device``."""
    plan = segments if isinstance(segments, SegmentPlan) else SegmentPlan(segments, num_segments)
    if plan.num_segments != num_segments:
        raise ValueError(f"segments is planned for {plan.num_segments} segments, {target_name} has {num_segments}")
    if plan.rows != rows.shape[0]:
        raise ValueError(f"segments has {plan.rows} rows, expected the {rows.shape[0]} of the activation")
    if plan.order.device != rows.device or device != rows.device:
        devices = f"{rows.device}, {plan.order.device} and {device}"
        raise ValueError(f"activation, segments and {target_name} are on {devices}, expected one device")
    return plan

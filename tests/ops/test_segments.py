"""SegmentPlan: every counted row once, in tiles of one segment."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from affectron.ops.segments import TILE_ROWS, SegmentPlan


@given(st.lists(st.integers(-1, 6), max_size=300), st.sampled_from([torch.int32, torch.int64]))
def test_partition(segments, dtype):
    plan = SegmentPlan(torch.tensor(segments, dtype=dtype), 7)
    assert sorted(plan.order.tolist()) == list(range(len(segments)))
    rows_of: dict[int, list[int]] = {}
    for segment, start, rows in plan.tiles.tolist():
        assert 0 <= rows <= TILE_ROWS
        rows_of.setdefault(segment, []).extend(plan.order[start : start + rows].tolist())
    for segment in range(-1, 7):
        # In their own order: the result must not depend on how the sort breaks ties.
        assert rows_of.get(segment, []) == [n for n, s in enumerate(segments) if s == segment]


def test_size_depends_on_the_shape_alone():
    sizes = {SegmentPlan(torch.randint(-1, 10, (1000,)), 10).tiles.shape for _ in range(20)}
    assert len(sizes) == 1


@pytest.mark.parametrize("wrong", [-2, 10])
def test_segment_out_of_range(wrong):
    with pytest.raises(IndexError, match=f"segments holds {wrong}"):
        SegmentPlan(torch.tensor([0, wrong, 3]), 10)


def test_dtype():
    with pytest.raises(TypeError, match="segments has dtype torch.float32"):
        SegmentPlan(torch.zeros(3), 10)

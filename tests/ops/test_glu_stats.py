"""ops.glu_stats and ops.neuron_stats against an fp64 oracle that loops over segments."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from affectron import ops
from affectron.ops.backends import native
from tests.ops.conftest import ACTS, DTYPES, SHAPES, halves
from tests.support.oracles import check, oracle, runs


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("rule", ["gate", "product"])
def test_against_the_oracle(isa, shape, dtype, act, gated, rule):
    gate, up = halves(*shape, dtype)
    up = up if gated else None
    segments = runs(shape[0], 5)
    stats = ops.StatsBuffers(5, shape[1], rule)
    h = ops.glu_stats(gate, up, segments, stats, act)
    assert torch.equal(h, ops.glu(gate, up, act))
    check(stats, oracle(h, gate, segments, 5, rule == "product"))


@pytest.mark.parametrize("backend", ["native", "reference"])
@pytest.mark.parametrize("ratio", [1.0, 1e2, 1e4])
def test_mean_far_from_zero(isa, backend, ratio):
    """|mean| up to 10^4 standard deviations: raw moments in fp32 would keep no digit of the variance."""
    h = torch.randn(5000, 131, generator=torch.Generator().manual_seed(0)) + ratio
    segments = torch.randint(-1, 3, (5000,), generator=torch.Generator().manual_seed(1))
    stats = ops.StatsBuffers(3, 131, "product")
    with ops.use_backend(backend):
        for part in range(0, 5000, 1250):
            ops.neuron_stats(h[part : part + 1250], segments[part : part + 1250], stats)
    check(stats, oracle(h, h, segments, 3, True))


def test_range_of_fp32(isa):
    """Neurons whose squares overflow or vanish in fp32, that are constant, or zero."""
    h = torch.randn(300, 64, generator=torch.Generator().manual_seed(0))
    h = h * torch.logspace(-30, 37, 64)
    h[:, 5], h[:, 6] = 3.25, 0.0
    segments = runs(300, 4)
    stats = ops.StatsBuffers(4, 64, "product")
    ops.neuron_stats(h, segments, stats)
    check(stats, oracle(h, h, segments, 4, True))
    assert (stats.finalize().m2[:, 5:7] == 0).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_neurons_that_never_change(isa, dtype):
    """The variance is exactly 0, even if multiples of the value are rounded or its square leaves fp32's range."""
    values = torch.tensor([0.0, -0.0, 1.1, -0.3, 3e-23, 1e-38, 3e38, 1024.0]).to(dtype).repeat(5)
    values[values.isinf()] = 0.1
    h, segments, stats = values.repeat(450, 1), runs(450, 2), ops.StatsBuffers(2, 40, "product")
    for part in (slice(0, 31), slice(31, 450)):
        ops.neuron_stats(h[part], segments[part], stats)
    check(stats, oracle(h, h, segments, 2, True))
    assert stats.finalize().m2.eq(0).all()
    assert stats.finalize().mean.eq(values).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("step", [3.0, 1e4])
def test_a_mean_that_moves(isa, dtype, step):
    """A segment's tiles begin far from 0, drift, jump and come back: the mean so far is far from the next tile's."""
    n, f = 900, 40
    h = torch.randn(n, f, generator=torch.Generator().manual_seed(0))
    h[:, :10] += step
    h[:, 10:20] += torch.linspace(0, step, n)[:, None]
    h[:, 20:30] += step * (torch.arange(n) // 32 % 2)[:, None]
    h[200:, 30:] -= step
    h, segments, stats = h.to(dtype), torch.zeros(n, dtype=torch.int64), ops.StatsBuffers(1, f, "product")
    ops.neuron_stats(h, segments, stats)
    check(stats, oracle(h, h, segments, 1, True))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", [(1, 2, 3, 5), (31, 32, 33, 63), (1, 320, 4, 1)])
@pytest.mark.parametrize("first", [0, 1, 7])
def test_segments_of_few_rows(isa, dtype, sizes, first):
    """Means up to a hundred standard deviations; the ``first`` rows come alone and lie far from all others."""
    f = 512
    segments = torch.cat([torch.full((size,), s) for s, size in enumerate(sizes)])
    segments = segments[torch.randperm(len(segments), generator=torch.Generator().manual_seed(1))]
    h = torch.randn(len(segments), f, generator=torch.Generator().manual_seed(0)) + torch.linspace(0, 100, f)
    h[:first] -= 50.0
    h, stats = h.to(dtype), ops.StatsBuffers(len(sizes), f, "product")
    for part in (slice(0, first), slice(first, None)):
        ops.neuron_stats(h[part], segments[part], stats)
    check(stats, oracle(h, h, segments, len(sizes), True))


@pytest.mark.parametrize("dtype", DTYPES)
def test_vector_widths_do_not_change_a_bit(dtype):
    """The levels with fused multiply-adds give the same bits."""
    levels = [level for level in native.isa_levels() if level != "baseline"]
    if len(levels) < 2:
        pytest.skip("this processor has one vector width with fused multiply-adds")
    gate, up = halves(400, 751, dtype)
    segments = torch.randint(-1, 10, (400,), generator=torch.Generator().manual_seed(0))
    before, results = native.isa_level(), []
    for level in levels:
        native.set_isa_level(level)
        stats = ops.StatsBuffers(10, 751)
        results.append([ops.glu_stats(gate, up, segments, stats), *stats.tensors])
    native.set_isa_level(before)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("backend", ["native", "reference"])
def test_nonfinite_values_are_counted_and_left_out(isa, dtype, backend):
    generator = torch.Generator().manual_seed(0)
    gate, up = (t.clone() for t in halves(200, 77, dtype))
    for value in (float("nan"), float("inf"), -float("inf")):
        up[torch.randint(200, (20,), generator=generator), torch.randint(77, (20,), generator=generator)] = value
    up[:, 3] = float("nan")
    segments = runs(200, 3)
    stats = ops.StatsBuffers(3, 77)
    with ops.use_backend(backend):
        parts = [ops.glu_stats(gate[a:b], up[a:b], segments[a:b], stats) for a, b in ((0, 90), (90, 200))]
    check(stats, oracle(torch.cat(parts), gate, segments, 3, False))
    assert stats.finalize().nonfinite[:, 3].equal(stats.finalize().count)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("labels", [1, 10, 64])
def test_threads_repetition_and_plan_do_not_change_a_bit(isa, dtype, labels):
    gate, up = halves(400, 760, dtype)
    segments = torch.randint(-1, labels, (400,), generator=torch.Generator().manual_seed(0))

    def once(threads: int, segments: torch.Tensor | ops.SegmentPlan) -> tuple[torch.Tensor, ...]:
        torch.set_num_threads(threads)
        stats = ops.StatsBuffers(labels, 760)
        outputs = [ops.glu_stats(gate, up, segments, stats) for _ in range(2)]
        return (*outputs, *stats.tensors)

    first = once(1, segments)
    for again in (once(2, segments), once(2, segments), once(1, ops.SegmentPlan(segments.int(), labels))):
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_native_and_reference_agree(data):
    n, f = data.draw(st.integers(0, 90)), data.draw(st.integers(1, 70))
    num = data.draw(st.integers(1, 5))
    dtype = data.draw(st.sampled_from(DTYPES))
    segments = torch.tensor(data.draw(st.lists(st.integers(-1, num - 1), min_size=n, max_size=n)), dtype=torch.int64)
    offset = data.draw(st.sampled_from([0.0, 100.0]))
    h = (torch.randn(n, f, generator=torch.Generator().manual_seed(n)) + offset).to(dtype)
    gate = torch.randn(n, f, generator=torch.Generator().manual_seed(f)).to(dtype)
    cut = data.draw(st.integers(0, n))
    both = []
    for backend in ("native", "reference"):
        stats = ops.StatsBuffers(num, f)
        with ops.use_backend(backend):
            ops.neuron_stats(h[:cut], segments[:cut], stats, gate[:cut])
            ops.neuron_stats(h[cut:], segments[cut:], stats, gate[cut:])
        check(stats, oracle(h, gate, segments, num, False))
        both.append(stats)
    for a, b in zip(both[0].tensors, both[1].tensors, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_counts_past_2_to_the_31():
    """The merge takes its weights from int64 counts, however large."""
    stats = ops.StatsBuffers(1, 40, "product")
    stats.count.fill_(2**40)
    stats.moments[0].fill_(1.0)
    ops.neuron_stats(torch.full((64, 40), 3.0), torch.zeros(64, dtype=torch.int64), stats)
    final = stats.finalize()
    assert final.count.tolist() == [2**40 + 64]
    share = 64 / (2**40 + 64)
    torch.testing.assert_close(final.mean - 1.0, torch.full((1, 40), 2 * share, dtype=torch.float64), rtol=1e-5, atol=0)
    torch.testing.assert_close(
        final.m2, torch.full((1, 40), 4 * 2**40 * share, dtype=torch.float64), rtol=1e-12, atol=0
    )


def test_writes_are_seen_by_autograd():
    stats = ops.StatsBuffers(1, 8)
    versions = [t._version for t in stats.tensors]
    ops.glu_stats(torch.ones(2, 8), None, torch.zeros(2, dtype=torch.int64), stats)
    assert all(t._version > v for t, v in zip(stats.tensors, versions, strict=True))


G, S = torch.ones(4, 8), torch.zeros(4, dtype=torch.int64)


@pytest.mark.parametrize(
    ("gate", "segments", "neurons", "error", "message"),
    [
        (G, torch.tensor([0, 1, 2, 3]), 8, IndexError, "segments holds 3, expected -1"),
        (G, S[:3], 8, ValueError, "segments has 3 rows, expected the 4"),
        (G, S, 9, ValueError, "the activation has 8 neurons, expected the 9"),
        (G, S.float(), 8, TypeError, "segments has dtype torch.float32"),
        (G, ops.SegmentPlan(S, 2), 8, ValueError, "segments is planned for 2 segments, stats has 3"),
        (G.double(), S, 8, TypeError, "gate has dtype torch.float64"),
        (G.clone().requires_grad_(), S, 8, RuntimeError, "glu_stats has no gradient"),
    ],
)
def test_refuses_before_anything_is_written(gate, segments, neurons, error, message):
    stats = ops.StatsBuffers(3, neurons)
    before = [t.clone() for t in stats.tensors]
    with pytest.raises(error, match=message):
        ops.glu_stats(gate, None, segments, stats)
    assert all(torch.equal(a, b) for a, b in zip(before, stats.tensors, strict=True))


def test_neuron_stats_wants_the_gate_that_its_rule_needs():
    with pytest.raises(ValueError, match="gate is missing"):
        ops.neuron_stats(G, S, ops.StatsBuffers(1, 8, "gate"))
    with pytest.raises(ValueError, match="gate is given"):
        ops.neuron_stats(G, S, ops.StatsBuffers(1, 8, "product"), G)


@pytest.mark.parametrize(("arguments", "message"), [((0, 3), "0 and 3"), ((1, 2, "sum"), "active is 'sum'")])
def test_buffers_refuse(arguments, message):
    with pytest.raises(ValueError, match=message):
        ops.StatsBuffers(*arguments)

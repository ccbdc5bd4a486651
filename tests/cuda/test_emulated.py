"""The logic of the CUDA kernels, run on the CPU: against fp64, the reference backend, and themselves."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable, Iterator

import pytest
import torch

from affectron import ops
from affectron.ops.backends import reference
from tests.cuda.conftest import Emulated
from tests.ops.conftest import ACTS, DTYPES, exact, halves
from tests.support.oracles import (
    check,
    check_extremes,
    check_gradients,
    check_sums,
    extremes,
    infinite_where_masked,
    masking,
    oracle,
    programs,
    runs,
    tokens,
    truth,
    weights,
)

# Rows that no vector fits, and whole vectors: one strip of neurons and a part of the next, in fp32 and in 16 bits.
ALL_SHAPES = ((0, 760), (1, 431), (33, 1), (5, 3), (67, 264), (9, 1032))


def test_quotient_rounds_as_the_ieee_one(emulated):
    emulated.library.quotient_mismatches.restype = ctypes.c_int64
    assert emulated.library.quotient_mismatches(1) == 0
    assert emulated.library.quotient_mismatches(2) == 0


@pytest.mark.parametrize(("dtype", "exact", "approximate"), [(1, 0, 3), (2, 2, 16)], ids=["bf16", "fp16"])
def test_few_values_decide_about_the_short_silu(emulated, dtype, exact, approximate):
    """Values that the short silu rounds unlike torch's sequence: with exact approximations, and within the error of a
    GPU's (2 ulp for a power of two, 1 for a reciprocal)."""
    emulated.library.short_silus_at_risk.restype = ctypes.c_int64
    assert emulated.library.short_silus_at_risk(dtype, 0) == exact
    assert emulated.library.short_silus_at_risk(dtype, 2) == approximate


def test_packed_product_rounds_as_the_fp32_one(emulated):
    emulated.library.product_mismatches.restype = ctypes.c_int64
    assert emulated.library.product_mismatches(1) == 0
    assert emulated.library.product_mismatches(2) == 0


@pytest.fixture(params=[False, True], ids=["torch_silu", "short_silu"])
def silu(request: pytest.FixtureRequest, emulated: Emulated) -> Iterator[None]:
    """Both forms of silu for 16 bits."""
    emulated.library.use_short_silu(int(request.param))
    yield
    emulated.library.use_short_silu(1)


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", ALL_SHAPES)
@pytest.mark.parametrize("gated", [True, False])
def test_glu_as_exact_as_torch(emulated, shape, dtype, act, gated):
    gate, up = halves(*shape, dtype)
    up = up if gated else None
    ours, truth, torchs = emulated.glu(gate, up, act), exact(gate, up, act), reference.glu(gate, up, act)
    bound = (
        2 * (torchs.double() - truth).abs()
        + truth.abs() * torch.finfo(dtype).eps
        + 1e-7 * gate.abs().double().clamp(min=1)
    )
    if gated:
        bound = bound * up.abs().double().clamp(min=1)
    assert ((ours.double() - truth).abs() <= bound).all()


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("dtype", DTYPES[1:])
def test_every_16_bit_value(emulated, silu, dtype, act):
    """All 65,536 gates, infinities, NaN and the sign of a zero too, within one rounding of the definition in fp64.
    Torch is no oracle here: its gelu of infinity depends on the processor."""
    gate = torch.arange(-32768, 32768, dtype=torch.int32).to(torch.int16).view(dtype).view(64, 1024)
    ours, wanted = emulated.glu(gate, None, act), exact(gate, None, act).to(dtype)
    assert torch.equal(ours.isnan(), wanted.isnan())
    assert torch.equal(ours[~wanted.isfinite()].nan_to_num(), wanted[~wanted.isfinite()].nan_to_num())
    zero = wanted == 0
    assert torch.equal(ours[zero].signbit(), wanted[zero].signbit())
    eps = torch.finfo(dtype).eps
    smallest = torch.finfo(dtype).smallest_normal * eps
    finite = wanted.isfinite()
    ours, wanted, size = ours[finite].double(), wanted[finite].double(), gate[finite].double().abs()
    # 1 + erf(x) and 1 + tanh(x) lose an fp32 bit of 1, which x multiplies.
    assert ((ours - wanted).abs() <= wanted.abs() * eps + size * 2.0**-23 + smallest).all()


def test_no_neurons(emulated):
    """Nothing is launched: a grid of no blocks is an error."""
    gate = torch.ones(5, 0)
    assert emulated.glu(gate, gate).shape == (5, 0)
    assert emulated.glu_steer(gate, None, torch.ones(1, 4, 0), None, "relu").shape == (5, 0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("shape", ALL_SHAPES)
def test_steer(emulated, shape, dtype, act):
    """Three programs and none by row, against the reference formula on the h of the kernel."""
    gate, up = halves(*shape, dtype)
    n, f = shape
    generator = torch.Generator().manual_seed(0)
    program = torch.randn(3, 4, f, generator=generator)
    program[:, 2] = torch.where(program[:, 2] < 0, -torch.inf, program[:, 2])
    program[1, :, ::2] = torch.tensor([1.0, 0.0, -torch.inf, -0.0])[:, None]
    h = emulated.glu(gate, up, act)

    rows = torch.randint(-1, 3, (n,), generator=generator, dtype=torch.int32)
    parameters = program[rows.clamp(min=0).long()].unbind(1)
    expected = torch.where((rows >= 0)[:, None], reference.intervene(h.float(), *parameters).to(dtype), h)
    steered = emulated.glu_steer(gate, up, program, rows, act)
    assert torch.equal(steered, expected)
    neutral = rows == 1
    assert torch.equal(steered[neutral][:, ::2], h[neutral][:, ::2])

    one = program[:1].contiguous()
    assert torch.equal(emulated.glu_steer(gate, up, one, None, act), reference.intervene(h.float(), *one[0]).to(dtype))


def test_steer_keeps_what_is_not_finite(emulated):
    gate = torch.tensor([[torch.inf, -torch.inf, torch.nan, 3e38, 1.0, 2.0, 3.0, 4.0]])
    program = torch.tensor([1.0, 0.0, -torch.inf, -0.0])[:, None].expand(1, 4, 8).contiguous()
    h = emulated.glu(gate, None, "relu")
    assert torch.equal(emulated.glu_steer(gate, None, program, None, "relu").nan_to_num(7), h.nan_to_num(7))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mixed", [True, False])
def test_steer_what_is_not_finite(emulated, dtype, mixed):
    up, table = extremes(dtype)
    rows = torch.zeros(len(up), dtype=torch.int32) if mixed else None
    check_extremes(emulated.glu_steer(torch.ones_like(up), up, table, rows, "relu"), up, table)


@pytest.mark.parametrize("rule", ["gate", "product"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", ALL_SHAPES)
@pytest.mark.parametrize("gated", [True, False])
def test_stats_match_the_oracle(emulated, form, shape, dtype, gated, rule):
    gate, up = halves(*shape, dtype)
    up = up if gated else None
    n = shape[0]
    for segments in (runs(n, 4), torch.randint(-1, 4, (n,), generator=torch.Generator().manual_seed(0))):
        stats = ops.StatsBuffers(4, shape[1], rule)
        h = emulated.glu_stats(gate, up, segments, stats)
        assert torch.equal(h, emulated.glu(gate, up))
        check(stats, oracle(h, gate, segments, 4, rule == "product"))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("labels", [1, 10, 64])
def test_many_groups(emulated, form, order, dtype, labels):
    """Enough tiles for several groups, a segment across some, several in one, many absent; two batches."""
    gate, up = halves(1500, 40, dtype)
    for segments in (
        runs(1500, labels),
        torch.randint(-1, labels, (1500,), generator=torch.Generator().manual_seed(1)),
    ):
        segments = torch.where(segments % 7 == 3, -1, segments)
        stats = ops.StatsBuffers(labels, 40)
        parts = [
            emulated.glu_stats(gate[a:b], up[a:b], segments[a:b], stats)
            for a, b in ((0, 1000), (1000, 1033), (1033, 1500))
        ]
        check(stats, oracle(torch.cat(parts), gate, segments, labels, False))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("f", [40, 77])
def test_what_is_not_finite_is_counted_and_left_out(emulated, form, dtype, f):
    generator = torch.Generator().manual_seed(0)
    gate, up = (t.clone() for t in halves(200, f, dtype))
    for value in (torch.nan, torch.inf, -torch.inf):
        up[torch.randint(200, (20,), generator=generator), torch.randint(f, (20,), generator=generator)] = value
    up[:, 3] = torch.nan
    segments = runs(200, 3)
    stats = ops.StatsBuffers(3, f)
    parts = [emulated.glu_stats(gate[a:b], up[a:b], segments[a:b], stats) for a, b in ((0, 90), (90, 200))]
    check(stats, oracle(torch.cat(parts), gate, segments, 3, False))
    assert stats.finalize().nonfinite[:, 3].equal(stats.finalize().count)


@pytest.mark.parametrize("dtype", DTYPES[:2])
@pytest.mark.parametrize("scale", [1e-38, 1e-30, 1e-15, 1e15, 1e30])
def test_values_whose_squares_leave_fp32(emulated, form, dtype, scale):
    h = (torch.randn(150, 24, generator=torch.Generator().manual_seed(0)) * scale).to(dtype)
    segments = runs(150, 2)
    stats = ops.StatsBuffers(2, 24, "product")
    emulated.neuron_stats(h, segments, stats)
    check(stats, oracle(h, h, segments, 2, True))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("ratio", [10.0, 1e4])
def test_a_mean_far_from_zero(emulated, form, dtype, ratio):
    """|mean| / std up to 10^4: no cancellation."""
    h = (torch.randn(500, 56, generator=torch.Generator().manual_seed(0)) + ratio).to(dtype)
    gate = torch.randn(500, 56, generator=torch.Generator().manual_seed(1)).to(dtype)
    segments = runs(500, 3)
    stats = ops.StatsBuffers(3, 56)
    emulated.neuron_stats(h, segments, stats, gate)
    check(stats, oracle(h, gate, segments, 3, False))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("step", [3.0, 1e4])
@pytest.mark.parametrize("one_group", [False, True])
def test_a_mean_that_moves(emulated, form, dtype, step, one_group):
    """A segment's tiles begin far from 0, drift, jump and come back: the mean so far is far from the next tile's."""
    n, f = 900, 40
    h = torch.randn(n, f, generator=torch.Generator().manual_seed(0))
    h[:, :10] += step
    h[:, 10:20] += torch.linspace(0, step, n)[:, None]
    h[:, 20:30] += step * (torch.arange(n) // 32 % 2)[:, None]
    h[200:, 30:] -= step
    h = h.to(dtype)
    segments = torch.zeros(n, dtype=torch.int64)
    stats = ops.StatsBuffers(1, f, "product")
    emulated.neuron_stats(h, segments, stats, one_group=one_group)
    check(stats, oracle(h, h, segments, 1, True))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("labels", [1, 3, 40])
def test_many_tiles_in_a_group(emulated, form, order, dtype, labels):
    """Runs of several tiles and segments of few rows, with a mean far from 0, in two batches; what is not finite here
    and there, and in one column everywhere but at the end."""
    n, f = 1500, 24
    generator = torch.Generator().manual_seed(0)
    h = torch.randn(n, f, generator=generator) + torch.linspace(0, 20, f)
    for value in (torch.nan, torch.inf, -torch.inf):
        h[torch.randint(n, (20,), generator=generator), torch.randint(f, (20,), generator=generator)] = value
    h[: n - 40, 3] = torch.nan
    h, gate = h.to(dtype), torch.randn(n, f, generator=generator).to(dtype)
    segments = torch.randint(-1, labels, (n,), generator=generator)
    stats = ops.StatsBuffers(labels, f)
    for a, b in ((0, 1100), (1100, n)):
        emulated.neuron_stats(h[a:b], segments[a:b], stats, gate[a:b], one_group=True)
    check(stats, oracle(h, gate, segments, labels, False))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", [(1, 2, 3, 5), (31, 32, 33, 63), (1, 320, 4, 1)])
def test_segments_of_few_rows(emulated, form, dtype, sizes):
    """Means from 0 to twice the standard deviation: the range in which digits cancel about a pivot of 0, and beyond."""
    f = 2048
    segments = torch.cat([torch.full((size,), s) for s, size in enumerate(sizes)])
    segments = segments[torch.randperm(len(segments), generator=torch.Generator().manual_seed(1))]
    h = torch.randn(len(segments), f, generator=torch.Generator().manual_seed(0)) + torch.linspace(0, 2, f)
    h = h.to(dtype)
    stats = ops.StatsBuffers(len(sizes), f, "product")
    emulated.neuron_stats(h, segments, stats)
    check(stats, oracle(h, h, segments, len(sizes), True))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("one_group", [False, True])
def test_neurons_that_never_change(emulated, dtype, one_group):
    """A single pass gives a variance of exactly 0, even if the square of the value leaves fp32's range."""
    values = torch.tensor([0.0, -0.0, 1.1, -0.3, 3e-23, 1e-38, 3e38, 1024.0]).to(dtype).repeat(5)
    values[values.isinf()] = 0.1
    h = values.repeat(450, 1)
    segments = runs(450, 2)
    stats = ops.StatsBuffers(2, 40, "product")
    emulated.neuron_stats(h, segments, stats, one_group=one_group)
    check(stats, oracle(h, h, segments, 2, True))
    assert stats.finalize().m2.eq(0).all()
    assert stats.finalize().mean.eq(values).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("f", [40, 77])
def test_a_gate_that_is_not_finite(emulated, form, dtype, f):
    """h is finite, so no value is left out. Neither a NaN nor a zero counts as active."""
    gate, h = (t.contiguous() for t in halves(200, f, dtype))
    for i, value in enumerate((torch.nan, -torch.nan, torch.inf, -torch.inf, 0.0, -0.0)):
        gate[i::7, i::2] = value
    segments = runs(200, 3)
    stats = ops.StatsBuffers(3, f)
    emulated.neuron_stats(h, segments, stats, gate)
    check(stats, oracle(h, gate, segments, 3, False))


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_row_active(emulated, form, dtype):
    h = torch.ones(1000, 40, dtype=dtype)
    stats = ops.StatsBuffers(1, 40, "product")
    emulated.neuron_stats(h, torch.zeros(1000, dtype=torch.int64), stats, one_group=True)
    assert stats.finalize().active.eq(1000).all()


@pytest.mark.parametrize("dtype", DTYPES[1:])
def test_extremes_and_signs_of_every_16_bit_value(emulated, form, dtype):
    """Each of the 65,536 among others, infinities and NaN too, as a value and as a gate."""
    every = torch.arange(-32768, 32768, dtype=torch.int32).to(torch.int16).view(dtype)
    h = torch.stack([every.roll(shift) for shift in (0, 1, 12_345, 32_768, 50_001)])
    segments = torch.zeros(5, dtype=torch.int64)
    stats = ops.StatsBuffers(1, 65536)
    emulated.neuron_stats(h, segments, stats, h.flip(1).contiguous())
    check(stats, oracle(h, h.flip(1), segments, 1, False))


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_same_bits_every_time(emulated, form, dtype):
    """In any order of blocks and threads, and from any alignment: all barriers are there, and nothing is added in the
    order of arrival."""
    f = 264
    gate, up = halves(700, f, dtype)
    odd = torch.empty(700 * 2 * f + 1, dtype=dtype)[1:].view(700, 2 * f)  # no vector of 16 bytes starts a row
    odd.copy_(torch.cat([gate, up], 1))
    segments = torch.randint(-1, 10, (700,), generator=torch.Generator().manual_seed(0))

    def once(gate, up, backwards):
        emulated.library.reverse_order(backwards)
        stats = ops.StatsBuffers(10, f)
        outputs = [emulated.glu_stats(gate, up, segments, stats) for _ in range(2)]
        emulated.library.reverse_order(0)
        return (*outputs, *stats.tensors)

    first = once(gate, up, 0)
    for again in (
        once(gate, up, 0),
        once(gate, up, 1),
        once(odd[:, :f], odd[:, f:], 0),
        once(gate, up.contiguous(), 1),
    ):
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.fixture
def fenced() -> Callable[[torch.Tensor], torch.Tensor]:
    """Copies a tensor to where readable memory ends with it."""
    libc = ctypes.CDLL(None, use_errno=True)

    def copy(value: torch.Tensor) -> torch.Tensor:
        used = value.numel() * value.element_size()
        pages = -(-used // mmap.PAGESIZE) * mmap.PAGESIZE
        memory = mmap.mmap(-1, pages + mmap.PAGESIZE)
        view = torch.frombuffer(memory, dtype=value.dtype, count=value.numel(), offset=pages - used).view(value.shape)
        fence = view.data_ptr() + used
        assert libc.mprotect(ctypes.c_void_p(fence), ctypes.c_size_t(mmap.PAGESIZE), 0) == 0
        return view.copy_(value)

    return copy


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("f", [264, 131])
def test_nothing_is_read_past_the_end(emulated, form, fenced, dtype, f):
    """Tensors that end where readable memory ends."""
    n = 37
    gate, up = (fenced(t.contiguous()) for t in halves(n, f, dtype))
    program = torch.ones(1, 4, f)
    segments = runs(n, 3)
    stats = ops.StatsBuffers(3, f)
    assert torch.equal(emulated.glu(gate, up), emulated.glu_stats(gate, up, segments, stats))
    emulated.glu_steer(gate, up, program, None, "silu")
    emulated.neuron_stats(gate, segments, stats, up)


def test_counts_past_2_to_the_31(emulated, form):
    stats = ops.StatsBuffers(1, 40, "product")
    stats.count.fill_(2**40)
    stats.moments[0].fill_(1.0)
    emulated.neuron_stats(torch.full((64, 40), 3.0), torch.zeros(64, dtype=torch.int64), stats)
    final = stats.finalize()
    assert final.count.tolist() == [2**40 + 64]
    share = 64 / (2**40 + 64)
    torch.testing.assert_close(final.mean - 1.0, torch.full((1, 40), 2 * share, dtype=torch.float64), rtol=1e-5, atol=0)
    torch.testing.assert_close(
        final.m2, torch.full((1, 40), 4 * 2**40 * share, dtype=torch.float64), rtol=1e-12, atol=0
    )


# --- glu_backward ---


def upstream(n: int, f: int, dtype: torch.dtype) -> torch.Tensor:
    return halves(n, f, dtype, seed=3)[0]


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", ALL_SHAPES)
@pytest.mark.parametrize("gated", [True, False])
def test_backward_with_and_without_sums(emulated, shape, dtype, act, gated):
    """The sums are of the h that the forward kernel gives."""
    gate, up = halves(*shape, dtype)
    up, grad, segments = up if gated else None, upstream(*shape, dtype), runs(shape[0], 4)
    sums, gradients, sums_alone = (torch.ones(4, shape[1]) for _ in range(3))
    of_inputs = emulated.glu_backward(grad, gate, up, act, sums, segments, gradients)
    plain = emulated.glu_backward(grad, gate, up, act)
    alone = emulated.glu_backward(grad, gate, up, act, sums_alone, segments)
    assert all(torch.equal(a, b) for a, b in zip(of_inputs, plain, strict=True))
    assert all(torch.equal(a, b) for a, b in zip((*of_inputs, sums), (*alone, sums_alone), strict=True))
    check_gradients(of_inputs, gate, up, act, grad)
    check_sums(sums, [(emulated.glu(gate, up, act), grad, segments)], torch.ones(4, shape[1]), gradients)


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("dtype", DTYPES[1:])
def test_sums_take_the_very_output(emulated, silu, dtype, act):
    """With a row a segment and a gradient of 1 the sums are h, bit for bit, for all 16-bit gates."""
    gate = torch.arange(-32768, 32768, dtype=torch.int32).to(torch.int16).view(dtype).view(64, 1024)
    up = upstream(64, 1024, dtype)
    for factor in (up, None):
        sums = torch.zeros(64, 1024)
        emulated.glu_backward(torch.ones_like(gate), gate, factor, act, sums, torch.arange(64))
        h = emulated.glu(gate, factor, act)
        assert torch.equal(sums.nan_to_num(7), h.float().nan_to_num(7))


SEGMENTS = {
    "one": lambda n: torch.zeros(n, dtype=torch.int64),
    "a row each": lambda n: torch.arange(n),
    "a giant and some rows": lambda n: torch.where(torch.arange(n) % 97 == 5, torch.arange(n), 1),
    "sentences": lambda n: torch.arange(n) // 45 - 1,
    "shuffled": lambda n: torch.randint(-1, 40, (n,), generator=torch.Generator().manual_seed(0)),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SEGMENTS)
def test_sums_of_segments_of_any_size(emulated, order, dtype, name):
    """Segments over many groups, many segments in one group, and absent ones; twice into the same sums."""
    n, f = 900, 40
    gate, up = halves(n, f, dtype)
    grad, segments = upstream(n, f, dtype), SEGMENTS[name](n)
    sums, gradients = torch.ones(n, f), torch.ones(n, f)
    for _ in range(2):
        emulated.glu_backward(grad, gate, up, "silu", sums, segments, gradients)
    check_sums(sums, 2 * [(emulated.glu(gate, up), grad, segments)], torch.ones(n, f), gradients)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("labels", [1, 10, 300])
def test_the_same_sums_every_time(emulated, dtype, labels):
    """In any order of blocks and threads, and from any alignment."""
    n, f = 400, 264
    gate, up = halves(n, f, dtype)
    grad = upstream(n, f, dtype)
    odd = torch.empty(n * 3 * f + 1, dtype=dtype)[1:].view(n, 3 * f)
    odd.copy_(torch.cat([grad, gate, up], 1))
    segments = torch.randint(-1, labels, (n,), generator=torch.Generator().manual_seed(0))

    def once(grad, gate, up, backwards, offsets=(0, 0)):
        emulated.library.reverse_order(backwards)
        sums, gradients = (torch.zeros(labels * f + offset)[offset:].view(labels, f) for offset in offsets)
        of_inputs = emulated.glu_backward(grad, gate, up, "silu", sums, segments, gradients)
        emulated.library.reverse_order(0)
        return (*of_inputs, sums, gradients)

    first = once(grad, gate, up, 0)
    for again in (
        once(grad, gate, up, 1),
        once(*odd.split(f, 1), 0),
        once(grad.contiguous(), gate, up.contiguous(), 0),
        once(grad, gate, up, 1, (1, 0)),
        once(grad, gate, up, 1, (0, 1)),
    ):
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("f", [264, 131])
def test_backward_reads_nothing_past_the_end(emulated, fenced, dtype, f):
    tensors = (*halves(37, f, dtype), upstream(37, f, dtype), torch.zeros(3, f), torch.zeros(3, f))
    gate, up, grad, sums, gradients = (fenced(t.contiguous()) for t in tensors)
    of_inputs = emulated.glu_backward(grad, gate, up, "silu", sums, runs(37, 3), gradients)
    assert all(t.isfinite().all() for t in (*of_inputs, sums, gradients))


def test_a_gradient_that_is_one_row(emulated):
    gate, up = halves(50, 264, torch.bfloat16)
    grad, segments = upstream(1, 264, torch.bfloat16).expand(50, 264), runs(50, 3)
    sums, other = torch.zeros(2, 3, 264), torch.zeros(2, 3, 264)
    emulated.glu_backward(grad, gate, up, "silu", sums[0], segments, sums[1])
    emulated.glu_backward(grad.contiguous(), gate, up, "silu", other[0], segments, other[1])
    assert torch.equal(sums, other)


# --- masked_mlp ---

# Rows that vectors fit and rows that none does, in down alone too; neurons for one block of a strip and for several.
MLP_SIZES = ((64, 296, 264), (75, 131, 83), (72, 136, 77), (3, 5, 1), (8, 0, 8))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", MLP_SIZES)
@pytest.mark.parametrize("by_neuron", [True, False])
def test_mlp_against_the_definition(emulated, order, dtype, size, by_neuron):
    inputs, neurons, _ = size
    w_gate, w_up, w_down = weights(size, dtype)
    down = ops.neuron_major(w_down) if by_neuron else w_down
    table = masking(programs(3, neurons), torch.arange(0, neurons, 2))
    for n, act, up in ((1, "silu", w_up), (3, "gelu", w_up), (4, "silu", None), (16, "relu2", w_up)):
        x, rows = tokens(n, inputs, dtype), torch.arange(n, dtype=torch.int32) % 3 - int(n == 16)
        out = emulated.masked_mlp(x, w_gate, up, down, table, rows, act)
        wanted = truth(x, w_gate, up, w_down, table, rows, act)
        torchs = reference.masked_mlp(x, w_gate, up, w_down, table, rows, act)
        error = (torchs.double() - wanted).abs().amax(1, keepdim=True)
        bound = 2 * error + (wanted.abs() + 1) * torch.finfo(dtype).eps
        assert ((out.double() - wanted).abs() <= bound).all()
        assert torch.equal(emulated.masked_mlp(x, w_gate, up, down, table, rows, act), out)


@pytest.mark.parametrize("size", [(72, 296, 264), (75, 131, 83)])
@pytest.mark.parametrize("by_neuron", [True, False])
def test_mlp_does_not_read_the_masked(emulated, size, by_neuron):
    """The weights of masked neurons may be NaN, except the down row of a neuron with a shift; and no row's bits depend
    on other rows' masks."""
    inputs, neurons, _ = size
    w_gate, w_up, w_down = weights(size, torch.bfloat16)
    masked = torch.randperm(neurons, generator=torch.Generator().manual_seed(3))[: neurons // 2]
    table = masking(programs(2, neurons), masked)
    table[:, 3, masked[:9]] = 0.75
    x, rows = tokens(3, inputs, torch.bfloat16), torch.tensor([0, 1, 0], dtype=torch.int32)
    down = ops.neuron_major(w_down) if by_neuron else w_down
    before = emulated.masked_mlp(x, w_gate, w_up, down, table, rows)
    with_all = emulated.masked_mlp(x, w_gate, w_up, down, table, torch.tensor([0, -1, 0], dtype=torch.int32))
    assert torch.equal(with_all[::2], before[::2])
    assert not torch.equal(with_all[1], before[1])
    w_gate[masked], w_up[masked] = torch.nan, torch.nan
    if by_neuron:
        w_down[:, masked[9:]] = torch.nan
        down = ops.neuron_major(w_down)
    assert torch.equal(emulated.masked_mlp(x, w_gate, w_up, down, table, rows), before)
    everything = masking(table[:1], torch.arange(neurons))
    if by_neuron:
        assert torch.equal(emulated.masked_mlp(x, w_gate, w_up, down, everything, None), torch.zeros_like(before))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("by_neuron", [True, False])
def test_mlp_passes_nothing_infinite_through_a_mask(emulated, dtype, by_neuron):
    """Both where a neuron is left out and where a row that does not mask it needs it."""
    finite, infinite, x, table, rows = infinite_where_masked(dtype, 3)
    down = ops.neuron_major(finite[2]) if by_neuron else finite[2]
    wanted = emulated.masked_mlp(x, *finite[:2], down, table, rows)
    out = emulated.masked_mlp(x, *infinite[:2], down, table, rows)
    assert torch.equal(out[:-1], wanted[:-1])
    assert not out[-1].isfinite().any()


@pytest.mark.parametrize("size", [(72, 296, 264), (75, 131, 83)])
@pytest.mark.parametrize("by_neuron", [True, False])
def test_mlp_reads_nothing_past_the_end(emulated, fenced, size, by_neuron):
    inputs, neurons, _ = size
    w_gate, w_up, w_down = weights(size, torch.bfloat16)
    fence = [fenced(t) for t in (tokens(2, inputs, torch.bfloat16).contiguous(), w_gate, w_up)]
    down = fenced(w_down.t().contiguous()).t() if by_neuron else fenced(w_down)
    table = fenced(programs(1, neurons))
    assert emulated.masked_mlp(*fence, down, table, None).isfinite().all()

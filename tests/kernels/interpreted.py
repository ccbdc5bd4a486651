"""The Triton kernels in Triton's interpreter, on the CPU. Run by test_interpreted.py, in a process that sets
TRITON_INTERPRET=1 before Triton is imported. A program instance costs milliseconds: shapes are few and small."""

from __future__ import annotations

import pytest
import torch

from affectron import kernels, ops
from affectron.kernels import launch
from affectron.ops._backends import KERNELS
from affectron.ops.backends import reference
from affectron.ops.buffers import FinalStats
from affectron.ops.forms import use_form
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

SHAPES = ((0, 43), (1, 64), (70, 43), (33, 1))


@pytest.fixture(autouse=True)
def triton():
    with ops.use_backend("triton"):
        assert ops.backend_for("glu", "cpu") == ("triton", "asked for")
        yield


@pytest.fixture(params=[True, False], ids=["single_pass", "two_passes"])
def form(request):
    """Statistics in each of the two forms."""
    with use_form("triton", "single_pass", request.param):
        yield


def close(ours: torch.Tensor, truth: torch.Tensor, up: torch.Tensor | None = None) -> None:
    """Within the roundings of the dtype: one after the activation, one after the product. The interpreter cuts off
    what bf16 cannot hold instead of rounding it: twice as much there."""
    unit = torch.finfo(ours.dtype).eps * (2 if ours.dtype == torch.bfloat16 else 1)
    size = 1.0 if up is None else up.double().abs().clamp(min=1)
    error = (ours.double() - truth.double()).abs()
    assert (error <= 2 * unit * truth.double().abs() + 1e-6 * size).all()


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_glu(dtype, act):
    gate, up = halves(19, 43, dtype)
    close(ops.glu(gate, up, act), exact(gate, up, act), up)
    close(ops.glu(gate, None, act), exact(gate, None, act))
    assert torch.equal(ops.glu(gate, up, act), ops.glu(gate.contiguous(), up.contiguous(), act))


@pytest.mark.parametrize("shape", [*SHAPES, (3, 2100)])
def test_glu_shapes(shape):
    gate, up = halves(*shape, torch.float32)
    close(ops.glu(gate, up), exact(gate, up, "silu"), up)


@pytest.mark.parametrize("act", ["relu", "relu2"])
def test_nan_passes(act):
    gate = torch.tensor([[float("nan"), -0.0, 0.0, float("inf"), -float("inf"), 1e-40, -1.0]])
    ours, torchs = ops.glu(gate, None, act), reference.glu(gate, None, act)
    torch.testing.assert_close(ours, torchs, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rule", ["gate", "product"])
def test_glu_stats(form, shape, dtype, rule):
    gate, up = halves(*shape, dtype)
    segments = runs(shape[0], 5)
    stats = ops.StatsBuffers(5, shape[1], rule)
    h = torch.cat([ops.glu_stats(gate, up, segments, stats) for _ in range(2)])
    assert torch.equal(h[: shape[0]], ops.glu(gate, up))
    assert torch.equal(h[: shape[0]], h[shape[0] :])
    gate, segments = torch.cat([gate, gate]), torch.cat([segments, segments])
    check(stats, oracle(h, gate, segments, 5, rule == "product"))


@pytest.mark.parametrize("group", [1, 2, 8])
def test_partials_of_several_tiles(form, monkeypatch, group):
    """Segments that go on over several groups, groups of several segments, and labels in any order."""
    monkeypatch.setattr(launch, "GROUP_TILES", group)
    monkeypatch.setattr(launch, "ENOUGH_BLOCKS", 1)
    gate, up = halves(200, 37, torch.float32)
    segments = torch.randint(-1, 3, (200,), generator=torch.Generator().manual_seed(0)) % 4 - 1
    results = []
    for _ in range(2):
        stats = ops.StatsBuffers(4, 37)
        h = ops.glu_stats(gate, up, segments, stats)
        results.append(stats)
    check(stats, oracle(h, gate, segments, 4, False))
    assert all(torch.equal(a, b) for a, b in zip(results[0].tensors, results[1].tensors, strict=True))


@pytest.mark.parametrize("act", ACTS)
def test_glu_stats_activations(form, act):
    gate, _ = halves(40, 37, torch.float32)
    segments, stats = runs(40, 2), ops.StatsBuffers(2, 37)
    h = ops.glu_stats(gate, None, segments, stats, act)
    assert torch.equal(h, ops.glu(gate, None, act))
    check(stats, oracle(h, gate, segments, 2, False))


@pytest.mark.parametrize("dtype", DTYPES)
def test_nonfinite_values_are_counted_and_left_out(form, dtype):
    generator = torch.Generator().manual_seed(0)
    h, gate = (t.clone() for t in halves(200, 37, dtype))
    for value in (float("nan"), float("inf"), -float("inf")):
        h[torch.randint(200, (20,), generator=generator), torch.randint(37, (20,), generator=generator)] = value
    h[:, 3] = float("nan")
    segments, stats = runs(200, 3), ops.StatsBuffers(3, 37)
    for part in (slice(0, 90), slice(90, 200)):
        ops.neuron_stats(h[part], segments[part], stats, gate[part])
    check(stats, oracle(h, gate, segments, 3, False))


def measured(h: torch.Tensor, segments: torch.Tensor, gate: torch.Tensor | None = None) -> FinalStats:
    """The statistics of h, taken in two calls and checked; without a gate, a row is active where h > 0."""
    number, middle = int(segments.max()) + 1, h.shape[0] // 2
    stats = ops.StatsBuffers(number, h.shape[1], "product" if gate is None else "gate")
    for part in (slice(0, middle), slice(middle, None)):
        ops.neuron_stats(h[part], segments[part], stats, None if gate is None else gate[part])
    check(stats, oracle(h, h if gate is None else gate, segments, number, gate is None))
    return stats.finalize()


def one_partial(monkeypatch) -> None:
    """Let a segment's tiles share a partial, as those of a large batch do."""
    monkeypatch.setattr(launch, "ENOUGH_BLOCKS", 1)


@pytest.mark.parametrize("ratio", [0.7, 1.0, 1e2, 1e4])
@pytest.mark.parametrize("dtype", DTYPES)
def test_mean_far_from_zero(form, monkeypatch, ratio, dtype):
    """Neurons near and far from 0 side by side, in tiles that are full."""
    one_partial(monkeypatch)
    h = torch.randn(256, 37, generator=torch.Generator().manual_seed(0))
    h[:, ::3] += ratio
    measured(h.to(dtype), torch.arange(256) // 32 % 2)


def test_mean_that_drifts(form, monkeypatch):
    """Far from the mean of the tiles before: slowly, in one step, and back."""
    one_partial(monkeypatch)
    h = torch.randn(256, 37, generator=torch.Generator().manual_seed(0))
    h[:, :10] += torch.linspace(0, 100, 256)[:, None]
    h[32:, 10:20] += 1e4
    h[64:96, 20:30] -= 1e3
    measured(h, torch.zeros(256, dtype=torch.int64))


def test_first_tile_far_from_zero(form, monkeypatch):
    one_partial(monkeypatch)
    h = torch.randn(192, 37, generator=torch.Generator().manual_seed(0))
    h[:32] += 1e3
    measured(h, torch.zeros(192, dtype=torch.int64))


def test_skewed_and_sparse(form, monkeypatch):
    """One large value among small ones, and neurons that are 0 for whole tiles."""
    one_partial(monkeypatch)
    generator = torch.Generator().manual_seed(0)
    h = torch.randn(192, 37, generator=generator).exp() * 1e-3
    h[torch.randint(192, (12,), generator=generator), torch.arange(12)] = 1e3
    h[:, 20:] = torch.where(torch.rand(192, 17, generator=generator) < 0.03, h[:, 20:], 0.0)
    measured(h, torch.zeros(192, dtype=torch.int64))


def test_constant_neurons(form, monkeypatch):
    """The spread is exactly 0, even if the sum of a tile is rounded."""
    one_partial(monkeypatch)
    values = torch.cat([torch.tensor([0.0, -0.0, 3.25, 0.1, -1 / 3, 1e-30, 1e30, 3.3e38]), torch.arange(29) + 0.7])
    final = measured(values.expand(150, 37).contiguous(), torch.arange(150) // 75)
    assert (final.m2 == 0).all()


def test_tiles_that_alternate(form, monkeypatch):
    """Every other tile has values that only merge_exactly can merge, in h, in the gate alone, or in one row short."""
    one_partial(monkeypatch)
    h, gate = (t.clone() for t in halves(287, 37, torch.float32))
    for start, value in ((32, float("nan")), (96, float("inf")), (160, -float("inf")), (224, 1e25)):
        h[start + 3, 5], gate[start + 7, 6] = value, value
    segments = torch.arange(287) // 64 % 2
    measured(h, segments, gate)
    measured(h, segments)


def test_range_of_fp32(form, monkeypatch):
    """Neurons whose sums or squares overflow or vanish in fp32, in tiles that are full."""
    one_partial(monkeypatch)
    h = torch.randn(150, 64, generator=torch.Generator().manual_seed(0)) * torch.logspace(-30, 37, 64)
    measured(h, torch.arange(150) // 96)
    measured(h[:, :12].contiguous(), torch.arange(150) // 96)  # only columns that vanish, none that overflow


def test_counts_past_2_to_the_31(form):
    stats = ops.StatsBuffers(1, 40, "product")
    stats.count.fill_(2**40)
    stats.moments[0].fill_(1.0)
    ops.neuron_stats(torch.full((64, 40), 3.0), torch.zeros(64, dtype=torch.int64), stats)
    share = 64 / (2**40 + 64)
    assert stats.count.tolist() == [2**40 + 64]
    mean = stats.finalize().mean - 1.0
    torch.testing.assert_close(mean, torch.full((1, 40), 2 * share, dtype=torch.float64), rtol=1e-5, atol=0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mixed", [True, False])
def test_glu_steer(dtype, mixed):
    """The intervention on the output of glu; in fp32 it is rounded as in every backend."""
    gate, up = halves(45, 43, dtype)
    table = programs(4 if mixed else 1, 43)
    rows = torch.arange(45, dtype=torch.int32) % 5 - 1 if mixed else None
    ours, plain = ops.glu_steer(gate, up, table, rows), ops.glu(gate, up)
    chosen = torch.zeros(45, dtype=torch.int32) if rows is None else rows
    steered = reference.intervene(plain.float(), *table[chosen.clamp(min=0).long()].unbind(1))
    truth = torch.where((chosen >= 0)[:, None], steered, plain.float())
    close(ours, truth)
    if dtype == torch.float32:
        assert torch.equal(ours, truth)
    if mixed:
        assert torch.equal(ours[rows < 0], plain[rows < 0])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mixed", [True, False])
def test_glu_steer_what_is_not_finite(dtype, mixed):
    up, table = extremes(dtype)
    rows = torch.zeros(len(up), dtype=torch.int32) if mixed else None
    roundings = 2 if dtype == torch.bfloat16 else 1  # as in close
    check_extremes(ops.glu_steer(torch.ones_like(up), up, table, rows, "relu"), up, table, roundings)


@pytest.mark.parametrize("shape", SHAPES)
def test_neutral_parameters_keep_every_bit(shape):
    gate, up = halves(*shape, torch.float32)
    up[:1, :1] = float("inf")
    table = torch.tensor([1.0, 0.0, float("-inf"), -0.0]).repeat(1, shape[1], 1).transpose(1, 2).contiguous()
    assert torch.equal(ops.glu_steer(gate, up, table), ops.glu(gate, up))


# Rows of whole tiles and rows that none fits; one split of down's neurons and several.
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [(75, 131, 83), (40, 160, 70), (3, 5, 1), (8, 0, 8)])
@pytest.mark.parametrize("by_neuron", [True, False])
def test_masked_mlp(dtype, size, by_neuron):
    inputs, neurons, _ = size
    w_gate, w_up, w_down = weights(size, dtype)
    down = ops.neuron_major(w_down) if by_neuron else w_down
    table = masking(programs(3, neurons), torch.arange(0, neurons, 2))
    for n, act, up in ((1, "silu", w_up), (3, "gelu", None), (16, "relu2", w_up)):
        x, rows = tokens(n, inputs, dtype), torch.arange(n, dtype=torch.int32) % 3 - int(n == 16)
        out = ops.masked_mlp(x, w_gate, up, down, table, rows, act)
        wanted = truth(x, w_gate, up, w_down, table, rows, act)
        torchs = reference.masked_mlp(x, w_gate, up, w_down, table, rows, act)
        error = (torchs.double() - wanted).abs().amax(1, keepdim=True)
        unit = torch.finfo(dtype).eps * (2 if dtype == torch.bfloat16 else 1)  # as in close
        # The interpreter cuts h off too, always towards zero.
        bound = (6 if dtype == torch.bfloat16 else 2) * error + (wanted.abs() + 1) * unit
        assert ((out.double() - wanted).abs() <= bound).all()
        assert torch.equal(ops.masked_mlp(x, w_gate, up, down, table, rows, act), out)


@pytest.mark.parametrize("by_neuron", [True, False])
def test_masked_mlp_does_not_read_the_masked(by_neuron):
    """The weights of masked neurons may be NaN, except the down row of a neuron with a shift."""
    w_gate, w_up, w_down = weights((75, 131, 83), torch.float32)
    masked = torch.randperm(131, generator=torch.Generator().manual_seed(3))[:70]
    table = masking(programs(2, 131), masked)
    table[:, 3, masked[:9]] = 0.75
    x, rows = tokens(3, 75, torch.float32), torch.tensor([0, 1, 0], dtype=torch.int32)
    before = ops.masked_mlp(x, w_gate, w_up, ops.neuron_major(w_down) if by_neuron else w_down, table, rows)
    w_gate[masked], w_up[masked] = torch.nan, torch.nan
    if by_neuron:
        w_down[:, masked[9:]] = torch.nan
    down = ops.neuron_major(w_down) if by_neuron else w_down
    assert torch.equal(ops.masked_mlp(x, w_gate, w_up, down, table, rows), before)
    assert ops.masked_mlp(x, w_gate, w_up, down, table, rows - 1)[0].isnan().all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("by_neuron", [True, False])
def test_masked_mlp_passes_nothing_infinite_through_a_mask(dtype, by_neuron):
    """Both where a neuron is left out and where a row that does not mask it needs it."""
    finite, infinite, x, table, rows = infinite_where_masked(dtype, 3)
    down = ops.neuron_major(finite[2]) if by_neuron else finite[2]
    wanted = ops.masked_mlp(x, *finite[:2], down, table, rows)
    out = ops.masked_mlp(x, *infinite[:2], down, table, rows)
    assert torch.equal(out[:-1], wanted[:-1])
    assert not out[-1].isfinite().any()


def backward(gate, up, grad, sums, segments, act="silu", gradients=None):
    """The output and the gradients of gate and up; by ops.glu where no sums are given."""
    inputs = [t.detach().requires_grad_() for t in (gate, up) if t is not None]
    up = inputs[1] if up is not None else None
    if sums is None:
        h = ops.glu(inputs[0], up, act)
    else:
        h = ops.glu_attribution(inputs[0], up, sums, segments, act, gradients)
    return h.detach(), *torch.autograd.grad(h, inputs, grad)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("gated", [True, False])
def test_glu_attribution(shape, dtype, gated):
    gate, up = halves(*shape, dtype)
    up, grad, segments = up if gated else None, halves(*shape, dtype, seed=3)[0], runs(shape[0], 5)
    sums, gradients, sums_alone = (torch.ones(5, shape[1]) for _ in range(3))
    h, *of_inputs = backward(gate, up, grad, sums, segments, gradients=gradients)
    assert torch.equal(h, ops.glu(gate, up))
    plain = backward(gate, up, grad, None, None)[1:]
    alone = backward(gate, up, grad, sums_alone, segments)[1:]
    assert all(torch.equal(a, b) for a, b in zip(of_inputs, plain, strict=True))
    assert all(torch.equal(a, b) for a, b in zip((*of_inputs, sums), (*alone, sums_alone), strict=True))
    check_gradients(of_inputs, gate, up, "silu", grad, 2 if dtype == torch.bfloat16 else 1)  # as in close
    check_sums(sums, [(h, grad, segments)], torch.ones(5, shape[1]), gradients)


@pytest.mark.parametrize("act", ACTS)
def test_gradients(act):
    gate, up = halves(19, 43, torch.float32)
    grad = halves(19, 43, torch.float32, seed=3)[0]
    check_gradients(backward(gate, up, grad, None, None, act)[1:], gate, up, act, grad)


@pytest.mark.parametrize("group", [1, 2, 8])
def test_sums_over_several_groups(monkeypatch, group):
    """One segment of many groups, groups of many segments, and labels in any order; twice into the same sums."""
    monkeypatch.setattr(launch, "GROUP_TILES", group)
    monkeypatch.setattr(launch, "ENOUGH_BLOCKS", 1)
    gate, up = halves(300, 37, torch.float32)
    grad = halves(300, 37, torch.float32, seed=3)[0]
    row = torch.arange(300)
    for segments in (row * 0, row // 20, torch.where(row % 90 == 7, row // 90, 4), row % 7 - 1, row * 0 - 1):
        results = []
        for _ in range(2):
            sums, gradients = torch.ones(15, 37), torch.ones(15, 37)
            for _ in range(2):
                h, *_ = backward(gate, up, grad, sums, segments, gradients=gradients)
            check_sums(sums, 2 * [(h, grad, segments)], torch.ones(15, 37), gradients)
            results.append(torch.cat([sums, gradients]))
        assert torch.equal(*results)


def test_one_function_for_each_op():
    assert set(kernels.__all__) == set(KERNELS)

"""The ops on devices with and without float64 that are neither a CPU nor CUDA's: pretended ones, which compute on the
CPU."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from affectron import ops
from affectron.ops.float64 import float64_device, in_float64
from tests.gpu.pretended import PretendedDevice
from tests.ops.conftest import ACTS, DTYPES, exact, halves

N, F, SEGMENTS = 199, 43, 3


@pytest.fixture(params=[("mps", False), ("xpu", True)], ids=["without", "with"])
def device(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    """A device without float64, and one with it."""
    kind, float64 = request.param
    with PretendedDevice(kind, float64) as pretended:
        yield pretended.device


def dense(n: int, dtype: torch.dtype, seed: int = 0) -> tuple[Tensor, Tensor]:
    """gate and up [n, F]. On the CPU torch's last bits depend on strides, which a copy to a device changes."""
    gate, up = halves(n, F, dtype, seed)
    return gate.contiguous(), up.contiguous()


def segments() -> Tensor:
    return torch.arange(N) * 7 % (SEGMENTS + 1) - 1


def test_whether_a_device_has_float64_is_found_out(device):
    value = torch.ones(2, device=device)
    has = device.type == "xpu"
    assert float64_device(device) == (device if has else torch.device("cpu"))
    assert in_float64(value).dtype is torch.float64
    assert in_float64(value).device == float64_device(device)
    if not has:
        with pytest.raises(TypeError, match="float64"):
            value.double()


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_statistics_are_those_of_the_activations(device, dtype, act, gated):
    """The output is that of ops.glu there; its statistics are those of the CPU's kernel or of plain torch."""
    gate, up = dense(N, dtype)
    gate[3, 5], up[7, 2] = torch.nan, torch.inf
    up = up if gated else None
    stats = ops.StatsBuffers(SEGMENTS, F, device=device)
    there = gate.to(device), None if up is None else up.to(device)
    h = ops.glu_stats(*there, segments().to(device), stats, act)
    assert h.device == device
    with ops.use_backend("reference"):
        expected = ops.glu(gate, up, act)
        assert torch.equal(h.cpu().nan_to_num(9.0), expected.nan_to_num(9.0))
        assert torch.equal(ops.glu(*there, act).cpu().nan_to_num(9.0), expected.nan_to_num(9.0))
    final = stats.finalize()
    for segment in range(SEGMENTS):
        rows = segments() == segment
        values = expected[rows].double()
        seen = values.isfinite()
        mean = values.where(seen, 0).sum(0) / seen.sum(0)
        m2 = (values - mean).where(seen, 0).square().sum(0)
        assert final.count[segment].item() == rows.sum()
        assert torch.equal(final.active[segment].cpu(), (gate[rows] > 0).sum(0))
        assert torch.equal(final.nonfinite[segment].cpu(), (~seen).sum(0))
        torch.testing.assert_close(final.mean[segment].cpu(), mean, rtol=0, atol=1e-6 * values.where(seen, 0).std())
        torch.testing.assert_close(final.m2[segment].cpu(), m2, rtol=1e-6, atol=0)
        assert torch.equal(final.min[segment].cpu().double(), values.where(seen, torch.inf).amin(0))
        assert torch.equal(final.max[segment].cpu().double(), values.where(seen, -torch.inf).amax(0))


def test_statistics_of_two_batches_and_restored_ones_go_on(device):
    h = dense(N, torch.float32)
    plan = ops.SegmentPlan(segments().to(device), SEGMENTS)
    stats, restored, expected = (
        ops.StatsBuffers(SEGMENTS, F, "product", place) for place in (device, device, torch.device("cpu"))
    )
    for number, part in enumerate(h):
        if number:
            restored.restore(vars(stats.finalize()))
            ops.neuron_stats(part.to(device), plan, restored)
        ops.neuron_stats(part.to(device), plan, stats)
        with ops.use_backend("reference"):
            ops.neuron_stats(part, segments(), expected)
    for one, again, of_cpu in zip(stats.tensors, restored.tensors, expected.tensors, strict=True):
        assert torch.equal(one.cpu(), again.cpu())
        torch.testing.assert_close(one.cpu(), of_cpu, rtol=1e-6, atol=1e-7)


def test_activations_of_another_device_are_refused(device):
    stats, h = ops.StatsBuffers(SEGMENTS, F, "product", device), torch.ones(N, F)
    with pytest.raises(ValueError, match=f"are on cpu, cpu and {device}, expected one device"):
        ops.neuron_stats(h, segments(), stats)
    with pytest.raises(ValueError, match=f"are on {device}, {device} and cpu, expected one device"):
        ops.neuron_stats(h.to(device), segments().to(device), ops.StatsBuffers(SEGMENTS, F, "product"))


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
def test_attributions_are_sums_in_float64(device, dtype, gated):
    """h times its gradient within 2^-20 of the sum of the terms' absolute values, added to what was there."""
    gate, up = dense(N, dtype)
    grad, _ = dense(N, dtype, seed=3)
    x = gate.to(device).requires_grad_()
    sums, gradients = (torch.full((SEGMENTS, F), 0.5, device=device) for _ in range(2))
    h = ops.glu_attribution(x, up.to(device) if gated else None, sums, segments().to(device), "silu", gradients)
    h.backward(grad.to(device))
    assert sums.device == gradients.device == x.grad.device == device
    own = gate.double().requires_grad_()
    exact(own, up if gated else None, "silu").backward(grad.double())
    bound = 2.0**-20 if dtype is torch.float32 else 4 * torch.finfo(dtype).eps
    torch.testing.assert_close(x.grad.cpu().double(), own.grad, rtol=bound, atol=bound)
    for target, terms in ((sums, h.detach().cpu().double() * grad.double()), (gradients, grad.double())):
        for segment in range(SEGMENTS):
            of_segment = terms[segments() == segment]
            error = (target[segment].cpu().double() - 0.5 - of_segment.sum(0)).abs()
            assert (error <= 2.0**-20 * (0.5 + of_segment.abs().sum(0))).all()


def test_steering_is_that_of_plain_torch(device):
    gate, up = dense(12, torch.float32)
    program = torch.rand(2, 4, F, generator=torch.Generator().manual_seed(0))
    rows = torch.arange(12, dtype=torch.int32) % 3 - 1
    x, w_gate = gate[:, :19].contiguous(), up[:, :19].repeat(4, 1)[:F]
    weights = w_gate, w_gate.flip(0), up[:7].contiguous()
    with ops.use_backend("reference"):
        steered = ops.glu_steer(gate, up, program, rows)
        mlp = ops.masked_mlp(x, *weights, program, rows)
    there = [value.to(device) for value in (gate, up, program, rows)]
    assert torch.equal(ops.glu_steer(*there).cpu(), steered)
    found = ops.masked_mlp(x.to(device), *(weight.to(device) for weight in weights), *there[2:])
    assert found.device == device
    torch.testing.assert_close(found.cpu(), mlp)


@pytest.mark.parametrize("name", ["triton", "native"])
def test_a_backend_without_kernels_for_the_device_is_refused_by_its_name(device, name):
    gate = torch.ones(2, 3, device=device)
    with (
        ops.use_backend(name),
        pytest.raises(RuntimeError, match=f"cannot serve: .* no kernels for {device.type} tens"),
    ):
        ops.glu(gate)
    assert ops.backend_for("glu", device)[0] == "reference"

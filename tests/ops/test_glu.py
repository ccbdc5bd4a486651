"""ops.glu against fp64 and against torch's own kernels."""

from __future__ import annotations

import pytest
import torch

from affectron import ops
from affectron.ops.backends import native, reference
from tests.ops.conftest import ACTS, DTYPES, SHAPES, exact, halves


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("gated", [True, False])
def test_as_exact_as_torch(isa, shape, dtype, act, gated):
    gate, up = halves(*shape, dtype)
    up = up if gated else None
    ours, truth = ops.glu(gate, up, act), exact(gate, up, act)
    torchs = reference.glu(gate, up, act)
    assert ours.is_contiguous()
    assert ours.dtype == dtype
    # Twice the error of the same work in the same dtype by torch, plus an fp32 rounding of the largest value.
    bound = (
        2 * (torchs.double() - truth).abs()
        + truth.abs() * torch.finfo(dtype).eps
        + 1e-7 * gate.abs().double().clamp(min=1)
    )
    if gated:
        bound = bound * up.abs().double().clamp(min=1)
    assert ((ours.double() - truth).abs() <= bound).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("act", ["silu", "relu", "relu2"])
def test_bit_for_bit_as_torch(dtype, act):
    """For contiguous rows of whole vectors, which torch computes with vectors throughout."""
    if native.isa_level() == "baseline" and act == "silu":
        pytest.skip("without FMA, exp may differ from torch's in its last bit")
    g = torch.linspace(-95, 95, 64 * 1024).to(dtype)
    special = torch.tensor([0.0, -0.0, float("inf"), float("nan"), 1e-40, -1e-30, 3e4, -3e4] * 8).to(dtype)
    gate = torch.cat([g, special]).view(-1, 64)
    up = torch.randn(gate.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    ours, torchs = ops.glu(gate, up, act), reference.glu(gate, up, act)
    torch.testing.assert_close(ours, torchs, rtol=0, atol=0, equal_nan=True)


def test_every_bf16_value(isa):
    """All 65,536 inputs of silu in bf16 are within one rounding of the exact value."""
    gate = torch.arange(-32768, 32768, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
    finite = gate.isfinite()
    ours, truth = ops.glu(gate[None]).squeeze(0).double(), exact(gate, None, "silu")
    # exp(-x) overflows fp32 below -88.7: there silu is -0 where the exact value is at most 3e-37.
    error = (ours - truth).abs()[finite]
    assert (error <= truth[finite].abs() * 2**-8 + 4e-37).all()
    assert ours[gate.isnan()].isnan().all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_half_conversions_are_exact(isa, dtype):
    """relu keeps every non-negative value, subnormal ones too, and nothing of the negative ones."""
    if dtype == torch.float32:
        bits = torch.randint(-(2**31), 2**31, (100_000,), generator=torch.Generator().manual_seed(0))
        gate = bits.to(torch.int32).view(torch.float32)
    else:
        gate = torch.arange(-32768, 32768, dtype=torch.int32).to(torch.int16).view(dtype)
    ours = ops.glu(gate[None], None, "relu").squeeze(0)
    torch.testing.assert_close(ours, torch.relu(gate), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rounding_to_nearest_even(isa, dtype):
    """Products that fall between two values of the dtype, ties included."""
    up = torch.randn(3, 4099, generator=torch.Generator().manual_seed(2)).to(dtype)
    gate = torch.randint(1, 300, (3, 4099), generator=torch.Generator().manual_seed(3)).to(dtype)
    assert torch.equal(ops.glu(gate, up, "relu"), (gate.float() * up.float()).to(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_threads_and_views_do_not_change_a_bit(isa, dtype):
    gate, up = halves(257, 760, dtype)
    torch.set_num_threads(1)
    once = ops.glu(gate, up)
    torch.set_num_threads(2)
    assert torch.equal(once, ops.glu(gate, up))
    assert torch.equal(once, ops.glu(gate.contiguous(), up.contiguous()))
    assert torch.equal(once[::2], ops.glu(gate[::2], up[::2]))
    assert torch.equal(once.view(1, 257, 760), ops.glu(gate[None], up[None]))


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("gated", [True, False])
def test_gradient(act, gated):
    """Against autograd through the same formula in fp64, away from the kink of relu."""
    gate, up = halves(7, 33, torch.float32)
    gate = torch.where(gate.abs() < 1e-3, gate.new_tensor(0.5), gate).requires_grad_()
    up = up.clone().requires_grad_() if gated else None
    weight = torch.randn(7, 33, generator=torch.Generator().manual_seed(5))
    (ops.glu(gate, up, act) * weight).sum().backward()
    g64 = gate.detach().double().requires_grad_()
    u64 = up.detach().double().requires_grad_() if gated else None
    (exact(g64, u64, act) * weight).sum().backward()
    torch.testing.assert_close(gate.grad.double(), g64.grad, rtol=1e-5, atol=1e-6)
    if gated:
        torch.testing.assert_close(up.grad.double(), u64.grad, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"act": "swish"}, ValueError, "act is 'swish'"),
        ({"gate": torch.zeros(2, 3, dtype=torch.float64)}, TypeError, "gate has dtype torch.float64"),
        ({"up": torch.zeros(2, 4)}, ValueError, r"up has shape \[2, 4\], expected \[2, 3\]"),
        (
            {"up": torch.zeros(2, 3, dtype=torch.bfloat16)},
            TypeError,
            "up has dtype torch.bfloat16, expected torch.float32",
        ),
        ({"up": torch.zeros(2, 3, device="meta")}, ValueError, "up is on meta, expected cpu"),
        ({"gate": torch.zeros(3, 2).t()}, ValueError, "gate has a last stride of 2"),
        ({"gate": torch.tensor(1.0)}, ValueError, "gate is a scalar"),
    ],
)
def test_refuses(change, error, message):
    arguments = {"gate": torch.zeros(2, 3), "up": torch.zeros(2, 3), "act": "silu"} | change
    with pytest.raises(error, match=message):
        ops.glu(**arguments)

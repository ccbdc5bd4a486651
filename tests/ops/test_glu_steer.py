"""ops.glu_steer against the intervention of docs/method.md in fp64; rows and neurons that it must not change."""

from __future__ import annotations

import pytest
import torch

from affectron import ops
from tests.ops.conftest import ACTS, DTYPES, SHAPES, exact, halves
from tests.support.oracles import NEUTRAL, check_extremes, extremes, programs, steered


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("backend", ["native", "reference"])
def test_against_the_form(isa, shape, dtype, act, backend):
    gate, up = halves(*shape, dtype)
    table = programs(3, shape[1])
    rows = torch.randint(-1, 3, (shape[0],), generator=torch.Generator().manual_seed(1), dtype=torch.int32)
    with ops.use_backend(backend):
        plain, out = ops.glu(gate, up, act), ops.glu_steer(gate, up, table, rows, act)
    truth = torch.where((rows >= 0)[:, None], steered(plain, table[rows.clamp(min=0).long()]), plain.double())
    tolerance = 2 * torch.finfo(dtype).eps
    torch.testing.assert_close(out.double(), truth, rtol=tolerance, atol=tolerance)
    # Rows without a program and neurons with neutral parameters keep their bits.
    untouched = (rows < 0)[:, None] | (table[rows.clamp(min=0).long()] == NEUTRAL[:, None]).all(1)
    assert torch.equal(out[untouched], plain[untouched])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("backend", ["native", "reference"])
def test_neutral_parameters_keep_every_bit(isa, dtype, backend):
    """Signed zeros, infinities and NaN included."""
    values = torch.tensor([0.0, -0.0, 1e-40, 3.0, -3.0, 6e4, float("inf"), -float("inf"), float("nan")])
    up = values.to(dtype).repeat(7, 3)
    gate = torch.ones_like(up)
    table = NEUTRAL.repeat(1, up.shape[1], 1).transpose(1, 2).contiguous()
    with ops.use_backend(backend):
        plain, out = ops.glu(gate, up, "relu"), ops.glu_steer(gate, up, table, None, "relu")
    torch.testing.assert_close(out, plain, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(out.signbit()[~out.isnan()], plain.signbit()[~out.isnan()])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mixed", [True, False])
@pytest.mark.parametrize("backend", ["native", "reference"])
def test_what_is_not_finite(isa, dtype, mixed, backend):
    """A factor of 0 makes 0 of anything; any other lets a NaN through and takes an infinity to its limit."""
    up, table = extremes(dtype)
    rows = torch.zeros(len(up), dtype=torch.int32) if mixed else None
    with ops.use_backend(backend):
        out = ops.glu_steer(torch.ones_like(up), up, table, rows, "relu")
        infinite_gate = ops.glu_steer(up.abs(), torch.ones_like(up), table, rows, "relu")
    check_extremes(out, up, table)
    check_extremes(infinite_gate, up.abs(), table)
    masked = (table[0, 0] == 0) & (table[0, 1] == 0) & (table[0, 2] <= 0)
    assert masked.any()
    assert torch.equal(out[:, masked], table[0, 3, masked].to(dtype).expand(len(up), -1))


@pytest.mark.parametrize("act", ACTS)
def test_no_gradient_through_a_masked_neuron(act):
    """Even if gate, up and the gradient are infinite or NaN; the other neurons have a gradient."""
    gate, up = (t.contiguous() for t in halves(6, 40, torch.float32))
    grad, table = torch.ones(6, 40), programs(1, 40)
    table[0, :, ::3] = torch.tensor([0.0, 0.0, -torch.inf, 0.5])[:, None]

    def gradients(*inputs):
        inputs = [t.clone().requires_grad_() for t in inputs]
        return torch.autograd.grad(ops.glu_steer(*inputs, table, None, act), inputs, grad)

    plain = gradients(gate, up)
    for row, value in enumerate((torch.inf, -torch.inf, torch.nan)):
        gate[row, ::3], up[row + 1, ::3], grad[row + 2, ::3] = value, value, value
    for ours, before in zip(gradients(gate, up), plain, strict=True):
        assert ours[:, ::3].eq(0).all()
        assert torch.equal(ours, before)


@pytest.mark.parametrize("dtype", DTYPES)
def test_backends_agree_bit_for_bit_on_the_form(isa, dtype):
    """relu is exact, so only the intervention could differ: every backend rounds it alike."""
    gate, up = halves(90, 431, dtype)
    table, rows = programs(4, 431), torch.arange(90, dtype=torch.int32) % 5 - 1
    native = ops.glu_steer(gate, up, table, rows, "relu")
    with ops.use_backend("reference"):
        assert torch.equal(native, ops.glu_steer(gate, up, table, rows, "relu"))


def test_threads_do_not_change_a_bit(isa):
    gate, up = halves(257, 760, torch.bfloat16)
    table, rows = programs(4, 760), torch.arange(257, dtype=torch.int32) % 5 - 1
    torch.set_num_threads(1)
    once = ops.glu_steer(gate, up, table, rows)
    torch.set_num_threads(2)
    assert torch.equal(once, ops.glu_steer(gate, up, table, rows))


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("mixed", [True, False])
def test_gradient(act, mixed):
    """Against autograd through the definitions in fp64."""
    gate, up = halves(9, 40, torch.float32)
    gate = torch.where(gate.abs() < 1e-3, gate.new_tensor(0.5), gate).requires_grad_()
    up = up.clone().requires_grad_()
    table = programs(2 if mixed else 1, 40)
    rows = torch.arange(9, dtype=torch.int32) % 3 - 1 if mixed else None
    weight = torch.randn(9, 40, generator=torch.Generator().manual_seed(5))
    (ops.glu_steer(gate, up, table, rows, act) * weight).sum().backward()

    g64, u64 = (t.detach().double().requires_grad_() for t in (gate, up))
    h = exact(g64, u64, act)
    out = steered(h, table[rows.clamp(min=0).long()] if mixed else table[0])
    if mixed:
        out = torch.where((rows >= 0)[:, None], out, h)
    (out * weight).sum().backward()
    torch.testing.assert_close(gate.grad.double(), g64.grad, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(up.grad.double(), u64.grad, rtol=1e-5, atol=1e-5)


G, T = torch.ones(2, 5), NEUTRAL.repeat(1, 5, 1).transpose(1, 2).contiguous()


@pytest.mark.parametrize(
    ("program", "rows", "error", "message"),
    [
        (T.double(), None, TypeError, "program has dtype torch.float64"),
        (
            T[:, :3],
            None,
            ValueError,
            r"program has shape \[1, 3, 5\], expected contiguous \[programs, 4, 5\]",
        ),
        (T.repeat(2, 1, 1), None, ValueError, "program holds 2 programs, expected 1"),
        (T, torch.zeros(2), TypeError, "rows has dtype torch.float32, expected int32"),
        (T, torch.zeros(3, dtype=torch.int32), ValueError, r"rows has shape \[3\]"),
        (T, torch.tensor([0, 1], dtype=torch.int32), IndexError, "rows holds 1, expected -1"),
        (T, torch.tensor([0, -2], dtype=torch.int32), IndexError, "rows holds -2"),
    ],
)
def test_refuses(program, rows, error, message):
    with pytest.raises(error, match=message):
        ops.glu_steer(G, G, program, rows)

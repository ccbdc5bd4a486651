"""ops.masked_mlp against the same MLP in fp64; weights that it must not read."""

from __future__ import annotations

import pytest
import torch

from affectron import ops
from affectron.ops.backends import reference
from tests.ops.conftest import ACTS, DTYPES
from tests.support.oracles import NEUTRAL, infinite_where_masked, masking, programs, tokens, truth, weights

# inputs, neurons, outputs: no vector width divides them, and some are smaller than a vector.
SIZES = ((75, 131, 83), (3, 5, 1), (64, 96, 64))
ROWS = (0, 1, 2, 3, 16)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("by_neuron", [True, False])
@pytest.mark.parametrize("backend", ["native", "reference"])
def test_against_the_definition(isa, one_thread, dtype, size, by_neuron, backend):
    inputs, neurons, _ = size
    w_gate, w_up, w_down = weights(size, dtype)
    down = ops.neuron_major(w_down) if by_neuron else w_down
    table = masking(programs(3, neurons), torch.arange(0, neurons, 2))
    for n in ROWS:
        x = tokens(n, inputs, dtype)
        rows = torch.arange(n, dtype=torch.int32) % 3 - int(n == 16)
        for act in ACTS if n == 3 else ("silu",):
            for up in (w_up, None):
                with ops.use_backend(backend):
                    out = ops.masked_mlp(x, w_gate, up, down, table, rows, act)
                wanted = truth(x, w_gate, up, w_down, table, rows, act)
                torchs = reference.masked_mlp(x, w_gate, up, w_down, table, rows, act)
                assert out.is_contiguous()
                assert out.dtype == dtype
                # Twice the error of torch in the same dtype, row by row, and an fp32 rounding of the sums.
                error = (torchs.double() - wanted).abs().amax(1, keepdim=True) if n else wanted
                bound = 2 * error + (wanted.abs() + 1) * torch.finfo(dtype).eps
                assert ((out.double() - wanted).abs() <= bound).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("by_neuron", [True, False])
@pytest.mark.parametrize("n", [1, 16])
def test_the_masked_are_not_read(isa, dtype, by_neuron, n):
    """The weights of masked neurons may be anything: no bit depends on them, not even on a NaN."""
    size = (75, 131, 83)
    w_gate, w_up, w_down = weights(size, dtype)
    masked = torch.randperm(131, generator=torch.Generator().manual_seed(3))[:70]
    table = masking(programs(2, 131), masked)
    x, rows = tokens(n, 75, dtype), torch.arange(n, dtype=torch.int32) % 2
    down = ops.neuron_major(w_down) if by_neuron else w_down
    before = ops.masked_mlp(x, w_gate, w_up, down, table, rows)
    w_gate[masked], w_up[masked] = torch.nan, torch.nan
    if by_neuron:
        w_down[:, masked] = torch.nan
        down = ops.neuron_major(w_down)
    assert torch.equal(ops.masked_mlp(x, w_gate, w_up, down, table, rows), before)
    # One request without a program needs them all.
    if n > 1:
        rows[5] = -1
        assert ops.masked_mlp(x, w_gate, w_up, down, table, rows)[5].isnan().all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("by_neuron", [True, False])
@pytest.mark.parametrize("n", [2, 16, ops.MLP_ROWS + 2])
@pytest.mark.parametrize("backend", ["native", "reference"])
def test_an_infinite_activation_does_not_pass_a_mask(isa, dtype, by_neuron, n, backend):
    """Both where all rows mask a neuron, which is then left out, and where one row does not; for any number of rows."""
    finite, infinite, x, table, rows = infinite_where_masked(dtype, n)
    down = ops.neuron_major(finite[2]) if by_neuron else finite[2]
    with ops.use_backend(backend):
        for last in (-1, 0):
            rows[-1] = last
            wanted = ops.masked_mlp(x, *finite[:2], down, table, rows)
            out = ops.masked_mlp(x, *infinite[:2], down, table, rows)
            masked = rows >= 0
            assert torch.equal(out[masked], wanted[masked])
            assert not out[~masked].isfinite().any()


@pytest.mark.parametrize("by_neuron", [True, False])
def test_a_mean_mask_adds_its_shift_and_reads_no_gate(isa, by_neuron):
    size = (75, 131, 83)
    w_gate, w_up, w_down = weights(size, torch.float32)
    masked = torch.arange(0, 131, 3)
    table = masking(programs(1, 131), masked, shift=0.75)
    x = tokens(4, 75, torch.float32)
    wanted = truth(x, w_gate, w_up, w_down, table, torch.zeros(4, dtype=torch.int32))
    w_gate[masked], w_up[masked] = torch.nan, torch.nan
    out = ops.masked_mlp(x, w_gate, w_up, ops.neuron_major(w_down) if by_neuron else w_down, table)
    torch.testing.assert_close(out.double(), wanted, rtol=1e-5, atol=1e-5)


def test_all_masked_and_a_neuron_that_only_some_rows_mask(isa):
    w_gate, w_up, w_down = weights((75, 131, 83), torch.float32)
    everything = masking(NEUTRAL.repeat(1, 131, 1).transpose(1, 2).contiguous(), torch.arange(131))
    x = tokens(3, 75, torch.float32)
    for down in (w_down, ops.neuron_major(w_down)):
        assert torch.equal(ops.masked_mlp(x, w_gate, w_up, down, everything), torch.zeros(3, 83))
        table = torch.cat([everything, programs(1, 131)])
        rows = torch.tensor([0, 1, -1], dtype=torch.int32)
        wanted = truth(x, w_gate, w_up, w_down, table, rows)
        out = ops.masked_mlp(x, w_gate, w_up, down, table, rows)
        torch.testing.assert_close(out.double(), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("by_neuron", [True, False])
def test_threads_and_repetition_do_not_change_a_bit(isa, dtype, by_neuron):
    w_gate, w_up, w_down = weights((260, 431, 203), dtype)
    down = ops.neuron_major(w_down) if by_neuron else w_down
    table, rows = masking(programs(3, 431), torch.arange(0, 431, 2)), torch.arange(5, dtype=torch.int32) % 3
    x = tokens(5, 260, dtype)
    torch.set_num_threads(1)
    once = ops.masked_mlp(x, w_gate, w_up, down, table, rows)
    for threads in (2, 3, 7, 2):
        torch.set_num_threads(threads)
        assert torch.equal(ops.masked_mlp(x, w_gate, w_up, down, table, rows), once)


@pytest.mark.parametrize("dtype", DTYPES)
def test_more_rows_than_the_kernel_takes(dtype):
    """Calls of more than MLP_ROWS rows, which take torch's products, agree with calls of single rows."""
    w_gate, w_up, w_down = weights((75, 131, 83), dtype)
    table, rows = programs(3, 131), torch.arange(ops.MLP_ROWS + 1, dtype=torch.int32) % 4 - 1
    x = tokens(ops.MLP_ROWS + 1, 75, dtype)
    many = ops.masked_mlp(x, w_gate, w_up, w_down, table, rows)
    few = ops.masked_mlp(x[:16], w_gate, w_up, w_down, table, rows[:16].clone())
    # In fp32 the order of the sums counts, of 75 and 131 products; in 16 bits the rounding of h and of the result.
    tolerance = max(4 * torch.finfo(dtype).eps, 1e-5)
    torch.testing.assert_close(many[:16], few, rtol=tolerance, atol=tolerance)
    batch = ops.masked_mlp(x[None, :16], w_gate, w_up, w_down, table, rows[:16].clone())
    assert torch.equal(batch, few[None])


@pytest.mark.parametrize("of", ["x", "weights"])
def test_gradient(of):
    """Against autograd through the definition in fp64."""
    w_gate, w_up, w_down = weights((20, 33, 17), torch.float32)
    table, rows = programs(2, 33), torch.arange(5, dtype=torch.int32) % 3 - 1
    x = tokens(5, 20, torch.float32)
    ours = [t.clone().requires_grad_((of == "x") == (i == 0)) for i, t in enumerate((x, w_gate, w_up, w_down))]
    wide = [t.detach().double().requires_grad_(t.requires_grad) for t in ours]
    weight = torch.randn(5, 17, generator=torch.Generator().manual_seed(5))
    (ops.masked_mlp(*ours, table, rows) * weight).sum().backward()
    (truth(*wide, table, rows) * weight).sum().backward()
    for a, b in zip(ours, wide, strict=True):
        if a.requires_grad:
            torch.testing.assert_close(a.grad.double(), b.grad, rtol=1e-4, atol=1e-5)


X, W, D, T = torch.ones(2, 4), torch.ones(5, 4), torch.ones(3, 5), NEUTRAL.repeat(1, 5, 1).transpose(1, 2).contiguous()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"w_gate": torch.ones(5, 3)}, ValueError, r"w_gate has shape \[5, 3\], expected \[5, 4\]"),
        ({"w_gate": torch.ones(5)}, ValueError, r"w_gate has shape \[5\], expected \[0, 4\]"),
        ({"w_up": torch.ones(6, 4)}, ValueError, r"w_up has shape \[6, 4\], expected \[5, 4\]"),
        ({"w_up": W.bfloat16()}, TypeError, "w_up has dtype torch.bfloat16, expected torch.float32"),
        ({"w_gate": torch.ones(4, 5).t()}, ValueError, r"w_gate has strides \(1, 5\), expected a last stride of 1"),
        ({"w_down": torch.ones(3, 4)}, ValueError, r"w_down has shape \[3, 4\], expected \[3, 5\]"),
        ({"w_down": torch.ones(3, 10)[:, ::2]}, ValueError, r"w_down has strides \(10, 2\)"),
        ({"w_down": torch.ones(3, 5, device="meta")}, ValueError, "w_down is on meta, expected cpu"),
        ({"act": "swish"}, ValueError, "act is 'swish'"),
        ({"program": T[:, :3]}, ValueError, r"program has shape \[1, 3, 5\], expected contiguous \[programs, 4, 5\]"),
        ({"rows": torch.tensor([0, 1], dtype=torch.int32)}, IndexError, "rows holds 1, expected -1"),
        ({"x": torch.ones(2, 4).double()}, TypeError, "x has dtype torch.float64"),
    ],
)
def test_refuses(change, error, message):
    arguments = {"x": X, "w_gate": W, "w_up": W, "w_down": D, "program": T} | change
    with pytest.raises(error, match=message):
        ops.masked_mlp(**arguments)

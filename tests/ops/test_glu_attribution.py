"""ops.glu_attribution, and with it the backward of ops.glu, against autograd and sums in fp64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.aot_autograd import make_boxed_func
from torch.utils.checkpoint import checkpoint

from affectron import ops
from affectron.ops.backends import reference
from tests.ops.conftest import ACTS, DTYPES, SHAPES, exact, halves
from tests.support.oracles import check_gradients, check_sums, runs


def upstream(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 7) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def backward(
    gate: Tensor, up: Tensor | None, grad: Tensor, sums: Tensor | None, segments: Tensor | ops.SegmentPlan | None,
    act: str = "silu", gradients: Tensor | None = None,
) -> tuple[Tensor, ...]:  # fmt: skip
    """The output and the gradients of gate and up; by ops.glu where no sums are given."""
    inputs = [t.detach().requires_grad_() for t in (gate, up) if t is not None]
    up = inputs[1] if up is not None else None
    if sums is None:
        h = ops.glu(inputs[0], up, act)
    else:
        h = ops.glu_attribution(inputs[0], up, sums, segments, act, gradients)
    return h.detach(), *torch.autograd.grad(h, inputs, grad)


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("gated", [True, False])
def test_against_fp64(isa, shape, dtype, act, gated):
    gate, up = halves(*shape, dtype)
    up = up if gated else None
    grad, segments = upstream(shape, dtype), runs(shape[0], 5)
    start = upstream((5, shape[1]), torch.float32, 8)
    sums, gradients, sums_alone = (start.clone() for _ in range(3))
    h, *of_inputs = backward(gate, up, grad, sums, segments, act, gradients)
    plain = backward(gate, up, grad, None, None, act)
    alone = backward(gate, up, grad, sums_alone, segments, act)
    assert torch.equal(h, ops.glu(gate, up, act))
    assert all(torch.equal(a, b) for a, b in zip(of_inputs, plain[1:], strict=True))
    assert all(torch.equal(a, b) for a, b in zip((h, *of_inputs, sums), (*alone, sums_alone), strict=True))
    assert all(t.is_contiguous() and t.dtype == dtype for t in of_inputs)
    check_gradients(of_inputs, gate, up, act, grad)
    check_sums(sums, [(h, grad, segments)], start, gradients)


@pytest.mark.parametrize("backend", ["native", "reference"])
def test_attribution_against_a_baseline(backend):
    """sums - b gradients is the sum of (h - b) dm/dh that plain autograd gives in fp64, of an m that is not linear."""
    generator = torch.Generator().manual_seed(1)
    gate, up = halves(67, 131, torch.float32)
    weight, b = (torch.randn(shape, generator=generator, dtype=torch.float64) * 0.1 for shape in ((131, 9), (131,)))
    segments = runs(67, 4)
    gate64 = gate.double().requires_grad_()
    h64 = exact(gate64, up, "silu")
    (gradient,) = torch.autograd.grad((h64 @ weight).tanh().square().sum(), h64)
    counted = segments >= 0
    truth, size = (
        torch.zeros(4, 131, dtype=torch.float64).index_add_(0, segments[counted], terms[counted])
        for terms in ((h64.detach() - b) * gradient, (h64.detach().abs() + b.abs()) * gradient.abs())
    )
    sums, gradients = torch.zeros(4, 131), torch.zeros(4, 131)
    with ops.use_backend(backend):
        h = ops.glu_attribution(gate.clone().requires_grad_(), up, sums, segments, gradients=gradients)
        (h @ weight.float()).tanh().square().sum().backward()
    error = (sums.double() - b * gradients.double() - truth).abs()
    assert (error <= 2e-5 * size.mean()).all()  # at most 5e-6 of it in fp32, over six seeds


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_reference(dtype, act):
    for up_of in (lambda up: up, lambda up: None):
        gate, up = halves(67, 131, dtype)
        up, grad, segments = up_of(up), upstream((67, 131), dtype), runs(67, 3)
        sums, gradients = torch.zeros(3, 131), torch.zeros(3, 131)
        with ops.use_backend("reference"):
            h, *of_inputs = backward(gate, up, grad, sums, segments, act, gradients)
        check_gradients(of_inputs, gate, up, act, grad)
        check_sums(sums, [(h, grad, segments)], gradients=gradients)


SEGMENTS = {
    "one segment": lambda n: torch.zeros(n, dtype=torch.int64),
    "a row each": lambda n: torch.arange(n),
    "a giant and some rows": lambda n: torch.where(torch.arange(n) % 97 == 5, torch.arange(n), 1),
    "shuffled": lambda n: torch.randint(-1, 40, (n,), generator=torch.Generator().manual_seed(0)),
    "mostly empty": lambda n: torch.where(torch.arange(n) < n // 2, n - 1, -1),
    "none counted": lambda n: torch.full((n,), -1),
}


@pytest.mark.parametrize("name", SEGMENTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_segments_of_any_size(isa, dtype, name):
    """Two backwards into the same sums; the sums of absent segments keep their bits."""
    n, f = 1100, 77
    gate, up = halves(n, f, dtype)
    segments = SEGMENTS[name](n)
    start = upstream((n, f), torch.float32, 8)
    sums, gradients, parts = start.clone(), start.clone(), []
    for seed in (1, 2):
        grad = upstream((n, f), dtype, seed)
        parts.append((backward(gate, up, grad, sums, segments, gradients=gradients)[0], grad, segments))
    check_sums(sums, parts, start, gradients)
    absent = torch.ones(n, dtype=torch.bool)
    absent[segments[segments >= 0]] = False
    assert torch.equal(sums[absent], start[absent])
    assert torch.equal(gradients[absent], start[absent])


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_native_and_reference_agree(data):
    n, f = data.draw(st.integers(0, 90)), data.draw(st.integers(1, 70))
    num = data.draw(st.integers(1, 5))
    dtype, act = data.draw(st.sampled_from(DTYPES)), data.draw(st.sampled_from(ACTS))
    segments = torch.tensor(data.draw(st.lists(st.integers(-1, num - 1), min_size=n, max_size=n)), dtype=torch.int64)
    gate, up = halves(n, f, dtype, seed=n)
    grad = upstream((n, f), dtype, f)
    for backend in ("native", "reference"):
        sums, gradients = torch.zeros(num, f), torch.zeros(num, f)
        with ops.use_backend(backend):
            h, *of_inputs = backward(gate, up, grad, sums, segments, act, gradients)
        check_gradients(of_inputs, gate, up, act, grad)
        check_sums(sums, [(h, grad, segments)], gradients=gradients)


def test_sums_that_cancel(isa):
    """Terms of alternating sign, 10^5 times as large as their sum; the bound is relative to the terms."""
    n = 4000
    gate, up = halves(n, 33, torch.float32)
    grad = upstream((n, 33), torch.float32) * 0.01 + torch.where(torch.arange(n) % 2 == 0, 1e3, -1e3)[:, None]
    sums, gradients, segments = torch.zeros(1, 33), torch.zeros(1, 33), torch.zeros(n, dtype=torch.int64)
    backward(gate, up, grad, torch.zeros(1, 33), segments, gradients=gradients)
    over_h = grad / ops.glu(gate, up)
    h, *_ = backward(gate, up, over_h, sums, segments)
    check_sums(sums, [(h, over_h, segments)])
    check_sums(gradients, [(torch.ones_like(h), grad, segments)])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("labels", [1, 10, 500])
def test_threads_repetition_and_strides_do_not_change_a_bit(isa, dtype, labels):
    n, f = 500, 760
    gate, up = halves(n, f, dtype)
    grad = upstream((n, f), dtype)
    odd = torch.empty(3 * n * f + 1, dtype=dtype)[1:].view(n, 3 * f)
    odd.copy_(torch.cat([gate, up, grad], 1))
    segments = torch.randint(-1, labels, (n,), generator=torch.Generator().manual_seed(0))

    def once(threads: int, segments: Tensor | ops.SegmentPlan, *arguments: Tensor) -> tuple[Tensor, ...]:
        torch.set_num_threads(threads)
        sums, gradients = torch.zeros(labels, f), torch.zeros(labels, f)
        results = [t for _ in range(2) for t in backward(*arguments, sums, segments, gradients=gradients)]
        return (*results, sums, gradients)

    first = once(1, segments, gate, up, grad)
    for again in (
        once(2, segments, gate, up, grad),
        once(3, ops.SegmentPlan(segments.int(), labels), gate, up, grad),
        once(2, segments, *odd.split(f, 1)),
        once(1, segments, gate, up.contiguous(), grad.t().contiguous().t()),
    ):
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize("expand", [lambda g: g, lambda g: g.sum(), lambda g: g.sum(0)])
def test_gradients_of_any_stride(expand: Callable[[Tensor], Tensor]):
    """The gradient of a sum is one number or one row, repeated with a stride of 0."""
    gate, up = (t.clone().requires_grad_() for t in halves(50, 33, torch.float32))
    sums, gradients, segments = torch.zeros(3, 33), torch.zeros(3, 33), runs(50, 3)
    weight = upstream(tuple(expand(gate).shape), torch.float32)
    h = ops.glu_attribution(gate, up, sums, segments, gradients=gradients)
    (expand(h) * weight).sum().backward()
    grad = weight.expand(50, 33)
    check_gradients((gate.grad, up.grad), gate, up, "silu", grad)
    check_sums(sums, [(h.detach(), grad, segments)], gradients=gradients)


@pytest.mark.parametrize("shape", [(0, 5), (4, 0), (0, 0)])
def test_nothing_to_add(shape):
    gate = torch.randn(shape, requires_grad=True)
    sums, gradients = torch.ones(2, shape[1]), torch.ones(2, shape[1])
    segments = torch.zeros(shape[0], dtype=torch.int64)
    ops.glu_attribution(gate, None, sums, segments, gradients=gradients).sum().backward()
    assert gate.grad.shape == shape
    assert (sums == 1).all()
    assert (gradients == 1).all()


def test_leading_dimensions():
    gate, up = (t.view(2, 25, 33) for t in (t.contiguous() for t in halves(50, 33, torch.float32)))
    grad, segments = upstream((2, 25, 33), torch.float32), runs(50, 3)
    sums, gradients = torch.zeros(3, 33), torch.zeros(3, 33)
    h, *of_inputs = backward(gate, up, grad, sums, segments.view(2, 25), gradients=gradients)
    assert h.shape == of_inputs[0].shape == of_inputs[1].shape == gate.shape
    check_sums(sums, [(h.view(50, 33), grad.view(50, 33), segments)], gradients=gradients)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("backend", ["native", "reference"])
def test_what_is_not_finite_shows(isa, backend, value):
    gate, up = (t.clone() for t in halves(60, 33, torch.float32))
    grad, segments = upstream((60, 33), torch.float32), torch.arange(60) // 20
    up[25, 4], grad[45, 6] = value, value
    sums, gradients = torch.zeros(3, 33), torch.zeros(3, 33)
    with ops.use_backend(backend):
        backward(gate, up, grad, sums, segments, gradients=gradients)
    assert (~sums.isfinite()).nonzero().tolist() == [[1, 4], [2, 6]]
    assert (~gradients.isfinite()).nonzero().tolist() == [[2, 6]]


def test_without_gradients_it_is_glu():
    gate, up = halves(50, 33, torch.bfloat16)
    sums, gradients = torch.full((3, 33), 7.0), torch.full((3, 33), 7.0)
    with torch.no_grad():
        h = ops.glu_attribution(gate.requires_grad_(), up, sums, runs(50, 3), gradients=gradients)
    assert not h.requires_grad
    assert torch.equal(h, ops.glu(gate, up))
    assert (sums == 7).all()
    assert (gradients == 7).all()
    assert not ops.glu_attribution(gate.detach(), up.detach(), sums, runs(50, 3)).requires_grad


def test_backward_writes_and_forward_does_not():
    gate = torch.ones(4, 8, requires_grad=True)
    sums, gradients, segments = torch.zeros(1, 8), torch.zeros(1, 8), torch.zeros(4, dtype=torch.int64)
    outputs = [ops.glu_attribution(2 * gate, None, sums, segments, "relu", gradients) for _ in range(2)]
    assert sums._version == gradients._version == 0
    for times, h in enumerate(outputs, 1):  # the second output existed when the first backward wrote
        h.sum().backward()
        assert sums._version == gradients._version == times
        assert (sums == 8 * times).all()
        assert (gradients == 4 * times).all()


def test_only_one_input_requires_a_gradient():
    gate, up = halves(50, 33, torch.float32)
    grad, segments = upstream((50, 33), torch.float32), runs(50, 3)
    both = backward(gate, up, grad, torch.zeros(3, 33), segments)
    for position in range(2):
        inputs = [gate.clone(), up.clone()]
        inputs[position].requires_grad_()
        sums, gradients = torch.zeros(3, 33), torch.zeros(3, 33)
        h = ops.glu_attribution(*inputs, sums, segments, gradients=gradients)
        assert torch.equal(torch.autograd.grad(h, inputs[position], grad)[0], both[1 + position])
        check_sums(sums, [(h.detach(), grad, segments)], gradients=gradients)


@pytest.mark.parametrize("act", ACTS)
def test_second_derivatives(act):
    """glu's second derivative is autograd's, through plain torch; glu_attribution has none and raises."""
    gate, up = (t.clone().requires_grad_() for t in halves(5, 7, torch.float32))
    weight = upstream((5, 7), torch.float32)

    def second(h: Tensor, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        first = torch.autograd.grad((h * weight.to(h.dtype)).sum(), inputs, create_graph=True)
        return torch.autograd.grad(sum(t.square().sum() for t in first), inputs)

    inputs = tuple(t.detach().double().requires_grad_() for t in (gate, up))
    truth = second(exact(*inputs, act), inputs)
    for ours, exactly in zip(second(ops.glu(gate, up, act), (gate, up)), truth, strict=True):
        torch.testing.assert_close(ours.double(), exactly, rtol=1e-4, atol=1e-4)
    h = ops.glu_attribution(gate, up, torch.zeros(1, 7), torch.zeros(5, dtype=torch.int64), act)
    with pytest.raises(RuntimeError, match="glu_attribution has no second derivative"):
        torch.autograd.grad(h.sum(), gate, create_graph=True)


# --- compiled, checkpointed, exported ---


class Block(torch.nn.Module):
    """Two gated MLPs in a row, each of which adds to its own sums, the second to its gradients too."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.up = torch.nn.Parameter(torch.randn(2, 48, 16, generator=generator) * 0.3)
        self.down = torch.nn.Parameter(torch.randn(2, 16, 24, generator=generator) * 0.3)
        self.sums = [torch.zeros(4, 24) for _ in range(2)]
        self.gradients = [None, torch.zeros(4, 24)]

    def layer(self, x: Tensor, plan: ops.SegmentPlan, i: int) -> Tensor:
        gate, up = (x @ self.up[i].t()).chunk(2, -1)
        h = ops.glu_attribution(gate, up, self.sums[i], plan, gradients=self.gradients[i])
        return x + h @ self.down[i].t()

    def forward(self, x: Tensor, plan: ops.SegmentPlan) -> Tensor:
        return self.layer(self.layer(x, plan, 0), plan, 1)


def inputs(n: int) -> tuple[Tensor, ops.SegmentPlan]:
    x = torch.randn(n, 16, generator=torch.Generator().manual_seed(n))
    return x.requires_grad_(), ops.SegmentPlan(torch.arange(n) % 5 - 1, 4)


def same_sums(run: Callable[[Block, Tensor, ops.SegmentPlan], Tensor], rows: tuple[int, ...]) -> None:
    """``run`` gives the outputs, gradients and sums of an eager block, over several batches into the same sums."""
    eager, other = Block(), Block()
    for n in rows:
        x, plan = inputs(n)
        expected = eager(x, plan)
        y, _ = inputs(n)
        out = run(other, y, plan)
        torch.testing.assert_close(out, expected)
        for h in (expected, out):
            h.square().sum().backward()
        torch.testing.assert_close(y.grad, x.grad)
    for a, b in zip((*eager.sums, eager.gradients[1]), (*other.sums, other.gradients[1]), strict=True):
        assert a.abs().amax(1).min() > 0.1
        torch.testing.assert_close(b, a, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.parametrize("dynamic", [True, False])
def test_compiled(backend, dynamic):
    compiled = torch.compile(lambda b, x, plan: b(x, plan), fullgraph=True, backend=backend, dynamic=dynamic)
    same_sums(compiled, (40, 41, 8) if dynamic else (40, 40))


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiled_adds_to_a_slice(dynamic):
    """The slices of the sums and gradients change, and nothing else."""
    gate, up = (t.clone().requires_grad_() for t in halves(40, 24, torch.float32))
    plan, every_site = ops.SegmentPlan(torch.arange(40) % 4, 4), torch.ones(5, 4, 24)

    def value(g: Tensor, u: Tensor, sums: Tensor) -> Tensor:
        return ops.glu_attribution(g, u, sums[1], plan, gradients=sums[3]).square().sum()

    with torch._inductor.config.patch(force_disable_caches=True):  # their keys ignore the op's backward
        torch.compile(value, fullgraph=True, dynamic=dynamic)(gate, up, every_site).backward()
    eager = torch.ones(5, 4, 24)
    value(gate, up, eager).backward()
    assert [(site != 1).any() for site in eager] == [False, True, False, True, False]
    torch.testing.assert_close(every_site, eager)


def checkpointed(block: Block, x: Tensor, plan: ops.SegmentPlan) -> Tensor:
    for i in range(2):
        x = checkpoint(block.layer, x, plan, i, use_reentrant=False)
    return x


def test_checkpointing_adds_once():
    same_sums(checkpointed, (40, 41))


def test_checkpointing_compiled():
    same_sums(torch.compile(checkpointed, fullgraph=True, backend="aot_eager"), (40, 40))


def test_compiled_glu_calls_the_fused_backward():
    graphs = []

    def record(module, example_inputs):
        graphs.append(str(module.graph))
        return make_boxed_func(module.forward)

    backend = aot_autograd(fw_compiler=record)
    gate, up = (t.clone().requires_grad_() for t in halves(40, 24, torch.float32))
    torch.compile(lambda g, u: ops.glu(g, u).sum(), fullgraph=True, backend=backend)(gate, up).backward()
    assert "affectron.glu.default" in graphs[0]
    assert "affectron.glu_backward.default" in graphs[1]
    assert torch.equal(gate.grad, backward(gate, up, torch.ones(40, 24), None, None)[1])


def test_export():
    class Site(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("sums", torch.zeros(4, 24))
            self.register_buffer("gradients", torch.zeros(4, 24))

        def forward(self, both: Tensor, order: Tensor, tiles: Tensor) -> Tensor:
            targets = self.sums, self.gradients
            return torch.ops.affectron.glu_attribution(*both.chunk(2, -1), order, tiles, *targets, "silu")

    both, plan = torch.cat(halves(16, 24, torch.float32), 1), ops.SegmentPlan(torch.arange(16) % 4, 4)
    program = torch.export.export(Site(), (both, plan.order, plan.tiles), strict=False).module()
    assert torch.equal(program(both, plan.order, plan.tiles), ops.glu(*both.chunk(2, -1)))


# --- refusals ---

G, S, SUMS, GRADIENTS = torch.ones(4, 8), torch.zeros(4, dtype=torch.int64), torch.zeros(3, 8), torch.zeros(3, 8)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"act": "swish"}, ValueError, "act is 'swish'"),
        ({"gate": G.double()}, TypeError, "gate has dtype torch.float64"),
        ({"up": G[:3]}, ValueError, r"up has shape \[3, 8\], expected \[4, 8\]"),
        ({"sums": SUMS.double()}, TypeError, "sums has dtype torch.float64, expected float32"),
        ({"sums": SUMS[:, :7]}, ValueError, r"sums has shape \[3, 7\], expected contiguous \[segments, 8\]"),
        ({"sums": torch.zeros(8, 3).t()}, ValueError, r"sums has shape \[3, 8\], expected contiguous"),
        ({"sums": torch.zeros(8)}, ValueError, r"sums has shape \[8\], expected contiguous"),
        ({"sums": SUMS.clone().requires_grad_()}, ValueError, "sums requires a gradient"),
        (
            {"sums": torch.zeros(3, 8, device="meta"), "gradients": None},
            ValueError,
            "are on cpu, cpu and meta, expected one device",
        ),
        ({"gradients": GRADIENTS.half()}, TypeError, "gradients has dtype torch.float16, expected float32"),
        ({"gradients": GRADIENTS[:, :7]}, ValueError, r"gradients has shape \[3, 7\], expected contiguous"),
        ({"gradients": torch.zeros(8, 3).t()}, ValueError, r"gradients has shape \[3, 8\], expected contiguous"),
        ({"gradients": GRADIENTS[:2]}, ValueError, r"gradients has shape \[2, 8\], expected \[3, 8\]"),
        ({"gradients": GRADIENTS.clone().requires_grad_()}, ValueError, "gradients requires a gradient"),
        ({"gradients": GRADIENTS.to("meta")}, ValueError, "gradients is on meta, expected cpu"),
        ({"gradients": SUMS}, ValueError, "gradients is the tensor of sums, expected another one"),
        ({"segments": torch.tensor([0, 1, 2, 3])}, IndexError, "segments holds 3, expected -1"),
        ({"segments": torch.tensor([0, -2, 2, 1])}, IndexError, "segments holds -2, expected -1"),
        ({"segments": S[:3]}, ValueError, "segments has 3 rows, expected the 4"),
        ({"segments": S.float()}, TypeError, "segments has dtype torch.float32"),
        ({"segments": ops.SegmentPlan(S, 2)}, ValueError, "segments is planned for 2 segments, sums has 3"),
    ],
)
def test_refuses(change, error, message):
    arguments = {"gate": G, "up": G, "sums": SUMS, "segments": S, "act": "silu", "gradients": GRADIENTS} | change
    with pytest.raises(error, match=message):
        ops.glu_attribution(**arguments)
    assert (SUMS == 0).all()
    assert (GRADIENTS == 0).all()


def test_fused_gradients_are_those_of_plain_torch():
    """Equal to within a rounding."""
    for dtype in DTYPES:
        gate, up = halves(70, 131, dtype)
        grad = upstream((70, 131), dtype)
        ours = backward(gate, up, grad, None, None)[1:]
        for a, b in zip(ours, reference.activation_gradients(gate, up, "silu", grad), strict=True):
            torch.testing.assert_close(a, b, rtol=torch.finfo(dtype).eps, atol=2e-6)

"""The ops on a GPU: every available backend against fp64, against torch's kernels and against itself."""

from __future__ import annotations

import fcntl
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from affectron import _native, ops
from affectron.ops.backends import reference
from affectron.ops.forms import use_form
from tests.gpu.conftest import SERVING
from tests.ops.conftest import ACTS, DTYPES, SHAPES, exact, halves
from tests.support.oracles import (
    FIELDS,
    NEUTRAL,
    check,
    check_gradients,
    check_sums,
    masking,
    oracle,
    programs,
    runs,
    steered,
    tokens,
    truth,
    weights,
)

CUDA = "cuda"

# Every activation and dtype at one odd shape, every shape in bf16: a compiled kernel costs a second, and a GPU minutes.
CASES = [((199, 760), dtype, act) for dtype in DTYPES for act in ACTS]
CASES += [(shape, torch.bfloat16, "silu") for shape in (*SHAPES, (1000, 4096))]


def gpu(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Copies on the GPU, with the strides that they have."""
    moved = []
    for tensor in tensors:
        whole = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=CUDA)
        moved.append(whole.copy_(tensor))
    return tuple(moved)


def bound(torchs: Tensor, truth: Tensor, gate: Tensor, up: Tensor | None) -> Tensor:
    """Twice the error of the same work in the same dtype by torch, plus an fp32 rounding of the largest value."""
    limit = (
        2 * (torchs.double() - truth).abs()
        + truth.abs() * torch.finfo(gate.dtype).eps
        + 1e-7 * gate.abs().double().clamp(min=1)
    )
    return limit if up is None else limit * up.abs().double().clamp(min=1)


@pytest.mark.parametrize(("shape", "dtype", "act"), CASES)
@pytest.mark.parametrize("gated", [True, False])
def test_glu_as_exact_as_torch(backend, shape, dtype, act, gated):
    gate, up = gpu(*halves(*shape, dtype))
    up = up if gated else None
    ours, truth = ops.glu(gate, up, act), exact(gate, up, act)
    assert ours.is_contiguous()
    assert ours.dtype == dtype
    assert ((ours.double() - truth).abs() <= bound(reference.glu(gate, up, act), truth, gate, up)).all()
    assert torch.equal(ours, ops.glu(gate, up, act))
    if shape[0] > 1:
        assert torch.equal(ours[::2], ops.glu(gate[::2], None if up is None else up[::2], act))
        assert torch.equal(ours, ops.glu(gate.contiguous(), None if up is None else up.contiguous(), act))


def erf_is_torchs(backend: str) -> bool:
    """Tell whether ``backend`` has the erff of the CUDA version that compiled torch. CUDA 13 changed the coefficients
    beyond 1; Triton 3.6 has its own device library, with the old coefficients."""
    return backend == "reference" or (
        backend == "native" and str(_native.CUDA_TOOLKIT // 1000) == str(torch.version.cuda).split(".")[0]
    )


@pytest.mark.real_gpu
@pytest.mark.parametrize("act", ["silu", "gelu", "relu", "relu2"])
def test_fp32_bit_for_bit_as_torch(backend, act):
    gate = torch.linspace(-95, 95, 64 * 1024, device=CUDA).view(64, -1)
    gate[0, :6] = torch.tensor([0.0, float("inf"), float("nan"), 1e-40, -1e-30, 3e4])
    up = torch.randn(gate.shape, generator=torch.Generator().manual_seed(1)).to(CUDA)
    ours, torchs = ops.glu(gate, up, act), reference.glu(gate, up, act)
    if act == "gelu" and not erf_is_torchs(backend):
        # 1 + erf differs by its last bit, 2^-23 at most, which gate / 2 multiplies; then two products are rounded.
        assert torch.equal(ours.isnan(), torchs.isnan())
        allowed = (gate * up).abs() * 2.0**-23 + torchs.abs() * 2.0**-23
        assert ((ours - torchs).abs() <= allowed)[torchs.isfinite()].all()
        return
    torch.testing.assert_close(ours, torchs, rtol=0, atol=0, equal_nan=True)


@pytest.mark.real_gpu
@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_every_16_bit_value(backend, dtype, act):
    """All 65,536 gates: what torch gives, but for values as near to a tie as the last bits of fp32."""
    gate = torch.arange(-32768, 32768, dtype=torch.int32, device=CUDA).to(torch.int16).view(dtype)[None]
    ours, torchs = ops.glu(gate, None, act), reference.glu(gate, None, act)
    assert torch.equal(ours.isnan(), torchs.isnan())
    finite = torchs.isfinite()
    ours, torchs = ours[finite].float(), torchs[finite].float()
    error = (ours - torchs).abs()
    # Where 1 + tanh or 1 + erf cancel, both keep only the digits that fp32 left. A step of the subnormal values.
    step = torch.finfo(dtype).eps * torch.finfo(dtype).smallest_normal
    assert (error <= torch.finfo(dtype).eps * torchs.abs() + 4e-7 * gate[finite].float().abs() + step).all()
    # As many values lie so near to a tie: for fp16 gelu_tanh about 100, where the exponential and the quotient of the
    # short form are wrong by 2 ulp each (simulated), for all others at most half as many.
    assert (error > 1e-6).sum() <= (128 if act == "gelu_tanh" else 64), f"{int((error > 1e-6).sum())} differ"


@pytest.mark.real_gpu
@pytest.mark.skipif("native" not in SERVING, reason="this build has no CUDA kernels")
@pytest.mark.parametrize("short", [True, False])
@pytest.mark.parametrize("dtype", DTYPES[1:])
def test_native_silu_bit_for_bit_as_torch(dtype, short):
    """All 65,536 gates, alone and times every value. The result decides on short_silu in csrc/cuda/forms.h."""
    gate = torch.arange(-32768, 32768, dtype=torch.int32, device=CUDA).to(torch.int16).view(dtype)[None]
    with ops.use_backend("native"), use_form("native", "short_silu", short):
        for seed in range(8):
            order = torch.randperm(65536, generator=torch.Generator().manual_seed(seed)).to(CUDA)
            for up in (None, gate[:, order]):
                ours, torchs = ops.glu(gate, up), reference.glu(gate, up, "silu")
                torch.testing.assert_close(ours, torchs, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(("shape", "dtype", "act"), CASES)
@pytest.mark.parametrize("rule", ["gate", "product"])
def test_glu_stats(backend, shape, dtype, act, rule):
    gate, up = gpu(*halves(*shape, dtype))
    segments = runs(shape[0], 5).to(CUDA)
    results = []
    for plan in (segments, ops.SegmentPlan(segments.int(), 5)):
        stats = ops.StatsBuffers(5, shape[1], rule, device=CUDA)
        h = ops.glu_stats(gate, up, plan, stats, act)
        assert torch.equal(h, ops.glu(gate, up, act))
        results.append(stats)
    check(results[0], oracle(h, gate, segments, 5, rule == "product"))
    if backend != "reference":
        assert all(torch.equal(a, b) for a, b in zip(results[0].tensors, results[1].tensors, strict=True))


@pytest.mark.parametrize("labels", [1, 10, 64])
@pytest.mark.parametrize("shuffled", [False, True])
def test_bits_do_not_change_between_runs(statistics_backend, labels, shuffled):
    if statistics_backend == "reference":
        pytest.skip("torch's sums make no such promise")
    gate, up = gpu(*halves(2000, 1536, torch.bfloat16))
    segments = runs(2000, labels)
    if shuffled:
        segments = segments[torch.randperm(2000, generator=torch.Generator().manual_seed(0))]
    plan = ops.SegmentPlan(segments.to(CUDA), labels)
    first = None
    for _ in range(5):
        stats = ops.StatsBuffers(labels, 1536, device=CUDA)
        outputs = [ops.glu_stats(gate, up, plan, stats) for _ in range(3)]
        again = (*outputs, *stats.tensors)
        first = first or again
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize("dtype", DTYPES)
def test_backends_agree(dtype):
    """The h of all backends is the same, because relu is exact."""
    gate, up = gpu(*halves(700, 431, dtype))
    segments, results = runs(700, 5).to(CUDA), {}
    for name in SERVING:
        with ops.use_backend(name):
            stats = ops.StatsBuffers(5, 431, device=CUDA)
            results[name] = ops.glu_stats(gate, up, segments, stats, "relu"), stats
    h, stats = results["reference"]
    expected = {field: getattr(stats.finalize(), field) for field in FIELDS}
    for ours, stats in results.values():
        assert torch.equal(ours, h)
        check(stats, expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_nonfinite_values(statistics_backend, dtype):
    h, gate = (t.clone() for t in gpu(*halves(300, 77, dtype)))
    generator = torch.Generator().manual_seed(0)
    for value in (float("nan"), float("inf"), -float("inf")):
        h[torch.randint(300, (20,), generator=generator), torch.randint(77, (20,), generator=generator)] = value
    h[:, 3] = float("nan")
    segments, stats = runs(300, 3).to(CUDA), ops.StatsBuffers(3, 77, device=CUDA)
    for part in (slice(0, 90), slice(90, 300)):
        ops.neuron_stats(h[part], segments[part], stats, gate[part])
    check(stats, oracle(h, gate, segments, 3, False))


@pytest.mark.parametrize("dtype", DTYPES[1:])
@pytest.mark.parametrize("f", [2048, 2047])
def test_statistics_of_every_16_bit_value(statistics_backend, dtype, f):
    """All 65,536 values in columns of 32, as h and as gates: NaN, infinities, subnormals, -0."""
    value = torch.arange(-32768, 32768, dtype=torch.int32).to(torch.int16).view(dtype).view(32, 2048)[:, :f]
    h, gate = value.to(CUDA), value.flip(1).to(CUDA)
    segments, stats = torch.zeros(32, dtype=torch.int64, device=CUDA), ops.StatsBuffers(1, f, device=CUDA)
    ops.neuron_stats(h, segments, stats, gate)
    check(stats, oracle(h, gate, segments, 1, False))


@pytest.mark.parametrize("ratio", [1.0, 1e2, 1e4])
def test_mean_far_from_zero(statistics_backend, ratio):
    h = (torch.randn(5000, 131, generator=torch.Generator().manual_seed(0)) + ratio).to(CUDA)
    segments = torch.randint(-1, 3, (5000,), generator=torch.Generator().manual_seed(1)).to(CUDA)
    stats = ops.StatsBuffers(3, 131, "product", device=CUDA)
    for part in range(0, 5000, 1250):
        ops.neuron_stats(h[part : part + 1250], segments[part : part + 1250], stats)
    check(stats, oracle(h, h, segments, 3, True))


def test_range_of_fp32(statistics_backend):
    h = torch.randn(300, 64, generator=torch.Generator().manual_seed(0)) * torch.logspace(-30, 37, 64)
    h[:, 5], h[:, 6], h[:, 7] = 3.25, 0.0, 3.3e38
    h, segments = h.to(CUDA), runs(300, 4).to(CUDA)
    stats = ops.StatsBuffers(4, 64, "product", device=CUDA)
    ops.neuron_stats(h, segments, stats)
    check(stats, oracle(h, h, segments, 4, True))


@pytest.mark.parametrize(("shape", "dtype", "act"), CASES)
@pytest.mark.parametrize("mixed", [True, False])
def test_glu_steer(backend, shape, dtype, act, mixed):
    gate, up = gpu(*halves(*shape, dtype))
    table = programs(3 if mixed else 1, shape[1]).to(CUDA)
    rows = torch.randint(-1, 3, (shape[0],), generator=torch.Generator().manual_seed(1), dtype=torch.int32).to(CUDA)
    chosen = rows if mixed else torch.zeros_like(rows)
    plain, out = ops.glu(gate, up, act), ops.glu_steer(gate, up, table, rows if mixed else None, act)
    truth = torch.where((chosen >= 0)[:, None], steered(plain, table[chosen.clamp(min=0).long()]), plain.double())
    tolerance = 2 * torch.finfo(dtype).eps
    torch.testing.assert_close(out.double(), truth, rtol=tolerance, atol=tolerance)
    neutral = (table[chosen.clamp(min=0).long()] == NEUTRAL.to(CUDA)[:, None]).all(1)
    untouched = (chosen < 0)[:, None] | neutral
    assert torch.equal(out[untouched], plain[untouched])
    # The form is rounded alike everywhere: from the same h, the same bits.
    h = reference.intervene(plain.float(), *table[chosen.clamp(min=0).long()].unbind(1)).to(dtype)
    assert torch.equal(out, torch.where((chosen >= 0)[:, None], h, plain))


# Rows of whole vectors and rows that none fits, splits of down's neurons, and the shapes of a layer.
MLP_SIZES = ((75, 131, 83), (72, 1032, 264), (3, 5, 1), (512, 1792, 512))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", MLP_SIZES)
@pytest.mark.parametrize("by_neuron", [True, False])
def test_masked_mlp(backend, dtype, size, by_neuron):
    inputs, neurons, _ = size
    w_gate, w_up, w_down = gpu(*weights(size, dtype))
    down = ops.neuron_major(w_down) if by_neuron else w_down
    (table,) = gpu(masking(programs(3, neurons), torch.arange(0, neurons, 2)))
    for n, act, up in ((0, "silu", w_up), (1, "silu", w_up), (3, "gelu", None), (4, "relu2", w_up), (16, "silu", w_up)):
        (x,), rows = gpu(tokens(n, inputs, dtype)), torch.arange(n, dtype=torch.int32, device=CUDA) % 3 - int(n == 16)
        out = ops.masked_mlp(x, w_gate, up, down, table, rows, act)
        wanted = truth(x, w_gate, up, w_down, table, rows, act)
        torchs = reference.masked_mlp(x, w_gate, up, w_down, table, rows, act)
        error = (torchs.double() - wanted).abs().amax(1, keepdim=True) if n else wanted
        assert ((out.double() - wanted).abs() <= 2 * error + (wanted.abs() + 1) * torch.finfo(dtype).eps).all()
        for _ in range(3):
            assert torch.equal(ops.masked_mlp(x, w_gate, up, down, table, rows, act), out)


@pytest.mark.real_gpu
@pytest.mark.parametrize("by_neuron", [True, False])
def test_masked_mlp_in_a_graph_follows_the_masks(backend, by_neuron):
    """Programs and rows change between replays; the weights of what is masked then may be NaN."""
    if backend == "reference":
        pytest.skip("torch's products read everything")
    size = (72, 1032, 264)
    w_gate, w_up, w_down = gpu(*weights(size, torch.bfloat16))
    x, rows = tokens(3, 72, torch.bfloat16).to(CUDA), torch.zeros(3, dtype=torch.int32, device=CUDA)
    down = ops.neuron_major(w_down) if by_neuron else w_down
    table = programs(2, 1032).to(CUDA)
    kept = [t.clone() for t in (w_gate, w_up, down)]
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        ops.masked_mlp(x, w_gate, w_up, down, table, rows)  # compiles
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = ops.masked_mlp(x, w_gate, w_up, down, table, rows)
    for seed in range(3):
        masked = torch.randperm(1032, generator=torch.Generator().manual_seed(seed))[: 300 * (seed + 1)].to(CUDA)
        table.copy_(masking(programs(2, 1032, seed), masked.cpu()))
        rows.copy_(torch.tensor([0, 1, seed % 2]))
        for tensor, value in zip((w_gate, w_up, down), kept, strict=True):
            tensor.copy_(value)
        eager = ops.masked_mlp(x, w_gate, w_up, down, table, rows)
        w_gate[masked], w_up[masked] = torch.nan, torch.nan
        if by_neuron:
            down[:, masked] = torch.nan
        graph.replay()
        assert torch.equal(out, eager)


@pytest.mark.parametrize("act", ACTS)
def test_gradient(backend, act):
    gate, up = (t.clone().requires_grad_() for t in gpu(*halves(7, 33, torch.float32)))
    (ops.glu(gate, up, act) * up.detach()).sum().backward()
    g64, u64 = (t.detach().double().requires_grad_() for t in (gate, up))
    (exact(g64, u64, act) * u64.detach()).sum().backward()
    torch.testing.assert_close(up.grad.double(), u64.grad, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gate.grad.double(), g64.grad, rtol=1e-5, atol=1e-5)


def backward(
    gate: Tensor, up: Tensor, grad: Tensor, sums: Tensor, segments: Tensor, act: str, gradients: Tensor | None = None
) -> tuple[Tensor, ...]:
    """Output of glu_attribution and the gradients of gate and up."""
    inputs = [t.detach().requires_grad_() for t in (gate, up)]
    h = ops.glu_attribution(*inputs, sums, segments, act, gradients)
    return h.detach(), *torch.autograd.grad(h, inputs, grad)


@pytest.mark.parametrize(("shape", "dtype", "act"), CASES)
def test_glu_attribution(backend, shape, dtype, act):
    gate, up, grad = gpu(*halves(*shape, dtype), halves(*shape, dtype, seed=3)[0])
    segments = runs(shape[0], 5).to(CUDA)
    sums, gradients, sums_alone = (torch.ones(5, shape[1], device=CUDA) for _ in range(3))
    h, *of_inputs = backward(gate, up, grad, sums, segments, act, gradients)
    assert torch.equal(h, ops.glu(gate, up, act))
    inputs = [t.detach().requires_grad_() for t in (gate, up)]
    plain = torch.autograd.grad(ops.glu(*inputs, act), inputs, grad)
    alone = backward(gate, up, grad, sums_alone, segments, act)[1:]
    assert all(torch.equal(a, b) for a, b in zip(of_inputs, plain, strict=True))
    assert all(torch.equal(a, b) for a, b in zip((*of_inputs, sums), (*alone, sums_alone), strict=True))
    check_gradients(of_inputs, gate, up, act, grad)
    check_sums(sums, [(h, grad, segments)], torch.ones_like(sums), gradients)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("act", ACTS)
def test_sums_take_the_very_output(backend, dtype, act):
    """With a row a segment and a gradient of 1 the sums are h, bit for bit."""
    gate, up = gpu(*halves(100, 760, dtype))
    sums = torch.zeros(100, 760, device=CUDA)
    h, *_ = backward(gate, up, torch.ones_like(gate), sums, torch.arange(100, device=CUDA), act)
    assert torch.equal(sums, h.float())


@pytest.mark.parametrize("kind", ["one", "a row each", "a giant and some rows", "sentences", "shuffled"])
def test_sums_of_segments_of_any_size(backend, kind):
    """The sums are right, and have the same bits in every call."""
    n, f = 5000, 760
    row = torch.arange(n, device=CUDA)
    segments = {
        "one": row * 0,
        "a row each": row,
        "a giant and some rows": torch.where(row % 97 == 5, row, 1),
        "sentences": row // 45 - 1,
        "shuffled": torch.randint(-1, 40, (n,), generator=torch.Generator().manual_seed(0)).to(CUDA),
    }[kind]
    gate, up, grad = gpu(*halves(n, f, torch.bfloat16), halves(n, f, torch.bfloat16, seed=3)[0])
    results = []
    for _ in range(3):
        sums, gradients = torch.zeros(2, n, f, device=CUDA)
        h, *_ = backward(gate, up, grad, sums, segments, "silu", gradients)
        results.append(torch.cat([sums, gradients]))
    check_sums(sums, [(h, grad, segments)], gradients=gradients)
    if backend != "reference":
        assert torch.equal(results[0], results[1])
        assert torch.equal(results[0], results[2])


@pytest.fixture
def much_memory() -> Iterator[None]:
    """One test at a time, of all processes that run tests on this GPU; it leaves no memory allocated."""
    with (Path(tempfile.gettempdir()) / "affectron-gpu-memory.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
        torch.cuda.empty_cache()


@pytest.mark.real_gpu
def test_more_than_2_to_the_31_elements(backend, much_memory):
    """The last rows lie beyond what 32 bits address."""
    f = 14336
    n = 2**31 // f + 100
    free, _ = torch.cuda.mem_get_info()
    # Two inputs of 4 GB in one tensor and the output; torch needs more for its copies.
    if backend == "reference" or free < 16 * 2**30:
        pytest.skip("not enough memory" if free < 16 * 2**30 else "torch's own indexing")
    both = torch.zeros(n, 2 * f, dtype=torch.bfloat16, device=CUDA)
    both[-50:].normal_()
    gate, up = both.chunk(2, dim=1)
    segments = torch.full((n,), -1, device=CUDA)
    segments[-50:] = 1
    stats = ops.StatsBuffers(2, f, device=CUDA)
    h = ops.glu_stats(gate, up, segments, stats)
    assert torch.equal(h[-50:], ops.glu(gate[-50:], up[-50:]))
    check(stats, oracle(h[-50:], gate[-50:], segments[-50:], 2, False))
    del h
    assert torch.equal(ops.glu(gate, up)[-50:], ops.glu(gate[-50:], up[-50:]))
    table, rows = programs(2, f).to(CUDA), (segments.int() + 1) // 2
    assert torch.equal(
        ops.glu_steer(gate, up, table, rows)[-50:], ops.glu_steer(gate[-50:], up[-50:], table, rows[-50:])
    )


@pytest.mark.real_gpu
def test_graph_capture_and_replay(backend):
    """A replay does what the calls did, on what the tensors hold then; reference statistics read on the host."""
    gate, up = (t.clone() for t in gpu(*halves(300, 431, torch.bfloat16)))
    segments, table = runs(300, 3).to(CUDA), programs(3, 431).to(CUDA)
    rows = torch.arange(300, dtype=torch.int32, device=CUDA) % 4 - 1
    stats = ops.StatsBuffers(3, 431, device=CUDA)
    counts = backend != "reference"

    def work() -> tuple[Tensor, ...]:
        h = ops.glu_stats(gate, up, ops.SegmentPlan(segments, 3), stats) if counts else ops.glu(gate, up)
        return h, ops.glu_steer(gate, up, table, rows), ops.glu(gate, None, "gelu")

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        work()  # compiles
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = work()
    for seed in range(3):
        for tensor in (gate, up):
            tensor.copy_(torch.randn(tensor.shape, generator=torch.Generator().manual_seed(seed)))
        segments.copy_(segments.roll(7))
        before = [t.clone() for t in stats.tensors]
        graph.replay()
        replayed = [t.clone() for t in (*captured, *stats.tensors)]
        for tensor, value in zip(stats.tensors, before, strict=True):
            tensor.copy_(value)
        eager = work()
        assert all(torch.equal(a, b) for a, b in zip(replayed, (*eager, *stats.tensors), strict=True))


@pytest.mark.real_gpu
def test_current_stream(backend):
    """Work goes to the stream that is current: it waits for what that stream was given before."""
    gate, up = gpu(*halves(200, 1024, torch.float32))
    truth = ops.glu(gate * 3, up)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(500_000_000)  # a quarter of a second: other tests run beside this one
        tripled = gate * 3
        out = ops.glu(tripled, up)
    assert not stream.query() or backend == "reference"
    stream.synchronize()
    assert torch.equal(out, truth)


def test_another_device_is_current(backend):
    if torch.cuda.device_count() < 2:
        pytest.skip("one device")
    gate, up = (t.to("cuda:1") for t in halves(100, 431, torch.float32))
    stats, segments = ops.StatsBuffers(3, 431, device="cuda:1"), runs(100, 3).to("cuda:1")
    with torch.cuda.device(0):
        h = ops.glu_stats(gate, up, segments, stats)
        assert torch.cuda.current_device() == 0
    check(stats, oracle(h, gate, segments, 3, False))


@pytest.mark.real_gpu
def test_compile(backend):
    gate, up = gpu(*halves(40, 64, torch.float32))
    run = torch.compile(lambda g, u: ops.glu(g, u) + 1, fullgraph=True)
    assert torch.equal(run(gate, up), ops.glu(gate, up) + 1)


def test_no_neurons(backend):
    gate = torch.ones(5, 0, device=CUDA)
    assert ops.glu(gate, gate).shape == (5, 0)
    assert ops.glu_steer(gate, None, torch.ones(1, 4, 0, device=CUDA)).shape == (5, 0)


@pytest.mark.parametrize("by_neuron", [True, False])
@pytest.mark.parametrize("n", [1, 16])
def test_calls_of_masked_mlp_without_a_wait(backend, n, by_neuron):
    """The second kernel of each call begins early, and the next call uses its workspace again."""
    w_gate, w_up, w_down = gpu(*weights((72, 1032, 264), torch.bfloat16))
    down, table = ops.neuron_major(w_down) if by_neuron else w_down, programs(1, 1032).to(CUDA)
    xs = [tokens(n, 72, torch.bfloat16).to(CUDA) * scale for scale in (1, -2)]
    expected = []
    for x in xs:
        expected.append(ops.masked_mlp(x, w_gate, w_up, down, table))
        assert expected[-1].isfinite().all().item()  # waits
    outputs = [ops.masked_mlp(xs[i % 2], w_gate, w_up, down, table) for i in range(200)]
    assert all(torch.equal(out, expected[i % 2]) for i, out in enumerate(outputs))


@pytest.mark.parametrize("shape", [(5, 3), (70, 431), (300, 4096)])
def test_calls_of_glu_stats_without_a_wait(statistics_backend, shape):
    """As above: the merge of each call ends before the next call counts."""
    gate, up = gpu(*halves(*shape, torch.bfloat16))
    plan = ops.SegmentPlan(runs(shape[0], 3).to(CUDA), 3)
    waiting, running = (ops.StatsBuffers(3, shape[1], device=CUDA) for _ in range(2))
    for _ in range(100):
        ops.glu_stats(gate, up, plan, waiting)
        waiting.count.sum().item()  # waits
    for _ in range(100):
        ops.glu_stats(gate, up, plan, running)
    assert all(torch.equal(a, b) for a, b in zip(waiting.tensors, running.tensors, strict=True))

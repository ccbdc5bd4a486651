"""Oracles of the ops: results from the definitions in fp64, and checks against them.

They need only pytest and torch, so that every backend can be tested on a machine without more.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import linear

from affectron import ops
from tests.ops.conftest import exact

FIELDS = ("count", "active", "nonfinite", "mean", "m2", "min", "max")


def oracle(
    h: torch.Tensor, gate: torch.Tensor, segments: torch.Tensor, num: int, product: bool
) -> dict[str, torch.Tensor]:
    """The statistics of each segment from their definitions in fp64."""
    out = {name: [] for name in FIELDS}
    for s in range(num):
        inside = segments == s
        values, active = h[inside].double(), (h if product else gate)[inside] > 0
        finite = values.isfinite()
        n = finite.sum(0)
        mean = torch.where(finite, values, 0).sum(0) / n
        out["count"].append(inside.sum())
        out["active"].append(active.sum(0))
        out["nonfinite"].append((~finite).sum(0))
        out["mean"].append(mean)
        out["m2"].append(torch.where(finite, values - mean, 0).square().sum(0))
        pad = torch.zeros(1, h.shape[1], dtype=torch.float64, device=h.device)
        out["min"].append(torch.cat([torch.where(finite, values, torch.inf), pad + torch.inf]).amin(0).float())
        out["max"].append(torch.cat([torch.where(finite, values, -torch.inf), pad - torch.inf]).amax(0).float())
    return {name: torch.stack(rows) for name, rows in out.items()}


def check(stats: ops.StatsBuffers, truth: dict[str, torch.Tensor]) -> None:
    final = stats.finalize()
    for name in ("count", "active", "nonfinite", "min", "max"):
        assert torch.equal(getattr(final, name), truth[name]), name
    n = (truth["count"][:, None] - truth["nonfinite"]).double()
    seen = n > 0
    assert torch.equal(final.mean.isnan(), ~seen)
    # A mean is good to 1e-6 of its own size or of the spread, whichever is larger; so is the variance.
    std = (truth["m2"] / n).sqrt()
    scale = torch.maximum(truth["mean"].abs(), std)
    assert ((final.mean - truth["mean"]).abs()[seen] <= 1e-6 * scale[seen] + 1e-300).all()
    # fp32 keeps 2^-24 of a value, so that a spread below that share of the mean has an error of its size.
    floor = n * (truth["mean"] * 2.0**-24).square()
    assert ((final.m2 - truth["m2"]).abs()[seen] <= (1e-6 * truth["m2"] + 1e-6 * floor)[seen]).all()
    assert torch.equal(final.var[seen], (final.m2 / n)[seen])


def runs(n: int, labels: int, seed: int = 0) -> torch.Tensor:
    """Labels in runs of about 30 tokens, some not counted, as in a batch of sentences."""
    generator = torch.Generator().manual_seed(seed)
    per_sentence = torch.randint(-1, labels, (n // 30 + 1,), generator=generator)
    return per_sentence.repeat_interleave(30)[:n]


NEUTRAL = torch.tensor([1.0, 0.0, float("-inf"), -0.0])


def programs(count: int, neurons: int, seed: int = 0) -> torch.Tensor:
    """Random tables that change half of the neurons, each by one of the interventions of docs/method.md."""
    generator = torch.Generator().manual_seed(seed)
    table = NEUTRAL.repeat(count, neurons, 1)
    kind = torch.randint(0, 10, (count, neurons), generator=generator)
    value = torch.rand(count, neurons, generator=generator)
    table[kind == 0] = torch.tensor([0.0, 0.0, float("-inf"), 0.0])  # zero
    for k, row in ((1, 0), (2, 1), (3, 3)):  # scale, damping, shift
        table[..., row] = torch.where(kind == k, value, table[..., row])
    table[..., 2] = torch.where(kind == 2, 1 - value, table[..., 2])  # dynamic attenuation has a floor
    return table.transpose(1, 2).contiguous()


def steered(h: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """The intervention in fp64. An infinite h gives its limit; a NaN is multiplied by the factor of h = 0."""
    scale, damping, floor, shift = table.double().unbind(-2)
    h = h.double()
    damped = torch.where((damping == 0) | h.isnan(), 0.0, damping * h.abs())
    factor = torch.maximum(scale - damped, floor)
    return torch.where(factor == 0, 0.0, h * factor) + shift


def extremes(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Activations [9, 239], infinite ones and NaN among them, and a program [1, 4, 239] with a neuron for each way in
    which its parameters meet them."""
    values = [torch.inf, -torch.inf, torch.nan, -torch.nan, 3.0, -3.0, 0.0, -0.0, 6e4]
    ways = torch.cartesian_prod(
        torch.tensor([0.0, 1.0, -1.0, 0.75]),
        torch.tensor([0.0, 0.5, 1e-38, -0.5]),
        torch.tensor([-torch.inf, 0.0, 0.25, -2.0, 1.0]),
        torch.tensor([0.0, -0.0, 0.75]),
    )[1:]
    return torch.tensor(values).to(dtype)[:, None].repeat(1, len(ways)), ways.t()[None].contiguous()


def check_extremes(out: torch.Tensor, h: torch.Tensor, table: torch.Tensor, roundings: int = 1) -> None:
    wanted = steered(h, table[0]).to(h.dtype)
    tolerance = roundings * torch.finfo(h.dtype).eps
    torch.testing.assert_close(out, wanted, rtol=tolerance, atol=tolerance, equal_nan=True)


def infinite_where_masked(
    dtype: torch.dtype, n: int
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], Tensor, Tensor, Tensor]:
    """Finite weights and the same with infinities and NaN in gate and up of neurons that a program masks, in each way
    that makes h' the shift; n rows, of which the last has no program and needs them all."""
    w_gate, w_up, w_down = weights((75, 131, 83), dtype)
    masked = torch.randperm(131, generator=torch.Generator().manual_seed(3))[:70]
    table, rows = masking(programs(1, 131), masked, shift=0.5), torch.zeros(n, dtype=torch.int32)
    table[:, 3, masked[::2]] = 0.0
    rows[-1] = -1
    bad_gate, bad_up = w_gate.clone(), w_up.clone()
    for i, value in enumerate((torch.inf, -torch.inf, torch.nan)):
        bad_gate[masked[i::5]] = value
        bad_up[masked[i + 1 :: 4]] = value
    return (w_gate, w_up, w_down), (bad_gate, bad_up, w_down), tokens(n, 75, dtype), table, rows


# --- masked_mlp ---


def weights(size: tuple[int, int, int], dtype: torch.dtype, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """gate and up as the halves of one matrix, and down."""
    inputs, neurons, outputs = size
    generator = torch.Generator().manual_seed(seed)
    both = torch.randn(2 * neurons, inputs, generator=generator) * inputs**-0.5
    down = torch.randn(outputs, neurons, generator=generator) * max(neurons, 1) ** -0.5
    return *both.to(dtype).chunk(2), down.to(dtype)


def tokens(n: int, inputs: int, dtype: torch.dtype) -> Tensor:
    """Rows with a stride between them."""
    return torch.randn(n, 2 * inputs, generator=torch.Generator().manual_seed(9)).to(dtype)[:, :inputs]


def masking(table: Tensor, neurons: Tensor, shift: float = 0.0) -> Tensor:
    """``table`` with ``neurons`` hard-masked, in the three ways that make the factor 0 for every h."""
    table = table.clone()
    for way, (scale, damping, floor) in enumerate(((0.0, 0.0, -torch.inf), (-1.0, 0.5, 0.0), (0.0, 0.0, 0.0))):
        for row, value in enumerate((scale, damping, floor, shift)):
            table[:, row, neurons[way::3]] = value
    return table


def truth(
    x: Tensor, w_gate: Tensor, w_up: Tensor | None, w_down: Tensor, table: Tensor, rows: Tensor, act: str = "silu"
) -> Tensor:
    """masked_mlp from its definition in fp64."""
    up = None if w_up is None else linear(x.double(), w_up.double())
    h = exact(linear(x.double(), w_gate.double()), up, act)
    h = torch.where((rows >= 0)[:, None], steered(h, table[rows.clamp(min=0).long()]), h)
    return linear(h, w_down.double())


# --- glu_attribution ---


def gradients(gate: Tensor, up: Tensor | None, act: str, grad: Tensor) -> tuple[Tensor, ...]:
    """Gradients of gate and, where it is given, up, by autograd in fp64."""
    inputs = [t.detach().double().requires_grad_() for t in (gate, up) if t is not None]
    h = exact(inputs[0], inputs[1] if up is not None else None, act)
    return torch.autograd.grad(h, inputs, grad.double())


def check_gradients(
    ours: tuple[Tensor, ...], gate: Tensor, up: Tensor | None, act: str, grad: Tensor, roundings: int = 1
) -> None:
    """Check gradients to within the rounding to the dtype and a few fp32 roundings of the factors."""
    size = grad.double().abs() * gate.double().abs().clamp(min=1)
    if up is not None:
        size = size * up.double().abs().clamp(min=1)
    for value, truth in zip(ours, gradients(gate, up, act, grad), strict=True):
        bound = roundings * truth.abs() * torch.finfo(gate.dtype).eps + 2e-6 * size
        assert ((value.double() - truth).abs() <= bound + torch.finfo(gate.dtype).smallest_normal).all()


def check_sums(
    sums: Tensor,
    parts: list[tuple[Tensor, Tensor, Tensor]],
    start: Tensor | None = None,
    gradients: Tensor | None = None,
) -> None:
    """Check that ``sums`` holds ``start`` plus the products of ``parts``, each (h, grad, segments) of one backward, and
    ``gradients``, where it is given, ``start`` plus the grads."""
    _check_sums(sums, [(h.double() * grad.double(), segments) for h, grad, segments in parts], start)
    if gradients is not None:
        _check_sums(gradients, [(grad.double(), segments) for _, grad, segments in parts], start)


def _check_sums(sums: Tensor, parts: list[tuple[Tensor, Tensor]], start: Tensor | None) -> None:
    total, size = (torch.zeros(sums.shape, dtype=torch.float64, device=sums.device) for _ in range(2))
    rounding = torch.zeros_like(total)
    total += 0 if start is None else start
    for terms, segments in parts:
        counted = segments >= 0
        total.index_add_(0, segments[counted], terms[counted])
        size.index_add_(0, segments[counted], terms[counted].abs())
        rounding += total.abs() * 2.0**-24
    assert ((sums.double() - total).abs() <= 2.0**-20 * size + 2 * rounding).all()

"""Activation functions and the intervention: the Triton side of csrc/common/activation.h.

They compute in fp32 and round where the eager model rounds. A product and a sum are fused only where fma is written:
every kernel is launched with ``enable_fp_fusion=False``, so that glu, glu_stats and glu_steer round alike.
"""

import triton
import triton.language as tl
from triton.language.extra import libdevice

# The interpreter has no device library: it takes a third form of these functions, which may differ in the last bit.
INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)


@triton.jit
def silu(x, EXACT: tl.constexpr):
    """x / (1 + exp(-x)).

    EXACT takes the exp and the division that torch's CUDA kernel is compiled to; float32 moves 12 bytes an element and
    has time for them. The other form takes half as many instructions and is within a few ulp in fp32: rounded to 16
    bits it differs from torch's only where the value lies that near to a tie. -1.0 * x is free, -x would be a
    subtraction. x and the denominator are scaled by a quarter because the short division flushes subnormal numbers to
    zero, so that none of its operands and results may be subnormal.
    """
    if INTERPRETED:
        return x / (1.0 + tl.exp(-x))
    elif EXACT:
        return tl.div_rn(x, 1.0 + libdevice.exp(-x))
    else:
        quarter = 0.25 + tl.zeros_like(x)
        denominator = tl.fma(libdevice.fast_expf(-1.0 * x), quarter, quarter)
        return (0.25 * x) * libdevice.fast_dividef(4.0 * quarter, denominator)


@triton.jit
def tanh(x, EXACT: tl.constexpr):
    """tanh(x): torch's own in float32 (EXACT), a short form in 16 bits."""
    if INTERPRETED:
        return 1.0 - 2.0 / (1.0 + tl.exp(2.0 * x))
    elif EXACT:
        return libdevice.tanh(x)
    else:
        return 1.0 - libdevice.fast_dividef(2.0 + tl.zeros_like(x), 1.0 + libdevice.fast_expf(2.0 * x))


@triton.jit
def activate(x, ACT: tl.constexpr, EXACT: tl.constexpr):
    """act(x) of fp32 x, in the order of operations of torch's CUDA kernels."""
    if ACT == "silu":
        return silu(x, EXACT)
    elif ACT == "gelu":
        return x * 0.5 * (1.0 + tl.erf(x * 0.70710678118654752440))
    elif ACT == "gelu_tanh":
        inner = 0.79788456080286535588 * tl.fma(0.044715 + tl.zeros_like(x), x * x * x, x)
        return 0.5 * x * (1.0 + tanh(inner, EXACT))
    elif ACT == "relu":
        return tl.where(x <= 0.0, 0.0, x)  # written so that a NaN passes
    else:
        tl.static_assert(ACT == "relu2")
        y = tl.where(x <= 0.0, 0.0, x)
        return y * y


@triton.jit
def glu_values(gate, up, GATED: tl.constexpr, ACT: tl.constexpr):
    """act(gate) up in the dtype of ``gate``: rounded after the activation and again after the product."""
    h = activate(gate.to(tl.float32), ACT, gate.dtype == tl.float32).to(gate.dtype)
    if GATED:
        h = (h.to(tl.float32) * up.to(tl.float32)).to(gate.dtype)
    return h


@triton.jit
def intervene(h, scale, damping, floor, shift):
    """h max(scale - damping |h|, floor) + shift (docs/method.md), in fp32. In the factor, the maximum, damping |h|
    counts as 0 where damping is 0 or h is NaN. Where the factor is 0 so is the product, whatever h is."""
    damped = damping * tl.abs(h)
    factor = tl.maximum(scale - tl.where(damped == damped, damped, 0.0), floor)
    return tl.where(factor != 0.0, h * factor, 0.0) + shift


@triton.jit
def load_program(table, f, mask):
    """scale, damping, floor and shift at ``table`` [4, f]. Where not ``mask`` they are neutral and keep every bit of h:
    so a row without a program takes the same path."""
    scale = tl.load(table, mask=mask, other=1.0)
    damping = tl.load(table + f, mask=mask, other=0.0)
    floor = tl.load(table + 2 * f, mask=mask, other=float("-inf"))
    shift = tl.load(table + 3 * f, mask=mask, other=-0.0)
    return scale, damping, floor, shift

"""Float64 where a device has it, and on the CPU where it has not."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor


@cache
def _computes_float64(device: torch.device) -> bool:
    """Tell whether ``device`` computes in float64; found out once, by a sum. Apple's GPUs have none, nor some of
    Intel's."""
    one = torch.ones(1, device=device)  # an error that float32 has too is not caught
    try:
        one.double().sum()
    except (RuntimeError, TypeError):
        return False
    return True


def float64_device(device: torch.device) -> torch.device:
    """The device for the float64 numbers of ``device``: itself, or the CPU where it has no float64."""
    return device if _computes_float64(device) else torch.device("cpu")


def in_float64(value: Tensor) -> Tensor:
    """``value`` in float64, on :func:`float64_device` of its device. Differentiable."""
    return value.to(float64_device(value.device)).double()

"""Models on a device that is neither a CPU nor CUDA's: a pretended one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from tests.gpu.pretended import PretendedDevice


class _Event:
    """An event of a device whose work is done when a call returns."""

    def __init__(self, device: torch.device, blocking: bool = False) -> None:
        pass

    def record(self) -> None:
        pass

    def synchronize(self) -> None:
        pass


@contextmanager
def pretended_device(kind: str, float64: bool) -> Iterator[torch.device]:
    """A pretended device to which models are moved, and on which they write texts."""
    before = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        with pytest.MonkeyPatch.context() as patch, PretendedDevice(kind, float64) as pretended:
            patch.setattr(torch, "Event", _Event)  # transformers makes them on mps
            if hasattr(module := torch.get_device_module(kind), "mem_get_info"):
                patch.setattr(module, "mem_get_info", lambda _device: (1 << 30, 1 << 30))  # free, in all
            yield pretended.device
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(before)

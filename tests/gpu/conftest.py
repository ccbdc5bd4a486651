"""Tests that need a CUDA or HIP device; all of them are skipped without one. They import pytest, torch, transformers
and what those need, and nothing else: a machine with a GPU may have no more."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from affectron import ops
from affectron.ops.library import BACKENDS, absence_of

SERVING = [name for name in BACKENDS if absence_of(name, "cuda") is None]


@pytest.fixture(autouse=True)
def _device() -> Iterator[None]:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    yield
    torch.cuda.synchronize()  # a kernel's error belongs to the test that launched it


@pytest.fixture(params=SERVING)
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each backend that serves CUDA tensors here, in turn."""
    with ops.use_backend(request.param):
        yield request.param

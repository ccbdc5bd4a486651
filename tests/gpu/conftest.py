"""Tests that need a CUDA or HIP device; without one they are skipped, or rehearsed where AFFECTRON_REHEARSE is set: see
pretended.py. They import pytest, torch, transformers and what those need, and nothing else: a machine with a GPU may
have no more."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

from affectron import ops
from affectron.ops import forms
from affectron.ops._backends import BACKENDS, absence_of
from tests.gpu.pretended import PretendedDevice

REHEARSED = not torch.cuda.is_available() and "AFFECTRON_REHEARSE" in os.environ
SERVING = ["native", "reference"] if REHEARSED else [name for name in BACKENDS if absence_of(name, "cuda") is None]
# On the CPU, torch's own results depend on strides in their last bits.
TESTED = ["native"] if REHEARSED else SERVING
# Each of the two forms of a backend that has them.
FORMS = [
    (name, form)
    for name in TESTED
    for form in ((True, False) if "single_pass" in forms.FORMS.get(name, ()) else (True,))
]


@pytest.fixture(autouse=True)
def _device(request: pytest.FixtureRequest) -> Iterator[None]:
    if REHEARSED:
        if request.node.get_closest_marker("real_gpu"):
            pytest.skip("needs a real GPU")
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        with PretendedDevice():
            yield
        return
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    yield
    try:
        torch.cuda.synchronize()  # a kernel's error belongs to the test that launched it
    except RuntimeError as error:
        if "PYTEST_XDIST_WORKER" not in os.environ:
            raise
        # No later test of this process can pass: xdist starts another in its place.
        os.write(2, f"{request.node.nodeid}: {error}\n".encode())
        os._exit(1)


@pytest.fixture(params=TESTED)
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each backend that serves CUDA tensors here, in turn."""
    with ops.use_backend(request.param):
        yield request.param


@pytest.fixture(params=FORMS, ids=lambda form: form[0] if form[1] else f"{form[0]}-centred")
def statistics_backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """As ``backend``, with each form of the statistics kernels."""
    name, single_pass = request.param
    with ops.use_backend(name):
        if single_pass:
            yield name
        else:
            with forms.use_form(name, "single_pass", False):
                yield name

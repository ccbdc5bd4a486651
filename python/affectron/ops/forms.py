"""Choice between two forms of a GPU kernel, for the tests and benchmarks that compare them.

csrc/cuda/forms.h and kernels/forms.py hold the choices, and docs/gpu.md says which results decide. Only tests and
benchmarks change them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module

from affectron import _native

#: Forms by the backend that has them.
FORMS = {"native": ("short_silu", "single_pass") if _native.CUDA_BUILT else (), "triton": ("single_pass",)}


@contextmanager
def use_form(backend: str, name: str, chosen: bool) -> Iterator[None]:
    """Run the form ``name`` of ``backend`` inside the ``with`` block if ``chosen``, else its alternative."""
    holder = _native.cuda_forms if backend == "native" else import_module("affectron.kernels.forms")
    before = getattr(holder, name)
    setattr(holder, name, chosen)
    try:
        yield
    finally:
        setattr(holder, name, before)

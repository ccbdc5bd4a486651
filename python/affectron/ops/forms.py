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
    before = _exchange(backend, name, chosen)
    try:
        yield
    finally:
        _exchange(backend, name, before)


def _exchange(backend: str, name: str, chosen: bool) -> bool:
    """Choose whether the form runs, and return the choice before."""
    if backend == "native":
        return _native.cuda_exchange_form(name, chosen)
    forms = import_module("affectron.kernels.forms")
    before: bool = getattr(forms, name)
    setattr(forms, name, chosen)
    return before

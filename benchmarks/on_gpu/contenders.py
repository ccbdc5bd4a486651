"""Contenders that several parts share: each backend in each of its forms, and the floors that memory sets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor

from affectron import ops
from affectron.ops._backends import absence_of
from affectron.ops.forms import FORMS, use_form
from on_gpu.scale import Scale
from on_gpu.timing import Contender

COPY, READ = "copy of as many bytes", "read of as many bytes"

# A form that is not chosen, by what stands beside it.
_BESIDE = {"short_silu": "long silu", "single_pass": "centred"}


@contextmanager
def serving(backend: str, forms: dict[str, bool]) -> Iterator[None]:
    """The ops served by ``backend`` in these forms of its kernels."""
    with ExitStack() as stack:
        stack.enter_context(ops.use_backend(backend))
        for name, chosen in forms.items():
            stack.enter_context(use_form(backend, name, chosen))
        yield


def variants(backend: str, *forms: str) -> Iterator[tuple[str, Callable[[], AbstractContextManager[None]]]]:
    """Each combination of those of ``forms`` that the backend has: its name, and the context that serves by it."""
    known = [form for form in forms if form in FORMS.get(backend, ())]
    for chosen in product((True, False), repeat=len(known)):
        by_name = dict(zip(known, chosen, strict=True))
        beside = [_BESIDE[name] for name, taken in by_name.items() if not taken]
        yield ", ".join([backend, *beside]), partial(serving, backend, by_name)


def copy(scale: Scale, size: int) -> Contender:
    """A device copy that moves ``size`` bytes: one half is read, the other written."""
    source = torch.empty(size // 8, device=scale.device).normal_()
    target = torch.empty_like(source)
    return Contender(COPY, "torch", lambda: target.copy_(source), moves=size)


def readers(scale: Scale, size: int) -> list[Contender]:
    """Ways to read ``size`` bytes and write next to nothing. The floor, READ, is the fastest of them."""
    data = torch.empty(size // 4, device=scale.device).normal_()
    found: dict[str, Callable[[Tensor], Any]] = {"torch.sum": torch.sum}
    if absence_of("triton", scale.device) is None:
        from on_gpu.reading import read

        found["Triton"] = read
    return [Contender(f"{READ}, {name}", name, partial(way, data), moves=size) for name, way in found.items()]

"""Kernels in a chain: the order in which they compute, an h that passes unchanged, and the type that each must have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import get_type_hints

import pytest
import torch
from torch import Tensor

import affectron.models.chain
from affectron import ops
from affectron.models import Given, Kernel, Reader, Routed, attach
from affectron.models.chain import Chain, Link, as_given


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_an_adapted_kernel_is_given_h_to_the_bit(dtype: torch.dtype) -> None:
    values = torch.tensor([[1.5, -3.25, 0.0, -0.0, 1e-30, float("inf"), -float("inf"), float("nan")]])
    h = torch.cat([values, torch.randn(4, 8)]).to(dtype)
    given = as_given(lambda position, gate, up, act, routed=None: ops.glu(gate, up, act))
    integers = torch.int32 if dtype == torch.float32 else torch.int16
    assert torch.equal(given(0, h, None).view(integers), h.view(integers))


@pytest.mark.parametrize("routed", [None, Routed(torch.tensor([2, 0]), 5)])
def test_later_kernels_change_the_h_of_the_first(routed: Routed | None) -> None:
    """h, its own position and the gate reach each of them; the tokens only if there is a router."""
    calls: list[tuple[object, ...]] = []

    def link(position: int, factor: float) -> Link:
        def kernel(position: int, gate: Tensor, up: Tensor | None, act: str, *routed: Routed | None) -> Tensor:
            calls.append(("kernel", position, routed))
            return factor * gate

        def given(position: int, h: Tensor, gate: Tensor | None, *routed: Routed | None) -> Tensor:
            calls.append(("given", position, routed))
            assert h.stride(-1) == 1
            return factor * h + (0 if gate is None else gate)

        return Link(position, kernel, given)

    chain = Chain([link(4, 2.0), link(0, 3.0), link(7, 5.0)])
    chain.route(routed)
    told = () if routed is None else (routed,)
    gate = torch.randn(2, 3)
    torch.testing.assert_close(chain.compute(gate, None, "silu"), (2 * 3 + 1) * 5 * gate + gate)
    assert calls == [("kernel", 4, told), ("given", 0, told), ("given", 7, told)]
    calls.clear()
    h = torch.randn(3, 2).T
    torch.testing.assert_close(chain.change(h, None), 30 * h)
    assert calls == [("given", 4, told), ("given", 0, told), ("given", 7, told)]


SNIPPET = """
from torch import Tensor
from affectron.models.chain import Given, Kernel, Routed

def kernel(position: int, gate: Tensor, up: Tensor | None, act: str, routed: Routed | None = None) -> Tensor:
    return gate

def kernel_without_routed(position: int, gate: Tensor, up: Tensor | None, act: str) -> Tensor:
    return gate

def given(position: int, h: Tensor, gate: Tensor | None, routed: Routed | None = None) -> Tensor:
    return h

def given_without_routed(position: int, h: Tensor, gate: Tensor | None) -> Tensor:
    return h

"""


@pytest.mark.parametrize(
    ("statement", "right"),
    [
        ("checked: Kernel = kernel", True),
        ("checked: Kernel = kernel_without_routed", False),
        ("checked: Kernel = lambda position, gate, up, act: gate", False),
        ("checked: Given = given", True),
        ("checked: Given = given_without_routed", False),
        ("checked: Given = kernel", False),
    ],
)
def test_the_type_checker_refuses_a_kernel_that_an_expert_could_not_call(
    tmp_path: Path, statement: str, right: bool
) -> None:
    api = pytest.importorskip("mypy.api")
    snippet = tmp_path / "snippet.py"
    snippet.write_text(SNIPPET + statement + "\n")
    # Other modules count as Any: the protocols alone are checked, in a second instead of a minute.
    options = ["--strict", "--follow-imports=skip", "--disable-error-code=misc", f"--cache-dir={tmp_path / 'cache'}"]
    report, _, code = api.run([*options, affectron.models.chain.__file__, str(snippet)])
    assert (code == 0) == right, report
    assert right or "Incompatible types in assignment" in report


@pytest.mark.parametrize("function", [attach, Reader.attach])
def test_a_kernel_that_is_attached_must_have_that_type(function: Callable[..., object]) -> None:
    hints = get_type_hints(function)
    assert hints["kernel"] is Kernel
    assert hints["given"] == Given | None

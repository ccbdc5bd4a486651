"""Kernels on a site: the protocols that they follow, and the chain that several of them form."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor


class Routed(NamedTuple):
    """The tokens that a router gives to an expert.

    Attributes:
        tokens: int64 [n] on the device of the activation. Row i of the activation is token ``tokens[i]`` of the
            flattened batch.
        total: number of tokens of the flattened batch.
    """

    tokens: Tensor
    total: int


class Kernel(Protocol):
    """Compute the activation h of a site.

    Args:
        position: number of the site in the list that was attached, from 0.
        gate: [..., F], last stride 1.
        up: the same; None in a plain MLP.
        act: name of the activation function, as in :attr:`Structure.act`.
        routed: the tokens of the rows, passed at an expert and nowhere else.

    Returns:
        h, of the shape and dtype of ``gate``.
    """

    def __call__(
        self, position: int, gate: Tensor, up: Tensor | None, act: str, routed: Routed | None = None, /
    ) -> Tensor: ...


class Given(Protocol):
    """Change an activation h that is already computed.

    Args:
        position: as for :class:`Kernel`.
        h: [..., F], last stride 1.
        gate: of the shape of h: a neuron is active at a token if gate > 0. None if nothing but h is known.
        routed: as for :class:`Kernel`.

    Returns:
        the new h.
    """

    def __call__(self, position: int, h: Tensor, gate: Tensor | None, routed: Routed | None = None, /) -> Tensor: ...


Needed = Callable[[Collection[int]], bool]
"""``needed(positions)``: whether the kernel has work now at any of these sites, the experts of one layer."""


class Link(NamedTuple):
    """A kernel on a site, in both forms, with the site's number in the list that was attached."""

    position: int
    kernel: Kernel
    given: Given


class Chain:
    """The kernels on one site (``links``), in order of arrival: the first computes h, each later one changes it."""

    def __init__(self, links: Iterable[Link] = (), routed: Routed | None = None) -> None:
        self.links = list(links)
        self.route(routed)

    def route(self, routed: Routed | None) -> None:
        """Set the tokens of the expert's call that comes next; None: all tokens of the batch, as they come."""
        # Unpacked into each call: without a router nothing is passed, and a kernel for dense models needs no argument.
        self._routed: tuple[Routed, ...] = () if routed is None else (routed,)

    def compute(self, gate: Tensor, up: Tensor | None, act: str) -> Tensor:
        """The activation h from gate and up."""
        (position, kernel, _), *later = self.links
        h = kernel(position, gate, up, act, *self._routed)
        return _pass_on(later, h, gate, self._routed) if later else h

    def change(self, h: Tensor, gate: Tensor | None) -> Tensor:
        """The activation h' from an h that the block has computed."""
        return _pass_on(self.links, h, gate, self._routed)


def _pass_on(links: list[Link], h: Tensor, gate: Tensor | None, routed: tuple[Routed, ...]) -> Tensor:
    if h.stride(-1) != 1:  # a kernel reads rows without gaps
        h = h.contiguous()
    for position, _, given in links:
        h = given(position, h, gate, *routed)
    return h


def as_given(kernel: Kernel) -> Given:
    """Adapt ``kernel`` to an h that is already computed: call it with gate = 1, up = h and act = "relu", since
    relu(1) · h equals h exactly. Only for kernels that depend on h alone."""
    ones: dict[tuple[int, torch.dtype, torch.device], Tensor] = {}

    def given(position: int, h: Tensor, _gate: Tensor | None, *routed: Routed | None) -> Tensor:
        key = (h.shape[-1], h.dtype, h.device)
        if key not in ones:
            ones[key] = torch.ones(h.shape[-1], dtype=h.dtype, device=h.device)
        # Rows of stride 0: one row of ones, read from the cache.
        return kernel(position, ones[key].expand(h.shape), h, "relu", *routed)

    return given

"""Steer a model: apply programs to the activations of its MLP sites while a context is open.

Apart from interventions.py, which makes the programs and knows no torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from affectron import ops
from affectron.errors import InputError
from affectron.interventions import Program
from affectron.models.layout import Routed, Site, device_of
from affectron.models.sites import attach, find_sites

# Row indices are kept by length: decoding needs one, a corpus as many as it has batch shapes. The oldest go.
_KEPT_ROW_INDICES = 64


@contextmanager
def intervene(model: nn.Module, program: Program | Sequence[Program | None]) -> Iterator[None]:
    """Steer every forward of ``model`` while the context is open: h' = h · max(s - d·|h|, f) + b.

    One program serves all rows of a batch. A sequence of P programs serves a batch of P requests, in order;
    None leaves a request untouched, to the bit. Each request may hold several rows of the batch, next to one
    another, as beam search and ``num_return_sequences`` make them: of B rows, row r belongs to program
    ``r // (B // P)``. Prefill, cached decoding and padding on either side need nothing further: padded
    positions are steered too, and attention ignores them as always.

    Sites that no program touches are left alone. Several of these contexts may be open at once, each changing what
    those before it have made of h, and be left in any order (:func:`attach`). On the way out, also after an
    exception, the model is exactly what it was.

    Raises:
        InputError: no program, a program that names a site which the model lacks or a neuron beyond its
            width; all before the model is changed.
        ValueError: in a forward, a batch that is not a multiple of P rows.
    """
    programs: list[Program | None] = [program] if isinstance(program, Program) else list(program)
    if not programs:
        raise InputError("program is an empty sequence; expected one program or None for each request")
    sites = find_sites(model)
    _check_sites(programs, sites)

    touched: list[Site] = []
    tables: list[Tensor] = []
    slots: list[tuple[int, ...]] = []
    for site in sites:
        table, slot = _site_table(programs, site)
        if table is not None:
            touched.append(site)
            tables.append(torch.from_numpy(table).to(device_of(site)))
            slots.append(slot)

    rows = _Rows(len(programs))

    def kernel(position: int, gate: Tensor, up: Tensor | None, act: str, routed: Routed | None = None) -> Tensor:
        table = tables[position]
        if table.device != gate.device:  # the model was moved since
            table = tables[position] = table.to(gate.device)
        return ops.glu_steer(gate, up, table, rows(slots[position], gate, routed), act)

    with ExitStack() as undo:
        if touched and len(programs) > 1:
            # A block's input still has its batch dimension; OPT flattens it before the activation.
            check = touched[0].module.register_forward_pre_hook(rows.check_batch, with_kwargs=True)
            undo.callback(check.remove)
        undo.enter_context(attach(touched, kernel))
        yield


def _check_sites(programs: list[Program | None], sites: list[Site]) -> None:
    known = {site.name for site in sites}
    for program in programs:
        if program is None:
            continue
        for name in program.sites:
            if name not in known:
                raise InputError(
                    f"program {program.name!r} touches site {name!r}, which the model does not have "
                    f"(it has {len(sites)}: {sites[0].name} to {sites[-1].name})"
                )


def _site_table(programs: list[Program | None], site: Site) -> tuple[np.ndarray | None, tuple[int, ...]]:
    """The distinct programs that touch a site as float32 [U, 4, F], and each request's place there, or -1.

    A program that serves many requests takes one place: the kernel then reads one row of parameters for all.
    """
    tables: list[np.ndarray] = []
    places: dict[int, int] = {}
    slots = []
    for program in programs:
        if program is None or site.name not in program.sites or not len(program.sites[site.name].index):
            slots.append(-1)
            continue
        if id(program) not in places:
            places[id(program)] = len(tables)
            tables.append(program.table(site.name, site.neurons))
        slots.append(places[id(program)])
    return (np.stack(tables) if tables else None), tuple(slots)


class _Rows:
    """The program of each flattened row, int32 [N], for batches shared out evenly to a number of requests."""

    def __init__(self, requests: int) -> None:
        self.requests = requests
        self.kept: dict[tuple[tuple[int, ...], int, torch.device], Tensor] = {}

    def __call__(self, slots: tuple[int, ...], gate: Tensor, routed: Routed | None = None) -> Tensor | None:
        """None where all take the program at place 0. Rows are batch-major: a request's are contiguous; an expert's
        are those of its tokens."""
        if not any(slots):
            return None
        n = gate.numel() // gate.shape[-1] if routed is None else routed.total
        if n % self.requests:
            raise ValueError(f"{n} rows cannot be shared out to {self.requests} programs: not a multiple")
        key = (slots, n, gate.device)
        index = self.kept.get(key)
        if index is None:
            if len(self.kept) >= _KEPT_ROW_INDICES:
                del self.kept[next(iter(self.kept))]
            index = torch.tensor(slots, dtype=torch.int32).repeat_interleave(n // self.requests)
            index = self.kept[key] = index.to(gate.device)
        return index if routed is None else index[routed.tokens]

    def check_batch(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hidden = args[0] if args else next(iter(kwargs.values()))
        if hidden.dim() == 3 and hidden.shape[0] % self.requests:
            raise ValueError(
                f"a batch of {hidden.shape[0]} rows cannot be shared out to {self.requests} programs: "
                f"expected a multiple of {self.requests}"
            )

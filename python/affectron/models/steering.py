"""Steer a model: apply programs to the activations of its MLP sites while a context is open.

Apart from interventions.py, which makes the programs and knows no torch.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationMixin

from affectron.errors import InputError
from affectron.interventions import MAX_PIECES, Program, Schedule
from affectron.models.discovery.sites import attach, find_sites, unwrapped
from affectron.models.layout import Routed, Site, device_of
from affectron.models.parallel import neurons_here
from affectron.models.prompts import CACHES, cache_length, tell_the_prompt
from affectron.ops.glu_steer import steer_rows

# A start that no step reaches, and a prompt that no sequence outgrows.
_NEVER = 2**62


@contextmanager
def intervene(
    model: nn.Module,
    program: Program | Schedule | Sequence[Program | Schedule | None],
    capacity: int | None = None,
) -> Iterator[Steering]:
    """Steer every forward of ``model`` while the context is open: h' = h · max(s - d·|h|, f) + b.

    One program serves all rows of a batch. A sequence of P programs serves a batch of P requests, in order;
    None leaves a request untouched. Each request may hold several rows of the batch, next to one another, as beam
    search and ``num_return_sequences`` make them: of B rows, row r belongs to program ``r // (B // P)``. Prefill,
    cached decoding and padding on either side need nothing further: padded positions are steered too, and attention
    ignores them as always. A :class:`Schedule` changes with the position in the text (:attr:`Steering.prompt_length`).

    Requests are rows of the text: of what the decoder reads and, in an encoder-decoder model, of what the encoder
    reads. Other sites, such as those of an image tower, read rows that no request is known of: there all requests must
    have the same program, or none. What is not computed while the context is open, such as given ``encoder_outputs`` or
    the tokens in a cache, is not steered.

    What is yielded, the :class:`Steering`, changes the programs while decoding goes on. Compile the model inside the
    context: whatever is changed afterwards, no compiled or captured step has to be made again. A step that was compiled
    serves later contexts with as many requests and the same capacity, too.

    ``capacity`` is the number of different programs that can be held at a time, schedules counting each of theirs;
    None means as many as there are requests, or as ``program`` holds. They take capacity x 16 bytes a neuron on the
    model's device.

    Programs are given for the whole model also where processes share out its neurons (transformers' tensor parallel
    plans): each applies its own part. All of them open the context with the same programs.

    The activation of every site is computed by ``ops.glu_steer``: of an untouched row to the last bit as eager torch
    does it where the activation function is SiLU or ReLU, within that bit elsewhere. Several of these contexts may be
    open at once, each changing what those before it have made of h, and be left in any order (:func:`attach`). On the
    way out, also after an exception, the model is exactly what it was. Under gradient checkpointing differentiate a
    forward before a program changes.

    Raises:
        InputError: no program, a program that names a site which the model lacks or a neuron beyond its
            width, or more programs than ``capacity``; all before the model is changed. In a forward, it is not known
            which rows are a request's at a site where programs differ, or at which position a schedule is.
        ValueError: in a forward, a batch that is not a multiple of P rows.
    """
    programs = [program] if isinstance(program, (Program, Schedule)) else list(program)
    if not programs:
        raise InputError("program is an empty sequence; expected one program or None for each request")
    inner = unwrapped(model)
    sites = find_sites(inner)
    steering = Steering(sites, programs, capacity)
    with ExitStack() as undo:
        for part in steering._read_by(inner):
            undo.callback(part.module.register_forward_pre_hook(part.begin, with_kwargs=True).remove)
            undo.callback(part.module.register_forward_hook(part.end).remove)
        # Also a language model inside, which the generate of a model for images may call with the prompt that it made.
        for module in inner.modules():
            if isinstance(module, GenerationMixin):
                undo.callback(tell_the_prompt(module, steering))
        undo.enter_context(attach(steering._sites, steering._kernel, needed=steering._needed))
        yield steering


class _Part:
    """A module that reads a text: the decoder of a model, or the encoder of an encoder-decoder model.

    Attributes:
        generates: whether a part of the text may be generated; else all of it is prompt.
        shape: (B, T) of the text of the forward that runs.
        rows: of that forward, int32 [B·T] for each site; None while none runs.
        time_first: whether activations are [T, B, F] instead of [B, T, F]; None while nothing has shown it.
    """

    def __init__(self, steering: Steering, module: nn.Module, generates: bool) -> None:
        self.steering, self.module, self.generates = steering, module, generates
        self.names = _parameters(module)
        self.shape = 0, 0
        self.rows: tuple[Tensor, ...] | None = None
        self.time_first: bool | None = None

    def begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = {**dict(zip(self.names, args, strict=False)), **kwargs}
        texts = *args[:1], given.get("input_ids"), given.get("inputs_embeds")
        text = next((tensor for tensor in texts if isinstance(tensor, Tensor)), None)
        # [B, T] token ids or [B, T, hidden] embeddings; anything else leaves it to the sites' own shapes.
        if text is None or text.dim() != (3 if text.is_floating_point() else 2):
            return
        batch, length = text.shape[:2]
        if batch == length > 1 and self.time_first is None:
            self.time_first = self.steering._probe(self, batch, args, kwargs)
        start = self.steering._start(given, length) if self.generates else None
        self.shape = batch * self.steering.repeats, length
        self.rows = self.steering._find_rows(*self.shape, start)

    def end(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self.rows = None

    def is_time_first(self, shape: torch.Size) -> bool:
        """Whether an activation [*shape, F] of the text is [T, B, F]."""
        batch, length = self.shape
        if batch == 1 or length == 1 or len(shape) != 2:  # in either order the same rows
            return False
        if batch != length:
            found = shape[0] == length and shape[1] == batch
            if not torch.compiler.is_compiling():
                self.time_first = found
            return found
        return bool(self.time_first)


def _parameters(module: nn.Module) -> tuple[str, ...]:
    """Names of the arguments of a module's forward."""
    return tuple(inspect.signature(type(module).forward).parameters)[1:]


class Steering(Sequence["Program | Schedule | None"]):
    """The programs of a batch's requests, in order: a sequence of fixed length whose items can be changed.

    ``steering[i] = program`` (or a schedule, or None) holds from the next forward on. What it changes lies on the
    device and keeps its place there: a table of parameters for each site and, for each request, which rows of it hold
    at which position. So a step that was compiled, or captured into a graph, serves whatever is set later.
    """

    def __init__(
        self,
        sites: Sequence[Site],
        programs: Sequence[Program | Schedule | None],
        capacity: int | None,
    ) -> None:
        self._sites = list(sites)
        self._parts: list[_Part | None] = [None] * len(sites)  # of each site, what reads the text there
        self._given: list[Program | Schedule | None] = [None] * len(programs)
        held = len(_distinct(programs))
        if capacity is None:
            capacity = max(len(programs), held)
        self._places: list[Program | None] = [None] * capacity
        self._prompt_length: int | None = None
        self._counts = False  # whether _seen is the number of the text's tokens that forwards have read
        #: Rows that each row of the model's batch has become where programs apply: models.sweep multiplies them.
        self.repeats = 1
        device = device_of(sites[0])
        # Also where the context is opened in inference mode: its tensors could not be changed outside of it.
        with torch.inference_mode(False):
            # fp32 [capacity, 4, F] a site: scale, damping, floor, shift.
            self._tables = [torch.zeros(capacity, 4, site.neurons, device=device_of(site)) for site in sites]
            # Which neurons they hold: fewer where the first forward shows that other processes compute the rest.
            self._here = [slice(0, site.neurons) for site in sites]
            # Of each request, at which generated token each piece begins, and its row of each site's table.
            self._starts = torch.full((len(programs), MAX_PIECES), _NEVER, device=device)
            self._starts[:, 0] = -_NEVER
            self._slots = torch.full((len(sites), len(programs), MAX_PIECES), -1, dtype=torch.int32, device=device)
            self._prompt = torch.full((), _NEVER, device=device)
            self._seen = torch.zeros((), dtype=torch.int64, device=device)
        for tensor in (*self._tables, self._starts, self._slots, self._prompt, self._seen):
            torch._dynamo.mark_static_address(tensor)  # a captured graph reads it where it lies, without a copy
        self._assign(programs)

    def __len__(self) -> int:
        return len(self._given)

    def __getitem__(self, request: Any) -> Any:
        return self._given[request]

    def __setitem__(self, request: int, program: Program | Schedule | None) -> None:
        """Steer a request by ``program`` from the next forward on; None leaves it alone.

        Raises:
            IndexError: there is no such request.
            InputError: as :func:`intervene`; then nothing has changed.
        """
        wanted = list(self._given)
        wanted[request] = program
        self._assign(wanted)

    @property
    def prompt_length(self) -> int | None:
        """Positions of the text that are its prompt, padding on the left included; None: all of them.

        In an encoder-decoder model the text is the decoder's; all that the encoder reads is prompt.

        ``model.generate`` sets it while it runs. A decoding loop of one's own has to, where schedules are to tell
        prompt and generated tokens apart. The position of a forward's first token is the length of the cache that the
        model is called with. Where the cache is a state, which does not tell it (Mamba, RWKV), ``generate`` counts the
        tokens; a loop of one's own has to give ``cache_position``.
        """
        return self._prompt_length

    @prompt_length.setter
    def prompt_length(self, length: int | None) -> None:
        self._prompt_length = length
        self._prompt.fill_(_NEVER if length is None else length)

    @contextmanager
    def generating(self, counts: bool) -> Iterator[None]:
        """A run of ``generate``, perhaps inside of another one; afterwards all is what it was. ``counts``: it begins
        without a state that has read something, so that its tokens can be counted."""
        before, counted, seen = self._prompt_length, self._counts, self._seen.clone()
        self._counts = counts
        self._seen.zero_()
        try:
            yield
        finally:
            self.prompt_length, self._counts = before, counted
            self._seen.copy_(seen)

    def is_batch_first(self, shape: torch.Size) -> bool:
        """Whether hidden states [*shape, H] of the forward that runs begin with the rows of the batch."""
        part = next((part for part in self._parts if part is not None and part.rows is not None), None)
        if part is None:
            return True
        batch, length = part.shape[0] // self.repeats, part.shape[1]
        return shape[0] == batch and not (batch == length and part.time_first)

    def _assign(self, wanted: Sequence[Program | Schedule | None]) -> None:
        """Let the requests have the programs ``wanted``: check, then write what differs from what is there."""
        needed = _distinct(wanted)
        if len(needed) > len(self._places):
            raise InputError(
                f"capacity is {len(self._places)}, expected at least {len(needed)}: the different programs that are "
                "wanted at a time, schedules counting each of theirs"
            )
        tables = {program: self._tables_of(program) for program in needed if program not in self._places}
        for place, program in enumerate(self._places):
            if program not in needed:
                self._places[place] = None
        for program, parts in tables.items():
            place = self._places.index(None)
            self._places[place] = program
            for position, part in parts.items():
                self._tables[position][place].copy_(part)
        for request, (old, new) in enumerate(zip(self._given, wanted, strict=True)):
            if old is not new:
                self._point(request, new)
        self._given = list(wanted)
        self._touched = frozenset(
            position
            for position, site in enumerate(self._sites)
            if any(program is not None and _touches(program, site) for program in self._places)
        )
        # Where the requests' programs for a prompt differ, and where that of a request changes with the position.
        self._differing = self._where_several([{_pieces(program)[0][1] for program in wanted}])
        self._changing = self._where_several([{part for _, part in _pieces(program)} for program in wanted])

    def _where_several(self, groups: Sequence[Collection[Program | None]]) -> frozenset[int]:
        """Positions of the sites where any of the groups holds programs that do not all do the same."""
        several = [group for group in groups if len(group) > 1]

        def acting(group: Collection[Program | None], site: Site) -> set[Program | None]:
            return {program if program is not None and _touches(program, site) else None for program in group}

        return frozenset(
            position
            for position, site in enumerate(self._sites)
            if any(len(acting(group, site)) > 1 for group in several)
        )

    def _needed(self, positions: Collection[int]) -> bool:
        return not self._touched.isdisjoint(positions)

    def _tables_of(self, program: Program) -> dict[int, Tensor]:
        """The parameters [4, F] of each site that the program touches, by the site's position."""
        check_sites(program, self._sites)
        return {
            position: torch.from_numpy(program.table(site.name, site.neurons)[:, self._here[position]])
            for position, site in enumerate(self._sites)
            if _touches(program, site)
        }

    def _point(self, request: int, program: Program | Schedule | None) -> None:
        """Write which rows of the tables hold for a request, and from which generated token on."""
        starts = torch.full((MAX_PIECES,), _NEVER)
        slots = torch.full((len(self._sites), MAX_PIECES), -1, dtype=torch.int32)
        for piece, (start, part) in enumerate(_pieces(program)):
            starts[piece] = start
            if part is not None:
                place = self._places.index(part)
                for position, site in enumerate(self._sites):
                    if _touches(part, site):
                        slots[position, piece] = place
        self._starts[request].copy_(starts)
        self._slots[:, request].copy_(slots)

    def _read_by(self, model: Any) -> list[_Part]:
        """The parts of the model that read the text, from now on those of the sites inside."""
        # What a model of transformers runs with or without a head on it, and what knows the cache.
        find = getattr(model, "get_decoder", None)
        decoder = model if find is None else find()
        if decoder is None or not {"input_ids", "inputs_embeds"}.intersection(_parameters(decoder)):
            decoder = model
        parts = [_Part(self, decoder, generates=True)]
        if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
            parts.append(_Part(self, model.get_encoder(), generates=False))
        for part in parts:
            inside = set(part.module.modules())
            self._parts = [
                part if site.module in inside else old for site, old in zip(self._sites, self._parts, strict=True)
            ]
        return parts

    @property
    def scheduled(self) -> bool:
        """Whether any request has a schedule."""
        return bool(self._changing)

    def _start(self, given: dict[str, Any], length: int) -> int | Tensor:
        """The position in the text of the first of the ``length`` tokens of the decoder's forward."""
        cache = next((given[name] for name in CACHES if given.get(name) is not None), None)
        known = None if cache is None else cache_length(cache)
        if known is not None:
            return known
        if cache is not None and self._counts:
            start = self._seen.clone()
            self._seen.add_(length)
            return start
        position = given.get("cache_position")
        if position is not None:
            return position.reshape(-1)[0]  # type: ignore[no-any-return]
        if cache is None:
            if self._counts:  # a state may come of it; not of another text that is read while generate runs
                self._seen.copy_(torch.where(self._seen == 0, length, self._seen))
            return 0
        if self.scheduled and self._prompt_length is not None:
            raise InputError(
                f"a schedule is set, and the {type(cache).__name__} that the model is called with does not tell how "
                "many tokens it has read: expected a cache with a length, cache_position, or generate without a state"
            )
        return 0

    @torch.no_grad()
    def _probe(self, part: _Part, batch: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool | None:
        """Whether activations are [T, B, F], where B is T: what the first site is given for the first row alone."""
        if not (self._differing or self._changing):
            return None
        site = next((site for site, own in zip(self._sites, self._parts, strict=True) if own is part), None)
        if site is None:
            return None
        shapes: list[torch.Size] = []

        def look(_module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
            shapes.extend(value.shape for value in (*inputs, *named.values()) if isinstance(value, Tensor))
            raise _Looked

        def first(value: Tensor) -> Tensor:
            return value[:1] if value.dim() and len(value) == batch else value

        caches = {name: None for name in CACHES if name in part.names}
        given = {**dict(zip(part.names, args, strict=False)), **kwargs, **caches}
        handle = site.module.register_forward_pre_hook(look, with_kwargs=True, prepend=True)
        try:
            part.module.forward(**torch.utils._pytree.tree_map_only(Tensor, first, given))
        except Exception:  # also what ``look`` raises; whether it was called tells
            pass
        finally:
            handle.remove()
        if not shapes:
            raise InputError(
                f"the batch has {batch} rows of {batch} tokens, and it is not known which of the two comes first in "
                f"the activation of {site.name}: run the model on a batch of another shape first"
            )
        return len(shapes[0]) == 3 and shapes[0][1] == 1

    def _find_rows(self, batch: int, length: int, start: int | Tensor | None) -> tuple[Tensor, ...]:
        """The table row of each of the B·T flattened rows, for each site, -1 where it is untouched: int32 [N].

        ``start`` is the position of the first of the T tokens; None where all of them are prompt.
        """
        requests = len(self._given)
        if batch % requests:
            raise ValueError(
                f"a batch of {batch} rows cannot be shared out to {requests} programs: expected a multiple of "
                f"{requests}"
            )
        if self._slots.device != (device := self._tables[0].device):  # the model was moved since
            self._slots, self._starts, self._prompt, self._seen = (
                tensor.to(device) for tensor in (self._slots, self._starts, self._prompt, self._seen)
            )
        if isinstance(start, Tensor):
            start = start.to(device)
        step = torch.arange(length, device=device) + (-length if start is None else start - self._prompt)
        piece = (step[:, None] >= self._starts[:, None]).sum(-1) - 1  # [P, T]
        sites = len(self._sites)
        slots = self._slots.gather(2, piece.expand(sites, requests, length))
        rows = slots[:, :, None].expand(sites, requests, batch // requests, length)
        return rows.reshape(sites, batch * length).contiguous().unbind(0)  # reshape may leave a stride of 0

    def _kernel(self, position: int, gate: Tensor, up: Tensor | None, act: str, routed: Routed | None = None) -> Tensor:
        table = self._tables[position]
        if table.device != gate.device:  # the model was moved since
            table = self._tables[position] = table.to(gate.device)
        if table.shape[-1] != gate.shape[-1]:
            here = self._here[position] = neurons_here(self._sites[position], gate.shape[-1])
            table = self._tables[position] = table[..., here].contiguous()
        row = self._rows_of(position, gate.shape[:-1] if routed is None else torch.Size([routed.total]))
        if row.device != gate.device:
            row = row.to(gate.device)
        if routed is not None:  # an expert's rows are those of its tokens
            row = row[routed.tokens]
        return steer_rows(gate, up, table, row, act)

    def _rows_of(self, position: int, shape: torch.Size) -> Tensor:
        """The table row of each row of an activation [*shape, F] of a site: int32 [N]."""
        n, part = shape.numel(), self._parts[position]
        if part is None:
            return self._alike(position, n)
        if part.rows is None:
            # A block of its own, one that a checkpoint computes again, or the input of a model that reads no text.
            swapped = bool(part.time_first) and len(shape) == 2
            batch = shape[int(swapped)] if len(shape) == 2 else len(self)
            if n % batch:
                raise ValueError(f"{n} rows cannot be shared out to {batch} programs: expected a multiple")
            row = self._find_rows(batch, n // batch, 0 if part.generates else None)[position]
            return row.view(batch, -1).T.reshape(-1) if swapped else row
        batch, length = part.shape
        if n == batch * length:
            row = part.rows[position]
            return row.view(batch, length).T.reshape(-1) if part.is_time_first(shape) else row
        if n * self.repeats == batch * length:  # below the layer that repeats them: rows of no program
            return part.rows[position][:n]
        if len(shape) == 2 and shape[0] == batch and not self._is_timed(position):
            return self._find_rows(batch, n // batch, None)[position]  # padded, or with more tokens put before
        return self._alike(position, n)

    def _is_timed(self, position: int) -> bool:
        """Whether it matters at a site at which position of the text a token is."""
        part = self._parts[position]
        return position in self._changing and self._prompt_length is not None and part is not None and part.generates

    def _alike(self, position: int, n: int) -> Tensor:
        """:meth:`_rows_of` where it is not known of which request, or of which token, each of the n rows is."""
        if position in self._differing or self._is_timed(position):
            raise InputError(
                f"{self._sites[position].name} reads {n} rows that are not the tokens of the requests' texts: expected "
                "one program for all requests there, and no schedule"
            )
        return self._slots[position, 0, 0].repeat(n)


class _Looked(Exception):
    """Ends a forward that was made to look at one module."""


def check_sites(program: Program, sites: Sequence[Site]) -> None:
    """Raise InputError where the program touches a site that is none of ``sites``."""
    known = [site.name for site in sites]
    for name in program.sites:
        if name not in known:
            raise InputError(
                f"program {program.name!r} touches site {name!r}, which the model does not have "
                f"(it has {len(known)}: {known[0]} to {known[-1]})"
            )


def _pieces(program: Program | Schedule | None) -> tuple[tuple[int, Program | None], ...]:
    """(first generated token, program) of each piece; the prompt's begins before all tokens."""
    if isinstance(program, Schedule):
        return ((-_NEVER, program.prompt), *program.generated)
    return ((-_NEVER, program),)


def _distinct(programs: Sequence[Program | Schedule | None]) -> list[Program]:
    found = (part for program in programs for _, part in _pieces(program) if part is not None)
    return list(dict.fromkeys(found))


def _touches(program: Program, site: Site) -> bool:
    return site.name in program.sites and len(program.sites[site.name].index) > 0

"""Steer a model: apply programs to the activations of its MLP sites while a context is open.

Apart from interventions.py, which makes the programs and knows no torch.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from affectron.errors import InputError
from affectron.interventions import MAX_PIECES, Program, Schedule
from affectron.models.layout import Routed, Site, device_of
from affectron.models.parallel import neurons_here
from affectron.models.sites import attach, find_sites, unwrapped
from affectron.models.swap import swap_attribute
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
    ignores them as always. A :class:`Schedule` changes with the position in the text.

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
            width, or more programs than ``capacity``; all before the model is changed.
        ValueError: in a forward, a batch that is not a multiple of P rows.
    """
    programs = [program] if isinstance(program, (Program, Schedule)) else list(program)
    if not programs:
        raise InputError("program is an empty sequence; expected one program or None for each request")
    inner = unwrapped(model)
    sites = find_sites(inner)
    steering = Steering(sites, programs, capacity, _in_encoder(inner, sites))
    # What a model of transformers runs with or without a head on it, and what knows the cache.
    find: Any = getattr(inner, "get_decoder", None)
    decoder = inner if find is None else find()
    with ExitStack() as undo:
        undo.callback(decoder.register_forward_pre_hook(steering._begin_forward, with_kwargs=True).remove)
        undo.callback(decoder.register_forward_hook(steering._end_forward).remove)
        if hasattr(inner, "generate"):
            undo.callback(_tell_the_prompt(inner, steering))
        undo.enter_context(attach(steering._sites, steering._kernel, needed=steering._needed))
        yield steering


def _in_encoder(model: Any, sites: Sequence[Site]) -> frozenset[int]:
    """Positions of the sites that lie in the encoder of an encoder-decoder model."""
    if not getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        return frozenset()
    inside = set(model.get_encoder().modules())
    return frozenset(position for position, site in enumerate(sites) if site.module in inside)


# Whom a model's generate tells the length of its prompt, and the way back to what it was.
_TOLD: WeakKeyDictionary[nn.Module, tuple[list[Steering], ExitStack]] = WeakKeyDictionary()


def _tell_the_prompt(model: Any, steering: Steering) -> Callable[[], None]:
    """Let ``model.generate`` set the prompt's length while it runs; returns what ends it, in any order."""
    if model not in _TOLD:
        _TOLD[model] = [], ExitStack()
        swap_attribute(model, "generate", _telling_the_prompt(model, model.generate, _TOLD[model][0]), _TOLD[model][1])
    told, undo = _TOLD[model]
    told.append(steering)

    def remove() -> None:
        told[:] = [other for other in told if other is not steering]
        if not told:
            _TOLD.pop(model, None)
            undo.close()

    return remove


def _telling_the_prompt(model: Any, generate: Any, told: list[Steering]) -> Any:
    @functools.wraps(generate)
    def telling(*args: Any, **kwargs: Any) -> Any:
        length = _length_of_prompt(model, args, kwargs)
        for steering in told:
            steering.prompt_length = length
        try:
            return generate(*args, **kwargs)
        finally:
            for steering in told:
                steering.prompt_length = None

    return telling


def _length_of_prompt(model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int | None:
    """Positions of the prompt that ``model.generate`` goes on from; in an encoder-decoder model the decoder's."""
    if getattr(model.config, "is_encoder_decoder", False):
        given = kwargs.get("decoder_input_ids")
        if given is None and model.main_input_name != "input_ids":
            given = kwargs.get("input_ids")
        if given is None:
            return 1
        # transformers puts the start token before a prompt that does not begin with it.
        config = kwargs.get("generation_config") or model.generation_config
        start = kwargs.get("decoder_start_token_id", config.decoder_start_token_id)
        start = config.bos_token_id if start is None else start
        own = model.config.model_type in ("whisper", "vision-encoder-decoder") or start is None
        return int(given.shape[1]) + (not own and bool((given[:, 0] != torch.as_tensor(start).to(given.device)).all()))
    given = kwargs.get("inputs_embeds"), *args[:1], kwargs.get("inputs"), kwargs.get("input_ids")
    prompt = next((tensor for tensor in given if tensor is not None), None)
    return None if prompt is None else int(prompt.shape[1])


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
        in_encoder: frozenset[int],
    ) -> None:
        self._sites, self._in_encoder = list(sites), in_encoder
        self._given: list[Program | Schedule | None] = [None] * len(programs)
        held = len(_distinct(programs))
        if capacity is None:
            capacity = max(len(programs), held)
        self._places: list[Program | None] = [None] * capacity
        self._prompt_length: int | None = None
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
        for tensor in (*self._tables, self._starts, self._slots, self._prompt):
            torch._dynamo.mark_static_address(tensor)  # a captured graph reads it where it lies, without a copy
        self._rows: tuple[Tensor, ...] | None = None  # of the forward that runs: int32 [N] a site
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

        ``model.generate`` sets it. A decoding loop of one's own has to, where schedules are to tell prompt and
        generated tokens apart; positions are counted by the cache that the model is called with.
        """
        return self._prompt_length

    @prompt_length.setter
    def prompt_length(self, length: int | None) -> None:
        self._prompt_length = length
        self._prompt.fill_(_NEVER if length is None else length)

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

    def _begin_forward(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = *args[:1], kwargs.get("input_ids"), kwargs.get("inputs_embeds")
        text = next((tensor for tensor in given if isinstance(tensor, Tensor)), None)
        # [B, T] token ids or [B, T, hidden] embeddings; anything else leaves it to the sites' own shapes.
        if text is None or text.dim() != (3 if text.is_floating_point() else 2):
            return
        past = kwargs.get("past_key_values")
        batch, length = text.shape[:2]
        self._rows = self._find_rows(batch * self.repeats, length, 0 if past is None else past.get_seq_length())

    def _end_forward(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self._rows = None

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
            self._slots, self._starts, self._prompt = (
                tensor.to(device) for tensor in (self._slots, self._starts, self._prompt)
            )
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
        n = gate.numel() // gate.shape[-1] if routed is None else routed.total
        encoder = position in self._in_encoder
        rows = None if encoder else self._rows
        # No decoder has told: a block of its own, one that a checkpoint computes again, or one that reads something
        # else than the text, such as an image or the input of an encoder.
        if rows is None or (len(rows[position]) != n and self.repeats == 1):
            batch = gate.shape[0] if gate.dim() == 3 and routed is None else len(self)
            if n % batch:
                raise ValueError(f"{n} rows cannot be shared out to {batch} programs: expected a multiple")
            rows = self._find_rows(batch, n // batch, None if encoder else 0)
        row = rows[position]
        if row.device != gate.device:
            row = row.to(gate.device)
        if routed is not None:  # an expert's rows are those of its tokens
            row = row[routed.tokens]
        elif self.repeats > 1:  # below the layer that repeats them: rows of no program
            row = row[:n]
        return steer_rows(gate, up, table, row, act)


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

"""Steering: programs applied to a model's MLP neurons and to its layers' outputs while a context is open."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationMixin

from affectron._internal.arguments import checked_arguments
from affectron._internal.display import Shown, Summary, few
from affectron._internal.wording import count
from affectron.errors import InputError
from affectron.interventions import Program, Schedule
from affectron.models.attaching import attach
from affectron.models.chain import Routed
from affectron.models.discovery.sites import find_sites
from affectron.models.layers import layers_around, parameters, text_parts
from affectron.models.layout import OUTPUT, Site, is_time_first
from affectron.models.prompts import CACHES, cache_length, tell_the_prompt
from affectron.models.tables import NEVER, ProgramTables, check_sites, distinct
from affectron.models.wrappers import unwrapped
from affectron.ops.glu_steer import steer_rows


@checked_arguments
@contextmanager
def intervene(
    model: nn.Module,
    program: Program | Schedule | Sequence[Program | Schedule | None],
    capacity: int | None = None,
) -> Iterator[Steering]:
    """Steer every forward of ``model`` while the context is open: h' = h · max(s - d·|h|, f) + b.

    The context yields the :class:`Steering`, which changes the programs while decoding goes on. Compile the model
    inside the context: no later change then needs a compiled or captured step to be made again. A step that was
    compiled serves later contexts with as many requests and the same capacity, too.

    Requests are rows of a text: the one that the decoder reads and, in an encoder-decoder model, also the one that the
    encoder reads. At other sites, such as those of an image tower, it is not known which rows belong to a request:
    there all requests must have the same program, or none. Activations that are not computed while the context is
    open, such as those behind given ``encoder_outputs`` or the tokens in a cache, are not steered.

    A program may touch the output of a layer (:func:`affectron.models.find_layers`), the residual stream. The kernels
    are on all MLPs, and on those layers that ``program`` touches: the others cost nothing, and no later program can
    touch them.

    Prefill, cached decoding and padding on either side need nothing further: padded positions are steered too, and
    attention ignores them as always. A :class:`Schedule` changes with the position in the text
    (:attr:`Steering.prompt_length`), or treats the text's own tokens otherwise than the rest of a prompt
    (:attr:`Steering.text`).

    ``ops.glu_steer`` computes the activation of every site. An untouched row equals eager torch to the last bit if the
    activation function is SiLU or ReLU, and within that bit otherwise. Several of these contexts may be open at once,
    each changing the h that those before it return, and be left in any order (:func:`attach`). On the way out, also
    after an exception, the model is exactly as it was. Under gradient checkpointing differentiate a forward before a
    program changes.

    Programs are given for the whole model also if processes share out its neurons (transformers' tensor parallel
    plans): each process applies its own part. All of them open the context with the same programs.

    Args:
        model: the model.
        program: one program or schedule for all rows of a batch, or a sequence of P for a batch of P requests, in
            order; None leaves a request untouched. A request may hold several rows of the batch, next to one another,
            as beam search and ``num_return_sequences`` make them: of B rows, row r has program ``r // (B // P)``.
        capacity: number of different programs that can be held at a time, a schedule counting each of its own. They
            take capacity x 16 bytes a neuron on the model's device. None: as many as there are requests, or as
            ``program`` holds.

    Raises:
        InputError: no program, a program that names a site which the model lacks or a neuron beyond its width, or more
            programs than ``capacity``; all before the model is changed. In a forward, it is not known which rows are a
            request's at a site where programs differ, at which position a schedule is, or which tokens are the text's
            own.
        ValueError: in a forward, a batch that is not a multiple of P rows.
    """
    programs = [program] if isinstance(program, (Program, Schedule)) else list(program)
    if not programs:
        raise InputError("program is an empty sequence; expected one program or None for each request")
    inner = unwrapped(model)
    sites = _sites_of(inner, distinct(programs))
    steering = Steering(inner, sites, programs, capacity)
    with ExitStack() as undo:
        for text in steering._text_modules:
            undo.callback(text.module.register_forward_pre_hook(text.begin, with_kwargs=True).remove)
            undo.callback(text.module.register_forward_hook(text.end).remove)
        # Also a language model inside: the generate of a model for images may call it with a prompt of its own making.
        for module in inner.modules():
            if isinstance(module, GenerationMixin):
                undo.callback(tell_the_prompt(module, steering))
        undo.enter_context(attach(sites, steering._kernel, needed=steering._needed))
        yield steering


def _sites_of(model: nn.Module, programs: Sequence[Program]) -> list[Site]:
    """The MLPs of the model, then the layers that a program touches."""
    sites = find_sites(model)
    if any(_outputs(program) for program in programs):
        layers = layers_around(model, sites)
        for program in programs:
            check_sites(program, [*sites, *layers])
        sites += [layer for layer in layers if any(layer.name in program.sites for program in programs)]
    return sites


def _outputs(program: Program) -> list[str]:
    """The sites of a program that are outputs of layers."""
    return [name for name in program.sites if name.endswith(OUTPUT)]


class Steering(Shown, Sequence["Program | Schedule | None"]):
    """The programs of a batch's requests, in order: a sequence of fixed length whose items can be changed.

    ``steering[i] = program`` (or a schedule, or None) holds from the next forward on. It changes tensors that keep
    their place on the device, so a step that was compiled, or captured into a graph, serves whatever is set later.

    Attributes:
        repeats: copies of each row of the model's batch at the sites where programs apply; :func:`sweep` makes them.
    """

    def __init__(
        self,
        model: nn.Module,
        sites: Sequence[Site],
        programs: Sequence[Program | Schedule | None],
        capacity: int | None,
    ) -> None:
        self._sites = list(sites)
        self._tables = ProgramTables(self._sites, programs, capacity)
        self._text_modules = self._find_text_modules(model)
        # Of each site the module that reads the text there; of an encoder-decoder model the encoder comes last.
        self._text_of: list[_TextModule | None] = [None] * len(sites)
        for text in self._text_modules:
            inside = set(text.module.modules())
            for position, site in enumerate(self._sites):
                if site.module in inside:
                    self._text_of[position] = text
        self._prompt_length: int | None = None
        self._text: Tensor | None = None  # with a column of False behind it
        self._counts = False  # whether _seen is the number of the text's tokens that forwards have read
        self.repeats = 1
        # Tensors made in inference mode could not be changed outside of it.
        with torch.inference_mode(False):
            self._prompt = torch.full((), NEVER, device=self._tables.device)
            self._seen = torch.zeros((), dtype=torch.int64, device=self._tables.device)
        for tensor in (self._prompt, self._seen):
            torch._dynamo.mark_static_address(tensor)  # a captured graph reads it in its place, without a copy

    def _find_text_modules(self, model: Any) -> list[_TextModule]:
        """The modules of the model that read a text."""
        decoder, *encoder = text_parts(model)
        read = [_TextModule(self, part, generates=False, prompted=True) for part in encoder]
        return [_TextModule(self, decoder, generates=True, prompted=not encoder), *read]

    def _summary(self) -> Summary:
        names = ["none" if program is None else program.name for program in self]
        facts = [f"{count(len(self), 'request')}: {few(names)}", f"{count(len(self._tables.touched), 'site')} touched"]
        return Summary(facts, ("request", "program"), enumerate(names), len(self))

    def __len__(self) -> int:
        return len(self._tables.programs)

    def __getitem__(self, request: Any) -> Any:
        return self._tables.programs[request]

    def __setitem__(self, request: int, program: Program | Schedule | None) -> None:
        """Steer a request by ``program`` from the next forward on; None leaves it alone.

        Raises:
            IndexError: there is no such request.
            InputError: as :func:`intervene`, or the program touches the output of a layer that no program touched when
                the context was opened; nothing has changed then.
        """
        programs = list(self._tables.programs)
        programs[request] = program
        for needed in distinct([program]):
            for name in _outputs(needed):
                if all(site.name != name for site in self._sites):
                    raise InputError(
                        f"program {needed.name!r} touches {name!r}, as no program did when the context was opened; "
                        "expected one at the same layers as those, or a context that is opened with it"
                    )
        self._tables.assign(programs)

    @property
    def touched(self) -> list[Site]:
        """The sites that a held program touches."""
        return [self._sites[position] for position in sorted(self._tables.touched)]

    @property
    def scheduled(self) -> bool:
        """Return whether the program of any request changes with the position in the text."""
        return bool(self._tables.changing or self._tables.splitting)

    @property
    def prompt_length(self) -> int | None:
        """Number of positions of the text that are its prompt, padding on the left included; None: all of them.

        In an encoder-decoder model the text is the decoder's; all that the encoder reads is prompt.

        ``model.generate`` sets it while it runs. Another decoding loop has to set it if schedules are to tell prompt
        and generated tokens apart. The position of a forward's first token is the length of the cache that the model
        is called with. If the cache is a state, which has no length (Mamba, RWKV), ``generate`` counts the tokens, and
        another loop has to give ``cache_position``.
        """
        return self._prompt_length

    @prompt_length.setter
    def prompt_length(self, length: int | None) -> None:
        self._prompt_length = length
        self._prompt.fill_(NEVER if length is None else length)

    @property
    def text(self) -> Tensor | None:
        """The text's own tokens inside a prompt: bool [R, T] for the positions from 0 on, padding included; None if it
        is not known which they are, as at first.

        All other given tokens, such as those beyond T, are the prompt's. In an encoder-decoder model the text is the
        encoder's, and all that the decoder is given is prompt. Of B rows of a batch row b has the mask's row
        ``b // (B // R)``. The mask holds for all forwards until it is set again. It is copied; one of the same shape
        keeps its place on the device, for any other a compiled step is made again.

        A forward is refused while the mask is None and a program distinguishes the text from the rest of the prompt.

        Raises:
            InputError: when set, the mask is no tensor bool [R, T].
        """
        return None if self._text is None else self._text[:, :-1]

    @text.setter
    def text(self, mask: Tensor | None) -> None:
        if mask is None:
            self._text = None
            return
        if mask.dtype != torch.bool or mask.dim() != 2:
            raise InputError(f"text is {mask.dtype} {list(mask.shape)}, expected torch.bool [rows, tokens]")
        with torch.inference_mode(False):  # a tensor made in inference mode could not be changed outside of it
            mask = nn.functional.pad(mask, (0, 1)).to(self._tables.device)
        if self._text is not None and self._text.shape == mask.shape:
            self._text.copy_(mask)
        else:
            self._text = mask

    @contextmanager
    def generating(self, counts: bool) -> Iterator[None]:
        """A call of ``generate``, perhaps inside another one; afterwards the prompt length and the count of tokens are
        as before. ``counts``: it begins without a state that has read tokens, so its tokens can be counted."""
        before, counted, seen = self._prompt_length, self._counts, self._seen.clone()
        self._counts = counts
        self._seen.zero_()
        try:
            yield
        finally:
            self.prompt_length, self._counts = before, counted
            self._seen.copy_(seen)

    def is_batch_first(self, shape: torch.Size) -> bool:
        """Return whether hidden states [*shape, H] of the forward that runs begin with the rows of the batch."""
        text = next((text for text in self._text_of if text is not None and text.rows is not None), None)
        if text is None:
            return True
        batch, length = text.shape[0] // self.repeats, text.shape[1]
        return shape[0] == batch and not (batch == length and text.time_first)

    def _needed(self, positions: Collection[int]) -> bool:
        return not self._tables.touched.isdisjoint(positions)

    def _kernel(self, position: int, gate: Tensor, up: Tensor | None, act: str, routed: Routed | None = None) -> Tensor:
        table = self._tables.table(position, gate)
        row = self._rows_of(position, gate.shape[:-1] if routed is None else torch.Size([routed.total]))
        if row.device != gate.device:
            row = row.to(gate.device)
        if routed is not None:  # the rows of an expert are those of its tokens
            row = row[routed.tokens]
        return steer_rows(gate, up, table, row, act)

    def _rows_of(self, position: int, shape: torch.Size) -> Tensor:
        """The table row of each row of an activation [*shape, F] of a site: int32 [N]."""
        n, text = shape.numel(), self._text_of[position]
        if text is None:
            return self._common_rows(position, n)
        if text.rows is None:
            # A block by itself, one that a checkpoint computes again, or the input of a model that reads no text.
            time_first = bool(text.time_first) and len(shape) == 2
            batch = shape[int(time_first)] if len(shape) == 2 else len(self)
            if n % batch:
                raise ValueError(f"{n} rows cannot be shared out to {batch} programs: expected a multiple")
            row = self._find_rows(text, batch, n // batch, 0 if text.generates else None)[position]
            return row.view(batch, -1).T.reshape(-1) if time_first else row
        batch, length = text.shape
        if n == batch * length:
            row = text.rows[position]
            return row.view(batch, length).T.reshape(-1) if text.is_time_first(shape) else row
        if n * self.repeats == batch * length:  # below the layer that repeats them: rows of no program
            return text.rows[position][:n]
        if len(shape) == 2 and shape[0] == batch and not self._is_timed(position):
            return self._find_rows(text, batch, n // batch, None)[position]  # padded, or with more tokens put before
        return self._common_rows(position, n)

    def _find_rows(self, text: _TextModule, batch: int, length: int, start: int | Tensor | None) -> tuple[Tensor, ...]:
        """The table row of each of the B·T flattened rows of a text, for each site: int32 [B·T], -1 if it is untouched.

        ``start`` is the position of the first of the T tokens; None if all of them are prompt.
        """
        requests = len(self)
        if batch % requests:
            raise ValueError(
                f"a batch of {batch} rows cannot be shared out to {requests} programs: expected a multiple of "
                f"{requests}"
            )
        device = self._tables.device
        if self._prompt.device != device:  # the model was moved since
            self._prompt, self._seen = self._prompt.to(device), self._seen.to(device)
        if isinstance(start, Tensor):
            start = start.to(device)
        steps = torch.arange(length, device=device) + (-length if start is None else start - self._prompt)
        return self._tables.rows(batch, steps, self._own_tokens(text, batch, length, start))

    def _own_tokens(self, text: _TextModule, batch: int, length: int, start: int | Tensor | None) -> Tensor | None:
        """bool [B, T]: the tokens that are the text's own; None if no program depends on it, or none of them can be."""
        if not self._tables.splitting:
            return None
        if self._text is None:
            raise InputError(
                "a program treats the text's own tokens otherwise than the rest of the prompt, and it is not known "
                "which they are: expected steering.text to be set"
            )
        if not text.prompted:
            return None
        mask = self._text = self._text.to(self._tables.device)
        rows = len(mask) * self.repeats
        if not rows or batch % rows:
            raise InputError(
                f"steering.text has {len(mask)} rows and the batch {batch // self.repeats}: expected a multiple"
            )
        position = torch.arange(length, device=mask.device) + (0 if start is None else start)
        own = mask[:, position.clamp(max=mask.shape[1] - 1)]
        return own.repeat_interleave(batch // rows, 0).repeat(self.repeats, 1)

    def _is_timed(self, position: int) -> bool:
        """Return whether the position of a token in the text matters at a site."""
        text = self._text_of[position]
        if position in self._tables.splitting and (text is None or text.prompted):
            return True
        timed = position in self._tables.changing and self._prompt_length is not None
        return timed and text is not None and text.generates

    def _common_rows(self, position: int, n: int) -> Tensor:
        """:meth:`_rows_of` for n rows of which neither the request nor the token is known."""
        if position in self._tables.differing or self._is_timed(position):
            raise InputError(
                f"{self._sites[position].name} reads {n} rows that are not the tokens of the requests' texts: expected "
                "one program for all requests there, and no schedule"
            )
        return self._tables.common_row(position).repeat(n)

    def _start(self, arguments: dict[str, Any], length: int) -> int | Tensor:
        """The position in the text of the first of the ``length`` tokens of the decoder's forward."""
        cache = next((arguments[name] for name in CACHES if arguments.get(name) is not None), None)
        known = None if cache is None else cache_length(cache)
        if known is not None:
            return known
        if cache is not None and self._counts:
            start = self._seen.clone()
            self._seen.add_(length)
            return start
        position = arguments.get("cache_position")
        if position is not None:
            return position.reshape(-1)[0]  # type: ignore[no-any-return]
        if cache is None:
            if self._counts:  # a state may come of it; not of another text that is read while generate runs
                self._seen.copy_(torch.where(self._seen == 0, length, self._seen))
            return 0
        if self._tables.splitting or (self._tables.changing and self._prompt_length is not None):
            raise InputError(
                f"a schedule is set, and the {type(cache).__name__} that the model is called with does not tell how "
                "many tokens it has read: expected a cache with a length, cache_position, or generate without a state"
            )
        return 0


class _TextModule:
    """A module that reads a text: the decoder of a model, or the encoder of an encoder-decoder model.

    Attributes:
        generates: a part of the text may be generated; otherwise all of it is prompt.
        prompted: :attr:`Steering.text` is a mask of its tokens; otherwise none of them is the text's own.
        shape: (B, T) of the text of the forward that runs.
        rows: table rows of that forward, int32 [B·T] for each site; None while no forward runs.
        time_first: activations are [T, B, F] instead of [B, T, F]; None while nothing has shown it.
    """

    def __init__(self, steering: Steering, module: nn.Module, generates: bool, prompted: bool) -> None:
        self.steering, self.module, self.generates, self.prompted = steering, module, generates, prompted
        self.names = parameters(module)
        self.shape = 0, 0
        self.rows: tuple[Tensor, ...] | None = None
        self.time_first: bool | None = None

    def begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        arguments = {**dict(zip(self.names, args, strict=False)), **kwargs}
        candidates = *args[:1], arguments.get("input_ids"), arguments.get("inputs_embeds")
        text = next((tensor for tensor in candidates if isinstance(tensor, Tensor)), None)
        # [B, T] token ids or [B, T, hidden] embeddings; for any other input the shapes at the sites decide.
        if text is None or text.dim() != (3 if text.is_floating_point() else 2):
            return
        batch, length = text.shape[:2]
        if batch == length > 1 and self.time_first is None:
            self.time_first = self.probed(batch, arguments)
        start = self.steering._start(arguments, length) if self.generates else None
        self.shape = batch * self.steering.repeats, length
        self.rows = self.steering._find_rows(self, *self.shape, start)

    def end(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self.rows = None

    def is_time_first(self, shape: torch.Size) -> bool:
        """Return whether an activation [*shape, F] of the text is [T, B, F]."""
        batch, length = self.shape
        if batch == 1 or length == 1 or len(shape) != 2:  # the same rows in either order
            return False
        shown = is_time_first(shape, batch, length)
        if shown is None:
            return bool(self.time_first)
        if not torch.compiler.is_compiling():
            self.time_first = shown
        return shown

    @torch.no_grad()
    def probed(self, batch: int, arguments: dict[str, Any]) -> bool | None:
        """Find out whether activations are [T, B, F] if B = T, from the input of the first site for the first row of
        the batch alone. None if no site or no program depends on it.

        This differs from the probe of :class:`Reader`, which reads a batch of its own making: a steered model need not
        take token ids, and may compute what a reader refuses.
        """
        steering = self.steering
        if not (steering._tables.differing or steering.scheduled):
            return None
        sites = zip(steering._sites, steering._text_of, strict=True)
        site = next((site for site, text in sites if text is self), None)
        if site is None:
            return None
        shapes: list[torch.Size] = []

        def look(_module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
            shapes.extend(value.shape for value in (*inputs, *named.values()) if isinstance(value, Tensor))
            raise _Looked

        def first(value: Tensor) -> Tensor:
            return value[:1] if value.dim() and len(value) == batch else value

        arguments = {**arguments, **{name: None for name in CACHES if name in self.names}}
        handle = site.module.register_forward_pre_hook(look, with_kwargs=True, prepend=True)
        try:
            self.module.forward(**torch.utils._pytree.tree_map_only(Tensor, first, arguments))
        except Exception:  # also _Looked; ``shapes`` tells whether the site was reached
            pass
        finally:
            handle.remove()
        if not shapes:
            raise InputError(
                f"the batch has {batch} rows of {batch} tokens, and it is not known which of the two comes first in "
                f"the activation of {site.name}: run the model on a batch of another shape first"
            )
        return len(shapes[0]) == 3 and shapes[0][1] == 1


class _Looked(Exception):
    """Ends a forward that was run to look at the input of one module."""

"""Run a model for what its neurons do, not for what it says: the part that reads the text, on batches padded right.

Apart because every pass that measures has the same forward. Whether padding reaches the text, and in which order the
sites see the tokens of a batch, is not asked of a config or a class: a tiny batch is read, and shows it.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import zip_longest
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from affectron import ops
from affectron.errors import InputError
from affectron.models import attaching as swap
from affectron.models import parallel
from affectron.models.discovery.sites import attach, check_adapter, evaluating, find_sites, has_adapter, unwrapped
from affectron.models.layout import Given, Kernel, KernelOrGiven, Routed, Site

# The probe: sentences, their tokens, and how many tokens of the first sentence never change. Sentences and tokens
# differ in number, so that the shapes [B, T, F] and [T, B, F] do.
_SENTENCES, _TOKENS, _KEPT = 2, 6, 3
# What rounding may move a value by, relative to the largest of its site: products of equal shape round alike, but in a
# mixture of experts a token's place among the rows of a product goes by its neighbours.
_ROUNDING = 16 * torch.finfo(torch.float32).eps
# The same between an attention kernel with a mask and one without.
_ALIKE = 1e-3


class Reader:
    """The part of ``model`` that reads the text: of an encoder and a decoder the encoder, else the model without its
    lm_head, whose product with the vocabulary nobody would read.

    Making one reads a batch of 2 sentences of 6 tokens a few times: twice for a causal model.

    Attributes:
        sites: the model's MLPs that are in it.
        causal: no token sees what follows it: padding on the right changes nothing, and no attention mask is passed.
        padding: whether it may stand beside a text, with a mask where there is one; else all texts of a batch have to
            be of one length.

    Raises:
        InputError: the model has no MLP that can be found, or a site whose rows are not the tokens of the batch; an
            adapter does more than change weights.
    """

    def __init__(self, model: Any) -> None:
        check_adapter(model)
        self.model = model
        sites = find_sites(model)
        if not hasattr(model, "can_generate"):
            kind = type(model).__name__
            raise InputError(
                f"model is a {kind}, expected one of transformers; a wrapper of torch holds it as its module"
            )
        self.body = _body(model)
        parts = set(self.body.modules())
        self.sites: list[Site] = [site for site in sites if site.module in parts]
        writes = bool(model.can_generate()) and not model.config.is_encoder_decoder
        self.options: dict[str, Any] = {"use_cache": False} if writes else {}
        # A fully sharded model gathers its weights for the forward of the whole: there the lm_head's product is made,
        # for one position.
        if parallel.is_fully_sharded(model):
            self.body = model
            if parallel.takes(model, "logits_to_keep"):
                self.options["logits_to_keep"] = 1
        self._shape = (0, 0)
        self.causal = writes
        self.padding = True
        with torch.no_grad(), evaluating(model):
            reached = self._probe()
            if self.causal and reached:
                # Without a mask the attention kernels take their causal path, so it is passed only where it matters.
                self.causal = False
                reached = self._probe()
        self.padding = not reached

    def __call__(self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> None:
        """A forward of tokens [B, T]; the mask is 0 at the padding, on the right.

        Raises:
            InputError: as :meth:`mask`.
        """
        self._forward(self.body, input_ids, attention_mask)

    def mask(self, attention_mask: NDArray[np.int64]) -> NDArray[np.int64] | None:
        """The mask to pass to the model: None where there is no need of one, or no place for it.

        Raises:
            InputError: there is padding, and the model's numbers depend on it.
        """
        if not self.padding and not attention_mask.all():
            raise InputError(
                f"{type(self.model).__name__} reads a sentence otherwise where padding follows it, even with an "
                "attention mask; expected sentences of one length in each batch"
            )
        return None if self.causal or not _takes_mask(self.body) else attention_mask

    def _forward(self, part: nn.Module, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> None:
        self._shape = input_ids.shape
        mask = self.mask(attention_mask)
        inputs = {"input_ids": input_ids} if mask is None else {"input_ids": input_ids, "attention_mask": mask}
        if self.model.config.is_encoder_decoder and part is self.model:
            inputs["decoder_input_ids"] = input_ids
        part(**{name: torch.from_numpy(value).to(self.model.device) for name, value in inputs.items()}, **self.options)

    @contextmanager
    def attach(self, kernel: Kernel, given: Given | None = None, sites: Sequence[Site] | None = None) -> Iterator[None]:
        """:func:`attach` at these of the reader's sites, or all: row ``b T + t`` of each is token t of sentence b.

        Raises:
            InputError: in a forward, a site has other rows.
        """
        attached = self.sites if sites is None else sites

        def checked(function: KernelOrGiven) -> KernelOrGiven:
            def call(position: int, *args: Any) -> Tensor:
                self._check(attached[position], args)
                return function(position, *args)

            return call

        with attach(attached, checked(kernel), checked(given or swap.by_identity(kernel))):
            yield

    def _check(self, site: Site, args: tuple[Any, ...]) -> None:
        """Raise InputError where the rows of a kernel's arguments are not as many as the batch's tokens."""
        if torch.compiler.is_compiling():  # the numbers would be guards: every shape would be compiled anew
            return
        rows = args[-1].total if isinstance(args[-1], Routed) else args[0].numel() // args[0].shape[-1]
        sentences, tokens = self._shape
        if rows != sentences * tokens:
            raise InputError(
                f"{site.name} of {type(self.model).__name__} reads {rows} rows where the batch has {sentences} x "
                f"{tokens} tokens, expected a row a token: the model pads, pools or cuts up the text on its way"
            )

    def _probe(self) -> bool:
        """Find out whether the last tokens of a sentence reach those before them, masked where a mask is passed, or the
        sentence beside it by being masked; and in which order each of ``sites`` sees the tokens."""
        embeddings = self.model.get_input_embeddings()
        known = getattr(embeddings, "num_embeddings", None) or self.model.config.get_text_config().vocab_size
        # From the middle of the vocabulary, as special tokens stand at its ends.
        plain = (known // 2 + np.arange(_SENTENCES * _TOKENS + _TOKENS - _KEPT)) % known
        ids = plain[: _SENTENCES * _TOKENS].reshape(_SENTENCES, _TOKENS)
        mask = np.ones_like(ids)
        if not self.causal:
            mask[0, _KEPT:] = 0
        before = self._activations(self.body, ids, mask)
        ids = ids.copy()
        ids[0, _KEPT:] = plain[_SENTENCES * _TOKENS :]
        after = self._activations(self.body, ids, mask)
        reached = False
        for site, change, largest in self._changes(before, after):
            # In an expert the rows are placed by the block that routes tokens to it.
            if site.expert is None and site.owner is None and int(change.argmax()) >= _TOKENS:
                raise InputError(
                    f"{site.name} of {type(self.model).__name__} reads the tokens of a batch in an order that is not "
                    "known, expected one sentence after the other"
                )
            reached |= not bool(change[:_KEPT].max() <= _ROUNDING * largest)
        if not self.causal:
            # Some models read all sentences otherwise where one is padded: Llama with is_causal off in its attention.
            alike = max(_ALIKE, 8 * torch.finfo(self.model.dtype).eps)
            for _, change, largest in self._changes(after, self._activations(self.body, ids, np.ones_like(ids))):
                reached |= not bool(change[_TOKENS:].max() <= alike * largest)
        if self.body is not self.model and has_adapter(self.model):
            for site, change, largest in self._changes(after, self._activations(self.model, ids, mask)):
                if not bool(change.max() <= _ROUNDING * largest):
                    raise InputError(
                        f"{type(self.model).__name__} computes {site.name} otherwise than the model in it, which is "
                        "what is read; expected an adapter that needs no more than the text"
                    )
        return reached

    def _changes(
        self, before: dict[int, list[Tensor]], after: dict[int, list[Tensor]]
    ) -> Iterator[tuple[Site, Tensor, float]]:
        """For each site and call the largest difference between two forwards in each row [B T], and the largest
        activation."""
        for position, site in enumerate(self.sites):
            for first, second in zip_longest(before.get(position, ()), after.get(position, ())):
                present = first if second is None else second  # an expert that no token was routed to is not called
                one, other = (torch.zeros_like(present) if table is None else table for table in (first, second))
                same = (one == other) | (one.isnan() & other.isnan())
                change = (one - other).abs().masked_fill(same, 0).amax(-1)
                yield site, change, float(present.nan_to_num(0, 0, 0).abs().max())

    def _activations(self, part: nn.Module, ids: NDArray[np.int64], mask: NDArray[np.int64]) -> dict[int, list[Tensor]]:
        """The activation of each site in each of its calls, fp32 [B T, F], row ``b T + t`` that of token t of sentence
        b; an expert's is 0 where a token is not routed to it."""
        seen: dict[int, list[Tensor]] = {}

        def given(position: int, h: Tensor, _gate: Tensor | None, routed: Routed | None = None) -> Tensor:
            rows = h.float().reshape(-1, h.shape[-1])
            if routed is not None:
                whole = rows.new_zeros(routed.total, h.shape[-1]).index_add(0, routed.tokens, rows)
                seen[position] = [seen.get(position, [torch.zeros_like(whole)])[0] + whole]
            else:
                if h.shape[:-1] == (_TOKENS, _SENTENCES):
                    self.sites[position] = replace(self.sites[position], time_first=True)
                    rows = h.float().transpose(0, 1).reshape(-1, h.shape[-1])
                seen.setdefault(position, []).append(rows)
            return h

        def kernel(position: int, gate: Tensor, up: Tensor | None, act: str, routed: Routed | None = None) -> Tensor:
            return given(position, ops.glu(gate, up, act), None, routed)

        with self.attach(kernel, given, list(self.sites)):
            self._forward(part, ids, mask)
        return seen


def _takes_mask(body: nn.Module) -> bool:
    parameters = inspect.signature(body.forward).parameters
    return "attention_mask" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def _body(model: Any) -> nn.Module:
    bare: Any = unwrapped(model)
    if getattr(getattr(bare, "config", None), "is_encoder_decoder", False):
        return bare.get_encoder()  # type: ignore[no-any-return]
    return getattr(bare, "base_model", bare)  # type: ignore[no-any-return]

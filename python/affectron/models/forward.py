"""Forwards that measure: the part of a model that reads the text, on batches padded on the right.

No config and no class tells whether padding reaches the text, and in which order the sites see the tokens of a batch:
the model reads a tiny batch, which shows both.
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
from affectron._internal.names import LAYERS
from affectron.errors import InputError
from affectron.models import parallel
from affectron.models.attaching import attach
from affectron.models.chain import Given, Kernel, Routed
from affectron.models.discovery.sites import find_sites
from affectron.models.layers import find_layers
from affectron.models.layout import Site, is_time_first
from affectron.models.wrappers import check_adapter, has_adapter, unwrapped
from affectron.options import ScreenSites

# The tiny batch: sentences, their tokens, and the tokens of the first sentence that never change. Sentences and tokens
# differ in number, so that the shapes [B, T, F] and [T, B, F] do.
_SENTENCES, _TOKENS, _KEPT = 2, 6, 3
# Change of a value by rounding, relative to the largest of its site: products of equal shape round alike, but in a
# mixture of experts a token's neighbours decide its place among the rows of a product.
_ROUNDING = 16 * torch.finfo(torch.float32).eps
# The same between an attention kernel with a mask and one without.
_MASK_ROUNDING = 1e-3


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put every module into evaluation mode, and each back into its own mode afterwards."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


class Reader:
    """The part of ``model`` that reads the text: of an encoder-decoder model the encoder, of others the model without
    its lm_head, whose product with the vocabulary nothing needs.

    Making a reader runs forwards of 2 sentences of 6 tokens, two for a causal model.

    Args:
        model: the model.
        at: the sites that are read: the MLPs (``neurons``), or the outputs of the layers.

    Attributes:
        sites: the sites in that part.
        causal: no token sees those that follow it: padding on the right changes nothing, and no attention mask is
            passed.
        padding: a text may be padded, with a mask if the model takes one. If false, all texts of a batch must have one
            length.

    Raises:
        InputError: no such site is found, a site whose rows are not the tokens of the batch, or an adapter that does
            more than change weights.
    """

    def __init__(self, model: Any, at: str = ScreenSites.at) -> None:
        check_adapter(model)
        self.model = model
        sites = find_layers(model) if at == LAYERS else find_sites(model)
        if not hasattr(model, "can_generate"):
            kind = type(model).__name__
            raise InputError(
                f"model is a {kind}, expected one of transformers; a wrapper of torch holds it as its module"
            )
        self.body = body(model)
        modules = set(self.body.modules())
        self.sites: list[Site] = [site for site in sites if site.module in modules]
        writes = bool(model.can_generate()) and not model.config.is_encoder_decoder
        self.options: dict[str, Any] = {"use_cache": False} if writes else {}
        # A fully sharded model gathers its weights for the forward of the whole: it computes the lm_head's product, for
        # one position.
        if parallel.is_fully_sharded(model):
            self.body = model
            if "logits_to_keep" in inspect.signature(model.forward).parameters:
                self.options["logits_to_keep"] = 1
        self._shape = (0, 0)
        self.causal = writes
        self.padding = True
        with torch.no_grad(), evaluating(model):
            reached = self._probe()
            if self.causal and reached:
                # Without a mask the attention kernels take their causal path, so a mask is passed only if it matters.
                self.causal = False
                reached = self._probe()
        self.padding = not reached

    def __call__(self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> None:
        """Run a forward of tokens [B, T]; the mask [B, T] is 0 at the padding, on the right.

        Raises:
            InputError: as :meth:`mask`.
        """
        self._forward(self.body, input_ids, attention_mask)

    def mask(self, attention_mask: NDArray[np.int64]) -> NDArray[np.int64] | None:
        """The mask to pass to the model: None if it needs none or takes none.

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
        """:func:`attach` at these of the reader's sites, or at all: row ``b T + t`` of each is token t of sentence b.

        Raises:
            InputError: in a forward, a site has other rows.
        """
        attached = self.sites if sites is None else sites

        def checked(position: int, gate: Tensor, up: Tensor | None, act: str, *routed: Routed | None) -> Tensor:
            self._check(attached[position], gate, *routed)
            return kernel(position, gate, up, act, *routed)

        def checked_given(position: int, h: Tensor, gate: Tensor | None, *routed: Routed | None) -> Tensor:
            self._check(attached[position], h, *routed)
            assert given is not None
            return given(position, h, gate, *routed)

        with attach(attached, checked, None if given is None else checked_given):
            yield

    def _check(self, site: Site, h: Tensor, routed: Routed | None = None) -> None:
        """Raise InputError if the rows of a kernel's argument are not as many as the tokens of the batch."""
        if torch.compiler.is_compiling():  # the numbers would be guards: each shape would be compiled anew
            return
        rows = h.numel() // h.shape[-1] if routed is None else routed.total
        sentences, tokens = self._shape
        if rows != sentences * tokens:
            raise InputError(
                f"{site.name} of {type(self.model).__name__} reads {rows} rows where the batch has {sentences} x "
                f"{tokens} tokens, expected a row a token: the model pads, pools or cuts up the text on its way"
            )

    def _probe(self) -> bool:
        """Read the tiny batch. Returns whether the last tokens of a sentence reach those before them, although masked
        if a mask is passed, or, by being masked, the sentence beside it. Sets ``time_first`` of ``sites``."""
        embeddings = self.model.get_input_embeddings()
        vocabulary = getattr(embeddings, "num_embeddings", None) or self.model.config.get_text_config().vocab_size
        # From the middle of the vocabulary, because special tokens stand at its ends.
        plain = (vocabulary // 2 + np.arange(_SENTENCES * _TOKENS + _TOKENS - _KEPT)) % vocabulary
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
            # The block that routes tokens to an expert places the expert's rows.
            if site.expert is None and site.owner is None and int(change.argmax()) >= _TOKENS:
                raise InputError(
                    f"{site.name} of {type(self.model).__name__} reads the tokens of a batch in an order that is not "
                    "known, expected one sentence after the other"
                )
            reached |= not bool(change[:_KEPT].max() <= _ROUNDING * largest)
        if not self.causal:
            # Some models read all sentences otherwise if one is padded: Llama with is_causal off in its attention.
            tolerance = max(_MASK_ROUNDING, 8 * torch.finfo(self.model.dtype).eps)
            for _, change, largest in self._changes(after, self._activations(self.body, ids, np.ones_like(ids))):
                reached |= not bool(change[_TOKENS:].max() <= tolerance * largest)
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
        """For each site and call: the largest difference between two forwards in each row, fp32 [B T], and the largest
        activation."""
        for position, site in enumerate(self.sites):
            for first, second in zip_longest(before.get(position, ()), after.get(position, ())):
                present = first if second is None else second  # an expert without tokens is not called
                old, new = (torch.zeros_like(present) if h is None else h for h in (first, second))
                same = (old == new) | (old.isnan() & new.isnan())
                change = (old - new).abs().masked_fill(same, 0).amax(-1)
                yield site, change, float(present.nan_to_num(0, 0, 0).abs().max())

    def _activations(self, part: nn.Module, ids: NDArray[np.int64], mask: NDArray[np.int64]) -> dict[int, list[Tensor]]:
        """The activation of each site in each of its calls, fp32 [B T, F]: row ``b T + t`` is token t of sentence b. An
        expert's is 0 for a token that is not routed to it."""
        activations: dict[int, list[Tensor]] = {}

        def given(position: int, h: Tensor, _gate: Tensor | None, routed: Routed | None = None) -> Tensor:
            rows = h.float().reshape(-1, h.shape[-1])
            if routed is not None:
                whole = rows.new_zeros(routed.total, h.shape[-1]).index_add(0, routed.tokens, rows)
                activations[position] = [activations.get(position, [torch.zeros_like(whole)])[0] + whole]
            else:
                if is_time_first(h.shape[:-1], _SENTENCES, _TOKENS):
                    self.sites[position] = replace(self.sites[position], time_first=True)
                    rows = h.float().transpose(0, 1).reshape(-1, h.shape[-1])
                activations.setdefault(position, []).append(rows)
            return h

        def kernel(position: int, gate: Tensor, up: Tensor | None, act: str, routed: Routed | None = None) -> Tensor:
            return given(position, ops.glu(gate, up, act), None, routed)

        with self.attach(kernel, given, list(self.sites)):
            self._forward(part, ids, mask)
        return activations


def _takes_mask(body: nn.Module) -> bool:
    parameters = inspect.signature(body.forward).parameters
    return "attention_mask" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def body(model: Any) -> nn.Module:
    """The part of a model that reads the text: of an encoder-decoder model the encoder, of others the model without its
    lm_head."""
    inner: Any = unwrapped(model)
    if getattr(getattr(inner, "config", None), "is_encoder_decoder", False):
        return inner.get_encoder()  # type: ignore[no-any-return]
    return getattr(inner, "base_model", inner)  # type: ignore[no-any-return]

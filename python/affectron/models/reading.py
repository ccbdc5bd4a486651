"""Run a model for what its neurons do, not for what it says: the part that reads the text, on batches padded right.

Apart because every pass that measures has the same forward.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from affectron.models import parallel
from affectron.models.layout import Site
from affectron.models.sites import find_sites, unwrapped


class Reader:
    """The part of ``model`` that reads the text: of an encoder and a decoder the encoder, else the model without its
    lm_head, whose product with the vocabulary nobody would read.

    Attributes:
        sites: the model's MLPs that are in it.

    Raises:
        InputError: the model has no MLP that can be found.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        sites = find_sites(model)
        self.body = _body(model)
        parts = set(self.body.modules())
        self.sites: list[Site] = [site for site in sites if site.module in parts]
        # No token of a right-padded sentence can see the padding behind it: then a mask would change nothing, and
        # without one the attention kernels take their causal path.
        self.causal = bool(model.can_generate()) and not model.config.is_encoder_decoder
        self.options: dict[str, Any] = {"use_cache": False} if self.causal else {}
        # A fully sharded model gathers its weights for the forward of the whole: there the lm_head's product is made,
        # for one position.
        if parallel.is_fully_sharded(model):
            self.body = model
            if parallel.takes(model, "logits_to_keep"):
                self.options["logits_to_keep"] = 1

    def __call__(self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> None:
        """A forward of tokens [B, T]; the mask is 0 at the padding, on the right."""
        inputs = {"input_ids": input_ids} if self.causal else {"input_ids": input_ids, "attention_mask": attention_mask}
        self.body(
            **{name: torch.from_numpy(value).to(self.model.device) for name, value in inputs.items()}, **self.options
        )


def _body(model: Any) -> nn.Module:
    bare: Any = unwrapped(model)
    if getattr(getattr(bare, "config", None), "is_encoder_decoder", False):
        return bare.get_encoder()  # type: ignore[no-any-return]
    return getattr(bare, "base_model", bare)  # type: ignore[no-any-return]

"""Quantiles of the absolute activations of every neuron, which statistics do not hold."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from affectron import ops
from affectron._internal.checks import UNIT, check
from affectron.corpus import Corpus, Sentence
from affectron.corpus.batching import batches
from affectron.errors import InputError
from affectron.models import Reader, Routed, evaluating, max_length, parallel
from affectron.ops.float64 import float64_device
from affectron.options import Read

#: Bytes of the activations that are kept.
MEMORY = 1 << 32


def magnitude_quantiles(
    model: Any,
    tokenizer: Any,
    corpus: Corpus,
    quantile: float = 0.99,
    *,
    sentences: Sequence[Sentence] | None = None,
    template: str = Read.template,
    count_special: bool = Read.count_special,
    batch_tokens: int = Read.batch_tokens,
    memory: int = MEMORY,
) -> dict[str, NDArray[np.float32]]:
    """Measure a quantile of |h| of every neuron over the counted tokens of some sentences, in one pass.

    The quantile is exact, interpolated linearly between two tokens. A token at which h is not finite does not count.
    Only the largest |h| of a neuron are kept, as many as the quantile needs: 1 % of the tokens for 0.99.

    Args:
        sentences: sentences of the corpus; all if None.
        template, count_special, batch_tokens: as in :func:`affectron.screen`.
        memory: most bytes of the kept activations.

    Returns:
        site -> float32 [F]; 0 for a neuron without a finite activation.

    Raises:
        InputError: the quantile is out of range, the activations to keep are above ``memory``, the corpus or template
            is unusable, or as :class:`affectron.models.Reader`.
    """
    check("quantile", quantile, UNIT)
    reader = Reader(model)
    source = batches(
        corpus, tokenizer, batch_tokens=batch_tokens, template=template, count_special=count_special,
        max_length=max_length(model), padding=reader.padding, sentences=sentences,
    )  # fmt: skip
    read = list(source)
    tokens = sum(int(batch.counted.sum()) for batch in read)
    work = _Largest(reader, quantile, tokens)
    needed = 4 * work.most * sum(site.neurons for site in reader.sites)
    if needed > memory:
        raise InputError(
            f"the {quantile:g} quantile over {tokens:,} tokens needs {needed:,} bytes, expected at most {memory:,}; "
            "read fewer sentences"
        )
    with torch.no_grad(), evaluating(model), reader.attach(work.kernel, work.given):
        for batch in read:
            work.counted = torch.from_numpy(batch.counted)
            reader(batch.input_ids, batch.attention_mask)
    return {site.name: work.quantiles(position) for position, site in enumerate(reader.sites)}


class _Largest:
    """The largest absolute activations of every neuron so far, over at most ``tokens`` tokens.

    Attributes:
        most: number of values of a neuron that the quantile may need: it lies between two of them.
        counted: bool [B, T], the tokens of the batch that is read that count.
    """

    def __init__(self, reader: Reader, quantile: float, tokens: int) -> None:
        self.sites, self.quantile = reader.sites, quantile
        self.most = min(math.ceil((1 - quantile) * tokens) + 2, tokens)
        self.group = parallel.tensor_group(reader.model)
        self.counted = torch.zeros((0, 0), dtype=torch.bool)
        # Of each site: the values [k, F], and the number of finite ones of each neuron [F].
        self.kept: list[tuple[Tensor, Tensor] | None] = [None] * len(self.sites)

    def kernel(self, position: int, gate: Tensor, up: Tensor | None, act: str, routed: Routed | None = None) -> Tensor:
        """:class:`affectron.models.Kernel`: compute h and keep the largest."""
        return self.given(position, ops.glu(gate, up, act), gate, routed)

    def given(self, position: int, h: Tensor, gate: Tensor | None, routed: Routed | None = None) -> Tensor:
        """:class:`affectron.models.Given`: keep the largest and return h."""
        counted = self.counted.to(h.device).flatten()
        if routed is not None:
            counted = counted[routed.tokens]
        values = h.reshape(-1, h.shape[-1])[counted].float().abs()
        finite = values.isfinite()
        values = values.where(finite, -1.0)  # below every magnitude
        seen = finite.sum(0)
        kept = self.kept[position]
        if kept is not None:
            values, seen = torch.cat([kept[0], values]), kept[1] + seen
        self.kept[position] = values.topk(min(self.most, len(values)), dim=0).values, seen
        return h

    def quantiles(self, position: int) -> NDArray[np.float32]:
        """float32 [F]: the quantile of every neuron of a site."""
        site, kept = self.sites[position], self.kept[position]
        if kept is None or not len(kept[0]):  # an expert that no token was routed to
            return np.zeros(site.neurons, dtype=np.float32)
        values, seen = (part.to(float64_device(part.device)) for part in kept)
        # Descending from the largest value, at rank 0, the quantile is at this rank, between two values.
        last = (seen - 1).clamp(min=0).double()
        rank = last - self.quantile * last
        low = rank.floor()
        upper, lower = (values.gather(0, place.long()[None])[0].double() for place in (low, rank.ceil()))
        found = (upper + (rank - low) * (lower - upper)).float().where(seen > 0, 0.0)
        if self.group is not None and len(found) < site.neurons:
            found = parallel.assemble(found, parallel.local_neurons(site, len(found)), site.neurons, self.group)
        return found.cpu().numpy()

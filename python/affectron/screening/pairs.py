"""Screening of contrastive pairs: two texts each that differ in what a label names and are otherwise equal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from affectron import ops
from affectron._internal.arguments import checked_arguments
from affectron._internal.options import documented
from affectron._internal.overlap import hashed
from affectron._internal.progress import track
from affectron.corpus import Sentence
from affectron.corpus.encoding import Encoded, encode, template_frame
from affectron.corpus.pairs import Pair
from affectron.errors import InputError
from affectron.models import Reader, Routed, Site, evaluating, max_length, parallel
from affectron.models.provenance import made_with
from affectron.options import ScreenPairs
from affectron.screening.accumulate import whole_arrays
from affectron.stats import PAIRS, ActivationStats, check_finite


@checked_arguments
@documented(ScreenPairs)
def screen_pairs(
    model: Any,
    tokenizer: Any,
    pairs: Sequence[Pair],
    *,
    template: str = ScreenPairs.template,
    batch_tokens: int = ScreenPairs.batch_tokens,
    task: str = ScreenPairs.task,
    progress: bool = False,
) -> ActivationStats:
    """Screen pairs: of each pair and neuron, the mean of h over the tokens of the text minus that over the other's.

    An expert sees only the tokens that are routed to it: its means are over the tokens of each text that reached it,
    and a pair is an observation of the expert only if tokens of both texts did.

    Args:
        model: as in :func:`affectron.screen`.
        tokenizer: its tokenizer.
        pairs: at least one.
        {options}
        progress: show a bar on stderr.

    Returns:
        statistics whose observations are pairs: ``mean`` and ``m2`` are of the differences, ``active`` counts those
        above zero (the sign test), ``count`` the pairs of the label that were observed. The scores ``paired_t``,
        ``paired_d`` and ``paired_p`` of ``affectron.scores`` read them, and :func:`affectron.select` selects by them.

    Raises:
        InputError: no pair, an unusable template, a text that has no token, or a site without a finite difference.
    """
    if not pairs:
        raise InputError("pairs is empty, expected at least one")
    labels = sorted({pair.label for pair in pairs})
    segments = np.array([labels.index(pair.label) for pair in pairs])
    reader = Reader(model)
    sentences = [
        Sentence(text, (pair.label,), None, str(number))
        for number, pair in enumerate(pairs)
        for text in (pair.text, pair.other)
    ]
    encoded = encode(tokenizer, sentences, template, max_length=max_length(model))
    for entry in encoded:
        if not any(entry.counted):
            raise InputError(f"pair {int(entry.sentence.id) + 1}: text {entry.sentence.text!r} has no token of its own")
    differences = _Differences(model, len(labels))
    with (
        torch.no_grad(),
        evaluating(model),
        reader.attach(differences.kernel),
        track("screening pairs", len(pairs), progress) as advance,
    ):
        done = 0
        for batch in _batches(encoded, batch_tokens):
            differences.start(batch.counted, segments[batch.pairs])
            reader(batch.input_ids, batch.attention_mask)
            done += len(batch.pairs)
            advance(done)
    arrays = {site.name: differences.arrays(position, site) for position, site in enumerate(reader.sites)}
    provenance = {
        **made_with(model, tokenizer),
        "tokens": PAIRS,
        "active": "product",
        "template": template,
        "added_bos": template_frame(tokenizer, template).added_bos,
        "pairs": len(pairs),
    }
    screened = hashed(text for pair in pairs for text in (pair.text, pair.other))
    stats = ActivationStats({task: labels}, [(label,) for label in labels], arrays, provenance, screened)
    check_finite([stats])
    return stats


class _Batch(NamedTuple):
    """K pairs of about one length: the K texts, then the K others.

    Attributes:
        pairs: numbers of the pairs.
        input_ids, attention_mask: int64 [2K, T], padded on the right.
        counted: bool [2K, T], the tokens of the texts themselves.
    """

    pairs: list[int]
    input_ids: NDArray[np.int64]
    attention_mask: NDArray[np.int64]
    counted: NDArray[np.bool_]


def _batches(encoded: Sequence[Encoded], batch_tokens: int) -> Iterator[_Batch]:
    """Batches of up to ``batch_tokens`` tokens, the longest pairs first; texts 2k and 2k + 1 are pair k."""
    widths = [max(len(text.input_ids) for text in encoded[2 * k : 2 * k + 2]) for k in range(len(encoded) // 2)]
    order = sorted(range(len(widths)), key=lambda k: -widths[k])
    while order:
        width = widths[order[0]]
        size = max(batch_tokens // (2 * width), 1)
        chosen, order = order[:size], order[size:]
        texts = [encoded[2 * k] for k in chosen] + [encoded[2 * k + 1] for k in chosen]
        ids, mask = np.zeros((2, len(texts), width), dtype=np.int64)
        counted = np.zeros((len(texts), width), dtype=np.bool_)
        for row, text in enumerate(texts):
            ids[row, : len(text.input_ids)] = text.input_ids
            mask[row, : len(text.input_ids)] = 1
            counted[row, : len(text.counted)] = text.counted
        yield _Batch(chosen, ids, mask, counted)


class _Differences:
    """The statistics of the paired differences at each site; ``segments`` is the number of labels."""

    def __init__(self, model: Any, segments: int) -> None:
        self.segments = segments
        self.tensor_group = parallel.tensor_group(model)
        self.buffers: dict[int, ops.StatsBuffers] = {}
        self.counted: Tensor  # bool [2K, T]
        self.rows: Tensor  # int64 [K], the label of each pair

    def start(self, counted: NDArray[np.bool_], rows: NDArray[np.int64]) -> None:
        """Take the counted tokens and the labels of the batch that is read next."""
        self.counted, self.rows = torch.from_numpy(counted), torch.from_numpy(rows)

    def kernel(self, position: int, gate: Tensor, up: Tensor | None, act: str, routed: Routed | None = None) -> Tensor:
        """:class:`affectron.models.Kernel`: compute h and add the differences of its means."""
        h = ops.glu(gate, up, act)
        means, present = _means(h, self.counted.to(h.device), routed)
        half = len(means) // 2
        rows = torch.where(present[:half] & present[half:], self.rows.to(h.device), -1)
        if position not in self.buffers:  # made on the device of the activation: weights on disk have none
            self.buffers[position] = self._blank(h.shape[-1], h.device)
        plan = ops.SegmentPlan(rows, self.segments)
        ops.neuron_stats(means[:half] - means[half:], plan, self.buffers[position])
        return h

    def _blank(self, neurons: int, device: torch.device | str = "cpu") -> ops.StatsBuffers:
        return ops.StatsBuffers(self.segments, neurons, "product", device=device)

    def arrays(self, position: int, site: Site) -> dict[str, NDArray[Any]]:
        """The statistics of a site; those of no pairs for an expert that none reached."""
        return whole_arrays(self.buffers.get(position, self._blank(site.neurons)), site, self.tensor_group)


def _means(h: Tensor, counted: Tensor, routed: Routed | None) -> tuple[Tensor, Tensor]:
    """The mean of h [..., F] over the ``counted`` tokens, bool [R, T], of each row, fp32 [R, F], and whether a row has
    any, bool [R]. At an expert only the tokens routed to it count."""
    tokens = torch.arange(counted.numel(), device=h.device) if routed is None else routed.tokens
    order = tokens.argsort(stable=True)  # in the order of the batch the tokens of a row are next to one another
    order = order[counted.flatten()[tokens[order]]]
    number = torch.bincount(tokens[order] // counted.shape[1], minlength=len(counted))
    parts = h.reshape(-1, h.shape[-1])[order].split(number.tolist())
    total = torch.stack([part.float().sum(0) for part in parts])
    return total / number.clamp(min=1)[:, None], number > 0

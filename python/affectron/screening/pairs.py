"""Contrastive pairs: two texts a row that differ in what a label names, and what each neuron does to the difference.

Apart from the screening of labelled sentences, which compares groups; within a pair everything else is held equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from affectron import ops
from affectron._internal.overlap import hashed
from affectron._internal.progress import track
from affectron.corpus import DEFAULT_TASK, Sentence
from affectron.corpus.encoding import Encoded, encode, template_frame
from affectron.corpus.pairs import Pair
from affectron.errors import InputError
from affectron.models import Reader, Routed, evaluating, max_length
from affectron.models.provenance import made_with
from affectron.stats import FIELDS, PAIRS, ActivationStats, check_finite


def screen_pairs(
    model: Any,
    tokenizer: Any,
    pairs: Sequence[Pair],
    *,
    template: str = "{text}",
    batch_tokens: int = 8192,
    task: str = DEFAULT_TASK,
    progress: bool = False,
) -> ActivationStats:
    """Statistics of the paired differences: of each pair and neuron, the mean of h over the text's tokens less that
    over the other's.

    An expert sees those tokens alone that are routed to it: the means are over the tokens of each text that reached it,
    and a pair of which either text has none is no observation of that expert.

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
    reader = Reader(model)
    buffers: dict[int, ops.StatsBuffers] = {}
    sentences = [
        Sentence(text, (pair.label,), None, str(place))
        for place, pair in enumerate(pairs)
        for text in (pair.text, pair.other)
    ]
    encoded = encode(tokenizer, sentences, template, max_length=max_length(model))
    for one in encoded:
        if not any(one.counted):
            raise InputError(f"pair {int(one.sentence.id) + 1}: text {one.sentence.text!r} has no token of its own")
    order = sorted(range(len(pairs)), key=lambda k: -_width(encoded, k))
    counted: Tensor  # bool [2K, T], of the texts of K pairs and then the others
    segments: Tensor  # int64 [K]

    def kernel(position: int, gate: Tensor, up: Tensor | None, act: str, routed: Routed | None = None) -> Tensor:
        h = ops.glu(gate, up, act)
        means, seen = _means(h, counted.to(h.device), routed)
        half = len(means) // 2
        observed = torch.where(seen[:half] & seen[half:], segments.to(h.device), -1)
        if position not in buffers:  # where the activation is computed: weights kept on disk have no device
            buffers[position] = ops.StatsBuffers(len(labels), h.shape[-1], "product", device=h.device)
        plan = ops.SegmentPlan(observed, len(labels))
        ops.neuron_stats(means[:half] - means[half:], plan, buffers[position])
        return h

    with (
        torch.no_grad(),
        evaluating(model),
        reader.attach(kernel),
        track("screening pairs", len(pairs), progress) as advance,
    ):
        done = 0
        while done < len(order):
            width = _width(encoded, order[done])
            chosen = order[done : done + max(batch_tokens // (2 * width), 1)]
            rows = [encoded[2 * k] for k in chosen] + [encoded[2 * k + 1] for k in chosen]
            ids, mask = np.zeros((2, len(rows), width), dtype=np.int64)
            own = np.zeros((len(rows), width), dtype=np.bool_)
            for row, one in enumerate(rows):
                ids[row, : len(one.input_ids)] = one.input_ids
                mask[row, : len(one.input_ids)] = 1
                own[row, : len(one.counted)] = one.counted
            counted = torch.from_numpy(own)
            segments = torch.tensor([labels.index(pairs[k].label) for k in chosen])
            reader(ids, mask)
            done += len(chosen)
            advance(done)
    arrays = {}
    for position, site in enumerate(reader.sites):
        final = buffers.get(position, ops.StatsBuffers(len(labels), site.neurons, "product")).finalize()
        arrays[site.name] = {name: getattr(final, name).cpu().numpy() for name in FIELDS}
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


def _means(h: Tensor, counted: Tensor, routed: Routed | None) -> tuple[Tensor, Tensor]:
    """fp32 [R, F], the mean of h [..., F] over those tokens of each row that ``counted`` [R, T] tells (in an expert,
    those of them that are routed to it), and bool [R], whether a row has any."""
    tokens = torch.arange(counted.numel(), device=h.device) if routed is None else routed.tokens
    order = tokens.argsort(stable=True)  # in the order of the batch a row's tokens are next to one another
    order = order[counted.flatten()[tokens[order]]]
    number = torch.bincount(tokens[order] // counted.shape[1], minlength=len(counted))
    parts = h.reshape(-1, h.shape[-1])[order].split(number.tolist())
    total = torch.stack([part.float().sum(0) for part in parts])
    return total / number.clamp(min=1)[:, None], number > 0


def _width(encoded: Sequence[Encoded], pair: int) -> int:
    return max(len(encoded[2 * pair].input_ids), len(encoded[2 * pair + 1].input_ids))

"""Contrastive pairs: two texts a row that differ in what a label names, and what each neuron does to the difference.

Apart from the screening of labelled sentences, which compares groups; within a pair everything else is held equal.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import special
from torch import Tensor

from affectron import ops
from affectron.batching import Encoded, encode
from affectron.corpus import DEFAULT_TASK, Sentence
from affectron.errors import InputError
from affectron.models import Reader, attach, config_hash, evaluating, fingerprint, max_length, tokenizer_hash
from affectron.progress import track
from affectron.stats import FIELDS, ActivationStats

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Pair:
    """A text that has the label and one that differs from it in not having it."""

    label: str
    text: str
    other: str


def read_pairs(records: Iterable[Mapping[str, Any]]) -> list[Pair]:
    """Pairs from mappings with ``label``, ``text`` and ``other``.

    Raises:
        InputError: a field is missing or is not text; names the record, from 1. Or there is no record.
    """
    pairs = []
    for number, record in enumerate(records, start=1):
        for field in ("label", "text", "other"):
            value = record.get(field)
            if not isinstance(value, str) or not value.strip():
                raise InputError(f"pair {number}: {field} is {value!r}, expected text")
        pairs.append(Pair(record["label"], record["text"], record["other"]))
    if not pairs:
        raise InputError("pairs is empty, expected at least one")
    return pairs


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

    Returns:
        statistics whose observations are pairs: ``mean`` and ``m2`` are of the differences, ``active`` counts those
        above zero (the sign test), ``count`` the pairs of the label. :func:`paired_t` reads them.

    Raises:
        InputError: no pair, an unusable template, or a text that has no token.
    """
    if not pairs:
        raise InputError("pairs is empty, expected at least one")
    labels = sorted({pair.label for pair in pairs})
    reader = Reader(model)
    buffers = [
        ops.StatsBuffers(len(labels), site.neurons, "product", device=next(site.module.parameters()).device)
        for site in reader.sites
    ]
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
    weights: Tensor
    plan: ops.SegmentPlan

    def kernel(position: int, gate: Tensor, up: Tensor | None, act: str) -> Tensor:
        h = ops.glu(gate, up, act)
        states = h.view(*weights.shape, -1).float()
        means = torch.einsum("bt,btf->bf", weights.to(h.device), states)
        half = len(means) // 2
        ops.neuron_stats(means[:half] - means[half:], plan, buffers[position])
        return h

    with (
        torch.no_grad(),
        evaluating(model),
        attach(reader.sites, kernel),
        track("screening pairs", len(pairs), progress) as advance,
    ):
        done = 0
        while done < len(order):
            width = _width(encoded, order[done])
            chosen = order[done : done + max(batch_tokens // (2 * width), 1)]
            rows = [encoded[2 * k] for k in chosen] + [encoded[2 * k + 1] for k in chosen]
            ids, counted, seen = (np.zeros((len(rows), width), dtype=kind) for kind in (np.int64, np.float32, np.int64))
            for row, one in enumerate(rows):
                ids[row, : len(one.input_ids)] = one.input_ids
                seen[row, : len(one.input_ids)] = 1
                counted[row, : len(one.counted)] = np.array(one.counted) / sum(one.counted)
            weights = torch.from_numpy(counted)
            segments = torch.tensor([labels.index(pairs[k].label) for k in chosen], device=model.device)
            plan = ops.SegmentPlan(segments, len(labels))
            reader(ids, seen)
            done += len(chosen)
            advance(done)
    finals = {site.name: buffer.finalize() for site, buffer in zip(reader.sites, buffers, strict=True)}
    arrays = {site: {name: getattr(final, name).cpu().numpy() for name in FIELDS} for site, final in finals.items()}
    provenance = {
        "model_hash": config_hash(model),
        "weights": fingerprint(model),
        "tokenizer": tokenizer_hash(tokenizer),
        "tokens": "pair",
        "active": "product",
        "template": template,
        "pairs": len(pairs),
    }
    return ActivationStats({task: labels}, [(label,) for label in labels], arrays, provenance)


def paired_t(stats: ActivationStats, label: str) -> dict[str, tuple[Array, Array]]:
    """site -> (t, p), float64 [F] each: Student's t of the paired differences (1908), mean / (s / √n) with n - 1
    degrees of freedom, and its two-sided p value. NaN where fewer than two pairs are observed or the differences do
    not vary.

    Raises:
        InputError: no such label, or statistics that are not of pairs.
    """
    if stats.provenance.get("tokens") != "pair":
        raise InputError(f"tokens is {stats.provenance.get('tokens')!r}, expected statistics of pairs")
    found = {}
    for site, one in stats.label(label).items():
        n = np.where(one.observed > 1, one.observed, np.nan).astype(np.float64)
        variance = np.where(one.m2 > 0, one.m2, np.nan) / (n - 1)
        t = one.mean / np.sqrt(variance / n)
        found[site] = (t, 2 * special.stdtr(n - 1, -np.abs(t)))
    return found


def _width(encoded: Sequence[Encoded], pair: int) -> int:
    return max(len(encoded[2 * pair].input_ids), len(encoded[2 * pair + 1].input_ids))

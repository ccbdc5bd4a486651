"""Screening: run a model over a labelled corpus while the kernels accumulate the statistics of every MLP neuron.

The activations stay where they are computed and are seen once; what comes back is a few arrays per site.
"""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor

from affectron import __version__, ops
from affectron.batching import Batch, batches
from affectron.corpus import Corpus
from affectron.errors import InputError
from affectron.models import Site, attach, config_hash, evaluating, find_sites, fingerprint, max_length, tokenizer_hash
from affectron.ops.buffers import ACTIVE_RULES
from affectron.progress import track
from affectron.stats import ActivationStats

TOKEN_RULES = ("all", "last", "mean")


class ScreeningInterrupted(KeyboardInterrupt):
    """Ctrl-C while screening; the message says how far it got. Nothing has been written."""


def screen(
    model: Any,
    tokenizer: Any,
    corpus: Corpus,
    tokens: str = "all",
    active: str = "gate",
    batch_tokens: int = 8192,
    template: str = "{text}",
    count_special: bool = False,
    progress: bool = False,
) -> ActivationStats:
    """Statistics of every MLP neuron of ``model`` for each label of ``corpus`` (METHODS sections 1 and 2).

    The model runs without its lm_head, in evaluation mode and without gradients, on sentences batched by length.
    The kernels add up in an order fixed by shapes alone; with torch's own products repeatable, so is the whole.

    Args:
        model: a transformers causal language model with MLP blocks of a known layout.
        tokenizer: its tokenizer.
        corpus: the labelled sentences.
        tokens: ``all`` counts every token of a sentence, ``last`` its last one, ``mean`` one observation a sentence,
            the mean of h over its tokens (active where the mean of act(g), or of h under the rule ``product``, is
            above zero).
        active: a neuron is active at a token where act(g) > 0 (``gate``) or where h > 0 (``product``).
        batch_tokens: tokens in a batch at most, padding included; a longer sentence is a batch of its own.
        template: what the model reads, with {text} and perhaps {bos} in it; only the text's tokens count.
        count_special: count the special tokens too that the tokenizer puts around a sentence.
        progress: show a bar on stderr, with tokens/s and the time left.

    Raises:
        InputError: an option is not one of those named; the model has no known MLP; the corpus or template is unusable.
        ScreeningInterrupted: Ctrl-C.
    """
    (stats,) = screen_shards(
        model, tokenizer, corpus, 1, tokens, active, batch_tokens, template, count_special, progress
    )  # fmt: skip
    return stats


def screen_shards(
    model: Any,
    tokenizer: Any,
    corpus: Corpus,
    shards: int,
    tokens: str = "all",
    active: str = "gate",
    batch_tokens: int = 8192,
    template: str = "{text}",
    count_special: bool = False,
    progress: bool = False,
) -> list[ActivationStats]:
    """:func:`screen`, with the sentences of each label set dealt out to ``shards`` statistics in turn, in one pass.

    The shards are disjoint and together the whole: :meth:`ActivationStats.pooled` gives it, or any resample of them.
    The accumulators take ``shards`` times the memory.

    Raises:
        InputError: shards is below 1, or as :func:`screen`.
    """
    if shards < 1:
        raise InputError(f"shards is {shards}, expected at least 1")
    if tokens not in TOKEN_RULES:
        raise InputError(f"tokens is {tokens!r}, expected one of {', '.join(TOKEN_RULES)}")
    if active not in ACTIVE_RULES:
        raise InputError(f"active is {active!r}, expected one of {', '.join(ACTIVE_RULES)}")
    sites = find_sites(model)
    run = _Screening(sites, len(corpus.segments), shards, tokens, active)
    # A base model is the model without its lm_head, whose product with the vocabulary nobody would read.
    body = getattr(model, "base_model", model)
    source = batches(
        corpus,
        tokenizer,
        batch_tokens=batch_tokens,
        template=template,
        count_special=count_special,
        max_length=max_length(model),
    )
    done = seen = padded = truncated = 0
    with (
        torch.no_grad(),
        evaluating(model),
        attach(sites, run.kernel),
        track("screening", len(corpus), progress) as advance,
    ):
        try:
            for batch in source:
                inputs = run.begin(batch, model.device)
                if not reads_left_only(model):
                    inputs["attention_mask"] = torch.from_numpy(batch.attention_mask).to(model.device)
                body(**inputs, use_cache=False)
                done += len(batch.sentences)
                seen += int(batch.attention_mask.sum())
                padded += batch.attention_mask.size
                truncated += batch.truncated
                advance(done, seen)
        except KeyboardInterrupt:
            raise ScreeningInterrupted(
                f"screening was interrupted after {done:,} of {len(corpus):,} sentences ({seen:,} tokens); "
                "nothing was written"
            ) from None
    provenance = {
        "affectron": __version__,
        "model": Path(getattr(model, "name_or_path", "") or type(model).__name__).name,
        "model_hash": config_hash(model),
        "weights": fingerprint(model),
        "tokenizer": tokenizer_hash(tokenizer),
        "corpus": [corpus.hash],
        "corpus_name": corpus.name,
        "split": corpus.split,
        "sentences": done,
        "tokens_read": seen,
        "padding": round(1 - seen / padded, 4) if padded else 0.0,
        "truncated": truncated,
        "tokens": tokens,
        "active": active,
        "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
        "template": template,
        "count_special": count_special,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    }
    return [
        ActivationStats(
            corpus.tasks, corpus.segments, arrays, provenance | ({"shard": [shard, shards]} if shards > 1 else {})
        )
        for shard, arrays in enumerate(run.arrays())
    ]


class _Screening:
    """The accumulators of every site, and the plan of the batch that is under way."""

    def __init__(self, sites: list[Site], segments: int, shards: int, tokens: str, active: str) -> None:
        self.sites, self.tokens, self.active = sites, tokens, active
        self.shards, self.segments = shards, segments * shards
        self.dealt = np.zeros(segments, dtype=np.int64)  # sentences of each segment so far
        self.buffers = [
            ops.StatsBuffers(self.segments, site.neurons, active, device=next(site.module.parameters()).device)
            for site in sites
        ]
        self.plans: dict[torch.device, ops.SegmentPlan] = {}
        self.rows: Tensor
        self.counted: Tensor

    def begin(self, batch: Batch, device: torch.device) -> dict[str, Tensor]:
        """Take the batch's labels; returns the model's inputs."""
        counted = batch.counted
        segments = batch.segments
        if self.shards > 1:
            turn = np.empty_like(segments)
            for row, segment in enumerate(segments):
                turn[row] = self.dealt[segment] % self.shards
                self.dealt[segment] += 1
            segments = turn * len(self.dealt) + segments
        if self.tokens == "last":
            # The last counted token: the first one of the reversed row.
            last = counted.shape[1] - 1 - counted[:, ::-1].argmax(axis=1)
            counted = counted & (np.arange(counted.shape[1]) == last[:, None])
        if self.tokens == "mean":
            rows = np.where(counted.any(axis=1), segments, -1)
        else:
            rows = np.where(counted, segments[:, None], -1)
        self.rows, self.counted = torch.from_numpy(rows), torch.from_numpy(counted)
        self.plans.clear()
        return {"input_ids": torch.from_numpy(batch.input_ids).to(device)}

    def plan(self, device: torch.device) -> ops.SegmentPlan:
        """The batch's plan on ``device``: made once, shared by all sites there."""
        if device not in self.plans:
            self.plans[device] = ops.SegmentPlan(self.rows.to(device), self.segments)
        return self.plans[device]

    def kernel(self, position: int, gate: Tensor, up: Tensor | None, act: str) -> Tensor:
        plan, buffers = self.plan(gate.device), self.buffers[position]
        if self.tokens != "mean":
            return ops.glu_stats(gate, up, plan, buffers, act)
        h = ops.glu(gate, up, act)
        gate_mean = self.sentence_means(ops.glu(gate, None, act)) if self.active == "gate" else None
        ops.neuron_stats(self.sentence_means(h), plan, buffers, gate_mean)
        return h

    def sentence_means(self, h: Tensor) -> Tensor:
        """fp32 [B, F]: the mean of h [B, T, F] (or [B T, F]) over each sentence's counted tokens."""
        counted = self.counted.to(h.device)
        h = h.view(*counted.shape, -1)
        # A sentence at a time: no fp32 copy of the whole activation.
        means = [rows[mask].float().mean(0) for rows, mask in zip(h, counted, strict=True)]
        return torch.stack(means)

    def arrays(self) -> list[dict[str, dict[str, np.ndarray[Any, Any]]]]:
        """For each shard: site -> the arrays of its statistics."""
        fields = ("count", "active", "nonfinite", "mean", "m2", "min", "max")
        finals = [
            (site.name, {name: getattr(final, name).cpu().numpy() for name in fields})
            for site, final in ((s, b.finalize()) for s, b in zip(self.sites, self.buffers, strict=True))
        ]
        size = len(self.dealt)
        return [
            {
                site: {name: array[shard * size : (shard + 1) * size] for name, array in final.items()}
                for site, final in finals
            }
            for shard in range(self.shards)
        ]


def reads_left_only(model: Any) -> bool:
    """Whether no token of a right-padded sentence can see the padding behind it: then a mask would change nothing,
    and without one the attention kernels take their causal path."""
    return bool(model.can_generate()) and not model.config.is_encoder_decoder

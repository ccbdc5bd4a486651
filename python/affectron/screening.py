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
from torch import Tensor, nn

from affectron import __version__, ops
from affectron.batching import Batch, batches
from affectron.corpus import Corpus
from affectron.errors import InputError
from affectron.models import (
    Site,
    attach,
    check_tokenizer,
    config_hash,
    evaluating,
    find_sites,
    fingerprint,
    max_length,
    tokenizer_hash,
    unwrapped,
)
from affectron.models.layout import Routed, device_of
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
    long_texts: str = "truncate",
    progress: bool = False,
) -> ActivationStats:
    """Statistics of every MLP neuron of ``model`` for each label of ``corpus`` (METHODS sections 1 and 2).

    The model runs without its lm_head, in evaluation mode and without gradients, on sentences batched by length.
    The kernels add up in an order fixed by shapes alone; with torch's own products repeatable, so is the whole.

    Args:
        model: a transformers language model, or one changed by an adapter, quantisation or torch.compile. Of an encoder
            and a decoder the encoder is screened.
        tokenizer: its tokenizer.
        corpus: the labelled sentences.
        tokens: ``all`` counts every token of a sentence, ``last`` its last one, ``mean`` one observation a sentence,
            the mean of h over its tokens (active where the mean of act(g), or of h under the rule ``product``, is
            above zero).
        active: a neuron is active at a token where act(g) > 0 (``gate``) or where h > 0 (``product``).
        batch_tokens: tokens in a batch at most, padding included; a longer sentence is a batch of its own.
        template: what the model reads, with {text} and perhaps {bos} in it; only the text's tokens count.
        long_texts: what becomes of a text longer than the model reads: ``truncate`` cuts off its end, ``windows`` reads
            it in pieces that overlap by a quarter, each token counted once (with ``tokens="all"`` only).
        count_special: count the special tokens too that the tokenizer puts around a sentence.
        progress: show a bar on stderr, with tokens/s and the time left.

    Raises:
        InputError: an option is not one of those named; the model has no known MLP; the corpus or template is unusable.
        ScreeningInterrupted: Ctrl-C.
    """
    if tokens not in TOKEN_RULES:
        raise InputError(f"tokens is {tokens!r}, expected one of {', '.join(TOKEN_RULES)}")
    if active not in ACTIVE_RULES:
        raise InputError(f"active is {active!r}, expected one of {', '.join(ACTIVE_RULES)}")
    if long_texts == "windows" and tokens != "all":
        raise InputError(f"long_texts is 'windows' and tokens {tokens!r}; expected tokens 'all', as a text has several")
    body, sites = _body(model), find_sites(model)
    check_tokenizer(model, tokenizer)
    parts = set(body.modules())
    sites = [site for site in sites if site.module in parts]
    run = _Screening(sites, len(corpus.segments), tokens, active)
    source = batches(
        corpus,
        tokenizer,
        batch_tokens=batch_tokens,
        template=template,
        count_special=count_special,
        max_length=max_length(model),
        long_texts=long_texts,
    )
    done = seen = padded = truncated = 0
    with (
        torch.no_grad(),
        evaluating(model),
        attach(sites, run.kernel, run.given),
        track("screening", len(corpus), progress) as advance,
    ):
        try:
            for batch in source:
                inputs: dict[str, Any] = run.begin(batch, model.device)
                if _reads_left_only(model):
                    inputs["use_cache"] = False
                else:
                    inputs["attention_mask"] = torch.from_numpy(batch.attention_mask).to(model.device)
                body(**inputs)
                done += len(batch.sentences) - batch.continuing
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
        "long_texts": long_texts,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    }
    return ActivationStats(corpus.tasks, corpus.segments, run.arrays(), provenance)


class _Screening:
    """The accumulators of every site, and the plan of the batch that is under way."""

    def __init__(self, sites: list[Site], segments: int, tokens: str, active: str) -> None:
        self.sites, self.segments, self.tokens, self.active = sites, segments, tokens, active
        self.buffers = [ops.StatsBuffers(segments, site.neurons, active, device=device_of(site)) for site in sites]
        self.plans: dict[torch.device, ops.SegmentPlan] = {}
        self.rows: Tensor
        self.counted: Tensor

    def begin(self, batch: Batch, device: torch.device) -> dict[str, Tensor]:
        """Take the batch's labels; returns the model's inputs."""
        counted = batch.counted
        if self.tokens == "last":
            # The last counted token: the first one of the reversed row.
            last = counted.shape[1] - 1 - counted[:, ::-1].argmax(axis=1)
            counted = counted & (np.arange(counted.shape[1]) == last[:, None])
        if self.tokens == "mean":
            rows = np.where(counted.any(axis=1), batch.segments, -1)
        else:
            rows = np.where(counted, batch.segments[:, None], -1)
        self.rows, self.counted = torch.from_numpy(rows), torch.from_numpy(counted)
        self.plans.clear()
        return {"input_ids": torch.from_numpy(batch.input_ids).to(device)}

    def plan(self, device: torch.device, routed: Routed | None = None) -> ops.SegmentPlan:
        """The batch's plan on ``device``: made once, shared by all sites there. An expert needs one for its tokens."""
        if device not in self.plans:
            self.plans[device] = ops.SegmentPlan(self.rows.to(device), self.segments)
        if routed is None:
            return self.plans[device]
        return ops.SegmentPlan(self.rows.to(device).flatten()[routed.tokens], self.segments)

    def kernel(self, position: int, gate: Tensor, up: Tensor | None, act: str, routed: Routed | None = None) -> Tensor:
        if self.tokens != "mean":
            return ops.glu_stats(gate, up, self.plan(gate.device, routed), self.buffers[position], act)
        h = ops.glu(gate, up, act)
        self.measure(position, h, ops.glu(gate, None, act) if self.active == "gate" else None, routed)
        return h

    def given(self, position: int, h: Tensor, gate: Tensor | None, routed: Routed | None = None) -> Tensor:
        # Where nothing but h is known, act(g) > 0 is taken to be h > 0; find_sites has warned of that.
        self.measure(position, h, (h if gate is None else gate) if self.active == "gate" else None, routed)
        return h

    def measure(self, position: int, h: Tensor, gate: Tensor | None, routed: Routed | None) -> None:
        if self.tokens != "mean":
            ops.neuron_stats(h, self.plan(h.device, routed), self.buffers[position], gate)
            return
        plan, means = self.sentence_means(h, routed)
        gate_means = None if gate is None else self.sentence_means(gate, routed)[1]
        ops.neuron_stats(means, plan, self.buffers[position], gate_means)

    def sentence_means(self, h: Tensor, routed: Routed | None) -> tuple[ops.SegmentPlan, Tensor]:
        """fp32 [B, F], the mean of h [..., F] over each sentence's counted tokens, and whose segments these are. In an
        expert, over those of them that are routed to it, for the sentences that have any."""
        counted, rows = self.counted.to(h.device), h.reshape(-1, h.shape[-1])
        # A sentence at a time: no fp32 copy of the whole activation.
        if routed is None:
            each = rows.view(*counted.shape, -1)
            means = [sentence[mask].float().mean(0) for sentence, mask in zip(each, counted, strict=True)]
            return self.plan(h.device), torch.stack(means)
        # In the order of the batch a sentence's tokens are next to one another.
        order = routed.tokens.argsort(stable=True)
        order = order[counted.flatten()[routed.tokens[order]]]
        sentences, lengths = (routed.tokens[order] // counted.shape[1]).unique_consecutive(return_counts=True)
        means = [part.float().mean(0) for part in rows[order].split(lengths.tolist())] if len(lengths) else []
        plan = ops.SegmentPlan(self.rows.to(h.device)[sentences], self.segments)
        return plan, torch.stack(means) if means else rows[:0].float()

    def arrays(self) -> dict[str, dict[str, np.ndarray[Any, Any]]]:
        fields = ("count", "active", "nonfinite", "mean", "m2", "min", "max")
        return {
            site.name: {name: getattr(final, name).cpu().numpy() for name in fields}
            for site, final in ((s, b.finalize()) for s, b in zip(self.sites, self.buffers, strict=True))
        }


def _body(model: Any) -> nn.Module:
    """The part of a model that reads the text: of an encoder and a decoder the encoder, else the model without its
    lm_head, whose product with the vocabulary nobody would read."""
    bare: Any = unwrapped(model)
    if getattr(getattr(bare, "config", None), "is_encoder_decoder", False):
        return bare.get_encoder()  # type: ignore[no-any-return]
    return getattr(bare, "base_model", bare)  # type: ignore[no-any-return]


def _reads_left_only(model: Any) -> bool:
    """Whether no token of a right-padded sentence can see the padding behind it: then a mask would change nothing,
    and without one the attention kernels take their causal path."""
    return bool(model.can_generate()) and not model.config.is_encoder_decoder

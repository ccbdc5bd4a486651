"""Attribution within contrastive pairs: what each neuron does to the answer that follows one text and not the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from affectron import ops
from affectron._internal.arguments import checked_arguments
from affectron._internal.options import documented
from affectron._internal.overlap import hashed
from affectron._internal.progress import track
from affectron.attribution.recompute import Recomputation
from affectron.attribution.work import Start, attributing, differentiate, unreached
from affectron.corpus import Sentence
from affectron.corpus.batching import padded
from affectron.corpus.encoding import template_frame
from affectron.corpus.pairs import Pair
from affectron.errors import InputError
from affectron.evaluation.batched import ProgramBatch
from affectron.evaluation.label_likelihood import AnswerRows
from affectron.models import Reader, Routed, Site, check_tokenizer, evaluating, parallel
from affectron.models.provenance import made_with
from affectron.options import AttributePairs
from affectron.screening.accumulate import whole_arrays
from affectron.stats import ATTRIBUTION, PAIRS, ActivationStats, check_finite


@checked_arguments
@documented(AttributePairs)
def attribute_pairs(
    model: Any,
    tokenizer: Any,
    pairs: Sequence[Pair],
    *,
    baseline: str = AttributePairs.baseline,
    template: str = AttributePairs.template,
    batch_tokens: int = AttributePairs.batch_tokens,
    task: str = AttributePairs.task,
    progress: bool = False,
) -> ActivationStats:
    """Attribute the preference for a text's answer over the other text's answer to every MLP neuron.

    m is the mean log-likelihood of the answer's tokens after the text, less that of the other answer. The attribution
    of neuron i is the sum over positions t of (h[t,i] - b[t,i]) · dm/dh[t,i], with h and the gradient on the text, and
    the baseline b on the other text at the same position (attribution patching, Nanda 2023; Syed et al. 2023), or zero.

    Args:
        model: a causal language model.
        tokenizer: its tokenizer.
        pairs: at least one, each with answers; a text and its other have as many tokens.
        {options}
        progress: show a bar on stderr.

    Returns:
        statistics whose observations are pairs and whose ``kind`` is ``attribution``; ``mean`` is in nats. The scores
        of pairs read them (``paired_difference``, ``paired_t``).

    Raises:
        InputError: no pair, a pair without answers, a text and its other with different numbers of tokens, a text of no
            token, or a site without a finite attribution.
    """
    options = AttributePairs(template=template, batch_tokens=batch_tokens, task=task, baseline=baseline)
    if not pairs:
        raise InputError("pairs is empty, expected at least one")
    labels = sorted({pair.label for pair in pairs})
    reader = Reader(model)
    check_tokenizer(model, tokenizer)
    rows = AnswerRows(model, tokenizer, template)
    prepared = [_prepared(rows, number, pair, labels) for number, pair in enumerate(pairs, start=1)]
    differences = _Differences(reader, len(labels), options.baseline == "other")
    with (
        torch.no_grad(),
        evaluating(model),
        attributing(reader, differences.kernel),
        track("attributing pairs", len(pairs), progress) as advance,
    ):
        done = 0
        for batch in _batches(prepared, batch_tokens):
            differences.read(batch, rows)
            done += len(batch)
            advance(done)
    arrays = {site.name: differences.arrays(position, site) for position, site in enumerate(reader.sites)}
    provenance = {
        **made_with(model, tokenizer),
        "kind": ATTRIBUTION,
        "tokens": PAIRS,
        "active": "product",
        "metric": "answer",
        "baseline": options.baseline,
        "template": template,
        "added_bos": template_frame(tokenizer, template).added_bos,
        "pairs": len(pairs),
    }
    screened = hashed(text for pair in pairs for text in (pair.text, pair.other))
    stats = ActivationStats({task: labels}, [(label,) for label in labels], arrays, provenance, screened)
    check_finite([stats])
    return stats


@dataclass(frozen=True)
class _Prepared:
    """A pair's rows of tokens: those of the text, and as many of the other text. ``label`` is its segment."""

    label: int
    text: list[Any]
    other: list[Any]

    @property
    def width(self) -> int:
        return max(len(row.ids) for row in self.text)


def _prepared(rows: AnswerRows, number: int, pair: Pair, labels: Sequence[str]) -> _Prepared:
    if pair.answer is None or pair.other_answer is None:
        raise InputError(f"pair {number}: answer is None, expected the text that follows, and other_answer")
    answers = pair.answer, pair.other_answer
    text, other = (
        rows.of(Sentence(text, (pair.label,), None, str(number)), answers) for text in (pair.text, pair.other)
    )
    sizes = [len(row.ids) for row in text], [len(row.ids) for row in other]
    if sizes[0] != sizes[1]:
        raise InputError(
            f"pair {number}: text {pair.text!r} and other {pair.other!r} have {sizes[0][0]} and {sizes[1][0]} tokens "
            "with the answer, expected as many, so that their positions correspond"
        )
    return _Prepared(labels.index(pair.label), text, other)


def _batches(prepared: Sequence[_Prepared], batch_tokens: int) -> Iterator[list[_Prepared]]:
    """Pairs of one width, as many as make up to ``batch_tokens`` tokens, the widest first."""
    remaining = sorted(prepared, key=lambda pair: -pair.width)
    while remaining:
        width, tokens, stop = remaining[0].width, 0, 0
        for pair in remaining:
            tokens += 2 * len(pair.text) * width
            if (stop and tokens > batch_tokens) or pair.width != width:
                break
            stop += 1
        yield remaining[:stop]
        remaining = remaining[stop:]


class _Products(torch.autograd.Function):
    """Pass h on. The backward pass adds, for each counted row, its difference times its gradient to the sums of its
    pair.

    Autograd keeps the differences, so that they are not kept where a layer is computed again.
    """

    @staticmethod
    def forward(ctx: Any, h: Tensor, difference: Tensor, counted: Tensor, pairs: Tensor, sums: Tensor) -> Tensor:
        ctx.save_for_backward(difference, counted, pairs)
        ctx.sums = sums
        return h.view_as(h)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        difference, counted, pairs = ctx.saved_tensors
        rows = grad.reshape(-1, grad.shape[-1])[counted].float()
        ctx.sums.index_add_(0, pairs, difference * rows)
        return grad, None, None, None, None


class _Differences:
    """The statistics of the attributions of pairs at each site; ``segments`` is the number of labels.

    ``other`` takes the activation in the other text for baseline, else zero.
    """

    def __init__(self, reader: Reader, segments: int, other: bool) -> None:
        self.reader, self.segments, self.other = reader, segments, other
        self.tensor_group = parallel.tensor_group(reader.model)
        self.start, self.recomputation = Start(reader), Recomputation(reader, None)
        self.buffers: dict[int, ops.StatsBuffers] = {}
        self.sums: dict[int, Tensor] = {}
        self.owner: Tensor  # int64 [2 R T], the pair of each token of the batch; -1 at the padding
        self.pairs = 0

    def read(self, batch: Sequence[_Prepared], rows: AnswerRows) -> None:
        """Attribute a batch of pairs: R rows of the texts, then the R rows of the others."""
        texts = [row for pair in batch for row in pair.text]
        others = [row for pair in batch for row in pair.other]
        width = max(len(row.ids) for row in texts)
        ids, mask = padded([row.ids for row in (*texts, *others)], width)
        owner = np.repeat(np.arange(len(batch)), [len(pair.text) for pair in batch])
        self.owner = torch.from_numpy(np.where(mask, np.tile(owner, 2)[:, None], -1).flatten())
        self.pairs = len(batch)
        passed, device = self.reader.mask(mask), self.reader.model.device
        inputs = ProgramBatch(
            programs=slice(0, 1),
            rows=np.arange(len(ids)),
            ids=torch.from_numpy(ids).to(device),
            mask=None if passed is None else torch.from_numpy(passed).to(device),
            cached=0,
            prefix=(),
        )

        def attribute() -> None:
            self.sums = {}
            with torch.enable_grad():
                scores = rows.scores(inputs, [*texts, *others], np.concatenate([owner, owner + len(batch)]), 2)
                preferred = (scores[: len(batch), 0] - scores[: len(batch), 1]).sum()
            scale = differentiate(preferred, self.reader.model)
            for sums in self.sums.values():
                sums /= scale

        self.recomputation(attribute, ids.size)
        segments = torch.tensor([pair.label for pair in batch])
        for position, site in enumerate(self.reader.sites):
            sums = self.sums.get(position)
            if sums is None:
                sums = unreached(site, len(batch), self.buffers.get(position))
            if position not in self.buffers:
                self.buffers[position] = ops.StatsBuffers(self.segments, sums.shape[1], "product", device=sums.device)
            plan = ops.SegmentPlan(segments.to(sums.device), self.segments)
            ops.neuron_stats(sums, plan, self.buffers[position])

    def kernel(self, position: int, gate: Tensor, up: Tensor | None, act: str, routed: Routed | None = None) -> Tensor:
        """:class:`affectron.models.Kernel`: compute h; the backward pass adds to the sums of each pair.

        Raises:
            InputError: torch cannot differentiate what the site reads.
        """
        h = ops.glu(self.start(position, gate, up, self.sums), up, act)
        rows, owner = h.detach().reshape(-1, h.shape[-1]), self.owner.to(h.device)
        half = len(owner) // 2
        tokens = torch.arange(len(owner), device=h.device) if routed is None else routed.tokens
        counted = (tokens < half) & (owner[tokens] >= 0)
        difference = rows[counted].float()
        if self.other:
            # A token that is not routed to the expert has no activation there.
            dense = rows if routed is None else rows.new_zeros(len(owner), rows.shape[1]).index_copy(0, tokens, rows)
            difference = difference - dense[tokens[counted] + half].float()
        sums = self.sums.setdefault(position, torch.zeros(self.pairs, h.shape[-1], device=h.device))
        passed: Tensor = _Products.apply(  # type: ignore[no-untyped-call]
            h, difference, counted, owner[tokens[counted]], sums
        )
        return passed

    def arrays(self, position: int, site: Site) -> dict[str, Any]:
        """The statistics of a site."""
        return whole_arrays(self.buffers[position], site, self.tensor_group)

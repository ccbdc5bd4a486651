"""Screening: run a model over a labelled corpus while the kernels accumulate the statistics of every MLP neuron, or of
every layer's output.

The activations stay on their device and are read once; a few arrays per site come back.

A corpus is measured in shards, runs of sentences that depend on its length alone. Each shard is measured on its own and
merged with the others in their order. The result is therefore the same, bit for bit, for any number of processes and
interruptions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from affectron._internal.arguments import checked_arguments
from affectron._internal.names import LAYERS
from affectron._internal.options import documented
from affectron.corpus import Corpus, Sentence
from affectron.corpus.batching import Batch, batches
from affectron.corpus.encoding import added_bos
from affectron.models import Reader, check_tokenizer, max_length
from affectron.models.provenance import made_with
from affectron.options import ScreenSites
from affectron.screening.accumulate import Accumulator
from affectron.screening.meter import EventLog, Log
from affectron.screening.passes import Pass, as_folds, corpus_provenance, shards_of
from affectron.stats import RESIDUAL, ActivationStats, check_finite


@checked_arguments
@documented(ScreenSites)
def screen(
    model: Any,
    tokenizer: Any,
    corpus: Corpus,
    tokens: str = ScreenSites.tokens,
    active: str = ScreenSites.active,
    batch_tokens: int = ScreenSites.batch_tokens,
    template: str = ScreenSites.template,
    count_special: bool = ScreenSites.count_special,
    long_texts: str = ScreenSites.long_texts,
    at: str = ScreenSites.at,
    progress: bool = False,
    shards: int | None = ScreenSites.shards,
    checkpoint: str | Path | None = ScreenSites.checkpoint,
    checkpoint_minutes: float = ScreenSites.checkpoint_minutes,
    resume: bool = ScreenSites.resume,
    log: Log | str | Path | None = ScreenSites.log,
) -> ActivationStats:
    """Statistics of every MLP neuron, or layer's output, of ``model`` for each label of ``corpus`` (docs/method.md).

    The model runs without its lm_head, in evaluation mode and without gradients, on sentences batched by length.
    The kernels add up in an order fixed by shapes alone; with torch's own products repeatable, so is the whole.
    Activations that are NaN or infinite are counted, left out of means and extremes, and warned of.

    Where torch.distributed is initialised its processes share out the shards, and each returns the whole. The result is
    the same, bit for bit, for any number of processes and interruptions, given as many threads in each.

    ``tokens="mean"`` makes one observation a sentence, the mean of h over its tokens; a neuron is active in it where
    the mean of act(g), or of h under the rule ``product``, is above zero. Only the text's tokens of a template count;
    the tokenizer's beginning-of-sequence token, where it has one, is put first if nothing else puts it there. Windows
    of a long text overlap by a quarter, and each token counts once. A sentence longer than ``batch_tokens`` is a batch
    of its own. ``checkpoint`` is required of several processes, and is left as it is when all are done. With it Ctrl-C
    and SIGTERM let the batch end and keep what is done (in the main thread, which alone is told of signals), and a
    shard that fails leaves the others to be done.

    Args:
        model: a transformers language model, or one changed by an adapter, quantisation or torch.compile. Of an encoder
            and a decoder the encoder is screened.
        tokenizer: its tokenizer.
        corpus: the labelled sentences.
        progress: show a bar on stderr.
        {options}
            (Or a function that is told of each event; see :class:`affectron.screening.meter.Meter`.)

    Raises:
        InputError: an option is not one of those named; the model has no known MLP or layers; the corpus or template is
            unusable; ``checkpoint`` holds another run, or holds one and ``resume`` is false, or another process writes
            to it, or it cannot be written to; a site has tokens and not one finite activation.
        Incomplete: some shards failed; the others are kept in ``checkpoint``.
        ScreeningInterrupted: Ctrl-C; with ``checkpoint`` also SIGTERM.
    """
    options = ScreenSites(
        tokens=tokens, active=active, batch_tokens=batch_tokens, template=template, count_special=count_special,
        long_texts=long_texts, at=at, shards=shards, checkpoint=None if checkpoint is None else Path(checkpoint),
        checkpoint_minutes=checkpoint_minutes, resume=resume,
    )  # fmt: skip
    stats = _measure(
        model, tokenizer, corpus, options, EventLog(log) if isinstance(log, (str, Path)) else log, progress
    )
    check_finite([stats])
    return stats


def _measure(
    model: Any, tokenizer: Any, corpus: Corpus, options: ScreenSites, log: Log | None, progress: bool
) -> ActivationStats:
    """Run :func:`screen` without its check of non-finite values."""
    shards_of(corpus, options)  # fails before the model is looked at
    reader = Reader(model, options.at)
    residual = options.at == LAYERS
    active = "product" if residual else options.active
    check_tokenizer(model, tokenizer)

    def read(sentences: Iterable[Sentence]) -> Iterator[Batch]:
        return batches(
            corpus,
            tokenizer,
            batch_tokens=options.batch_tokens,
            template=options.template,
            count_special=options.count_special,
            max_length=max_length(model),
            long_texts=options.long_texts,
            padding=reader.padding,
            sentences=sentences,
        )

    read(())  # options fail here, before anything is read
    provenance: dict[str, Any] = {
        **made_with(model, tokenizer),
        **corpus_provenance(corpus),
        "tokens": options.tokens,
        "active": active,
        "template": options.template,
        "added_bos": added_bos(corpus, tokenizer, options.template),
        "count_special": options.count_special,
        "long_texts": options.long_texts,
        **({"kind": RESIDUAL} if residual else {}),
    }
    work = Accumulator(reader, corpus, options.tokens, active)
    screening = Pass("screening", reader, corpus, options, log, progress)
    attached = reader.attach(work.kernel, work.given)
    return screening.measure(read, work, attached, provenance, batch_tokens=options.batch_tokens)


@checked_arguments
def screen_folds(
    model: Any,
    tokenizer: Any,
    corpus: Corpus,
    folds: int,
    options: ScreenSites | None = None,
    *,
    progress: bool = False,
) -> list[ActivationStats]:
    """Screen each of the corpus' ``folds`` (:meth:`Corpus.folds`), one after the other.

    They are disjoint and together the whole: :meth:`ActivationStats.pooled` gives it, or any resample of them. The
    provenance of each is that of the whole, without its padding, and says which fold it is. Each fold has a folder of
    its own, named by its number, in ``options.checkpoint``, and its events go to ``options.log``.

    Raises:
        InputError: folds is below 1 or more than there are sentences, or as :func:`screen`.
    """
    options = options or ScreenSites()
    log = None if options.log is None else EventLog(options.log)
    parts = []
    for number, fold in enumerate(corpus.folds(folds)):
        folder = None if options.checkpoint is None else options.checkpoint / f"{number:02}"
        parts.append(_measure(model, tokenizer, fold, replace(options, checkpoint=folder), log, progress))
    check_finite(parts)
    return as_folds(parts)

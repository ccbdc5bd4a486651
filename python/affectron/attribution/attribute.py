"""Attribution: what each MLP neuron does to a number m of each sentence, to first order.

The attribution of neuron i in sentence s is a[s,i] = sum over positions t of (h[t,i] - b[i]) · dm/dh[t,i]: what m loses
when the neuron is set to its baseline b. One forward and one backward pass of a batch give it for all neurons, and the
statistics of a label over its sentences come back.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from affectron._internal import overlap
from affectron._internal.arguments import checked_arguments
from affectron._internal.artifacts import SAME_MODEL
from affectron._internal.checks import shown
from affectron._internal.files import digest
from affectron._internal.options import documented
from affectron.attribution.batching import QuestionBatch, question_batches
from affectron.attribution.text import TextMetric
from affectron.attribution.work import Attributor, Gradients, attributing
from affectron.corpus import Corpus, Sentence
from affectron.errors import InputError
from affectron.evaluation.batched import most_tokens
from affectron.evaluation.evaluators import Evaluator, make_evaluator
from affectron.evaluation.metrics import Metric
from affectron.models import Reader, check_tokenizer, evaluating
from affectron.models.provenance import made_with
from affectron.options import Ask, Attribute
from affectron.scores import kind_of
from affectron.screening.meter import EventLog, Log
from affectron.screening.passes import Pass, as_folds, corpus_provenance, shards_of
from affectron.stats import ACTIVATION, ATTRIBUTION, FIELDS, ActivationStats, check_finite

# A probe is fitted on the sentences that are attributed, at most so many of a task; of these every fifth chooses its
# penalty.
_FITTED, _HELD_OUT = 20_000, 5


@checked_arguments
@documented(Ask, Attribute)
def attribute(
    model: Any,
    tokenizer: Any,
    corpus: Corpus,
    *,
    metric: str = Attribute.metric,
    evaluator: str | Evaluator = Ask.evaluator,
    prompts: Mapping[str, str] | None = None,
    calibrate: str = Ask.calibrate,
    positions: str = Attribute.positions,
    baseline: str = Attribute.baseline,
    stats: ActivationStats | None = None,
    batch_tokens: int = Attribute.batch_tokens,
    recompute: bool | None = Attribute.recompute,
    progress: bool = False,
    shards: int | None = Attribute.shards,
    checkpoint: str | Path | None = Attribute.checkpoint,
    checkpoint_minutes: float = Attribute.checkpoint_minutes,
    resume: bool = Attribute.resume,
    log: Log | str | Path | None = Attribute.log,
) -> ActivationStats:
    """Statistics, over the sentences of each label, of what every MLP neuron does to the model's answer.

    With the metric ``answer``, m of a sentence is log P of its label among the labels of the task, as the evaluator
    asks for it: with ``label_likelihood`` the log softmax of the labels' scores, with ``linear_probe`` the margin of
    the probe. Of several labels of a task it is the log of their summed P. Each task is a pass of its own. With the
    metric ``text``, m is the mean log-likelihood of the sentence's own tokens, which needs no prompt; the sum of dm/dh
    itself is kept: what a shift of the neuron does to m.

    The estimate is attribution patching (Nanda 2023), gradient times activation. The model runs in evaluation mode; no
    gradient of a weight is computed. The kernels add up in an order fixed by shapes alone.

    As :func:`affectron.screen` it is shared out by torch.distributed, kept in ``checkpoint``, and resumed, with the
    same result. A probe is fitted on the sentences that are attributed (20,000 of a task at most), of which every fifth
    chooses its penalty. ``calibrate="train"`` takes its sentences from the others of them.

    Args:
        model: a causal language model, or with ``linear_probe`` any model that :func:`affectron.screen` serves.
        tokenizer: its tokenizer.
        corpus: the labelled sentences.
        stats: statistics of the same model, for the baseline ``mean``.
        progress: show a bar on stderr.
        {options}

    Returns:
        statistics whose observations are sentences and whose ``kind`` is ``attribution``. ``mean`` is what m loses
        without the neuron, to first order, in nats; :func:`affectron.select` ranks by it (``attribution_t``).

    Raises:
        InputError: an option is not one of those named, a task of one label, ``baseline`` is ``mean`` and ``stats`` is
            not given or of another model, a prompt that cannot be used, an option of questions with the metric
            ``text``, or as :func:`affectron.screen`.
    """
    options = Attribute(
        shards=shards, checkpoint=None if checkpoint is None else Path(checkpoint),
        checkpoint_minutes=checkpoint_minutes, resume=resume, metric=metric, positions=positions, baseline=baseline,
        batch_tokens=batch_tokens, recompute=recompute,
    )  # fmt: skip
    ask = Ask(evaluator=evaluator, prompts=dict(prompts or {}), calibrate=calibrate)
    if metric == "text":
        usual = Ask().values()
        for name, value in ask.values().items():
            if value != usual[name]:
                raise InputError(f"{name} is {shown(value)}, which goes with the metric 'answer', and it is 'text'")
    attribution = _Attribution(model, tokenizer, corpus, options, ask, stats)
    found = attribution.of(corpus, EventLog(log) if isinstance(log, (str, Path)) else log, progress)
    check_finite([found])
    return found


@checked_arguments
def attribute_folds(
    model: Any,
    tokenizer: Any,
    corpus: Corpus,
    folds: int,
    options: Attribute,
    ask: Ask,
    stats: ActivationStats | None = None,
    *,
    progress: bool = False,
) -> list[ActivationStats]:
    """Attribute each of the corpus' ``folds``, one after the other, as :func:`affectron.screening.screen.screen_folds`.

    Raises:
        InputError: as :func:`attribute`, or folds is below 1 or more than there are sentences.
    """
    log = None if options.log is None else EventLog(options.log)
    attribution = _Attribution(model, tokenizer, corpus, options, ask, stats)
    parts = []
    for number, fold in enumerate(corpus.folds(folds)):
        folder = None if options.checkpoint is None else options.checkpoint / f"{number:02}"
        parts.append(attribution.of(fold, log, progress, folder))
    check_finite(parts)
    return as_folds(parts)


class _Attribution:
    """A request to attribute: the model, the metric of each task, and the baseline.

    Attributes:
        metrics: task -> metric; the task is None where one metric serves all.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        corpus: Corpus,
        options: Attribute,
        ask: Ask,
        stats: ActivationStats | None,
    ) -> None:
        shards_of(corpus, options)  # fails before the model is looked at
        if (options.baseline == "mean") != (stats is not None):
            given = "not given" if stats is None else "given"
            raise InputError(f"baseline is {options.baseline!r} and stats is {given}; expected stats with 'mean' alone")
        unknown = sorted(ask.prompts.keys() - corpus.tasks.keys())
        if unknown:
            raise InputError(f"prompts has task {unknown[0]!r}, expected {', '.join(corpus.tasks)}")
        self.options, self.stats = options, stats
        self.reader = Reader(model)
        check_tokenizer(model, tokenizer)
        self.made = made_with(model, tokenizer)
        if stats is not None:
            self._check(stats)
        self.batch_tokens = options.batch_tokens
        self.metrics: dict[str | None, Metric] = {}
        asked: dict[str, Any] = {}
        if options.metric == "text":
            self.metrics[None] = TextMetric(model, tokenizer)
            self.batch_tokens = most_tokens(model, options.batch_tokens)
        else:
            evaluator = make_evaluator(ask)
            with evaluating(model):
                for task in corpus.tasks:
                    self.metrics[task] = _answer_metric(model, tokenizer, corpus.where(task=task), task, evaluator)
            asked = {"evaluator": evaluator.name, **evaluator.options}
        self.provenance = {
            **self.made,
            "kind": ATTRIBUTION,
            "tokens": "sentence",
            "active": "product",
            "metric": options.metric,
            **asked,
            "positions": options.positions,
            "baseline": options.baseline,
            **({} if stats is None else {"baseline_means": _means_hash(stats)}),
        }

    def _check(self, stats: ActivationStats) -> None:
        """Check the statistics of the baseline against the model."""
        if kind_of(stats) != ACTIVATION:
            raise InputError(f"stats are of {kind_of(stats)}s, expected activations for the baseline 'mean'")
        for field, name in SAME_MODEL.items():
            recorded = stats.provenance.get(field)
            if recorded is not None and recorded != self.made[field]:
                raise InputError(
                    f"stats are of another model: the {name} is {recorded} there and {self.made[field]} here"
                )
        for site in self.reader.sites:
            if stats.widths.get(site.name) != site.neurons:
                raise InputError(
                    f"stats are of another model: {site.name} has {stats.widths.get(site.name, 'no')} neurons there "
                    f"and {site.neurons} here"
                )

    def of(self, corpus: Corpus, log: Log | None, progress: bool, checkpoint: Path | None = None) -> ActivationStats:
        """The attributions over a corpus, or a fold of it; each task is a pass."""
        folder = checkpoint or self.options.checkpoint
        parts = []
        for number, (task, metric) in enumerate(self.metrics.items()):
            view = corpus if task is None else corpus.where(task=task)
            kept = folder if folder is None or len(self.metrics) == 1 else folder / f"task-{number:02}"
            parts.append(
                self._pass(view, task, metric, replace(self.options, checkpoint=kept, log=None), log, progress)
            )
        return parts[0] if len(parts) == 1 else _joined(corpus, parts)

    def _pass(
        self, corpus: Corpus, task: str | None, metric: Metric, options: Attribute, log: Log | None, progress: bool
    ) -> ActivationStats:
        reader = self.reader

        def read(sentences: Iterable[Sentence]) -> Iterator[QuestionBatch]:
            return question_batches(corpus, metric, options.positions, self.batch_tokens, reader.padding, sentences)

        keeps_gradient = options.metric == "text"
        gradients = Gradients(reader, metric, keeps_gradient or self.stats is not None, options.recompute)
        idle = next(read([next(iter(corpus))]))
        work = Attributor(reader, corpus, gradients, self._baseline(task), keeps_gradient, idle)
        what = "attributing" if task is None or len(self.metrics) == 1 else f"attributing {task}"
        provenance = {**self.provenance, **corpus_provenance(corpus)}
        return Pass(what, reader, corpus, options, log, progress).measure(
            read, work, attributing(reader, gradients.kernel), provenance, batch_tokens=self.batch_tokens
        )

    def _baseline(self, task: str | None) -> dict[str, NDArray[np.float32]] | None:
        """Site -> the mean of each neuron over the tokens of the task; a neuron that was never observed has none."""
        if self.stats is None or task is None:
            return None
        return {site: total.mean.astype(np.float32) for site, total in self.stats.task_total(task).items()}


def _means_hash(stats: ActivationStats) -> str:
    """Hash of the means that are baselines: of other texts, or other tokens of them, they are others."""
    return digest(*(mean.mean.tobytes() for task in stats.tasks for mean in stats.task_total(task).values()))


def _answer_metric(model: Any, tokenizer: Any, corpus: Corpus, task: str, evaluator: Evaluator) -> Metric:
    """The metric of a task by an evaluator; one that learns is fitted on the corpus.

    Raises:
        InputError: a task of one label, or of one sentence to learn from, or an evaluator that offers no metric.
    """
    labels = corpus.tasks[task]
    if len(labels) < 2:
        raise InputError(f"task {task!r} has the label {labels[0]!r} alone, expected two or more to choose from")
    if not hasattr(evaluator, "differentiable"):
        raise InputError(f"evaluator {evaluator.name!r} has no method differentiable, expected one that gives a metric")
    if evaluator.trains:
        stride = -(-len(corpus) // _FITTED)
        sentences = [sentence for position, sentence in enumerate(corpus) if position % stride == 0]
        if len(sentences) < 2:
            raise InputError(f"task {task!r} has 1 sentence, expected 2 or more for {evaluator.name!r} to learn from")
        held_out = sentences[::_HELD_OUT]
        fitted = [sentence for position, sentence in enumerate(sentences) if position % _HELD_OUT]
        evaluator.fit(model, tokenizer, fitted, held_out, task, labels)
    found: Metric = evaluator.differentiable(model, tokenizer, task, labels)
    return found


def _joined(corpus: Corpus, parts: Sequence[ActivationStats]) -> ActivationStats:
    """The statistics of all tasks, each of which has segments of its own."""
    first = parts[0]
    arrays = {
        site: {name: np.concatenate([getattr(part, name)[site] for part in parts]) for name in FIELDS}
        for site in first.sites
    }
    tasks = {task: labels for part in parts for task, labels in part.tasks.items()}
    read = [part.provenance["tokens_read"] for part in parts]
    totals = {name: sum(part.provenance[name] for part in parts) for name in ("sentences", "tokens_read", "truncated")}
    provenance = {
        **first.provenance,
        **corpus_provenance(corpus),
        **totals,
        "padding": round(float(np.average([part.provenance["padding"] for part in parts], weights=read)), 4),
    }
    segments = [segment for part in parts for segment in part.segments]
    return ActivationStats(tasks, segments, arrays, provenance, overlap.union(part.screened for part in parts))

"""Exams: the model, the sentences and the evaluator of an experiment, and the checks before it runs.

Splits, prompts, labels and the identity of the model are checked for every experiment alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import chain
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from affectron._internal.arguments import EXAM, checked_arguments
from affectron._internal.display import Shown, Summary
from affectron._internal.options import documented
from affectron._internal.overlap import compare, repeats
from affectron._internal.progress import track
from affectron._internal.warning import warn
from affectron._internal.wording import count
from affectron.corpus import Corpus, Sentence
from affectron.errors import InputError
from affectron.evaluation.batched import AS_IT_IS, Integers, Programs, Readout, text_loss
from affectron.evaluation.evaluators import Classifier, Evaluator, make_evaluator
from affectron.evaluation.labels import label_matrix
from affectron.interventions import Program, schedule
from affectron.models import evaluating, find_sites
from affectron.models.provenance import check_made_with, made_with
from affectron.neurons import NeuronSet
from affectron.options import Common, Evaluate
from affectron.stats import ActivationStats, check_neurons


@documented(Evaluate)
class Exam(Shown):
    """Questions to a model about a labelled corpus.

    An answer is one of the corpus' labels of the task. It is right if the sentence has this label. The evaluator may
    also be an :class:`~affectron.evaluation.evaluators.Evaluator`. Where masks act at other positions than all, it is
    given schedules, and has to say in each forward which tokens are the text's own
    (:attr:`affectron.models.Steering.text`).

    Args:
        model: a causal language model. Experiments put it in evaluation mode and restore its mode at their end.
        tokenizer: its tokenizer.
        corpus: sentences with splits, not narrowed to one split.
        {options}
        seed: of the choice of sentences under ``limit``, and of the experiments' random draws.
        allow_overlap: examine screened sentences too, with a warning, instead of refusing them.

    Raises:
        InputError: an unknown evaluator, a prompt without {text}, one split in two roles, a limit or seed out of range,
            unknown positions.
    """

    _argument: ClassVar[str] = EXAM

    @checked_arguments
    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        corpus: Corpus,
        *,
        evaluator: str | Evaluator = Evaluate.evaluator,
        prompts: Mapping[str, str] | None = None,
        calibrate: str = Evaluate.calibrate,
        dev: str = Evaluate.dev,
        test: str = Evaluate.test,
        train: str = Evaluate.train,
        limit: int | None = Evaluate.limit,
        where: str = Evaluate.where,
        seed: int = Common.seed,
        allow_overlap: bool = Common.allow_overlap,
    ) -> None:
        Common(seed=seed, allow_overlap=allow_overlap)
        options = Evaluate(
            evaluator=evaluator, prompts=dict(prompts or {}), calibrate=calibrate, dev=dev, test=test, train=train,
            limit=limit, where=where,
        )  # fmt: skip
        unknown = sorted(options.prompts.keys() - corpus.tasks.keys())
        if unknown:
            raise InputError(f"prompts has task {unknown[0]!r}, expected {', '.join(corpus.tasks)}")
        self.model, self.tokenizer, self.corpus = model, tokenizer, corpus
        self.evaluator = make_evaluator(options)
        self.dev, self.test, self.train, self.limit, self.seed = dev, test, train, limit, seed
        self.splits, self.where = options.splits, where
        self._questions: dict[tuple[str, str], Questions] = {}
        self._texts: dict[tuple[str, str], Text] = {}
        self._fitted: set[str] = set()
        self.allow_overlap = allow_overlap
        self._tested: dict[str, Any] = {}

    def _summary(self) -> Summary:
        name = getattr(self.evaluator, "name", type(self.evaluator).__name__)
        return Summary([f"model {type(self.model).__name__}", f"corpus {self.corpus.name}", f"evaluator {name}"])

    @cached_property
    def made(self) -> dict[str, Any]:
        """Provenance of the model and the tokenizer."""
        return made_with(self.model, self.tokenizer)

    def require(
        self, neurons: NeuronSet, stats: ActivationStats, task: str | None = None
    ) -> dict[str, tuple[str, ...]]:
        """Check neurons and statistics against the model and the corpus.

        Returns:
            task -> its labels that have a list of neurons, of all tasks of ``neurons`` or of ``task`` alone.

        Raises:
            InputError: statistics or neurons of another model; statistics of layers; a neuron beyond the model; as
                :meth:`tasks`.
        """
        check_neurons(stats)
        widths = {site.name: site.neurons for site in find_sites(self.model)}
        self.check_model("statistics", stats.provenance)
        self.check_model("neurons", neurons.provenance)
        neurons.check(widths)
        if stats.widths != widths:
            for site in sorted({*widths, *stats.widths}):
                if widths.get(site) != stats.widths.get(site):
                    recorded, actual = stats.widths.get(site, "no"), widths.get(site, "none")
                    raise InputError(
                        f"the statistics are of another model: {site} has {recorded} neurons there and {actual} here"
                    )
        return self.tasks(neurons, stats, task)

    def check_model(self, name: str, provenance: Mapping[str, Any]) -> None:
        """Check that what is called ``name`` was made with the model.

        Raises:
            InputError: it was made with another one; names the field.
        """
        check_made_with(self.made, name, provenance)

    def tasks(self, neurons: NeuronSet, stats: ActivationStats, task: str | None = None) -> dict[str, tuple[str, ...]]:
        """Check all that needs no model, and return the tasks as :meth:`require` does.

        Raises:
            InputError: an unknown task; a label that is of another task in the corpus or the statistics; a label
                without a sentence in one of the splits or without statistics; a dev or test sentence that was screened
                (unless ``allow_overlap``).
        """
        if task is not None and task not in neurons.tasks:
            raise InputError(f"task is {task!r}, expected one of the neurons' tasks: {', '.join(neurons.tasks)}")
        tasks = neurons.tasks if task is None else {task: neurons.tasks[task]}
        for name, labels in tasks.items():
            self.corpus.where(task=name)
            stats.task_rows(name)
            for label in labels:
                for source, task_of in ((self.corpus.name, self.corpus.task_of), ("the statistics", stats.task_of)):
                    if label in task_of and task_of[label] != name:
                        raise InputError(
                            f"label {label!r} is of task {name!r} in the neurons and of {task_of[label]!r} in {source}"
                        )
                stats.rows(label)
            for split in self.splits.values():
                self.corpus.where(split=split, task=name).require([*labels, *self.corpus.tasks[name]])
        tested = {
            name: [one for split in (self.dev, self.test) for one in self.corpus.where(split=split, task=name)]
            for name in tasks
        }
        records = {"neurons": neurons.screened, "statistics": stats.screened}
        self._tested = {
            **compare(chain.from_iterable(tested.values()), records, self.allow_overlap),
            "repeated": sum(self._repeated(name, sentences) for name, sentences in tested.items()),
        }
        return tasks

    def _repeated(self, task: str, sentences: Sequence[Sentence]) -> int:
        """Number of a task's tested sentences that have the text of an earlier one, with a warning."""
        repeated = repeats(sentence.text for sentence in sentences)
        if repeated:
            warn(
                f"task {task!r}: {repeated} of the {count(len(sentences), 'sentence')} of splits {self.dev!r} and "
                f"{self.test!r} have the text of another one; intervals and p values count each as one of its own"
            )
        return repeated

    @contextmanager
    def sitting(self, what: str, runs: int, progress: bool) -> Iterator[Steps]:
        """Put the model in evaluation mode without gradients; show progress as ``what`` in ``runs`` programs."""
        with torch.no_grad(), evaluating(self.model), track(what, runs, progress) as advance:
            yield Steps(advance)

    def sentences(self, split: str, task: str) -> list[Sentence]:
        """The sentences of a split and task; with a limit, at most so many random ones of each label, each once."""
        corpus = self.corpus.where(split=split, task=task)
        sentences = list(corpus)
        if self.limit is None:
            return sentences
        rng = np.random.default_rng(self.seed)
        kept: set[int] = set()
        for label in corpus.labels:
            candidates = [position for position, sentence in enumerate(sentences) if label in sentence.labels]
            kept.update(int(position) for position in rng.permutation(candidates)[: self.limit])
        return [sentences[position] for position in sorted(kept)]

    def questions(self, split: str, task: str) -> Questions:
        """The questions of a split and task, made once; before the first an evaluator that learns is fitted."""
        if (split, task) not in self._questions:
            labels = self.corpus.tasks[task]
            sentences = self.sentences(split, task)
            if self.evaluator.trains and task not in self._fitted:
                train, dev = self.sentences(self.train, task), self.sentences(self.dev, task)
                self.evaluator.fit(self.model, self.tokenizer, train, dev, task, labels)
                self._fitted.add(task)
            classifier = self.evaluator.classifier(self.model, self.tokenizer, sentences, task, labels)
            self._questions[split, task] = Questions(
                classifier, label_matrix(sentences, labels), tuple(labels), self.where
            )
        return self._questions[split, task]

    def text(self, split: str, task: str) -> Text:
        """The sentences of a split and task as plain text, made once."""
        if (split, task) not in self._texts:
            self._texts[split, task] = self.text_of(self.sentences(split, task))
        return self._texts[split, task]

    def text_of(self, sentences: Sequence[Sentence]) -> Text:
        """Any sentences as plain text."""
        return Text(*text_loss(self.model, self.tokenizer, sentences), self.where)

    def provenance(self, neurons: NeuronSet) -> dict[str, Any]:
        """Provenance of a result, as JSON.

        The model, corpus and neurons with their hashes, the versions in use, and under ``tested`` the overlap of tested
        and screened sentences (:func:`affectron._internal.overlap.compare`) and the number of repeated ones.
        """
        return {
            **self.made,
            "corpus": [self.corpus.hash],
            "corpus_name": self.corpus.name,
            "corpus_splits": {split: self.corpus.where(split=split).hash for split in self.splits.values()},
            "neurons": neurons.provenance,
            "tested": self._tested,
        }

    def options(self, tasks: Iterable[str]) -> dict[str, Any]:
        """Options on which the answers about these tasks depend, as JSON, with those that the evaluator chose."""
        names = set(tasks)
        # An option that is a mapping has an entry for each task, perhaps for tasks of an earlier experiment too.
        chosen = {
            key: {task: choice for task, choice in value.items() if task in names} if isinstance(value, dict) else value
            for key, value in self.evaluator.options.items()
        }
        return {
            "evaluator": self.evaluator.name,
            **chosen,
            "dev": self.dev,
            "test": self.test,
            "limit": self.limit,
            "where": self.where,
            "seed": self.seed,
        }


class Questions:
    """The n sentences of a split and task, and the model's answers.

    Attributes:
        classifier: gives the answers.
        truth: bool [n, L], which of ``labels`` each sentence has.
        labels: the L labels of the task.
        where: positions at which programs act.
    """

    def __init__(
        self,
        classifier: Classifier,
        truth: NDArray[np.bool_],
        labels: tuple[str, ...],
        where: str = Evaluate.where,
    ) -> None:
        self.classifier, self.truth, self.labels, self.where = classifier, truth, labels, where

    def __len__(self) -> int:
        return len(self.truth)

    @cached_property
    def unmasked(self) -> Integers:
        """int64 [n]: the answers of the model as it is, asked for once."""
        answers: Integers = self.classifier(np.arange(len(self)))[0]
        return answers

    def ask(self, programs: Sequence[Program | None], rows: Integers | None = None) -> Integers:
        """int64 [P, n]: the answers under each program to all sentences, or to those at ``rows``."""
        selected = np.arange(len(self)) if rows is None else rows
        if not len(programs) or not len(selected):
            return np.zeros((len(programs), len(selected)), dtype=np.int64)
        return self.classifier(selected, limited(programs, self.where))

    def right(self, answers: Integers, rows: Integers | None = None) -> NDArray[np.float64]:
        """1 where an answer [..., n] is one of the sentence's labels, else 0; an answer of -1 is never right."""
        truth = self.truth if rows is None else self.truth[rows]
        return np.where(answers < 0, False, truth[np.arange(len(truth)), answers]).astype(np.float64)

    def own(self, target: int) -> Integers:
        """Positions of the sentences that have the label at position ``target``."""
        return np.flatnonzero(self.truth[:, target])

    def others(self, target: int) -> Integers:
        """Positions of the sentences that do not have the label at position ``target``."""
        return np.flatnonzero(~self.truth[:, target])

    def nearest(self, rows: Integers, most: int) -> Integers:
        """Of the sentences at ``rows``, ascending, the ``most`` whose answers are nearest to a change: those of the
        smallest margin of scores without a program. All of them where the classifier tells no scores."""
        if len(rows) <= most or not hasattr(self.classifier, "scores"):
            return rows
        return np.sort(rows[np.argsort(self._margins[rows], kind="stable")[:most]])

    @cached_property
    def _margins(self) -> NDArray[np.float64]:
        """float64 [n]: distance of the best score of a sentence's labels from the best of the others."""
        scores = self.classifier.scores(np.arange(len(self)))[0]  # type: ignore[attr-defined]
        best, others = (np.where(part, scores, -np.inf).max(axis=1) for part in (self.truth, ~self.truth))
        margins: NDArray[np.float64] = np.abs(best - others)
        return margins

    def accuracy(self, answers: Integers) -> dict[str, Any]:
        """The share of right answers [n], of all sentences and of the sentences of each label."""
        right = self.right(answers)
        per_label = {label: float(right[self.own(target)].mean()) for target, label in enumerate(self.labels)}
        return {"accuracy": float(right.mean()), "per_label": per_label}


class Text:
    """Sentences as plain text, and the model's loss on them under a program.

    Attributes:
        loss: gives the summed loss of each sentence, in nats (:func:`affectron.evaluation.batched.text_loss`).
        tokens: int64 [n], the tokens of each sentence that count.
        where: positions at which programs act.
    """

    def __init__(self, loss: Readout, tokens: Integers, where: str) -> None:
        self.loss, self.tokens, self.where = loss, tokens, where

    @cached_property
    def unmasked(self) -> NDArray[np.float64]:
        """float64 [n]: the loss of each sentence of the model as it is, in nats, computed once."""
        losses: NDArray[np.float64] = self.loss(np.arange(len(self.tokens)), AS_IT_IS)[0]
        return losses

    def deltas(self, programs: Sequence[Program | None], rows: Integers | None = None) -> list[float | None]:
        """The change of the mean loss of a token under each program, in nats, over all sentences or those at ``rows``.

        None where the sentences have no token or the change is not finite.
        """
        rows = np.arange(len(self.tokens)) if rows is None else rows
        tokens = int(self.tokens[rows].sum())
        if not tokens:
            return [None] * len(programs)
        before = float(self.unmasked[rows].sum())
        after = self.loss(rows, limited(programs, self.where))
        changes = [(float(masked.sum()) - before) / tokens for masked in after]
        return [change if math.isfinite(change) else None for change in changes]


def limited(programs: Sequence[Program | None], where: str) -> Programs:
    """Programs that act at some positions only."""
    if where == "all":
        return programs
    return [program if program is None else schedule(program, where=where) for program in programs]


class Steps:
    """Progress in programs under which the model has run."""

    def __init__(self, advance: Callable[[int], None]) -> None:
        self._advance, self._done = advance, 0

    def __call__(self, count: int = 1) -> None:
        self._done += count
        self._advance(self._done)

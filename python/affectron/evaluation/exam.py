"""An exam: the model, the sentences and the evaluator that every experiment asks its questions with.

Apart from the experiments, which differ in the programs they ask under; whatever has to be right before any of them
runs (splits, prompts, labels, one and the same model everywhere) is checked here, once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from affectron._internal.overlap import compare
from affectron._internal.progress import track
from affectron.corpus import Corpus, Sentence
from affectron.errors import InputError
from affectron.evaluation.evaluators import (
    AS_IT_IS,
    Evaluator,
    Integers,
    LabelLikelihood,
    LinearProbe,
    Programs,
    Reader,
    text_loss,
    truths,
)
from affectron.models import evaluating, find_sites
from affectron.models.provenance import SAME_MODEL, made_with
from affectron.neurons import NeuronSet
from affectron.stats import ActivationStats


class Exam:
    """Questions to a model about a labelled corpus.

    A sentence is answered right when the answer is one of its labels of the task; the answers to choose from are all
    labels of the task in the corpus.

    Args:
        model: a causal language model; experiments put it in evaluation mode meanwhile and leave it as it was.
        tokenizer: its tokenizer.
        corpus: sentences with splits, not narrowed to one.
        evaluator: ``label_likelihood``, ``linear_probe``, or an object like those in affectron.evaluation.evaluators.
        prompts: task -> template, for ``label_likelihood``.
        dev, test: the splits that choices are made on and that is reported.
        train: the split that a probe is fitted on; not read otherwise.
        limit: sentences of a label in a split at most, chosen at random; all when None.
        seed: of that choice, and of what experiments draw.
        allow_overlap: examine sentences that were screened too, and say so, in place of refusing them.

    Raises:
        InputError: an unknown evaluator, a prompt without {text}, two splits that are one, a limit or seed out of its
            range.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        corpus: Corpus,
        *,
        evaluator: str | Evaluator = "label_likelihood",
        prompts: Mapping[str, str] | None = None,
        dev: str = "dev",
        test: str = "test",
        train: str = "train",
        limit: int | None = None,
        seed: int = 0,
        allow_overlap: bool = False,
    ) -> None:
        whole_number("seed", seed, 0)
        if limit is not None:
            whole_number("limit", limit, 1)
        self.model, self.tokenizer, self.corpus = model, tokenizer, corpus
        self.evaluator = _evaluator(evaluator, prompts, corpus)
        self.dev, self.test, self.train, self.limit, self.seed = dev, test, train, limit, seed
        self.splits = {"dev": dev, "test": test, **({"train": train} if self.evaluator.trains else {})}
        if len(set(self.splits.values())) < len(self.splits):
            given = ", ".join(f"{name} {split!r}" for name, split in self.splits.items())
            raise InputError(f"the splits are {given}; expected different ones")
        self._questions: dict[tuple[str, str], Questions] = {}
        self._texts: dict[tuple[str, str], Text] = {}
        self._fitted: set[str] = set()
        self.allow_overlap = allow_overlap
        self._tested: dict[str, Any] = {}

    @cached_property
    def made(self) -> dict[str, Any]:
        """What results say of the model and the tokenizer."""
        return made_with(self.model, self.tokenizer)

    def require(
        self, neurons: NeuronSet, stats: ActivationStats, task: str | None = None
    ) -> dict[str, tuple[str, ...]]:
        """The tasks to examine (all of ``neurons``, or one), with their labels that have a list of neurons.

        Raises:
            InputError: statistics or neurons of another model, a neuron beyond the model, an unknown task, a label of
                another task elsewhere or without a sentence in one of the splits, a dev or test sentence that was
                screened (unless ``allow_overlap``).
        """
        widths = {site.name: site.neurons for site in find_sites(self.model)}
        for what, provenance in (("statistics", stats.provenance), ("neurons", neurons.provenance)):
            for field in SAME_MODEL:
                found, value = provenance.get(field), self.made[field]
                if found is not None and found != value:
                    raise InputError(f"the {what} are of another model: {field} is {found} there and {value} here")
        neurons.check(widths)
        if stats.widths != widths:
            for site in sorted({*widths, *stats.widths}):
                if widths.get(site) != stats.widths.get(site):
                    there, here = stats.widths.get(site, "no"), widths.get(site, "none")
                    raise InputError(
                        f"the statistics are of another model: {site} has {there} neurons there and {here} here"
                    )
        return self.tasks(neurons, stats, task)

    def tasks(self, neurons: NeuronSet, stats: ActivationStats, task: str | None = None) -> dict[str, tuple[str, ...]]:
        """The tasks of :meth:`require`, with all that can be checked of them without the model.

        Raises:
            InputError: an unknown task, a label of another task elsewhere or without a sentence in one of the splits.
        """
        if task is not None and task not in neurons.tasks:
            raise InputError(f"task is {task!r}, expected one of the neurons' tasks: {', '.join(neurons.tasks)}")
        tasks = neurons.tasks if task is None else {task: neurons.tasks[task]}
        for name, labels in tasks.items():
            self.corpus.where(task=name)
            stats.task_rows(name)
            for label in labels:
                for where, task_of in ((self.corpus.name, self.corpus.task_of), ("the statistics", stats.task_of)):
                    if label in task_of and task_of[label] != name:
                        raise InputError(
                            f"label {label!r} is of task {name!r} in the neurons and of {task_of[label]!r} in {where}"
                        )
                stats.rows(label)
            for split in self.splits.values():
                self.corpus.where(split=split, task=name).require([*labels, *self.corpus.tasks[name]])
        tested = (
            sentence for name in tasks for split in (self.dev, self.test)
            for sentence in self.corpus.where(split=split, task=name)
        )  # fmt: skip
        records = {"neurons": neurons.screened, "statistics": stats.screened}
        self._tested = compare(tested, records, self.allow_overlap)
        return tasks

    @contextmanager
    def sitting(self, what: str, runs: int, progress: bool) -> Iterator[Steps]:
        """The model in evaluation mode and without gradients, and a bar that counts ``runs`` programs."""
        with torch.no_grad(), evaluating(self.model), track(what, runs, progress) as advance:
            yield Steps(advance)

    def sentences(self, split: str, task: str) -> list[Sentence]:
        """The sentences of a split and task; under a limit, that many of each label at random, each once."""
        corpus = self.corpus.where(split=split, task=task)
        found = list(corpus)
        if self.limit is None:
            return found
        rng = np.random.default_rng(self.seed)
        kept: set[int] = set()
        for label in corpus.labels:
            own = [place for place, sentence in enumerate(found) if label in sentence.labels]
            kept.update(int(place) for place in rng.permutation(own)[: self.limit])
        return [found[place] for place in sorted(kept)]

    def questions(self, split: str, task: str) -> Questions:
        """The questions of a split and task, made once. An evaluator that learns has learnt from train and dev."""
        if (split, task) not in self._questions:
            labels = self.corpus.tasks[task]
            found = self.sentences(split, task)
            if self.evaluator.trains and task not in self._fitted:
                train, dev = self.sentences(self.train, task), self.sentences(self.dev, task)
                self.evaluator.fit(self.model, self.tokenizer, train, dev, task, labels)
                self._fitted.add(task)
            reader = self.evaluator.reader(self.model, self.tokenizer, found, task, labels)
            self._questions[split, task] = Questions(reader, truths(found, labels), tuple(labels))
        return self._questions[split, task]

    def text(self, split: str, task: str) -> Text:
        """The same sentences as plain text, made once."""
        if (split, task) not in self._texts:
            self._texts[split, task] = Text(self.model, self.tokenizer, self.sentences(split, task))
        return self._texts[split, task]

    def provenance(self, neurons: NeuronSet) -> dict[str, Any]:
        """The model, corpus and neurons of a result, by their hashes, the versions that made it, and what
        :meth:`require` has found of the tested sentences (:func:`affectron._internal.overlap.compare`)."""
        return {
            **self.made,
            "corpus": [self.corpus.hash],
            "corpus_name": self.corpus.name,
            "corpus_splits": {split: self.corpus.where(split=split).hash for split in self.splits.values()},
            "neurons": neurons.provenance,
            "tested": self._tested,
        }

    def options(self, tasks: Iterable[str]) -> dict[str, Any]:
        """What the questions about these tasks depend on, as JSON; with what the evaluator has used or chosen."""
        names = set(tasks)
        # What it holds for each task may hold others', that another experiment asked about.
        chosen = {
            key: {task: found for task, found in value.items() if task in names} if isinstance(value, dict) else value
            for key, value in self.evaluator.options.items()
        }
        return {
            "evaluator": self.evaluator.name,
            **chosen,
            "dev": self.dev,
            "test": self.test,
            "limit": self.limit,
            "seed": self.seed,
        }


class Questions:
    """The sentences of one split and task, and a model that answers them.

    ``truth`` is bool [n, L]: which of ``labels`` each sentence has.
    """

    def __init__(self, reader: Reader, truth: NDArray[np.bool_], labels: tuple[str, ...]) -> None:
        self.reader, self.truth, self.labels = reader, truth, labels

    def __len__(self) -> int:
        return len(self.truth)

    @cached_property
    def unmasked(self) -> Integers:
        """int64 [n]: the answers of the model as it is, asked for once."""
        answers: Integers = self.reader(np.arange(len(self)))[0]
        return answers

    def ask(self, programs: Programs, rows: Integers | None = None) -> Integers:
        """int64 [P, n]: the answers to all sentences, or to some, under each program."""
        wanted = np.arange(len(self)) if rows is None else rows
        if not len(programs) or not len(wanted):
            return np.zeros((len(programs), len(wanted)), dtype=np.int64)
        answers: Integers = self.reader(wanted, programs)
        return answers

    def right(self, answers: Integers, rows: Integers | None = None) -> NDArray[np.float64]:
        """1 where an answer [..., n] is one of the sentence's labels, else 0; -1 never is."""
        truth = self.truth if rows is None else self.truth[rows]
        return np.where(answers < 0, False, truth[np.arange(len(truth)), answers]).astype(np.float64)

    def own(self, target: int) -> Integers:
        """The sentences of a label."""
        return np.flatnonzero(self.truth[:, target])

    def others(self, target: int) -> Integers:
        """The sentences without it."""
        return np.flatnonzero(~self.truth[:, target])

    def accuracy(self, answers: Integers) -> dict[str, Any]:
        """The share answered right, of all sentences and of each label's own."""
        right = self.right(answers)
        per_label = {label: float(right[self.own(place)].mean()) for place, label in enumerate(self.labels)}
        return {"accuracy": float(right.mean()), "per_label": per_label}


class Text:
    """Sentences as plain text, and their loss under a program."""

    def __init__(self, model: Any, tokenizer: Any, sentences: Sequence[Sentence]) -> None:
        self.read, self.tokens = text_loss(model, tokenizer, sentences)

    @cached_property
    def unmasked(self) -> NDArray[np.float64]:
        found: NDArray[np.float64] = self.read(np.arange(len(self.tokens)), AS_IT_IS)[0]
        return found

    def deltas(self, programs: Programs, rows: Integers | None = None) -> list[float | None]:
        """For each program the change of the mean loss of a token of these sentences, or of all, in nats; None without
        tokens or when not finite."""
        rows = np.arange(len(self.tokens)) if rows is None else rows
        tokens = int(self.tokens[rows].sum())
        if not tokens:
            return [None] * len(programs)
        before = float(self.unmasked[rows].sum())
        changes = [(float(masked.sum()) - before) / tokens for masked in self.read(rows, programs)]
        return [change if math.isfinite(change) else None for change in changes]


class Steps:
    """Progress in programs that the model has run under."""

    def __init__(self, advance: Callable[[int], None]) -> None:
        self._advance, self._done = advance, 0

    def __call__(self, count: int = 1) -> None:
        self._done += count
        self._advance(self._done)


def fraction(name: str, value: Any, zero_too: bool = False) -> None:
    """Raise InputError unless the value is a number in (0, 1], or in [0, 1]."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not (0 <= value <= 1) or (value == 0 and not zero_too):
        raise InputError(f"{name} is {value!r}, expected a number in {'[' if zero_too else '('}0, 1]")


def whole_number(name: str, value: Any, least: int) -> None:
    """Raise InputError unless the value is an integer of at least ``least``, and below 2^32."""
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value < 2**32:
        raise InputError(f"{name} is {value!r}, expected an integer of at least {least}, below 2^32")


def finite_numbers(name: str, values: Sequence[Any]) -> None:
    """Raise InputError unless all values are finite numbers."""
    for value in values:
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value):
            raise InputError(f"{name} has {value!r}, expected finite numbers")


def _evaluator(evaluator: str | Evaluator, prompts: Mapping[str, str] | None, corpus: Corpus) -> Evaluator:
    if evaluator == LabelLikelihood.name:
        unknown = sorted(set(prompts or {}) - set(corpus.tasks))
        if unknown:
            raise InputError(f"prompts has task {unknown[0]!r}, expected {', '.join(sorted(corpus.tasks))}")
        return LabelLikelihood(prompts)
    if prompts is not None:
        raise InputError(f"prompts go with {LabelLikelihood.name!r}, and the evaluator is {evaluator!r}")
    if evaluator == LinearProbe.name:
        return LinearProbe()
    if isinstance(evaluator, str):
        raise InputError(f"evaluator is {evaluator!r}, expected {LabelLikelihood.name} or {LinearProbe.name}")
    return evaluator

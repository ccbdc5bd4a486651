"""Inputs that the stages of a run share: the model, the corpora, the exam. Each is loaded when it is first needed."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from affectron._internal.artifacts import NEURONS, STATS
from affectron._internal.files import read_text
from affectron._internal.overlap import compare, hashed
from affectron.corpus import Corpus
from affectron.corpus.loading import load_corpus
from affectron.errors import InputError
from affectron.evaluation.exam import Exam
from affectron.evaluation.label_likelihood import default_prompt
from affectron.models import load_model
from affectron.models.load import MODEL_FILES, load_skeleton, model_folder
from affectron.neurons import NeuronSet
from affectron.options import METHODS
from affectron.runs.cache import Cache, file_digest, folder_digests
from affectron.runs.config import Config
from affectron.scores import SCORES
from affectron.stats import ACTIVATION, ATTRIBUTION, ActivationStats


@dataclass(frozen=True)
class TaskSize:
    """A task of a split: its labels, the sentences of a label (a mean) and of all, and the tokens of a prompt."""

    task: str
    labels: int
    of_label: float
    total: float
    tokens: float


class Session:
    """The inputs of one run.

    Args:
        config: what is run.
        progress: show bars on stderr.
    """

    def __init__(self, config: Config, progress: bool) -> None:
        self.config, self.progress, self.folder = config, progress, config.output

    @cached_property
    def cache(self) -> Cache:
        return Cache(self.folder)  # read once the run holds the folder: nobody changes it any more

    # --- what is read -------------------------------------------------------------------------------------------

    @cached_property
    def model_path(self) -> Path:
        return model_folder(self.config.model, self.config.trust_remote_code)

    @cached_property
    def model(self) -> tuple[Any, Any]:
        """The model and its tokenizer."""
        config = self.config
        return load_model(
            self.model_path, dtype=config.dtype, device=config.device, trust_remote_code=config.trust_remote_code
        )

    @cached_property
    def corpus(self) -> Corpus:
        return load_corpus(str(self.config.corpus), self.config.columns, task=self.config.task)

    @cached_property
    def other_corpus(self) -> Corpus:
        """The corpus of the cross-dataset validation, without sentences that have a label of no list of neurons."""
        table = self.config.cross_dataset
        assert table is not None
        whole = load_corpus(str(table.corpus), table.columns, task=table.task)
        known = set(self.corpus.tasks[table.task])
        records = [
            {
                "text": sentence.text, "label": list(sentence.labels), "split": sentence.split, "id": sentence.id,
                "task": table.task,
            }
            for sentence in whole
            if known.issuperset(sentence.labels)
        ]  # fmt: skip
        if not records:
            raise InputError(f"{whole.name}: no sentence has only labels of task {table.task!r}: {', '.join(known)}")
        corpus = Corpus.from_records(records)
        corpus.name = whole.name
        return corpus

    @cached_property
    def exam(self) -> Exam:
        return self.exam_on(self.corpus)

    def exam_on(self, corpus: Corpus, **splits: Any) -> Exam:
        """The exam of the configuration on a corpus, perhaps with other splits or another limit."""
        options = {**self.config.evaluate.values(), "prompts": self.prompts(corpus), **splits}
        return Exam(
            *self.model, corpus, **options, seed=self.config.seed, allow_overlap=self.config.allow_overlap
        )  # fmt: skip

    def prompts(self, corpus: Corpus) -> dict[str, str]:
        """The prompts of the corpus' tasks."""
        return {task: prompt for task, prompt in self.config.evaluate.prompts.items() if task in corpus.tasks}

    def stats(self) -> ActivationStats:
        return ActivationStats.load(self.folder / STATS)

    def neurons(self) -> NeuronSet:
        return NeuronSet.load(self.folder / NEURONS)

    # --- what is compared with an earlier run -------------------------------------------------------------------

    @cached_property
    def model_digests(self) -> dict[str, str]:
        return dict(folder_digests(self.model_path, MODEL_FILES))

    @staticmethod
    def digest_of(source: Path | str, corpus: Corpus) -> str:
        """A digest of a corpus: of the file's bytes, or of a dataset's sentences."""
        return file_digest(Path(source)) if corpus.path is not None else corpus.order

    # --- checks -------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Check what can be found wrong before anything is run.

        Raises:
            InputError: names the option.
        """
        self._check_splits()
        self._check_tasks()
        if self.config.generate.enabled:
            self._check_generation()
        self._check_scores()
        _ = self.model_digests
        if not self.config.allow_overlap:
            screened = self.corpus.where(split=self.config.screen.split)
            texts = {"screened": hashed(sentence.text for sentence in screened)}
            for corpus, split in self._tested():
                compare(corpus.where(split=split), texts, False)

    def _check_scores(self) -> None:
        config = self.config
        kinds = [ACTIVATION, ATTRIBUTION] if config.attribute.enabled else [ACTIVATION]
        # A score of attributions with activations selects neurons to shift, as the stage generate does itself.
        measured = [name for name, score in SCORES.items() if score.kind in kinds and not score.shifted]
        for option, name, known in (
            ("select.score", config.select.score, measured),
            ("associate.score", config.associate.score, [name for name in measured if SCORES[name].kind == ACTIVATION]),
        ):
            if name is not None and name not in known:
                raise InputError(f"{option} is {name!r}, expected one of {', '.join(known)}")
        if config.by_attribution and config.select.score is None and config.attribute.metric == "text":
            raise InputError(
                "attribute.metric is 'text' and select.score is not given, expected the metric 'answer', or a score"
            )
        methods = [name for name, method in METHODS.items() if method.options.score in measured]
        for number, name in enumerate(config.methods.methods or ()):
            if config.methods.enabled and name not in methods:
                raise InputError(f"methods.methods[{number}] is {name!r}, expected one of {', '.join(methods)}")

    def _check_splits(self) -> None:
        config = self.config
        splits = {
            "screen.split": config.screen.split, "evaluate.test": config.evaluate.test,
            "evaluate.dev": config.evaluate.dev,
        }  # fmt: skip
        if config.candidates.enabled:
            splits["candidates.split"] = config.candidates.split
        for option, split in splits.items():
            _require(option, split, self.corpus.splits)
        if config.cross_dataset is not None:
            _require("cross_dataset.task", config.cross_dataset.task, self.corpus.tasks)
            for name in ("dev", "test"):
                _require(f"cross_dataset.{name}", getattr(config.cross_dataset, name), self.other_corpus.splits)

    def _check_generation(self) -> None:
        table, model = self.config.generate, load_skeleton(self.model_path, self.config.trust_remote_code)
        if not model.can_generate() or model.config.is_encoder_decoder:
            raise InputError(
                f"generate.enabled is true and the model a {type(model).__name__}, expected a causal language model; "
                "leave the stage out by false"
            )
        _require("evaluate.train", self.config.evaluate.train, self.corpus.splits)  # the judge is fitted on it
        if table.task is not None:
            _require("generate.task", table.task, self.corpus.tasks)
        if table.beginnings is not None:
            read_text(table.beginnings)

    def _check_tasks(self) -> None:
        config = self.config
        tasks = {f"evaluate.prompts.{task}": task for task in config.evaluate.prompts}
        if config.cross_signal is not None:
            tasks |= {f"cross_signal.{name}": getattr(config.cross_signal, name) for name in ("source", "target")}
        for option, task in tasks.items():
            _require(option, task, self.corpus.tasks)
        if config.validate.neutral is not None:
            _require("validate.neutral", config.validate.neutral, self.corpus.labels)

    def _tested(self) -> list[tuple[Corpus, str]]:
        """The splits whose sentences the neurons are tested on, each with its corpus."""
        config = self.config
        tested = [(self.corpus, config.evaluate.dev), (self.corpus, config.evaluate.test)]
        if config.candidates.enabled:
            tested.append((self.corpus, config.candidates.split))
        if config.cross_dataset is not None:
            tested += [(self.other_corpus, config.cross_dataset.dev), (self.other_corpus, config.cross_dataset.test)]
        return tested

    # --- estimates ----------------------------------------------------------------------------------------------

    @cached_property
    def tokens_per_second(self) -> float:
        """Tokens a second that the model reads in a batch like an evaluator's, measured for about a second."""
        model, _ = self.model
        ids = torch.randint(0, model.get_input_embeddings().weight.shape[0], (32, 32), device=model.device)
        body = getattr(model, "base_model", model)
        with torch.no_grad():
            body(input_ids=ids, use_cache=False)
            start, rounds = time.perf_counter(), 0
            while time.perf_counter() - start < 1.0 or not rounds:
                float(body(input_ids=ids, use_cache=False).last_hidden_state.sum())
                rounds += 1
        return rounds * ids.numel() / (time.perf_counter() - start)

    def tokens_of(self, corpus: Corpus, prompt: str) -> float:
        """The mean number of tokens of the corpus' first 200 sentences in a prompt."""
        _, tokenizer = self.model
        texts = [prompt.replace("{text}", sentence.text) for _, sentence in zip(range(200), corpus, strict=False)]
        return float(np.mean([len(ids) for ids in tokenizer(texts)["input_ids"]]))

    def sizes(self, split: str, corpus: Corpus | None = None, limit: int | None = None) -> Iterator[TaskSize]:
        """Each task's sentences in a split, under the limit."""
        corpus = corpus or self.corpus
        limit = limit or self.config.evaluate.limit
        for task, labels in corpus.tasks.items():
            counts = [corpus.counts.get((split, label), 0) for label in labels]
            of_label = float(np.mean([min(count, limit or count) for count in counts]))
            tokens = self.tokens_of(corpus.where(task=task), self._prompt(task, labels))
            yield TaskSize(task, len(labels), of_label, of_label * len(labels), tokens)

    def _prompt(self, task: str, labels: Sequence[str]) -> str:
        return self.config.evaluate.prompts.get(task) or default_prompt(self.model[1], task, labels)

    def tokens_asked(self, split: str) -> float:
        """The tokens of a split, each sentence read once in the prompt of each of its tasks."""
        views = (self.corpus.where(split=split, task=task) for task in self.corpus.where(split=split).tasks)
        return sum(
            len(view) * self.tokens_of(view, self._prompt(task, labels))
            for view in views
            for task, labels in view.tasks.items()
        )

    def tokens_in(self, split: str) -> float:
        """The tokens of a split, each sentence read once."""
        corpus = self.corpus.where(split=split)
        return len(corpus) * self.tokens_of(corpus, "{text}")


def _require(option: str, value: str, known: Any) -> None:
    if value not in known:
        raise InputError(f"{option} is {value!r}, expected one of {', '.join(known)}")

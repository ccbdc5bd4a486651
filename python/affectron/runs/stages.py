"""The stages of a run, in their order: what each depends on, what it leaves, and about how much it costs.

Apart from the cache, which knows no stage by name. A stage runs again when its options, the files it reads, the model,
the corpus or the version of this package have changed, and not when anything else has.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from affectron import __version__
from affectron._internal.files import locked
from affectron._internal.overlap import compare, hashed
from affectron.corpus import Corpus
from affectron.errors import InputError
from affectron.evaluation.evaluators import LabelLikelihood, default_prompt
from affectron.evaluation.exam import Exam
from affectron.experiments.ablations import ablate
from affectron.experiments.associations import associate
from affectron.experiments.candidates import collect, examine
from affectron.experiments.findings import Findings
from affectron.experiments.methods import compare_methods
from affectron.experiments.regulation import cross_signal, induction
from affectron.experiments.stability import keep_stable, stability
from affectron.experiments.validation import validate_exam
from affectron.models import load_model
from affectron.models.load import MODEL_FILES, model_folder
from affectron.models.provenance import versions
from affectron.neurons import NeuronSet
from affectron.report import build_report
from affectron.runs.cache import Cache, file_digest, folder_digests, stage_key
from affectron.runs.config import Columns, Config
from affectron.scores import SCORES
from affectron.screening.screen import screen_folds
from affectron.selection import select
from affectron.stats import ActivationStats

STATS, NEURONS, VALIDATION, CROSS = "stats.safetensors", "neurons.json", "validation.json", "cross_dataset.json"


@dataclass(frozen=True)
class Planned:
    """A stage of a plan. ``seconds`` is an estimate; None where nothing has to be run, or no estimate was asked for."""

    stage: str
    cached: bool
    reason: str
    seconds: float | None


@dataclass(frozen=True)
class _Stage:
    """``options`` is what of the configuration it depends on, None where it is left out; ``files`` what it reads of the
    run folder; ``model`` whether it runs the model on the corpus; ``tokens`` about how many it feeds to it."""

    name: str
    options: Callable[[Config], Any]
    files: Callable[[Config], Sequence[str]]
    outputs: Callable[[Config], Sequence[str]]
    model: bool
    work: Callable[[_Run], None]
    tokens: Callable[[_Run], float]


def run(
    config: Config, *, say: Callable[[str], None] = lambda _: None, progress: bool = False
) -> tuple[Path, list[Planned]]:
    """Run what of the configuration is not done yet, and end in the report.

    Each stage is recorded in ``run.json`` of the output folder when its files are whole; a run that was stopped goes
    on with the stage that it was in. A stage that the configuration leaves out loses the files that it once left.

    Args:
        say: told what is done, a line a stage.
        progress: show bars on stderr.

    Returns:
        the path of the report's page, and what was run and what was there.

    Raises:
        InputError: the configuration, model or corpus cannot be used, a file cannot be written, or another process runs
            in the folder.
    """
    here = _Run(config, progress)
    here.check()
    with locked(config.output):
        return config.output / "report" / "index.html", _run(here, say)


def _run(here: _Run, say: Callable[[str], None]) -> list[Planned]:
    """Run the stages that are not done yet, in a folder that is held."""
    config, cache = here.config, here.cache
    cache.record |= {"affectron": __version__, "config": config.json(), "versions": versions()}
    done: list[Planned] = []
    for stage in STAGES:
        options = stage.options(config)
        if options is None:
            cache.drop(stage.name)
            continue
        key = here.key(stage)
        if cache.done(stage.name, key):
            say(f"{stage.name}: there already")
            done.append(Planned(stage.name, True, "there already", None))
            continue
        say(f"{stage.name}: running")
        start = time.perf_counter()
        stage.work(here)
        seconds = time.perf_counter() - start
        cache.add(stage.name, key, stage.outputs(config), seconds)
        say(f"{stage.name}: {seconds:.1f} s")
        done.append(Planned(stage.name, False, "run", seconds))
    cache.save()
    return done


def plan(config: Config) -> list[Planned]:
    """What :func:`run` would do, and about how long each stage would take; nothing is written.

    The estimate is the number of tokens that a stage feeds to the model over what the model reads in a second, which
    is measured for a moment.

    Raises:
        InputError: the configuration, model or corpus cannot be used.
    """
    here = _Run(config, False)
    here.check()
    planned: list[Planned] = []
    again: set[str] = set()
    for stage in STAGES:
        if stage.options(config) is None:
            continue
        changed = [name for name in stage.files(config) if name in again or not (config.output / name).is_file()]
        if not changed and here.cache.done(stage.name, here.key(stage)):
            planned.append(Planned(stage.name, True, "there already", None))
            continue
        again |= set(stage.outputs(config))
        known = stage.name in here.cache.record["stages"]
        reason = f"after {changed[0]}" if changed else "its inputs or files have changed" if known else "not run yet"
        planned.append(Planned(stage.name, False, reason, stage.tokens(here) / here.rate if stage.model else 1.0))
    return planned


class _Run:
    """What the stages of one run share: nothing is loaded before a stage needs it."""

    def __init__(self, config: Config, progress: bool) -> None:
        self.config, self.progress, self.folder = config, progress, config.output

    @cached_property
    def cache(self) -> Cache:
        return Cache(self.folder)  # only when a run holds the folder: nobody changes it any more

    # --- what is read -------------------------------------------------------------------------------------------

    @cached_property
    def model(self) -> Path:
        return model_folder(self.config.model, self.config.trust_remote_code)

    @cached_property
    def loaded(self) -> tuple[Any, Any]:
        config = self.config
        return load_model(
            self.model, dtype=config.dtype, device=config.device, trust_remote_code=config.trust_remote_code
        )

    @cached_property
    def corpus(self) -> Corpus:
        return _corpus(self.config.corpus, self.config.columns, None)

    @cached_property
    def other(self) -> Corpus:
        """The corpus of the cross-dataset validation, without sentences that have a label of no list of neurons."""
        section = self.config.cross_dataset
        assert section is not None
        whole = _corpus(section.corpus, section.columns, section.task)
        known = set(self.corpus.tasks[section.task])
        records = [
            {"text": one.text, "label": list(one.labels), "split": one.split, "id": one.id, "task": section.task}
            for one in whole
            if known.issuperset(one.labels)
        ]
        if not records:
            raise InputError(f"{whole.name}: no sentence has only labels of task {section.task!r}: {', '.join(known)}")
        found = Corpus.from_records(records)
        found.name = whole.name
        return found

    @cached_property
    def exam(self) -> Exam:
        return self._exam(self.corpus)

    def _exam(self, corpus: Corpus, **other: Any) -> Exam:
        section = self.config.evaluate
        prompts = {task: prompt for task, prompt in section.prompts.items() if task in corpus.tasks}
        given = {"dev": section.dev, "test": section.test, "train": section.train, "limit": section.limit, **other}
        return Exam(
            *self.loaded, corpus, evaluator=section.evaluator,
            prompts=prompts if section.evaluator == LabelLikelihood.name else None, seed=self.config.seed,
            allow_overlap=self.config.allow_overlap, **given,
        )  # fmt: skip

    def stats(self) -> ActivationStats:
        return ActivationStats.load(self.folder / STATS)

    def neurons(self) -> NeuronSet:
        return NeuronSet.load(self.folder / NEURONS)

    # --- keys and checks ----------------------------------------------------------------------------------------

    @cached_property
    def model_digests(self) -> dict[str, str]:
        return dict(folder_digests(self.model, MODEL_FILES))

    def key(self, stage: _Stage) -> str:
        config = self.config
        parts: list[Any] = [stage.name, __version__, stage.options(config)]
        parts.append({name: file_digest(self.folder / name) for name in stage.files(config)})
        if stage.model:
            columns = dataclasses.asdict(config.columns)
            parts += [self.model_digests, file_digest(config.corpus), columns, config.dtype, config.device]
        if stage.name == "cross_dataset" and config.cross_dataset is not None:
            parts.append(file_digest(config.cross_dataset.corpus))
        return stage_key(parts)

    def check(self) -> None:
        """What can be found wrong before anything is run.

        Raises:
            InputError: names the option.
        """
        config = self.config
        corpus = self.corpus
        splits = {"screen.split": config.screen.split, "evaluate.test": config.evaluate.test}
        splits |= {"evaluate.dev": config.evaluate.dev}
        if config.candidates.enabled:
            splits["candidates.split"] = config.candidates.split
        for name, split in splits.items():
            if split not in corpus.splits:
                raise InputError(f"{name} is {split!r}, expected one of {', '.join(corpus.splits)}")
        tasks = {f"evaluate.prompts.{task}": task for task in config.evaluate.prompts}
        if config.cross_signal is not None:
            tasks |= {
                "cross_signal.source": config.cross_signal.source,
                "cross_signal.target": config.cross_signal.target,
            }
        if config.cross_dataset is not None:
            tasks["cross_dataset.task"] = config.cross_dataset.task
        for name, task in tasks.items():
            if task not in corpus.tasks:
                raise InputError(f"{name} is {task!r}, expected one of {', '.join(corpus.tasks)}")
        if config.cross_dataset is not None:
            section = config.cross_dataset
            for name, split in (("dev", section.dev), ("test", section.test)):
                if split not in self.other.splits:
                    known = ", ".join(self.other.splits)
                    raise InputError(f"cross_dataset.{name} is {split!r}, expected one of {known}")
        if config.validate.neutral is not None and config.validate.neutral not in corpus.task_of:
            raise InputError(
                f"validate.neutral is {config.validate.neutral!r}, expected one of {', '.join(corpus.labels)}"
            )
        single = [name for name, kind in SCORES.items() if not kind.paired]
        for name, chosen in (("select", config.select.score), ("associate", config.associate.score)):
            if chosen not in single:
                raise InputError(f"{name}.score is {chosen!r}, expected one of {', '.join(single)}")
        _ = self.model_digests
        if not config.allow_overlap:
            screened = {"screened": hashed(one.text for one in corpus.where(split=config.screen.split))}
            for whole, split in self.tested():
                compare(whole.where(split=split), screened, False)

    def tested(self) -> list[tuple[Corpus, str]]:
        """The splits whose sentences the neurons are tested on, each with its corpus."""
        config = self.config
        found = [(self.corpus, config.evaluate.dev), (self.corpus, config.evaluate.test)]
        if config.candidates.enabled:
            found.append((self.corpus, config.candidates.split))
        if config.cross_dataset is not None:
            found += [(self.other, config.cross_dataset.dev), (self.other, config.cross_dataset.test)]
        return found

    # --- estimates ----------------------------------------------------------------------------------------------

    @cached_property
    def rate(self) -> float:
        """Tokens a second that the model reads in a batch like an evaluator's, measured for about a second."""
        model, _ = self.loaded
        ids = torch.randint(0, model.get_input_embeddings().weight.shape[0], (32, 32), device=model.device)
        body = getattr(model, "base_model", model)
        with torch.no_grad():
            body(input_ids=ids, use_cache=False)
            start, rounds = time.perf_counter(), 0
            while time.perf_counter() - start < 1.0 or not rounds:
                float(body(input_ids=ids, use_cache=False).last_hidden_state.sum())
                rounds += 1
        return rounds * ids.numel() / (time.perf_counter() - start)

    def length(self, corpus: Corpus, prompt: str) -> float:
        """The mean number of tokens of the corpus' first 200 sentences in a prompt."""
        _, tokenizer = self.loaded
        texts = [prompt.replace("{text}", one.text) for _, one in zip(range(200), corpus, strict=False)]
        return float(np.mean([len(ids) for ids in tokenizer(texts)["input_ids"]]))

    def sizes(self, split: str, corpus: Corpus | None = None, limit: int | None = None) -> Iterator[_Size]:
        """Each task's sentences in a split, under the limit."""
        corpus = corpus or self.corpus
        limit = limit or self.config.evaluate.limit
        for task, labels in corpus.tasks.items():
            counts = [corpus.counts.get((split, label), 0) for label in labels]
            own = float(np.mean([min(count, limit or count) for count in counts]))
            prompt = self.config.evaluate.prompts.get(task) or default_prompt(self.loaded[1], task, labels)
            yield _Size(task, len(labels), own, own * len(labels), self.length(corpus.where(task=task), prompt))


@dataclass(frozen=True)
class _Size:
    """A task: its labels, the sentences of a label and of all, and the tokens of a prompt."""

    task: str
    labels: int
    own: float
    all: float
    tokens: float


def _corpus(path: Path, columns: Columns, task: str | None) -> Corpus:
    return Corpus.from_file(
        path, text_column=columns.text, label_column=columns.label, task_column=columns.task,
        split_column=columns.split, label_separator=columns.label_separator, quoting=columns.quoting, task=task,
    )  # fmt: skip


# --- the work ---------------------------------------------------------------------------------------------------


def _folds(config: Config) -> list[str]:
    return [f"folds/{fold:02}.safetensors" for fold in range(config.screen.folds)]


def _screen(here: _Run) -> None:
    section = here.config.screen
    folds = screen_folds(
        *here.loaded, here.corpus.where(split=section.split), section.folds, section.tokens, section.active,
        section.batch_tokens, section.template, section.count_special, here.progress,
    )  # fmt: skip
    (here.folder / "folds").mkdir(exist_ok=True)
    for name, fold in zip(_folds(here.config), folds, strict=True):
        fold.save(here.folder / name)
    ActivationStats.pooled(folds).save(here.folder / STATS)


def _stability(here: _Run) -> None:
    folds = [ActivationStats.load(here.folder / name) for name in _folds(here.config)]
    section = here.config.stability
    stability(
        folds, selection=here.config.select.options(), resamples=section.resamples, splits=section.splits,
        seed=here.config.seed,
    ).save(here.folder / "stability.json")  # fmt: skip


def _select(here: _Run) -> None:
    section = here.config.select
    neurons = select(here.stats(), **section.options())
    if section.min_frequency is not None:
        found = Findings.load(here.folder / "stability.json", "stability")
        neurons = keep_stable(neurons, found, section.min_frequency)
    neurons.save(here.folder / NEURONS)


def _candidates(here: _Run) -> None:
    config, section, neurons = here.config, here.config.candidates, here.neurons()
    corpus = here.corpus.where(split=section.split)
    screened = config.screen
    with collect(
        *here.loaded, corpus, neurons, tokens=screened.tokens, active=screened.active, template=screened.template,
        count_special=screened.count_special, batch_tokens=screened.batch_tokens,
        allow_overlap=config.allow_overlap, progress=here.progress,
    ) as found:  # fmt: skip
        examine(
            found, neurons, here.stats(), corpus, bootstrap=section.bootstrap, permutations=section.permutations,
            examples=section.examples, seed=config.seed, allow_overlap=config.allow_overlap,
        ).save(here.folder / "candidates.json")  # fmt: skip


def _validate(here: _Run) -> None:
    section = here.config.validate
    validate_exam(
        here.exam, here.neurons(), here.stats(), section.options(), neutral=section.neutral, progress=here.progress
    ).save(here.folder / VALIDATION)


def _methods(here: _Run) -> None:
    section = here.config.methods
    compare_methods(
        here.exam, here.neurons(), here.stats(), methods=section.methods, top=section.top or here.config.select.top,
        alpha=section.alpha, random_sets=section.random_sets, bootstrap=section.bootstrap, progress=here.progress,
    ).save(here.folder / "methods.json")  # fmt: skip


def _ablate(here: _Run) -> None:
    section = here.config.ablate
    ablate(
        here.exam, here.neurons(), here.stats(), alpha=section.alpha, alphas=section.alphas, shares=section.shares,
        model_shares=section.model_shares, selection=here.config.select.options(), random_sets=section.random_sets,
        bootstrap=section.bootstrap, progress=here.progress,
    ).save(here.folder / "ablations.json")  # fmt: skip


def _induce(here: _Run) -> None:
    section = here.config.induce
    induction(
        here.exam, here.neurons(), here.stats(), section.betas, random_sets=section.random_sets,
        bootstrap=section.bootstrap, progress=here.progress,
    ).save(here.folder / "induction.json")  # fmt: skip


def _cross_signal(here: _Run) -> None:
    section = here.config.cross_signal
    assert section is not None
    cross_signal(
        here.exam, here.neurons(), here.stats(), section.source, section.target, section.omegas,
        random_sets=section.random_sets, bootstrap=section.bootstrap, progress=here.progress,
    ).save(here.folder / "cross_signal.json")  # fmt: skip


def _cross_dataset(here: _Run) -> None:
    section = here.config.cross_dataset
    assert section is not None
    exam = here._exam(here.other, dev=section.dev, test=section.test, train=section.train, limit=section.limit)
    options = here.config.validate.options()
    validate_exam(exam, here.neurons(), here.stats(), options, task=section.task, progress=here.progress).save(
        here.folder / CROSS
    )


def _associate(here: _Run) -> None:
    associate(here.neurons(), here.stats(), here.config.associate.score).save(here.folder / "associations.json")


def _report(here: _Run) -> None:
    build_report(here.folder, allow_overlap=here.config.allow_overlap)


# --- the table --------------------------------------------------------------------------------------------------


def _section(name: str, *more: str) -> Callable[[Config], Any]:
    """The options of a table of the configuration (None where it is absent or not enabled), and of others it uses."""

    def options(config: Config) -> Any:
        section = getattr(config, name)
        if section is None or not getattr(section, "enabled", True):
            return None
        found = config.json()
        return {one: found[one] for one in (name, *more)}

    return options


def _fixed(*names: str) -> Callable[[Config], Sequence[str]]:
    return lambda _: names


def _validation_tokens(here: _Run, corpus: Corpus | None, dev: str, test: str, limit: int | None) -> float:
    options = here.config.validate.options()
    task = here.config.cross_dataset.task if corpus is not None and here.config.cross_dataset else None
    total = 0.0
    for seen, asked in zip(here.sizes(dev, corpus, limit), here.sizes(test, corpus, limit), strict=True):
        if task in (None, asked.task):
            rounds = len(options.rounds()) * seen.own
            total += asked.labels * asked.tokens * (rounds + 6 * asked.all + options.random_sets * asked.own)
    return total


def _masked_tokens(here: _Run, masks: int, random_sets: int) -> float:
    """Of so many masks of every label on the test split, each with its random sets on the label's own sentences."""
    sizes = here.sizes(here.config.evaluate.test)
    return sum(one.labels * masks * one.tokens * (one.all + random_sets * one.own) for one in sizes)


def _ablation_tokens(here: _Run) -> float:
    section = here.config.ablate
    masks = 3 + len(section.alphas) + len(section.shares) + len(section.model_shares)
    return _masked_tokens(here, masks, section.random_sets)


def _induction_tokens(here: _Run) -> float:
    section = here.config.induce
    sizes = here.sizes(here.config.evaluate.test)
    return sum(one.labels * len(section.betas) * one.tokens * one.all * (2 + section.random_sets) for one in sizes)


def _cross_tokens(here: _Run) -> float:
    section = here.config.cross_signal
    assert section is not None
    devices = len(here.corpus.tasks[section.source])
    total = 0.0
    for one in here.sizes(here.config.evaluate.test):
        if one.task == section.target:
            each = one.own * (len(section.omegas) + section.random_sets) + one.all
            total += one.labels * devices * one.tokens * each
    return total


def _plain_tokens(here: _Run, split: str) -> float:
    corpus = here.corpus.where(split=split)
    return len(corpus) * here.length(corpus, "{text}")


_EVALUATED = ("evaluate", "seed", "allow_overlap")

STAGES: tuple[_Stage, ...] = (
    _Stage(
        "screen", _section("screen"), _fixed(), lambda config: [STATS, *_folds(config)], True, _screen,
        lambda here: _plain_tokens(here, here.config.screen.split),
    ),
    _Stage(
        "stability", _section("stability", "select", "seed"), _folds, _fixed("stability.json"), False, _stability,
        lambda here: 0,
    ),
    _Stage(
        "select", _section("select"),
        lambda config: [STATS] if config.select.min_frequency is None else [STATS, "stability.json"],
        _fixed(NEURONS), False, _select, lambda here: 0,
    ),
    _Stage(
        "candidates", _section("candidates", "screen", "seed", "allow_overlap"), _fixed(STATS, NEURONS),
        _fixed("candidates.json"), True, _candidates, lambda here: _plain_tokens(here, here.config.candidates.split),
    ),
    _Stage(
        "validate", _section("validate", *_EVALUATED), _fixed(STATS, NEURONS), _fixed(VALIDATION), True, _validate,
        lambda here: _validation_tokens(here, None, here.config.evaluate.dev, here.config.evaluate.test, None),
    ),
    _Stage(
        "methods", _section("methods", "select", *_EVALUATED), _fixed(STATS, NEURONS), _fixed("methods.json"), True,
        _methods, lambda here: _masked_tokens(
            here, len(here.config.methods.methods), here.config.methods.random_sets
        ),
    ),
    _Stage(
        "ablate", _section("ablate", "select", *_EVALUATED), _fixed(STATS, NEURONS), _fixed("ablations.json"), True,
        _ablate, _ablation_tokens,
    ),
    _Stage(
        "induce", _section("induce", *_EVALUATED), _fixed(STATS, NEURONS), _fixed("induction.json"), True, _induce,
        _induction_tokens,
    ),
    _Stage(
        "cross_signal", _section("cross_signal", *_EVALUATED), _fixed(STATS, NEURONS), _fixed("cross_signal.json"),
        True, _cross_signal, _cross_tokens,
    ),
    _Stage(
        "cross_dataset", _section("cross_dataset", "validate", *_EVALUATED), _fixed(STATS, NEURONS), _fixed(CROSS),
        True, _cross_dataset, lambda here: _validation_tokens(
            here, here.other, here.config.cross_dataset.dev, here.config.cross_dataset.test,  # type: ignore[union-attr]
            here.config.cross_dataset.limit,  # type: ignore[union-attr]
        ),
    ),
    _Stage(
        "associate", _section("associate"), _fixed(STATS, NEURONS), _fixed("associations.json"), False, _associate,
        lambda here: 0,
    ),
    _Stage(
        "report", lambda config: {"allow_overlap": config.allow_overlap},
        lambda config: [
            name for stage in STAGES[:-1] if stage.options(config) is not None for name in stage.outputs(config)
            if not name.startswith("folds/")
        ],
        _fixed("report/index.html"), False, _report, lambda here: 0,
    ),
)  # fmt: skip

"""The stages of a run, a class each: its options, inputs, outputs, work and cost."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from affectron import __version__, options
from affectron._internal.artifacts import CROSS_DATASET, NEURONS, PAGE, REPORT, STATS, VALIDATION, findings_file
from affectron._internal.records import to_plain
from affectron.corpus import Corpus
from affectron.experiments.ablations import ablate
from affectron.experiments.associations import associate
from affectron.experiments.candidates import collect, examine
from affectron.experiments.cross_signal import cross_signal_matrix
from affectron.experiments.induction import induction
from affectron.experiments.methods import compare_methods
from affectron.experiments.results import Stability as StabilityResult
from affectron.experiments.stability import keep_stable, stability
from affectron.experiments.validation import validate_exam
from affectron.options import Options, described
from affectron.report import build_report
from affectron.runs.cache import file_digest, stage_key
from affectron.runs.config import Config
from affectron.runs.session import Session
from affectron.screening.checkpoint import ShardFolder
from affectron.screening.screen import screen_folds
from affectron.selection import select
from affectron.stats import ActivationStats


class Stage(ABC):
    """One stage of a run.

    Attributes:
        name: its name; also that of its table in the configuration.
        needs: other fields of the configuration that it depends on.
        asks_model: whether it runs the model on the corpus.
    """

    name: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ()
    asks_model: ClassVar[bool] = True

    def options(self, config: Config) -> dict[str, Any] | None:
        """The options that its numbers depend on; None where the configuration leaves it out."""
        table = getattr(config, self.name)
        if table is None or not getattr(table, "enabled", True):
            return None
        return {name: _counting(getattr(config, name)) for name in (self.name, *self.needs)}

    def inputs(self, config: Config) -> Sequence[str]:
        """The files of the run folder that it reads."""
        return STATS, NEURONS

    @abstractmethod
    def outputs(self, config: Config) -> Sequence[str]:
        """The files that it leaves in the run folder."""

    @abstractmethod
    def work(self, session: Session) -> None:
        """Do it."""

    def digests(self, session: Session) -> list[Any]:
        """Digests of the model and the corpora that it reads."""
        if not self.asks_model:
            return []
        config = session.config
        corpus = session.digest_of(config.corpus, session.corpus)
        return [session.model_digests, corpus, to_plain(config.columns), config.task, config.dtype, config.device]

    def key(self, session: Session) -> str:
        """A digest of all that it depends on."""
        files = {name: file_digest(session.folder / name) for name in self.inputs(session.config)}
        return stage_key(self.name, __version__, self.options(session.config), files, self.digests(session))

    def tokens(self, session: Session) -> float:
        """About how many tokens it feeds to the model."""
        return 0.0


def _counting(value: Any) -> Any:
    """Plain data of options, without those that no number depends on."""
    if not isinstance(value, Options):
        return to_plain(value)
    return {
        name: _counting(getattr(value, name)) for name, about in described(type(value)).items() if about.counts
    }  # fmt: skip


_EVALUATED = ("evaluate", "seed", "allow_overlap")


class Screen(Stage):
    name = "screen"

    def inputs(self, config: Config) -> Sequence[str]:
        return ()

    def outputs(self, config: Config) -> Sequence[str]:
        return [STATS, *_folds(config)]

    def work(self, session: Session) -> None:
        table = session.config.screen
        kept = table.checkpoint or session.folder / "checkpoint"
        # Named by all that the numbers depend on: a screening with other options goes on from nothing.
        checkpoint = kept / f"screen-{self.key(session)[:16]}"
        if not table.resume:
            _remove_checkpoint(checkpoint)
        corpus = session.corpus.where(split=table.split)
        options = replace(table, checkpoint=checkpoint, resume=True)
        folds = screen_folds(*session.model, corpus, table.folds, options, progress=session.progress)
        (session.folder / "folds").mkdir(exist_ok=True)
        for name, fold in zip(_folds(session.config), folds, strict=True):
            fold.save(session.folder / name)
        ActivationStats.pooled(folds).save(session.folder / STATS)
        for folder in kept.glob("screen-*"):
            _remove_checkpoint(folder)
        with suppress(OSError):  # not empty
            kept.rmdir()

    def tokens(self, session: Session) -> float:
        return session.tokens_in(session.config.screen.split)


def _remove_checkpoint(folder: Path) -> None:
    """Remove the shards of each fold, and the folders that are empty then."""
    with suppress(OSError):
        for fold in folder.iterdir():
            ShardFolder.remove(fold)
        folder.rmdir()


def _folds(config: Config) -> list[str]:
    return [f"folds/{fold:02}.safetensors" for fold in range(config.screen.folds)]


class Stability(Stage):
    name = "stability"
    needs = ("select", "seed")
    asks_model = False

    def inputs(self, config: Config) -> Sequence[str]:
        return _folds(config)

    def outputs(self, config: Config) -> Sequence[str]:
        return (findings_file(self.name),)

    def work(self, session: Session) -> None:
        folds = [ActivationStats.load(session.folder / name) for name in _folds(session.config)]
        config = session.config
        stability(
            folds, selection=_selection(config), **config.stability.values(), seed=config.seed
        ).save(session.folder / findings_file(self.name))  # fmt: skip


class Select(Stage):
    name = "select"
    asks_model = False

    def inputs(self, config: Config) -> Sequence[str]:
        return [STATS] if config.select.min_frequency is None else [STATS, findings_file(Stability.name)]

    def outputs(self, config: Config) -> Sequence[str]:
        return (NEURONS,)

    def work(self, session: Session) -> None:
        neurons = select(session.stats(), **_selection(session.config).values())
        frequency = session.config.select.min_frequency
        if frequency is not None:
            stable = StabilityResult.load(session.folder / findings_file(Stability.name))
            neurons = keep_stable(neurons, stable, frequency)
        neurons.save(session.folder / NEURONS)


def _selection(config: Config) -> options.Select:
    """The options of :func:`affectron.select`."""
    return options.Select(**{name: getattr(config.select, name) for name in described(options.Select)})


class Candidates(Stage):
    name = "candidates"
    needs = ("screen", "seed", "allow_overlap")

    def outputs(self, config: Config) -> Sequence[str]:
        return (findings_file(self.name),)

    def work(self, session: Session) -> None:
        config, neurons = session.config, session.neurons()
        corpus = session.corpus.where(split=config.candidates.split)
        read = {
            name: getattr(config.screen, name)
            for name in ("tokens", "active", "template", "count_special", "batch_tokens")
        }
        with collect(
            *session.model, corpus, neurons, **read, allow_overlap=config.allow_overlap, progress=session.progress
        ) as activations:
            table = config.candidates
            examine(
                activations, neurons, session.stats(), corpus, bootstrap=table.bootstrap,
                permutations=table.permutations, examples=table.examples, seed=config.seed,
                allow_overlap=config.allow_overlap,
            ).save(session.folder / findings_file(self.name))  # fmt: skip

    def tokens(self, session: Session) -> float:
        return session.tokens_in(session.config.candidates.split)


class Validate(Stage):
    name = "validate"
    needs = _EVALUATED

    def outputs(self, config: Config) -> Sequence[str]:
        return (VALIDATION,)

    def work(self, session: Session) -> None:
        validate_exam(
            session.exam,
            session.neurons(),
            session.stats(),
            session.config.validate,
            progress=session.progress,
        ).save(session.folder / VALIDATION)

    def tokens(self, session: Session) -> float:
        table = session.config.evaluate
        return _validation_tokens(session, session.corpus, None, table.dev, table.test, None)


def _validation_tokens(
    session: Session, corpus: Corpus, task: str | None, dev: str, test: str, limit: int | None
) -> float:
    options = session.config.validate
    total = 0.0
    for seen, asked in zip(session.sizes(dev, corpus, limit), session.sizes(test, corpus, limit), strict=True):
        if task in (None, asked.task):
            rounds = len(options.rounds()) * seen.of_label
            masks = 6 * asked.total + options.random_sets * asked.of_label
            total += asked.labels * asked.tokens * (rounds + masks)
    return total


class Masked(Stage):
    """A stage that asks the test split under masks of every label, each beside its random sets."""

    needs = ("select", *_EVALUATED)

    @abstractmethod
    def masks(self, config: Config) -> int:
        """The masks of a label."""

    def outputs(self, config: Config) -> Sequence[str]:
        return (findings_file(self.name),)

    def tokens(self, session: Session) -> float:
        sizes = session.sizes(session.config.evaluate.test)
        random_sets: int = getattr(session.config, self.name).random_sets
        each = self.masks(session.config)
        return sum(size.labels * each * size.tokens * (size.total + random_sets * size.of_label) for size in sizes)


class Methods(Masked):
    name = "methods"

    def masks(self, config: Config) -> int:
        return len(config.methods.methods)

    def work(self, session: Session) -> None:
        table = session.config.methods
        compare_methods(
            session.exam, session.neurons(), session.stats(), methods=table.methods,
            top=table.top or session.config.select.top, alpha=table.alpha, random_sets=table.random_sets,
            bootstrap=table.bootstrap, progress=session.progress,
        ).save(session.folder / findings_file(self.name))  # fmt: skip


class Ablate(Masked):
    name = "ablate"

    def outputs(self, config: Config) -> Sequence[str]:
        return (findings_file("ablations"),)

    def masks(self, config: Config) -> int:
        table = config.ablate
        return 3 + len(table.alphas) + len(table.shares) + len(table.model_shares)

    def work(self, session: Session) -> None:
        table = session.config.ablate
        ablate(
            session.exam, session.neurons(), session.stats(), alpha=table.alpha, alphas=table.alphas,
            shares=table.shares, model_shares=table.model_shares, selection=_selection(session.config),
            random_sets=table.random_sets, bootstrap=table.bootstrap, progress=session.progress,
        ).save(session.folder / findings_file("ablations"))  # fmt: skip


class Induce(Stage):
    name = "induce"
    needs = _EVALUATED

    def outputs(self, config: Config) -> Sequence[str]:
        return (findings_file("induction"),)

    def work(self, session: Session) -> None:
        table = session.config.induce
        induction(
            session.exam, session.neurons(), session.stats(), table.betas, random_sets=table.random_sets,
            bootstrap=table.bootstrap, progress=session.progress,
        ).save(session.folder / findings_file("induction"))  # fmt: skip

    def tokens(self, session: Session) -> float:
        table = session.config.induce
        sizes = session.sizes(session.config.evaluate.test)
        each = len(table.betas) * (2 + table.random_sets)
        return sum(size.labels * each * size.tokens * size.total for size in sizes)


class CrossSignal(Stage):
    name = "cross_signal"
    needs = _EVALUATED

    def outputs(self, config: Config) -> Sequence[str]:
        return (findings_file(self.name),)

    def work(self, session: Session) -> None:
        table = session.config.cross_signal
        assert table is not None
        cross_signal_matrix(
            session.exam, session.neurons(), session.stats(), **table.values(), progress=session.progress
        ).save(session.folder / findings_file(self.name))  # fmt: skip

    def tokens(self, session: Session) -> float:
        table = session.config.cross_signal
        assert table is not None
        signals = len(session.corpus.tasks[table.source])
        total = 0.0
        for size in session.sizes(session.config.evaluate.test):
            if size.task == table.target:
                each = size.of_label * (len(table.omegas) + table.random_sets) + size.total
                total += size.labels * signals * size.tokens * each
        return total


class CrossDataset(Stage):
    name = "cross_dataset"
    needs = ("validate", *_EVALUATED)

    def outputs(self, config: Config) -> Sequence[str]:
        return (CROSS_DATASET,)

    def digests(self, session: Session) -> list[Any]:
        table = session.config.cross_dataset
        assert table is not None
        return [*super().digests(session), session.digest_of(table.corpus, session.other_corpus)]

    def work(self, session: Session) -> None:
        table = session.config.cross_dataset
        assert table is not None
        exam = session.exam_on(
            session.other_corpus, dev=table.dev, test=table.test, train=table.train, limit=table.limit
        )
        validate_exam(
            exam, session.neurons(), session.stats(), replace(session.config.validate, neutral=None), task=table.task,
            progress=session.progress,
        ).save(session.folder / CROSS_DATASET)  # fmt: skip

    def tokens(self, session: Session) -> float:
        table = session.config.cross_dataset
        assert table is not None
        return _validation_tokens(session, session.other_corpus, table.task, table.dev, table.test, table.limit)


class Associate(Stage):
    name = "associate"
    asks_model = False

    def outputs(self, config: Config) -> Sequence[str]:
        return (findings_file("associations"),)

    def work(self, session: Session) -> None:
        associate(
            session.neurons(), session.stats(), session.config.associate.score
        ).save(session.folder / findings_file("associations"))  # fmt: skip


class Report(Stage):
    name = "report"
    asks_model = False

    def options(self, config: Config) -> dict[str, Any]:
        return {"allow_overlap": config.allow_overlap}

    def inputs(self, config: Config) -> Sequence[str]:
        return [
            name for stage in STAGES[:-1] if stage.options(config) is not None for name in stage.outputs(config)
            if not name.startswith("folds/")
        ]  # fmt: skip

    def outputs(self, config: Config) -> Sequence[str]:
        return (f"{REPORT}/{PAGE}",)

    def work(self, session: Session) -> None:
        build_report(session.folder, allow_overlap=session.config.allow_overlap)


#: The stages in their order.
STAGES: tuple[Stage, ...] = (
    Screen(), Stability(), Select(), Candidates(), Validate(), Methods(), Ablate(), Induce(), CrossSignal(),
    CrossDataset(), Associate(), Report(),
)  # fmt: skip

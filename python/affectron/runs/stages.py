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
from affectron.experiments.results import Findings
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


class Experiment(Stage):
    """A stage that measures one result and saves it.

    Attributes:
        file: the file of the result in the run folder.
    """

    file: ClassVar[str]

    def outputs(self, config: Config) -> Sequence[str]:
        return (self.file,)

    @abstractmethod
    def measure(self, session: Session) -> Findings:
        """Measure the result."""

    def work(self, session: Session) -> None:
        self.measure(session).save(session.folder / self.file)


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


class Stability(Experiment):
    name = "stability"
    needs = ("select", "seed")
    asks_model = False
    file = findings_file("stability")

    def inputs(self, config: Config) -> Sequence[str]:
        return _folds(config)

    def measure(self, session: Session) -> Findings:
        config = session.config
        folds = [ActivationStats.load(session.folder / name) for name in _folds(config)]
        return stability(folds, selection=_selection(config), **config.stability.values(), seed=config.seed)


class Select(Stage):
    name = "select"
    asks_model = False

    def inputs(self, config: Config) -> Sequence[str]:
        return [STATS] if config.select.min_frequency is None else [STATS, Stability.file]

    def outputs(self, config: Config) -> Sequence[str]:
        return (NEURONS,)

    def work(self, session: Session) -> None:
        neurons = select(session.stats(), **_selection(session.config).values())
        frequency = session.config.select.min_frequency
        if frequency is not None:
            stable = StabilityResult.load(session.folder / Stability.file)
            neurons = keep_stable(neurons, stable, frequency)
        neurons.save(session.folder / NEURONS)


def _selection(config: Config) -> options.Select:
    """The options of :func:`affectron.select`."""
    return options.Select(**config.select.values(options.Select))


class Candidates(Experiment):
    name = "candidates"
    needs = ("screen", "seed", "allow_overlap")
    file = findings_file("candidates")

    def measure(self, session: Session) -> Findings:
        config, neurons = session.config, session.neurons()
        corpus = session.corpus.where(split=config.candidates.split)
        read = config.screen.values(options.Read)
        with collect(
            *session.model, corpus, neurons, **read, allow_overlap=config.allow_overlap, progress=session.progress
        ) as activations:
            return examine(
                activations, neurons, session.stats(), corpus, **config.candidates.values(options.Candidates),
                seed=config.seed, allow_overlap=config.allow_overlap,
            )  # fmt: skip

    def tokens(self, session: Session) -> float:
        return session.tokens_in(session.config.candidates.split)


class Validate(Experiment):
    name = "validate"
    needs = _EVALUATED
    file = VALIDATION

    def measure(self, session: Session) -> Findings:
        return validate_exam(
            session.exam, session.neurons(), session.stats(), session.config.validate, progress=session.progress
        )

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


class Masked(Experiment):
    """An experiment that asks the test split under masks of every label, each beside its random sets."""

    needs = ("select", *_EVALUATED)

    @abstractmethod
    def masks(self, config: Config) -> int:
        """The masks of a label."""

    def tokens(self, session: Session) -> float:
        sizes = session.sizes(session.config.evaluate.test)
        random_sets: int = getattr(session.config, self.name).random_sets
        each = self.masks(session.config)
        return sum(size.labels * each * size.tokens * (size.total + random_sets * size.of_label) for size in sizes)


class Methods(Masked):
    name = "methods"
    file = findings_file("methods")

    def masks(self, config: Config) -> int:
        return len(config.methods.methods)

    def measure(self, session: Session) -> Findings:
        table = session.config.methods
        chosen = {**table.values(options.Methods), "top": table.top or session.config.select.top}
        return compare_methods(
            session.exam, session.neurons(), session.stats(), **chosen, progress=session.progress
        )  # fmt: skip


class Ablate(Masked):
    name = "ablate"
    file = findings_file("ablations")

    def masks(self, config: Config) -> int:
        table = config.ablate
        return 3 + len(table.alphas) + len(table.shares) + len(table.model_shares)

    def measure(self, session: Session) -> Findings:
        swept = session.config.ablate.values(options.Ablate)
        return ablate(
            session.exam, session.neurons(), session.stats(), **swept, selection=_selection(session.config),
            progress=session.progress,
        )  # fmt: skip


class Induce(Experiment):
    name = "induce"
    needs = _EVALUATED
    file = findings_file("induction")

    def measure(self, session: Session) -> Findings:
        swept = session.config.induce.values(options.Induce)
        return induction(session.exam, session.neurons(), session.stats(), **swept, progress=session.progress)

    def tokens(self, session: Session) -> float:
        table = session.config.induce
        sizes = session.sizes(session.config.evaluate.test)
        each = len(table.betas) * (2 + table.random_sets)
        return sum(size.labels * each * size.tokens * size.total for size in sizes)


class CrossSignal(Experiment):
    name = "cross_signal"
    needs = _EVALUATED
    file = findings_file("cross_signal")

    def measure(self, session: Session) -> Findings:
        table = session.config.cross_signal
        assert table is not None
        return cross_signal_matrix(
            session.exam, session.neurons(), session.stats(), **table.values(), progress=session.progress
        )

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


class CrossDataset(Experiment):
    name = "cross_dataset"
    needs = ("validate", *_EVALUATED)
    file = CROSS_DATASET

    def digests(self, session: Session) -> list[Any]:
        table = session.config.cross_dataset
        assert table is not None
        return [*super().digests(session), session.digest_of(table.corpus, session.other_corpus)]

    def measure(self, session: Session) -> Findings:
        table = session.config.cross_dataset
        assert table is not None
        exam = session.exam_on(
            session.other_corpus, dev=table.dev, test=table.test, train=table.train, limit=table.limit
        )
        loop = replace(session.config.validate, neutral=None)
        return validate_exam(
            exam, session.neurons(), session.stats(), loop, task=table.task, progress=session.progress
        )  # fmt: skip

    def tokens(self, session: Session) -> float:
        table = session.config.cross_dataset
        assert table is not None
        return _validation_tokens(session, session.other_corpus, table.task, table.dev, table.test, table.limit)


class Associate(Experiment):
    name = "associate"
    asks_model = False
    file = findings_file("associations")

    def measure(self, session: Session) -> Findings:
        return associate(session.neurons(), session.stats(), session.config.associate.score)


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

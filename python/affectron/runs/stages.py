"""The stages of a run, a class each, in their order."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from affectron import options
from affectron._internal.artifacts import (
    ATTRIBUTION,
    CROSS_DATASET,
    GRADIENTS,
    LAYERS,
    NEURONS,
    PAGE,
    REPORT,
    STATS,
    VALIDATION,
    findings_file,
)
from affectron._internal.overlap import compare
from affectron.corpus import Corpus
from affectron.evaluation.effects import usual_sets
from affectron.experiments.ablations import ablate
from affectron.experiments.activity import collect
from affectron.experiments.associations import associate
from affectron.experiments.candidates import examine
from affectron.experiments.cards import first, make_cards
from affectron.experiments.cross_signal import cross_signal_matrix
from affectron.experiments.estimate import check_estimate
from affectron.experiments.generation import TRIED_LAYERS, compare_texts, texts_of
from affectron.experiments.induction import induction
from affectron.experiments.methods import CURVE_SETS, compare_methods
from affectron.experiments.responses import responses
from affectron.experiments.results import MASKS, Findings
from affectron.experiments.results import Stability as StabilityResult
from affectron.experiments.stability import keep_stable, stability
from affectron.experiments.validation import validate_exam
from affectron.report import build_report
from affectron.runs.cache import file_digest
from affectron.runs.config import Config
from affectron.runs.passes import ATTRIBUTE, SCREEN, Gradients, Layers, selects_by
from affectron.runs.session import Session
from affectron.runs.stage import Experiment, Stage
from affectron.selection import select
from affectron.stats import ActivationStats

_EVALUATED = ("evaluate", "seed", "allow_overlap")


class Stability(Experiment):
    name = "stability"
    needs = ("select", "seed")
    asks_model = False
    file = findings_file("stability")

    def inputs(self, config: Config) -> Sequence[str]:
        return selects_by(config).folds(config)

    def measure(self, session: Session) -> Findings:
        config = session.config
        folds = [ActivationStats.load(session.folder / name) for name in self.inputs(config)]
        return stability(folds, selection=_selection(config), **config.stability.values(), seed=config.seed)


class Select(Stage):
    name = "select"
    asks_model = False

    def inputs(self, config: Config) -> Sequence[str]:
        file = selects_by(config).file
        return [file] if config.select.min_frequency is None else [file, Stability.file]

    def outputs(self, config: Config) -> Sequence[str]:
        return (NEURONS,)

    def work(self, session: Session) -> None:
        selected_by = ActivationStats.load(session.folder / selects_by(session.config).file)
        neurons = select(selected_by, **_selection(session.config).values())
        frequency = session.config.select.min_frequency
        if frequency is not None:
            stable = StabilityResult.load(session.folder / Stability.file)
            neurons = keep_stable(neurons, stable, frequency)
        neurons.save(session.folder / NEURONS)


def _selection(config: Config) -> options.Select:
    """The options of :func:`affectron.select`."""
    return options.Select(**config.select.values(options.Select))


class Candidates(Stage):
    """The selected neurons one by one, and their cards, from one pass."""

    name = "candidates"
    needs = ("screen", "seed", "allow_overlap")

    def inputs(self, config: Config) -> Sequence[str]:
        return [*super().inputs(config), *_attributions(config)]

    def outputs(self, config: Config) -> Sequence[str]:
        return findings_file("candidates"), findings_file("cards")

    def work(self, session: Session) -> None:
        config, neurons = session.config, session.neurons()
        table = config.candidates
        corpus = session.corpus.where(split=table.split)
        overlap = config.allow_overlap
        compare(corpus, {"neurons": neurons.screened}, overlap)  # before the pass, which takes a while
        read, cards = config.screen.values(options.Read), options.Describe(**table.values(options.Describe))
        shown = first(neurons, cards.cards)
        with collect(
            *session.model, corpus, neurons, shown=shown, texts=cards.texts, window=cards.window, **read,
            progress=session.progress,
        ) as activations:  # fmt: skip
            judged = examine(
                activations, neurons, session.stats(), corpus, **table.values(options.Candidates), seed=config.seed,
                allow_overlap=overlap,
            )  # fmt: skip
            made = make_cards(*session.model, activations, shown, corpus, cards, _load_attributions(session))
        for result in (judged, made):
            result.save(session.folder / findings_file(result.kind))

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
            masks = len(MASKS) * (2 * asked.total + usual_sets(options.random_sets) * asked.of_label)
            total += asked.labels * asked.tokens * (rounds + masks)
    return total


def _attributions(config: Config) -> tuple[str, ...]:
    """The file of attributions, where the run makes it."""
    return (ATTRIBUTION,) if ATTRIBUTE.options(config) is not None else ()


def _load_attributions(session: Session) -> ActivationStats | None:
    """The attributions of the run; None where it makes none."""
    return next((ActivationStats.load(session.folder / name) for name in _attributions(session.config)), None)


class Masked(Experiment):
    """An experiment that asks the test split under masks of every label, each beside its random sets."""

    needs = ("select", *_EVALUATED)

    @abstractmethod
    def masks(self, config: Config) -> tuple[int, int]:
        """The masks of a label, and the random sets of all of these."""

    def tokens(self, session: Session) -> float:
        sizes = session.sizes(session.config.evaluate.test)
        masks, random_sets = self.masks(session.config)
        return sum(
            size.labels * size.tokens * (masks * size.total + random_sets * size.of_label) for size in sizes
        )  # fmt: skip


class Estimate(Experiment):
    name = "estimate"
    needs = _EVALUATED
    file = findings_file("estimate")

    def options(self, config: Config) -> dict[str, Any] | None:
        # It zeroes neurons at the positions of all masks: left out where something else was attributed.
        table = config.attribute
        attributed = (table.metric, table.baseline, table.positions)
        checked = attributed == ("answer", "zero", config.evaluate.where)
        return super().options(config) if checked and _attributions(config) else None

    def inputs(self, config: Config) -> Sequence[str]:
        return [NEURONS, *_attributions(config)]

    def measure(self, session: Session) -> Findings:
        attributions = _load_attributions(session)
        assert attributions is not None
        tested = session.config.estimate.values(options.Estimate)
        return check_estimate(session.exam, session.neurons(), attributions, **tested, progress=session.progress)

    def tokens(self, session: Session) -> float:
        sizes = session.sizes(session.config.evaluate.dev)
        neurons = session.config.estimate.neurons
        return sum(size.labels * 2 * neurons * size.tokens * size.of_label for size in sizes)


class Responses(Experiment):
    name = "responses"
    needs = _EVALUATED
    file = findings_file("responses")

    def measure(self, session: Session) -> Findings:
        table = session.config.responses.values(options.Responses)
        return responses(session.exam, session.neurons(), session.stats(), **table, progress=session.progress)

    def tokens(self, session: Session) -> float:
        table = session.config.responses
        runs = table.neurons * len(table.factors)
        sizes = session.sizes(session.config.evaluate.dev)
        return sum(size.labels * runs * size.tokens * size.of_label for size in sizes)


class Methods(Masked):
    name = "methods"
    file = findings_file("methods")

    def inputs(self, config: Config) -> Sequence[str]:
        return [*super().inputs(config), *_attributions(config)]

    def masks(self, config: Config) -> tuple[int, int]:
        table = config.methods
        methods, points = len(table.methods or options.METHODS), len(table.counts)
        return methods * (1 + points), methods * (usual_sets(table.random_sets) + points * CURVE_SETS)

    def measure(self, session: Session) -> Findings:
        table = session.config.methods
        top = table.top or session.config.select.top or options.Methods.top
        return compare_methods(
            session.exam, session.neurons(), session.stats(), _load_attributions(session),
            **{**table.values(options.Methods), "top": top}, progress=session.progress,
        )  # fmt: skip


class Ablate(Masked):
    name = "ablate"
    file = findings_file("ablations")

    def inputs(self, config: Config) -> Sequence[str]:
        return [*super().inputs(config), *_attributions(config)]

    def masks(self, config: Config) -> tuple[int, int]:
        table = config.ablate
        masks = 3 + len(table.alphas) + len(table.shares) + len(table.model_shares)
        return masks, masks * usual_sets(table.random_sets)

    def measure(self, session: Session) -> Findings:
        swept = session.config.ablate.values(options.Ablate)
        return ablate(
            session.exam, session.neurons(), session.stats(), _load_attributions(session), **swept,
            selection=_selection(session.config), progress=session.progress,
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


class Generate(Experiment):
    name = "generate"
    needs = _EVALUATED
    file = findings_file("generation")

    def inputs(self, config: Config) -> Sequence[str]:
        return STATS, GRADIENTS, LAYERS

    def digests(self, session: Session) -> list[Any]:
        file = session.config.generate.beginnings
        return [*super().digests(session), None if file is None else file_digest(file)]

    def measure(self, session: Session) -> Findings:
        gradients, layers = (ActivationStats.load(session.folder / name) for name in (GRADIENTS, LAYERS))
        return compare_texts(
            session.exam, session.stats(), gradients, layers, session.config.generate, progress=session.progress
        )

    def tokens(self, session: Session) -> float:
        table = session.config.generate
        tasks = session.corpus.tasks
        if table.task is not None:
            tasks = {table.task: tasks[table.task]}
        layers = TRIED_LAYERS if table.layers is None else len(table.layers)
        return _OF_WRITING * table.max_new_tokens * texts_of(table, tasks, layers)


# A token that is written takes about as long as so many that are read.
_OF_WRITING = 4


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
                each = size.of_label * (len(table.omegas) + usual_sets(table.random_sets)) + size.total
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
            if "/" not in name
        ]  # fmt: skip

    def outputs(self, config: Config) -> Sequence[str]:
        return (f"{REPORT}/{PAGE}",)

    def work(self, session: Session) -> None:
        build_report(session.folder, allow_overlap=session.config.allow_overlap)


#: The stages in their order.
STAGES: tuple[Stage, ...] = (
    SCREEN, ATTRIBUTE, Stability(), Select(), Candidates(), Validate(), Estimate(), Responses(), Methods(), Ablate(),
    Induce(), CrossSignal(), CrossDataset(), Associate(), Layers(), Gradients(), Generate(), Report(),
)  # fmt: skip

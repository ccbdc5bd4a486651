"""The stages that measure every neuron, or every layer's output, over a split."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from affectron import options
from affectron._internal import artifacts
from affectron._internal.names import LAYERS, NEURONS
from affectron.attribution.attribute import attribute_folds
from affectron.corpus import Corpus
from affectron.runs.config import Config
from affectron.runs.session import Session
from affectron.runs.stage import Stage, counting
from affectron.screening.checkpoint import ShardFolder
from affectron.screening.screen import screen_folds
from affectron.stats import ActivationStats


class Pass(Stage):
    """A pass over the folds of a split, kept in a checkpoint until all are measured.

    Attributes:
        file: the file of the whole.
        folder: the folder of the folds.
    """

    file: ClassVar[str]
    folder: ClassVar[str]

    def inputs(self, config: Config) -> Sequence[str]:
        return ()

    def outputs(self, config: Config) -> Sequence[str]:
        return [self.file, *self.folds(config)]

    def folds(self, config: Config) -> list[str]:
        """The files of the folds."""
        return [f"{self.folder}/{fold:02}.safetensors" for fold in range(config.screen.folds)]

    @abstractmethod
    def table(self, config: Config) -> options.Sharded:
        """The options of the pass."""

    @abstractmethod
    def measure(self, session: Session, corpus: Corpus, checkpoint: Path) -> list[ActivationStats]:
        """Measure each fold, keeping what is done in a folder."""

    def work(self, session: Session) -> None:
        table = self.table(session.config)
        kept = table.checkpoint or session.folder / "checkpoint"
        # Named by all that the numbers depend on: a pass with other options goes on from nothing.
        checkpoint = kept / f"{self.name}-{self.key(session)[:16]}"
        if not table.resume:
            ShardFolder.remove(checkpoint)
        folds = self.measure(session, session.corpus.where(split=session.config.screen.split), checkpoint)
        (session.folder / self.folder).mkdir(exist_ok=True)
        for name, fold in zip(self.folds(session.config), folds, strict=True):
            fold.save(session.folder / name)
        ActivationStats.pooled(folds).save(session.folder / self.file)
        for folder in kept.glob(f"{self.name}-*"):
            ShardFolder.remove(folder)
        with suppress(OSError):  # not empty
            kept.rmdir()


class Screen(Pass):
    name = "screen"
    file = artifacts.STATS
    folder = "folds"

    at = NEURONS

    def table(self, config: Config) -> options.Screen:
        return config.screen

    def sites(self, config: Config) -> options.ScreenSites:
        """The options of the pass, with what is measured."""
        return options.ScreenSites(**config.screen.values(options.Screen), at=self.at)

    def measure(self, session: Session, corpus: Corpus, checkpoint: Path) -> list[ActivationStats]:
        options = replace(self.sites(session.config), checkpoint=checkpoint, resume=True)
        return screen_folds(*session.model, corpus, session.config.screen.folds, options, progress=session.progress)

    def tokens(self, session: Session) -> float:
        return session.tokens_in(session.config.screen.split)


class Attribute(Pass):
    name = "attribute"
    file = artifacts.ATTRIBUTION
    folder = "attribution-folds"

    def table(self, config: Config) -> options.Attribute:
        return config.attribute

    def options(self, config: Config) -> dict[str, Any] | None:
        found = super().options(config)
        read = {"split": config.screen.split, "folds": config.screen.folds, **config.evaluate.values(options.Ask)}
        return None if found is None else found | read

    def inputs(self, config: Config) -> Sequence[str]:
        return [artifacts.STATS] if config.attribute.baseline == "mean" else []

    def measure(self, session: Session, corpus: Corpus, checkpoint: Path) -> list[ActivationStats]:
        config = session.config
        options = replace(self.table(config), checkpoint=checkpoint, resume=True)
        ask = replace(config.evaluate, prompts=session.prompts(corpus))
        stats = session.stats() if options.baseline == "mean" else None
        folds = config.screen.folds
        return attribute_folds(*session.model, corpus, folds, options, ask, stats, progress=session.progress)

    def tokens(self, session: Session) -> float:
        # A backward pass takes about as long as a forward.
        return 2 * session.tokens_asked(session.config.screen.split)


class Layers(Screen):
    """The outputs of the layers, which the residual stream is shifted by."""

    name = "layers"
    file = artifacts.LAYERS
    folder = "layers-folds"

    at = LAYERS

    def options(self, config: Config) -> dict[str, Any] | None:
        return {"layers": counting(config.screen)} if config.generate.enabled else None


class Gradients(Attribute):
    """The gradients of the text, which neurons are selected by that are to be shifted."""

    name = "gradients"
    file = artifacts.GRADIENTS
    folder = "gradients-folds"

    def table(self, config: Config) -> options.Attribute:
        return replace(config.attribute, metric="text", positions="all", baseline="zero")

    def options(self, config: Config) -> dict[str, Any] | None:
        read = {"split": config.screen.split, "folds": config.screen.folds}
        return {"gradients": counting(self.table(config)), **read} if config.generate.enabled else None

    def inputs(self, config: Config) -> Sequence[str]:
        return ()


def selects_by(config: Config) -> Pass:
    """The pass whose statistics neurons are selected by."""
    return ATTRIBUTE if config.by_attribution else SCREEN


SCREEN, ATTRIBUTE = Screen(), Attribute()

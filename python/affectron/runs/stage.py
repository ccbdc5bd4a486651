"""A stage of a run: its options, inputs, outputs, work and cost."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from affectron import __version__
from affectron._internal.artifacts import NEURONS, STATS
from affectron._internal.options import Options, described
from affectron._internal.records import to_plain
from affectron.experiments.results import Findings
from affectron.runs.cache import file_digest, stage_key
from affectron.runs.config import Config
from affectron.runs.session import Session


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
        return {name: counting(getattr(config, name)) for name in (self.name, *self.needs)}

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


def counting(value: Any) -> Any:
    """Plain data of options, without those that no number depends on."""
    if not isinstance(value, Options):
        return to_plain(value)
    return {
        name: counting(getattr(value, name)) for name, about in described(type(value)).items() if about.counts
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

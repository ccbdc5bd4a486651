"""The configuration of a run: a TOML file, one table a stage, every option checked before anything is loaded.

A table that is absent has its defaults; a stage that may be left out has ``enabled = false``.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from affectron._internal.checks import Whole
from affectron._internal.files import read_text
from affectron._internal.options import REQUIRED, Options, option, same
from affectron._internal.records import from_plain, to_plain
from affectron.corpus.sources import HUB
from affectron.errors import InputError
from affectron.models.load import is_hub_name
from affectron.options import (
    TOP,
    Ablate,
    Associate,
    Attribute,
    Candidates,
    Columns,
    Common,
    CrossSignal,
    Describe,
    Estimate,
    Evaluate,
    Generate,
    Induce,
    Inputs,
    KeepStable,
    Load,
    Methods,
    Responses,
    Screen,
    Select,
    Stability,
    Validate,
)
from affectron.scores import SCORES
from affectron.selection import check_sentences
from affectron.stats import ATTRIBUTION

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover
    import tomli as tomllib


@dataclass(frozen=True)
class OptionalTable(Options):
    """A stage that may be left out."""

    enabled: bool = option(True, "Run the stage.")


@dataclass(frozen=True)
class ScreenTable(Screen):
    """The table ``[screen]``."""

    checkpoint: Path | None = same(
        Screen,
        "checkpoint",
        help="Folder that keeps what is done of the stage until all is; default: checkpoint in the output folder.",
    )
    resume: bool = same(
        Screen, "resume", default=True, help="Go on from what a stopped stage left; false measures it anew."
    )
    split: str = option("train", "Split whose sentences are measured.")
    folds: int = option(10, "Parts of the corpus, which stability resamples.", Whole(2))


@dataclass(frozen=True)
class AttributeTable(Attribute, OptionalTable):
    """The table ``[attribute]``. Corpus, split and folds are those of ``[screen]``, prompts those of ``[evaluate]``."""

    checkpoint: Path | None = same(ScreenTable, "checkpoint")
    resume: bool = same(ScreenTable, "resume")


@dataclass(frozen=True)
class SelectTable(KeepStable, Select):
    """The table ``[select]``."""


@dataclass(frozen=True)
class CandidatesTable(Describe, Candidates, OptionalTable):
    """The table ``[candidates]``."""

    split: str = option("dev", "Split whose sentences are read; not the one that was screened.")


@dataclass(frozen=True)
class EstimateTable(Estimate, OptionalTable):
    """The table ``[estimate]``."""


@dataclass(frozen=True)
class ResponsesTable(Responses, OptionalTable):
    """The table ``[responses]``."""


@dataclass(frozen=True)
class MethodsTable(Methods, OptionalTable):
    """The table ``[methods]``."""

    top: float | None = same(  # type: ignore[assignment] # None is the selection's
        Methods,
        "top",
        default=None,
        help=f"Share of all neurons to select for all labels of a task; that of select, or {TOP} where it has none.",
    )


@dataclass(frozen=True)
class AblateTable(Ablate, OptionalTable):
    """The table ``[ablate]``."""


@dataclass(frozen=True)
class InduceTable(Induce, OptionalTable):
    """The table ``[induce]``."""


@dataclass(frozen=True)
class GenerateTable(Generate, OptionalTable):
    """The table ``[generate]``."""


@dataclass(frozen=True, kw_only=True)
class CrossSignalTable(CrossSignal):
    """The table ``[cross_signal]``."""

    source: str = option(REQUIRED, "Task that gives the signal, such as one of rhetorical devices.")
    target: str = option(REQUIRED, "Task at whose neurons it is added, such as one of emotions.")

    def check_together(self) -> None:
        super().check_together()
        if self.source == self.target:
            raise InputError(f"source and target are both {self.source!r}, expected two tasks")


@dataclass(frozen=True, kw_only=True)
class CrossDatasetTable(Options):
    """The table ``[cross_dataset]``: another corpus that the neurons are validated on. Sentences with a label that has
    no list of neurons are left out."""

    corpus: Path | str = same(Inputs, "corpus")
    task: str = option(REQUIRED, "Task whose neurons are validated; names that of the other corpus, too.")
    dev: str = same(Evaluate, "dev")
    test: str = same(Evaluate, "test")
    train: str = same(Evaluate, "train")
    limit: int | None = same(Evaluate, "limit")
    columns: Columns = option(Columns(), "Reading the rows of the other corpus.")


@dataclass(frozen=True, kw_only=True)
class Config(Inputs, Common, Load):
    """A whole run. Paths are relative to the folder of the configuration file."""

    output: Path = option(REQUIRED, "Folder that all files go to.")
    columns: Columns = option(Columns(), "Reading the rows of the corpus.")
    screen: ScreenTable = option(ScreenTable(), "Statistics of every neuron for each label.")
    attribute: AttributeTable = option(AttributeTable(), "The effect of every neuron on the answers, to first order.")
    select: SelectTable = option(SelectTable(), "Which neurons belong to a label.")
    stability: Stability = option(Stability(), "Which neurons are selected again under resampling.")
    candidates: CandidatesTable = option(CandidatesTable(), "The selected neurons one by one, and their cards.")
    evaluate: Evaluate = option(Evaluate(), "Asking the model, in every later stage.")
    validate: Validate = option(Validate(), "The feedback loop that settles each label's mask on dev.")
    estimate: EstimateTable = option(
        EstimateTable(), "Attributions of single neurons, beside the effect of zeroing each; where there are any."
    )
    responses: ResponsesTable = option(
        ResponsesTable(), "P of a label as each of its first neurons is turned down or up."
    )
    methods: MethodsTable = option(MethodsTable(), "Ways to select, by what zeroing their neurons does.")
    ablate: AblateTable = option(AblateTable(), "Parts of a label's neurons, at several strengths.")
    induce: InduceTable = option(InduceTable(), "Sentences pushed towards a label.")
    generate: GenerateTable = option(GenerateTable(), "Texts under each label's program, beside other ways to steer.")
    cross_signal: CrossSignalTable | None = option(
        None, "One task's signals at another's neurons; only if it is there."
    )
    cross_dataset: CrossDatasetTable | None = option(None, "Validation on another corpus; only if it is there.")
    associate: Associate = option(Associate(), "Which labels share neurons, and which go together.")

    def check_together(self) -> None:
        super().check_together()
        if self.select.fdr is not None and not self.by_attribution:
            check_sentences(self.select.fdr, self.screen.tokens)

    @property
    def by_attribution(self) -> bool:
        """True if neurons are selected by attributions: unless these are left out or the score is of activations."""
        score = self.select.score
        return self.attribute.enabled if score is None else SCORES[score].kind == ATTRIBUTION

    def json(self) -> dict[str, Any]:
        """The configuration with its defaults filled in, as JSON."""
        plain: dict[str, Any] = to_plain(self)
        return plain


def load_config(path: str | os.PathLike[str]) -> Config:
    """Read and check a configuration file.

    Raises:
        InputError: the file cannot be read or is not TOML; an unknown table or option, one that is missing, of another
            type or out of its range. The message names the file and the option.
    """
    file = Path(path)
    text = read_text(file)
    try:
        content = tomllib.loads(text)
    except RecursionError as error:
        raise InputError(f"{file} is not TOML that can be read: it is nested too deep") from error
    except ValueError as error:  # not TOML, or a number of too many digits
        raise InputError(f"{file} is not TOML that can be read: {error}") from error
    config = from_plain(Config, content, str(file), file.parent)
    config = dataclasses.replace(config, model=_model(file, content["model"], config.model))
    if content["corpus"].startswith(HUB):
        config = dataclasses.replace(config, corpus=content["corpus"])
    if config.cross_dataset is not None and content["cross_dataset"]["corpus"].startswith(HUB):
        other = dataclasses.replace(config.cross_dataset, corpus=content["cross_dataset"]["corpus"])
        config = dataclasses.replace(config, cross_dataset=other)
    return config


def _model(file: Path, name: str, path: Path | str) -> Path | str:
    """The model's folder beside the configuration, or its name on the hub where there is no such folder."""
    if os.path.exists(path) or not is_hub_name(name):
        return path
    if os.path.exists(name):  # would be taken instead of the name
        raise InputError(
            f"{file}: model is {name!r}, which is not beside the configuration but in the current folder; write its "
            "whole path"
        )
    return name

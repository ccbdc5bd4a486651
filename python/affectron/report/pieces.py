"""Pieces of a run: the files of its folder, read and checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from affectron._internal.artifacts import (
    ATTRIBUTION,
    CROSS_DATASET,
    KINDS,
    NEURONS,
    SAME_MODEL,
    STATS,
    VALIDATION,
    findings_file,
)
from affectron.errors import InputError
from affectron.experiments.results import (
    Ablations,
    Associations,
    Candidates,
    Cards,
    CrossSignal,
    Estimate,
    Findings,
    Generation,
    Induction,
    Methods,
    Responses,
    Stability,
    Validation,
)
from affectron.neurons import NeuronSet
from affectron.report.text import plain
from affectron.stats import ActivationStats

Result = TypeVar("Result", bound=Findings)


@dataclass(frozen=True)
class Pieces:
    """The files of a run folder; None for a file that is not there. ``cross_dataset`` is a validation on another
    corpus."""

    stats: ActivationStats | None = None
    attributions: ActivationStats | None = None
    neurons: NeuronSet | None = None
    validation: Validation | None = None
    ablations: Ablations | None = None
    associations: Associations | None = None
    candidates: Candidates | None = None
    cards: Cards | None = None
    cross_signal: CrossSignal | None = None
    estimate: Estimate | None = None
    generation: Generation | None = None
    induction: Induction | None = None
    methods: Methods | None = None
    responses: Responses | None = None
    stability: Stability | None = None
    cross_dataset: Validation | None = None

    @classmethod
    def read(cls, folder: Path) -> Pieces:
        """Read the run folder.

        Raises:
            InputError: no such folder, none of statistics, neurons and validation in it, a file cannot be used, or the
                validation is of other neurons.
        """
        main = f"{STATS}, {NEURONS}, {VALIDATION}"
        if not folder.is_dir():
            raise InputError(f"run folder {folder} is not a folder, expected one with {main}")
        if not any((folder / name).is_file() for name in (STATS, NEURONS, VALIDATION)):
            raise InputError(f"run folder {folder} has none of {main}")

        def result(kind: type[Result], file: str | None = None) -> Result | None:
            path = folder / (file or findings_file(kind.kind))
            return kind.load(path) if path.is_file() else None

        def measured(file: str) -> ActivationStats | None:
            return ActivationStats.load(folder / file) if (folder / file).is_file() else None

        pieces = cls(
            stats=measured(STATS),
            attributions=measured(ATTRIBUTION),
            neurons=NeuronSet.load(folder / NEURONS) if (folder / NEURONS).is_file() else None,
            validation=result(Validation, VALIDATION),
            ablations=result(Ablations),
            associations=result(Associations),
            candidates=result(Candidates),
            cards=result(Cards),
            cross_signal=result(CrossSignal),
            estimate=result(Estimate),
            generation=result(Generation),
            induction=result(Induction),
            methods=result(Methods),
            responses=result(Responses),
            stability=result(Stability),
            cross_dataset=result(Validation, CROSS_DATASET),
        )
        pieces._check_sites()
        return pieces

    def _check_sites(self) -> None:
        if self.validation is None or self.neurons is None:
            return
        for label, result in self.validation.results.items():
            for site in result.sites:
                if site not in self.neurons.widths:
                    raise InputError(f"{VALIDATION}: site {site!r} of label {label!r} is not in {NEURONS}")

    @property
    def sources(self) -> dict[str, ActivationStats | NeuronSet]:
        """File -> statistics or neurons, which were made from the screened sentences."""
        sources = {STATS: self.stats, ATTRIBUTION: self.attributions, NEURONS: self.neurons}
        return {file: piece for file, piece in sources.items() if piece is not None}

    @property
    def results(self) -> dict[str, Findings]:
        """File -> result of an experiment."""
        results: dict[str, Findings | None] = {VALIDATION: self.validation}
        results |= {findings_file(kind): getattr(self, kind) for kind in KINDS}
        results[CROSS_DATASET] = self.cross_dataset
        return {file: result for file, result in results.items() if result is not None}

    @property
    def tests(self) -> dict[str, Findings]:
        """File -> result that tests neurons on sentences; cards only show some."""
        untested = (Associations, Cards, Stability)
        return {file: result for file, result in self.results.items() if not isinstance(result, untested)}

    @property
    def provenances(self) -> Mapping[str, Mapping[str, Any]]:
        """File -> provenance, of every piece."""
        return {file: piece.provenance for file, piece in (self.sources | self.results).items()}

    @property
    def differences(self) -> list[str]:
        """A line for each property of the model in which the pieces differ: they do not belong together."""
        lines = []
        for key, name in SAME_MODEL.items():
            having = {file: entry[key] for file, entry in self.provenances.items() if entry.get(key) is not None}
            if any(value != next(iter(having.values())) for value in having.values()):
                values = "; ".join(f"{file}: {plain(value)}" for file, value in having.items())
                lines.append(f"the {name} differ ({values})")
        return lines

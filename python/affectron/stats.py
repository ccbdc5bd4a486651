"""Activation statistics: the result of a screening, merged, saved and loaded without torch or a model.

Tokens are accumulated per *segment*, a distinct set of labels that occurs in the corpus. The statistics of a label are
the exact merge of the segments that contain it. Its "rest" is the merge of its task's other segments. A sentence with
several labels thus costs nothing extra and is never counted twice in one set.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from affectron._internal import overlap
from affectron._internal.arguments import STATISTICS
from affectron._internal.artifacts import SAME_MODEL, STATS
from affectron._internal.display import Shown, Summary, few, origin
from affectron._internal.frames import Categories, frame
from affectron._internal.hub import Shareable
from affectron._internal.model_card import Description
from affectron._internal.provenance import merged, plain_json
from affectron._internal.site_arrays import FIELDS as FIELDS
from affectron._internal.site_arrays import LEAST_BYTES, check_arrays, columns, merge_rows, pooled
from affectron._internal.site_arrays import SiteStats as SiteStats
from affectron._internal.tensor_file import read_arrays, write_arrays
from affectron._internal.warning import warn
from affectron._internal.wording import count
from affectron.errors import InputError

if TYPE_CHECKING:
    import pandas

FORMAT = "affectron.stats"
VERSION = 1

#: Name of the tensor of screened texts in a file. No tensor of a site has it: those are named <site>/<field>.
SCREENED = "screened"

#: Fields of the provenance that two statistics must agree on to be merged.
SAME_TO_MERGE = (
    *SAME_MODEL, "kind", "tokens", "active", "dtype", "template", "added_bos", "count_special", "metric", "evaluator",
    "prompts", "calibrate", "positions", "baseline", "baseline_means",
)  # fmt: skip

#: Rows of a data frame at most: about a gigabyte.
MOST_ROWS = 10_000_000

#: Values of ``kind`` in the provenance: statistics of neurons' activations, of their attributions, one observation a
#: sentence, or of the outputs of layers, the residual stream.
ACTIVATION, ATTRIBUTION, RESIDUAL = "activation", "attribution", "residual"

#: Value of ``tokens`` in the provenance of statistics whose observations are the differences within contrastive pairs.
PAIRS = "pair"


class ActivationStats(Shown, Shareable):
    """Statistics of every neuron of a model, per segment of a labelled corpus.

    Args:
        tasks: task -> its labels. A label belongs to one task.
        segments: S distinct label sets; row s of every array belongs to ``segments[s]``.
        arrays: site -> the arrays named in ``FIELDS``, sites in the model's forward order. ``count`` is [S], the
            others are [S, F] for a site of F neurons. Where nothing is observed, mean, m2, min and max may hold
            anything. Arrays of the right type are kept without a copy.
        provenance: model, corpus and options that the numbers come from; must be JSON.
        screened: hashes of the measured texts; None if they are not known.

    Attributes:
        labels: all labels, ordered by task, then alphabetically.
        tasks: task -> its labels.
        task_of: label -> its task.
        segments: the label sets, each in label order.
        sites: the sites in forward order.
        widths: site -> number of neurons F.
        count: site -> int64 [S].
        active, nonfinite, mean, m2, min, max: site -> [S, F]; types and meaning as in :class:`SiteStats`.
        provenance: a plain dictionary.
        screened: uint64 [texts], ascending, or None.

    Raises:
        InputError: an array, a label or a segment is not as described; the message names it.
    """

    _argument: ClassVar[str] = STATISTICS
    hub_file = STATS

    def __init__(
        self,
        tasks: Mapping[str, Sequence[str]],
        segments: Sequence[Sequence[str]],
        arrays: Mapping[str, Mapping[str, ArrayLike]],
        provenance: Mapping[str, Any] | None = None,
        screened: ArrayLike | None = None,
    ) -> None:
        self.screened = None if screened is None else overlap.check_texts(screened)
        self.tasks: dict[str, tuple[str, ...]] = {task: tuple(sorted(tasks[task])) for task in sorted(tasks)}
        self.task_of: dict[str, str] = {}
        for task, labels in self.tasks.items():
            for label in labels:
                if label in self.task_of:
                    raise InputError(f"label {label!r} is in both {self.task_of[label]!r} and {task!r}")
                self.task_of[label] = task
        self.labels: tuple[str, ...] = tuple(self.task_of)
        self.segments = self._ordered_segments(segments)
        self.provenance = plain_json(provenance or {})

        if not arrays:
            raise InputError("statistics have no site, expected at least one")
        self.sites: tuple[str, ...] = tuple(arrays)
        self.widths: dict[str, int] = {}
        self.count: dict[str, NDArray[np.int64]] = {}
        self.active: dict[str, NDArray[np.int64]] = {}
        self.nonfinite: dict[str, NDArray[np.int64]] = {}
        self.mean: dict[str, NDArray[np.float64]] = {}
        self.m2: dict[str, NDArray[np.float64]] = {}
        self.min: dict[str, NDArray[np.float32]] = {}
        self.max: dict[str, NDArray[np.float32]] = {}
        for site, given in arrays.items():
            checked = check_arrays(site, given, len(self.segments))
            self.widths[site] = checked["active"].shape[1]
            for name, array in checked.items():
                getattr(self, name)[site] = array

    def _ordered_segments(self, segments: Sequence[Sequence[str]]) -> tuple[tuple[str, ...], ...]:
        position = {label: i for i, label in enumerate(self.labels)}
        ordered = []
        for segment in segments:
            unknown = [label for label in segment if label not in position]
            if unknown:
                raise InputError(f"segment {tuple(segment)!r}: label {unknown[0]!r} is in no task")
            if not segment or len(set(segment)) != len(segment):
                raise InputError(f"segment {tuple(segment)!r}: expected one or more distinct labels")
            ordered.append(tuple(sorted(segment, key=position.__getitem__)))
        if not ordered:
            raise InputError("statistics have no segment, expected at least one")
        if len(set(ordered)) != len(ordered):
            raise InputError("statistics have the same segment twice, expected distinct label sets")
        return tuple(ordered)

    def _summary(self) -> Summary:
        facts = [
            f"{self.kind} of {count(sum(self.widths.values()), 'neuron')} at {count(len(self.sites), 'site')}",
            f"{count(len(self.labels), 'label')}: {few(self.labels)}",
            *origin(self.provenance),
        ]
        rows = ((label, self.task_of[label], self.tokens(label)) for label in self.labels)
        return Summary(facts, ("label", "task", "observations"), rows, len(self.labels))

    def to_pandas(
        self, labels: str | Sequence[str] | None = None, sites: str | Sequence[str] | None = None
    ) -> pandas.DataFrame:
        """A row for each neuron under each label.

        The columns are label, task and site (``category``), and those of :meth:`SiteStats.to_pandas`.

        Args:
            labels: labels, or one of them; all when None.
            sites: sites, or one of them; all when None.

        Raises:
            InputError: no such label or site; more than 10,000,000 rows; pandas is not installed.
        """
        labels, sites = (
            known if given is None else (given,) if isinstance(given, str) else tuple(dict.fromkeys(given))
            for given, known in ((labels, self.labels), (sites, self.sites))
        )
        for site in sites:
            if site not in self.widths:
                raise InputError(f"site {site!r} is not in the statistics, which have {few(self.sites)}")
        width = sum(self.widths[site] for site in sites)
        if len(labels) * width > MOST_ROWS:
            raise InputError(
                f"{count(len(labels), 'label')} of {count(width, 'neuron')} make {len(labels) * width:,} rows, "
                f"expected at most {MOST_ROWS:,}; choose labels or sites"
            )
        first = columns(self.pool(self.sites[0], self.rows(self.labels[0])))
        parts: dict[str, list[NDArray[Any]]] = {name: [array[:0]] for name, array in first.items()}
        for label in labels:
            rows = self.rows(label)
            for site in sites:
                for name, array in columns(self.pool(site, rows)).items():
                    parts[name].append(array)
        tasks = list(dict.fromkeys(self.task_of[label] for label in labels))
        sizes = [self.widths[site] for site in sites]
        # A column's parts are given up as it is made: those of all columns take as much memory as the frame.
        joined = {name: np.concatenate(parts.pop(name)) for name in list(parts)}
        return frame(
            {
                "label": Categories(labels, np.repeat(np.arange(len(labels)), width)),
                "task": Categories(tasks, np.repeat([tasks.index(self.task_of[label]) for label in labels], width)),
                "site": Categories(sites, np.tile(np.repeat(np.arange(len(sites)), sizes), len(labels))),
                **{name: (str(array.dtype), array) for name, array in joined.items()},
            }
        )

    def tokens(self, label: str) -> int:
        """Count the label's tokens at the site that has most of them.

        Every site has all tokens, except the experts of a mixture: each of these has the tokens routed to it.

        Raises:
            InputError: no such label.
        """
        rows = self.rows(label)
        return max(int(count[rows].sum()) for count in self.count.values())

    @property
    def uneven(self) -> bool:
        """True where the sites differ in their numbers of tokens."""
        first = self.count[self.sites[0]]
        return any(not np.array_equal(first, count) for count in self.count.values())

    @property
    def nonfinite_share(self) -> float:
        """Share of all activations that are NaN or infinite."""
        nonfinite, total = _nonfinite([self])
        return sum(nonfinite.values()) / max(sum(total.values()), 1)

    @property
    def kind(self) -> str:
        """The quantity that was observed: ``activation``, ``attribution`` or ``residual``."""
        return str(self.provenance.get("kind", ACTIVATION))

    @property
    def of_pairs(self) -> bool:
        """True where an observation is of a contrastive pair: of activations their difference within it."""
        return self.provenance.get("tokens") == PAIRS

    def label(self, name: str) -> dict[str, SiteStats]:
        """Merge the segments that contain the label, exactly: site -> statistics.

        Raises:
            InputError: no such label; the message lists the known ones.
        """
        rows = self.rows(name)
        return {site: self.pool(site, rows) for site in self.sites}

    def rest(self, name: str) -> dict[str, SiteStats]:
        """Merge the segments of the label's task that do not contain the label: site -> statistics.

        Raises:
            InputError: no such label.
        """
        rows = self.rest_rows(name)
        return {site: self.pool(site, rows) for site in self.sites}

    def task_total(self, task: str) -> dict[str, SiteStats]:
        """Merge all segments that have a label of the task, each once: site -> statistics.

        Raises:
            InputError: no such task; the message lists the known ones.
        """
        rows = self.task_rows(task)
        return {site: self.pool(site, rows) for site in self.sites}

    def total(self) -> dict[str, SiteStats]:
        """Merge all segments, each once: site -> statistics of all tokens that were measured."""
        return {site: self.pool(site, range(len(self.segments))) for site in self.sites}

    def rows(self, label: str) -> list[int]:
        """List the segments (row numbers) that contain the label.

        Raises:
            InputError: no such label; the message lists the known ones.
        """
        if label not in self.task_of:
            raise InputError(f"label {label!r} is not in the statistics, which have {', '.join(self.labels)}")
        return [row for row, segment in enumerate(self.segments) if label in segment]

    def rest_rows(self, label: str) -> list[int]:
        """List the segments (row numbers) of the label's task that do not contain the label.

        Raises:
            InputError: no such label.
        """
        inside = set(self.rows(label))
        return [row for row in self.task_rows(self.task_of[label]) if row not in inside]

    def task_rows(self, task: str) -> list[int]:
        """List the segments (row numbers) that have a label of the task.

        Raises:
            InputError: no such task; the message lists the known ones.
        """
        if task not in self.tasks:
            raise InputError(f"task {task!r} is not in the statistics, which have {', '.join(self.tasks)}")
        labels = set(self.tasks[task])
        return [row for row, segment in enumerate(self.segments) if labels.intersection(segment)]

    def pool(self, site: str, rows: Sequence[int]) -> SiteStats:
        """Merge the segments ``rows`` (row numbers) at one site."""
        index = np.asarray(rows, dtype=np.intp)
        return pooled({name: getattr(self, name)[site][index] for name in FIELDS})

    @classmethod
    def pooled(cls, parts: Sequence[ActivationStats], provenance: Mapping[str, Any] | None = None) -> ActivationStats:
        """Merge folds of one corpus, or a resample of them; a part counts as often as it is listed. Counts are exact.

        Args:
            parts: statistics with the same segments and sites.
            provenance: that of the result; the first part's without its ``fold`` when None.

        Raises:
            InputError: no part, or parts with different segments or sites.
        """
        if not parts:
            raise InputError("parts is empty, expected at least one")
        first = parts[0]
        for part in parts[1:]:
            _same("the segments", first.segments, part.segments)
            _same("the sites", first.widths, part.widths)
        arrays = {
            site: merge_rows({name: np.stack([getattr(part, name)[site] for part in parts]) for name in FIELDS})
            for site in first.sites
        }
        if provenance is None:
            provenance = {key: value for key, value in first.provenance.items() if key != "fold"}
        return cls(first.tasks, first.segments, arrays, provenance, overlap.union(part.screened for part in parts))

    def merge(self, other: ActivationStats) -> ActivationStats:
        """Merge the statistics of two corpora. Counts are exact; moments agree in any order of merges to 1e-12.

        Segments are matched by their label sets; a segment of one side alone is kept as it is. Both statistics must
        come from the same model, measured in the same way, with every common label in the same task.

        Raises:
            InputError: a field that must be the same differs; names the field and both values.
        """
        for key in SAME_TO_MERGE:
            _same(key, self.provenance.get(key), other.provenance.get(key))
        _same("the number of sites", len(self.sites), len(other.sites))
        for site, other_site in zip(self.sites, other.sites, strict=True):
            _same("a site", site, other_site)
            _same(f"the number of neurons of {site}", self.widths[site], other.widths[site])
        for label in self.labels:
            if label in other.task_of:
                _same(f"the task of label {label!r}", self.task_of[label], other.task_of[label])

        tasks = {
            task: sorted({*self.tasks.get(task, ()), *other.tasks.get(task, ())})
            for task in {*self.tasks, *other.tasks}
        }
        row_of = {frozenset(segment): row for row, segment in enumerate(self.segments)}
        other_row_of = {frozenset(segment): row for row, segment in enumerate(other.segments)}
        alike = self.segments == other.segments
        union = list(row_of) if alike else sorted({*row_of, *other_row_of}, key=sorted)
        arrays = {}
        for site in self.sites:
            sides = (_aligned(self, site, row_of, union), _aligned(other, site, other_row_of, union))
            arrays[site] = merge_rows({name: np.stack([side[name] for side in sides]) for name in FIELDS})
        segments = [sorted(segment) for segment in union]
        provenance = merged(self.provenance, other.provenance)
        screened = overlap.union([self.screened, other.screened])
        return ActivationStats(tasks, segments, arrays, provenance, screened)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file, atomically; equal statistics give equal files.

        Tensors are named ``<site>/<field>``. If the screened texts are known, the tensor ``screened`` holds them. The
        metadata entry ``affectron`` is JSON: the format, its version, ``content`` (tasks, segments, sites and
        provenance) and a BLAKE2b digest of the content and of every tensor.

        Raises:
            InputError: the file cannot be written; an older file is left unchanged.
        """
        content = {
            "tasks": self.tasks,
            "segments": self.segments,
            "sites": self.sites,
            "provenance": self.provenance,
        }
        arrays = {f"{site}/{name}": getattr(self, name)[site] for site in self.sites for name in FIELDS}
        if self.screened is not None:
            arrays[SCREENED] = self.screened
        write_arrays(path, FORMAT, VERSION, content, arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ActivationStats:
        """Read a file that :meth:`save` wrote. The statistics are the same, bit for bit.

        Sizes and the numbers of sites and segments are checked against the file before any tensor is read, and the
        digest before any number is used.

        Raises:
            InputError: the file is missing, truncated, altered, of another format or of another version.
        """
        content, tensors = read_arrays(path, FORMAT, VERSION, _tensors_of, {SCREENED: np.uint64})
        arrays = {site: {name: tensors[f"{site}/{name}"] for name in FIELDS} for site in content["sites"]}
        try:
            return cls(content["tasks"], content["segments"], arrays, content["provenance"], tensors.get(SCREENED))
        except InputError as error:
            raise InputError(f"{path}: {error}") from error

    def _described(self) -> Description:
        neurons, sites = count(sum(self.widths.values()), "neuron"), count(len(self.sites), "site")
        return Description(
            f"Statistics ({self.kind}) of {neurons} at {sites}, by label.",
            "stats",
            "stats.label(stats.labels[0])",
            self.provenance,
            screened=0 if self.screened is None else len(self.screened),
            header=("label", "task", "observations"),
            rows=[(label, self.task_of[label], self.tokens(label)) for label in self.labels],
        )


def _tensors_of(content: dict[str, Any], room: int) -> dict[str, type[np.generic]] | None:
    """List the tensors that ``content`` describes: name -> type.

    None if a field is missing or of another type, or if ``room`` bytes cannot hold all sites and segments.
    """
    try:
        tasks, segments, sites = content["tasks"], content["segments"], content["sites"]
        lists = [sites, *tasks.values(), *segments]
        valid = (
            isinstance(segments, list)
            and isinstance(content["provenance"], dict)
            and all(isinstance(names, list) for names in lists)
            and all(isinstance(name, str) for names in lists for name in names)
            and len(set(sites)) == len(sites)
            and len(sites) * len(segments) * LEAST_BYTES <= room
        )
    except (KeyError, TypeError, AttributeError):
        return None
    return {f"{site}/{name}": kind for site in sites for name, kind in FIELDS.items()} if valid else None


def _nonfinite(parts: Sequence[ActivationStats]) -> tuple[dict[str, int], dict[str, int]]:
    """Count activations of parts with the same sites: site -> those that are NaN or infinite, and site -> all."""
    nonfinite = {site: sum(int(part.nonfinite[site].sum()) for part in parts) for site in parts[0].sites}
    total = {
        site: width * sum(int(part.count[site].sum()) for part in parts) for site, width in parts[0].widths.items()
    }
    return nonfinite, total


def check_neurons(stats: ActivationStats) -> None:
    """Check that statistics are of neurons, whose sites are the MLPs of a model.

    Raises:
        InputError: they are of the outputs of layers.
    """
    if stats.kind == RESIDUAL:
        raise InputError("these statistics hold the outputs of layers, expected those of neurons")


def check_finite(parts: Sequence[ActivationStats]) -> None:
    """Warn of NaN and infinite activations in the statistics, given as one or more parts with the same sites.

    Raises:
        InputError: a site has tokens and not one finite activation; names the first such site.
    """
    nonfinite, total = _nonfinite(parts)
    empty = [site for site, number in nonfinite.items() if number == total[site] > 0]
    if empty:
        raise InputError(
            f"{empty[0]}: all {total[empty[0]]:,} activations are NaN or infinite, as at {len(empty)} of "
            f"{count(len(nonfinite), 'site')}; expected finite ones: the weights hold NaN, or the dtype's range is too "
            "small"
        )
    if any(nonfinite.values()):
        affected, activations = sum(nonfinite.values()), sum(total.values())
        sites = [site for site, number in nonfinite.items() if number]
        warn(
            f"{affected:,} of {activations:,} activations ({affected / activations:.2g}) are NaN or infinite and left "
            f"out of means and extremes, at {len(sites)} of {count(len(nonfinite), 'site')}, the first {sites[0]}",
        )


def _same(field: str, first: object, second: object) -> None:
    if first != second:
        raise InputError(f"cannot merge statistics: {field} is {first!r} in one and {second!r} in the other")


def _aligned(
    stats: ActivationStats, site: str, rows: Mapping[frozenset[str], int], union: Sequence[frozenset[str]]
) -> dict[str, NDArray[Any]]:
    """Align the site's arrays with the segments of ``union``; a segment that ``stats`` lacks has no tokens."""
    targets = [i for i, segment in enumerate(union) if segment in rows]
    sources = [rows[union[i]] for i in targets]
    aligned = {}
    for name in FIELDS:
        array = getattr(stats, name)[site]
        aligned[name] = np.zeros((len(union), *array.shape[1:]), array.dtype)
        aligned[name][targets] = array[sources]
    return aligned

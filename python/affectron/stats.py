"""Activation statistics as plain data: the result of a screening, merged, saved and loaded without torch or a model.

Tokens are accumulated per *segment*, a distinct set of labels that occurs in the corpus. The statistics of a
label are the exact merge of the segments that contain it, "rest" is the merge of its task's other segments:
a sentence with several labels costs nothing extra and is never counted twice in one set.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from affectron._internal import overlap
from affectron._internal.artifacts import SAME_MODEL
from affectron._internal.provenance import merged, plain_json
from affectron._internal.tensor_file import read_arrays, write_arrays
from affectron._internal.wording import count
from affectron.errors import InputError

FORMAT = "affectron.stats"
VERSION = 1

#: The arrays of one site, and the type each is kept in. ``count`` is [S], the others are [S, F].
FIELDS: dict[str, type[np.generic]] = {
    "count": np.int64,
    "active": np.int64,
    "nonfinite": np.int64,
    "mean": np.float64,
    "m2": np.float64,
    "min": np.float32,
    "max": np.float32,
}
#: Bytes that a site and segment take at least, with one neuron: count, and six arrays.
_LEAST = sum(np.dtype(kind).itemsize for kind in FIELDS.values())
#: The tensor of the screened texts in a file. No site's: those have a field after a slash.
SCREENED = "screened"

#: What two statistics must have in common to be merged; numbers taken in another way do not add up.
SAME_TO_MERGE = (*SAME_MODEL, "tokens", "active", "dtype", "template", "added_bos", "count_special")


#: ``tokens`` of statistics whose observations are the differences within contrastive pairs.
PAIRS = "pair"


@dataclass(frozen=True, eq=False)
class SiteStats:
    """Statistics of one set of tokens at one site of F neurons.

    Attributes:
        count: tokens in the set.
        active: int64 [F], tokens at which the neuron is active, by the rule stored with the statistics.
        nonfinite: int64 [F], tokens at which the activation is NaN or infinite. Such a token is part of
            ``count`` and of none of the four below.
        mean: float64 [F], mean activation over the observed tokens; NaN where there is none.
        m2: float64 [F], sum of the squared deviations from ``mean``; 0 where nothing is observed.
        min: float32 [F]; +inf where nothing is observed.
        max: float32 [F]; -inf where nothing is observed.
    """

    count: int
    active: NDArray[np.int64]
    nonfinite: NDArray[np.int64]
    mean: NDArray[np.float64]
    m2: NDArray[np.float64]
    min: NDArray[np.float32]
    max: NDArray[np.float32]

    @staticmethod
    def empty(neurons: int) -> SiteStats:
        """The statistics of no tokens: the neutral element of :meth:`merge`."""
        shapes = {name: (0,) if name == "count" else (0, neurons) for name in FIELDS}
        return _pool({name: np.zeros(shapes[name], kind) for name, kind in FIELDS.items()})

    @property
    def observed(self) -> NDArray[np.int64]:
        """int64 [F]: tokens whose activation is finite, ``count - nonfinite``."""
        return self.count - self.nonfinite

    @property
    def var(self) -> NDArray[np.float64]:
        """float64 [F]: population variance, ``m2 / observed``; NaN where nothing is observed."""
        observed = self.observed
        return np.where(observed > 0, self.m2 / np.maximum(observed, 1), np.nan)

    @property
    def rate(self) -> NDArray[np.float64]:
        """float64 [F]: P, the share of tokens at which the neuron is active; NaN without tokens."""
        return self.active / self.count if self.count else np.full(self.active.shape, np.nan)

    def merge(self, other: SiteStats) -> SiteStats:
        """The statistics of both sets of tokens together; exact in the counts.

        Raises:
            ValueError: the two have different numbers of neurons.
        """
        if self.active.shape != other.active.shape:
            raise ValueError(f"cannot merge {self.active.size} neurons with {other.active.size}")
        return _pool({name: np.stack([getattr(self, name), getattr(other, name)]) for name in FIELDS})


def _merge_rows(parts: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Merge disjoint sets of tokens along the first axis: count [K, ...], the others [K, ..., F].

    Chan, Golub and LeVeque (1979) for K sets at once, in float64:
    mean = Σ n_k mean_k / n and m2 = Σ m2_k + Σ n_k (mean_k - mean)², n_k the observed tokens. The mean is
    corrected once by the mean of its residuals: equal means then stay what they are, bit for bit, and a merge
    with an empty set changes nothing.
    """
    count = parts["count"]
    observed = count[..., np.newaxis] - parts["nonfinite"]
    seen = observed > 0
    weight = observed.astype(np.float64)
    total = observed.sum(axis=0)
    divisor = np.maximum(total, 1).astype(np.float64)
    means = np.where(seen, parts["mean"], 0.0)
    mean = (weight * means).sum(axis=0) / divisor
    mean += (weight * (means - mean)).sum(axis=0) / divisor
    m2 = np.where(seen, parts["m2"], 0.0).sum(axis=0) + (weight * (means - mean) ** 2).sum(axis=0)
    return {
        "count": count.sum(axis=0),
        "active": parts["active"].sum(axis=0),
        "nonfinite": parts["nonfinite"].sum(axis=0),
        "mean": np.where(total > 0, mean, np.nan),
        "m2": m2,
        "min": np.where(seen, parts["min"], np.float32(np.inf)).min(axis=0, initial=np.float32(np.inf)),
        "max": np.where(seen, parts["max"], np.float32(-np.inf)).max(axis=0, initial=np.float32(-np.inf)),
    }


def _pool(parts: Mapping[str, NDArray[Any]]) -> SiteStats:
    merged = _merge_rows(parts)
    count = int(merged.pop("count"))
    return SiteStats(count, **merged)


class ActivationStats:
    """Statistics of every neuron of a model, per segment of a labelled corpus.

    Args:
        tasks: the labels of each task. A label belongs to one task.
        segments: S distinct label sets; row s of every array belongs to ``segments[s]``.
        arrays: for each site, in the model's forward order, the arrays named in ``FIELDS``: ``count`` [S],
            ``active``, ``nonfinite``, ``mean``, ``m2``, ``min``, ``max`` [S, F], F the site's neurons. Where
            nothing is observed, mean, m2, min and max may hold anything. Arrays that have the right type
            are kept, not copied.
        provenance: what the numbers were made from, by what, and how; must be JSON.
        screened: the texts that were measured, by their hashes; None where it is not known.

    Attributes:
        labels: all labels, by task, then alphabetically.
        tasks: task -> its labels.
        task_of: label -> its task.
        segments: the label sets, each in label order.
        sites: the sites in forward order.
        widths: site -> number of neurons F.
        count: site -> int64 [S].
        active, nonfinite, mean, m2, min, max: site -> [S, F], types and meaning as in :class:`SiteStats`.
        provenance: a plain dictionary.
        screened: uint64 [texts], ascending, or None.

    Raises:
        InputError: an array, a label or a segment is not as described; the message names it.
    """

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
            checked = _checked(site, given, len(self.segments))
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

    def __repr__(self) -> str:
        return (
            f"ActivationStats({len(self.labels)} labels, {len(self.segments)} segments, "
            f"{len(self.sites)} sites, {sum(self.widths.values())} neurons)"
        )

    def tokens(self, label: str) -> int:
        """The label's tokens at the site that has most of them: all that were counted, unless each site is passed by
        some of them only, as each expert of a mixture is.

        Raises:
            InputError: no such label.
        """
        rows = self.rows(label)
        return max(int(count[rows].sum()) for count in self.count.values())

    @property
    def uneven(self) -> bool:
        """Whether the sites differ in their number of tokens."""
        first = self.count[self.sites[0]]
        return any(not np.array_equal(first, count) for count in self.count.values())

    @property
    def nonfinite_share(self) -> float:
        """The share of all activations that are NaN or infinite."""
        bad, taken = _nonfinite([self])
        return sum(bad.values()) / max(sum(taken.values()), 1)

    @property
    def of_pairs(self) -> bool:
        """Whether the observations are differences within contrastive pairs, and not activations."""
        return self.provenance.get("tokens") == PAIRS

    def label(self, name: str) -> dict[str, SiteStats]:
        """site -> statistics of the label: the exact merge of the segments that contain it.

        Raises:
            InputError: no such label; the message lists the known ones.
        """
        rows = self.rows(name)
        return {site: self.pool(site, rows) for site in self.sites}

    def rest(self, name: str) -> dict[str, SiteStats]:
        """site -> statistics of the segments of the label's task that do not contain the label.

        Raises:
            InputError: no such label.
        """
        rows = self.rest_rows(name)
        return {site: self.pool(site, rows) for site in self.sites}

    def task_total(self, task: str) -> dict[str, SiteStats]:
        """site -> statistics of all segments that have a label of the task, each once.

        Raises:
            InputError: no such task; the message lists the known ones.
        """
        rows = self.task_rows(task)
        return {site: self.pool(site, rows) for site in self.sites}

    def rows(self, label: str) -> list[int]:
        """The segments (row numbers) that contain the label."""
        if label not in self.task_of:
            raise InputError(f"label {label!r} is not in the statistics, which have {', '.join(self.labels)}")
        return [row for row, segment in enumerate(self.segments) if label in segment]

    def rest_rows(self, label: str) -> list[int]:
        """The segments (row numbers) of the label's task that do not contain the label."""
        inside = set(self.rows(label))
        return [row for row in self.task_rows(self.task_of[label]) if row not in inside]

    def task_rows(self, task: str) -> list[int]:
        """The segments (row numbers) that have any label of the task."""
        if task not in self.tasks:
            raise InputError(f"task {task!r} is not in the statistics, which have {', '.join(self.tasks)}")
        labels = set(self.tasks[task])
        return [row for row, segment in enumerate(self.segments) if labels.intersection(segment)]

    def pool(self, site: str, rows: Sequence[int]) -> SiteStats:
        """Statistics of the given segments (row numbers) together, at one site."""
        index = np.asarray(rows, dtype=np.intp)
        return _pool({name: getattr(self, name)[site][index] for name in FIELDS})

    @classmethod
    def pooled(cls, parts: Sequence[ActivationStats], provenance: Mapping[str, Any] | None = None) -> ActivationStats:
        """The statistics of all parts together, a part as often as it is listed; exact in the counts.

        The parts are folds of one corpus or a resample of them, with the same segments and sites. ``provenance`` is
        that of the first without its fold, unless given.

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
            site: _merge_rows({name: np.stack([getattr(part, name)[site] for part in parts]) for name in FIELDS})
            for site in first.sites
        }
        if provenance is None:
            provenance = {key: value for key, value in first.provenance.items() if key != "fold"}
        return cls(first.tasks, first.segments, arrays, provenance, overlap.union(part.screened for part in parts))

    def merge(self, other: ActivationStats) -> ActivationStats:
        """The statistics of both corpora together; exact in the counts, any order agrees to 1e-12.

        Segments are matched by their label sets; one that only one side has is taken over as it is. The two
        must come from one model, measured in one way, with every common label in the same task.

        Raises:
            InputError: they differ in something that must be the same; names the field and both values.
        """
        for key in SAME_TO_MERGE:
            _same(key, self.provenance.get(key), other.provenance.get(key))
        _same("the number of sites", len(self.sites), len(other.sites))
        for mine, theirs in zip(self.sites, other.sites, strict=True):
            _same("a site", mine, theirs)
            _same(f"the number of neurons of {mine}", self.widths[mine], other.widths[mine])
        for label in self.labels:
            if label in other.task_of:
                _same(f"the task of label {label!r}", self.task_of[label], other.task_of[label])

        tasks = {
            task: sorted({*self.tasks.get(task, ()), *other.tasks.get(task, ())})
            for task in {*self.tasks, *other.tasks}
        }
        mine_at = {frozenset(segment): row for row, segment in enumerate(self.segments)}
        theirs_at = {frozenset(segment): row for row, segment in enumerate(other.segments)}
        alike = self.segments == other.segments
        union = list(mine_at) if alike else sorted({*mine_at, *theirs_at}, key=sorted)
        arrays = {}
        for site in self.sites:
            halves = (_aligned(self, site, mine_at, union), _aligned(other, site, theirs_at, union))
            arrays[site] = _merge_rows({name: np.stack([half[name] for half in halves]) for name in FIELDS})
        segments = [sorted(segment) for segment in union]
        provenance = merged(self.provenance, other.provenance)
        screened = overlap.union([self.screened, other.screened])
        return ActivationStats(tasks, segments, arrays, provenance, screened)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file, atomically; equal statistics give equal files.

        Tensors are named ``<site>/<field>``; where the screened texts are known, ``screened`` is one more. The
        metadata entry ``affectron`` is JSON: the format, its version, ``content`` (tasks, segments, sites and
        provenance) and a BLAKE2b digest of the content and of every tensor.

        Raises:
            InputError: the file cannot be written; what was there before is unchanged.
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
        """Read a file that :meth:`save` wrote; the same statistics, bit for bit.

        Sizes, and the number of sites and segments, are checked against the file before anything is read, and the
        digest before anything is used.

        Raises:
            InputError: the file is missing, truncated, altered, something else, or of another version.
        """
        content, tensors = read_arrays(path, FORMAT, VERSION, _tensors_of, {SCREENED: np.uint64})
        arrays = {site: {name: tensors[f"{site}/{name}"] for name in FIELDS} for site in content["sites"]}
        try:
            return cls(content["tasks"], content["segments"], arrays, content["provenance"], tensors.get(SCREENED))
        except InputError as error:
            raise InputError(f"{path}: {error}") from error


def _tensors_of(content: dict[str, Any], room: int) -> dict[str, type[np.generic]] | None:
    """The tensors of a file by its content; None where that has not its names in their places and all text, or has more
    sites and segments than ``room`` bytes can hold."""
    try:
        tasks, segments, sites = content["tasks"], content["segments"], content["sites"]
        lists = [sites, *tasks.values(), *segments]
        whole = isinstance(segments, list) and isinstance(content["provenance"], dict)
        whole = whole and all(isinstance(names, list) for names in lists)
        whole = whole and all(isinstance(name, str) for names in lists for name in names)
        whole = whole and len(set(sites)) == len(sites)
        whole = whole and len(sites) * len(segments) * _LEAST <= room
    except (KeyError, TypeError, AttributeError):
        return None
    return {f"{site}/{name}": kind for site in sites for name, kind in FIELDS.items()} if whole else None


def _nonfinite(parts: Sequence[ActivationStats]) -> tuple[dict[str, int], dict[str, int]]:
    """site -> activations that are NaN or infinite, and site -> all activations, of parts with the same sites."""
    bad = {site: sum(int(part.nonfinite[site].sum()) for part in parts) for site in parts[0].sites}
    taken = {
        site: width * sum(int(part.count[site].sum()) for part in parts) for site, width in parts[0].widths.items()
    }
    return bad, taken


def check_finite(parts: Sequence[ActivationStats]) -> None:
    """Warn of NaN and infinite activations in what was measured, which may be in parts with the same sites.

    Raises:
        InputError: a site has tokens and not one finite activation; names the first such site.
    """
    bad, taken = _nonfinite(parts)
    empty = [site for site, number in bad.items() if number == taken[site] > 0]
    if empty:
        raise InputError(
            f"{empty[0]}: all {taken[empty[0]]:,} activations are NaN or infinite, as at {len(empty)} of "
            f"{count(len(bad), 'site')}; expected finite ones: the weights hold NaN, or the dtype's range is too small"
        )
    if any(bad.values()):
        share = sum(bad.values()) / sum(taken.values())
        sites = [site for site, number in bad.items() if number]
        warnings.warn(
            f"{sum(bad.values()):,} of {sum(taken.values()):,} activations ({share:.2g}) are NaN or infinite and left "
            f"out of means and extremes, at {len(sites)} of {count(len(bad), 'site')}, the first {sites[0]}",
            stacklevel=3,
        )


def _checked(site: str, given: Mapping[str, ArrayLike], segments: int) -> dict[str, NDArray[Any]]:
    """The arrays of one site in their types, with one fixed content where nothing is observed."""
    arrays: dict[str, NDArray[Any]] = {}
    for name, kind in FIELDS.items():
        if name not in given:
            raise InputError(f"{site}: {name} is missing, expected {', '.join(FIELDS)}")
        array = np.asarray(given[name])
        whole = kind is np.int64
        if not np.issubdtype(array.dtype, np.integer if whole else np.floating):
            raise InputError(f"{site}: {name} is {array.dtype}, expected {np.dtype(kind)}")
        with np.errstate(over="ignore"):  # a value beyond float32 becomes infinite and is refused below
            arrays[name] = np.ascontiguousarray(array, dtype=kind)
    shape = arrays["active"].shape
    if len(shape) != 2 or shape[0] != segments or shape[1] < 1:
        raise InputError(f"{site}: active has shape {shape}, expected ({segments} segments, neurons)")
    for name, array in arrays.items():
        expected = shape[:1] if name == "count" else shape
        if array.shape != expected:
            raise InputError(f"{site}: {name} has shape {array.shape}, expected {expected}")

    count = arrays["count"][:, np.newaxis]
    for name in ("active", "nonfinite"):
        if not ((arrays[name] >= 0) & (arrays[name] <= count)).all():
            raise InputError(f"{site}: {name} has values outside 0 to the token count")
    seen = count > arrays["nonfinite"]
    for name in ("mean", "m2", "min", "max"):
        if not np.isfinite(arrays[name][seen]).all():
            raise InputError(f"{site}: {name} is not finite where there are finite activations")
    if (arrays["m2"][seen] < 0).any() or (arrays["min"][seen] > arrays["max"][seen]).any():
        raise InputError(f"{site}: m2 is negative or min exceeds max")
    if not seen.all():
        for name, blank in (("mean", np.nan), ("m2", 0.0), ("min", np.inf), ("max", -np.inf)):
            arrays[name] = np.where(seen, arrays[name], FIELDS[name](blank))
    return arrays


def _same(field: str, mine: object, theirs: object) -> None:
    if mine != theirs:
        raise InputError(f"cannot merge statistics: {field} is {mine!r} in one and {theirs!r} in the other")


def _aligned(
    stats: ActivationStats, site: str, rows: Mapping[frozenset[str], int], union: Sequence[frozenset[str]]
) -> dict[str, NDArray[Any]]:
    """The site's arrays with a row for every segment of the union, zero tokens where ``stats`` has none."""
    here = [i for i, segment in enumerate(union) if segment in rows]
    source = [rows[union[i]] for i in here]
    aligned = {}
    for name in FIELDS:
        array = getattr(stats, name)[site]
        aligned[name] = np.zeros((len(union), *array.shape[1:]), array.dtype)
        aligned[name][here] = array[source]
    return aligned

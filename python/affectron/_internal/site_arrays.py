"""Statistics of one site: the types of their arrays, their check and their merge."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from affectron._internal.display import ROWS, Shown, Summary
from affectron._internal.frames import frame
from affectron._internal.wording import count
from affectron.errors import InputError

if TYPE_CHECKING:
    import pandas

#: Array of a site -> its type. ``count`` is [S], the others are [S, F].
FIELDS: dict[str, type[np.generic]] = {
    "count": np.int64,
    "active": np.int64,
    "nonfinite": np.int64,
    "mean": np.float64,
    "m2": np.float64,
    "min": np.float32,
    "max": np.float32,
}
#: Bytes of one site and segment with a single neuron, the least that any can take.
LEAST_BYTES = sum(np.dtype(kind).itemsize for kind in FIELDS.values())


def merge_rows(parts: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Merge K disjoint sets of tokens along the first axis: count [K, ...], the others [K, ..., F].

    This is the formula of Chan, Golub and LeVeque (1979) for K sets at once, in float64, with n_k observed tokens:
    mean = Σ n_k mean_k / n and m2 = Σ m2_k + Σ n_k (mean_k - mean)². The mean is corrected once by the mean of its
    residuals. Equal means therefore keep every bit, and a merge with an empty set changes nothing.
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


def check_arrays(site: str, given: Mapping[str, ArrayLike], segments: int) -> dict[str, NDArray[Any]]:
    """Check the arrays of one site and convert them to their types; entries without observations get fixed values.

    Raises:
        InputError: an array is missing, or not as :class:`affectron.stats.ActivationStats` expects; names the site and
            the array.
    """
    arrays: dict[str, NDArray[Any]] = {}
    for name, kind in FIELDS.items():
        if name not in given:
            raise InputError(f"{site}: {name} is missing, expected {', '.join(FIELDS)}")
        array = np.asarray(given[name])
        if not np.issubdtype(array.dtype, np.integer if kind is np.int64 else np.floating):
            raise InputError(f"{site}: {name} is {array.dtype}, expected {np.dtype(kind)}")
        with np.errstate(over="ignore"):  # a value beyond float32 becomes infinite, which is refused below
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


@dataclass(frozen=True, eq=False)
class SiteStats(Shown):
    """Statistics of one set of tokens at one site of F neurons.

    Attributes:
        count: number of tokens in the set.
        active: int64 [F], number of tokens at which the neuron is active, by the rule named in the provenance.
        nonfinite: int64 [F], number of tokens at which the activation is NaN or infinite. Such a token is part of
            ``count``, but of no field below.
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
        """Statistics of no tokens: the neutral element of :meth:`merge`."""
        shapes = {name: (0,) if name == "count" else (0, neurons) for name in FIELDS}
        return pooled({name: np.zeros(shapes[name], kind) for name, kind in FIELDS.items()})

    @property
    def observed(self) -> NDArray[np.int64]:
        """Number of tokens with a finite activation, ``count - nonfinite``: int64 [F]."""
        return self.count - self.nonfinite

    @property
    def var(self) -> NDArray[np.float64]:
        """Population variance, ``m2 / observed``: float64 [F], NaN where nothing is observed."""
        observed = self.observed
        return np.where(observed > 0, self.m2 / np.maximum(observed, 1), np.nan)

    @property
    def rate(self) -> NDArray[np.float64]:
        """Activation frequency P, ``active / count``: float64 [F], NaN without tokens."""
        return self.active / self.count if self.count else np.full(self.active.shape, np.nan)

    def merge(self, other: SiteStats) -> SiteStats:
        """Merge the statistics of two disjoint sets of tokens. Counts are exact.

        Raises:
            ValueError: the numbers of neurons differ.
        """
        if self.active.shape != other.active.shape:
            raise ValueError(f"cannot merge {self.active.size} neurons with {other.active.size}")
        return pooled({name: np.stack([getattr(self, name), getattr(other, name)]) for name in FIELDS})

    def to_pandas(self) -> pandas.DataFrame:
        """A row for each neuron.

        The columns are index, count, active and nonfinite (``int64``), rate, mean and std (``float64``, NaN where
        nothing is observed), min and max (``float32``).

        Raises:
            InputError: pandas is not installed.
        """
        return frame({name: (str(array.dtype), array) for name, array in columns(self).items()})

    def _summary(self) -> Summary:
        shown = columns(self)
        rows = zip(*(array[:ROWS].tolist() for array in shown.values()), strict=True)
        facts = [count(len(self.active), "neuron"), count(self.count, "observation")]
        return Summary(facts, tuple(shown), rows, len(self.active))


def columns(part: SiteStats) -> dict[str, NDArray[Any]]:
    """Column of :meth:`SiteStats.to_pandas` -> its values, [F] each."""
    neurons = len(part.active)
    return {
        "index": np.arange(neurons),
        "count": np.full(neurons, part.count, dtype=np.int64),
        "active": part.active,
        "nonfinite": part.nonfinite,
        "rate": part.rate,
        "mean": part.mean,
        "std": np.sqrt(part.var),
        "min": part.min,
        "max": part.max,
    }


def pooled(parts: Mapping[str, NDArray[Any]]) -> SiteStats:
    """The statistics of K disjoint sets of tokens together; arrays as in :func:`merge_rows`."""
    arrays = merge_rows(parts)
    return SiteStats(int(arrays.pop("count")), **arrays)

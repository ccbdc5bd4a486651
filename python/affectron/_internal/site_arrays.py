"""Arrays of one site's statistics: their types, their check and their merge."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from affectron.errors import InputError

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

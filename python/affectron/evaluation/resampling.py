"""Bootstrap intervals, and random draws of neurons and of their generators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from affectron._internal.files import digest


def bootstrap_means(differences: NDArray[np.float64], resamples: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Means of bootstrap samples.

    Args:
        differences: float64 [n].
        resamples: number of samples, each of n values with replacement.

    Returns:
        float64 [resamples].
    """
    n = len(differences)
    # In parts: 10,000 resamples of 100,000 sentences would need 8 GB at once.
    part = max(1, (1 << 22) // n)
    return np.concatenate(
        [
            differences[rng.integers(0, n, (min(part, resamples - start), n))].mean(axis=1)
            for start in range(0, resamples, part)
        ]
    )


def middle(values: NDArray[np.float64] | Sequence[float]) -> tuple[float, float]:
    """(low, high): the 2.5 and 97.5 % quantiles, linearly interpolated."""
    low, high = np.quantile(values, (0.025, 0.975))
    return float(low), float(high)


def bootstrap_interval(
    differences: NDArray[np.float64], resamples: int, rng: np.random.Generator
) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the mean of paired ``differences`` [n] (Efron 1979)."""
    return middle(bootstrap_means(differences, resamples, rng))


def draw_matched(
    by_site: Mapping[str, NDArray[np.int64]], pool: Mapping[str, NDArray[np.int64]], rng: np.random.Generator
) -> list[tuple[str, int]] | None:
    """Draw random neurons (site, index) without replacement, as many at each site as ``by_site`` has there.

    Args:
        by_site: site -> indices of the neurons to match.
        pool: site -> indices to draw from.

    Returns:
        the neurons, ascending at each site; None where a site's pool is too small.
    """
    if any(len(pool[site]) < len(index) for site, index in by_site.items()):
        return None
    return [
        (site, int(neuron))
        for site, index in by_site.items()
        for neuron in np.sort(rng.choice(pool[site], len(index), replace=False))
    ]


def label_rng(seed: int, task: str, label: str) -> np.random.Generator:
    """Generator of one label. Its numbers do not depend on which other labels are tested."""
    return np.random.default_rng([seed, int(digest(task.encode(), label.encode())[:12], 16)])

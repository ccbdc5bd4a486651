"""Random draws of neurons that match given ones, and the generators of all draws."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from affectron._internal.files import digest

Indices = NDArray[np.int64]

#: Numbers of strata of activity at a site, the finest first. Each stratum has at least ``_ROOM`` times as many neurons
#: as are drawn from it, and together they have as many different draws as there are sets.
_STRATA, _ROOM = (100, 50, 20, 10, 5, 2), 2


@dataclass(frozen=True)
class Draws:
    """Random sets of neurons, no two of them the same.

    Attributes:
        by_site: site -> int64 [sets, K], the neurons of each set there, ascending.
        activity: median activity of the drawn neurons over that of the matched ones; None where the latter is 0.
    """

    by_site: dict[str, Indices]
    activity: float | None

    def __len__(self) -> int:
        return len(next(iter(self.by_site.values())))

    def __getitem__(self, position: int) -> list[tuple[str, int]]:
        """The (site, index) of one set."""
        return [(site, index) for site, drawn in self.by_site.items() for index in drawn[position].tolist()]


def draw_matched(
    by_site: Mapping[str, Indices],
    pool: Mapping[str, Indices],
    activity: Mapping[str, NDArray[np.float64]] | None,
    sets: int,
    rng: np.random.Generator,
) -> Draws | None:
    """Draw sets of random neurons, each without replacement, as many at each site as ``by_site`` has there.

    They are of similar activity: the neurons of a site's pool are cut into strata of equal size by rising activity, and
    each neuron is matched by one of its stratum. There are up to a hundred strata, as many as leave enough to draw
    from. No set is drawn twice: it would be no further evidence.

    Args:
        by_site: site -> indices of the neurons to match.
        pool: site -> indices to draw from.
        activity: site -> activity of every neuron [F]; None matches by site alone.
        sets: number of sets.
        rng: the generator.

    Returns:
        ``sets`` sets, or all that there are; None without neurons to match, or where a site's pool is too small.
    """
    if not by_site or any(len(pool[site]) < len(index) for site, index in by_site.items()):
        return None
    parts = [
        (site, *part)
        for site, index in by_site.items()
        for part in _strata(index, pool[site], None if activity is None else activity[site], sets)
    ]
    wanted = min(sets, math.prod(math.comb(len(part), number) for _, part, number in parts))
    rows = np.zeros((0, sum(number for _, _, number in parts)), dtype=np.int64)
    while len(rows) < wanted:
        more = np.concatenate([_draw(part, number, sets, rng) for _, part, number in parts], axis=1)
        rows = np.concatenate([rows, more])
        _, first = np.unique(rows, axis=0, return_index=True)
        rows = rows[np.sort(first)]
    sites = np.repeat([site for site, _, _ in parts], [number for _, _, number in parts])
    drawn = {site: np.sort(rows[:wanted, sites == site], axis=1) for site in by_site}
    if activity is None or not wanted:
        return Draws(drawn, None)
    matched = np.concatenate([activity[site][index] for site, index in by_site.items()])
    found = np.concatenate([activity[site][members].ravel() for site, members in drawn.items()])
    usual = float(np.median(matched))
    return Draws(drawn, float(np.median(found)) / usual if usual > 0 else None)


def _strata(
    index: Indices, pool: Indices, activity: NDArray[np.float64] | None, sets: int
) -> list[tuple[Indices, int]]:
    """The parts of a site's pool, with the number that is drawn from each."""
    if activity is None:
        return [(pool, len(index))]
    ordered = pool[np.argsort(activity[pool], kind="stable")]
    for strata in _STRATA:
        parts = np.array_split(ordered, strata)
        starts = activity[[part[0] for part in parts[1:] if len(part)]]
        numbers = np.bincount(np.searchsorted(starts, activity[index], side="right"), minlength=strata).tolist()
        found = list(zip(parts, numbers, strict=True))
        room = all(len(part) >= _ROOM * number for part, number in found)
        if room and math.prod(math.comb(len(part), number) for part, number in found) >= sets:
            return found
    return [(pool, len(index))]


def _draw(pool: Indices, number: int, sets: int, rng: np.random.Generator) -> Indices:
    """``number`` neurons of a pool for each set, ascending: int64 [sets, number]."""
    return np.sort(pool[np.argsort(rng.random((sets, len(pool))), axis=1)[:, :number]], axis=1)


def label_rng(seed: int, task: str, label: str) -> np.random.Generator:
    """Generator of one label. Its numbers do not depend on which other labels are tested."""
    return np.random.default_rng([seed, int(digest(task.encode(), label.encode())[:12], 16)])

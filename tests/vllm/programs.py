"""Random programs for small models."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from affectron._internal.provenance import Origin
from affectron.interventions import Program, SiteProgram
from affectron.models.identity import fingerprint
from tests.support.tiny import NEURONS, build, site_names


@cache
def weights(family: str) -> str:
    return fingerprint(build(family))


def program(seed: int = 0, family: str = "llama", **provenance: Any) -> Program:
    """A program of some neurons of each site, made for the model of tiny.py unless ``provenance`` says otherwise."""
    rng = np.random.default_rng(seed)
    sites = {}
    for site in site_names(family):
        index = np.sort(rng.choice(NEURONS, 9, replace=False))
        scale, shift = rng.normal(size=(2, 9))
        floor = np.where(rng.random(9) < 0.5, -np.inf, rng.normal(size=9))
        sites[site] = SiteProgram(index, scale, rng.random(9), floor, shift)
    made = {"weights": weights(family), "dtype": "float32"} | provenance
    return Program(sites, f"program {seed}", Origin(dict.fromkeys(sites, NEURONS), made))

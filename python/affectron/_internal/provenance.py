"""Provenance of results as plain data: copies and merges, and the origin of neurons and programs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any

from affectron.errors import InputError


@dataclass(frozen=True)
class Origin:
    """Model and statistics that neurons or a program come from.

    Attributes:
        widths: site -> number of neurons of that model.
        provenance: provenance of the statistics and of the selection, as JSON.
    """

    widths: dict[str, int]
    provenance: dict[str, Any]

    @staticmethod
    def union(origins: Iterable[Origin | None]) -> Origin | None:
        """Unite the known origins; None if none is known.

        Raises:
            InputError: a site has other widths in two of them.
        """
        known = [origin for origin in origins if origin is not None]
        return reduce(Origin._joined, known) if known else None

    def _joined(self, other: Origin) -> Origin:
        for site, width in other.widths.items():
            if self.widths.get(site, width) != width:
                raise InputError(
                    f"{site} has {self.widths[site]} neurons in the model of one program and {width} in that of "
                    "another, expected programs of one model"
                )
        return Origin(self.widths | other.widths, united(self.provenance, other.provenance))


def plain_json(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Copy the provenance as it would be read back from a file, with lists for tuples.

    Raises:
        InputError: a value is not JSON.
    """
    try:
        copy: dict[str, Any] = json.loads(json.dumps(dict(provenance), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise InputError(f"provenance cannot be written as JSON: {error}") from error
    return copy


def united(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Unite the provenance of two results of one corpus.

    Equal values are kept; different ones become a list, sorted so that it does not depend on the order.
    """
    result = {}
    for key in [*first, *(key for key in second if key not in first)]:
        given = [side[key] for side in (first, second) if key in side]
        values = _values(given)
        distinct = [value for i, value in enumerate(values) if i == 0 or value != values[i - 1]]
        result[key] = given[0] if given[0] == given[-1] else distinct
    return result


def merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Merge the provenance of results of two corpora: as :func:`united`, with both corpora and the sum of sentences."""
    result = united(first, second)
    if "corpus" in result:
        result["corpus"] = _values([side["corpus"] for side in (first, second) if "corpus" in side])
    if "sources" in result:
        result["sources"] = _merged_sources(first.get("sources") or {}, second.get("sources") or {})
    return result


def _values(given: Iterable[Any]) -> list[Any]:
    """The given values, and those of given lists, sorted."""
    values = [value for item in given for value in (item if isinstance(item, list) else [item])]
    return sorted(values, key=lambda value: json.dumps(value, sort_keys=True))


def _merged_sources(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """Add the numbers of sentences by label and source; empty if one side has none."""
    if not (first and second):
        return {}
    result = {}
    for label in sorted({*first, *second}):
        both = Counter(first.get(label, {})) + Counter(second.get(label, {}))
        result[label] = dict(sorted(both.items()))
    return result

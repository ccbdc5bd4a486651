"""Provenance of results as plain data: copies and merges."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from affectron.errors import InputError


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


def merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Merge the provenance of two results.

    Equal values are kept; different ones become a list, sorted so that it does not depend on the order of the merge.
    """
    result: dict[str, Any] = {}
    for key in [*first, *(key for key in second if key not in first)]:
        if key == "sources":
            result[key] = _merged_sources(first.get(key) or {}, second.get(key) or {})
            continue
        sides = [side[key] for side in (first, second) if key in side]
        values = [value for side in sides for value in (side if isinstance(side, list) else [side])]
        values.sort(key=lambda value: json.dumps(value, sort_keys=True))
        if key == "corpus":
            result[key] = values
        else:
            distinct = [value for i, value in enumerate(values) if i == 0 or value != values[i - 1]]
            result[key] = sides[0] if all(side == sides[0] for side in sides) else distinct
    return result


def _merged_sources(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """Add the numbers of sentences by label and source; empty if one side has none."""
    if not (first and second):
        return {}
    result = {}
    for label in sorted({*first, *second}):
        both = Counter(first.get(label, {})) + Counter(second.get(label, {}))
        result[label] = dict(sorted(both.items()))
    return result

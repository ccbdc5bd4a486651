"""Means over labels of what zeroing a method's neurons does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from affectron.experiments.results import Curve, CurvePoint, Heights, MethodResult, Methods

#: What no masked neuron does.
_NOTHING = Heights(0.0, 0.0, 0.0)


def mean_curve(result: Methods, method: str) -> list[CurvePoint]:
    """The curve of a method, the mean over all labels at each number of neurons. A label for which the method has fewer
    neurons is there with all of these."""
    curves = [of_method.curve for of_method in _of_labels(result, method)]
    return [
        CurvePoint(count, _mean([_height(curve, count) for curve in curves]))
        for count in sorted({*result.options.counts})
    ]


def best_method(result: Methods) -> str | None:
    """The method with the lowest area on own less others' sentences, the mean over all labels (0 for one without
    neurons); None where none is below zero."""
    specific = {}
    for method in result.options.methods:
        area = _mean([of_method.curve.area or _NOTHING for of_method in _of_labels(result, method)])
        specific[method] = area.own - (area.others or 0.0)
    best = min(specific, key=lambda method: specific[method], default=None)
    return best if best is not None and specific[best] < 0 else None


def _of_labels(result: Methods, method: str) -> Iterator[MethodResult]:
    return (label.methods[method] for task in result.tasks.values() for label in task.labels.values())


def _height(curve: Curve, count: int) -> Heights:
    """The curve at ``count`` neurons, or at its end before that."""
    reached = [point.height for point in curve.points if point.masked <= count]
    return reached[-1] if reached else _NOTHING


def _mean(heights: Sequence[Heights]) -> Heights:
    """The mean of each change over the labels that have it."""

    def mean(values: Sequence[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return sum(known) / len(known) if known else None

    return Heights(
        mean([height.own for height in heights]) or 0.0,
        mean([height.others for height in heights]),
        mean([height.random for height in heights]),
    )

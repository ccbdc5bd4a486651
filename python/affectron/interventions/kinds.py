"""Kinds of programs: what is done to neurons, from statistics."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from affectron._internal.arguments import checked_arguments
from affectron._internal.checks import Positive, check
from affectron._internal.names import MAX, RMS
from affectron._internal.provenance import Origin
from affectron.errors import InputError
from affectron.interventions.program import FIELDS, NEUTRAL, Program, SiteProgram
from affectron.stats import ACTIVATION, ATTRIBUTION, RESIDUAL

if TYPE_CHECKING:
    from affectron.stats import ActivationStats, SiteStats

Neurons = Iterable[tuple[Any, ...]]
"""A NeuronList, or any iterable of tuples that begin with (site, index)."""

_FLOAT32_MAX = float(np.finfo(np.float32).max)


@checked_arguments
def zero(neurons: Neurons) -> Program:
    """Mask neurons with zero: h' = 0 (scale 0, shift 0)."""
    neurons = _as_list(neurons)
    by_site = _by_site(neurons)
    return _build(_name("zero", neurons), by_site, lambda site, index: {"scale": 0.0, "shift": 0.0}, _origin(neurons))


@checked_arguments
def mean(neurons: Neurons, stats: ActivationStats, task: str | None = None) -> Program:
    """Mask neurons with their mean over all tokens of a task: h' = mean (scale 0, shift = mean).

    Args:
        neurons: the neurons.
        stats: statistics of activations.
        task: the task; that of ``neurons``, or the only one that has their label, when None.

    Raises:
        InputError: the task is unknown, a site or neuron is not in the statistics or has no finite activation there,
            or the statistics are of pairs, which hold differences.
    """
    _of("mean", stats)
    neurons = _as_list(neurons)
    task = task or getattr(neurons, "task", None)
    if task is None:
        label = getattr(neurons, "label", None)
        held = [name for name, labels in stats.tasks.items() if label is None or label in labels]
        if len(held) != 1:
            raise InputError(f"task is not given, expected one of {_listed(stats.tasks)}")
        task = held[0]
    measured = stats.task_total(task)

    def parameters(site: str, index: NDArray[np.int64]) -> dict[str, Any]:
        return {"scale": 0.0, "shift": _observed(measured, site, index, f"task {task!r}").mean[index]}

    return _build(_name("mean", neurons), _by_site(neurons), parameters, _origin(neurons, stats))


@checked_arguments
def attenuate(
    neurons: Neurons,
    stats: ActivationStats,
    alpha: float,
    dynamic: bool = True,
    label: str | None = None,
    reference: str | Mapping[str, NDArray[Any]] = MAX,
) -> Program:
    """Attenuate neurons in proportion to their activation under their label.

    Let A be the mean activation under the label and M the reference. Static attenuation treats every token alike:
    h' = h · max(1 - alpha·|A|/M, 1 - alpha). Dynamic attenuation depends on the token's own activation:
    h' = h · max(1 - alpha·|h|/M, 1 - alpha). The source leaves open which of the two it means (docs/choices.md). A
    neuron with M = 0 is left untouched.

    Args:
        neurons: the neurons.
        stats: statistics of activations.
        alpha: strength, at least 0.
        dynamic: attenuate by the token's own activation.
        label: the label; that of ``neurons`` when None.
        reference: M, the magnitude that attenuation is relative to. ``max``: the largest absolute activation under the
            label, as in the source; ``rms``: the root mean square under the label; or M itself, site -> [F], such as
            the quantiles of :func:`affectron.screening.quantiles.magnitude_quantiles`.

    Raises:
        InputError: alpha is negative or not finite, the statistics are of pairs, the reference is unknown, lacks a
            neuron or is negative or not finite at one, or as for :func:`induce`.
    """
    _of("attenuate", stats)
    if not (math.isfinite(alpha) and alpha >= 0):
        raise InputError(f"alpha is {alpha}, expected a finite number of at least 0")
    neurons = _as_list(neurons)
    label = _label(neurons, label)
    measured = stats.label(label)
    by_site: dict[str, NDArray[np.int64]] = {}
    magnitudes: dict[str, NDArray[np.float64]] = {}
    for site, index in _by_site(neurons).items():
        magnitude = _magnitude(reference, site, index, _observed(measured, site, index, f"label {label!r}"))
        if (magnitude > 0).any():
            by_site[site], magnitudes[site] = index[magnitude > 0], magnitude[magnitude > 0]

    def parameters(site: str, index: NDArray[np.int64]) -> dict[str, Any]:
        if not dynamic:
            relative = np.abs(measured[site].mean[index]) / magnitudes[site]
            return {"scale": 1 - alpha * np.minimum(relative, 1)}
        # The quotient of a subnormal magnitude would overflow to inf, and inf · |0| is NaN.
        return {"damping": np.minimum(alpha / magnitudes[site], _FLOAT32_MAX), "floor": 1 - alpha}

    how = f"attenuate {'dynamic' if dynamic else 'static'} {alpha:g}"
    return _build(_name(how, neurons, label), by_site, parameters, _origin(neurons, stats, label))


def _magnitude(
    reference: str | Mapping[str, NDArray[Any]], site: str, index: NDArray[np.int64], of_site: SiteStats
) -> NDArray[np.float64]:
    """The reference of an attenuation at the neurons ``index`` of a site: float64 [K]."""
    if not isinstance(reference, str):
        given = np.asarray(reference.get(site, ()), dtype=np.float64)
        if given.ndim != 1 or index[-1] >= len(given):
            raise InputError(f"reference has no neuron {index[-1]} of {site}, expected a magnitude of every neuron")
        wrong = index[~(np.isfinite(given[index]) & (given[index] >= 0))]
        if len(wrong):
            raise InputError(
                f"reference of neuron {wrong[0]} of {site} is {given[wrong[0]]}, expected a finite number of at least 0"
            )
        return given[index]
    if reference == MAX:
        return np.maximum(np.abs(of_site.min[index]), np.abs(of_site.max[index])).astype(np.float64)
    if reference == RMS:
        return _root_mean_square(of_site)[index]
    raise InputError(f"reference is {reference!r}, expected max, rms or a magnitude of every neuron, by site")


def _root_mean_square(of_site: SiteStats) -> NDArray[np.float64]:
    """Root mean square of every neuron's activation: float64 [F], NaN where nothing is observed."""
    return np.sqrt(of_site.var + of_site.mean**2)


def relative_change(program: Program, measured: Mapping[str, SiteStats]) -> float | None:
    """Relative change of a typical activation under a program: the median over the program's neurons.

    Let A be the mean of h over the tokens, R its root mean square, and k = max(s - d·R, f) - 1, the relative change
    that the factor makes at |h| = R. The relative change of a neuron is sqrt(k²R² + 2kbA + b²) / R. Where the factor
    does not depend on h (d = 0), that is RMS(h' - h) / RMS(h) over all tokens; ``zero`` has 1. Attenuation by token
    changes larger activations more (docs/method.md has the difference as measured).

    Args:
        program: the program.
        measured: site -> statistics of activations of one set of tokens, as ``stats.label(label)``.

    Returns:
        the median; None if none of the program's neurons is ever active (R = 0), since these do not count.

    Raises:
        InputError: a site or neuron is not in the statistics.
    """
    changes: list[NDArray[np.float64]] = []
    for site, part in program.sites.items():
        of_site = _of_site(measured, site, part.index)
        size, change = _root_mean_square(of_site)[part.index], _typical_change(part, of_site)
        changes.append(change[size > 0] / size[size > 0])
    every = np.concatenate(changes) if changes else np.zeros(0)
    return float(np.median(every)) if len(every) else None


def doses(program: Program, measured: Mapping[str, SiteStats]) -> dict[str, float]:
    """Dose of a program at each site: the size of its change relative to the size of the site's activations.

    The dose is sqrt(Σ E[(h' - h)²]) / sqrt(Σ E[h²]), E over the tokens, the upper sum over the program's neurons and
    the lower one over all neurons of the site. Of a shift it is the norm of the shift over the root mean square norm
    of h; of ``zero`` at all neurons it is 1. The change is that of :func:`relative_change`: exact where the factor does
    not depend on h (d = 0), else that of an activation of typical size.

    Args:
        program: the program.
        measured: site -> statistics of activations of one set of tokens. The dose on any text is that of
            ``stats.total()``, all measured tokens.

    Returns:
        site -> dose; inf where all activations are 0 and the program changes them. A neuron without a finite activation
        does not count, and a site without any is left out.

    Raises:
        InputError: a site or neuron is not in the statistics.
    """
    found = {}
    for site, part in program.sites.items():
        of_site = _of_site(measured, site, part.index)
        if not of_site.observed.any():
            continue
        change, size = np.nansum(_typical_change(part, of_site) ** 2), np.nansum(_root_mean_square(of_site) ** 2)
        if change == 0:
            found[site] = 0.0
        else:
            found[site] = math.sqrt(change / size) if size > 0 else math.inf
    return found


def _typical_change(part: SiteProgram, of_site: SiteStats) -> NDArray[np.float64]:
    """Root mean square of h' - h of each of the program's neurons at a site: float64 [K], NaN where nothing is
    observed. A factor that depends on h is taken at the root mean square of h."""
    size, average = _root_mean_square(of_site)[part.index], of_site.mean[part.index]
    scale, damping, floor, shift = (getattr(part, field).astype(np.float64) for field in FIELDS)
    k = np.maximum(scale - damping * size, floor) - 1
    square: NDArray[np.float64] = (k * size) ** 2 + 2 * k * shift * average + shift**2
    return np.sqrt(np.maximum(square, 0))  # rounding may leave the square of a difference a little below zero


@checked_arguments
def induce(
    neurons: Neurons,
    stats: ActivationStats,
    beta: float = 1.0,
    label: str | None = None,
    *,
    max_dose: float | None = None,
) -> Program:
    """Induce a label: shift = beta · the neuron's mean activation under it.

    Args:
        neurons: the neurons.
        stats: statistics of activations, or of pairs (then the shift is along the mean difference).
        beta: strength, in units of the mean.
        label: the label; that of ``neurons`` when None.
        max_dose: largest dose (:func:`doses`, over all tokens of ``stats``); at a site above it the shift is scaled
            down to it. None sets no limit.

    Raises:
        InputError: beta is not finite, max_dose is not above 0 or is given with statistics of pairs, the label is
            unknown, or a site or neuron is not in the statistics or has no finite activation under the label.
    """
    _of("induce", stats, pairs=True)
    return _shifted("induce", _as_list(neurons), stats, "beta", beta, _label(neurons, label), max_dose)


@checked_arguments
def contrast(
    neurons: Neurons,
    stats: ActivationStats,
    beta: float = 1.0,
    label: str | None = None,
    *,
    max_dose: float | None = None,
) -> Program:
    """Shift neurons from the rest of a task to a label: shift = beta · (mean under the label - mean under the rest).

    The shift leaves out the activation that all texts have in common, which :func:`induce` adds too.

    Args:
        neurons, label, max_dose: as for :func:`induce`.
        stats: statistics of activations.
        beta: strength, in units of the difference.

    Raises:
        InputError: as for :func:`induce`, also for the rest of the task.
    """
    _of("contrast", stats)
    label = _label(neurons, label)
    return _shifted("contrast", _as_list(neurons), stats, "beta", beta, label, max_dose, less_rest=True)


@checked_arguments
def residual(stats: ActivationStats, layer: str, label: str, beta: float = 1.0) -> Program:
    """Shift the residual stream at a layer's output: shift = beta · (mean under the label - mean under the rest).

    This is the difference of means (Marks and Tegmark 2023, Rimsky et al. 2023), in all H dimensions of the output.

    Args:
        stats: statistics of the outputs of layers, ``screen(..., at="layers")``.
        layer: the site of the layer, one of ``stats.sites``.
        label: the label.
        beta: strength, in units of the difference.

    Raises:
        InputError: the statistics are not of layers, the layer or the label is unknown, beta is not finite, or the
            output has no finite value under the label or under the rest.
    """
    _of("residual", stats, kind=RESIDUAL)
    if layer not in stats.widths:
        raise InputError(f"layer is {layer!r}, expected one of {_listed(stats.sites)}")
    dimensions = [(layer, index) for index in range(stats.widths[layer])]
    return _shifted("residual", dimensions, stats, "beta", beta, label, less_rest=True)


@checked_arguments
def cross_signal(
    neurons: Neurons, stats: ActivationStats, label: str, omega: float, *, max_dose: float | None = None
) -> Program:
    """Carry the signal of one label to the neurons of another: shift = omega · the neuron's mean under ``label``.

    The source leaves open which mean it takes (docs/choices.md); the mean of each neuron is our choice.

    Args:
        neurons: the neurons of a label, an emotion for example.
        stats: statistics of activations.
        label: another label, a rhetorical device for example.
        omega: strength, in units of the mean.
        max_dose: as for :func:`induce`.

    Raises:
        InputError: omega is not finite, or as for :func:`induce`.
    """
    _of("cross-signal", stats, pairs=True)
    return _shifted("cross-signal", _as_list(neurons), stats, "omega", omega, label, max_dose)


@checked_arguments
def amplify(neurons: Neurons, factor: float) -> Program:
    """Amplify neurons: scale = ``factor``.

    Raises:
        InputError: factor is below 1 or not finite.
    """
    if not (math.isfinite(factor) and factor >= 1):
        raise InputError(f"factor is {factor}, expected a finite number of at least 1")
    neurons = _as_list(neurons)
    name = _name(f"amplify {factor:g}", neurons)
    return _build(name, _by_site(neurons), lambda site, index: {"scale": factor}, _origin(neurons))


def _shifted(
    kind: str, neurons: Neurons, stats: ActivationStats, strength_name: str, strength: float, label: str,
    max_dose: float | None = None, less_rest: bool = False,
) -> Program:  # fmt: skip
    if not math.isfinite(strength):
        raise InputError(f"{strength_name} is {strength}, expected a finite number")
    measured, rest = stats.label(label), stats.rest(label) if less_rest else None

    def parameters(site: str, index: NDArray[np.int64]) -> dict[str, Any]:
        mean = _observed(measured, site, index, f"label {label!r}").mean[index]
        if rest is not None:
            mean = mean - _observed(rest, site, index, f"the rest of {label!r}").mean[index]
        return {"shift": strength * mean}

    name = _name(f"{kind} {strength:g}", neurons, label)
    program = _build(name, _by_site(neurons), parameters, _origin(neurons, stats, label))
    return program if max_dose is None else _capped(program, stats, max_dose)


def _capped(program: Program, stats: ActivationStats, max_dose: float) -> Program:
    """Scale a program down to the dose ``max_dose`` at each site where it has more."""
    check("max_dose", max_dose, Positive())
    _of("max_dose", stats)
    given = doses(program, stats.total())
    sites = {
        site: part.scaled(max_dose / given[site]) if given.get(site, 0) > max_dose else part
        for site, part in program.sites.items()
    }
    return replace(program, sites=sites, name=f"{program.name}, dose at most {max_dose:g}")


_HELD = {ACTIVATION: "activations", ATTRIBUTION: "attributions", RESIDUAL: "the outputs of layers"}


def _of(program: str, stats: ActivationStats, kind: str = ACTIVATION, pairs: bool = False) -> None:
    """Check that statistics are of the kind that a program needs; ``pairs``: also those of differences within pairs."""
    if stats.kind != kind or (stats.of_pairs and not pairs):
        held = _HELD.get(stats.kind, stats.kind) if stats.kind != kind else "the differences within pairs"
        raise InputError(f"{program} needs {_HELD[kind]}, and these statistics hold {held}")


def _as_list(neurons: Neurons) -> Neurons:
    """Keep a NeuronList, which has a label; make a list of any other iterable, since an iterator is read only once."""
    return neurons if hasattr(neurons, "label") else list(neurons)


def _by_site(neurons: Neurons) -> dict[str, NDArray[np.int64]]:
    """Group the indices by site: site -> int64 [K], ascending, each once."""
    indices: dict[str, set[int]] = {}
    for neuron in neurons:
        site, index = neuron[0], neuron[1]
        if not isinstance(site, str) or isinstance(index, bool) or not isinstance(index, (int, np.integer)):
            raise InputError(f"neuron is {neuron!r}, expected (site, index, ...)")
        if index < 0:
            raise InputError(f"neuron index of {site} is {index}, expected 0 or more")
        indices.setdefault(site, set()).add(int(index))
    return {site: np.array(sorted(of_site), dtype=np.int64) for site, of_site in indices.items()}


def _build(
    name: str,
    by_site: Mapping[str, NDArray[np.int64]],
    parameters: Callable[[str, NDArray[np.int64]], dict[str, Any]],
    origin: Origin | None,
) -> Program:
    """Make a program of ``parameters(site, index)``: the fields that are not neutral, each a number or an array [K]."""
    sites = {}
    for site, index in by_site.items():
        given = parameters(site, index)
        columns = (given.get(field, value) for field, value in zip(FIELDS, NEUTRAL, strict=True))
        sites[site] = SiteProgram(index, *(np.broadcast_to(column, index.shape) for column in columns))
    if origin is not None:
        origin = replace(origin, widths={site: origin.widths[site] for site in by_site})
    return Program(sites, name, origin)


def _origin(neurons: Neurons, stats: ActivationStats | None = None, label: str | None = None) -> Origin | None:
    """The origin of neurons, else that of the statistics, with the label of the neurons."""
    origin: Origin | None = getattr(neurons, "origin", None)
    if origin is None:
        if stats is None:
            return None
        origin = Origin(stats.widths, stats.provenance)
    return replace(origin, provenance={**origin.provenance, "label": getattr(neurons, "label", label)})


def _observed(measured: Mapping[str, SiteStats], site: str, index: NDArray[np.int64], where: str) -> SiteStats:
    """Return the statistics of a site, after a check that every neuron of ``index`` has a finite activation there."""
    of_site = _of_site(measured, site, index)
    unseen = index[of_site.observed[index] == 0]
    if len(unseen):
        raise InputError(f"neuron {unseen[0]} of {site} has no finite activation under {where}")
    return of_site


def _of_site(measured: Mapping[str, SiteStats], site: str, index: NDArray[np.int64]) -> SiteStats:
    """Return the statistics of a site, after a check that they have every neuron of ``index``."""
    if site not in measured:
        raise InputError(f"site {site!r} is not in the statistics; expected one of {_listed(measured)}")
    of_site = measured[site]
    if len(index) and index[-1] >= len(of_site.mean):
        raise InputError(f"neuron {index[-1]} of {site} is beyond the {len(of_site.mean)} in the statistics")
    return of_site


def _label(neurons: Neurons, label: str | None) -> str:
    label = label if label is not None else getattr(neurons, "label", None)
    if label is None:
        raise InputError("label is not given and the neurons do not tell it; pass label=")
    return str(label)


def _name(kind: str, neurons: Neurons, label: str | None = None) -> str:
    owner = getattr(neurons, "label", None)
    if owner is None or label in (None, owner):
        return f"{kind} {owner or label or 'neurons'}"
    return f"{kind} {label} at {owner}"


def _listed(names: Iterable[str], most: int = 8) -> str:
    listed = list(names)
    return ", ".join(listed[:most]) + (", ..." if len(listed) > most else "")

"""Intervention programs: the parameters of each neuron, computed from statistics with numpy alone (docs/method.md).

All interventions have one form, which :func:`affectron.models.intervene` applies to a model:

    h' = h · max(scale - damping·|h|, floor) + shift

A neuron with scale 1, damping 0, floor -inf and shift -0 keeps every bit of h (a shift of +0 would turn -0 to 0).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from affectron._internal.checks import OneOf, check
from affectron._internal.names import MAX, POSITIONS, RMS
from affectron.errors import InputError

if TYPE_CHECKING:
    from affectron.stats import ActivationStats, SiteStats

Neurons = Iterable[tuple[Any, ...]]
"""A NeuronList, or any iterable of tuples that begin with (site, index)."""

_FIELDS = ("scale", "damping", "floor", "shift")
_NEUTRAL = np.array([1.0, 0.0, -np.inf, -0.0], dtype=np.float32)
_FLOAT32_MAX = float(np.finfo(np.float32).max)


@dataclass(frozen=True, eq=False)
class SiteProgram:
    """Neurons of one site that a program touches, with their parameters.

    Attributes:
        index: int64 [K], ascending, each neuron once.
        scale: float32 [K], finite.
        damping: float32 [K], finite and not negative.
        floor: float32 [K], finite or -inf.
        shift: float32 [K], finite.

    Raises:
        InputError: an index or a parameter breaks these rules.
    """

    index: NDArray[np.int64]
    scale: NDArray[np.float32]
    damping: NDArray[np.float32]
    floor: NDArray[np.float32]
    shift: NDArray[np.float32]

    def __post_init__(self) -> None:
        index = np.asarray(self.index)
        if index.ndim != 1 or (index.size and index.dtype.kind not in "iu"):
            raise InputError(f"index is {index.dtype} {list(index.shape)}, expected integers [K]")
        if index.size and (index[0] < 0 or (np.diff(index.astype(np.int64)) <= 0).any()):
            raise InputError("index must be ascending, without repetition, and not negative")
        object.__setattr__(self, "index", index.astype(np.int64))
        for field in _FIELDS:
            with np.errstate(over="ignore"):
                value = np.asarray(getattr(self, field), dtype=np.float32)
            if value.shape != index.shape:
                raise InputError(f"{field} has shape {list(value.shape)}, expected {list(index.shape)}")
            allowed = np.isfinite(value) | ((value == -np.inf) & (field == "floor"))
            if not allowed.all():
                at = int(np.argmin(allowed))
                raise InputError(f"{field} of neuron {index[at]} is {value[at]}, expected a finite float32")
            object.__setattr__(self, field, value)
        if (self.damping < 0).any():
            at = int(np.argmin(self.damping))
            raise InputError(f"damping of neuron {index[at]} is {self.damping[at]}, expected 0 or more")


@dataclass(frozen=True, eq=False)
class Program:
    """Intervention as data.

    Attributes:
        sites: site -> the neurons that the program touches, and their parameters.
        name: description for reports and messages.
    """

    sites: dict[str, SiteProgram]
    name: str

    def __len__(self) -> int:
        """Number of neurons that the program touches."""
        return sum(len(site.index) for site in self.sites.values())

    def scaled(self, weight: float) -> Program:
        """Weaken the program: the result computes h + weight · (h' - h), for a weight in (0, 1].

        Raises:
            InputError: the weight is outside (0, 1].
        """
        if not 0 < weight <= 1:
            raise InputError(f"weight is {weight}, expected a number in (0, 1]")
        sites = {
            name: SiteProgram(
                part.index,
                1 + weight * (part.scale - 1),
                weight * part.damping,
                1 + weight * (part.floor - 1),
                weight * part.shift,
            )
            for name, part in self.sites.items()
        }
        return Program(sites, f"{self.name} x {weight:.3g}")

    def table(self, site: str, width: int) -> NDArray[np.float32]:
        """Make the parameter table of a site of ``width`` neurons.

        Returns:
            float32 [4, width], rows scale, damping, floor and shift; neutral where a neuron is untouched.

        Raises:
            InputError: the program touches a neuron beyond ``width``.
        """
        table = np.repeat(_NEUTRAL[:, None], width, axis=1)
        program = self.sites.get(site)
        if program is not None and len(program.index):
            if program.index[-1] >= width:
                raise InputError(
                    f"program {self.name!r} touches neuron {program.index[-1]} of {site}, "
                    f"which has {width} neurons (0 to {width - 1})"
                )
            table[:, program.index] = [getattr(program, field) for field in _FIELDS]
        return table


#: Largest number of programs in a schedule, with that of the prompt and without that of the text.
MAX_PIECES = 16
# Steps of a decay, each half a half-life long. The last acts at 2 % of full strength.
_DECAY_STEPS = 12
_AS_PROMPT: Any = ...  # the default of Schedule.text, where None means no program


@dataclass(frozen=True, eq=False)
class Schedule:
    """Programs by position in a text; :func:`schedule` makes the usual ones.

    A program acts in the forward that reads a token. A program of None leaves tokens untouched.

    Attributes:
        prompt: program of the given tokens that are not the text's own.
        generated: pairs (k, program), k ascending from 0: the program acts from generated token k on, counted from 0,
            until that of the next pair.
        name: description for reports and messages.
        text: program of the text's own tokens inside a prompt; by default that of the prompt. If the two differ, a
            model has to be told which tokens these are (:attr:`affectron.models.Steering.text`).

    Raises:
        InputError: the starts do not ascend from 0, or there are more than 15 of them.
    """

    prompt: Program | None
    generated: tuple[tuple[int, Program | None], ...]
    name: str
    text: Program | None = _AS_PROMPT

    def __post_init__(self) -> None:
        if self.text is _AS_PROMPT:
            object.__setattr__(self, "text", self.prompt)
        starts = [start for start, _ in self.generated]
        if not starts or starts[0] != 0 or any(a >= b for a, b in pairwise(starts)):
            raise InputError(f"generated begins at tokens {starts}, expected ascending numbers from 0")
        if len(starts) >= MAX_PIECES:
            raise InputError(f"generated holds {len(starts)} programs, expected at most {MAX_PIECES - 1}")


def schedule(
    program: Program,
    *,
    where: str = "all",
    prompt: bool = True,
    start: int = 0,
    stop: int | None = None,
    half_life: float | None = None,
) -> Schedule:
    """Restrict ``program`` to a part of a text, or let it decay.

    Generated tokens are counted from 0. The forward over the prompt already writes the first of them. A program that
    acts on generated tokens alone therefore first changes the second one.

    Args:
        program: the program.
        where: tokens on which the program acts. ``text``: the text's own inside a prompt; ``prompt``: all other given
            ones, such as a template's words; ``generated``: those that are written; ``all``: all of these. The other
            options go with ``all`` and ``generated``.
        prompt: with ``all``: let the program act on given tokens.
        start: first generated token on which the program acts.
        stop: first generated token on which it no longer acts. 0 restricts it to the prompt; None means no end.
        half_life: generated tokens after ``start`` at which the program acts at half strength (:meth:`Program.scaled`).
            The decay is a staircase of 12 steps, each max(1, round(half_life / 2)) tokens; after the last the program
            is off. None means no decay.

    Raises:
        InputError: ``where`` is unknown, or is ``text`` or ``prompt`` beside another option; start or stop is negative,
            stop is not after start (unless both are 0), or half_life is below 1.
    """
    check("where", where, OneOf((*POSITIONS, "generated")))
    if where in ("text", "prompt"):
        if (prompt, start, stop, half_life) != (True, 0, None, None):
            given = f"prompt {prompt}, start {start}, stop {stop}, half_life {half_life}"
            raise InputError(f"where is {where!r} beside {given}; expected 'all' or 'generated' beside these")
        if where == "text":
            return Schedule(None, ((0, None),), f"{program.name} (text)", program)
        return Schedule(program, ((0, None),), f"{program.name} (prompt without text)", None)
    prompt = prompt and where == "all"
    if start < 0 or (stop is not None and stop < 0):
        raise InputError(f"start is {start} and stop is {stop}, expected at least 0")
    if half_life is not None and not (math.isfinite(half_life) and half_life >= 1):
        raise InputError(f"half_life is {half_life}, expected a finite number of at least 1")
    if stop is not None and stop <= start and stop + start > 0:
        raise InputError(f"stop is {stop}, expected more than start, {start}")
    pieces: list[tuple[int, Program | None]] = [(0, None)] if start else []
    if half_life is None:
        pieces.append((start, program))
    else:
        width = max(1, round(half_life / 2))
        weights = [2 ** (-step * width / half_life) for step in range(_DECAY_STEPS)]
        pieces += [(start + step * width, program.scaled(weight)) for step, weight in enumerate(weights)]
        pieces.append((start + _DECAY_STEPS * width, None))
    if stop is not None:
        pieces = [*(piece for piece in pieces if piece[0] < stop), (stop, None)]
    written = f"generated {start} to {'end' if stop is None else stop - 1}"
    acting = ["prompt"] * prompt + [written] * (stop != 0)
    fading = "" if half_life is None else f", half-life {half_life:g}"
    return Schedule(program if prompt else None, tuple(pieces), f"{program.name} ({' and '.join(acting)}{fading})")


def zero(neurons: Neurons) -> Program:
    """Mask neurons with zero: h' = 0 (scale 0, shift 0)."""
    neurons = _as_list(neurons)
    return _build(_name("zero", neurons), _by_site(neurons), lambda site, index: {"scale": 0.0, "shift": 0.0})


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
    _of_activations("mean", stats)
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

    return _build(_name("mean", neurons), _by_site(neurons), parameters)


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
    _of_activations("attenuate", stats)
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
    return _build(_name(how, neurons, label), by_site, parameters)


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
        size, average = _root_mean_square(of_site)[part.index], of_site.mean[part.index]
        scale, damping, floor, shift = (getattr(part, field).astype(np.float64) for field in _FIELDS)
        k = np.maximum(scale - damping * size, floor) - 1
        square = (k * size) ** 2 + 2 * k * shift * average + shift**2
        active = size > 0
        # Rounding may leave the square of a difference a little below zero.
        changes.append(np.sqrt(np.maximum(square[active], 0)) / size[active])
    every = np.concatenate(changes) if changes else np.zeros(0)
    return float(np.median(every)) if len(every) else None


def induce(neurons: Neurons, stats: ActivationStats, beta: float = 1.0, label: str | None = None) -> Program:
    """Induce a label: shift = beta · the neuron's mean activation under it.

    Args:
        neurons: the neurons.
        stats: statistics of activations, or of pairs (then the shift is along the mean difference).
        beta: strength, in units of the mean.
        label: the label; that of ``neurons`` when None.

    Raises:
        InputError: beta is not finite, the label is unknown, or a site or neuron is not in the statistics or has no
            finite activation under the label.
    """
    return _shifted("induce", _as_list(neurons), stats, "beta", beta, _label(neurons, label))


def contrast(neurons: Neurons, stats: ActivationStats, beta: float = 1.0, label: str | None = None) -> Program:
    """Shift neurons from the rest of a task to a label: shift = beta · (mean under the label - mean under the rest).

    The shift leaves out the activation that all texts have in common, which :func:`induce` adds too.

    Args:
        neurons, label: as for :func:`induce`.
        stats: statistics of activations.
        beta: strength, in units of the difference.

    Raises:
        InputError: as for :func:`induce`, also for the rest of the task.
    """
    return _shifted("contrast", _as_list(neurons), stats, "beta", beta, _label(neurons, label), less_rest=True)


def cross_signal(neurons: Neurons, stats: ActivationStats, label: str, omega: float) -> Program:
    """Carry the signal of one label to the neurons of another: shift = omega · the neuron's mean under ``label``.

    The source leaves open which mean it takes (docs/choices.md); the mean of each neuron is our choice.

    Args:
        neurons: the neurons of a label, an emotion for example.
        stats: statistics of activations.
        label: another label, a rhetorical device for example.
        omega: strength, in units of the mean.

    Raises:
        InputError: omega is not finite, or as for :func:`induce`.
    """
    return _shifted("cross-signal", _as_list(neurons), stats, "omega", omega, label)


def amplify(neurons: Neurons, factor: float) -> Program:
    """Amplify neurons: scale = ``factor``.

    Raises:
        InputError: factor is below 1 or not finite.
    """
    if not (math.isfinite(factor) and factor >= 1):
        raise InputError(f"factor is {factor}, expected a finite number of at least 1")
    neurons = _as_list(neurons)
    name = _name(f"amplify {factor:g}", neurons)
    return _build(name, _by_site(neurons), lambda site, index: {"scale": factor})


def compose(*programs: Program) -> Program:
    """Compose programs into a single one that applies them from left to right.

    Where two programs touch the same neuron, the form can hold their composition only if one of them multiplies by a
    constant there. A constant factor of the second must not be negative if that of the first depends on h. If only the
    first has a constant factor, it must be 0, or positive and without a shift. The composed parameters are exact,
    rounded to float32.

    Raises:
        InputError: the form cannot hold the composition for a neuron; names site and neuron.
    """
    merged: dict[str, dict[int, tuple[float, ...]]] = {}
    for program in programs:
        for site, part in program.sites.items():
            neurons = merged.setdefault(site, {})
            columns = (getattr(part, field).astype(np.float64).tolist() for field in _FIELDS)
            for index, row in zip(part.index.tolist(), zip(*columns, strict=True), strict=True):
                combined = _then(neurons[index], row) if index in neurons else row
                if combined is None:
                    raise InputError(
                        f"neuron {index} of {site} is touched by {program.name!r} after another program, "
                        "and the two do not combine into one of the form h·max(s - d|h|, f) + b"
                    )
                neurons[index] = combined
    sites = {}
    for site, neurons in merged.items():
        index = np.array(sorted(neurons), dtype=np.int64)
        values = np.array([neurons[i] for i in index.tolist()], dtype=np.float64).reshape(-1, 4).T
        sites[site] = SiteProgram(index, *values)
    return Program(sites, " + ".join(program.name for program in programs))


def _then(first: tuple[float, ...], second: tuple[float, ...]) -> tuple[float, ...] | None:
    """Compose the parameters of a neuron, ``first`` then ``second``; None if the form cannot hold the composition."""
    scale1, damping1, floor1, shift1 = first
    scale2, damping2, floor2, shift2 = second
    factor1, factor2 = _constant(first), _constant(second)
    if factor2 is not None:
        shift = factor2 * shift1 + shift2
        if factor1 is not None:
            return factor1 * factor2, 0.0, -math.inf, shift
        # c·max(a, b) = max(c·a, c·b) needs c >= 0. c = 0 has its own case, since 0·(-inf) is NaN.
        if factor2 > 0:
            return factor2 * scale1, factor2 * damping1, factor2 * floor1, shift
        return (0.0, 0.0, -math.inf, shift) if factor2 == 0 else None
    if factor1 == 0:  # the first returns its shift for every h
        return 0.0, 0.0, -math.inf, shift1 * max(scale2 - damping2 * abs(shift1), floor2) + shift2
    if factor1 is not None and factor1 > 0 and shift1 == 0:
        return factor1 * scale2, factor1**2 * damping2, factor1 * floor2, shift2
    return None


def _constant(row: tuple[float, ...]) -> float | None:
    """Factor max(scale - damping·|h|, floor) if it does not depend on h, else None."""
    scale, damping, floor, _ = row
    return max(scale, floor) if damping == 0 or floor >= scale else None


def _shifted(
    kind: str, neurons: Neurons, stats: ActivationStats, strength_name: str, strength: float, label: str,
    less_rest: bool = False,
) -> Program:  # fmt: skip
    _of_activations(kind, stats, pairs=not less_rest)
    if not math.isfinite(strength):
        raise InputError(f"{strength_name} is {strength}, expected a finite number")
    measured, rest = stats.label(label), stats.rest(label) if less_rest else None

    def parameters(site: str, index: NDArray[np.int64]) -> dict[str, Any]:
        mean = _observed(measured, site, index, f"label {label!r}").mean[index]
        if rest is not None:
            mean = mean - _observed(rest, site, index, f"the rest of {label!r}").mean[index]
        return {"shift": strength * mean}

    return _build(_name(f"{kind} {strength:g}", neurons, label), _by_site(neurons), parameters)


def _of_activations(kind: str, stats: ActivationStats, pairs: bool = False) -> None:
    if stats.kind == "attribution" or (stats.of_pairs and not pairs):
        held = "attributions" if stats.kind == "attribution" else "the differences within pairs"
        raise InputError(f"{kind} needs activations, and these statistics hold {held}")


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
) -> Program:
    """Make a program of ``parameters(site, index)``: the fields that are not neutral, each a number or an array [K]."""
    sites = {}
    for site, index in by_site.items():
        given = parameters(site, index)
        columns = (given.get(field, value) for field, value in zip(_FIELDS, _NEUTRAL, strict=True))
        sites[site] = SiteProgram(index, *(np.broadcast_to(column, index.shape) for column in columns))
    return Program(sites, name)


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

"""Programs: what an intervention does to each neuron, as data (docs/method.md).

Apart because this is arithmetic on statistics: it knows numpy only. models/intervention.py applies a program to
a model, csrc/common/activation.h holds the form itself:

    h' = h · max(scale - damping·|h|, floor) + shift

A neuron with scale 1, damping 0, floor -inf and shift -0 is untouched, bit for bit (a shift of +0 would turn
-0 to 0).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from affectron.errors import InputError

if TYPE_CHECKING:
    from affectron.stats import ActivationStats, SiteStats

Neurons = Iterable[tuple[Any, ...]]
"""A NeuronList, or anything that yields tuples beginning with (site, index)."""

_FIELDS = ("scale", "damping", "floor", "shift")
_NEUTRAL = np.array([1.0, 0.0, -np.inf, -0.0], dtype=np.float32)
_FLOAT32_MAX = float(np.finfo(np.float32).max)


@dataclass(frozen=True, eq=False)
class SiteProgram:
    """The neurons of one site that a program touches, and the parameters of each.

    ``index`` is int64 [K], ascending, each neuron once. ``scale``, ``damping``, ``floor`` and ``shift`` are
    float32 [K] and finite, but that a floor may be -inf; damping is not negative.

    Raises:
        InputError: an index or a parameter that breaks these rules.
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
    """An intervention: the neurons it touches, by site, and their parameters. ``name`` is for people."""

    sites: dict[str, SiteProgram]
    name: str

    def __len__(self) -> int:
        """The number of neurons touched."""
        return sum(len(site.index) for site in self.sites.values())

    def scaled(self, weight: float) -> Program:
        """A share of what this program does: h + weight · (h' - h), for a weight in (0, 1].

        Raises:
            InputError: another weight.
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
        """Float32 [4, width]: scale, damping, floor, shift of a site's neurons, neutral where untouched.

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


#: Programs that a schedule can hold one after the other, the prompt's included.
MAX_PIECES = 16
# A decay is a staircase of this many steps, each half of the half-life wide: the last one does 2 % of the program.
_DECAY_STEPS = 12


@dataclass(frozen=True, eq=False)
class Schedule:
    """Programs by position in a text: see :func:`schedule` for the usual ones.

    A program acts in the forward that reads a token. ``prompt`` acts on the tokens of the prompt; ``generated`` holds
    pairs (k, program), k ascending from 0: the program that acts from the k-th generated token on, counted from 0.
    None leaves the tokens alone. ``name`` is for people.

    Raises:
        InputError: the starts do not ascend from 0, or there are more than 15 of them.
    """

    prompt: Program | None
    generated: tuple[tuple[int, Program | None], ...]
    name: str

    def __post_init__(self) -> None:
        starts = [start for start, _ in self.generated]
        if not starts or starts[0] != 0 or any(a >= b for a, b in pairwise(starts)):
            raise InputError(f"generated begins at tokens {starts}, expected ascending numbers from 0")
        if len(starts) >= MAX_PIECES:
            raise InputError(f"generated holds {len(starts)} programs, expected at most {MAX_PIECES - 1}")


def schedule(
    program: Program,
    *,
    prompt: bool = True,
    start: int = 0,
    stop: int | None = None,
    half_life: float | None = None,
) -> Schedule:
    """Let ``program`` act on a part of a text only, or fade away.

    Generated tokens are counted from 0. The first is written by the forward over the prompt, so that what acts on
    generated tokens only is first seen in the second.

    Args:
        prompt: whether it acts on the prompt.
        start: the first generated token that it acts on.
        stop: the first that it no longer acts on; 0 with ``prompt``: the prompt only. None: it goes on.
        half_life: tokens from ``start`` on after which it does half as much (:meth:`Program.scaled`), falling in steps
            of half of that time (one token at least), twelve of them, and then to nothing.

    Raises:
        InputError: start or stop is negative, stop is not after start (but for 0), or half_life is below 1.
    """
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
    where = ["prompt"] if prompt else []
    if stop != 0:
        where.append(f"generated {start} to {'end' if stop is None else stop - 1}")
    fading = "" if half_life is None else f", half-life {half_life:g}"
    return Schedule(program if prompt else None, tuple(pieces), f"{program.name} ({' and '.join(where)}{fading})")


def zero(neurons: Neurons) -> Program:
    """Hard mask: scale 0, shift 0, so h' = 0."""
    neurons = _as_list(neurons)
    return _build(_name("zero", neurons), _by_site(neurons), lambda site, index: {"scale": 0.0, "shift": 0.0})


def mean(neurons: Neurons, stats: ActivationStats, task: str | None = None) -> Program:
    """Mean mask: scale 0, shift = the neuron's mean over all tokens of the task.

    The task is that of ``neurons`` unless ``task`` names one.

    Raises:
        InputError: the task is not known, a site or neuron is not in the statistics, or never finite there; or
            statistics of pairs, which hold differences.
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
    neurons: Neurons, stats: ActivationStats, alpha: float, dynamic: bool = True, label: str | None = None
) -> Program:
    """Weaken neurons in proportion to how active they are under their label.

    With A the absolute mean activation under the label and A_max the largest absolute one: static,
    scale = 1 - alpha·A/A_max for every token alike; dynamic, each token by its own activation,
    h' = h · max(1 - alpha·|h|/A_max, 1 - alpha). Which of the two the source means is open
    (docs/choices.md). A neuron with A_max = 0 is left untouched.

    Raises:
        InputError: alpha is negative or not finite, statistics of pairs, or as for :func:`induce`.
    """
    _of_activations("attenuate", stats)
    if not (math.isfinite(alpha) and alpha >= 0):
        raise InputError(f"alpha is {alpha}, expected a finite number of at least 0")
    neurons = _as_list(neurons)
    label = _label(neurons, label)
    measured = stats.label(label)
    by_site: dict[str, NDArray[np.int64]] = {}
    peaks: dict[str, NDArray[np.float64]] = {}
    for site, index in _by_site(neurons).items():
        found = _observed(measured, site, index, f"label {label!r}")
        peak = np.maximum(np.abs(found.min[index]), np.abs(found.max[index])).astype(np.float64)
        if (peak > 0).any():
            by_site[site], peaks[site] = index[peak > 0], peak[peak > 0]

    def parameters(site: str, index: NDArray[np.int64]) -> dict[str, Any]:
        if not dynamic:
            return {"scale": 1 - alpha * np.abs(measured[site].mean[index]) / peaks[site]}
        # A subnormal peak would overflow the quotient, and inf · |0| is NaN.
        return {"damping": np.minimum(alpha / peaks[site], _FLOAT32_MAX), "floor": 1 - alpha}

    kind = f"attenuate {'dynamic' if dynamic else 'static'} {alpha:g}"
    return _build(_name(kind, neurons, label), by_site, parameters)


def induce(neurons: Neurons, stats: ActivationStats, beta: float = 1.0, label: str | None = None) -> Program:
    """Push towards a label: shift = beta · the neuron's mean activation under it.

    The label is that of ``neurons`` unless ``label`` names one.

    Raises:
        InputError: beta is not finite, the label is not known, a site or neuron is not in the statistics, or
            was never finite under that label.
    """
    neurons = _as_list(neurons)
    return _shifted("induce", neurons, stats, "beta", beta, _label(neurons, label))


def cross_signal(neurons: Neurons, stats: ActivationStats, label: str, omega: float) -> Program:
    """Carry a label's signal to another's neurons: shift = omega · the neuron's mean over ``label``'s tokens.

    ``neurons`` are those of an emotion, ``label`` a rhetorical device, or any other two labels. Which mean to
    take is open in the source (docs/choices.md); that of each neuron is our choice.

    Raises:
        InputError: omega is not finite, or as for :func:`induce`.
    """
    return _shifted("cross-signal", _as_list(neurons), stats, "omega", omega, label)


def amplify(neurons: Neurons, factor: float) -> Program:
    """Strengthen neurons: scale = ``factor``.

    Raises:
        InputError: factor is below 1 or not finite.
    """
    if not (math.isfinite(factor) and factor >= 1):
        raise InputError(f"factor is {factor}, expected a finite number of at least 1")
    neurons = _as_list(neurons)
    name = _name(f"amplify {factor:g}", neurons)
    return _build(name, _by_site(neurons), lambda site, index: {"scale": factor})


def compose(*programs: Program) -> Program:
    """One program that does what ``programs`` do one after the other, from left to right.

    Where two touch the same neuron the result keeps the form only if one of them multiplies by a constant
    there (and, if the first adds a shift, the second does). Such neurons get the exact parameters, rounded to
    float32.

    Raises:
        InputError: two programs touch one neuron in a way that the form cannot hold; names site and neuron.
    """
    merged: dict[str, dict[int, tuple[float, ...]]] = {}
    for program in programs:
        for site, part in program.sites.items():
            neurons = merged.setdefault(site, {})
            columns = (getattr(part, field).astype(np.float64).tolist() for field in _FIELDS)
            for index, row in zip(part.index.tolist(), zip(*columns, strict=True), strict=True):
                if index in neurons:
                    combined = _then(neurons[index], row)
                    if combined is None:
                        raise InputError(
                            f"neuron {index} of {site} is touched by {program.name!r} after another program, "
                            "and the two do not combine into one of the form h·max(s - d|h|, f) + b"
                        )
                    neurons[index] = combined
                else:
                    neurons[index] = row
    sites = {}
    for site, neurons in merged.items():
        index = np.array(sorted(neurons), dtype=np.int64)
        values = np.array([neurons[i] for i in index.tolist()], dtype=np.float64).reshape(-1, 4).T
        sites[site] = SiteProgram(index, *values)
    return Program(sites, " + ".join(program.name for program in programs))


def _then(first: tuple[float, ...], second: tuple[float, ...]) -> tuple[float, ...] | None:
    """The parameters of ``second`` applied to what ``first`` returns; None if the form cannot hold them."""
    scale1, damping1, floor1, shift1 = first
    scale2, damping2, floor2, shift2 = second
    factor1, factor2 = _constant(first), _constant(second)
    if factor2 is not None:
        shift = factor2 * shift1 + shift2
        if factor1 is not None:
            return factor1 * factor2, 0.0, -math.inf, shift
        # c·max(a, b) = max(c·a, c·b) needs c >= 0; and 0·(-inf) has to be 0 here.
        if factor2 > 0:
            return factor2 * scale1, factor2 * damping1, factor2 * floor1, shift
        return (0.0, 0.0, -math.inf, shift) if factor2 == 0 else None
    if factor1 == 0:  # the first returns its shift, whatever h is
        return 0.0, 0.0, -math.inf, shift1 * max(scale2 - damping2 * abs(shift1), floor2) + shift2
    if factor1 is not None and factor1 > 0 and shift1 == 0:
        return factor1 * scale2, factor1**2 * damping2, factor1 * floor2, shift2
    return None


def _constant(row: tuple[float, ...]) -> float | None:
    """max(scale - damping·|h|, floor) where it does not depend on h."""
    scale, damping, floor, _ = row
    return max(scale, floor) if damping == 0 or floor >= scale else None


def _shifted(
    kind: str, neurons: Neurons, stats: ActivationStats, strength_name: str, strength: float, label: str
) -> Program:
    if not math.isfinite(strength):
        raise InputError(f"{strength_name} is {strength}, expected a finite number")
    measured = stats.label(label)

    def parameters(site: str, index: NDArray[np.int64]) -> dict[str, Any]:
        return {"shift": strength * _observed(measured, site, index, f"label {label!r}").mean[index]}

    return _build(_name(f"{kind} {strength:g}", neurons, label), _by_site(neurons), parameters)


def _of_activations(kind: str, stats: ActivationStats) -> None:
    if stats.of_pairs:
        raise InputError(f"{kind} needs activations, and these statistics hold the differences within pairs")


def _as_list(neurons: Neurons) -> Neurons:
    """A NeuronList as it is, since it tells its label; else a list, since an iterator serves once."""
    return neurons if hasattr(neurons, "label") else list(neurons)


def _by_site(neurons: Neurons) -> dict[str, NDArray[np.int64]]:
    """Site -> the indices in it, ascending, each once."""
    found: dict[str, set[int]] = {}
    for neuron in neurons:
        site, index = neuron[0], neuron[1]
        if not isinstance(site, str) or isinstance(index, bool) or not isinstance(index, (int, np.integer)):
            raise InputError(f"neuron is {neuron!r}, expected (site, index, ...)")
        if index < 0:
            raise InputError(f"neuron index of {site} is {index}, expected 0 or more")
        found.setdefault(site, set()).add(int(index))
    return {site: np.array(sorted(indices), dtype=np.int64) for site, indices in found.items()}


def _build(
    name: str,
    by_site: Mapping[str, NDArray[np.int64]],
    parameters: Callable[[str, NDArray[np.int64]], dict[str, Any]],
) -> Program:
    """A program from the parameters that differ from neutral, each a number or an array over the indices."""
    sites = {}
    for site, index in by_site.items():
        given = parameters(site, index)
        columns = (given.get(field, value) for field, value in zip(_FIELDS, _NEUTRAL, strict=True))
        sites[site] = SiteProgram(index, *(np.broadcast_to(column, index.shape) for column in columns))
    return Program(sites, name)


def _observed(measured: Mapping[str, SiteStats], site: str, index: NDArray[np.int64], where: str) -> SiteStats:
    """The statistics of a site, in which every neuron of ``index`` has a finite activation."""
    if site not in measured:
        raise InputError(f"site {site!r} is not in the statistics; expected one of {_listed(measured)}")
    found = measured[site]
    if index[-1] >= len(found.mean):
        raise InputError(f"neuron {index[-1]} of {site} is beyond the {len(found.mean)} in the statistics")
    unseen = index[found.observed[index] == 0]
    if len(unseen):
        raise InputError(f"neuron {unseen[0]} of {site} has no finite activation under {where}")
    return found


def _label(neurons: Neurons, label: str | None) -> str:
    found = label if label is not None else getattr(neurons, "label", None)
    if found is None:
        raise InputError("label is not given and the neurons do not tell it; pass label=")
    return str(found)


def _name(kind: str, neurons: Neurons, label: str | None = None) -> str:
    own = getattr(neurons, "label", None)
    if own is None or label in (None, own):
        return f"{kind} {own or label or 'neurons'}"
    return f"{kind} {label} at {own}"


def _listed(names: Iterable[str], most: int = 8) -> str:
    listed = list(names)
    return ", ".join(listed[:most]) + (", ..." if len(listed) > most else "")

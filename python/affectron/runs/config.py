"""The configuration of a run: a TOML file, one table a stage, every option checked before anything is loaded.

Apart from the stages, so that what can be said and what is done are read separately. A table that is absent has its
defaults; a stage that may be left out has ``enabled = false``.
"""

from __future__ import annotations

import dataclasses
import os
import reprlib
import sys
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from affectron._internal.files import read_text
from affectron.errors import InputError
from affectron.evaluation.evaluators import LabelLikelihood, LinearProbe
from affectron.evaluation.exam import finite_numbers, fraction, whole_number
from affectron.experiments.validation import Options
from affectron.models.load import is_hub_name
from affectron.ops.buffers import ACTIVE_RULES
from affectron.screening.screen import TOKEN_RULES
from affectron.selection import METHODS, selection_options

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover
    import tomli as tomllib


_SHOWN = reprlib.Repr()  # of a value in a message: no deeper and no longer than a line has room for
_SHOWN.maxstring = _SHOWN.maxother = 100


@dataclass(frozen=True)
class Columns:
    """Names of the corpus' columns; ``label_separator`` and ``quoting`` are those of ``Corpus.from_file``."""

    text: str = "text"
    label: str = "label"
    task: str = "task"
    split: str = "split"
    label_separator: str | None = None
    quoting: bool | None = None


@dataclass(frozen=True)
class Screen:
    """What is measured; ``folds`` is how many parts stability resamples."""

    split: str = "train"
    tokens: str = "all"
    active: str = "gate"
    template: str = "{text}"
    count_special: bool = False
    batch_tokens: int = 8192
    folds: int = 10

    def __post_init__(self) -> None:
        one_of("tokens", self.tokens, TOKEN_RULES)
        one_of("active", self.active, ACTIVE_RULES)
        whole_number("batch_tokens", self.batch_tokens, 1)
        whole_number("folds", self.folds, 2)


@dataclass(frozen=True)
class Select:
    """Options of :func:`affectron.select`; ``min_frequency`` keeps neurons that stability finds that often."""

    top: float = 0.01
    score: str = "entropy"
    filter_rate: float = 0.95
    assign: str = "argmax"
    activation_bar_ratio: float = 0.95
    sign: str | None = None
    min_effect: float | None = None
    fdr: float | None = None
    min_count: int | None = None
    min_frequency: float | None = None

    def __post_init__(self) -> None:
        selection_options(**self.options())
        if self.min_frequency is not None:
            fraction("min_frequency", self.min_frequency)

    def options(self) -> dict[str, Any]:
        """As :func:`affectron.select` takes them; a filter rate of 0 is none."""
        found = {key: value for key, value in dataclasses.asdict(self).items() if key != "min_frequency"}
        if found["filter_rate"] == 0 or (found["score"] not in ("entropy", "raw_entropy")):
            found["filter_rate"] = None
        return found


@dataclass(frozen=True)
class Stability:
    resamples: int = 100
    splits: int = 20

    def __post_init__(self) -> None:
        whole_number("resamples", self.resamples, 1)
        whole_number("splits", self.splits, 1)


@dataclass(frozen=True)
class Candidates:
    """``split``: whose sentences; not the one that was screened, or its p values are no tests."""

    enabled: bool = True
    split: str = "dev"
    bootstrap: int = 1000
    permutations: int = 1000
    examples: int = 5

    def __post_init__(self) -> None:
        whole_number("bootstrap", self.bootstrap, 1)
        whole_number("permutations", self.permutations, 1)
        whole_number("examples", self.examples, 0)


@dataclass(frozen=True)
class Evaluate:
    """How every later stage asks the model; ``prompts`` has a template for each task."""

    evaluator: str = "label_likelihood"
    prompts: dict[str, str] = field(default_factory=dict)
    train: str = "train"
    dev: str = "dev"
    test: str = "test"
    limit: int | None = None

    def __post_init__(self) -> None:
        one_of("evaluator", self.evaluator, (LabelLikelihood.name, LinearProbe.name))
        if self.prompts and self.evaluator != LabelLikelihood.name:
            raise InputError(f"prompts go with {LabelLikelihood.name!r}, and the evaluator is {self.evaluator!r}")
        LabelLikelihood(self.prompts)
        if self.limit is not None:
            whole_number("limit", self.limit, 1)
        if self.dev == self.test:
            raise InputError(f"dev and test are both {self.dev!r}, expected different splits")


@dataclass(frozen=True)
class Validate:
    alpha: float = 0.3
    alpha_step: float = 0.1
    alpha_cap: float = 1.0
    share: float = 0.1
    share_step: float = 0.1
    share_cap: float = 1.0
    min_drop: float = 0.05
    random_sets: int = 20
    bootstrap: int = 1000
    neutral: str | None = None

    def __post_init__(self) -> None:
        self.options()

    def options(self) -> Options:
        return Options(**{key: value for key, value in dataclasses.asdict(self).items() if key != "neutral"})


@dataclass(frozen=True)
class Methods:
    """``top`` is that of the selection unless given."""

    enabled: bool = True
    methods: tuple[str, ...] = tuple(METHODS)
    top: float | None = None
    alpha: float = 1.0
    random_sets: int = 20
    bootstrap: int = 1000

    def __post_init__(self) -> None:
        for method in self.methods:
            one_of("methods", method, tuple(METHODS))
        if self.top is not None:
            fraction("top", self.top)
        _controlled(self)
        fraction("alpha", self.alpha)


@dataclass(frozen=True)
class Ablate:
    enabled: bool = True
    alpha: float = 1.0
    alphas: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0)
    shares: tuple[float, ...] = (0.1, 0.25, 0.5, 1.0)
    model_shares: tuple[float, ...] = (0.01, 0.02, 0.03, 0.04, 0.05)
    random_sets: int = 20
    bootstrap: int = 1000

    def __post_init__(self) -> None:
        fraction("alpha", self.alpha)
        for name in ("alphas", "shares", "model_shares"):
            for value in getattr(self, name):
                fraction(name, value)
        _controlled(self)


@dataclass(frozen=True)
class Induce:
    enabled: bool = True
    betas: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0)
    random_sets: int = 5
    bootstrap: int = 1000

    def __post_init__(self) -> None:
        finite_numbers("betas", self.betas)
        _controlled(self)


@dataclass(frozen=True)
class CrossSignal:
    """``source`` gives the signal (a task of devices), at the neurons of ``target`` (a task of emotions)."""

    source: str
    target: str
    omegas: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0)
    random_sets: int = 20
    bootstrap: int = 1000

    def __post_init__(self) -> None:
        if self.source == self.target:
            raise InputError(f"source and target are both {self.source!r}, expected two tasks")
        finite_numbers("omegas", self.omegas)
        if not self.omegas:
            raise InputError("omegas is empty, expected at least one number")
        _controlled(self)


@dataclass(frozen=True)
class CrossDataset:
    """Another corpus that the neurons of ``task`` are validated on; ``task`` also names its labels' task where it has
    no task column. Sentences with a label that has no list of neurons are left out."""

    corpus: Path
    task: str
    columns: Columns = field(default_factory=Columns)
    dev: str = "dev"
    test: str = "test"
    train: str = "train"
    limit: int | None = None

    def __post_init__(self) -> None:
        if self.limit is not None:
            whole_number("limit", self.limit, 1)


@dataclass(frozen=True)
class Associate:
    score: str = "hedges_g"


@dataclass(frozen=True)
class Config:
    """A whole run. Paths are relative to the folder of the configuration file. ``model`` is the path of a folder, or a
    name on the hub as :func:`affectron.load_model` takes it. ``allow_overlap``: test sentences that were screened too,
    and state it, in place of refusing them."""

    model: Path | str
    corpus: Path
    output: Path
    seed: int = 0
    allow_overlap: bool = False
    device: str = "auto"
    dtype: str = "auto"
    trust_remote_code: bool = False
    columns: Columns = field(default_factory=Columns)
    screen: Screen = field(default_factory=Screen)
    select: Select = field(default_factory=Select)
    stability: Stability = field(default_factory=Stability)
    candidates: Candidates = field(default_factory=Candidates)
    evaluate: Evaluate = field(default_factory=Evaluate)
    validate: Validate = field(default_factory=Validate)
    methods: Methods = field(default_factory=Methods)
    ablate: Ablate = field(default_factory=Ablate)
    induce: Induce = field(default_factory=Induce)
    cross_signal: CrossSignal | None = None
    cross_dataset: CrossDataset | None = None
    associate: Associate = field(default_factory=Associate)

    def __post_init__(self) -> None:
        whole_number("seed", self.seed, 0)
        one_of("dtype", self.dtype, ("auto", "float32", "bfloat16", "float16"))

    def json(self) -> dict[str, Any]:
        """The configuration with its defaults filled in, as JSON."""
        found: dict[str, Any] = _plain(dataclasses.asdict(self))
        return found


def load_config(path: str | os.PathLike[str]) -> Config:
    """Read and check a configuration file.

    Raises:
        InputError: the file cannot be read or is not TOML; an unknown table or option, one that is missing, of another
            type or out of its range. The message names the file and the option.
    """
    file = Path(path)
    text = read_text(file)
    try:
        content = tomllib.loads(text)
    except RecursionError as error:
        raise InputError(f"{file} is not TOML that can be read: it is nested too deep") from error
    except ValueError as error:  # not TOML, or a number of too many digits
        raise InputError(f"{file} is not TOML that can be read: {error}") from error
    config = typing.cast(Config, _table(Config, content, file, ""))
    name = content["model"]
    if not os.path.exists(config.model) and is_hub_name(name):
        if os.path.exists(name):  # would be taken instead of the name
            raise InputError(
                f"{file}: model is {name!r}, which is not beside the configuration but in the current folder; write "
                "its whole path"
            )
        config = dataclasses.replace(config, model=name)
    return config


def one_of(name: str, value: str, known: typing.Sequence[str]) -> None:
    """Raise InputError unless the value is one of those known."""
    if value not in known:
        raise InputError(f"{name} is {value!r}, expected one of {', '.join(known)}")


def _named(key: str) -> str:
    return key if key.isprintable() else repr(key)


def _controlled(section: Any) -> None:
    whole_number("random_sets", section.random_sets, 0)
    whole_number("bootstrap", section.bootstrap, 1)


def _table(kind: type[Any], content: Any, file: Path, place: str) -> Any:
    """A dataclass from a TOML table, its fields checked by their annotations."""
    if not isinstance(content, dict):
        raise InputError(f"{file}: {place.rstrip('.')} is {_SHOWN.repr(content)}, expected a table")
    hints = typing.get_type_hints(kind)
    for name in content:
        if name not in hints:
            raise InputError(f"{file}: {place}{_named(name)} is not an option, expected one of {', '.join(hints)}")
    values = {}
    for one in dataclasses.fields(kind):
        if one.name in content:
            values[one.name] = _value(hints[one.name], content[one.name], file, f"{place}{one.name}")
        elif one.default is dataclasses.MISSING and one.default_factory is dataclasses.MISSING:
            raise InputError(f"{file}: {place}{one.name} is missing")
    try:
        return kind(**values)
    except InputError as error:
        raise InputError(f"{file}: {place}{error}") from error


def _value(kind: Any, value: Any, file: Path, place: str) -> Any:
    if isinstance(kind, types.UnionType):  # X | None, and Path | str
        kind = next(one for one in typing.get_args(kind) if one is not type(None))
    if dataclasses.is_dataclass(kind):
        return _table(typing.cast("type[Any]", kind), value, file, f"{place}.")
    if typing.get_origin(kind) is tuple:
        inner = typing.get_args(kind)[0]
        if not isinstance(value, list):
            raise InputError(f"{file}: {place} is {_SHOWN.repr(value)}, expected a list")
        return tuple(_value(inner, one, file, f"{place}[{position}]") for position, one in enumerate(value))
    if typing.get_origin(kind) is dict:
        if not isinstance(value, dict):
            raise InputError(f"{file}: {place} is {_SHOWN.repr(value)}, expected a table")
        return {key: _value(str, one, file, f"{place}.{_named(key)}") for key, one in value.items()}
    return _scalar(kind, value, file, place)


def _scalar(kind: Any, value: Any, file: Path, place: str) -> Any:
    expected = {str: "text", Path: "a path", bool: "true or false", int: "an integer", float: "a number"}[kind]
    given: dict[Any, tuple[type, ...]] = {str: (str,), Path: (str,), bool: (bool,), int: (int,), float: (int, float)}
    if not isinstance(value, given[kind]) or (isinstance(value, bool) and kind is not bool):
        raise InputError(f"{file}: {place} is {_SHOWN.repr(value)}, expected {expected}")
    if isinstance(value, int) and abs(value) >= 2**63:
        raise InputError(f"{file}: {place} has more than 64 bits, expected {expected} that TOML can hold")
    if kind is Path:
        if "\0" in str(value):
            raise InputError(f"{file}: {place} is {_SHOWN.repr(value)}, expected {expected}")
        return file.parent / str(value)
    return value * 1.0 if kind is float else value  # type: ignore[operator]


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return str(value) if isinstance(value, Path) else value

"""The record of a part: rows, what failed and what there was no time for; as JSON, and as a table."""

from __future__ import annotations

import datetime
import json
import os
import platform
import statistics
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from affectron.ops import backend_for
from affectron.ops._backends import KERNELS
from on_gpu.scale import Scale
from on_gpu.timing import Contender, Times


@dataclass(frozen=True)
class Row:
    """One contender of one piece of work, or its comparison with another one."""

    name: str
    work: str
    backend: str
    ms: float | None = None  # median of the rounds
    quartiles: tuple[float, float] | None = None
    tb_s: float | None = None
    tokens_s: float | None = None
    ratio: float | None = None  # of ``ms``, or of the bytes of peak memory, to that of ``against``
    against: str | None = None
    goal: float | None = None
    ok: bool | None = None
    error: str | None = None


def rows_of(work: str, contenders: list[Contender], times: Times) -> list[Row]:
    """A row for each contender and each of those that it is compared with."""
    found = []
    for one in contenders:
        if one.name in times.failed:
            found.append(Row(one.name, work, one.backend, error=times.failed[one.name]))
            continue
        ms = times.median(one.name)
        low, _, high = statistics.quantiles(times.rounds[one.name], method="inclusive")
        plain: dict[str, Any] = {"name": one.name, "work": work, "backend": one.backend, "ms": ms}
        plain |= {"quartiles": (low, high)}
        plain |= {"tb_s": one.moves / ms / 1e9 if one.moves else None}
        plain |= {"tokens_s": one.tokens / ms * 1e3 if one.tokens else None}
        goals = {other: goal for other, goal in one.goals.items() if other in times.rounds}
        if not goals:
            found.append(Row(**plain))
        for other, goal in goals.items():
            ratio = ms / times.median(other)
            ok = None if goal is None else ratio <= goal
            found.append(Row(**plain, ratio=ratio, against=other, goal=goal, ok=ok))
    return found


def memory_rows(
    one: Contender, work: str, times: Times, goal: float | None, against: int, what: str, held: int = 0
) -> list[Row]:
    """The peak memory of a contender, with ``held`` bytes more, compared with the bytes of ``what``; no row if it
    failed."""
    if one.name in times.failed:
        return []
    ratio = (times.peaks[one.name] + held) / against
    ok = None if goal is None else ratio <= goal
    return [Row(f"{one.name}: peak memory", work, one.backend, ratio=ratio, against=what, goal=goal, ok=ok)]


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "cuda": str(torch.version.cuda), "hip": str(torch.version.hip)}
    for package in ("affectron", "torch", "triton", "transformers", "liger_kernel"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "absent"
    return found


@dataclass
class Record:
    """The measurements of one part so far."""

    part: str
    gpu: str
    date: str = field(default_factory=lambda: datetime.date.today().isoformat())
    seconds: float = 0.0
    versions: dict[str, str] = field(default_factory=_versions)
    serves: dict[str, str] = field(default_factory=dict)  # the backend that is chosen for each op
    rows: list[Row] = field(default_factory=list)
    errors: dict[str, str] = field(default_factory=dict)  # by work
    not_measured: list[str] = field(default_factory=list)  # works that there was no time for

    @classmethod
    def of(cls, part: str, scale: Scale) -> Record:
        gpu = torch.cuda.get_device_name() if scale.on_gpu else "no GPU"
        return cls(part, gpu, serves={op: backend_for(op, scale.device)[0] for op in KERNELS})

    @property
    def failures(self) -> dict[str, str]:
        """Why a work, or a contender of one, has no figures."""
        rows = {f"{row.work}, {row.name}": row.error for row in self.rows if row.error is not None}
        return {**self.errors, **rows}

    def save(self, folder: Path) -> Path:
        """Write ``<gpu>-<date>-<part>.json``, whole or not at all."""
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"{self.gpu.lower().replace(' ', '-')}-{self.date}-{self.part}.json"
        temporary = file.with_suffix(".tmp")
        temporary.write_text(json.dumps(asdict(self), indent=2) + "\n")
        os.replace(temporary, file)
        return file

    def summary(self) -> str:
        missed = sum(row.ok is False for row in self.rows)
        met = sum(row.ok is True for row in self.rows)
        line = f"{self.part}: {len(self.rows)} rows in {self.seconds:.0f} s, goals: {met} met, {missed} missed"
        for what, count in (("failed", len(self.failures)), ("not measured", len(self.not_measured))):
            line += f", {count} {what}" if count else ""
        return line

    def print_table(self) -> None:
        work = None
        for row in self.rows:
            if row.error is not None:
                continue
            if row.work != work:
                work = row.work
                print(f"\n{self.part}: {work}")
            print(_line(row).rstrip())
        for name, error in self.failures.items():
            print(f"{self.part}: FAILED {name}: {error}")
        for name in self.not_measured:
            print(f"{self.part}: NOT MEASURED, out of time: {name}")


def _line(row: Row) -> str:
    rate = "" if row.tb_s is None else f"{row.tb_s:.2f} TB/s"
    rate = rate if row.tokens_s is None else f"{row.tokens_s:,.0f} tokens/s"
    ms = "" if row.ms is None else f"{row.ms:.4f} ms"
    ratio = "" if row.ratio is None else f"{row.ratio:.3f} of {row.against}"
    goal = "" if row.goal is None else f"goal {row.goal:.3f} {'met' if row.ok else 'MISSED'}"
    return f"  {row.name:<62} {ms:>13} {rate:>17}  {ratio:<46} {goal}"

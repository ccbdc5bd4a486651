"""The kernels on a GPU against what they replace: ``python benchmarks/gpu.py``, or by ``make gpu``.

Not in the pytest-benchmark suites, because a GPU is timed differently, by events on its stream with a cold L2 cache,
and because the machine that has one may have nothing but torch and transformers. Contenders of one piece of work take
turns, round by round; medians are compared. on_gpu/ says what is measured.

Each part is written as JSON to ``<gpu>-<date>-<part>.json`` in $OUT if that is set, else in benchmarks/results/, again
after each work of it, so that a run that is cut off keeps what it has measured. The last thing printed is a table. A
work that fails is named there with its error, the others still run, and the exit status is 1. ``--dry-run`` runs
everything at tiny sizes on the CPU and keeps nothing unless $OUT is set: it shows what is broken, not what is fast.

Seconds on an H100, estimated, not measured, with nothing compiled before: ops 40 (30 of them compile kernels), mlp 12,
screen 60, decode 85 (50 of them compile ``generate``), attribution 18; starting takes 12.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from on_gpu import attribution, decode, mlp, ops, screen
from on_gpu.record import Record, Row
from on_gpu.scale import DRY, FULL, Scale
from on_gpu.timing import Clock

PARTS: dict[str, Callable[[Scale, Clock], Iterator[tuple[str, Callable[[], list[Row]]]]]] = {
    "ops": ops.works,
    "mlp": mlp.works,
    "screen": screen.works,
    "decode": decode.works,
    "attribution": attribution.works,
}


def measure(part: str, scale: Scale, clock: Clock, deadline: float, folder: Path | None) -> Record:
    """One part, work by work; none is begun after the ``deadline``."""
    record, start = Record.of(part, scale), time.monotonic()
    for name, work in PARTS[part](scale, clock):
        if time.monotonic() >= deadline:
            record.not_measured.append(name)
        else:
            try:
                record.rows += work()
                gc.collect()
                if scale.on_gpu:
                    torch.cuda.empty_cache()
            except (Exception, KeyboardInterrupt) as error:
                record.errors[name] = f"{type(error).__name__}: {error}"
        record.seconds = time.monotonic() - start
        if folder is not None:
            record.save(folder)
    return record


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(PARTS), help="parts to measure, by commas (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no work after so many seconds")
    parser.add_argument("--dry-run", action="store_true", help="tiny sizes on the CPU; kept only if $OUT is set")
    given = parser.parse_args(arguments)
    deadline = time.monotonic() + given.seconds
    parts = given.only.split(",")
    for part in parts:
        if part not in PARTS:
            parser.exit(2, f"error: --only names {part!r}, expected some of {', '.join(PARTS)}\n")
    scale = DRY if given.dry_run else FULL
    if scale.on_gpu and not torch.cuda.is_available():
        parser.exit(2, "error: no CUDA device was found (--dry-run needs none)\n")
    folder = None
    if os.environ.get("OUT") or scale is FULL:
        folder = Path(os.environ.get("OUT") or Path(__file__).parent / "results")

    clock, records = Clock(scale), []
    for part in parts:
        records.append(measure(part, scale, clock, deadline, folder))
        print(records[-1].summary(), flush=True)
    for record in records:
        record.print_table()
    return int(any(record.failures for record in records))


if __name__ == "__main__":
    sys.exit(main())

"""Milliseconds of a call, and contenders that take turns.

A GPU is timed by events on its stream, with a cold L2 cache where a model would find it cold.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch

from on_gpu.scale import Scale

_FLUSHED = 2**28  # bytes: several times the largest L2
_BUSY = 1_000_000  # cycles: half a millisecond


@dataclass(frozen=True)
class Contender:
    """One way to do a piece of work.

    ``goals`` maps another contender's name to the largest allowed time over its, or to None where only the ratio is
    wanted. ``moves`` is the bytes that it reads and writes at least, ``tokens`` those that it computes, where a rate is
    wanted. ``context`` is entered around each call, and not timed.
    """

    name: str
    backend: str
    run: Callable[[], Any]
    goals: dict[str, float | None] = field(default_factory=dict)
    moves: int = 0
    tokens: int = 0
    context: Callable[[], AbstractContextManager[Any]] = nullcontext


@dataclass(frozen=True)
class Times:
    """By name, milliseconds of each contender round by round and the most bytes that a call of it held beyond what was
    held before; and why a contender that failed has neither."""

    rounds: dict[str, list[float]] = field(default_factory=dict)
    peaks: dict[str, int] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def median(self, name: str) -> float:
        return statistics.median(self.rounds[name])

    def name_fastest(self, alias: str, names: list[str]) -> None:
        """Let ``alias`` stand for the fastest of ``names``."""
        if timed := [name for name in names if name in self.rounds]:
            self.rounds[alias] = self.rounds[min(timed, key=self.median)]


class Clock:
    """Measures a call."""

    def __init__(self, scale: Scale) -> None:
        self.on_gpu = scale.on_gpu
        size = _FLUSHED // 4 if self.on_gpu else 4
        self.written, self.read = (torch.ones(size, device=scale.device) for _ in range(2))

    def time(self, run: Callable[[], Any], cold: bool = True) -> float:
        """Milliseconds of ``run``, with nothing of its arguments in the L2 cache if ``cold``."""
        if not self.on_gpu:
            start = time.perf_counter()
            run()
            return (time.perf_counter() - start) * 1e3
        if cold:
            # The write evicts all else; the read evicts what was written, which would else be written back in `run`.
            self.written.zero_()
            self.read.sum()
        # The GPU is kept busy while the call is issued, so that Python's own time does not count.
        torch.cuda._sleep(_BUSY)
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        run()
        end.record()
        end.synchronize()
        return start.elapsed_time(end)

    def peak(self, run: Callable[[], Any]) -> int:
        """The most bytes that ``run`` holds beyond what was held before; 0 on a CPU, where nobody counts them."""
        if not self.on_gpu:
            run()
            return 0
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before


def compete(clock: Clock, contenders: list[Contender], rounds: int, cold: bool = True) -> Times:
    """Milliseconds of each contender, in turns. One that fails when it is tried first is left out. An interrupt ends
    the rounds early."""
    times = Times()
    for contender in contenders:
        try:
            for _ in range(3 if cold else 1):
                with contender.context():
                    times.peaks[contender.name] = clock.peak(contender.run)
            times.rounds[contender.name] = []
        except Exception as error:
            times.failed[contender.name] = f"{type(error).__name__}: {error}"
    try:
        for _ in range(rounds):
            for contender in contenders:
                if contender.name in times.rounds:
                    with contender.context():
                        times.rounds[contender.name].append(clock.time(contender.run, cold))
    except KeyboardInterrupt:  # out of time: the whole rounds count, if there are enough to compare
        whole = min(map(len, times.rounds.values()), default=0)
        if whole < 2:
            raise
        for found in times.rounds.values():
            del found[whole:]
    return times


class Captured:
    """``run`` in the context ``within`` as a CUDA graph: the first call captures it, each replays it. On a CPU, which
    has no graphs, it is run as it is.

    What the context gives is kept as long as the graph, which may read tensors of it.
    """

    def __init__(
        self,
        scale: Scale,
        run: Callable[[], Any],
        within: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        self.on_gpu, self.run, self.within = scale.on_gpu, run, within
        self.graph: torch.cuda.CUDAGraph | None = None
        self.kept: Any = None

    def __call__(self) -> None:
        if not self.on_gpu:
            with self.within():
                self.run()
            return
        if self.graph is None:
            self.graph = self._capture()
        self.graph.replay()

    def _capture(self) -> torch.cuda.CUDAGraph:
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
        with self.within() as self.kept:
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                self.run()  # compiles
            torch.cuda.current_stream().wait_stream(stream)
            with torch.cuda.graph(graph):
                self.run()
        return graph

"""Fixtures of all benchmarks: the record of machine and versions, and the short table that ends a run.

A benchmark is one contender of a piece of work. Contenders of the same work form a group, are timed next to one
another in one run, and are compared by their fastest round, since other work on the machine only adds time.
"""

from __future__ import annotations

import platform
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import pytest
import torch
import transformers
from rich.console import Console
from rich.table import Table

import affectron
from affectron.ops.backends import native


@pytest.fixture
def contend(benchmark: Any, request: pytest.FixtureRequest) -> Any:
    """``contend(work, name, function, rounds, goals, others)`` times one contender of ``work``.

    ``goals`` maps the name of another contender of the same work to the largest allowed time of this one over that.
    ``others`` run, untimed, before each round: so every contender finds the caches and the heap that the same work
    leaves, and rounds of all contenders are mixed.
    """

    def run(
        work: str,
        name: str,
        function: Any,
        rounds: int,
        goals: dict[str, float] | None = None,
        others: Sequence[Any] = (),
    ) -> None:
        def setup() -> None:
            for other in others:
                other()

        benchmark.group = work
        benchmark.extra_info.update(contender=name, goals=goals or {})
        benchmark.pedantic(function, setup=setup, rounds=rounds, warmup_rounds=1)

    return run


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    machine_info["versions"] = {
        "affectron": affectron.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    machine_info["threads"] = torch.get_num_threads()
    machine_info["instruction_set"] = native.isa_level()
    machine_info.pop("node", None)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    session = getattr(config, "_benchmarksession", None)
    if session is None or not session.benchmarks:
        return
    works: dict[str, dict[str, Any]] = defaultdict(dict)
    for bench in session.benchmarks:
        works[bench.group][bench.extra_info["contender"]] = bench
    table = Table(title="affectron against what it replaces, fastest rounds of one run", title_justify="left")
    for column in ("work", "contender", "ms", "ratio", "goal"):
        table.add_column(column, justify="right" if column in ("ms", "ratio") else "left")
    for work, contenders in works.items():
        for name, bench in contenders.items():
            milliseconds = f"{bench.stats.min * 1e3:,.1f}"
            compared = [(other, goal) for other, goal in bench.extra_info["goals"].items() if other in contenders]
            if not compared:
                table.add_row(work, name, milliseconds, "", "")
            for other, goal in compared:
                ratio = bench.stats.min / contenders[other].stats.min
                met = "met" if ratio <= goal else "MISSED"
                table.add_row(work, name, milliseconds, f"{ratio:.3f}", f"<= {goal:.3g} x {other}: {met}")
    Console().print(table)

"""``make gpu`` without a GPU: time limits, what is kept, and how it ends."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "tools" / "gpu.py"


@pytest.fixture(scope="module")
def gpu() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tools_gpu", SCRIPT)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def call(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OUT": str(folder)}
    return subprocess.run([sys.executable, SCRIPT, *arguments], env=environment, capture_output=True, text=True)


def test_a_part_alone(tmp_path: Path) -> None:
    done = call(tmp_path, "--dry-run", "sanitize")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in done.stdout.splitlines()[-1]
    assert "each native op was called" in (tmp_path / "gpu.log").read_text()


def test_an_unknown_part_is_named(tmp_path: Path) -> None:
    done = call(tmp_path, "tests", "speed")
    assert done.returncode == 2
    assert done.stderr == (
        "error: part is 'speed', expected one of tests, ops, mlp, screen, attribution, decode, sanitize\n"
    )
    assert not list(tmp_path.iterdir())


def test_what_hangs_is_stopped_with_all_that_it_started(gpu: ModuleType, tmp_path: Path) -> None:
    run = gpu.Runner(tmp_path, 100)
    start = time.monotonic()
    outcome = run.step("hangs", ["bash", "-c", "sleep 87654 & echo begun; sleep 87654"], 5.5)
    assert time.monotonic() - start < 30
    assert outcome.verdict == "STOPPED before 6 s"
    assert outcome.output == "begun\n"
    assert "begun" in run.log.read_text()
    while running("sleep\x0087654"):
        assert time.monotonic() - start < 40


def test_what_runs_out_of_time_may_say_what_it_found(gpu: ModuleType, tmp_path: Path) -> None:
    work = "try:\n import time; time.sleep(60)\nexcept KeyboardInterrupt: print('1 failed')"
    outcome = gpu.Runner(tmp_path, 100).step("late", [sys.executable, "-c", work], 6)
    assert (outcome.verdict, outcome.output) == ("STOPPED before 6 s", "1 failed\n")


def running(command: str) -> bool:
    commands = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it ended meanwhile
            commands.append(path.read_bytes().decode(errors="replace"))
    return any(command in found for found in commands)


def test_what_fails_does_not_stop_the_rest_and_no_time_is_overrun(gpu: ModuleType, tmp_path: Path) -> None:
    run = gpu.Runner(tmp_path, 7)
    failed = run.step("fails", ["bash", "-c", "echo why; exit 3"], 60)
    assert failed.verdict == "FAILED with status 3"
    assert not failed.passed
    assert run.step("works", ["true"], 60).passed
    time.sleep(2.5)
    late = run.step("late", ["true"], 60)
    assert late.verdict == "not started: no time was left"


def test_goals_that_were_missed_come_first(gpu: ModuleType) -> None:
    output = """ops: 3 rows in 2 s, goals: 1 met, 1 missed
  copy of as many bytes     0.0066 ms   0.03 TB/s
  glu native                0.0391 ms   1.000 of copy   goal 1.053 met
  glu_stats native          0.0391 ms   1.200 of glu native   goal 1.050 MISSED
ops: NOT MEASURED, out of time: neuron_stats
"""
    assert gpu.goals(output) == [
        "ops: 3 rows in 2 s, goals: 1 met, 1 missed",
        "glu_stats native  0.0391 ms  1.200 of glu native  goal 1.050 MISSED",
        "ops: NOT MEASURED, out of time: neuron_stats",
        "glu native  0.0391 ms  1.000 of copy  goal 1.053 met",
    ]


def test_the_limits_fit_two_runs_of_290_seconds(gpu: ModuleType) -> None:
    limits = gpu.LIMITS
    assert limits["tests"] + limits["ops"] + limits["mlp"] <= 290 - 20  # the wheel is installed in less
    assert limits["screen"] + limits["decode"] + limits["attribution"] + limits["sanitize"] <= 290

"""The CPU kernels under ThreadSanitizer: no two threads touch the same memory, and the threads change no bit.

libgomp is not compiled for ThreadSanitizer, which does not see its barriers; openmp.cpp replaces it.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.cpu.programs import ENVIRONMENT, compile_program


@pytest.fixture(scope="module")
def races(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("g++ is absent")
    return compile_program(
        [compiler],
        ["-O0", "-g1", "-fopenmp", "-fsanitize=thread", "-DAFFECTRON_ISA=baseline"],
        ["races.cpp", "openmp.cpp"],
        tmp_path_factory.mktemp("races") / "program",
        ["-fsanitize=thread"],  # without -fopenmp, so that libgomp is not linked
    )


def run(program: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**ENVIRONMENT, "TSAN_OPTIONS": "halt_on_error=1"}
    return subprocess.run([program, *arguments], capture_output=True, text=True, env=environment, timeout=300)


def test_no_two_threads_touch_the_same_memory(races: Path) -> None:
    done = run(races)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "every kernel gives the bits of one thread\n"


def test_a_race_is_reported(races: Path) -> None:
    done = run(races, "fault")
    assert done.returncode != 0
    assert "ThreadSanitizer: data race" in done.stderr
    assert "accumulate.h" in done.stderr

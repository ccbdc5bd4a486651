"""The CPU kernels under ThreadSanitizer: no two threads touch the same memory, and the threads change no bit.

libgomp is not compiled for ThreadSanitizer, which does not see its barriers; openmp.cpp replaces it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
SOURCES = [*sorted((HERE.parents[1] / "csrc" / "cpu").glob("*.cpp")), *sorted(HERE.glob("*.cpp"))]
# A sanitizer that is preloaded into this process must not be loaded into these programs.
ENVIRONMENT = {key: value for key, value in os.environ.items() if key != "LD_PRELOAD"}


@pytest.fixture(scope="module")
def races(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("g++ is absent")
    folder = tmp_path_factory.mktemp("races")
    options = ["-std=c++17", "-O0", "-g1", "-fopenmp", "-fsanitize=thread", "-ffp-contract=off", "-Wno-unknown-pragmas"]
    compiling = [
        subprocess.Popen(
            [compiler, *options, "-DAFFECTRON_ISA=baseline", "-c", source, "-o", folder / f"{source.stem}.o"],
            env=ENVIRONMENT,
        )
        for source in SOURCES
    ]
    assert [process.wait() for process in compiling] == [0] * len(SOURCES)
    program = folder / "races"
    # Without -fopenmp, so that libgomp is not linked.
    subprocess.run([compiler, "-fsanitize=thread", *folder.glob("*.o"), "-o", program], check=True, env=ENVIRONMENT)
    return program


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

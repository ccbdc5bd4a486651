"""Programs of the CPU kernels and a main function of this folder, compiled by the tests that run them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
KERNELS = sorted((HERE.parents[1] / "csrc" / "cpu").glob("*.cpp"))
# A sanitizer that is preloaded into this process must not be loaded into these programs.
ENVIRONMENT = {key: value for key, value in os.environ.items() if key != "LD_PRELOAD"}
# Those that decide about bits are the ones of CMakeLists.txt.
OPTIONS = ("-std=c++17", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-Wno-unknown-pragmas")


def compile_program(
    compiler: Sequence[str], options: Sequence[str], sources: Sequence[str], folder: Path, linking: Sequence[str]
) -> Path:
    """Compile the kernels and ``sources`` of this folder, a process each, and link them with options of ``linking``."""
    folder.mkdir()
    compiling = [
        subprocess.Popen(
            [*compiler, *OPTIONS, *options, "-c", source, "-o", folder / f"{source.stem}.o"], env=ENVIRONMENT
        )
        for source in [*KERNELS, *(HERE / name for name in sources)]
    ]
    assert [process.wait() for process in compiling] == [0] * len(compiling)
    program = folder / "program"
    subprocess.run([*compiler, *folder.glob("*.o"), *linking, "-o", program], check=True, env=ENVIRONMENT)
    return program

"""The NEON kernels give the bits of the AVX2 kernels, and kernels without OpenMP those of three threads with it.

The NEON kernels are compiled for 64-bit ARM without OpenMP, by ``AARCH64_CXX`` or GCC's cross compiler, and run in
QEMU's emulator. The AVX2 kernels are compiled for this machine with OpenMP.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from affectron.ops.backends import native
from tests.cpu.programs import ENVIRONMENT, compile_program


def lines(command: list[str | Path]) -> list[str]:
    return subprocess.run(
        command, capture_output=True, text=True, check=True, env=ENVIRONMENT, timeout=300
    ).stdout.splitlines()


def test_neon_gives_the_bits_of_avx2(tmp_path: Path) -> None:
    cross = shlex.split(os.environ.get("AARCH64_CXX", "aarch64-linux-gnu-g++"))
    emulator = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
    for tool, found in (("g++", shutil.which("g++")), (cross[0], shutil.which(cross[0])), ("qemu-aarch64", emulator)):
        if found is None:
            pytest.skip(f"{tool} is absent")
    if "avx2" not in native.isa_levels():
        pytest.skip("this processor has no AVX2")
    # The kernels for AVX2 are chosen by -march; AFFECTRON_ISA is their namespace, which dispatch.cpp calls.
    avx2 = compile_program(
        ["g++"],
        ["-O1", "-fopenmp", "-march=x86-64-v3", "-mprfchw", "-DAFFECTRON_ISA=baseline"],
        ["bits.cpp"],
        tmp_path / "avx2",
        ["-fopenmp"],
    )
    neon = compile_program(
        cross, ["-O1", "-DAFFECTRON_ISA=neon", "-DAFFECTRON_NEON_LEVEL"], ["bits.cpp"], tmp_path / "neon", ["-static"]
    )
    expected = lines([avx2])
    assert len(expected) > 1500
    assert lines([str(emulator), neon]) == expected

"""Test the package with other versions of torch and transformers, and record the results in docs/compatibility.md.

Usage: ``python tools/matrix.py [TORCH:TRANSFORMERS ...]``, or ``make matrix`` for all of ``PAIRS``. The installed
native module serves all versions, since it does not link torch. Each release of torch has an environment in
build/matrix, which is removed when no test failed in it.
"""

from __future__ import annotations

import datetime
import os
import re
import shutil
import subprocess
import sys
import venv
from importlib.metadata import distribution
from itertools import groupby
from pathlib import Path

import affectron._native

# The oldest and the newest release of both, crosswise, and some between.
PAIRS = (
    "2.8.0:4.56.2",
    "2.8.0:5.24.0",
    "2.13.0:4.57.6",
    "2.13.0:5.0.0",
    "2.13.0:5.12.1",
    "2.15.0:4.56.2",
    "2.15.0:5.24.0",
)
#: The tests that build, load, read or change models of transformers, or register something with torch.
TESTS = tuple(f"tests/models/test_{name}.py" for name in ("attaching", "families", "load", "wrappers"))
TESTS += ("tests/models/discovery", "tests/ops/test_registration.py")
PACKAGES = [
    *("numpy", "rich", "safetensors", "scipy", "typer", "pytest", "hypothesis", "expecttest"),
    *("accelerate", "datasets", "peft", "protobuf", "pyarrow", "sentencepiece"),
]
ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build" / "matrix"
RECORD = ROOT / "docs" / "compatibility.md"
HEADER = """# Tested versions

`make matrix` runs the tests of sites, families, changed models, loading and op registration with each pair of versions
on the CPU. It writes the last result of each pair into this table. A test is skipped where a version lacks the family
that it builds, or where the environment lacks a package or hardware that it needs.

| torch | transformers | Python | passed | failed | on | skipped |
| --- | --- | --- | --- | --- | --- | --- |
"""


def main(pairs: list[str]) -> int:
    package = checkout()
    failed = 0
    for torch, cells in groupby(pairs or PAIRS, key=lambda pair: pair.partition(":")[0]):
        python = environment(torch)
        wrong = 0
        for pair in cells:
            row, failures = attempt(python, torch, pair.partition(":")[2], package)
            write(row)
            print(row, flush=True)
            wrong += failures
        if not wrong:
            shutil.rmtree(python.parents[1])
        failed += wrong
    return int(failed > 0)


def checkout() -> Path:
    """A folder to import the package from: the source of this checkout and the native module that is installed."""
    folder = BUILD / "package"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(ROOT / "python" / "affectron", folder / "affectron")
    shutil.copytree(ROOT / "kernels", folder / "affectron" / "kernels")
    shutil.copy(str(affectron._native.__file__), folder / "affectron")
    metadata = Path(str(distribution("affectron").locate_file(f"affectron-{affectron.__version__}.dist-info")))
    shutil.copytree(metadata, folder / metadata.name)
    return folder


def environment(torch: str) -> Path:
    """The Python of an environment with this release of torch, which is made if it does not exist."""
    folder = BUILD / f"torch-{torch}"
    python = folder / "bin" / "python"
    if not (folder / "installed").is_file():
        venv.create(folder, with_pip=True, clear=True)
        install(python, f"torch=={torch}")
        (folder / "installed").touch()
    return python


def install(python: Path, *packages: str) -> None:
    log = python.parents[1].with_suffix(".pip.log")
    with log.open("a") as out:
        done = subprocess.run([python, "-m", "pip", "install", *packages], stdout=out, stderr=out, check=False)
    if done.returncode:
        sys.exit(f"error: pip could not install {' '.join(packages)} (all of it: {log})")


def attempt(python: Path, torch: str, transformers: str, package: Path) -> tuple[str, int]:
    """Run the tests with these versions; return the row of the table and the number of failures."""
    install(python, f"torch=={torch}", f"transformers=={transformers}", *PACKAGES)
    path = {**os.environ, "PYTHONPATH": str(package)}
    command = [str(python), "-m", "pytest", *TESTS, "-p", "no:cacheprovider", "-rfEs"]
    done = subprocess.run(command, cwd=ROOT, env=path, capture_output=True, text=True, check=False)
    (BUILD / f"torch-{torch}-transformers-{transformers}.log").write_text(done.stdout + done.stderr)
    last = done.stdout.splitlines()[-1] if done.stdout else ""
    count = {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|error)", last)}
    # Without a last line that counts tests, they did not run: one failure.
    wrong = count.get("failed", 0) + count.get("error", 0) if "passed" in count else 1
    reasons: dict[str, int] = {}
    for number, reason in re.findall(r"^SKIPPED \[(\d+)\] \S+: (.*)$", done.stdout, re.MULTILINE):
        reasons[reason] = reasons.get(reason, 0) + int(number)
    skipped = "; ".join(f"{number}: {reason}" for reason, number in sorted(reasons.items())) or "none"
    version = subprocess.run([python, "-V"], capture_output=True, text=True, check=True).stdout.split()[1]
    today = datetime.date.today().isoformat()
    cells = (torch, transformers, version, count.get("passed", 0), wrong, today, skipped)
    return f"| {' | '.join(map(str, cells))} |", wrong


def write(row: str) -> None:
    """Put a pair's row into the table, in place of its previous row."""
    rows = RECORD.read_text().splitlines() if RECORD.is_file() else []
    found = {key(line): line for line in (*rows, row) if re.match(r"\| \d", line)}
    RECORD.write_text(HEADER + "\n".join(found[pair] for pair in sorted(found)) + "\n")


def key(row: str) -> tuple[tuple[int, ...], ...]:
    """The versions of torch and transformers in a row, as numbers."""
    return tuple(tuple(map(int, re.findall(r"\d+", cell))) for cell in row.split("|")[1:3])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

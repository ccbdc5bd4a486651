"""Try the package with other versions of torch and transformers, each pair in an environment of its own; the results go
into docs/compatibility.md.

Apart from the tests that it runs, which know one environment: ``python tests/matrix.py [TORCH:TRANSFORMERS ...]``, or
``make matrix`` for all pairs of ``PAIRS``. The environments stay in build/matrix, so that a second run is quick.
"""

from __future__ import annotations

import datetime
import os
import re
import subprocess
import sys
import venv
from pathlib import Path

# The oldest and the newest of both, and what lies between, crosswise.
PAIRS = (
    "2.8.0:4.56.2",
    "2.8.0:5.24.0",
    "2.9.1:4.57.6",
    "2.11.0:5.0.0",
    "2.13.0:5.12.1",
    "2.15.0:4.56.2",
    "2.15.0:5.24.0",
)
TESTS = ("tests/models", "tests/test_screening.py", "tests/test_corpus_forms.py", "tests/ops/test_registration.py")
ROOT = Path(__file__).resolve().parents[1]
RECORD = ROOT / "docs" / "compatibility.md"
HEADER = """# Versions that it was tried with

`make matrix` runs the tests of models, screening, corpora and op registration with each pair of versions, on the CPU,
and writes this table: the last result of each pair. A test skips where a version lacks the family or package it needs.

| torch | transformers | Python | passed | skipped | failed | on |
| --- | --- | --- | --- | --- | --- | --- |
"""


def main(pairs: list[str]) -> int:
    failed = 0
    for pair in pairs or PAIRS:
        torch, _, transformers = pair.partition(":")
        row, wrong = attempt(torch, transformers)
        failed += wrong
        write(row)
        print(row, flush=True)
    return int(failed > 0)


def attempt(torch: str, transformers: str) -> tuple[str, int]:
    """Make the environment where it is not there yet and run the tests: the row of the table, and how many failed."""
    folder = ROOT / "build" / "matrix" / f"torch-{torch}-transformers-{transformers}"
    python = folder / "bin" / "python"
    log = folder.with_name(f"{folder.name}.log")
    log.parent.mkdir(parents=True, exist_ok=True)
    if not (folder / "installed").is_file():
        venv.create(folder, with_pip=True, clear=True)
        packages = [f"torch=={torch}", f"transformers=={transformers}", "numpy", "scikit-build-core", "pybind11"]
        packages += ["cmake", "ninja", "pytest", "hypothesis", "expecttest", "rich", "safetensors", "scipy", "typer"]
        packages += ["accelerate", "datasets", "peft", "protobuf", "pyarrow", "sentencepiece"]
        install = [python, "-m", "pip", "install", "-q"]
        with log.open("w") as out:
            subprocess.run([*install, *packages], stdout=out, stderr=out, check=True)
            path = {**os.environ, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}
            native = [*install, "--no-build-isolation", "--no-deps", str(ROOT)]
            subprocess.run(native, stdout=out, stderr=out, check=True, env=path)
        (folder / "installed").touch()
    # The installed package, and the tests of this checkout: the native module links no torch.
    site = next((folder / "lib").glob("python*/site-packages/affectron"))
    subprocess.run(["cp", "-r", f"{ROOT / 'python' / 'affectron'}/.", str(site)], check=True)
    command = [python, "-m", "pytest", *TESTS, "-q", "-p", "no:cacheprovider", "-rf"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    log.write_text(done.stdout + done.stderr)
    count = dict.fromkeys(("passed", "skipped", "failed", "error"), 0)
    for number, word in re.findall(r"(\d+) (passed|skipped|failed|error)", done.stdout.splitlines()[-1]):
        count[word] += int(number)
    version = subprocess.run([python, "-V"], capture_output=True, text=True, check=True).stdout.split()[1]
    wrong = count["failed"] + count["error"]
    today = datetime.date.today().isoformat()
    row = f"| {torch} | {transformers} | {version} | {count['passed']} | {count['skipped']} | {wrong} | {today} |"
    return row, wrong


def write(row: str) -> None:
    """Put a pair's row into the table, in the place of its last one."""
    rows = {}
    if RECORD.is_file():
        rows = {tuple(line.split("|")[1:3]): line for line in RECORD.read_text().splitlines() if line.startswith("| 2")}
    rows[tuple(row.split("|")[1:3])] = row
    RECORD.parent.mkdir(exist_ok=True)
    ordered = sorted(
        rows.values(), key=lambda line: [int(n) for n in re.findall(r"\d+", "".join(line.split("|")[1:3]))]
    )
    RECORD.write_text(HEADER + "\n".join(ordered) + "\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Tests and benchmarks on a GPU that is there for minutes: ``make gpu``, described in docs/gpu.md.

Each part is a process of its own with a time limit, so that one that hangs or crashes costs its own time alone. All
output goes to gpu.log in the folder $OUT (build/gpu without it), a part's figures to a JSON file beside it as soon as
they are there, and a summary to the terminal, last. Needs nothing but Python before the package is installed.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WHEELS = ROOT / "build" / f"gpu{sys.version_info[0]}{sys.version_info[1]}"
# Seconds that a part may take at most. The tests and the first two benchmarks fit a run of 290 s, the others a second.
LIMITS = {"tests": 165, "ops": 65, "mlp": 35, "screen": 85, "attribution": 25, "decode": 100, "sanitize": 70}
SECONDS = 285  # for everything together
PARTS = tuple(LIMITS)
BENCHMARKS = tuple(part for part in PARTS if part not in ("tests", "sanitize"))
SHOWN = 30  # rows of a benchmark in the summary
FAREWELL = 10  # seconds of a limit that a process gets to say what it has found


@dataclass(frozen=True)
class Outcome:
    part: str
    seconds: float
    verdict: str  # "passed", or what went wrong
    output: str

    @property
    def passed(self) -> bool:
        return self.verdict == "passed"


class Run:
    """Processes one after another, within ``seconds`` in all."""

    def __init__(self, folder: Path, seconds: float) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / "gpu.log"
        self.log.write_text("")
        self.end = time.monotonic() + seconds
        # A shell lets what it starts in the background ignore the interrupt by which a part is told to end.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        # Compiled kernels and records lie where the next run on the same machine finds them.
        self.environment = {
            **os.environ,
            "OUT": str(folder),
            "PYTHONUNBUFFERED": "1",
            "TRITON_CACHE_DIR": os.environ.get("TRITON_CACHE_DIR", str(ROOT / "build" / "triton")),
        }

    def step(self, part: str, command: list[str], limit: float, **environment: str) -> Outcome:
        """Run ``command`` for ``limit`` seconds at most; its output goes to the log."""
        limit = min(limit, self.end - time.monotonic())
        if limit < 5:
            return Outcome(part, 0.0, "not started: no time was left", "")
        print(f"{part}: at most {limit:.0f} s", flush=True)
        start = time.monotonic()
        with self.log.open("a+") as log:
            log.write(f"\n=== {part}: {' '.join(command)}\n")
            log.flush()
            begin = log.tell()
            process = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, cwd=ROOT, env={**self.environment, **environment},
                start_new_session=True,
            )  # fmt: skip
            try:
                status = process.wait(max(limit - FAREWELL, limit / 2))
                verdict = "passed" if status == 0 else f"FAILED with status {status}"
            except subprocess.TimeoutExpired:
                verdict = f"STOPPED before {limit:.0f} s"
                process.send_signal(signal.SIGINT)  # pytest then prints what has failed
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(min(FAREWELL, limit / 2))
            finally:
                kill(process)
            log.seek(begin)
            output = log.read()
        return Outcome(part, time.monotonic() - start, verdict, output)


def kill(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()


def sources() -> str:
    """A hash of all that a wheel is built from."""
    files = [ROOT / "CMakeLists.txt", ROOT / "pyproject.toml"]
    for folder, pattern in (("csrc", "*.*"), ("kernels", "*.py"), ("python", "*.py")):
        files += sorted((ROOT / folder).rglob(pattern))
    found = hashlib.sha256()
    for file in files:
        found.update(f"{file.relative_to(ROOT)}\0".encode() + file.read_bytes())
    return found.hexdigest()


def install(run: Run) -> Outcome:
    """The wheel of ``make gpu-wheel`` where there is one of this Python and of these sources, else a build."""
    wheels, stamp = sorted(WHEELS.glob("*.whl")), WHEELS / "sources.sha256"
    fresh = bool(wheels) and stamp.is_file() and stamp.read_text().strip() == sources()
    if wheels and not fresh:
        print(f"{wheels[-1].name} was built from other sources: building anew", flush=True)
    what = ["--no-index", str(wheels[-1])] if fresh else ["--no-build-isolation", "."]
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--force-reinstall", *what]
    return run.step("install", command, 150, PIP_BREAK_SYSTEM_PACKAGES="1")


# What all parts need, in one line: without it each of them would fail in its own way.
CHECK = """
import torch, triton
from affectron import _native
assert torch.cuda.is_available(), "no CUDA device was found"
target = triton.runtime.driver.active.get_current_target()
print(torch.cuda.get_device_name(), target, "torch", torch.__version__, "triton", triton.__version__,
      "kernels of CUDA", _native.CUDA_TOOLKIT)
"""


def check(run: Run) -> Outcome:
    """Whether torch, Triton and the package find the GPU."""
    return run.step("device", [sys.executable, "-c", CHECK], 60)


def tests_command(dry_run: bool) -> list[str]:
    command = [sys.executable, "-m", "pytest", "tests/gpu", "-p", "no:cacheprovider", "-rfE", "--tb=short"]
    if not dry_run and importlib.util.find_spec("xdist"):
        # Compiling takes most of the time: as many processes as find work, all on one GPU.
        command += ["-n", str(max(1, min(12, (os.cpu_count() or 2) - 2))), "--dist", "worksteal"]
    if importlib.util.find_spec("pytest_timeout"):
        command += ["--timeout", "60", "--timeout-method", "thread"]
    return command


def sanitize(run: Run, limit: float, dry_run: bool) -> Outcome:
    """memcheck and racecheck over one small call of each native op."""
    calls = [sys.executable, "-m", "tests.gpu.each_op"]
    if dry_run:
        return run.step("sanitize", [*calls, "--dry-run"], limit)
    tool = shutil.which("compute-sanitizer")
    if tool is None:
        return Outcome("sanitize", 0.0, "not run: compute-sanitizer was not found", "")
    found = []
    for check, share in (("memcheck", 0.6), ("racecheck", 0.4)):
        command = [tool, "--tool", check, "--error-exitcode", "9", *calls]
        # Without the caching allocator every tensor has its own allocation, whose end is checked.
        found.append(run.step(f"sanitize ({check})", command, share * limit, PYTORCH_NO_CUDA_MEMORY_CACHING="1"))
    verdict = "; ".join(f"{o.part}: {o.verdict}" for o in found if not o.passed) or "passed"
    return Outcome("sanitize", sum(o.seconds for o in found), verdict, "".join(o.output for o in found))


def perform(run: Run, part: str, dry_run: bool) -> Outcome:
    if part == "sanitize":
        return sanitize(run, LIMITS[part], dry_run)
    if part == "tests":
        extra = {"AFFECTRON_REHEARSE": "1"} if dry_run else {}
        return run.step(part, tests_command(dry_run), LIMITS[part], **extra)
    # The benchmark stops starting new work before it is told to end.
    seconds = max(5.0, min(LIMITS[part], run.end - time.monotonic()) - FAREWELL - 5)
    command = [sys.executable, "benchmarks/gpu.py", "--only", part, "--seconds", f"{seconds:.0f}"]
    return run.step(part, [*command, "--dry-run"] if dry_run else command, LIMITS[part])


def goals(output: str) -> list[str]:
    """The lines of a benchmark about its goals, those that were missed first; the log and the JSON file have all."""
    lines = [re.sub(r"  +", "  ", line.strip()) for line in output.splitlines()]
    wanted = [line for line in lines if re.search(r"goal \d.* MISSED|FAILED|NOT MEASURED", line)]
    met = [line for line in lines if re.search(r"goal \d.* met", line)]
    return [*(line for line in lines if " rows in " in line), *(wanted + met)[:SHOWN]]


def summarise(outcomes: list[Outcome], log: Path) -> None:
    """Goals of the benchmarks, the tests that failed, and a line for each part, which stands last."""
    for outcome in outcomes:
        if outcome.part in BENCHMARKS:
            print(f"\n--- {outcome.part}", *goals(outcome.output), sep="\n")
    for outcome in outcomes:
        if not outcome.passed:
            lines = outcome.output.splitlines()
            failed = [line[:200] for line in lines if line.startswith(("FAILED", "ERROR"))]
            print(f"\n--- {outcome.part}", *(failed[:25] or lines[-12:]), sep="\n")
    print(f"\nall output: {log}")
    for outcome in outcomes:
        wanted = " passed" if outcome.part == "tests" else "kernels of CUDA"
        last = next((line for line in reversed(outcome.output.splitlines()) if wanted in line), "")
        print(f"{outcome.part:<12} {outcome.seconds:6.1f} s  {outcome.verdict}{': ' + last if last else ''}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all by default")
    parser.add_argument("--dry-run", action="store_true", help="on a CPU, at tiny sizes, with what is installed")
    parser.add_argument("--sources", action="store_true", help="print the hash that a wheel is compared by, and end")
    arguments = parser.parse_args()
    if arguments.sources:
        print(sources())
        return 0
    parts = arguments.parts or list(PARTS)
    if unknown := [part for part in parts if part not in PARTS]:
        parser.exit(2, f"error: part is {unknown[0]!r}, expected one of {', '.join(PARTS)}\n")
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it, and so would the parts
    run = Run(Path(os.environ.get("OUT") or ROOT / "build" / "gpu").resolve(), SECONDS)
    steps = [] if arguments.dry_run else [partial(install, run), partial(check, run)]
    steps += [partial(perform, run, part, arguments.dry_run) for part in parts]
    outcomes: list[Outcome] = []
    for step in steps:
        outcomes.append(step())
        if outcomes[-1].part in ("install", "device") and not outcomes[-1].passed:
            break
    summarise(outcomes, run.log)
    return 0 if all(outcome.passed for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())

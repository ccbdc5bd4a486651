"""Tests and benchmarks for a GPU that is available for minutes: ``make gpu``, described in docs/gpu.md.

Each part runs as a process with a time limit, so that a part that hangs or crashes costs only its own time. All output
goes to gpu.log in the folder $OUT (default: build/gpu). A part's measurements go to a JSON file beside it as soon as
they are taken, and a summary to the terminal at the end. Only Python is needed before the package is installed.
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
DIST = ROOT / "dist"
# Time limit of each part in seconds. The tests and the first two benchmarks fit into 290 s, the others into 290 s more.
LIMITS = {"tests": 165, "ops": 65, "mlp": 35, "screen": 85, "attribution": 35, "decode": 100, "sanitize": 70}
SECONDS = 285  # for everything together
PARTS = tuple(LIMITS)
BENCHMARKS = tuple(part for part in PARTS if part not in ("tests", "sanitize"))
SHOWN = 30  # rows of a benchmark in the summary
FAREWELL = 10  # seconds at the end of a limit in which an interrupted process prints its results


@dataclass(frozen=True)
class Outcome:
    part: str
    seconds: float
    verdict: str  # "passed", or what went wrong
    output: str

    @property
    def passed(self) -> bool:
        return self.verdict == "passed"


class Runner:
    """Runs processes one after another, within ``seconds`` in all."""

    def __init__(self, folder: Path, seconds: float) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / "gpu.log"
        self.log.write_text("")
        self.end = time.monotonic() + seconds
        # Processes that a shell starts in the background ignore SIGINT, and so would the parts, which are ended by it.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        # The cache of compiled kernels is kept for the next run on the same machine.
        self.environment = {
            **os.environ,
            "OUT": str(folder),
            "PYTHONUNBUFFERED": "1",
            "TRITON_CACHE_DIR": os.environ.get("TRITON_CACHE_DIR", str(ROOT / "build" / "triton")),
        }

    def step(self, part: str, command: list[str], limit: float, **environment: str) -> Outcome:
        """Run ``command`` for at most ``limit`` seconds, with its output in the log."""
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
                process.send_signal(signal.SIGINT)  # pytest then prints the failures
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(min(FAREWELL, limit / 2))
            finally:
                kill(process)
            log.seek(begin)
            output = log.read()
        return Outcome(part, time.monotonic() - start, verdict, output)


def kill(process: subprocess.Popen[bytes]) -> None:
    """End a process and all processes that it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()


def sources() -> str:
    """A hash of all files that a wheel is built from."""
    files = [ROOT / "CMakeLists.txt", ROOT / "pyproject.toml"]
    for folder, pattern in (("csrc", "*.*"), ("kernels", "*.py"), ("python", "*.py")):
        files += sorted((ROOT / folder).rglob(pattern))
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(ROOT)}\0".encode() + file.read_bytes())
    return digest.hexdigest()


def install(runner: Runner) -> Outcome:
    """Install the wheel of ``make wheel`` if it was built from these sources, else build the package."""
    wheels, stamp = sorted(DIST.glob("*.whl")), DIST / "sources.sha256"
    fresh = bool(wheels) and stamp.is_file() and stamp.read_text().strip() == sources()
    if wheels and not fresh:
        print(f"{wheels[-1].name} was built from other sources: building anew", flush=True)
    target = ["--no-index", str(wheels[-1])] if fresh else ["--no-build-isolation", "."]
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--force-reinstall", *target]
    return runner.step("install", command, 150, PIP_BREAK_SYSTEM_PACKAGES="1")


# Requirements of all parts, checked once: without them each part would fail in a different way.
CHECK = """
import torch, triton
from affectron import _native
assert torch.cuda.is_available(), "no CUDA device was found"
target = triton.runtime.driver.active.get_current_target()
print(torch.cuda.get_device_name(), target, "torch", torch.__version__, "triton", triton.__version__,
      "kernels of CUDA", _native.CUDA_TOOLKIT)
"""


def check(runner: Runner) -> Outcome:
    """Check that torch, Triton and the package find the GPU."""
    return runner.step("device", [sys.executable, "-c", CHECK], 60)


def tests_command(dry_run: bool) -> list[str]:
    command = [sys.executable, "-m", "pytest", "tests/gpu", "-p", "no:cacheprovider", "-rfE", "--tb=short"]
    if not dry_run and importlib.util.find_spec("xdist"):
        # Compiling takes most of the time, so that several processes on one GPU are faster.
        command += ["-n", str(max(1, min(12, (os.cpu_count() or 2) - 2))), "--dist", "worksteal"]
    if importlib.util.find_spec("pytest_timeout"):
        command += ["--timeout", "60", "--timeout-method", "thread"]
    return command


def sanitize(runner: Runner, limit: float, dry_run: bool) -> Outcome:
    """Run memcheck and racecheck over one small call of each native op."""
    calls = [sys.executable, "-m", "tests.gpu.each_op"]
    if dry_run:
        return runner.step("sanitize", [*calls, "--dry-run"], limit)
    tool = shutil.which("compute-sanitizer")
    if tool is None:
        return Outcome("sanitize", 0.0, "not run: compute-sanitizer was not found", "")
    outcomes = []
    for check, share in (("memcheck", 0.6), ("racecheck", 0.4)):
        command = [tool, "--tool", check, "--error-exitcode", "9", *calls]
        # Without the caching allocator every tensor has its own allocation, and reads beyond its end are found.
        outcomes.append(runner.step(f"sanitize ({check})", command, share * limit, PYTORCH_NO_CUDA_MEMORY_CACHING="1"))
    verdict = "; ".join(f"{o.part}: {o.verdict}" for o in outcomes if not o.passed) or "passed"
    return Outcome("sanitize", sum(o.seconds for o in outcomes), verdict, "".join(o.output for o in outcomes))


def perform(runner: Runner, part: str, dry_run: bool) -> Outcome:
    """Run one part."""
    if part == "sanitize":
        return sanitize(runner, LIMITS[part], dry_run)
    if part == "tests":
        extra = {"AFFECTRON_REHEARSE": "1"} if dry_run else {}
        return runner.step(part, tests_command(dry_run), LIMITS[part], **extra)
    # The benchmark starts no new work shortly before the limit.
    seconds = max(5.0, min(LIMITS[part], runner.end - time.monotonic()) - FAREWELL - 5)
    command = [sys.executable, "benchmarks/gpu.py", "--only", part, "--seconds", f"{seconds:.0f}"]
    return runner.step(part, [*command, "--dry-run"] if dry_run else command, LIMITS[part])


def goals(output: str) -> list[str]:
    """The lines of a benchmark's output about its goals, missed goals first, at most SHOWN."""
    lines = [re.sub(r"  +", "  ", line.strip()) for line in output.splitlines()]
    wanted = [line for line in lines if re.search(r"goal \d.* MISSED|FAILED|NOT MEASURED", line)]
    met = [line for line in lines if re.search(r"goal \d.* met", line)]
    return [*(line for line in lines if " rows in " in line), *(wanted + met)[:SHOWN]]


def summarise(outcomes: list[Outcome], log: Path) -> None:
    """Print the goals of the benchmarks, the tests that failed, and at the end a line for each part."""
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
    signal.signal(signal.SIGINT, signal.default_int_handler)  # as in Runner: a background job ignores it
    runner = Runner(Path(os.environ.get("OUT") or ROOT / "build" / "gpu").resolve(), SECONDS)
    steps = [] if arguments.dry_run else [partial(install, runner), partial(check, runner)]
    steps += [partial(perform, runner, part, arguments.dry_run) for part in parts]
    outcomes: list[Outcome] = []
    for step in steps:
        outcomes.append(step())
        if outcomes[-1].part in ("install", "device") and not outcomes[-1].passed:
            break
    summarise(outcomes, runner.log)
    return 0 if all(outcome.passed for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())

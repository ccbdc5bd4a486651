"""Try the wheel of dist/ on every Python at hand, with the oldest and with the newest versions of what it depends on.

Each pair of a Python and a set of versions has an empty environment in build/wheels. There README's install line is
followed, no package is compiled, tools/wheel_smoke.py is run, then the demo in an empty folder. Usage: ``make wheels``,
or ``python -m tools.wheels [3.12 ...]`` for some Pythons only. An environment without failures is removed.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build" / "wheels"
EXTRAS = ("chat", "data", "report")  # those of README's install line
#: How uv is to choose what the wheel depends on. What that depends on in turn is the newest in either case.
VERSIONS = {"oldest": "lowest-direct", "newest": "highest"}
# Prints the versions that the summary shows.
SHOWN = """
from importlib.metadata import version
print(*(f"{name} {version(name)}" for name in ("torch", "transformers", "numpy")), sep=", ")
"""


def main(chosen: list[str]) -> int:
    [wheel] = sorted((ROOT / "dist").glob("*.whl"))
    failed = 0
    for minor in chosen or supported():
        python = interpreter(minor)
        if python is None:
            print(f"Python {minor}: not tried, since there is none on this machine", flush=True)
            continue
        for name, resolution in VERSIONS.items():
            verdict, versions = attempt(wheel, python, resolution, BUILD / f"{minor}-{name}")
            print(f"Python {minor}, {name} versions ({versions}): {verdict}", flush=True)
            failed += verdict != "passed"
    return int(failed > 0)


def supported() -> list[str]:
    """The Pythons that the classifiers of pyproject.toml name."""
    return re.findall(r'"Programming Language :: Python :: (3\.\d+)"', (ROOT / "pyproject.toml").read_text())


def interpreter(minor: str) -> Path | None:
    """A Python of this version that works: on the path, of pyenv, or where the images for Linux wheels have it."""
    for python in candidates(minor):
        check = f"import sys; sys.exit(sys.version_info[:2] != ({minor.replace('.', ',')}))"
        if subprocess.run([python, "-c", check], capture_output=True, check=False).returncode == 0:
            return python
    return None


def candidates(minor: str) -> Iterator[Path]:
    if found := shutil.which(f"python{minor}"):
        yield Path(found)
    yield from sorted(Path.home().glob(f".pyenv/versions/{minor}.*/bin/python{minor}"), reverse=True)
    tag = f"cp{minor.replace('.', '')}"
    yield from Path("/opt/python").glob(f"{tag}-{tag}/bin/python")


def dependencies(wheel: Path) -> list[str]:
    """The requirements of the wheel and its extras. uv applies the resolution only to packages asked for by name."""
    with zipfile.ZipFile(wheel) as archive:
        [metadata] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        lines = archive.read(metadata).decode().splitlines()
    required = [Requirement(line.partition(":")[2]) for line in lines if line.startswith("Requires-Dist:")]
    extras = [f'extra == "{extra}"' for extra in EXTRAS]
    return [f"{need.name}{need.specifier}" for need in required if need.marker is None or str(need.marker) in extras]


def attempt(wheel: Path, python: Path, resolution: str, folder: Path) -> tuple[str, str]:
    """Install and try the wheel in an environment of its own; return the verdict and the versions installed."""
    log = folder.with_name(f"{folder.name}.log")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    log.unlink(missing_ok=True)
    environment = folder / "environment"
    inside = environment / "bin" / "python"
    install: list[str | Path] = ["uv", "pip", "install", "--python", inside, "--only-binary", ":all:"]
    steps: dict[str, list[str | Path]] = {
        "no environment": ["uv", "venv", "-q", "--no-project", "--python", python, environment],
        "NOT INSTALLED": [*install, "--resolution", resolution, f"{wheel}[{','.join(EXTRAS)}]", *dependencies(wheel)],
        "FAILED the smoke test": [inside, ROOT / "tools" / "wheel_smoke.py"],
        "FAILED in the demo": [environment / "bin" / "affectron", "demo"],
    }
    versions = "none"
    for failure, command in steps.items():
        with log.open("a") as out:
            if subprocess.run(command, cwd=folder, stdout=out, stderr=out, check=False).returncode:
                return f"{failure} ({log.relative_to(ROOT)})", versions
        if failure == "NOT INSTALLED":
            versions = subprocess.run([inside, "-c", SHOWN], capture_output=True, text=True, check=True).stdout.strip()
    shutil.rmtree(folder)
    return "passed", versions


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""The layers of the package: which part may import which, and that nothing is imported in a circle."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import affectron

PACKAGE = Path(affectron.__file__).parent
KERNELS = Path(affectron.__file__).parents[2] / "kernels"

#: The parts from the bottom up; each may import those above it in this list, but for what ``BESIDE`` says.
LAYERS = (
    ("errors",),
    ("_internal",),
    ("stats", "contrasts", "formulas", "scores"),
    ("options",),
    ("neurons", "selection", "interventions"),
    ("corpus",),
    ("_native", "kernels", "ops"),
    ("models",),
    ("generation", "screening"),
    ("evaluation",),
    ("attribution",),
    ("experiments",),
    ("report",),
    ("runs",),
    ("demo",),
    ("chat",),
    ("cli", "lm_eval"),
    ("__main__",),
)
#: Of a part that reads what others leave: the only modules of the layers below it that it may import.
READS = {
    "report": (
        *("errors", "_internal", "options", "stats", "scores", "neurons", "selection"),
        *("evaluation.verdicts", "experiments.results"),
    )
}
#: What loads neither torch nor transformers.
LIGHT = (
    "errors",
    "options",
    "stats",
    "scores",
    "neurons",
    "selection",
    "interventions",
    "experiments.results",
    "report",
)


def modules() -> dict[str, Path]:
    """Name without ``affectron.`` -> file, of every module."""
    found = {path.relative_to(PACKAGE).with_suffix("").as_posix(): path for path in PACKAGE.rglob("*.py")}
    found |= {f"kernels/{path.stem}": path for path in KERNELS.glob("*.py")}
    return {
        name.removesuffix("/__init__").replace("/", "."): path for name, path in found.items() if name != "__init__"
    }


MODULES = modules()


def imports(source: str, package: str = "") -> Iterator[str]:
    """The modules of the package that a source imports, wherever the import stands, without ``affectron.``.

    ``package`` is what a relative import is relative to.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            home = f"affectron.{package}{f'.{node.module}' if node.module else ''}" if node.level else node.module
            names = [f"{home}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            inner = name.removeprefix("affectron.")
            if inner in affectron.HOMES:
                yield affectron.HOMES[inner]
            elif inner != name and inner != "__version__":
                yield inner if inner in MODULES or inner.startswith("_native") else inner.rpartition(".")[0] or inner


def against_the_layers(module: str, source: str) -> list[str]:
    """The imports of a module that its layer may not have."""
    level = {part: number for number, parts in enumerate(LAYERS) for part in parts}
    part = module.partition(".")[0]
    wrong = []
    for target in imports(source, part):
        other = target.partition(".")[0]
        if other == part:
            continue
        allowed = level[other] <= level[part]
        if part in READS:
            allowed = any(target == name or target.startswith(f"{name}.") for name in READS[part])
        if not allowed:
            wrong.append(target)
    return wrong


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_go_down(module: str) -> None:
    assert against_the_layers(module, MODULES[module].read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("module", "source", "target"),
    [
        ("ops.glu", "from affectron.models import attach", "models"),
        ("models.load", "def f():\n    from affectron.screening.screen import screen", "screening.screen"),
        ("report.page", "import affectron.evaluation.exam", "evaluation.exam"),
        ("report.page", "from affectron import runs", "runs"),
        ("_internal.files", "if TYPE_CHECKING:\n    from affectron.corpus import Sentence", "corpus"),
    ],
)
def test_an_import_against_the_layers_is_found(module: str, source: str, target: str) -> None:
    assert against_the_layers(module, source) == [target]


def test_nothing_is_imported_in_a_circle() -> None:
    graph = {
        name: {
            target
            for target in imports(path.read_text(encoding="utf-8"), name.partition(".")[0])
            if target in MODULES and target != name
        }
        for name, path in MODULES.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@pytest.mark.parametrize("module", LIGHT)
def test_light_modules_load_neither_torch_nor_transformers(module: str) -> None:
    code = f"import affectron.{module}, sys\nsys.exit(bool({{'torch', 'transformers'}} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0


@pytest.mark.parametrize("module", ["affectron.cli.app", "affectron.report"])
def test_what_an_extra_brings_is_imported_when_it_is_used(module: str) -> None:
    extras = ["datasets", "jinja2", "lm_eval", "matplotlib", "pandas", "pyarrow", "starlette", "uvicorn"]
    code = f"import sys\nsys.modules.update(dict.fromkeys({extras}))\nimport {module}"
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0

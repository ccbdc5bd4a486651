"""The layers of the package: which part may import which, and that nothing is imported in a circle."""

from __future__ import annotations

import ast
import re
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
    ("cli", "lm_eval", "vllm"),
    ("__main__",),
)
#: Of a part that reads what others leave: the only other modules that it may import.
_READ = ("errors", "_internal", "options", "stats", "scores", "neurons", "selection", "evaluation.verdicts")
READS = {"experiments.results": _READ, "report": (*_READ, "experiments.results")}
#: Parts that load neither torch nor transformers, in none of their modules and functions.
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
HEAVY = r"^ *(import|from) (torch|transformers)\b"


def modules() -> dict[str, Path]:
    """Name without ``affectron.`` -> file, of every module."""
    found = {path.relative_to(PACKAGE).with_suffix("").as_posix(): path for path in PACKAGE.rglob("*.py")}
    found |= {f"kernels/{path.stem}": path for path in KERNELS.glob("*.py")}
    return {
        name.removesuffix("/__init__").replace("/", "."): path for name, path in found.items() if name != "__init__"
    }


MODULES = modules()


def within(module: str, part: str) -> bool:
    """Tell whether a module is ``part`` or in it."""
    return f"{module}.".startswith(f"{part}.")


def imports(module: str, source: str) -> Iterator[str]:
    """Modules of the package that a source uses, without ``affectron.``, wherever the import stands.

    Those of names that it takes from the package itself count too, as in ``import affectron; affectron.screen``.
    """
    tree = ast.parse(source)
    home = ["affectron", *module.split(".")]
    if MODULES[module].name != "__init__.py":
        home.pop()
    names, aliases = [], set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names if alias.name != "affectron"]
            aliases |= {alias.asname or "affectron" for alias in node.names if alias.name == "affectron"}
        elif isinstance(node, ast.ImportFrom):
            above = home[: len(home) + 1 - node.level] if node.level else []
            names += [".".join([*above, *filter(None, [node.module]), alias.name]) for alias in node.names]
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in aliases:
            names.append(f"affectron.{node.attr}")
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
    reader = next((reader for reader in READS if within(module, reader)), None)
    wrong = []
    for target in imports(module, source):
        if reader is not None:
            allowed = any(within(target, name) for name in (reader, *READS[reader]))
        else:
            allowed = level[target.partition(".")[0]] <= level[part]
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
        ("report.page", "from ..runs import engine", "runs.engine"),
        ("report", "from .. import runs", "runs"),
        (
            "experiments.results.findings",
            "from affectron.experiments.validation import validate",
            "experiments.validation",
        ),
        ("experiments.results.findings", "from ..validation import validate", "experiments.validation"),
        ("stats", "import affectron\naffectron.screen()", "screening.screen"),
        ("stats", "def f():\n    import affectron as package\n    package.models.find_sites()", "models"),
        ("_internal.files", "if TYPE_CHECKING:\n    from affectron.corpus import Sentence", "corpus"),
    ],
)
def test_an_import_against_the_layers_is_found(module: str, source: str, target: str) -> None:
    assert against_the_layers(module, source) == [target]


def test_nothing_is_imported_in_a_circle() -> None:
    graph = {
        name: {
            target for target in imports(name, path.read_text(encoding="utf-8")) if target in MODULES and target != name
        }
        for name, path in MODULES.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@pytest.mark.parametrize("part", LIGHT)
def test_light_parts_load_neither_torch_nor_transformers(part: str) -> None:
    found = {module: path for module, path in MODULES.items() if within(module, part)}
    heavy = [name for name, path in found.items() if re.search(HEAVY, path.read_text(encoding="utf-8"), re.MULTILINE)]
    assert heavy == []
    modules = ", ".join(f"affectron.{module}" for module in (part, *found))
    code = f"import sys, {modules}\nsys.exit(bool({{'torch', 'transformers'}} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0


@pytest.mark.parametrize("module", ["affectron.cli.app", "affectron.report"])
def test_what_an_extra_brings_is_imported_when_it_is_used(module: str) -> None:
    extras = ["datasets", "jinja2", "lm_eval", "matplotlib", "pandas", "pyarrow", "starlette", "uvicorn"]
    code = f"import sys\nsys.modules.update(dict.fromkeys({extras}))\nimport {module}"
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0

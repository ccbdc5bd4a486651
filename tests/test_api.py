"""Public names of the package, and the modules that an import loads."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import affectron
from tests.support import golden


@pytest.mark.parametrize("name", affectron.__all__)
def test_every_name_is_there(name: str) -> None:
    assert getattr(affectron, name) is not None
    assert name in dir(affectron)


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse(Path(affectron.__file__).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.name for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert seen == set(affectron.__all__) - {"__version__"}


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'affectron' has no attribute 'scren'"):
        affectron.scren  # noqa: B018


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import affectron", "torch"),
        ("import affectron; affectron.ops.glu", "transformers"),
        ("import affectron; affectron.Program", "huggingface_hub"),
    ],
)
def test_importing_loads_no_more_than_is_used(statement: str, absent: str) -> None:
    code = f"{statement}\nimport sys\nsys.exit({absent!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0


#: The modules whose names are public beside those of the package itself.
PUBLIC = ("affectron", "affectron.ops", "affectron.models", "affectron.runs", "affectron.demo")


def described(name: str, value: object) -> str:
    if not callable(value) or inspect.isclass(value):
        return f"{name}\n"
    return f"{name}({', '.join(inspect.signature(value).parameters)})\n"


def test_public_names_and_their_parameters_are_those_of_the_golden_file() -> None:
    lines = []
    for home in map(import_module, PUBLIC):
        for name in sorted(home.__all__):
            value = getattr(home, name)
            lines.append(described(f"{home.__name__}.{name}", value))
            if inspect.isclass(value):
                owners = [owner for owner in value.__mro__ if owner.__module__.startswith("affectron")]
                members = sorted({member for owner in owners for member in vars(owner) if not member.startswith("_")})
                lines += [described(f"{home.__name__}.{name}.{member}", getattr(value, member)) for member in members]
    golden.compare("public-names.txt", "".join(lines))

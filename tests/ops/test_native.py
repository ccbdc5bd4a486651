"""The compiled module as Python calls it: names of arguments, and values that it cannot read."""

from __future__ import annotations

import ast
from inspect import signature
from pathlib import Path

import pytest

from affectron import _native, ops

STUB = Path(ops.__file__).parents[1] / "_native.pyi"


def test_functions_take_the_arguments_of_the_stub():
    functions = {node.name: node for node in ast.parse(STUB.read_text()).body if isinstance(node, ast.FunctionDef)}
    assert functions.keys() >= {name for name, value in vars(_native).items() if callable(value) and name.islower()}
    for name, node in functions.items():
        if name.startswith("cuda_") and not _native.CUDA_BUILT:
            continue
        parameters = signature(getattr(_native, name)).parameters
        assert list(parameters) == [argument.arg for argument in node.args.posonlyargs], name


@pytest.mark.parametrize(
    "wrong",
    [
        {"out": (0,)},
        {"gate": [0, 0]},
        {"shape": (0, 0, 0)},
        {"up": (0, "none")},
        {"dtype": None},
        {"threads": 1.5},
        {"act": 2**70},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_a_value_that_cannot_be_read_is_a_type_error(wrong):
    """The call has no rows, so that it touches no memory."""
    arguments = {"out": (0, 0), "gate": (0, 0), "up": (0, 0), "shape": (0, 0), "dtype": 0, "act": 0, "threads": 1}
    _native.glu(*arguments.values())
    place = list(arguments).index(*wrong) + 1
    with pytest.raises(TypeError, match=f"argument {place} has the wrong type"):
        _native.glu(*{**arguments, **wrong}.values())
    with pytest.raises(TypeError, match="expected 7 arguments, got 6"):
        _native.glu(*list(arguments.values())[:-1])

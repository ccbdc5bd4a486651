"""The compiled module as Python calls it: names of arguments, and values that it cannot read."""

from __future__ import annotations

import ast
import re
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
        signature = getattr(_native, name).__doc__.splitlines()[0]
        assert re.findall(r"(\w+): ", signature) == [argument.arg for argument in node.args.args], signature


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
    _native.glu(**arguments)
    with pytest.raises(TypeError, match="incompatible function arguments"):
        _native.glu(**{**arguments, **wrong})

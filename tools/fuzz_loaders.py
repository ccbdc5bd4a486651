"""A coverage-guided fuzzer of the loaders (libFuzzer by atheris): ``make fuzz``. The first byte says which loader.

Options are libFuzzer's, as ``-max_total_time=600``. What it finds is written to a file that, given as an argument,
runs again.
"""

from __future__ import annotations

import inspect
import sys
import tempfile
from pathlib import Path
from types import FunctionType, ModuleType

import atheris

from tools.fuzzing import LOADERS, check, seed

KINDS = sorted(LOADERS)
FOLDER = Path(tempfile.mkdtemp(prefix="affectron-fuzz-"))


def instrument(module: ModuleType) -> None:
    """Watch the branches of a module's functions: atheris' own hook misses a package that is installed in place."""
    classes = [one for one in vars(module).values() if inspect.isclass(one) and one.__module__ == module.__name__]
    for owner in [module, *classes]:
        for value in vars(owner).values():
            function = getattr(value, "__func__", value)  # of a class or static method
            if isinstance(function, FunctionType) and function.__module__ == module.__name__:
                atheris.instrument_func(function)


def one(data: bytes) -> None:
    if data:
        check(KINDS[data[0] % len(KINDS)], data[1:], FOLDER)


def main() -> None:
    corpus = FOLDER / "corpus"
    corpus.mkdir()
    for number, kind in enumerate(KINDS):
        data = seed(kind, FOLDER)
        check(kind, data, FOLDER)  # imports what it needs
        (corpus / kind).write_bytes(bytes([number]) + data)
    for name, module in list(sys.modules.items()):
        if name.startswith("affectron."):
            instrument(module)
    atheris.Setup([*sys.argv, str(corpus)], atheris.instrument_func(one))
    atheris.Fuzz()


if __name__ == "__main__":
    main()

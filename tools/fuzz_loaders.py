"""A coverage-guided fuzzer of the loaders (libFuzzer by atheris): ``make fuzz``. The first byte chooses the loader.

The options are those of libFuzzer, such as ``-max_total_time=600``. An input that fails is written to a file; with this
file as an argument, it runs again.
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
    """Watch the branches of a module's functions. The hook of atheris misses a package that is installed in place."""
    classes = [
        value for value in vars(module).values() if inspect.isclass(value) and value.__module__ == module.__name__
    ]
    for owner in [module, *classes]:
        for value in vars(owner).values():
            function = getattr(value, "__func__", value)  # of a class or static method
            if isinstance(function, FunctionType) and function.__module__ == module.__name__:
                atheris.instrument_func(function)


def check_input(data: bytes) -> None:
    """Check one input of the fuzzer."""
    if data:
        check(KINDS[data[0] % len(KINDS)], data[1:], FOLDER)


def main() -> None:
    corpus = FOLDER / "corpus"
    corpus.mkdir()
    for number, kind in enumerate(KINDS):
        data = seed(kind, FOLDER)
        check(kind, data, FOLDER)  # imports the modules that are to be watched
        (corpus / kind).write_bytes(bytes([number]) + data)
    for name, module in list(sys.modules.items()):
        if name.startswith("affectron."):
            instrument(module)
    atheris.Setup([*sys.argv, str(corpus)], atheris.instrument_func(check_input))
    atheris.Fuzz()


if __name__ == "__main__":
    main()

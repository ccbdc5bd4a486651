"""The check of what the plug-in relies on inside vLLM."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from affectron.vllm import internals
from affectron.vllm.internals import Unsupported

EVERYTHING = {**internals.EVERYWHERE, **internals.FRONT_END, **internals.WORKER}


def refusal(call: Any) -> str:
    with pytest.raises(Unsupported) as error:
        call()
    text = str(error.value)
    assert "\n" not in text
    return text


def test_what_is_relied_on_is_there(vllm: Any) -> None:
    internals.check(EVERYTHING)


@pytest.mark.parametrize("path", EVERYTHING)
def test_a_missing_module_is_named_with_the_version(path: str, vllm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, path.partition(":")[0])
    told = refusal(lambda: internals.check({path: EVERYTHING[path]}))
    assert told.startswith(f"affectron cannot steer vLLM 0.32.0: {path.replace(':', '.')} is missing (No module named")


@pytest.mark.parametrize("path", EVERYTHING)
def test_a_missing_name_is_named_with_the_version(path: str, vllm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    module, _, name = path.partition(":")
    monkeypatch.delattr(sys.modules[module], name.partition(".")[0])
    told = refusal(lambda: internals.check({path: EVERYTHING[path]}))
    assert told.startswith(f"affectron cannot steer vLLM 0.32.0: {path.replace(':', '.')} is missing (module ")


@pytest.mark.parametrize("path", [path for path, parameters in EVERYTHING.items() if parameters])
def test_a_missing_parameter_is_named_with_the_version(path: str, vllm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    module, _, names = path.partition(":")
    owner, _, name = names.rpartition(".")
    there = sys.modules[module]
    monkeypatch.setattr(getattr(there, owner) if owner else there, name, lambda renamed: None)
    missing = EVERYTHING[path][0]
    assert refusal(lambda: internals.check(EVERYTHING)) == (
        f"affectron cannot steer vLLM 0.32.0: the parameter {missing} of {path.replace(':', '.')} is missing "
        "(it has renamed)"
    )


@pytest.mark.parametrize("version", ["0.31.9", "0.33.0", "0.33.0rc1", "1.0"])
def test_another_version_is_refused(version: str, vllm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["vllm"], "__version__", version)
    told = refusal(lambda: internals.check({}))
    assert told == f"affectron does not know vLLM {version}, expected a version {internals.supported()}"


@pytest.mark.parametrize("version", ["0.32.0", "0.32.7", "0.32.0+cpu", "0.32.1.dev3+gabcdef"])
def test_versions_of_the_extra_are_supported(version: str, vllm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["vllm"], "__version__", version)
    internals.check({})


def test_attributes_are_found_at_dotted_paths() -> None:
    owner = SimpleNamespace(part=SimpleNamespace(value=0))
    assert internals.has(owner, ["part", "part.value"])
    assert not internals.has(owner, ["part", "part.other"])
    assert internals.value(owner, "part.value") == 0


def test_a_missing_attribute_is_named_with_the_version(vllm: Any) -> None:
    told = refusal(lambda: internals.value(SimpleNamespace(part=3), "part.value"))
    assert told.startswith("affectron cannot steer vLLM 0.32.0: SimpleNamespace.part.value is missing (")


def test_a_wrapper_takes_the_place_of_a_method(vllm: Any) -> None:
    path = "vllm.v1.engine.core:EngineCore.preprocess_add_request"
    internals.wrap(path, lambda method: lambda self, request: (method(self, request), "wrapped"))
    assert vllm.EngineCore({}, lambda config: [], False).preprocess_add_request(3) == ((3, 0), "wrapped")

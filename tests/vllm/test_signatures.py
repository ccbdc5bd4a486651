"""The fakes against the real vLLM, where it is installed: a call that suits a fake suits what it stands for."""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path
from typing import Any

import pytest

from affectron.vllm import limits, runners
from affectron.vllm.internals import find
from tests.support.errors import message
from tests.vllm import fakes

pytest.importorskip("vllm")

#: "module:name" of vLLM -> what stands for it.
FAKES: dict[str, Any] = {
    **{f"{module}:{part.__name__}": part for module, parts in fakes.MODULES.items() for part in parts},
    "vllm.sampling_params:SamplingParams": fakes.SamplingParams,
    "vllm.pooling_params:PoolingParams": fakes.PoolingParams,
}
METHODS = {
    f"{path}.{name}": (path, name)
    for path, fake in FAKES.items()
    for name, method in vars(fake).items()
    if inspect.isfunction(method) and name not in ("__init__", "__eq__", "__repr__", "forward")
}
RUNNERS = {
    fakes.RunnerV1: ("vllm.v1.worker.gpu_model_runner:GPUModelRunner", runners._V1),
    fakes.RunnerV2: ("vllm.v1.worker.gpu.model_runner:GPUModelRunner", runners._V2),
}


def same(fake: Any, real: Any) -> bool:
    """Return whether each parameter of the fake is one of the real's, of the same kind."""
    ours, theirs = (inspect.signature(one).parameters for one in (fake, real))
    return {name: one.kind for name, one in ours.items()} == {
        name: one.kind for name, one in theirs.items() if name in ours
    }


@pytest.mark.parametrize("path", FAKES)
def test_functions_and_classes_take_the_same_arguments(path: str) -> None:
    assert same(FAKES[path], find(path))


@pytest.mark.parametrize("path", METHODS)
def test_methods_take_the_same_arguments(path: str) -> None:
    owner, name = METHODS[path]
    fake, real = getattr(FAKES[owner], name), getattr(find(owner), name)
    assert same(fake, real)
    given = inspect.signature(fake).parameters
    assert not [
        name
        for name, one in inspect.signature(real).parameters.items()
        if name not in given and one.default is one.empty and one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)
    ]


@pytest.mark.parametrize("fake", RUNNERS)
def test_runners_have_the_same_methods(fake: type) -> None:
    path, relied = RUNNERS[fake]
    methods = [name for name in (*runners._COMMON, *relied) if inspect.isfunction(getattr(fake, name, None))]
    assert len(methods) > 3
    for name in methods:
        assert same(getattr(fake, name), getattr(find(path), name)), name


def test_the_usual_configuration_has_what_is_read_and_is_served(folders: dict[str, Path]) -> None:
    arguments = find("vllm.engine.arg_utils:EngineArgs")
    config = arguments(model=str(folders["llama"]), skip_tokenizer_init=True, max_model_len=32).create_engine_config()
    limits.check_config(config)
    assert type(limits.optimistic(config)) is bool
    config.parallel_config.prefill_context_parallel_size = 2
    assert message(lambda: limits.check_config(config)).startswith("parallel_config.prefill_context_parallel_size is 2")


def test_a_configuration_with_drafts_has_what_is_read() -> None:
    fields = {field.name for field in dataclasses.fields(find("vllm.config:SpeculativeConfig"))}
    assert limits._ADAPTIVE.rpartition(".")[2] in fields


def test_an_error_of_a_request_is_one_of_the_client() -> None:
    """That is what the server answers with status 400."""
    assert issubclass(find("vllm.exceptions:VLLMValidationError"), find("vllm.exceptions:VLLMClientError"))

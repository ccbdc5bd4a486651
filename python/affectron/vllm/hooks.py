"""The places in vLLM where the plug-in acts."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial, wraps
from typing import Any

from affectron import __version__
from affectron._internal.files import digest
from affectron.errors import InputError
from affectron.vllm import internals, limits
from affectron.vllm.library import Library, Served, load
from affectron.vllm.requests import admit, salted
from affectron.vllm.runners import steer_runner
from affectron.vllm.settings import KEY, Settings

Method = Callable[..., Any]


@cache
def install() -> None:
    """Install the hooks in this process, once.

    Under a vLLM that is not supported, they are left out, and a configured engine refuses to start.

    Raises:
        Unsupported: there is not even a place to refuse it.
    """
    try:
        internals.check(internals.EVERYWHERE)
    except internals.Unsupported as error:
        try:
            internals.wrap("vllm.config:VllmConfig.__post_init__", partial(_refusing, error))
        except (ImportError, AttributeError):
            raise error from None
        return
    for path, wrapper in (
        ("vllm.config:VllmConfig.compute_hash", _with_version),
        ("vllm.v1.engine.input_processor:InputProcessor.__init__", _checking),
        ("vllm.v1.engine.input_processor:InputProcessor.process_inputs", _admitting),
        ("vllm.v1.engine.core:EngineCore._initialize_kv_caches", _agreeing),
        ("vllm.v1.engine.core:EngineCore.preprocess_add_request", _salting),
        ("vllm.v1.worker.worker_base:WorkerWrapperBase.init_device", _steering),
    ):
        internals.wrap(path, wrapper)


def _refusing(reason: Exception, method: Method) -> Method:
    """VllmConfig.__post_init__ of an unsupported vLLM."""

    @wraps(method)
    def __post_init__(self: Any, *args: Any, **kwargs: Any) -> None:
        if isinstance(self.additional_config, dict) and KEY in self.additional_config:
            raise reason
        method(self, *args, **kwargs)

    return __post_init__


def _with_version(method: Method) -> Method:
    """VllmConfig.compute_hash: code that was compiled with another version of this package is not used again."""

    @wraps(method)
    def compute_hash(self: Any, *args: Any, **kwargs: Any) -> str:
        computed: str = method(self, *args, **kwargs)
        if Settings.of(self) is None:
            return computed
        return digest(computed.encode(), __version__.encode())[: len(computed)]

    return compute_hash


def _checking(method: Method) -> Method:
    """InputProcessor.__init__: the first that has the whole configuration, before a model is loaded."""

    @wraps(method)
    def __init__(self: Any, vllm_config: Any, *args: Any, **kwargs: Any) -> None:
        self.affectron = programs = _library(vllm_config)
        if programs is not None:
            internals.check(internals.FRONT_END)
            limits.check_config(vllm_config)
            limits.check_programs(programs, vllm_config.model_config)
            _refuse_unnamed()
        method(self, vllm_config, *args, **kwargs)

    return __init__


def _admitting(method: Method) -> Method:
    """InputProcessor.process_inputs: a client gets status 400 for a request that cannot be steered."""

    @wraps(method)
    def process_inputs(self: Any, *args: Any, **kwargs: Any) -> Any:
        request = method(self, *args, **kwargs)
        try:
            _admit(self, request)
        except InputError as error:
            raise _invalid(error) from error
        return request

    return process_inputs


def _agreeing(method: Method) -> Method:
    """EngineCore._initialize_kv_caches: the first that has workers, whose programs must be those of this process."""

    @wraps(method)
    def _initialize_kv_caches(self: Any, vllm_config: Any, *args: Any, **kwargs: Any) -> Any:
        self.affectron = programs = _library(vllm_config)
        if programs is not None and {*self.collective_rpc(_digest)} != {programs.digest}:
            raise InputError("programs: a worker has read other files than the engine, expected one unchanging folder")
        return method(self, vllm_config, *args, **kwargs)

    return _initialize_kv_caches


def _salting(method: Method) -> Method:
    """EngineCore.preprocess_add_request: requests of every front end pass here, before their tokens are hashed."""

    @wraps(method)
    def preprocess_add_request(self: Any, request: Any) -> Any:
        served = _admit(self, request)
        if self.affectron is not None:
            prompt = request.prompt_embeds if request.prompt_token_ids is None else request.prompt_token_ids
            request.cache_salt = salted(served, len(prompt), request.cache_salt)
        return method(self, request)

    return preprocess_add_request


def _steering(method: Method) -> Method:
    """WorkerWrapperBase.init_device: it makes the model runner, which has not loaded the model yet."""

    @wraps(method)
    def init_device(self: Any) -> None:
        method(self)
        self.affectron = programs = _library(self.vllm_config)
        if programs is not None:
            steer_runner(internals.value(self.worker, "model_runner"), programs)

    return init_device


def _digest(worker: Any) -> str:
    """The digest of the programs that a worker has read."""
    read: str = worker.affectron.digest
    return read


@cache
def _refuse_unnamed() -> None:
    """Refuse requests with a program that vLLM answers by other requests, which do not name it."""

    def refusing(method: Method) -> Method:
        @wraps(method)
        def answering(*args: Any, **kwargs: Any) -> Any:
            for one in (*args, *kwargs.values()):
                given = getattr(one, "vllm_xargs", None)
                if isinstance(given, dict) and KEY in given:
                    raise _invalid(
                        InputError(
                            f"{KEY} is {given[KEY]!r} in a beam search, a scoring or a decision, expected a request "
                            "that samples"
                        )
                    )
            return method(*args, **kwargs)

        return answering

    for path in internals.FRONT_END:
        internals.wrap(path, refusing)


def _library(config: Any) -> Library | None:
    settings = Settings.of(config)
    return None if settings is None else load(settings)


def _admit(owner: Any, request: Any) -> Served | None:
    """The program of an ``EngineCoreRequest``, which an ``InputProcessor`` or ``EngineCore`` is given."""
    params = request.sampling_params or request.pooling_params
    optimistic = owner.affectron is not None and limits.optimistic(owner.vllm_config)
    return admit(params, owner.affectron, resumable=request.resumable, optimistic=optimistic)


def _invalid(error: InputError) -> Exception:
    """The error that vLLM answers with status 400."""
    invalid: Exception = internals.find("vllm.exceptions:VLLMValidationError")(f"affectron: {error}", parameter=KEY)
    return invalid

"""The parts of vLLM that the plug-in relies on, with vLLM's names and signatures (test_signatures.py compares them) and
no engine behind them. Layers compute, on the CPU."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: This process's place among those that share the neurons of a layer.
TENSOR_PARALLEL = SimpleNamespace(rank=0, size=1)


def get_tensor_model_parallel_rank() -> int:
    return TENSOR_PARALLEL.rank


@dataclass
class VllmConfig:
    model_config: Any = None
    cache_config: Any = field(default_factory=lambda: SimpleNamespace(kv_sharing_fast_prefill=False))
    parallel_config: Any = field(
        default_factory=lambda: SimpleNamespace(
            use_ubatching=False, prefill_context_parallel_size=1, use_sequence_parallel_moe=False
        )
    )
    scheduler_config: Any = field(default_factory=lambda: SimpleNamespace(async_scheduling=False))
    load_config: Any = field(default_factory=lambda: SimpleNamespace(load_format="auto"))
    speculative_config: Any = None
    kv_transfer_config: Any = None
    additional_config: Any = field(default_factory=dict)

    def __post_init__(self) -> None:
        pass

    def compute_hash(self) -> str:
        return f"{hash(json.dumps(self.additional_config)):016x}"[-10:]


class VLLMValidationError(ValueError):
    def __init__(self, message: str, *, parameter: str | None = None, value: Any = None) -> None:
        super().__init__(message)
        self.parameter = parameter
        self.value = value


@dataclass
class SamplingParams:
    extra_args: dict[str, Any] | None = None


@dataclass
class PoolingParams:
    extra_kwargs: dict[str, Any] | None = None


@dataclass
class EngineCoreRequest:
    request_id: str
    prompt_token_ids: list[int] | None
    mm_features: Any
    sampling_params: SamplingParams | None
    pooling_params: PoolingParams | None
    arrival_time: float
    lora_request: Any
    cache_salt: str | None
    data_parallel_rank: int | None
    prompt_embeds: Tensor | None = None
    resumable: bool = False


class InputProcessor:
    def __init__(self, vllm_config: VllmConfig, renderer: Any = None) -> None:
        self.vllm_config = vllm_config

    def process_inputs(
        self, request_id: str, prompt: Any, params: Any, supported_tasks: Any, resumable: bool = False
    ) -> EngineCoreRequest:
        text = isinstance(params, SamplingParams)
        return EngineCoreRequest(
            request_id,
            prompt.get("prompt_token_ids"),
            None,
            params if text else None,
            None if text else params,
            0.0,
            None,
            prompt.get("cache_salt"),
            None,
            prompt.get("prompt_embeds"),
            resumable,
        )


class EngineCore:
    """Its executor is a list of workers."""

    def __init__(self, vllm_config: VllmConfig, executor_class: Callable[[VllmConfig], Any], log_stats: bool) -> None:
        self.vllm_config = vllm_config
        self.model_executor = executor_class(vllm_config)
        self.kv_cache_config = self._initialize_kv_caches(vllm_config)

    def collective_rpc(
        self, method: Any, timeout: float | None = None, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> list[Any]:
        return [method(worker, *args, **(kwargs or {})) for worker in self.model_executor]

    def _initialize_kv_caches(self, vllm_config: VllmConfig) -> Any:
        return "keys and values"

    def preprocess_add_request(self, request: EngineCoreRequest) -> tuple[Any, int]:
        return request, 0


class WorkerWrapperBase:
    def __init__(self, rpc_rank: int = 0, global_rank: int | None = None) -> None:
        self.rpc_rank = rpc_rank

    def init_worker(self, all_kwargs: list[dict[str, Any]]) -> None:
        kwargs = dict(all_kwargs[self.rpc_rank])
        self.vllm_config = kwargs["vllm_config"]
        self.worker = kwargs.pop("worker")(**kwargs)

    def init_device(self) -> None:
        self.worker.init_device()

    def __getattr__(self, attr: str) -> Any:
        return getattr(self.worker, attr)


class _Request:
    def __init__(self, *, vllm_xargs: dict[str, Any] | None = None) -> None:
        self.vllm_xargs = vllm_xargs


class CompletionRequest(_Request):
    def to_beam_search_params(self, max_tokens: int, default_sampling_params: dict | None = None) -> Any:
        return "beams"


class ChatCompletionRequest(_Request):
    def to_beam_search_params(self, max_tokens: int, default_sampling_params: dict) -> Any:
        return "beams"


class TranscriptionRequest(_Request):
    def to_beam_search_params(self, default_max_tokens: int, default_sampling_params: dict | None = None) -> Any:
        return "beams"


class TranslationRequest(_Request):
    def to_beam_search_params(self, default_max_tokens: int, default_sampling_params: dict | None = None) -> Any:
        return "beams"


class ServingGenerativeScoring:
    async def create_generative_scoring(self, request: Any, raw_request: Any = None) -> Any:
        return "scores"


class ServingStructuredDecisions:
    async def create_decision(self, request: Any, raw_request: Any = None) -> Any:
        return "decision"


class SiluAndMul(nn.Module):
    def __init__(self) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        gate, up = x.chunk(2, dim=-1)
        return F.silu(gate) * up


class GeluAndMul(nn.Module):
    def __init__(self, approximate: str = "none") -> None:
        super().__init__()
        self.approximate = approximate

    def forward(self, x: Tensor) -> Tensor:
        gate, up = x.chunk(2, dim=-1)
        return F.gelu(gate, approximate=self.approximate) * up


class RowParallelLinear(nn.Module):
    """Its output is this process's part of the sum."""

    def __init__(self, input_size: int, output_size: int, bias: bool = True, *, disable_tp: bool = False) -> None:
        super().__init__()
        self.input_size, self.output_size = input_size, output_size
        self.input_size_per_partition = input_size // (1 if disable_tp else TENSOR_PARALLEL.size)
        self.weight = nn.Parameter(torch.empty(output_size, self.input_size_per_partition))
        self.bias = nn.Parameter(torch.zeros(output_size)) if bias else None

    def forward(self, input_: Tensor) -> tuple[Tensor, None]:
        return F.linear(input_, self.weight, self.bias), None


class PPMissingLayer(nn.Identity):
    pass


class _Runner:
    """A runner whose model is ``build()``, once it is loaded."""

    def __init__(self, vllm_config: VllmConfig, build: Callable[[], nn.Module], tokens: int, requests: int) -> None:
        self.model_config = vllm_config.model_config
        self.device = torch.device("cpu")
        self.max_num_tokens, self.max_num_reqs = tokens, requests
        self._build = build

    def load_model(self, load_dummy_weights: bool = False) -> None:
        self.model = self._build()

    def get_model(self) -> nn.Module:
        return self.model


class RunnerV1(_Runner):
    """``vllm.v1.worker.gpu_model_runner:GPUModelRunner``."""

    def __init__(self, vllm_config: VllmConfig, build: Callable[[], nn.Module], tokens: int, requests: int) -> None:
        super().__init__(vllm_config, build, tokens, requests)
        self.requests: dict[str, Any] = {}
        self.query_start_loc = SimpleNamespace(np=np.zeros(requests + 1, np.int32))
        self.input_batch = SimpleNamespace(
            req_ids=[], num_computed_tokens_cpu=np.zeros(requests, np.int32), num_prompt_tokens=np.zeros(requests, int)
        )

    def execute_model(self, steps: Sequence[Step], padded: int) -> Any:
        batch = self.input_batch
        batch.req_ids = [step.request for step in steps]
        self.requests = {step.request: SimpleNamespace(sampling_params=step.params) for step in steps}
        for at, step in enumerate(steps):
            batch.num_computed_tokens_cpu[at] = step.computed
            batch.num_prompt_tokens[at] = step.prompt
            self.query_start_loc.np[at + 1] = self.query_start_loc.np[at] + step.tokens
        return self._model_forward(torch.zeros(padded, dtype=torch.int64))

    def _model_forward(self, input_ids: Tensor | None = None, positions: Tensor | None = None) -> Any:
        return self.model(input_ids)

    def _dummy_run(self, num_tokens: int) -> Any:
        return self.model(torch.zeros(num_tokens, dtype=torch.int64))


@dataclass
class InputBatch:
    req_ids: list[str]
    idx_mapping_np: Any
    query_start_loc_np: Any
    num_computed_tokens_np: Any


class RunnerV2(_Runner):
    """``vllm.v1.worker.gpu.model_runner:GPUModelRunner``."""

    def __init__(self, vllm_config: VllmConfig, build: Callable[[], nn.Module], tokens: int, requests: int) -> None:
        super().__init__(vllm_config, build, tokens, requests)
        self.req_states = SimpleNamespace(
            req_id_to_index={}, prompt_len=SimpleNamespace(np=np.zeros(requests, np.int32))
        )
        self._free = list(range(requests))

    def execute_model(self, steps: Sequence[Step], padded: int) -> Any:
        """Requests that have no step are finished."""
        states = self.req_states
        for request in states.req_id_to_index.keys() - {step.request for step in steps}:
            self._free.append(states.req_id_to_index.pop(request))
        new = [step for step in steps if step.request not in states.req_id_to_index]
        self.add_requests(SimpleNamespace(scheduled_new_reqs=[_new(step) for step in new]))
        self.prepare_inputs(steps, None, None, 0)
        return self.model(torch.zeros(padded, dtype=torch.int64))

    def add_requests(self, scheduler_output: Any) -> None:
        for new in scheduler_output.scheduled_new_reqs:
            index = self.req_states.req_id_to_index[new.req_id] = self._free.pop()
            self.req_states.prompt_len.np[index] = new.prompt_len

    def prepare_inputs(
        self, scheduler_output: Any, batch_req_state: Any, batch_desc: Any, num_active_loras: int
    ) -> InputBatch:
        """Here the first argument is the steps."""
        starts = np.full(self.max_num_reqs + 1, sum(step.tokens for step in scheduler_output))
        starts[: len(scheduler_output) + 1] = np.cumsum([0, *(step.tokens for step in scheduler_output)])
        return InputBatch(
            [step.request for step in scheduler_output],
            np.array([self.req_states.req_id_to_index[step.request] for step in scheduler_output]),
            starts,
            np.array([step.computed for step in scheduler_output]),
        )

    def _dummy_run(self, num_tokens: int) -> Any:
        return self.model(torch.zeros(num_tokens, dtype=torch.int64))


@dataclass
class Step:
    """What one forward computes of a request: ``tokens`` after ``computed``, of a text with a prompt of ``prompt``."""

    request: str
    params: Any
    prompt: int
    computed: int
    tokens: int


def _new(step: Step) -> Any:
    return SimpleNamespace(req_id=step.request, sampling_params=step.params, prompt_len=step.prompt)


VERSION = "0.32.0"
#: Module of vLLM -> what it has here.
MODULES: dict[str, tuple[Any, ...]] = {
    "vllm.config": (VllmConfig,),
    "vllm.distributed": (get_tensor_model_parallel_rank,),
    "vllm.entrypoints.generate.generative_scoring.serving": (ServingGenerativeScoring,),
    "vllm.entrypoints.generate.structured_decisions.serving": (ServingStructuredDecisions,),
    "vllm.entrypoints.openai.chat_completion.protocol": (ChatCompletionRequest,),
    "vllm.entrypoints.openai.completion.protocol": (CompletionRequest,),
    "vllm.entrypoints.speech_to_text.transcription.protocol": (TranscriptionRequest,),
    "vllm.entrypoints.speech_to_text.translation.protocol": (TranslationRequest,),
    "vllm.exceptions": (VLLMValidationError,),
    "vllm.model_executor.layers.activation": (SiluAndMul, GeluAndMul),
    "vllm.model_executor.layers.linear": (RowParallelLinear,),
    "vllm.model_executor.models.utils": (PPMissingLayer,),
    "vllm.v1.engine": (EngineCoreRequest,),
    "vllm.v1.engine.core": (EngineCore,),
    "vllm.v1.engine.input_processor": (InputProcessor,),
    "vllm.v1.worker.gpu.input_batch": (InputBatch,),
    "vllm.v1.worker.worker_base": (WorkerWrapperBase,),
}


class GatedMLP(nn.Module):
    """The block of vLLM's Llama, Qwen, Gemma and others, with this process's neurons of a block of transformers."""

    def __init__(self, block: Any, act_fn: nn.Module) -> None:
        super().__init__()
        neurons, hidden = block.gate_proj.weight.shape
        self.down_proj = RowParallelLinear(neurons, hidden, bias=False)
        here = self.down_proj.input_size_per_partition
        part = slice(TENSOR_PARALLEL.rank * here, (TENSOR_PARALLEL.rank + 1) * here)
        self.gate_up_proj = nn.Linear(hidden, 2 * here, bias=False)
        self.act_fn = act_fn
        with torch.no_grad():
            self.gate_up_proj.weight.copy_(torch.cat([block.gate_proj.weight[part], block.up_proj.weight[part]]))
            self.down_proj.weight.copy_(block.down_proj.weight[:, part])

    def forward(self, x: Tensor) -> Tensor:
        h = self.act_fn(self.gate_up_proj(x.reshape(-1, x.shape[-1])))
        return self.down_proj(h)[0].view(x.shape)


def served(model: Any) -> Any:
    """A copy of transformers' Llama, Qwen or Gemma whose blocks are as vLLM's."""
    model = deepcopy(model)
    silu = model.config.hidden_act == "silu"
    for layer in model.model.layers:
        layer.mlp = GatedMLP(layer.mlp, SiluAndMul() if silu else GeluAndMul("tanh"))
    return model

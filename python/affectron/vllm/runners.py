"""The two model runners of vLLM: where each tells the batch that a forward computes."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from affectron.vllm.activations import attach
from affectron.vllm.internals import WORKER, Expected, Unsupported, check, has, version
from affectron.vllm.library import Library, Served
from affectron.vllm.limits import sites_of
from affectron.vllm.rows import Rows
from affectron.vllm.settings import KEY

_COMMON = ("device", "max_num_tokens", "model_config", "load_model", "get_model", "_dummy_run")
_V1 = (
    *("_model_forward", "requests", "query_start_loc.np", "input_batch.req_ids"),
    *("input_batch.num_computed_tokens_cpu", "input_batch.num_prompt_tokens"),
)
_V2 = ("add_requests", "prepare_inputs", "max_num_reqs", "req_states.req_id_to_index", "req_states.prompt_len.np")
#: What prepare_inputs of the V2 runner returns.
_V2_BATCH: Expected = {
    "vllm.v1.worker.gpu.input_batch:InputBatch": (
        *("req_ids", "query_start_loc_np", "num_computed_tokens_np", "idx_mapping_np"),
    )
}


def steer_runner(runner: Any, library: Library) -> None:
    """Make a runner steer: attach to its model once it is loaded, and write the rows before each forward.

    Methods are replaced in this one object, not in its class: draft models have objects of their own.

    Raises:
        Unsupported: the runner is of no known form.
    """
    check(WORKER)
    rows = Rows(runner.max_num_tokens, runner.device) if has(runner, _COMMON) else None
    if rows is not None and has(runner, _V1):
        _steer_v1(runner, rows, library)
    elif rows is not None and has(runner, _V2):
        check(_V2_BATCH)
        _steer_v2(runner, rows, library)
    else:
        raise Unsupported(
            f"affectron cannot steer vLLM {version()}: {type(runner).__name__} has other attributes than the runners "
            f"that it knows: {', '.join(_COMMON)} and either {', '.join(_V1)} or {', '.join(_V2)}"
        )
    _before(runner, "_dummy_run", rows.clear)
    load = runner.load_model

    @wraps(load)
    def load_model(*args: Any, **kwargs: Any) -> None:
        load(*args, **kwargs)
        attach(runner.get_model(), sites_of(runner.model_config), library, rows, runner.model_config.dtype)

    runner.load_model = load_model


def _steer_v1(runner: Any, rows: Rows, library: Library) -> None:
    def write() -> None:
        batch = runner.input_batch
        count = len(batch.req_ids)
        starts = runner.query_start_loc.np[: count + 1]
        rows.write(
            [_program(runner.requests[request].sampling_params, library) for request in batch.req_ids],
            starts[1:] - starts[:-1],
            batch.num_computed_tokens_cpu[:count],
            batch.num_prompt_tokens[:count],
        )

    _before(runner, "_model_forward", write)


def _steer_v2(runner: Any, rows: Rows, library: Library) -> None:
    programs: list[Served | None] = [None] * runner.max_num_reqs  # by the request's index in the runner's states
    add, prepare = runner.add_requests, runner.prepare_inputs

    @wraps(add)
    def add_requests(scheduler_output: Any) -> None:
        add(scheduler_output)
        for new in scheduler_output.scheduled_new_reqs:
            programs[runner.req_states.req_id_to_index[new.req_id]] = _program(new.sampling_params, library)

    @wraps(prepare)
    def prepare_inputs(*args: Any, **kwargs: Any) -> Any:
        batch = prepare(*args, **kwargs)
        count, states = len(batch.req_ids), batch.idx_mapping_np
        starts = batch.query_start_loc_np[: count + 1]
        rows.write(
            [programs[state] for state in states],
            starts[1:] - starts[:-1],
            batch.num_computed_tokens_np,
            runner.req_states.prompt_len.np[states],
        )
        return batch

    runner.add_requests, runner.prepare_inputs = add_requests, prepare_inputs


def _before(runner: Any, name: str, action: Callable[[], None]) -> None:
    """Let a method of the object begin with an action."""
    method = getattr(runner, name)

    @wraps(method)
    def acting(*args: Any, **kwargs: Any) -> Any:
        action()
        return method(*args, **kwargs)

    setattr(runner, name, acting)


def _program(params: Any, library: Library) -> Served | None:
    """The program of an admitted request; asked for each request in each step."""
    given = None if params is None else params.extra_args
    return library[given[KEY]] if given and KEY in given else None

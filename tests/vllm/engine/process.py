"""A process of its own for engines of vLLM: ``python -m tests.vllm.engine.process JOB ANSWER``.

It gives the batches of requests of a file of JSON to the engines that the file describes, one batch after another, and
writes what they answer. An engine starts before its first batch, and stays.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
import types
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

from affectron.vllm.activations import SteeredActivation


def compile_for_the_cpu() -> None:
    """Let vLLM believe that Triton compiles for this machine, so that it takes the V2 runner, as it does with a GPU."""
    from triton import backends

    driver = type("Driver", (), {"is_active": staticmethod(lambda: True)})
    backends.backends["cpu"] = types.SimpleNamespace(driver=driver, compiler=None)


def start(options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Start an engine; return it with what it is, or None with the reason why it does not start."""
    from vllm import LLM

    try:
        engine = LLM(**{"dtype": "float32", "block_size": 32, "disable_log_stats": False, **options})
    except Exception as error:
        traceback.print_exc()
        return None, {"refused": str(error)}
    config = engine.llm_engine.vllm_config
    told = {"v2": config.use_v2_model_runner, "compiled": bool(config.compilation_config.mode)}
    if config.parallel_config.world_size == 1:
        (told["steered"],) = engine.apply_model(_steered)
    return engine, told


def _steered(model: Any) -> int:
    return sum(isinstance(module, SteeredActivation) for module in model.modules())


def ask(engine: Any, batch: dict[str, Any]) -> dict[str, Any]:
    """Give an engine a batch of requests; return its answers, or the reason why one is refused."""
    from vllm import SamplingParams
    from vllm.lora.request import LoRARequest

    requests, before = batch["requests"], _counters(engine)
    with ExitStack() as changed:
        if batch.get("unsalted"):
            changed.enter_context(mock.patch("affectron.vllm.hooks.salted", lambda served, prompt, salt: salt))
        if batch.get("asynchronous"):
            scheduler = engine.llm_engine.vllm_config.scheduler_config
            changed.enter_context(mock.patch.object(scheduler, "async_scheduling", True))
        try:
            outputs = engine.generate(
                [{"prompt_token_ids": one["prompt"], **one["inputs"]} for one in requests],
                [SamplingParams(**{"temperature": 0, "ignore_eos": True, **one["parameters"]}) for one in requests],
                lora_request=[LoRARequest("a", 1, one["adapter"]) if one["adapter"] else None for one in requests],
                use_tqdm=False,
            )
        except Exception as error:
            traceback.print_exc()
            return {"refused": str(error), "error": type(error).__name__}
    return {
        "answers": [_answer(output) for output in outputs],
        "counted": {name: value - before[name] for name, value in _counters(engine).items()},
    }


def _answer(output: Any) -> dict[str, Any]:
    told = {"tokens": [list(one.token_ids) for one in output.outputs], "cached": output.num_cached_tokens}
    if output.prompt_logprobs:  # of each token but the first
        pairs = zip(output.prompt_token_ids[1:], output.prompt_logprobs[1:], strict=True)
        told["logprobs"] = [values[token].logprob for token, values in pairs]
    return told


def _counters(engine: Any) -> dict[str, int]:
    """The counters of the engine that was started last."""
    from vllm.v1.metrics.reader import Counter

    return {one.name.removeprefix("vllm:"): one.value for one in engine.get_metrics() if isinstance(one, Counter)}


def main(job: dict[str, Any]) -> dict[str, Any]:
    if os.environ.get("TRITON_INTERPRET") == "1":  # Triton runs kernels by its interpreter
        compile_for_the_cpu()
    started: dict[int, tuple[Any, dict[str, Any]]] = {}

    def engine(number: int) -> tuple[Any, dict[str, Any]]:
        if number not in started:
            started[number] = start(job["engines"][number])
        return started[number]

    batches = [ask(engine(batch["engine"])[0], batch) for batch in job["batches"]]
    return {"engines": [engine(number)[1] for number in range(len(job["engines"]))], "batches": batches}


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(json.dumps(main(json.loads(Path(sys.argv[1]).read_text()))))

"""The same texts with compiled code, by the V2 runner, and by several processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.vllm.engine.engines import Model, batch, expected, mixed, run, told, unsteered

Requests = list[dict[str, Any]]


def test_compiled(demo: Model, requests: Requests, tmp_path: Path) -> None:
    """What was compiled without programs, or in an engine before, is in the cache of compiled code."""
    compiled, plain = demo.engine(enforce_eager=False), unsteered(requests)
    result = run(
        tmp_path,
        [{**compiled, "additional_config": {}}, compiled, compiled],
        [batch(plain, 0), batch(requests, 1), batch(requests, 1), batch(requests, 2)],
    )
    assert [engine["compiled"] for engine in result["engines"]] == [True] * 3
    assert [engine["steered"] for engine in result["engines"]] == [0, 5, 5]
    first, *others = map(told, result["batches"])
    assert first == expected(demo, plain)
    assert others == [expected(demo, requests)] * 3


def test_v2_runner(demo: Model, prompts: list[list[int]], tmp_path: Path) -> None:
    requests = mixed(prompts[:4], 8)
    engines = [demo.engine(max_num_batched_tokens=64, max_num_seqs=8), demo.engine(num_gpu_blocks_override=14)]
    result = run(tmp_path, engines, [batch(requests), batch(requests), batch(requests, 1)], TRITON_INTERPRET="1")
    assert result["engines"] == [{"v2": True, "compiled": False, "steered": 5}] * 2
    first, second, preempted = result["batches"]
    assert told(first) == told(second) == told(preempted) == expected(demo, requests)
    assert all(one["cached"] >= 32 for one in second["answers"])
    assert preempted["counted"]["num_preemptions"] > 0


@pytest.mark.parametrize(
    "options",
    [
        {"tensor_parallel_size": 2},
        {"pipeline_parallel_size": 2, "enforce_eager": False},  # vLLM's own eager pipeline fails on a CPU
    ],
    ids=["tensor", "pipeline"],
)
def test_two_processes(options: dict[str, Any], demo: Model, requests: Requests, tmp_path: Path) -> None:
    engine = demo.engine(distributed_executor_backend="mp", **options)
    result = run(tmp_path, [engine], [batch(requests), batch(requests)])
    first, second = map(told, result["batches"])
    assert first == second == expected(demo, requests)


def test_unsteered_requests_are_served_as_without_the_plug_in(demo: Model, requests: Requests, tmp_path: Path) -> None:
    prompts = [{**one, "parameters": {"max_tokens": 16}} for one in requests]
    result = run(tmp_path, [demo.engine(additional_config={})], [batch(prompts)], VLLM_PLUGINS="")
    assert result["engines"][0]["steered"] == 0
    assert told(result["batches"][0]) == [demo.text(one["prompt"], None) for one in prompts]


def test_a_draft_model_changes_no_text(demo: Model, requests: Requests, tmp_path: Path) -> None:
    """It is the demo model itself, not steered: it drafts what an unsteered request writes."""
    drafts = {"model": str(demo.folder), "method": "draft_model", "num_speculative_tokens": 3}
    batches = (requests, unsteered(requests))
    result = run(tmp_path, [demo.engine(speculative_config=drafts)], [batch(given) for given in batches])
    rates = []
    for given, answered in zip(batches, result["batches"], strict=True):
        assert told(answered) == expected(demo, given)
        counted = answered["counted"]
        rates.append(counted["spec_decode_num_accepted_tokens"] / counted["spec_decode_num_draft_tokens"])
    assert rates[0] < 0.6 < 0.9 < rates[1]

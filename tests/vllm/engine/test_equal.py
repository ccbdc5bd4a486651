"""An engine writes the texts that transformers writes under the same program, token by token, in fp32 and greedily."""

from __future__ import annotations

from typing import Any

import pytest

from tests.vllm.engine.engines import CHUNK, Model, batch, expected, program_of, request, run, told

Requests = list[dict[str, Any]]
#: The engines of the process, and its batches.
CHUNKED, SMALL, DRAFTED = range(3)
ROUNDS, CONTINUED, SALTS = slice(0, 2), 2, slice(3, 9)
UNSALTED, PREEMPTED, SAMPLED, ACCEPTED, REFUSED, ADMITTED = range(9, 15)
NGRAM = {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 3}


@pytest.fixture(scope="module")
def continued(demo: Model, prompts: list[list[int]]) -> Requests:
    """Requests whose prompts are earlier ones with their answers."""
    pairs = [(prompts[2], "zero"), (prompts[1], "window"), (prompts[1], "prompt"), (prompts[2], "fading")]
    return [request([*prompt, *demo.text(prompt, name)], name) for prompt, name in pairs]


@pytest.fixture(scope="module")
def eager(
    demo: Model,
    prompts: list[list[int]],
    requests: Requests,
    continued: Requests,
    tmp_path_factory: pytest.TempPathFactory,
) -> list[dict[str, Any]]:
    """The batches of a process with eager engines."""
    last = prompts[8]
    sampled = [request(last, name, n=2, temperature=1.0, top_k=1) for name in (None, "zero")]
    salts = [(None, None), ("zero", None), (None, "mine"), ("zero", "mine"), ("zero", "mine"), ("zero", "yours")]
    result = run(
        tmp_path_factory.mktemp("eager"),
        [
            demo.engine(max_num_batched_tokens=CHUNK, max_num_seqs=16),
            demo.engine(num_gpu_blocks_override=20),
            demo.engine(speculative_config=NGRAM),
        ],
        [
            *(batch(requests, CHUNKED) for _ in range(2)),
            batch(continued, CHUNKED),
            *(
                batch([request(last, name, inputs={} if salt is None else {"cache_salt": salt})], CHUNKED)
                for name, salt in salts
            ),
            batch(requests, CHUNKED, unsalted=True),
            batch(requests, SMALL),
            batch(sampled, SMALL),
            batch(requests, DRAFTED),
            batch(requests, DRAFTED, asynchronous=True),
            batch([one for one in requests if program_of(one) not in ("window", "fading")], DRAFTED, asynchronous=True),
        ],
    )
    assert result["engines"] == [{"v2": False, "compiled": False, "steered": 5}] * 3
    return result["batches"]


def test_programs_change_texts(demo: Model, requests: Requests) -> None:
    """Otherwise, none of the tests below would fail without the plug-in."""
    steered = [one for one in requests if program_of(one)]
    same = [one for one in steered if expected(demo, [one]) == [demo.text(one["prompt"], None)]]
    assert (len(requests), len(steered)) == (32, 24)
    assert len(same) < 4


def test_chunked_prompts_and_cached_prefixes(demo: Model, requests: Requests, eager: list[dict[str, Any]]) -> None:
    first, second = eager[ROUNDS]
    assert told(first) == told(second) == expected(demo, requests)
    assert sum(one["cached"] for one in first["answers"]) == 0
    assert all(one["cached"] >= 32 for one in second["answers"])


def test_conversations(demo: Model, continued: Requests, eager: list[dict[str, Any]]) -> None:
    """What a schedule did to generated tokens does not hold for the same tokens in a prompt."""
    assert told(eager[CONTINUED]) == expected(demo, continued)
    assert [one["cached"] for one in eager[CONTINUED]["answers"]] == [64, 0, 0, 0]


def test_without_the_salt_requests_read_what_other_programs_wrote(
    demo: Model, requests: Requests, eager: list[dict[str, Any]]
) -> None:
    wrong = [one for one, text in zip(requests, told(eager[UNSALTED]), strict=True) if [text] != expected(demo, [one])]
    assert len(wrong) >= 4


def test_preempted_requests(demo: Model, requests: Requests, eager: list[dict[str, Any]]) -> None:
    assert told(eager[PREEMPTED]) == expected(demo, requests)
    assert eager[PREEMPTED]["counted"]["num_preemptions"] >= 4


def test_speculation(demo: Model, requests: Requests, eager: list[dict[str, Any]]) -> None:
    assert told(eager[ACCEPTED]) == expected(demo, requests)
    counted = eager[ACCEPTED]["counted"]
    assert 0 < counted["spec_decode_num_accepted_tokens"] < counted["spec_decode_num_draft_tokens"]


def test_asynchronous_speculation_refuses_windows_alone(
    demo: Model, requests: Requests, eager: list[dict[str, Any]]
) -> None:
    assert "asynchronous scheduling with speculative decoding cannot count" in eager[REFUSED]["refused"]
    others = [one for one in requests if program_of(one) not in ("window", "fading")]
    assert told(eager[ADMITTED]) == expected(demo, others)


def test_several_texts_of_a_prompt(demo: Model, prompts: list[list[int]], eager: list[dict[str, Any]]) -> None:
    """Only the likeliest token can be drawn."""
    for name, answer in zip((None, "zero"), eager[SAMPLED]["answers"], strict=True):
        assert answer["tokens"] == [demo.text(prompts[8], name)] * 2


def test_a_client_s_salt_still_counts(demo: Model, prompts: list[list[int]], eager: list[dict[str, Any]]) -> None:
    assert [one["answers"][0]["cached"] for one in eager[SALTS]] == [0, 0, 0, 0, 64, 0]
    expected = [demo.text(prompts[8], name) for name in (None, "zero", None, "zero", "zero", "zero")]
    assert [told(one)[0] for one in eager[SALTS]] == expected

"""The demo model with programs and prompts. The tests of this folder need vLLM: `make test-vllm`."""

from __future__ import annotations

import random
from importlib.util import find_spec
from typing import Any

import pytest

from affectron.demo import MODEL
from affectron.demo.corpus import generate
from tests.vllm.engine.engines import Model, mixed


@pytest.fixture(scope="session", autouse=True)
def installed() -> None:
    """Skip without vLLM, which is not imported for that."""
    if find_spec("vllm") is None:
        pytest.skip("vLLM is not installed here (make test-vllm)")


@pytest.fixture(scope="session")
def demo(installed: None, tmp_path_factory: pytest.TempPathFactory) -> Model:
    return Model(MODEL, tmp_path_factory.mktemp("demo") / "programs")


@pytest.fixture(scope="session")
def prompts(demo: Model) -> list[list[int]]:
    """Nine prompts, the second half of each the same words as the first.

    Texts of 16 tokens after the first eight end in another block of 32 than the prompt.
    """
    rng = random.Random(0)
    sentences = [row["text"] for row in generate() if row["split"] == "test"]

    def prompt(length: int) -> list[int]:
        tokens: list[int] = []
        while len(tokens) < length // 2:
            tokens += demo.tokenizer(f" {rng.choice(sentences)}", add_special_tokens=False)["input_ids"]
        half = tokens[: length // 2]
        return [demo.tokenizer.bos_token_id, *half, *half]

    return [prompt(length) for length in (61, 93, 59, 95, 63, 91, 57, 89, 75)]


@pytest.fixture(scope="session")
def requests(prompts: list[list[int]]) -> list[dict[str, Any]]:
    """32 requests of the first eight prompts."""
    return mixed(prompts[:8])

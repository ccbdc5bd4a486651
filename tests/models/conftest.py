"""Models that several tests of this folder share."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

from tests.support.bench import Bench, make_bench
from tests.support.tiny import FAMILIES, build, make_tokenizer


@pytest.fixture(scope="module", params=FAMILIES)
def family(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def model(family: str) -> nn.Module:
    return build(family)


@pytest.fixture(scope="module")
def bench(family: str) -> Bench:
    return make_bench(family)


@pytest.fixture(scope="module")
def llama() -> Bench:
    return make_bench("llama")


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """A folder with a model in bfloat16 and its tokenizer."""
    folder = tmp_path_factory.mktemp("model")
    build("llama").to(torch.bfloat16).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy that a test may break."""
    return Path(shutil.copytree(saved, tmp_path / "copy"))


@pytest.fixture
def recompiles() -> Iterator[Callable[[], int]]:
    """Graphs compiled so far."""
    torch._dynamo.reset()
    counters.clear()
    yield lambda: counters["stats"]["unique_graphs"]
    torch._dynamo.reset()

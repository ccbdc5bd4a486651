"""A vLLM without an engine, small models in folders, and programs for them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from affectron.vllm import hooks
from tests.support.tiny import build, make_tokenizer
from tests.vllm import fakes


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The package ``vllm`` of fakes.py, importable; its classes by name, new ones for each test that hooks change."""
    names = {".".join(path.split(".")[:depth]) for path in fakes.MODULES for depth in range(1, path.count(".") + 2)}
    modules = {name: ModuleType(name) for name in names}
    parts = {}
    for name, module in modules.items():
        module.__spec__ = ModuleSpec(name, None)
        monkeypatch.setitem(sys.modules, name, module)
        for part in fakes.MODULES.get(name, ()):
            hooked = isinstance(part, type) and not issubclass(part, nn.Module)
            parts[part.__name__] = type(part.__name__, (part,), {}) if hooked else part
            setattr(module, part.__name__, parts[part.__name__])
    modules["vllm"].__version__ = fakes.VERSION
    caches = hooks.install, hooks._refuse_unnamed
    for cached in caches:
        cached.cache_clear()
    yield SimpleNamespace(**parts)
    for cached in caches:
        cached.cache_clear()
    fakes.TENSOR_PARALLEL.__init__(rank=0, size=1)


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of small models by family."""
    folders = {}
    for family in ("llama", "gemma", "gpt2"):
        folders[family] = tmp_path_factory.mktemp(family)
        build(family).save_pretrained(folders[family])
        make_tokenizer().save_pretrained(folders[family])
    return folders


@pytest.fixture
def config(vllm: Any, folders: dict[str, Path]) -> Any:
    """A configuration of the small Llama, without programs."""
    return vllm.VllmConfig(model_config=model_config(folders["llama"]))


def model_config(folder: Path) -> Any:
    return SimpleNamespace(
        model=str(folder),
        revision=None,
        trust_remote_code=False,
        dtype=torch.float32,
        runner_type="generate",
        is_encoder_decoder=False,
        is_diffusion=False,
        model_impl="auto",
    )

"""Fixtures that every test file shares."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

# Tests never look for a model hub: everything they load is made here or lies on disk.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

SLOW = Path(__file__).with_name("slow.txt")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the tests that slow.txt names as slow: a test function or a whole file a line. Several processes begin with
    the files of its first lines, so that none is left with a long file at the end."""
    place = {name: number for number, name in enumerate(SLOW.read_text(encoding="utf-8").split())}
    for item in items:
        if {item.nodeid.partition("[")[0], _file(item.nodeid)} & place.keys():
            item.add_marker(pytest.mark.slow)
    if hasattr(config, "workerinput"):
        first: dict[str, int] = {}
        for name, number in place.items():
            first.setdefault(_file(name), number)
        items.sort(key=lambda item: first.get(_file(item.nodeid), len(place)))


def _file(name: str) -> str:
    return name.partition("::")[0]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real models and sentences beside the checkout; tests that need it skip without it."""
    folder = Path(os.environ.get("AFFECTRON_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    if not (folder / "models").is_dir() or not (folder / "data").is_dir():
        pytest.skip(f"shared models and data are absent ({folder})")
    return folder


@pytest.fixture
def one_thread() -> Iterator[None]:
    """One torch thread: for models so small that sharing out their products costs more than it saves."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)

"""The configuration of the plug-in: malformed ones are refused by name, and none means that nothing is done."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from affectron.vllm.settings import Settings
from tests.support.errors import message


def of(additional: Any) -> Settings | None:
    return Settings.of(SimpleNamespace(additional_config=additional))


def test_settings_are_read_and_the_capacity_may_be_left_out() -> None:
    assert of({"affectron": {"programs": "some/folder", "capacity": 3}}) == Settings(Path("some/folder"), 3)
    assert of({"other": 1, "affectron": {"programs": "folder"}}) == Settings(Path("folder"), 16)


class Hashable:
    """vLLM lets a platform give an object."""

    def compute_hash(self) -> str:
        return "hash"


@pytest.mark.parametrize("additional", [{}, {"other": {"programs": "folder"}}, Hashable()])
def test_without_settings_nothing_is_configured(additional: Any) -> None:
    assert of(additional) is None


@pytest.mark.parametrize(
    "given",
    [
        None, "folder", ["folder"], {}, {"capacity": 3}, {"programs": None}, {"programs": ["folder"]},
        {"programs": ""}, {"programs": "folder", "places": 3}, {"programs": "folder", "name": "anger"},
    ],
)  # fmt: skip
def test_malformed_settings_are_refused(given: Any) -> None:
    told = message(lambda: of({"affectron": given}))
    assert told.startswith(f"affectron is {given!r} in additional_config, expected ")
    assert '{"programs": "FOLDER"}' in told


@pytest.mark.parametrize("capacity", [0, -1, (1 << 16) + 1, 2.0, "2", True, None])
def test_a_capacity_out_of_bounds_is_refused(capacity: Any) -> None:
    assert message(lambda: of({"affectron": {"programs": "folder", "capacity": capacity}})) == (
        f"capacity is {capacity!r}, expected a whole number from 1 to 65536"
    )


@pytest.mark.parametrize("capacity", [1, 1 << 16])
def test_the_bounds_of_the_capacity_are_served(capacity: int) -> None:
    settings = of({"affectron": {"programs": "folder", "capacity": capacity}})
    assert settings is not None
    assert settings.capacity == capacity

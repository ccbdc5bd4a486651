"""Admission of requests, and the salt of their cached keys and values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from affectron.interventions import Schedule, schedule
from affectron.vllm.library import Library, Served, load
from affectron.vllm.requests import admit, named, salted
from affectron.vllm.settings import Settings
from tests.support.errors import message
from tests.vllm.fakes import PoolingParams, SamplingParams
from tests.vllm.programs import program


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    folder = tmp_path_factory.mktemp("programs")
    joy = program(1)
    program(0).save(folder / "anger.safetensors")
    joy.save(folder / "joy.safetensors")
    schedule(joy, where="generated").save(folder / "answer.safetensors")
    schedule(joy, start=3, stop=9).save(folder / "window.safetensors")
    return load(Settings(folder))


def given_name(library: Library | None, name: Any, *, resumable: bool = False, optimistic: bool = False) -> Any:
    return admit(SamplingParams({"affectron": name}), library, resumable=resumable, optimistic=optimistic)


@pytest.mark.parametrize("params", [SamplingParams(), SamplingParams({}), SamplingParams({"k": 3}), PoolingParams()])
@pytest.mark.parametrize("configured", [False, True])
def test_requests_that_name_no_program_are_unsteered(params: Any, configured: bool, library: Library) -> None:
    known = library if configured else None
    assert named(params) is None
    assert admit(params, known, resumable=True, optimistic=True) is None


def test_a_program_is_found_by_its_name(library: Library) -> None:
    for name in ("anger", "joy", "answer", "window"):
        assert given_name(library, name) is library[name]


@pytest.mark.parametrize("name", ["", "Anger", "anger ", "anger.safetensors", "../anger", 3, 0, 1.5, ["anger"], {}])
def test_other_names_are_refused_with_those_that_are_known(name: Any, library: Library) -> None:
    assert message(lambda: given_name(library, name)) == (
        f"affectron is {name!r}, expected one of anger, answer, joy, window"
    )


@pytest.mark.parametrize("params", [SamplingParams({"affectron": None}), PoolingParams({"affectron": None})])
def test_none_is_no_name(params: Any, library: Library) -> None:
    told = message(lambda: admit(params, library, resumable=False, optimistic=False))
    assert told == "affectron is None, expected the name of a program"


def test_a_server_without_programs_refuses_every_name() -> None:
    assert message(lambda: given_name(None, "anger")) == (
        "affectron is 'anger', but the server was started without programs (--additional-config)"
    )


def test_pooling_is_refused(library: Library) -> None:
    params = PoolingParams({"affectron": "anger"})
    assert message(lambda: admit(params, library, resumable=False, optimistic=False)) == (
        "affectron is 'anger' in a pooling request, expected one that generates text"
    )


@pytest.mark.parametrize("name", ["anger", "answer"])
def test_a_prompt_that_grows_is_refused(name: str, library: Library) -> None:
    assert message(lambda: given_name(library, name, resumable=True)) == (
        f"affectron is {name!r} in a request whose prompt grows, expected one with a whole prompt"
    )


def test_windows_are_refused_where_positions_are_not_known(library: Library) -> None:
    told = message(lambda: given_name(library, "window", optimistic=True))
    assert told.startswith("affectron is 'window', a schedule that changes after some generated tokens, which asynchro")
    for name in ("anger", "answer"):  # drafts are always generated tokens
        assert given_name(library, name, optimistic=True) is library[name]


def made(digest: str, prompt: int, places: list[int]) -> Served:
    starts = np.arange(len(places), dtype=np.int64) * 4
    return Served("made", digest, (), prompt, starts, np.array(places, dtype=np.int32))


def steering(served: Served | None, prompt: int) -> Any:
    """What is done to the first positions of a text."""
    if served is None:
        return None
    return served.digest, served.places_at(np.arange(-prompt, 60 - prompt)).tolist()


SERVED = [None, made("0a", 0, [0]), made("1b", 1, [1]), made("2c", 2, [-1]), made("3d", 3, [3, -1, 4])]
#: Salts by which a client would imitate a program, with others.
SALTS = st.one_of(
    st.none(),
    st.text("affectron:0a1b2c3d", max_size=24),
    st.builds(salted, st.sampled_from(SERVED), st.integers(1, 50), st.none() | st.text(max_size=3)),
)


@settings(max_examples=80, deadline=None)
@given(requests=st.tuples(*[st.tuples(st.sampled_from(SERVED), st.integers(1, 50), SALTS)] * 2))
def test_requests_share_blocks_only_if_they_steer_each_position_alike(requests: Any) -> None:
    first, second = ((steering(served, prompt), salt or None) for served, prompt, salt in requests)
    salts = [salted(*request) for request in requests]
    assert (salts[0] == salts[1]) == (first == second)


def test_requests_without_program_and_salt_are_as_without_the_plugin() -> None:
    assert salted(None, 7, None) is None
    assert salted(None, 7, "") is None


def test_the_salt_is_of_the_content_of_the_file(tmp_path: Path) -> None:
    """Not of its name: a program that was made anew reads nothing of the old one."""
    file = tmp_path / "anger.safetensors"
    salts = set()
    for acting in (program(0), program(1), Schedule(program(0), ((0, None),), "prompt")):
        acting.save(file)
        served = load(Settings(tmp_path))["anger"]
        salts |= {salted(served, 5, salt) for salt in (None, "client")}
    assert len(salts) == 6
    file.rename(tmp_path / "rage.safetensors")
    assert salted(load(Settings(tmp_path))["rage"], 5, None) in salts


def test_an_answer_in_a_later_prompt_is_read_anew_where_it_was_generated(library: Library) -> None:
    """The same tokens stand in the prompt of the second request, and are not steered there."""
    assert salted(library["answer"], 40, None) != salted(library["answer"], 56, None)
    assert salted(library["anger"], 40, None) == salted(library["anger"], 56, None)

"""The programs of a folder, and the place of each position against the definition of a schedule."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import affectron
from affectron._internal.files import digest
from affectron.interventions import Program, Schedule, schedule
from affectron.vllm.library import Library, load
from affectron.vllm.settings import Settings
from tests.support.errors import message
from tests.vllm.programs import program

A, B, C = (program(seed) for seed in range(3))
SITE = next(iter(A.sites))


def library(folder: Path, capacity: int = 16, **acting: Program | Schedule) -> Library:
    folder.mkdir(exist_ok=True)
    for name, one in acting.items():
        one.save(folder / f"{name}.safetensors")
    return load(Settings(folder, capacity))


def stored(one: Program) -> Any:
    return one.name, *(array.tobytes() for array in vars(one.sites[SITE]).values())


def test_programs_are_served_by_the_names_of_their_files(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not a program")
    made = library(tmp_path, **{"b": B, "A.v-2_x": A})
    assert list(made) == ["A.v-2_x", "b"]
    assert made.names == "A.v-2_x, b"
    assert [stored(one) for one in made.programs] == [stored(A), stored(B)]
    for name, served in made.items():
        file = tmp_path / f"{name}.safetensors"
        assert (served.name, served.digest) == (name, digest(file.read_bytes()))
        assert served.constant
        assert not served.windowed
    assert made["b"].places_at(np.array([-2, 0, 7])).tolist() == [1, 1, 1]


def test_a_schedule_has_a_place_for_each_different_program(tmp_path: Path) -> None:
    made = library(
        tmp_path,
        a=A,
        mixed=Schedule(B, ((0, None), (2, C), (5, B), (6, A)), "mixed"),
        off=schedule(B, where="generated"),
    )
    assert [stored(one) for one in made.programs] == [stored(one) for one in (A, B, C, A, B)]
    mixed, off = made["mixed"], made["off"]
    assert mixed.places_at(np.arange(-2, 8)).tolist() == [1, 1, -1, -1, 2, 2, 2, 1, 3, 3]
    assert mixed.windowed
    assert off.places_at(np.arange(-2, 3)).tolist() == [-1, -1, 4, 4, 4]
    assert not off.windowed
    assert not off.constant


def acts(acting: Schedule, generated: int) -> Program | None:
    """The definition of a schedule, at one position after the prompt."""
    if generated < 0:
        return acting.prompt
    now = None
    for start, one in acting.generated:
        if start <= generated:
            now = one
    return now


SCHEDULES = st.one_of(
    st.builds(
        lambda prompt, starts, programs: Schedule(prompt, tuple(zip([0, *starts], programs, strict=False)), "drawn"),
        st.sampled_from([None, A, B]),
        st.lists(st.integers(1, 40), unique=True, max_size=6).map(sorted),
        st.lists(st.sampled_from([None, A, B, C]), min_size=7, max_size=7),
    ).filter(lambda drawn: any((drawn.prompt, *(one for _, one in drawn.generated)))),
    st.builds(
        lambda where, start, length, half_life: schedule(
            A, where=where, start=start, stop=length and start + length, half_life=half_life
        ),
        st.sampled_from(["all", "generated"]),
        st.integers(0, 9),
        st.none() | st.integers(1, 30),
        st.none() | st.floats(1, 20),
    ),
)


@settings(max_examples=30, deadline=None)
@given(acting=SCHEDULES)
def test_every_position_has_the_program_of_the_schedule(
    acting: Schedule, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("programs")
    made = library(folder, other=C, drawn=acting)
    served = made["drawn"]
    positions = np.arange(-5, 150)
    places = served.places_at(positions)
    assert places.dtype == np.int32
    for position, place in zip(positions.tolist(), places.tolist(), strict=True):
        expected = acts(acting, position)
        found = None if place < 0 else made.programs[place]
        assert (found and stored(found)) == (expected and stored(expected)), position
    everywhere = [acts(acting, position) for position in range(-1, 150)]
    assert served.constant == (len(set(everywhere)) == 1)
    # A half-life counts as windowed although its steps may begin after the texts that are tried here.
    assert served.windowed or len(set(everywhere[1:])) == 1
    shutil.rmtree(folder)


def test_folders_without_programs_are_refused(tmp_path: Path) -> None:
    assert message(lambda: load(Settings(tmp_path / "nowhere"))) == (
        f"programs is '{tmp_path / 'nowhere'}', expected a folder of programs"
    )
    assert message(lambda: load(Settings(tmp_path))) == (
        f"programs is '{tmp_path}', which has no *.safetensors; affectron export writes them"
    )


@pytest.mark.parametrize("name", ["with space", "é", "a:b", "a,b", "a\n", "", "None"])
def test_other_names_are_refused(name: str, tmp_path: Path) -> None:
    told = message(lambda: library(tmp_path, **{name: A}).names)
    assert told == f"name of a program is {name!r}, expected letters, digits, '.', '_' and '-', and not 'None'"


def test_more_programs_than_places_are_refused(tmp_path: Path) -> None:
    fading = schedule(A, half_life=4)  # the program of the prompt, and twelve steps
    assert len(library(tmp_path, 14, fading=fading, b=B).programs) == 14
    assert message(lambda: load(Settings(tmp_path, 13))) == (
        f"capacity is 13, expected at least 14: {tmp_path} has 2 programs of 14 places"
    )


@pytest.mark.parametrize("where", ["text", "prompt"])
def test_programs_of_a_texts_own_tokens_are_refused(where: str, tmp_path: Path) -> None:
    told = message(lambda: library(tmp_path, a=schedule(A, where=where)))
    assert told.startswith(f"{tmp_path / 'a.safetensors'} acts on a text's own tokens or on those around it")


def test_a_damaged_file_is_refused_by_name(tmp_path: Path) -> None:
    library(tmp_path, a=A, b=B)
    file = tmp_path / "b.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert message(lambda: load(Settings(tmp_path))).startswith(f"{file}: ")
    file.write_bytes(whole[:40])
    assert str(file) in message(lambda: load(Settings(tmp_path)))


def test_a_program_of_no_neuron_is_served(tmp_path: Path) -> None:
    made = library(tmp_path, none=affectron.zero([]))
    assert made["none"].places_at(np.array([-1, 0])).tolist() == [0, 0]


def test_the_digest_tells_the_files_and_their_names(tmp_path: Path) -> None:
    first = library(tmp_path, a=A, b=B)
    assert load(Settings(tmp_path)).digest == first.digest
    digests = {first.digest, library(tmp_path, b=C).digest, library(tmp_path, b=B, c=B).digest}
    (tmp_path / "c.safetensors").rename(tmp_path / "d.safetensors")
    digests.add(load(Settings(tmp_path)).digest)
    assert len(digests) == 4


def test_a_relative_folder_is_read_where_the_process_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, one in enumerate((A, B)):
        there = tmp_path / str(number)
        (there / "programs").mkdir(parents=True)
        one.save(there / "programs" / "a.safetensors")
        monkeypatch.chdir(there)
        assert [stored(program) for program in load(Settings(Path("programs"))).programs] == [stored(one)]

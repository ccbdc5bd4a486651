"""Files of programs and schedules: what comes back is what was saved, bit for bit, and nothing else is read."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import affectron
from affectron._internal.provenance import Origin
from affectron._internal.tensor_file import write_arrays
from affectron.interventions import Program, Schedule, SiteProgram, compose, load_program, schedule, storage
from affectron.neurons import NeuronList, NeuronSet
from tests.support.errors import message
from tests.support.raw_activations import raw
from tests.support.tiny import build

TOKENS = raw(seed=3)
STATS = TOKENS.stats()
FIRST, SECOND, *_ = TOKENS.values
WIDTHS = {site: values.shape[1] for site, values in TOKENS.values.items()}
LISTS = [
    NeuronList("anger", "emotion", [(SECOND, 4, 0.1), (FIRST, 6, 0.2), (FIRST, 2, 0.3)]),
    NeuronList("joy", "emotion", [(FIRST, 1, 0.3)]),
]
NEURONS = NeuronSet(LISTS, WIDTHS, {"model": "tiny", "select": {"score": "entropy", "top": 0.05}})
ANGER, JOY = NEURONS["anger"], NEURONS["joy"]
PROGRAMS = {
    "zero": affectron.zero(ANGER),
    "mean": affectron.mean(ANGER, STATS),
    "attenuate": affectron.attenuate(ANGER, STATS, 0.7),
    "attenuate static": affectron.attenuate(ANGER, STATS, 0.7, dynamic=False),
    "induce": affectron.induce(ANGER, STATS, 2.5),
    "contrast": affectron.contrast(ANGER, STATS, 4.0, max_dose=0.3),
    "cross signal": affectron.cross_signal(ANGER, STATS, "metaphor", 0.3),
    "amplify": affectron.amplify(ANGER, 1.5),
    "residual": affectron.residual(TOKENS.stats(kind="residual"), FIRST, "anger"),
    "composed": compose(affectron.zero(ANGER), affectron.amplify(JOY, 2.0)),
    "weaker": affectron.contrast(ANGER, STATS).scaled(0.37),
    "of no neuron": affectron.zero([]),
    "of no origin": affectron.zero([(FIRST, 3)]),
}
SCHEDULES = {
    "all": schedule(PROGRAMS["zero"]),
    "text": schedule(PROGRAMS["zero"], where="text"),
    "prompt": schedule(PROGRAMS["zero"], where="prompt"),
    "prompt alone": schedule(PROGRAMS["zero"], stop=0),
    "fading": schedule(PROGRAMS["induce"], where="generated", start=3, stop=40, half_life=5),
    "several": Schedule(PROGRAMS["mean"], ((0, None), (2, PROGRAMS["zero"]), (7, PROGRAMS["mean"])), "several", None),
}


def bits(program: Program | None) -> Any:
    """All of a program, comparable bit for bit, with the order of its sites."""
    if program is None:
        return None
    sites = [
        (site, *(getattr(part, name).tobytes() for name in ("index", "scale", "damping", "floor", "shift")))
        for site, part in program.sites.items()
    ]
    return program.name, sites, program.origin


@pytest.mark.parametrize("kind", PROGRAMS)
def test_a_program_comes_back(kind: str, tmp_path: Path) -> None:
    program, file = PROGRAMS[kind], tmp_path / "program.safetensors"
    program.save(file)
    loaded = Program.load(file)
    assert bits(loaded) == bits(program)
    loaded.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == file.read_bytes()
    assert bits(load_program(file)) == bits(program)


FINITE = st.floats(allow_nan=False, allow_infinity=False, width=32)  # with -0 and subnormals


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), index=st.sets(st.integers(0, 2**31), max_size=9))
def test_any_parameters_come_back(data: st.DataObject, index: set[int], tmp_path: Path) -> None:
    def column(values: st.SearchStrategy[float]) -> Any:
        return data.draw(arrays(np.float32, len(index), elements=values))

    part = SiteProgram(
        np.array(sorted(index), dtype=np.int64), column(FINITE),
        column(st.floats(0, 2.0**99, width=32)), column(FINITE | st.just(-np.inf)), column(FINITE),
    )  # fmt: skip
    program = Program({"a": part, "z/0": part}, data.draw(st.text()))
    program.save(tmp_path / "program.safetensors")
    assert bits(Program.load(tmp_path / "program.safetensors")) == bits(program)


@pytest.mark.parametrize("kind", SCHEDULES)
def test_a_schedule_comes_back(kind: str, tmp_path: Path) -> None:
    given, file = SCHEDULES[kind], tmp_path / "schedule.safetensors"
    given.save(file)
    loaded = Schedule.load(file)
    before, after = ([one.prompt, one.text, *(program for _, program in one.generated)] for one in (given, loaded))
    assert loaded.name == given.name
    assert [start for start, _ in loaded.generated] == [start for start, _ in given.generated]
    assert list(map(bits, after)) == list(map(bits, before))
    # A program that acts at several positions is held once on the device.
    assert [list(map(id, after)).index(id(one)) for one in after] == [
        list(map(id, before)).index(id(one)) for one in before
    ]
    again = load_program(file)
    assert isinstance(again, Schedule)
    assert again.name == given.name


def test_programs_remember_what_they_were_made_for() -> None:
    origin = PROGRAMS["contrast"].origin
    assert origin is not None
    assert origin.widths == {SECOND: WIDTHS[SECOND], FIRST: WIDTHS[FIRST]}
    assert origin.provenance == {**NEURONS.provenance, "label": "anger"}
    composed = PROGRAMS["composed"].origin
    assert composed is not None
    assert composed.provenance == {**NEURONS.provenance, "label": ["anger", "joy"]}
    of_statistics = affectron.induce([(FIRST, 1)], STATS, label="anger").origin
    assert of_statistics == Origin({FIRST: WIDTHS[FIRST]}, {**STATS.provenance, "label": "anger"})
    assert PROGRAMS["of no origin"].origin is None
    assert NEURONS["anger"][:2].origin == NEURONS["anger"].origin
    assert LISTS[0].origin is None  # a set leaves the lists that it is given as they are


def test_programs_of_models_of_other_widths_are_not_composed() -> None:
    other = NeuronSet([NeuronList("anger", "emotion", [(FIRST, 6, 0.2)])], {FIRST: 999})
    told = message(lambda: compose(PROGRAMS["zero"], affectron.amplify(other["anger"], 2.0)))
    assert told.startswith(
        f"{FIRST} has {WIDTHS[FIRST]} neurons in the model of one program and 999 in that of another"
    )


def test_a_loaded_program_does_what_the_saved_one_does(tmp_path: Path) -> None:
    model = build("llama")
    widths = {site.name: site.neurons for site in affectron.find_sites(model)}
    site, width = next(iter(widths.items()))
    neurons = NeuronSet([NeuronList("anger", "emotion", [(site, 0, 1.0), (site, width - 1, 0.5)])], widths)
    program = affectron.amplify(neurons["anger"], 3.0)
    program.save(tmp_path / "program.safetensors")
    tokens = torch.arange(14).view(2, 7)
    with torch.no_grad():
        plain = model(tokens).logits
        with affectron.intervene(model, program):
            steered = model(tokens).logits
        with affectron.intervene(model, Program.load(tmp_path / "program.safetensors")):
            assert torch.equal(model(tokens).logits, steered)
    assert not torch.equal(plain, steered)


def test_a_model_of_another_width_or_without_the_site_is_refused(tmp_path: Path) -> None:
    model = build("llama")
    site, *_ = affectron.find_sites(model)
    neurons = NeuronSet([NeuronList("anger", "emotion", [(site.name, 0, 1.0)])], {site.name: site.neurons + 8})
    affectron.zero(neurons["anger"]).save(tmp_path / "program.safetensors")
    wider = Program.load(tmp_path / "program.safetensors")
    assert message(lambda: affectron.intervene(model, wider).__enter__()) == (
        f"program 'zero anger' was made for another model: {site.name} has {site.neurons + 8} neurons there and "
        f"{site.neurons} here"
    )
    elsewhere = affectron.zero([("transformer.h.0.mlp", 0)])
    assert "which the model does not have" in message(lambda: affectron.intervene(model, elsewhere).__enter__())


def test_other_files_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "program.safetensors"
    assert message(lambda: Program.load(file)) == f"cannot read {file}: no such file"
    STATS.save(file)
    assert message(lambda: Program.load(file)) == (f"{file}: format is 'affectron.stats', expected 'affectron.program'")
    SCHEDULES["all"].save(file)
    assert message(lambda: Program.load(file)) == (
        f"{file} holds a schedule, expected a program; read it with Schedule.load"
    )
    PROGRAMS["zero"].save(file)
    assert message(lambda: Schedule.load(file)) == (
        f"{file} holds a program, expected a schedule; read it with Program.load"
    )
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert "altered or damaged" in message(lambda: Program.load(file))
    file.write_bytes(pickle.dumps({"sites": {}}))
    assert "is not a whole safetensors file" in message(lambda: load_program(file))


def test_a_server_names_a_program_by_its_file() -> None:
    names = {"anger.safetensors": "anger", "a/b.c/anger-2.v1_x.safetensors": "anger-2.v1_x", "7.safetensors": "7"}
    assert {file: storage.served_name(file) for file in names} == names


@pytest.mark.parametrize(
    ("file", "told"),
    [
        ("anger", "file of a program is 'anger', expected NAME.safetensors"),
        ("anger.safetensors/", "file of a program is '', expected NAME.safetensors"),
        ("anger.SAFETENSORS", "file of a program is 'anger.SAFETENSORS', expected"),
        (".safetensors", "name of a program is '', expected letters, digits"),
        ("None.safetensors", "name of a program is 'None', expected"),
        ("wut/größer.safetensors", "name of a program is 'größer', expected"),
        ("anger\n.safetensors", r"name of a program is 'anger\n', expected"),
        ("٣.safetensors", "name of a program is '٣', expected"),
        ("two words.safetensors", "name of a program is 'two words', expected"),
    ],
)
def test_other_names_are_refused(file: str, told: str) -> None:
    assert message(lambda: storage.served_name(file)).startswith(told)


PROGRAM = {"name": "zero", "sites": ["mlp"], "origin": None}
SCHEDULE = {"name": "zero", "prompt": 0, "text": None, "generated": [[0, None]]}


@pytest.mark.parametrize(
    "content",
    [
        {"programs": [], "schedule": None},
        {"programs": [PROGRAM]},
        {"programs": [PROGRAM | {"name": 3}], "schedule": None},
        {"programs": [PROGRAM | {"sites": ["mlp", "mlp"]}], "schedule": None},
        {"programs": [PROGRAM | {"sites": [0]}], "schedule": None},
        {"programs": [PROGRAM | {"origin": {"widths": {"mlp": 0}, "provenance": {}}}], "schedule": None},
        {"programs": [PROGRAM | {"origin": {"widths": ["mlp"], "provenance": {}}}], "schedule": None},
        {"programs": [PROGRAM | {"origin": {"widths": {}}}], "schedule": None},
        {"programs": [PROGRAM, PROGRAM], "schedule": None},
        {"programs": [PROGRAM], "schedule": SCHEDULE | {"prompt": 1}},
        {"programs": [PROGRAM], "schedule": SCHEDULE | {"text": -1}},
        {"programs": [PROGRAM], "schedule": SCHEDULE | {"name": None}},
        {"programs": [PROGRAM], "schedule": SCHEDULE | {"generated": [["0", None]]}},
        {"programs": [PROGRAM], "schedule": SCHEDULE | {"generated": None}},
        {"programs": [PROGRAM], "schedule": SCHEDULE | {"prompt": False}},
        {"programs": [PROGRAM], "schedule": SCHEDULE | {"text": 0.0}},
        {"programs": [PROGRAM], "schedule": SCHEDULE | {"generated": [[0, 0.0]]}},
        {"programs": {"0": PROGRAM}, "schedule": SCHEDULE},
        {"programs": [PROGRAM | {"sites": "m"}], "schedule": None},
        {"programs": "mlp", "schedule": None},
    ],
)
def test_a_file_that_describes_no_program_is_refused(content: dict[str, Any], tmp_path: Path) -> None:
    """The digest is right: such a file was made by hand."""
    file = tmp_path / "program.safetensors"
    tensors = {f"0/mlp/{name}": np.zeros(0, kind) for name, kind in storage.ARRAYS.items()}
    write_arrays(file, storage.FORMAT, storage.VERSION, content, tensors)
    assert message(lambda: load_program(file)) == (
        f"{file}: the metadata do not describe the tensors; the file was altered or damaged"
    )


@pytest.mark.parametrize(
    ("arrays", "generated", "told"),
    [
        ({"index": np.array([3, 3])}, [[0, 0]], "index must be ascending"),
        ({"floor": np.array([0, np.nan], np.float32)}, [[0, 0]], "floor of neuron 2 is nan"),
        ({}, [[1, 0]], "generated begins at tokens [1], expected ascending numbers from 0"),
        ({}, [[0, 0], [1 << 63, 0]], "generated begins at tokens [0, 9223372036854775808], expected ascending"),
        ({}, [[5, 0]] * 9999, "generated holds 9999 programs, expected at most 15"),
    ],
)
def test_a_file_of_a_wrong_program_is_refused(
    arrays: dict[str, Any], generated: list[Any], told: str, tmp_path: Path
) -> None:
    file = tmp_path / "program.safetensors"
    of_site = {name: np.arange(1, 3).astype(kind) for name, kind in storage.ARRAYS.items()} | arrays
    storage.write(file, [storage.Stored("zero", {"mlp": of_site}, None)], SCHEDULE | {"generated": generated})
    assert message(lambda: load_program(file)).startswith(f"{file}: {told}")

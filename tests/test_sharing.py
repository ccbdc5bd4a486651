"""Programs, neurons and statistics in repositories of the hub: a local folder, and a hub on loopback."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard, constants

import affectron
from affectron._internal.hub import Shareable
from affectron.errors import Note
from affectron.experiments.results import Validation
from affectron.interventions import Program, Schedule, schedule
from affectron.neurons import NeuronList, NeuronSet
from affectron.stats import ActivationStats
from tests.report.reading import written, written_pair
from tests.support.errors import message
from tests.support.hub import FakeHub, serving
from tests.support.results import SITES, WIDTH, make_stats, make_validation

REPO = "ada/neurons"
TASKS = {"emotion": ("anger", "joy")}
MADE = make_stats(TASKS)
PROVENANCE = {
    **MADE.provenance,
    "select": {"score": "entropy", "top": 0.05, "fdr": None, "removed": {"anger": {"top": 9}}},
}
STATS = ActivationStats(
    MADE.tasks,
    MADE.segments,
    {
        site: {name: getattr(MADE, name)[site] for name in ("count", "active", "nonfinite", "mean", "m2", "min", "max")}
        for site in MADE.sites
    },
    MADE.provenance,
    np.array([3, 14, 2**63], dtype=np.uint64),
)
NEURONS = NeuronSet(
    [
        NeuronList("anger", "emotion", [(SITES[0], 4, 0.1), (SITES[3], 6, -0.2)]),
        NeuronList("joy", "emotion", [(SITES[0], 7, 0.1)]),
    ],
    dict.fromkeys(SITES, WIDTH),
    PROVENANCE,
    np.array([3, 14], dtype=np.uint64),
)
ZERO = affectron.zero(NEURONS["anger"])
FADING = schedule(affectron.contrast(NEURONS["joy"], STATS, 4.0), where="generated", half_life=3)
OBJECTS: dict[str, Any] = {"program": ZERO, "schedule": FADING, "neurons": NEURONS, "statistics": STATS}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """An empty hub on loopback; Ada is logged in, and Bob has a token."""
    fake = FakeHub()
    fake.owners |= {"hf_ada": "ada", "hf_bob": "bob"}
    monkeypatch.chdir(tmp_path)
    with serving(fake):
        for name, value in {
            "ENDPOINT": fake.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": fake.url + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_OFFLINE": False,
            "HF_HUB_CACHE": str(tmp_path / "cache"),
            "HF_HUB_DISABLE_XET": True,
            "HF_HUB_DISABLE_TELEMETRY": True,
        }.items():
            monkeypatch.setattr(constants, name, value)
        monkeypatch.setenv("HF_TOKEN", "hf_ada")
        monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
        yield fake


def saved(kept: Shareable, folder: Path) -> bytes:
    kept.save(folder / "saved")
    return (folder / "saved").read_bytes()


# --- there and back --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", OBJECTS)
def test_what_is_pushed_comes_back(kind: str, hub: FakeHub, tmp_path: Path) -> None:
    kept = OBJECTS[kind]
    address = kept.push_to_hub(REPO)
    repository = hub.repositories[REPO]
    assert address == f"{hub.url}/{REPO}/commit/{repository.refs['main']}"
    assert repository.messages[1:] == [f"Add {kept.hub_file}"]
    assert repository.files[kept.hub_file] == saved(kept, tmp_path)
    # Safetensors go by LFS, JSON does not.
    assert (repository.files[kept.hub_file] in hub.large.values()) == kept.hub_file.endswith(".safetensors")
    again = type(kept).from_hub(REPO)
    assert type(again) is type(kept)
    assert saved(again, tmp_path) == saved(kept, tmp_path)
    assert saved(type(kept).from_hub(REPO, local_files_only=True), tmp_path) == saved(kept, tmp_path)


@pytest.mark.parametrize("kind", OBJECTS)
def test_a_folder_serves_as_a_repository(kind: str, tmp_path: Path) -> None:
    kept = OBJECTS[kind]
    kept.save(tmp_path / kept.hub_file)
    for folder in (tmp_path, str(tmp_path)):
        assert saved(type(kept).from_hub(folder), tmp_path) == saved(kept, tmp_path)
    kept.save(tmp_path / "other.name")
    assert saved(type(kept).from_hub(tmp_path, file="other.name"), tmp_path) == saved(kept, tmp_path)


def test_branches_private_repositories_and_other_caches(hub: FakeHub, tmp_path: Path) -> None:
    ZERO.push_to_hub(REPO, private=True, revision="strong", commit_message="Mask anger")
    repository = hub.repositories[REPO]
    assert repository.private
    assert repository.messages[-1] == "Mask anger"
    assert ZERO.hub_file not in repository.files
    assert len(Program.from_hub(REPO, revision="strong", cache_dir=tmp_path / "mine")) == 2
    assert (tmp_path / "mine").is_dir()
    assert not (tmp_path / "cache").exists()
    ZERO.push_to_hub(REPO, revision="strong", token="hf_ada")  # the branch is there
    for token in ("hf_bob", False):
        told = message(lambda token=token: Program.from_hub(REPO, token=token))
        assert told.startswith(f"{REPO} is no folder here: there is no such repository that can be seen")


def test_a_pull_request_to_the_repository_of_another(hub: FakeHub) -> None:
    hub.add("bob/neurons")
    assert ZERO.push_to_hub("bob/neurons", create_pr=True) == f"{hub.url}/bob/neurons/discussions/1"
    assert ZERO.hub_file not in hub.repositories["bob/neurons"].files
    assert len(Program.from_hub("bob/neurons", revision="refs/pr/1")) == 2


def validated(neurons: NeuronSet, screened: int | None = 0) -> Validation:
    made = {
        "neurons": neurons.provenance,
        "corpus_name": "data.jsonl",
        "corpus_splits": {"test": "c7068e0e"},
        "tested": {"sentences": 238, "screened": screened, "texts": ""},
    }
    return replace(make_validation(TASKS, neurons), provenance=made)


# --- the card --------------------------------------------------------------------------------------------------


def card(hub: FakeHub) -> str:
    return hub.repositories[REPO].files["README.md"].decode()


def test_a_card_says_how_the_neurons_were_found(hub: FakeHub) -> None:
    NEURONS.push_to_hub(REPO)
    text = card(hub)
    _, head, body = text.split("---\n", 2)
    assert yaml.safe_load(head) == {
        "library_name": "affectron", "tags": ["affectron", "interpretability", "neurons", "steering"],
    }  # fmt: skip
    assert body.startswith("\n# neurons\n\n<!-- affectron: neurons.json -->\n")
    assert body.endswith("<!-- /affectron: neurons.json -->\n")
    for line in (
        "| label | task | neurons | sites |",
        "| anger | emotion | 2 | 2 |",
        "| name | emorhet-3m |",
        "| model configuration | 5f0c9b7e |",
        "| select.score | entropy |",
        "| select.top | 0.05 |",
        '| corpus | \\["77b1c0de"\\] |',
        "| corpus\\_name | data.jsonl |",
        "| split | train |",
        "Not tested: no validation was pushed with the file.",
        'neurons = affectron.NeuronSet.from_hub("ada/neurons")',
        f"Written by affectron {affectron.__version__}.",
    ):
        assert line in text.splitlines(), line
    assert "fdr" not in text  # not set
    assert "a 64-bit hash of each of the 2 texts that were screened" in text


def test_the_code_of_a_card_runs(hub: FakeHub) -> None:
    for kept in (NEURONS, STATS):
        kept.push_to_hub(REPO)
        code = card(hub).split("```python\n")[-1].partition("```")[0]
        exec(code, {})
    ZERO.push_to_hub(REPO, file="anger.safetensors")
    code = card(hub).split("```python\n")[-1].partition("```")[0]
    names: dict[str, Any] = {}
    exec(code.partition("\nwith ")[0], names)
    assert len(names["program"]) == 2
    assert code.count("\n") == 5


def test_a_model_of_the_hub_is_the_base_model(hub: FakeHub) -> None:
    origin = {**PROVENANCE, "model": "owner/tiny", "revision": "0123"}
    lists = [NeuronList("anger", "emotion", [(SITES[0], 4, 0.1)])]
    NeuronSet(lists, {SITES[0]: WIDTH}, origin).push_to_hub(REPO)
    assert yaml.safe_load(card(hub).split("---\n")[1])["base_model"] == "owner/tiny"
    assert "no text of the corpus, and no hash of one" in card(hub)


def test_a_card_gives_the_test(hub: FakeHub) -> None:
    validation = validated(NEURONS)
    NEURONS.push_to_hub(REPO, validation=validation)
    rows = [line.split(" | ") for line in card(hub).splitlines() if r" \[" in line and line.count(" | ") == 5]
    told = {(row[0].removeprefix("| "), row[1]): row[2:] for row in rows if row[0] != "| label"}
    expected = {
        (label, mask): effect for label, result in validation.results.items() for mask, effect in result.masks.items()
    }
    assert told.keys() == expected.keys()
    assert len(told) > 2
    for key, effect in expected.items():
        verdict, change, n, p = told[key]
        assert verdict.startswith(effect.verdict)
        assert effect.reason.split("(")[0] in verdict
        assert change.replace("\\", "") == f"{written(effect.delta)} {written_pair(list(effect.interval))}"
        assert n == str(validation.results[key[0]].sentences)
        adjusted = effect.specific_adjusted_p if effect.verdict == "specific" else effect.adjusted_p
        assert p.removesuffix(" |").replace("\\", "") == ("< 0.001" if adjusted < 0.001 else f"{adjusted:.3g}")
    assert "specific" in {effect.verdict for effect in expected.values()}
    assert "These splits have 238 sentences; 0 of them were among the texts that the neurons were found on." in card(
        hub
    )
    ZERO.push_to_hub(REPO, validation=validated(NEURONS, screened=None))  # of its own label alone
    assert "it is not known how many of them were among the texts" in card(hub)
    of_program = card(hub).partition("<!-- affectron: program.safetensors -->")[2]
    assert "The masks were tested, not the program of this file." in of_program
    assert "| anger | zero |" in of_program
    assert "| joy |" not in of_program


def test_a_validation_of_other_neurons_is_refused(hub: FakeHub) -> None:
    other = NeuronSet(NEURONS.values(), NEURONS.widths, {**PROVENANCE, "split": "dev"})
    validation = validated(other)
    for kept in (NEURONS, ZERO):
        told = message(lambda kept=kept: kept.push_to_hub(REPO, validation=validation))
        assert told.startswith("validation is of other neurons")
    told = message(lambda: STATS.push_to_hub(REPO, validation=validation))
    assert told == "validation is given with statistics, expected it with neurons or a program"
    assert REPO not in hub.repositories


def test_a_card_has_a_section_for_each_file_and_leaves_the_rest(hub: FakeHub) -> None:
    ZERO.push_to_hub(REPO)
    repository = hub.repositories[REPO]
    files = dict(repository.files)
    own = "---\nlicense: mit\n---\n# Mine\n\nBefore.\n\n" + card(hub).partition("# neurons\n\n")[2] + "\nAfter.\n"
    repository.commit(files | {"README.md": own.encode()})
    affectron.amplify(NEURONS["anger"], 3.0).push_to_hub(REPO)
    before, section, after = own.partition("It changes 2 neurons at 2 sites.")
    assert card(hub) == before.replace("zero anger", "amplify 3 anger") + section + after
    NEURONS.push_to_hub(REPO)
    assert card(hub).startswith(before.replace("zero anger", "amplify 3 anger") + section + after)
    assert card(hub).endswith("<!-- /affectron: neurons.json -->\n")
    NEURONS.push_to_hub(REPO)
    assert card(hub).count("<!-- affectron: neurons.json -->") == 1


def test_a_readme_that_a_person_wrote_is_left_as_it_is(hub: FakeHub) -> None:
    repository = hub.add(REPO, {"README.md": b"Mine.\n"})
    with pytest.warns(
        Note, match="README.md of ada/neurons is left as it is, and program.safetensors is pushed"
    ) as told:
        ZERO.push_to_hub(REPO)
    assert "\n" not in str(told[0].message)
    assert card(hub) == "Mine.\n"
    assert ZERO.hub_file in repository.files
    begin, end = str(told[0].message).partition("push again: ")[2].replace("--> <!--", "-->|<!--").split("|")
    repository.commit(dict(repository.files) | {"README.md": f"---\ntags: []\n---\nA {begin}{end} B".encode()})
    ZERO.push_to_hub(REPO)
    assert card(hub).startswith(f"---\ntags: []\n---\nA {begin}\n")
    assert card(hub).endswith(f"\n{end} B")


def test_names_in_a_card_cannot_end_its_tables_or_sections(hub: FakeHub) -> None:
    label = "a|b\n<!-- /affectron: neurons.json -->`*_"
    lists = [NeuronList(label, "emotion", [(SITES[0], 4, 0.1)])]
    origin = {"corpus_name": "[x](y) | z &lt; $1$ ~~2~~", "model": "a: [\n---\nb", "revision": "0123"}
    odd = NeuronSet(lists, {SITES[0]: WIDTH}, origin)
    odd.push_to_hub(REPO)
    affectron.zero(odd[label]).push_to_hub(REPO)
    text = card(hub)
    assert text.count("<!-- /affectron: neurons.json -->") == 1
    assert r"| a\|b\\n\<!-- /affectron: neurons.json --\>\`\*\_ | emotion | 1 | 1 |" in text
    assert r"| corpus\_name | \[x\](y) \| z \&lt; \$1\$ \~\~2\~\~ |" in text
    assert ModelCard(text).data.base_model == origin["model"]


@pytest.mark.parametrize("file", ["README.md", 'a", token="b', "a-->b", "a\nb"])
def test_names_that_no_file_can_have(file: str, hub: FakeHub) -> None:
    assert message(lambda: ZERO.push_to_hub(REPO, file=file)) == (
        f"file is {file!r}, expected a name of letters, digits and . _ - /, other than README.md"
    )
    assert REPO not in hub.repositories


# --- refusals --------------------------------------------------------------------------------------------------


def test_a_file_that_is_not_there(hub: FakeHub, tmp_path: Path) -> None:
    for name in ("b.safetensors", "a.safetensors"):
        ZERO.push_to_hub(REPO, file=name)
    expected = "has no program.safetensors; it has a.safetensors, b.safetensors: name one with file="
    assert message(lambda: Program.from_hub(REPO)) == f"{REPO} {expected}"
    assert message(lambda: NeuronSet.from_hub(REPO, file="c.json")) == (
        f"{REPO} has no c.json; it has a.safetensors, b.safetensors: name one with file="
    )
    folder = tmp_path / "run"
    folder.mkdir()
    assert message(lambda: Program.from_hub(folder)) == (
        f"{folder} has no program.safetensors; it has no such file under another name"
    )
    for name in ("b.safetensors", "a.safetensors", "notes.txt"):
        ZERO.save(folder / name)
    assert message(lambda: Program.from_hub(folder)) == f"{folder} {expected}"
    assert message(lambda: Program.from_hub(tmp_path / "none")) == (
        f"folder {tmp_path / 'none'} does not exist, expected one with program.safetensors"
    )


def test_a_file_of_another_kind(hub: FakeHub) -> None:
    STATS.push_to_hub(REPO)
    told = message(lambda: Program.from_hub(REPO, file="stats.safetensors"))
    assert told.endswith("stats.safetensors: format is 'affectron.stats', expected 'affectron.program'")
    FADING.push_to_hub(REPO)
    assert "holds a schedule, expected a program" in message(lambda: Program.from_hub(REPO))
    assert Schedule.from_hub(REPO).name == FADING.name
    hub.repositories[REPO].commit({"neurons.json": b"\x80\x04}q\x00."})  # a pickle
    assert "neurons.json" in message(lambda: NeuronSet.from_hub(REPO))


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: Program.from_hub("ada/none"), "ada/none is no folder here: there is no such repository that can be"),
        (lambda: Program.from_hub("ada/gated"), "ada/gated is no folder here: the repository on the hub is gated: acc"),
        (
            lambda: Program.from_hub("ada/there", revision="v9"),
            "ada/there is no folder here: the repository on the hub",
        ),
        (
            lambda: Program.from_hub("./there"),
            "./there is no folder here: this is no name on the hub, expected that of",
        ),
        (lambda: ZERO.push_to_hub("a b"), "cannot push to a b: this is no name on the hub, expected that of a reposi"),
        (
            lambda: ZERO.push_to_hub("bob/there"),
            "cannot push to bob/there: the hub denies the right to do this (403)",
        ),
        (
            lambda: ZERO.push_to_hub("bob/new"),
            "cannot push to bob/new: the hub denies the right to do this (403)",
        ),
        (
            lambda: ZERO.push_to_hub(REPO, token="hf_no"),
            f"cannot push to {REPO}: the hub denies the right to",
        ),
    ],
)
def test_what_the_hub_refuses(call: Callable[[], Any], told: str, hub: FakeHub) -> None:
    hub.add("ada/there")
    hub.add("bob/there")
    hub.add("ada/gated", gated=True)
    assert message(call).startswith(told)
    assert ZERO.hub_file not in {file for one in hub.repositories.values() for file in one.files}


def test_a_branch_that_moves_while_the_card_is_made(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = hub.add(REPO)
    write = affectron._internal.model_card.head

    def slow(*arguments: Any) -> str:
        repository.commit({"README.md": b"Mine.\n"})
        return write(*arguments)

    monkeypatch.setattr("affectron._internal.model_card.head", slow)
    assert (
        message(lambda: ZERO.push_to_hub(REPO))
        == f"cannot push to {REPO}: the branch has changed meanwhile: do it again"
    )
    assert card(hub) == "Mine.\n"


def test_without_a_network(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = message(lambda: Program.from_hub(REPO, local_files_only=True))
    assert told == (
        f"{REPO} is no folder here: it is not in the cache {tmp_path / 'cache'}, and local_files_only forbids to ask "
        f"the hub: download it where there is a network (hf download {REPO}) and bring the cache here, or give the "
        "path of a folder"
    )
    nobody = "http://127.0.0.1:9"  # the port of a service that none runs
    monkeypatch.setattr(constants, "ENDPOINT", nobody)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", nobody + "/{repo_id}/resolve/{revision}/{filename}")
    assert "and there is no way to ask the hub" in message(lambda: Program.from_hub(REPO))
    assert message(lambda: ZERO.push_to_hub(REPO)).startswith(f"cannot push to {REPO}: the hub cannot be asked: ")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "and HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE forbids to ask" in message(lambda: Program.from_hub(REPO))
    assert message(lambda: ZERO.push_to_hub(REPO)) == (
        f"cannot push to {REPO}: HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE forbids to ask the hub"
    )

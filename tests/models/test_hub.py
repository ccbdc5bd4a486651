"""Models by their name on the hub: from its cache as transformers leaves it, from a server of its kind, and one line
for whatever stands in the way."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from affectron import Corpus, screen
from affectron.models import fingerprint, load_model, load_skeleton
from affectron.models.provenance import made_with
from tests.support.errors import message
from tests.support.hub import FakeHub, serving
from tests.support.tiny import build, make_tokenizer

NAME, COMMIT = "owner/tiny", "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    build("llama").save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def cached(saved: Path, cache: Path, name: str = NAME) -> Path:
    """The snapshot of a cache that has the model, laid out as huggingface_hub does: links to files named by content."""
    store = cache / f"models--{name.replace('/', '--')}"
    snapshot = store / "snapshots" / COMMIT
    for folder in (snapshot, store / "blobs", store / "refs"):
        folder.mkdir(parents=True)
    (store / "refs" / "main").write_text(COMMIT)
    for file in saved.iterdir():
        blob = store / "blobs" / hashlib.sha256(file.read_bytes()).hexdigest()
        shutil.copy(file, blob)
        (snapshot / file.name).symlink_to(os.path.relpath(blob, snapshot))
    return snapshot


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache in the place of the user's; the tests run offline."""
    assert constants.HF_HUB_OFFLINE
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "hub"


# --- the cache -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [NAME, "tiny"])
def test_a_name_is_loaded_from_the_cache_and_remembered(saved: Path, cache: Path, name: str) -> None:
    cached(saved, cache, name)
    model, tokenizer = load_model(name)
    made = made_with(model, tokenizer)
    assert made["model"] == name
    assert made["revision"] == COMMIT
    folder = made_with(*load_model(saved))
    assert folder["model"] == saved.name
    assert "revision" not in folder
    same = ("model_hash", "weights", "tokenizer")
    assert [made[key] for key in same] == [folder[key] for key in same]
    assert fingerprint(model) == fingerprint(build("llama"))


def test_a_snapshot_given_as_a_folder_is_remembered_by_its_name(saved: Path, cache: Path) -> None:
    made = made_with(*load_model(cached(saved, cache)))
    assert (made["model"], made["revision"]) == (NAME, COMMIT)


def test_statistics_keep_the_name_and_the_commit(saved: Path, cache: Path) -> None:
    cached(saved, cache)
    corpus = Corpus.from_records([{"text": f"w{i}", "label": "ab"[i % 2]} for i in range(4)])
    provenance = screen(*load_model(NAME, device="cpu"), corpus).provenance
    assert (provenance["model"], provenance["revision"], provenance["device"]) == (NAME, COMMIT, "cpu")


def test_a_skeleton_needs_the_config_alone(saved: Path, cache: Path) -> None:
    snapshot = cached(saved, cache)
    for file in snapshot.iterdir():
        if file.name != "config.json":
            file.unlink()
    assert type(load_skeleton(NAME)).__name__ == "LlamaForCausalLM"
    assert "has no weights" in message(lambda: load_model(NAME))


def test_pickles_in_the_cache_are_not_read(saved: Path, cache: Path) -> None:
    snapshot = cached(saved, cache)
    (snapshot / "pytorch_model.bin").write_bytes(b"no weights")  # beside safetensors: these are taken
    load_model(NAME)
    (snapshot / "model.safetensors").unlink()
    torch.save(build("llama").state_dict(), snapshot / "pytorch_model.bin")
    assert "pickled weights are not read" in message(lambda: load_model(NAME))


def test_a_folder_goes_before_a_name(saved: Path, cache: Path, tmp_path: Path) -> None:
    cached(saved, cache, "tiny")
    build("llama", seed=1).save_pretrained(tmp_path / "tiny")
    make_tokenizer().save_pretrained(tmp_path / "tiny")
    model, tokenizer = load_model("tiny")
    assert fingerprint(model) == fingerprint(build("llama", seed=1))
    assert "revision" not in made_with(model, tokenizer)


@pytest.mark.parametrize("path", ["./tiny", "../tiny", "tiny/", "/tiny", "~/tiny", "a/b/tiny", Path("tiny"), "a b"])
def test_a_path_is_never_looked_up(saved: Path, cache: Path, path: str | Path) -> None:
    cached(saved, cache, "tiny")
    assert message(lambda: load_model(path)).startswith("model folder ")


@pytest.mark.parametrize("load", [load_model, load_skeleton])
def test_a_name_that_is_not_in_the_cache(cache: Path, load: Callable[[str], Any]) -> None:
    assert message(lambda: load("gpt2")) == (
        f"gpt2 is no folder here: it is not in the cache {cache}, and HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE forbids "
        "to ask the hub: download it where there is a network (hf download gpt2) and bring the cache here, or give the "
        "path of a folder"
    )
    assert not cache.exists()


# --- a server --------------------------------------------------------------------------------------------------


@pytest.fixture
def hub(saved: Path, tmp_path: Path) -> Iterator[FakeHub]:
    """A hub with a model in several formats, and one that is gated."""
    folder = Path(shutil.copytree(saved, tmp_path / "served"))
    weights = {"a": torch.zeros(3)}
    torch.save(weights, folder / "pytorch_model.bin")
    for name in ("model.fp16.safetensors", "consolidated.safetensors", "onnx/model.safetensors"):
        (folder / name).parent.mkdir(exist_ok=True)
        save_file(weights, folder / name)
    (folder / "code.py").write_text("raise SystemExit")
    fake = FakeHub()
    fake.add_folder(NAME, folder)
    fake.add("some/gated", gated=True)
    with serving(fake):
        yield fake


def info(endpoint: str, cache: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own, as the library reads these variables once."""
    environment = {
        **os.environ,
        "HF_ENDPOINT": endpoint,
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_CACHE": str(cache),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "no_proxy": "127.0.0.1",
    }
    environment.pop("HF_TOKEN", None)
    command = [sys.executable, "-m", "affectron", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=cache.parent)


def test_a_name_is_downloaded_without_what_is_not_read(hub: FakeHub, tmp_path: Path) -> None:
    cache = tmp_path / "hub"
    told = info(hub.url, cache, "info", NAME, "--json")
    assert told.returncode == 0, told.stderr
    assert json.loads(told.stdout)["model"]["class"] == "LlamaForCausalLM"
    assert {name for name in hub.asked if not name.endswith(".json")} == set()  # no weights

    (tmp_path / "corpus.jsonl").write_text('{"text": "w1", "label": "a"}\n{"text": "w2", "label": "b"}\n')
    told = info(hub.url, cache, "screen", NAME, "corpus.jsonl", "-o", "stats.safetensors", "--device", "cpu")
    assert told.returncode == 0, told.stderr
    assert {name for name in hub.asked if not name.endswith((".json", ".txt", ".jinja"))} == {"model.safetensors"}
    assert f"on {NAME}" in told.stdout


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("no/where", "there is no such model that can be seen: check the name; a private one needs a login "),
        ("some/gated", "the model on the hub is gated: accept its terms on its page, and log in"),
    ],
)
def test_a_name_that_the_hub_refuses(hub: FakeHub, tmp_path: Path, name: str, told: str) -> None:
    refused = info(hub.url, tmp_path / "hub", "info", name)
    assert refused.returncode == 2
    assert refused.stdout == ""
    assert refused.stderr.startswith(f"error: {name} is no folder here: {told}"), refused.stderr
    assert refused.stderr.count("\n") == 1


def test_without_a_network(saved: Path, tmp_path: Path) -> None:
    nobody = "http://127.0.0.1:9"  # the port of a service that discards what it gets: none runs it
    refused = info(nobody, tmp_path / "hub", "info", "gpt2")
    assert refused.returncode == 2
    assert "gpt2 is no folder here: it is not in the cache" in refused.stderr
    assert "there is no way to ask the hub: download it where there is a network (hf download gpt2)" in refused.stderr
    assert refused.stderr.startswith("error: ")
    assert refused.stderr.count("\n") == 1
    cached(saved, tmp_path / "hub")
    assert info(nobody, tmp_path / "hub", "info", NAME, "--json").returncode == 0

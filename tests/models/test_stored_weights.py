"""The fingerprint of a folder's weights against that of the loaded model, and what has none without loading."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from affectron.errors import InputError
from affectron.models import fingerprint, load_model, stored_fingerprint
from affectron.models.load import stored_weights
from tests.support.errors import message
from tests.support.families import FAMILIES, available
from tests.support.tiny import HIDDEN, build, make_tokenizer

pytestmark = pytest.mark.filterwarnings("ignore:.*exact, but not fused")

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
REFUSAL = "cannot be compared without loading the model: "
UP = "model.layers.1.mlp.up_proj.weight"
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
renames = pytest.mark.skipif(
    transformers.__version__.startswith("4."), reason="transformers 4 lists no renamed weights"
)


def save(model: Any, folder: Path, shard: str = "1GB") -> Path:
    model.save_pretrained(folder, max_shard_size=shard)
    make_tokenizer().save_pretrained(folder)
    return folder


def store(folder: Path, change: Callable[[dict[str, Tensor]], Any]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file({name: weight.contiguous() for name, weight in weights.items()}, folder / "model.safetensors")


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def names(folder: Path) -> set[str]:
    found: set[str] = set()
    for file in folder.glob("*.safetensors"):
        with safe_open(file, framework="pt") as stored:
            found |= set(stored.keys())
    return found


def loaded_fingerprint(folder: Path, dtype: str) -> str:
    return fingerprint(load_model(folder, dtype)[0])


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(FAMILIES["gemma2"].build(), tmp_path_factory.mktemp("tied"))


# --- the same fingerprint ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("stored", "shard"), [("float32", "20KB"), ("bfloat16", "1GB"), ("float16", "20KB")])
def test_it_is_that_of_the_loaded_model_in_any_dtype(family: str, stored: str, shard: str, tmp_path: Path) -> None:
    save(build(family).to(DTYPES[stored]), tmp_path, shard)
    assert (tmp_path / "model.safetensors.index.json").exists() == (shard == "20KB")
    found = {dtype: stored_fingerprint(tmp_path, dtype) for dtype in DTYPES}
    assert found == {dtype: loaded_fingerprint(tmp_path, dtype) for dtype in DTYPES}
    assert len(set(found.values())) == 3 or stored != "float32"


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_has_that_of_the_loaded_model_or_is_refused(name: str, tmp_path: Path) -> None:
    if not available(name):
        pytest.skip(f"transformers {transformers.__version__} has no such {name}")
    save(FAMILIES[name].build(), tmp_path, "20KB")
    try:
        model, _ = load_model(tmp_path, "bfloat16")
    except InputError:
        assert REFUSAL in message(lambda: stored_fingerprint(tmp_path, "bfloat16"))
        return
    if names(tmp_path) - model.state_dict().keys():  # experts, stored one by one
        assert f"{REFUSAL}transformers converts model." in message(lambda: stored_fingerprint(tmp_path, "bfloat16"))
    elif name == "gpt_oss":  # its norms may be kept in float32
        assert REFUSAL in message(lambda: stored_fingerprint(tmp_path, "bfloat16"))
    else:
        assert stored_fingerprint(tmp_path, "bfloat16") == fingerprint(model)


@pytest.mark.parametrize("name", ["emorhet-3m", "stories260K"])
def test_real_models(shared: Path, name: str) -> None:
    folder = shared / "models" / name
    for dtype in DTYPES:
        assert stored_fingerprint(folder, dtype) == loaded_fingerprint(folder, dtype)


def test_only_the_values_that_are_read_count(folder: Path) -> None:
    first = stored_fingerprint(folder, "float32")
    for name, place, counts in ((UP, 0, True), (UP, -1, False), (EMBEDDING, 2, True), (EMBEDDING, 1, False)):
        kept = (folder / "model.safetensors").read_bytes()
        store(folder, lambda weights, name=name, place=place: weights[name].view(-1)[place].add_(1))
        assert (stored_fingerprint(folder, "float32") != first) == counts
        assert stored_fingerprint(folder, "float32") == loaded_fingerprint(folder, "float32")
        (folder / "model.safetensors").write_bytes(kept)


def test_the_dtype_in_the_config_does_not_count(folder: Path) -> None:
    first = stored_fingerprint(folder, "float32")
    edit_config(folder, dtype="float16", torch_dtype="float16")
    assert stored_fingerprint(folder, torch.float32) == first == loaded_fingerprint(folder, "float32")


def test_weights_that_are_no_part_of_the_model_do_not_count(folder: Path) -> None:
    first = stored_fingerprint(folder, "float32")
    more = {"classifier.weight": torch.ones(3, HIDDEN), "model.layers.0.self_attn.masked": torch.ones(8, 8).bool()}
    store(folder, lambda weights: weights.update(more))
    assert stored_fingerprint(folder, "float32") == first == loaded_fingerprint(folder, "float32")


def test_the_weights_are_mapped(folder: Path) -> None:
    weights = stored_weights(folder, "float32")
    file = folder / "model.safetensors"
    mapped = [line for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(str(file))]
    ranges = [[int(end, 16) for end in line.split()[0].split("-")] for line in mapped]
    for name, weight, dtype in weights:
        assert (weight.dtype, dtype) == (torch.bfloat16, torch.float32), name
        assert any(start <= weight.data_ptr() < end for start, end in ranges), name
    assert {name for name, *_ in weights} == names(folder)


# --- tied and renamed weights ------------------------------------------------------------------------------------


def test_tied_weights_count_once(tied: Path, tmp_path: Path) -> None:
    assert names(tied) & {EMBEDDING, HEAD} == {EMBEDDING}
    first = stored_fingerprint(tied, "bfloat16")
    assert first == loaded_fingerprint(tied, "bfloat16")
    copy = save(FAMILIES["gemma2"].build(), tmp_path)
    store(copy, lambda weights: weights.update({HEAD: weights[EMBEDDING].clone()}))
    assert stored_fingerprint(copy, "bfloat16") == first
    store(copy, lambda weights: weights[HEAD].view(-1)[1].add_(1))  # transformers 5 does not tie these
    told = message(lambda: stored_fingerprint(copy, "bfloat16"))
    assert f"{REFUSAL}lm_head.weight and model.embed_tokens.weight are one parameter of the model, and have" in told


@renames
@pytest.mark.parametrize("stored", [HEAD, "embed_tokens.weight"])
def test_tied_weights_may_be_stored_by_another_of_their_names(tied: Path, tmp_path: Path, stored: str) -> None:
    save(FAMILIES["gemma2"].build(), tmp_path)
    store(tmp_path, lambda weights: weights.update({stored: weights.pop(EMBEDDING)}))
    found = stored_fingerprint(tmp_path, "float32")
    assert found == stored_fingerprint(tied, "float32") == loaded_fingerprint(tmp_path, "float32")


@renames
def test_names_that_transformers_knows_are_found(tied: Path, tmp_path: Path) -> None:
    """Those of a body without its head, and of older versions."""
    body, old = tmp_path / "body", tmp_path / "old"
    save(FAMILIES["gemma2"].build(), body)
    save(FAMILIES["bert"].build(), old)
    first = stored_fingerprint(old, "float32")

    def rename(weights: dict[str, Tensor]) -> None:
        for name in list(weights):
            new = name.removeprefix("model.").replace("LayerNorm.weight", "LayerNorm.gamma")
            weights[new.replace("LayerNorm.bias", "LayerNorm.beta")] = weights.pop(name)

    store(body, rename)
    store(old, rename)
    assert not names(body) & names(tied)
    assert stored_fingerprint(body, "float32") == stored_fingerprint(tied, "float32")
    assert stored_fingerprint(body, "float32") == loaded_fingerprint(body, "float32")
    assert any(name.endswith("LayerNorm.gamma") for name in names(old))
    assert stored_fingerprint(old, "float32") == first == loaded_fingerprint(old, "float32")


@renames
def test_a_weight_that_is_converted_under_its_own_name_is_refused(tmp_path: Path, monkeypatch) -> None:
    """Names and shapes are the model's, the values are not."""
    from transformers import conversion_mapping
    from transformers.core_model_loading import Transpose, WeightConverter

    save(build("llama", intermediate_size=HIDDEN), tmp_path)
    before = stored_fingerprint(tmp_path, "float32")
    transpose = WeightConverter("mlp.up_proj.weight", "mlp.up_proj.weight", operations=[Transpose(0, 1)])
    monkeypatch.setitem(conversion_mapping._checkpoint_conversion_mapping_cache, "llama", [transpose])
    assert loaded_fingerprint(tmp_path, "float32") != before
    told = message(lambda: stored_fingerprint(tmp_path, "float32"))
    assert f"{REFUSAL}transformers converts model.layers.0.mlp.up_proj.weight when it loads it" in told


@renames
def test_a_name_of_the_model_is_not_renamed_away(folder: Path, monkeypatch) -> None:
    from transformers import conversion_mapping
    from transformers.core_model_loading import WeightRenaming

    before = stored_fingerprint(folder, "float32")
    mapping = conversion_mapping._checkpoint_conversion_mapping_cache
    monkeypatch.setitem(mapping, "llama", [WeightRenaming("mlp.up_proj", "mlp.no_such")])
    assert stored_fingerprint(folder, "float32") == before


# --- refusals ----------------------------------------------------------------------------------------------------


def rename(weights: dict[str, Tensor]) -> None:
    weights["model.layers.1.mlp.up.weight"] = weights.pop(UP)


def truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])


def lose_a_shard(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    save(build("llama"), folder, "20KB")
    next(folder.glob("model-00002-of-*")).unlink()


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda folder: store(folder, rename), f"no weight has the name of 1 parameter, among them {UP}"),
        (lambda folder: store(folder, lambda weights: weights.pop(UP)), "no weight has the name of 1 parameter, among"),
        (lambda folder: edit_config(folder, num_hidden_layers=4), "no weight has the name of 9 parameters, among them"),
        (
            lambda folder: store(folder, lambda weights: weights.update({UP: weights[UP].T})),
            f"{UP} is stored as [24, 43], expected [43, 24]",
        ),
        (
            lambda folder: store(folder, lambda weights: weights.update({UP: weights[UP].to(torch.int8)})),
            f"{UP} is stored as I8, expected F32",
        ),
        (
            lambda folder: store(folder, lambda weights: weights.update({f"{UP}_scale": torch.ones(43)})),
            f"the weights hold {UP}_scale, which the config gives LlamaForCausalLM no place for",
        ),
        (
            lambda folder: edit_config(folder, quantization_config={"quant_method": "gptq", "bits": 4}),
            "its config has a quantization_config",
        ),
        (
            lambda folder: edit_config(folder, transformers_weights="other.safetensors"),
            "its config names other.safetensors as the weights",
        ),
        (lambda folder: edit_config(folder, model_type="no-such-type"), "no-such-type"),
        (
            lambda folder: edit_config(folder, model_type="own", auto_map={"AutoConfig": "own.Config"}),
            "contains custom code",
        ),
        (truncate, "header"),
        (lose_a_shard, "model-00002-of-"),
    ],
)  # fmt: skip
def test_a_folder_that_loading_would_change_or_refuse(folder: Path, damage: Callable[[Path], Any], told: str) -> None:
    damage(folder)
    error = message(lambda: stored_fingerprint(folder, "float32"))
    assert error.startswith(f"the weights in {folder} {REFUSAL}")
    assert told in error


def test_a_folder_without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    assert f"{folder} has no weights: expected *.safetensors" in message(lambda: stored_fingerprint(folder, "float32"))


@pytest.mark.parametrize("dtype", ["auto", "int8", None])
def test_the_dtype_is_one_that_a_model_was_loaded_in(folder: Path, dtype: Any) -> None:
    told = message(lambda: stored_fingerprint(folder, dtype))
    assert told.startswith(f"dtype is {dtype!r}, expected one of ")

"""The configurations of vLLM and the programs that are refused at the start."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers

import affectron
from affectron.interventions import Program
from affectron.models import find_sites
from affectron.models.identity import fingerprint
from affectron.vllm import limits
from affectron.vllm.internals import Unsupported
from affectron.vllm.library import load
from affectron.vllm.settings import Settings
from tests.support.errors import message
from tests.support.tiny import NEURONS, build, make_tokenizer
from tests.vllm.conftest import model_config
from tests.vllm.programs import program

pytestmark = pytest.mark.filterwarnings("ignore:.*exact, but not fused")


def setting(config: Any, field: str, value: Any) -> None:
    owner, _, name = field.rpartition(".")
    setattr(getattr(config, owner) if owner else config, name, value)


def test_the_usual_configuration_is_served(config: Any) -> None:
    limits.check_config(config)
    assert not limits.optimistic(config)


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("model_config.runner_type", "pooling", "generate"),
        ("model_config.is_encoder_decoder", True, "False"),
        ("model_config.is_diffusion", True, "False"),
        ("model_config.model_impl", "transformers", "auto or vllm"),
        ("model_config.model_impl", "terratorch", "auto or vllm"),
        ("load_config.load_format", "dummy", "auto or hf or safetensors"),
        ("load_config.load_format", "gguf", "auto or hf or safetensors"),
        ("parallel_config.use_ubatching", True, "False"),
        ("parallel_config.prefill_context_parallel_size", 2, "1"),
        ("parallel_config.use_sequence_parallel_moe", True, "False"),
        ("cache_config.kv_sharing_fast_prefill", True, "False"),
        ("kv_transfer_config", "a connector", "None"),
        ("speculative_config", SimpleNamespace(enable_adaptive_verification=True), "False"),
    ],
)
def test_configurations_without_known_rows_are_refused(field: str, value: Any, expected: str, config: Any) -> None:
    setting(config, field, value)
    told = message(lambda: limits.check_config(config))
    if field == "speculative_config":
        field, value = f"{field}.enable_adaptive_verification", True
    assert told.startswith(f"{field} is {value}, expected {expected} with programs: ")


@pytest.mark.parametrize("field", ["model_config.is_diffusion", "cache_config.kv_sharing_fast_prefill"])
def test_a_field_that_this_vllm_lacks_is_named_with_the_version(field: str, config: Any) -> None:
    owner, _, name = field.partition(".")
    delattr(getattr(config, owner), name)
    with pytest.raises(Unsupported) as error:
        limits.check_config(config)
    assert str(error.value).startswith(f"affectron cannot steer vLLM 0.32.0: VllmConfig.{field} is missing (")


@pytest.mark.parametrize("drafts", [None, SimpleNamespace(enable_adaptive_verification=False)])
@pytest.mark.parametrize("asynchronous", [False, True, None])
def test_positions_are_unknown_with_drafts_and_asynchronous_scheduling_alone(
    drafts: Any, asynchronous: bool | None, config: Any
) -> None:
    config.speculative_config, config.scheduler_config.async_scheduling = drafts, asynchronous
    limits.check_config(config)
    assert limits.optimistic(config) == (drafts is not None and asynchronous is True)


def check(one: Program, folder: Path, tmp_path: Path) -> None:
    one.save(tmp_path / "anger.safetensors")
    limits.check_programs(load(Settings(tmp_path)), model_config(folder))


def test_a_program_for_these_weights_is_served(folders: dict[str, Path], tmp_path: Path) -> None:
    check(program(), folders["llama"], tmp_path)
    check(program(family="gemma"), folders["gemma"], tmp_path)


def test_the_folder_may_be_relative(folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folders["llama"].parent)
    check(program(), Path(folders["llama"].name), tmp_path)


def test_a_program_for_other_weights_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    here, there = (fingerprint(build("llama", seed)) for seed in (0, 1))
    assert message(lambda: check(program(weights=there), folders["llama"], tmp_path)) == (
        f"program 'anger' was made for other weights: their fingerprint is {there} there and {here} in "
        f"{folders['llama']}"
    )


@pytest.mark.parametrize(
    "spoil",
    [
        lambda one: replace(one, origin=None),
        lambda one: replace(one, origin=replace(one.origin, provenance={})),
        lambda one: replace(one, origin=replace(one.origin, provenance={"weights": "a", "dtype": None})),
        lambda one: replace(one, origin=replace(one.origin, provenance={"weights": ["a", "b"], "dtype": "float32"})),
        lambda one: affectron.zero([]),
    ],
)
def test_a_program_that_does_not_tell_its_model_is_refused(
    spoil: Callable[[Program], Program], folders: dict[str, Path], tmp_path: Path
) -> None:
    assert message(lambda: check(spoil(program()), folders["llama"], tmp_path)) == (
        "program 'anger' does not tell the one model that it was made for; affectron export writes it"
    )


def test_every_program_of_a_schedule_is_checked(folders: dict[str, Path], tmp_path: Path) -> None:
    fading = affectron.schedule(program(weights="other"), where="generated", start=3)
    fading.save(tmp_path / "fading.safetensors")
    told = message(lambda: limits.check_programs(load(Settings(tmp_path)), model_config(folders["llama"])))
    assert told.startswith("program 'fading' was made for other weights")


def touching(site: str, neuron: int, **provenance: Any) -> Program:
    one = program(**provenance)
    (part,) = affectron.zero([(site, neuron)]).sites.values()
    return replace(one, sites={site: part})


@pytest.mark.parametrize("site", ["model.layers.3.mlp", "model.layers.0:output", "transformer.h.0.mlp"])
def test_a_site_that_is_no_mlp_of_the_model_is_refused(site: str, folders: dict[str, Path], tmp_path: Path) -> None:
    assert message(lambda: check(touching(site, 1), folders["llama"], tmp_path)) == (
        f"program 'anger' touches {site}, expected a site of {folders['llama']}"
    )


def test_a_neuron_beyond_the_width_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    site = "model.layers.1.mlp"
    check(touching(site, NEURONS - 1), folders["llama"], tmp_path)
    assert message(lambda: check(touching(site, NEURONS), folders["llama"], tmp_path)) == (
        f"program 'program 0' touches neuron {NEURONS} of {site}, which has {NEURONS} neurons (0 to {NEURONS - 1})"
    )


def test_an_untouched_site_needs_no_place(folders: dict[str, Path], tmp_path: Path) -> None:
    one = program()
    empty = affectron.zero([("nowhere", 0)]).sites["nowhere"]
    empty = type(empty)(*(array[:0] for array in vars(empty).values()))
    check(replace(one, sites=one.sites | {"nowhere": empty}), folders["llama"], tmp_path)


def saved(folder: Path, model: Any) -> str:
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return fingerprint(model)


def test_a_plain_activation_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    site = "transformer.h.0.mlp"
    weights = fingerprint(build("gpt2"))
    assert message(lambda: check(touching(site, 1, weights=weights), folders["gpt2"], tmp_path)) == (
        f"program 'anger' touches {site}, an MLP of the form plain with the activation gelu_tanh; expected dense gated "
        "MLPs with the activation silu, gelu or gelu_tanh"
    )


def test_an_expert_is_refused(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = transformers.MixtralConfig(
        vocab_size=97, hidden_size=24, intermediate_size=44, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2,
    )  # fmt: skip
    model = transformers.MixtralForCausalLM(config)
    weights = saved(tmp_path / "model", model)
    site = find_sites(model)[0].name
    (tmp_path / "programs").mkdir()
    told = message(lambda: check(touching(site, 1, weights=weights), tmp_path / "model", tmp_path / "programs"))
    assert told.startswith(f"program 'anger' touches {site}, an expert of a mixture; expected dense gated MLPs with")


@pytest.mark.parametrize("act", ["relu", "quick_gelu"])
def test_other_activations_are_refused(act: str, tmp_path: Path) -> None:
    weights = saved(tmp_path / "model", build("llama", hidden_act=act))
    site = "model.layers.0.mlp"
    (tmp_path / "programs").mkdir()
    told = message(lambda: check(touching(site, 1, weights=weights), tmp_path / "model", tmp_path / "programs"))
    assert told.startswith(f"program 'anger' touches {site}, an MLP ")
    assert told.endswith("; expected dense gated MLPs with the activation silu, gelu or gelu_tanh")


def test_a_missing_model_folder_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "programs").mkdir()
    there = shutil.copytree(folders["llama"], tmp_path / "model")
    (there / "config.json").unlink()
    assert message(lambda: check(program(), there, tmp_path / "programs")) == (
        f"{there} is not a model folder: it has no config.json"
    )


def test_a_folder_with_other_weights_beside_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    """vLLM would read the files of the index, or all files, where transformers reads model.safetensors."""
    copy = Path(shutil.copytree(folders["llama"], tmp_path / "copy"))
    check(program(), copy, tmp_path)
    shutil.copy(copy / "model.safetensors", copy / "model-00001-of-00001.safetensors")
    told = message(lambda: check(program(), copy, tmp_path))
    assert "has the weights model-00001-of-00001.safetensors, model.safetensors, expected model." in told
    (copy / "model.safetensors.index.json").write_text("{}")
    assert "model.safetensors and an index, expected" in message(lambda: check(program(), copy, tmp_path))

"""Loading of a folder: its model and tokenizer, its code that does not run, and one line for each fault in it."""

from __future__ import annotations

import json
import resource
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from affectron.errors import InputError
from affectron.models import fingerprint, load, load_model, load_skeleton
from tests.support import errors
from tests.support.tiny import VOCABULARY, batch, build, make_tokenizer


def edit_config(folder: Path, **changes) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@torch.no_grad()
def test_the_model_and_tokenizer_come_back(saved: Path) -> None:
    model, tokenizer = load_model(saved, dtype="bfloat16")
    assert not model.training
    assert model.dtype == torch.bfloat16
    original = build("llama")
    for mine, theirs in zip(model.parameters(), original.parameters(), strict=True):
        assert torch.equal(mine, theirs.to(torch.bfloat16))
        theirs.copy_(mine)
    assert torch.equal(load_model(saved, dtype="float32")[0](**batch()).logits, original(**batch()).logits)
    assert tokenizer("w1 w2")["input_ids"] == make_tokenizer()("w1 w2")["input_ids"]


@pytest.mark.parametrize("dtype", ["float32", torch.float32, "float16"])
def test_the_dtype_can_be_chosen(saved: Path, dtype) -> None:
    model, _ = load_model(saved, dtype=dtype)
    wanted = dtype if isinstance(dtype, torch.dtype) else getattr(torch, dtype)
    assert {parameter.dtype for parameter in model.parameters()} == {wanted}


@pytest.mark.parametrize(("level", "dtype"), [("AVX2", torch.float32), ("AVX512", torch.bfloat16)])
def test_auto_widens_16_bit_weights_where_the_cpu_is_slow_at_them(saved: Path, monkeypatch, level, dtype) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: level)
    model, _ = load_model(saved)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    assert fingerprint(model) == fingerprint(build("llama").to(torch.bfloat16))


def test_pickled_weights_are_refused(folder: Path) -> None:
    torch.save({}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"has no weights: expected \*.safetensors \(pickled weights are not read\)"):
        load_model(folder)


def test_the_shared_models_load(shared: Path) -> None:
    for name in ("emorhet-3m", "stories260K"):
        model, tokenizer = load_model(shared / "models" / name)
        ids = tokenizer("I am so happy today", return_tensors="pt")["input_ids"]
        with torch.no_grad():
            assert model(input_ids=ids).logits.isfinite().all()


@pytest.mark.parametrize("gpu", [False, True])
def test_auto_takes_a_gpu_that_is_there(monkeypatch: pytest.MonkeyPatch, gpu: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch, "zeros", lambda *_, **__: torch.ones(1))  # no GPU is asked
    assert load._device("auto") == torch.device("cuda" if gpu else "cpu")
    assert load._device(None) == torch.device("cpu")


def test_folders_that_are_none(tmp_path: Path) -> None:
    for path, message in (
        (tmp_path / "absent", "absent does not exist"),
        (Path("gpt2"), "model folder gpt2 does not exist"),
        (Path(__file__), r"test_load\.py is a file"),
        (tmp_path, "is not a model folder: it has no config.json"),
    ):
        with pytest.raises(InputError, match=message):
            load_model(path)


def truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])


def drop_parameter(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "model.safetensors").unlink(), r"has no weights: expected \*.safetensors"),
        (lambda folder: [p.unlink() for p in folder.glob("tokenizer*")], "has no tokenizer: expected tokenizer.json"),
        (lambda folder: (folder / "tokenizer.json").write_text("{"), "cannot load the model in"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json is not JSON that can be read"),
        (lambda folder: (folder / "config.json").write_text("[" * 50_000), "config.json is not JSON that can be read"),
        (lambda folder: (folder / "config.json").write_bytes(b'{"a": "\xff"}'), "config.json:1: not UTF-8"),
        (
            lambda folder: (folder / "tokenizer_config.json").write_text("[" * 50_000),
            "tokenizer_config.json is not JSON that can be read",
        ),
        (
            lambda folder: (folder / "tokenizer_config.json").write_text("[]"),
            "tokenizer_config.json is a JSON list, expected an object",
        ),
        (lambda folder: (folder / "config.json").write_text("{}"), "Unrecognized model"),
        (lambda folder: edit_config(folder, model_type="no-such-type"), "no-such-type"),
        (lambda folder: edit_config(folder, intermediate_size=44), "cannot load the model in"),
        (truncate, "cannot load the model in"),
        (drop_parameter, r"the weights lack 1 parameter, among them model.layers.1.mlp.up_proj.weight"),
    ],
)
def test_a_damaged_folder_gets_one_line(folder: Path, damage, message: str) -> None:
    damage(folder)
    with pytest.raises(InputError, match=message) as raised:
        load_model(folder)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"num_hidden_layers": 10**6}, "config.json: num_hidden_layers is 1,000,000, expected at most 2,048"),
        ({"num_hidden_layers": 10**15}, "num_hidden_layers is 1,000,000,000,000,000, expected"),
        ({"num_labels": 10**12}, "num_labels is 1,000,000,000,000, expected"),
        ({"inner": {"num_experts": 10**9}}, "num_experts is 1,000,000,000, expected"),
        ({"num_hidden_layers": 300}, "describes "),
        ({"intermediate_size": 10**7}, " parameters, expected what the weights hold, which are "),
        ({"vocab_size": 10**12}, " parameters, expected what the weights hold, which are "),
        ({"hidden_size": 10**24}, "cannot load the model"),
    ],
)
def test_what_a_config_claims_is_not_allocated(folder: Path, changes: dict[str, Any], told: str) -> None:
    """Neither in memory, which is watched, nor as a model, which a test would wait for."""
    edit_config(folder, **changes)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    error = errors.message(lambda: load_model(folder))
    assert told in error
    assert str(folder) in error
    if "describes" not in told and "parameters" not in told:
        assert str(folder) in errors.message(lambda: load_skeleton(folder))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 << 10  # KiB


STORED = {
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.int32: "I32",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
}


def store(folder: Path, change: Any) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("dtype", STORED)
@pytest.mark.parametrize("prefix", ["model.", ""])
@pytest.mark.parametrize("sharded", [False, True])
def test_quantised_weights_need_a_config_that_says_so(folder: Path, dtype: Any, prefix: str, sharded: bool) -> None:
    """Without one they would be read as the numbers that they are, and their scales be left out."""
    name = f"{prefix}layers.1.mlp.down_proj.weight"

    def change(weights: dict[str, Any]) -> None:
        weight = weights.pop("model.layers.1.mlp.down_proj.weight").float()
        weights[name] = (weight * 50).to(dtype)
        weights[f"{prefix}layers.1.mlp.down_proj.weight_scale"] = torch.full((), 0.02)

    store(folder, change)
    file = folder / "model.safetensors"
    if sharded:
        file = file.rename(folder / "model-00001-of-00001.safetensors")
        index = {"metadata": {}, "weight_map": dict.fromkeys(load_file(file), file.name)}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    message = errors.message(lambda: load_model(folder))
    assert f"{file}: {name} is stored as {STORED[dtype]}, expected F32, BF16, F16, F64" in message
    assert "quantization_config" in message


def test_integers_that_are_no_weights_are_read(folder: Path) -> None:
    """Positions and masks, as older files hold them; and layers of another head."""
    store(
        folder,
        lambda weights: weights.update(
            {
                "model.embeddings.position_ids": torch.arange(64)[None],
                "model.layers.0.self_attn.bias": torch.ones(1, 1, 8, 8, dtype=torch.uint8),
                "model.layers.0.self_attn.masked": torch.ones(8, 8, dtype=torch.bool),
                "classifier.weight": torch.ones(3, 24),
                "classifier.bias": torch.ones(3),
            }
        ),
    )
    model, _ = load_model(folder)
    assert fingerprint(model) == fingerprint(build("llama").to(torch.bfloat16))


@pytest.mark.parametrize("prefix", ["model.", ""])
@pytest.mark.parametrize("leaf", ["weight_scale", "weight_zero_point", "bias", "scales"])
def test_what_a_layer_should_compute_with_is_not_passed_over(folder: Path, prefix: str, leaf: str) -> None:
    def change(weights: dict[str, Any]) -> None:
        if not prefix:
            for key in [key for key in weights if key.startswith("model.")]:
                weights[key.removeprefix("model.")] = weights.pop(key)
            weights.pop("lm_head.weight")
        weights[f"{prefix}layers.0.mlp.up_proj.{leaf}"] = torch.ones(43)

    edit_config(folder, tie_word_embeddings=not prefix)
    store(folder, change)
    message = errors.message(lambda: load_model(folder))
    assert f"layers.0.mlp.up_proj.{leaf}, which the config gives LlamaForCausalLM no place for" in message


@pytest.mark.parametrize("bits", ["load_in_8bit", "load_in_4bit"])
def test_a_folder_whose_config_names_its_quantisation_is_loaded(tmp_path: Path, bits: str) -> None:
    pytest.importorskip("bitsandbytes")
    plain, folder = tmp_path / "plain", tmp_path / "quantised"
    build("llama", hidden_size=64, intermediate_size=128).save_pretrained(plain)
    quantisation = transformers.BitsAndBytesConfig(**{bits: True})
    transformers.AutoModelForCausalLM.from_pretrained(plain, quantization_config=quantisation).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    stored = load_file(folder / "model.safetensors")
    assert stored["model.layers.0.mlp.down_proj.weight"].dtype in (torch.int8, torch.uint8)
    assert load_model(folder)[0].model.layers[0].mlp.down_proj.weight.dtype in (torch.int8, torch.uint8)


def test_a_model_that_generates_no_text_is_refused(tmp_path: Path) -> None:
    config = transformers.T5Config(vocab_size=VOCABULARY, d_model=8, d_kv=4, d_ff=16, num_layers=1, num_heads=2)
    transformers.T5ForConditionalGeneration(config).save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(InputError, match="cannot load the model in") as raised:
        load_model(tmp_path)
    assert "\n" not in str(raised.value)


def test_a_model_without_an_mlp_is_refused(tmp_path: Path) -> None:
    config = transformers.MambaConfig(vocab_size=VOCABULARY, hidden_size=8, num_hidden_layers=1, state_size=2)
    transformers.MambaForCausalLM(config).save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(InputError, match="MambaForCausalLM has no MLP that can be found"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "bf16"}, "dtype is 'bf16', expected one of auto, float32, bfloat16, float16"),
        ({"device": "toaster"}, "device is 'toaster', which is not there"),
        ({"device": ""}, "device is '', which is not there"),
        ({"device": "automatic"}, "device is 'automatic', which is not there"),
        ({"device": "cuda:99"}, "device is 'cuda:99', which is not there"),
        ({"device": "mps"}, "device is 'mps', which is not there: .*MPS"),
        ({"device": "xpu"}, "device is 'xpu', which is not there: .*XPU"),
        ({"device": "hpu"}, "device is 'hpu', which is not there: .*hpu"),
        ({"device": "meta"}, "device is 'meta', which is not there: .*meta"),
    ],
)
def test_bad_options_are_named(saved: Path, options, message: str) -> None:
    with pytest.raises(InputError, match=message) as refused:
        load_model(saved, **options)
    assert len(str(refused.value)) < 300


def test_code_in_the_folder_runs_only_when_trusted(folder: Path) -> None:
    marker = folder / "ran"
    code = f"""
import pathlib
from transformers import LlamaConfig, LlamaForCausalLM
pathlib.Path({str(marker)!r}).touch()
class OwnConfig(LlamaConfig):
    model_type = "own-llama"
class OwnModel(LlamaForCausalLM):
    config_class = OwnConfig
"""
    (folder / "modeling_own.py").write_text(code)
    # A type that transformers knows is loaded with the code of transformers.
    auto_map = {"AutoConfig": "modeling_own.OwnConfig", "AutoModelForCausalLM": "modeling_own.OwnModel"}
    edit_config(folder, auto_map=auto_map)
    assert type(load_model(folder)[0]) is transformers.LlamaForCausalLM
    # One that it does not know needs the folder's.
    edit_config(folder, model_type="own-llama")
    with pytest.raises(InputError, match="needs Python code from the folder; pass trust_remote_code=True"):
        load_model(folder)
    assert not marker.exists()
    model, _ = load_model(folder, trust_remote_code=True)
    assert type(model).__name__ == "OwnModel"
    assert marker.exists()

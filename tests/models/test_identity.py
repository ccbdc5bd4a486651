"""Hashes of models and tokenizers: what changes them and what does not."""

from __future__ import annotations

from pathlib import Path

import torch

from affectron.models import config_hash, fingerprint, load_model, tokenizer_hash
from tests.support.tiny import build, make_tokenizer


def test_the_fingerprint_tells_weights_apart() -> None:
    model = build("llama")
    first = fingerprint(model)
    assert fingerprint(build("llama")) == first
    assert fingerprint(build("llama", seed=1)) != first
    assert fingerprint(build("llama").to(torch.bfloat16)) != first
    for name, parameter in model.named_parameters():
        with torch.no_grad():
            kept = parameter.clone()
            parameter.view(-1)[-1 if parameter.numel() <= 1024 else 0] += 1
            assert fingerprint(model) != first, name
            parameter.copy_(kept)
    assert fingerprint(model) == first


def test_the_fingerprint_sees_a_transposed_shape_and_another_name() -> None:
    def model(name: str, shape: tuple[int, int]) -> torch.nn.Module:
        holder = torch.nn.Module()
        holder.register_parameter(name, torch.nn.Parameter(torch.arange(6.0).view(shape)))
        return holder

    assert len({fingerprint(model(*key)) for key in (("a", (2, 3)), ("a", (3, 2)), ("b", (2, 3)))}) == 3


def test_the_config_hash_outlives_saving_and_loading(saved: Path, folder: Path) -> None:
    first = config_hash(build("llama"))
    assert config_hash(load_model(saved)[0]) == first
    assert config_hash(load_model(folder, dtype="float32")[0]) == first
    assert config_hash(build("llama", rms_norm_eps=1e-3)) != first
    assert config_hash(build("llama", intermediate_size=44)) != first


def test_the_tokenizer_hash_ignores_what_calls_leave_behind(saved: Path) -> None:
    _, tokenizer = load_model(saved)
    first = tokenizer_hash(tokenizer)
    assert tokenizer_hash(make_tokenizer()) == first
    tokenizer(["w1 w2 w3", "w1"], padding=True, truncation=True, max_length=2)
    assert tokenizer.backend_tokenizer.padding is not None
    assert tokenizer_hash(tokenizer) == first
    assert tokenizer_hash(make_tokenizer(words=61)) != first
    assert tokenizer_hash(make_tokenizer(bos=False)) != first


def test_a_tokenizer_without_a_backend_is_hashed_by_its_vocabulary() -> None:
    class Slow:
        special_tokens_map = {"bos_token": "<s>"}  # noqa: RUF012

        def __init__(self, vocabulary: dict[str, int]) -> None:
            self.get_vocab = lambda: vocabulary

    assert tokenizer_hash(Slow({"a": 0, "b": 1})) == tokenizer_hash(Slow({"b": 1, "a": 0}))
    assert tokenizer_hash(Slow({"a": 0, "b": 1})) != tokenizer_hash(Slow({"a": 1, "b": 0}))

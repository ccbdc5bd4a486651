"""Models spread over processes and devices: the statistics of one process, whoever computes which neurons."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from affectron import ActivationStats, Corpus, screen
from tests.models.tiny import build, make_tokenizer
from tests.workers import start, start_group, succeed, write_sentences

SHARDS = 5


@pytest.fixture(scope="module")
def sentences(tmp_path_factory) -> Path:
    return write_sentences(tmp_path_factory.mktemp("corpus") / "corpus.jsonl", 100)


def save_model(folder: Path, family: str) -> Path:
    build(family, **({"num_key_value_heads": 4} if family == "llama" else {})).save_pretrained(folder / family)
    return folder / family


def measure(load: Any, model: Path, sentences: Path, output: str, folder: str) -> None:
    torch.set_num_threads(1)
    corpus = Corpus.from_file(sentences)
    options = {"batch_tokens": 64, "shards": SHARDS, "checkpoint": folder, "checkpoint_minutes": 1e-9}
    screen(load(model), make_tokenizer(), corpus, **options).save(output)


def whole(model: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(model).eval()


def tensor_parallel(model: Path) -> Any:
    from transformers.distributed import DistributedConfig

    config = DistributedConfig(tp_size=torch.distributed.get_world_size())
    return transformers.AutoModelForCausalLM.from_pretrained(model, distributed_config=config).eval()


def fully_sharded(model: Path) -> Any:
    found = whole(model)
    mesh = init_device_mesh("cpu", (torch.distributed.get_world_size(),))
    for layer in found.base_model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(found, mesh=mesh)
    return found


def alike(one: ActivationStats, other: ActivationStats) -> None:
    """Counts are equal, moments alike up to the rounding of a model whose products are summed in another order."""
    assert one.sites == other.sites
    assert one.provenance == other.provenance
    for site in one.sites:
        for name in ("count", "active", "nonfinite"):
            assert np.array_equal(getattr(one, name)[site], getattr(other, name)[site]), name
        for name in ("mean", "m2", "min", "max"):
            np.testing.assert_allclose(getattr(one, name)[site], getattr(other, name)[site], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("load", "family", "size"),
    [
        (tensor_parallel, "llama", 2),
        (tensor_parallel, "llama", 4),
        (tensor_parallel, "phi3", 2),  # its plan gathers gate and up: each process sees all neurons
        (fully_sharded, "llama", 2),
        (fully_sharded, "llama", 4),
    ],
)
def test_a_model_spread_over_processes(sentences: Path, tmp_path: Path, load: Any, family: str, size: int) -> None:
    """The 43 neurons of a site divide by neither number of processes."""
    model = save_model(tmp_path, family)
    succeed([start(measure, whole, model, sentences, str(tmp_path / "one"), str(tmp_path / "one.shards"))])
    one = ActivationStats.load(tmp_path / "one")
    arguments = (load, model, sentences, str(tmp_path / "{rank}"), str(tmp_path / "shards"))
    succeed(start_group(size, tmp_path / "store", measure, *arguments))
    spread = [ActivationStats.load(tmp_path / str(rank)) for rank in range(size)]
    for found in spread:
        alike(one, found)
    assert len({(tmp_path / str(rank)).read_bytes() for rank in range(size)}) == 1


def test_a_model_with_weights_on_disk(sentences: Path, tmp_path: Path) -> None:
    """``device_map`` places modules; those on disk have no device of their own and are read for each forward."""
    model, tokenizer, corpus = save_model(tmp_path, "llama"), make_tokenizer(), Corpus.from_file(sentences)
    places = {"model.embed_tokens": "cpu", "model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "cpu"}
    places |= {f"model.layers.{layer}": "disk" if layer == 1 else "cpu" for layer in range(3)}
    placed = transformers.AutoModelForCausalLM.from_pretrained(
        model, device_map=places, offload_folder=tmp_path / "offload"
    )
    assert next(placed.model.layers[1].mlp.parameters()).device.type == "meta"
    one, other = (screen(found, tokenizer, corpus, batch_tokens=64) for found in (whole(model), placed))
    alike(one, other)

"""Models spread over processes and devices: the statistics and the steered logits of one, whoever computes which
neurons."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from affectron import ActivationStats, Corpus, interventions, screen
from affectron.corpus.pairs import Pair
from affectron.experiments.activity import collect
from affectron.models import intervene
from affectron.neurons import NeuronList, NeuronSet
from affectron.screening.pairs import screen_pairs
from affectron.screening.quantiles import magnitude_quantiles
from tests.support.bench import KINDS, Bench, by_request, make_bench
from tests.support.tiny import (
    HIDDEN,
    batch,
    build,
    last_inputs,
    layer_names,
    layer_outputs,
    make_tokenizer,
    site_names,
)
from tests.support.workers import start, start_group, succeed, write_sentences

SHARDS = 5


@pytest.fixture(scope="module")
def sentences(tmp_path_factory) -> Path:
    return write_sentences(tmp_path_factory.mktemp("corpus") / "corpus.jsonl", 100)


def save_model(folder: Path, family: str) -> Path:
    build(family, **({"num_key_value_heads": 4} if family == "llama" else {})).save_pretrained(folder / family)
    return folder / family


def measure(load: Any, model: Path, sentences: Path, output: str, folder: str, at: str) -> None:
    torch.set_num_threads(1)
    corpus = Corpus.from_file(sentences)
    options = {"at": at, "batch_tokens": 64, "shards": SHARDS, "checkpoint": folder, "checkpoint_minutes": 1e-9}
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


@torch.no_grad()
def steer(load: Any, model: Path, family: str, output: str) -> None:
    """Logits under every kind of program: for all rows, for one of three requests, and for a generated token; and under
    one at the output of a layer."""
    torch.set_num_threads(1)
    found, inputs = load(model), batch(side="left")
    kinds = {kind: program for kind, (program, _) in make_bench(family).kinds.items()}
    logits: dict[str, Tensor] = {"plain": found(**inputs).logits}
    for kind, program in kinds.items():
        with intervene(found, program):
            logits[kind] = found(**inputs).logits
    layer = layer_names(family)[1]
    with intervene(found, [interventions.amplify([(layer, index) for index in range(HIDDEN)], 3.0), None, None]):
        logits["layer"] = found(**inputs).logits
    with intervene(found, [kinds["zero"], None, interventions.schedule(kinds["induce"])]) as steering:
        logits["by request"] = found(**inputs).logits
        steering[1] = kinds["amplify"]
        logits["changed"] = found(**inputs).logits
        logits["tokens"] = found.generate(**inputs, max_new_tokens=4, do_sample=False)
    logits["restored"] = found(**inputs).logits
    save_file({name: value.contiguous() for name, value in logits.items()}, output)


@torch.no_grad()
def steered_by_hooks(model: Any, bench: Bench) -> dict[str, Tensor]:
    """The same with hooks on the whole model."""
    inputs = batch(side="left")
    changes = {kind: change for kind, (_, change) in bench.kinds.items()}
    requests = by_request([changes["zero"], None, changes["induce"]], 3)
    after = by_request([changes["zero"], changes["amplify"], changes["induce"]], 3)
    logits = {"plain": model(**inputs).logits}
    for name, change in {**changes, "by request": requests, "changed": after}.items():
        with last_inputs(model, bench.family, change):
            logits[name] = model(**inputs).logits
    with layer_outputs(model, layer_names(bench.family)[1:2], by_request([lambda site, h: 3 * h, None, None], 3)):
        logits["layer"] = model(**inputs).logits
    with last_inputs(model, bench.family, after):
        logits["tokens"] = model.generate(**inputs, max_new_tokens=4, do_sample=False)
    logits["restored"] = logits["plain"]
    return logits


def same_logits(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert set(found) == set(wanted) >= set(KINDS)
    for name, logits in wanted.items():
        torch.testing.assert_close(found[name], logits, rtol=1e-4, atol=1e-4, msg=lambda text, name=name: name + text)
    assert all((wanted[kind] - wanted["plain"]).abs().max() > 1e-2 for kind in (*KINDS, "layer"))
    assert torch.equal(found["restored"], found["plain"])


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
    ("load", "family", "size", "at"),
    [
        (tensor_parallel, "llama", 2, "neurons"),
        (tensor_parallel, "llama", 4, "neurons"),
        (tensor_parallel, "phi3", 2, "neurons"),  # its plan gathers gate and up: each process sees all neurons
        (tensor_parallel, "llama", 2, "layers"),
        (fully_sharded, "llama", 2, "neurons"),
        (fully_sharded, "llama", 4, "neurons"),
        (fully_sharded, "llama", 2, "layers"),
    ],
)
def test_a_model_spread_over_processes(
    sentences: Path, tmp_path: Path, load: Any, family: str, size: int, at: str
) -> None:
    """The 43 neurons of a site divide by neither number of processes; each process sees all of a layer's output."""
    model = save_model(tmp_path, family)
    succeed([start(measure, whole, model, sentences, str(tmp_path / "one"), str(tmp_path / "one.shards"), at)])
    one = ActivationStats.load(tmp_path / "one")
    arguments = (load, model, sentences, str(tmp_path / "{rank}"), str(tmp_path / "shards"), at)
    succeed(start_group(size, tmp_path / "store", measure, *arguments))
    spread = [ActivationStats.load(tmp_path / str(rank)) for rank in range(size)]
    for found in spread:
        alike(one, found)
    assert len({(tmp_path / str(rank)).read_bytes() for rank in range(size)}) == 1


# How a model is loaded, and its family. In phi3 each process sees all neurons; in neox the kernel stands where the
# activation module stands.
SPREAD = {
    2: [(tensor_parallel, "llama"), (tensor_parallel, "phi3"), (tensor_parallel, "neox"), (fully_sharded, "llama")],
    4: [(tensor_parallel, "llama"), (fully_sharded, "llama")],
}


def steer_each(cases: list[tuple[Any, str]], folder: Path, rank: str) -> None:
    for load, family in cases:
        steer(load, folder / family, family, str(folder / f"{load.__name__}-{family}-{rank}"))


@pytest.mark.parametrize("size", SPREAD)
def test_steering_a_model_spread_over_processes(tmp_path: Path, size: int) -> None:
    """Programs are given for all neurons; each process changes its own."""
    models = {family: save_model(tmp_path, family) for _, family in SPREAD[size]}
    succeed(start_group(size, tmp_path / "store", steer_each, SPREAD[size], tmp_path, "{rank}"))
    for family, model in models.items():
        wanted = steered_by_hooks(whole(model), make_bench(family))
        found = [*tmp_path.glob(f"*-{family}-*")]
        assert len(found) == size * sum(family == one for _, one in SPREAD[size])
        for file in found:
            same_logits(load_file(file), wanted)


def candidates(load: Any, model: Path, sentences: Path, output: str) -> None:
    torch.set_num_threads(1)
    sites = site_names("llama")
    # Of one site neurons of the first process only.
    chosen = [(sites[0], 1, 0.0), (sites[0], 21, 0.0), (sites[0], 22, 0.0), (sites[0], 42, 0.0), (sites[2], 3, 0.0)]
    neurons = NeuronSet([NeuronList("anger", "emotion", chosen)], dict.fromkeys(sites, 43), {})
    shown = NeuronSet([NeuronList("anger", "emotion", chosen[1:])], dict.fromkeys(sites, 43), {})
    with collect(
        load(model), make_tokenizer(), Corpus.from_file(sentences), neurons, shown=shown, texts=3, batch_tokens=64
    ) as found:
        sides = [found.excerpts[site, index] for site, index, _ in chosen[1:]]
        extremes = [[one.activations[one.extreme] for one in side] for sides_of in sides for side in sides_of]
        arrays = {"rate": np.array(found.rate), "mean": np.array(found.mean), "extremes": np.array(extremes)}
        save_file({name: torch.from_numpy(array) for name, array in arrays.items()}, output)


def test_candidates_of_a_tensor_parallel_model(sentences: Path, tmp_path: Path) -> None:
    model = save_model(tmp_path, "llama")
    arguments = (model, sentences, str(tmp_path / "{rank}"))
    succeed(start_group(2, tmp_path / "store", candidates, tensor_parallel, *arguments))
    candidates(whole, model, sentences, str(tmp_path / "one"))
    one = load_file(tmp_path / "one")
    assert (one["mean"] != 0).all()
    for rank in range(2):
        found = load_file(tmp_path / str(rank))
        torch.testing.assert_close(found["mean"], one["mean"], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(found["rate"], one["rate"], rtol=0, atol=0)
        assert found["extremes"].shape == (8, 3)
        torch.testing.assert_close(found["extremes"], one["extremes"], rtol=2e-3, atol=1e-6)


def quantiles(load: Any, model: Path, sentences: Path, output: str) -> None:
    torch.set_num_threads(1)
    found = magnitude_quantiles(load(model), make_tokenizer(), Corpus.from_file(sentences), 0.9, batch_tokens=64)
    save_file({site: torch.from_numpy(values) for site, values in found.items()}, output)


def test_quantiles_of_a_tensor_parallel_model(sentences: Path, tmp_path: Path) -> None:
    """Each process has those of all neurons."""
    model = save_model(tmp_path, "llama")
    arguments = (model, sentences, str(tmp_path / "{rank}"))
    succeed(start_group(2, tmp_path / "store", quantiles, tensor_parallel, *arguments))
    quantiles(whole, model, sentences, str(tmp_path / "one"))
    one = load_file(tmp_path / "one")
    for rank in range(2):
        found = load_file(tmp_path / str(rank))
        assert found.keys() == one.keys()
        for site, values in one.items():
            assert (values > 0).all()
            torch.testing.assert_close(found[site], values, rtol=1e-4, atol=1e-6)


def pairs(load: Any, model: Path, output: str) -> None:
    torch.set_num_threads(1)
    texts = [(f"w{i} w{2 * i % 59} w7", f"w{i + 1} w{3 * i % 59}") for i in range(20)]
    screen_pairs(load(model), make_tokenizer(), [Pair("joy", *both) for both in texts]).save(output)


def test_pairs_of_a_tensor_parallel_model(tmp_path: Path) -> None:
    """Each process has the differences of all neurons, not of its own alone."""
    model = save_model(tmp_path, "llama")
    succeed(start_group(2, tmp_path / "store", pairs, tensor_parallel, model, str(tmp_path / "{rank}")))
    pairs(whole, model, str(tmp_path / "one"))
    for rank in range(2):
        alike(ActivationStats.load(tmp_path / "one"), ActivationStats.load(tmp_path / str(rank)))


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
    steer(lambda _: placed, model, "llama", str(tmp_path / "steered"))
    same_logits(load_file(tmp_path / "steered"), steered_by_hooks(whole(model), make_bench("llama")))

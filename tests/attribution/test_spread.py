"""Attribution by several processes: of one corpus, and of a model spread over them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from affectron import ActivationStats, attribute
from affectron.attribution.pairs import attribute_pairs
from affectron.corpus.pairs import Pair
from tests.attribution.oracle import PROMPTS, TOKENIZER, make_corpus, same_bits
from tests.models.test_parallel import alike, fully_sharded, save_model, tensor_parallel, whole
from tests.support.errors import message
from tests.support.workers import start_group, succeed

pytestmark = pytest.mark.usefixtures("one_thread")

PAIRS = [Pair("ab"[i % 2], f"w{i} w{i + 3} w7", f"w{i + 1} w{2 * i} w5", "w50", "w51 w52") for i in range(9)]

# How a model is loaded, its family, and the options. In phi3 each process sees all neurons. One process is idle while
# the other measures the last of three shards.
CASES: dict[str, tuple[Any, str, dict[str, Any]]] = {
    "shards": (whole, "llama", {"prompts": PROMPTS}),
    "tensor": (tensor_parallel, "llama", {"prompts": PROMPTS}),
    "tensor again": (tensor_parallel, "phi3", {"prompts": PROMPTS, "recompute": True}),
    "shards calibrated": (whole, "llama", {"prompts": PROMPTS, "calibrate": "train"}),
    "tensor calibrated": (tensor_parallel, "llama", {"prompts": PROMPTS, "calibrate": "content_free"}),
    "sharded calibrated": (fully_sharded, "llama", {"prompts": PROMPTS, "calibrate": "train"}),
    "tensor probe": (tensor_parallel, "llama", {"evaluator": "linear_probe"}),
    "sharded": (fully_sharded, "llama", {"prompts": PROMPTS}),
    "sharded text": (fully_sharded, "llama", {"metric": "text", "recompute": True}),
}


def run(model: Any, folder: str | None, options: dict[str, Any]) -> ActivationStats:
    return attribute(model, TOKENIZER, make_corpus(17), shards=3, batch_tokens=97, checkpoint=folder, **options)


def measure(models: Path, output: str) -> None:
    torch.set_num_threads(1)
    for case, (load, family, options) in CASES.items():
        run(load(models / family), str(models / case), options).save(f"{output} {case}")
    attribute_pairs(tensor_parallel(models / "llama"), TOKENIZER, PAIRS, batch_tokens=64).save(f"{output} pairs")
    line = message(lambda: run(fully_sharded(models / "llama"), str(models / "probe"), {"evaluator": "linear_probe"}))
    assert line == "FSDPLlamaForCausalLM is fully sharded, so that a probe cannot read its final hidden states"


def test_processes_give_the_attributions_of_one(tmp_path: Path) -> None:
    models = {family: save_model(tmp_path, family) for family in ("llama", "phi3")}
    succeed(start_group(2, tmp_path / "store", measure, tmp_path, str(tmp_path / "{rank}")))
    for rank in range(2):
        for case, (load, family, options) in CASES.items():
            one = run(whole(models[family]), None, options)
            found = ActivationStats.load(tmp_path / f"{rank} {case}")
            if load is whole:
                same_bits(found, one)
                assert found.provenance == one.provenance
            offsets = [stats.provenance.pop("offsets", {}) for stats in (found, one)]
            assert offsets[0] == {task: pytest.approx(of_task, rel=1e-6) for task, of_task in offsets[1].items()}
            alike(found, one)
        one = attribute_pairs(whole(models["llama"]), TOKENIZER, PAIRS, batch_tokens=64)
        alike(ActivationStats.load(tmp_path / f"{rank} pairs"), one)

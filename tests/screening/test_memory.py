"""Memory of a screening: it does not grow with the corpus."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch

from affectron import Corpus, screen
from affectron._internal.memory import resident_bytes
from tests.support.tiny import build, make_tokenizer
from tests.support.workers import start, succeed, write_sentences

# Number of sentences. 2,000,000 take about 20 minutes on one core.
SENTENCES = int(os.environ.get("AFFECTRON_MEMORY_SENTENCES", "24000"))


def measure_memory(corpus: Path, folder: Path, output: Path) -> None:
    """Save the resident bytes of this process before each forward."""
    torch.set_num_threads(1)
    model, held = build("llama", num_hidden_layers=1), []
    model.model.register_forward_pre_hook(lambda *_: held.append(resident_bytes()))
    screen(model, make_tokenizer(), Corpus.from_file(corpus), batch_tokens=2048, checkpoint=folder)
    np.save(output, np.array(held))


def test_memory_does_not_grow_with_the_corpus(tmp_path: Path) -> None:
    corpus, output = write_sentences(tmp_path / "corpus.jsonl", SENTENCES), tmp_path / "held.npy"
    succeed([start(measure_memory, corpus, tmp_path / "shards", output)], seconds=120 + SENTENCES / 100)
    held = np.load(output)
    first, second = np.array_split(held, 2)
    assert len(held) > SENTENCES / 400
    assert second.max() <= 1.05 * first.max()
    assert np.median(second) <= 1.05 * np.median(first)
    print(f"{SENTENCES:,} sentences: {held.min():,} to {held.max():,} bytes; halves {first.max():,}, {second.max():,}")

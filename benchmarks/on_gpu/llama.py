"""A Llama with random weights, its plain forward, and a tokenizer, a corpus and programs for it."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

import affectron
from affectron.corpus.batching import Batch
from on_gpu.scale import LABELS, Scale

# The whole model, and the model without what makes the logits.
WITH_HEAD, BASE = "forward with lm_head", "base model"


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def llama(scale: Scale, layers: int | None = None) -> Any:
    """A bf16 Llama of the scale's shape, or of fewer layers."""
    shape = scale.llama | ({} if layers is None else {"num_hidden_layers": layers})
    with torch.device(scale.device), _default_dtype(torch.bfloat16):
        return transformers.LlamaForCausalLM(transformers.LlamaConfig(**shape, eos_token_id=None)).eval()


def tokenizer(scale: Scale) -> Any:
    words = _words(scale)
    backend = Tokenizer(models.WordLevel({f"w{i}": i for i in range(words)}, unk_token="w0"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="w0")


def corpus(scale: Scale, sentences: int) -> affectron.Corpus:
    """Sentences of 20 to 40 words with 10 labels, words themselves."""
    rng, words = random.Random(0), _words(scale)
    return affectron.Corpus.from_records(
        {
            "text": " ".join(f"w{rng.randrange(words)}" for _ in range(rng.randint(20, 40))),
            "label": f"w{rng.randrange(LABELS)}",
        }
        for _ in range(sentences)
    )


@torch.no_grad()
def forward(model: Any, batches: Iterable[Batch], masked: bool = True) -> None:
    """A forward of each batch, with a mask of the padding unless not ``masked``."""
    device = next(model.parameters()).device
    for batch in batches:
        mask = torch.from_numpy(batch.attention_mask).to(device) if masked else None
        model(input_ids=torch.from_numpy(batch.input_ids).to(device), attention_mask=mask, use_cache=False)


def _words(scale: Scale) -> int:
    return min(scale.llama["vocab_size"], 32_000)


def program(scale: Scale, layers: int, request: int) -> affectron.Program:
    """A program that amplifies 1 % of the neurons of every layer, others for each request."""
    generator = torch.Generator().manual_seed(request)
    return affectron.amplify(
        [
            (f"model.layers.{layer}.mlp", int(index))
            for layer in range(layers)
            for index in torch.randperm(scale.neurons, generator=generator)[: max(scale.neurons // 100, 1)]
        ],
        1.5,
    )

"""Screening against the forwards that it replaces: the same sentences, sorted and batched the same way.

A Llama of hidden size 512, 1792 neurons a site, 8 layers and a vocabulary of 32000, random weights. The plain
forward does not look at any activation: a screening is as fast only if its statistics cost nothing.
"""

from __future__ import annotations

import random
from functools import cache
from typing import Any

import pytest
import torch
from on_gpu.llama import BASE, WITH_HEAD, forward
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import affectron
from affectron.corpus.batching import batches

VOCABULARY = 32_000
# On a CPU without 16-bit arithmetic products in bf16 take ten times as long: fewer sentences, the same work each.
SENTENCES = {"bf16": 96, "fp32": 384}
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


@cache
def llama(dtype: str) -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=512,
        intermediate_size=1792,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=8,
    )
    return LlamaForCausalLM(config).to(DTYPES[dtype]).eval()


@cache
def tokenizer() -> Any:
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(VOCABULARY)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="w0")


@cache
def corpus(sentences: int) -> affectron.Corpus:
    """Sentences of 10 to 50 words with 10 labels, words themselves."""
    rng = random.Random(0)
    return affectron.Corpus.from_records(
        {
            "text": " ".join(f"w{rng.randrange(VOCABULARY)}" for _ in range(rng.randint(10, 50))),
            "label": f"w{rng.randrange(10)}",
        }
        for _ in range(sentences)
    )


@pytest.mark.parametrize("contender", [WITH_HEAD, BASE, "screen"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_screen(contend: Any, dtype: str, contender: str) -> None:
    model, sentences = llama(dtype), corpus(SENTENCES[dtype])
    function = {
        WITH_HEAD: lambda: forward(model, batches(sentences, tokenizer())),
        BASE: lambda: forward(model.model, batches(sentences, tokenizer())),
        "screen": lambda: affectron.screen(model, tokenizer(), sentences),
    }[contender]
    goals = {WITH_HEAD: 1.0, BASE: 1 / 0.97} if contender == "screen" else {}
    contend(f"screen {dtype}", contender, function, rounds=3, goals=goals)

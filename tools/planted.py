"""Random small models with neurons that are written to cause a label, and decoys that are as active and cause nothing.

A model reads words. A label has trigger words; its causal neurons are active there and write evidence for the label at
each word. The attention of the last layer takes the mean of the evidence over the words, and the answer reads that
mean. A decoy has the same law of activity as a causal neuron and writes where nothing reads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from affectron.corpus import Corpus
from affectron.neurons import NeuronList

TASK = "topic"
PROMPTS = {TASK: "{bos}{text}"}
LABELS = ("w0", "w1", "w2", "w3")
_L = len(LABELS)
#: Sentences of a label in each split.
SPLITS = {"train": 30, "dev": 30, "test": 80}

_TRIGGERS = {label: [f"w{_L + 3 * k + i}" for i in range(3)] for k, label in enumerate(LABELS)}
_WORDS = 100
_FILLERS = [f"w{i}" for i in range(4 * _L, _WORDS)]
_LAYERS, _WIDTH = 3, 96
# Dimensions of the residual stream: a constant, the label that a word triggers, random features of the word, the
# evidence for each label, its mean (the answer), and what the decoys write.
_CONSTANT, _TRIGGER, _FEATURES, _EVIDENCE, _ANSWER, _DECOY, _HIDDEN = np.cumsum([0, 1, _L, 17, _L, _L, _L]).tolist()
#: Standard deviations: gate and up of a planted neuron over the words, and the weights that all others write with.
_SPREAD, _NOISE = 0.2, 0.013


@dataclass(frozen=True)
class Construction:
    """Law of activity of the planted neurons: h = silu(gate)·up, each with random features of the word added.

    Attributes:
        description: the law in words.
        gate, up: the value at any word, and what a trigger word of the label adds.
    """

    description: str
    gate: tuple[float, float]
    up: tuple[float, float]


CONSTRUCTIONS = {
    "rare": Construction("fires at the label's trigger words alone", (-5.0, 7.0), (1.0, 0.0)),
    "always": Construction("fires at every word, more strongly at the label's trigger words", (1.5, 0.0), (0.6, 1.4)),
}


@dataclass(frozen=True)
class Planted:
    """A model with its sentences, and who is causal.

    Attributes:
        model, tokenizer, corpus: what an exam sees.
        widths: site -> number of neurons.
        causal, decoys: label -> the planted neurons, as many of each.
    """

    model: torch.nn.Module
    tokenizer: transformers.PreTrainedTokenizerFast
    corpus: Corpus
    widths: dict[str, int]
    causal: Mapping[str, NeuronList]
    decoys: Mapping[str, NeuronList]


def make_tokenizer(bos: bool | None = True, words: int = 60) -> transformers.PreTrainedTokenizerFast:
    """Make a tokenizer of one token a word, ``w0`` as token 3 and on; ``<s>`` goes before each text.

    ``bos``: whether the tokenizer puts it there by itself; None: it has no such token.
    """
    vocabulary = {word: i for i, word in enumerate(["<pad>", "<s>", "</s>", *(f"w{i}" for i in range(words))])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    if bos:
        backend.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", bos_token=None if bos is None else "<s>", eos_token="</s>"
    )


def plant(construction: Construction, rng: np.random.Generator) -> Planted:
    """Draw a model of a construction, its planted neurons and its sentences."""
    tokenizer = make_tokenizer(words=_WORDS)
    model = _blank(len(tokenizer))
    _write_words(model, tokenizer, rng)
    sites = [f"model.layers.{layer}.mlp" for layer in range(_LAYERS)]
    # The mean over the words is taken in the last layer: a neuron there would act at the last word alone.
    places = iter(rng.permutation((_LAYERS - 1) * _WIDTH).tolist())
    causal: dict[str, NeuronList] = {}
    decoys: dict[str, NeuronList] = {}
    size = int(rng.integers(4, 7))
    for k, label in enumerate(LABELS):
        for planted, written in ((causal, _EVIDENCE + k), (decoys, _DECOY + k)):
            members = [divmod(next(places), _WIDTH) for _ in range(size)]
            _plant(model, construction, members, k, written, rng)
            planted[label] = NeuronList(label, TASK, [(sites[layer], index, 0.0) for layer, index in members])
    return Planted(
        model.eval(), tokenizer, Corpus.from_records(_sentences(rng)), dict.fromkeys(sites, _WIDTH), causal, decoys
    )


def _blank(vocabulary: int) -> Any:
    """A model whose weights are zero and whose norms change nothing.

    A norm would give the decoys a small and steady effect, through the length of the residual stream. With this epsilon
    it is a constant factor, which its weight undoes; the gradient of the length is below the least float32.
    """
    model = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=vocabulary, hidden_size=_HIDDEN, intermediate_size=_WIDTH, num_hidden_layers=_LAYERS,
            num_attention_heads=1, num_key_value_heads=1, rms_norm_eps=1e36, tie_word_embeddings=False,
            max_position_embeddings=64, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        )
    )  # fmt: skip
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(1e18 if "norm" in name else 0.0)
    return model


def _write_words(model: Any, tokenizer: Any, rng: np.random.Generator) -> None:
    """Write the words, the mean of the evidence, the answers, and neurons of random activity that write little."""
    features = slice(_FEATURES, _EVIDENCE)
    evidence, answer = slice(_EVIDENCE, _ANSWER), slice(_ANSWER, _DECOY)
    with torch.no_grad():
        embed = model.model.embed_tokens.weight
        embed[:, _CONSTANT] = 1.0
        embed[:, features] = _normal(rng, len(embed), _EVIDENCE - _FEATURES)
        for k, label in enumerate(LABELS):
            embed[tokenizer.convert_tokens_to_ids(_TRIGGERS[label]), _TRIGGER + k] = 1.0
            model.lm_head.weight[tokenizer.convert_tokens_to_ids(label), _ANSWER + k] = 8.0
        for layer in model.model.layers:
            for weight in (layer.mlp.gate_proj.weight, layer.mlp.up_proj.weight):
                weight[:, features] = _normal(rng, _WIDTH, _EVIDENCE - _FEATURES) / (_EVIDENCE - _FEATURES) ** 0.5
            layer.mlp.down_proj.weight[_FEATURES:_DECOY] = _normal(rng, _DECOY - _FEATURES, _WIDTH) * _NOISE
        # Queries and keys are zero: the attention is a mean over the words so far.
        attention = model.model.layers[-1].self_attn
        attention.v_proj.weight[evidence, evidence] = torch.eye(_L)
        attention.o_proj.weight[answer, evidence] = torch.eye(_L)


def _plant(
    model: Any,
    construction: Construction,
    members: list[tuple[int, int]],
    k: int,
    written: int,
    rng: np.random.Generator,
) -> None:
    """Give neurons (layer, index) the activity of the construction; together they write 1 for a unit of activity."""
    shares = rng.uniform(0.6, 1.4, len(members))
    with torch.no_grad():
        for (layer, index), share in zip(members, shares / shares.sum(), strict=True):
            mlp = model.model.layers[layer].mlp
            for weight, (value, added) in (
                (mlp.gate_proj.weight, construction.gate),
                (mlp.up_proj.weight, construction.up),
            ):
                weight[index] *= _SPREAD
                weight[index, _CONSTANT], weight[index, _TRIGGER + k] = value, added
            mlp.down_proj.weight[:, index] = 0.0
            mlp.down_proj.weight[written, index] = share


def _normal(rng: np.random.Generator, *shape: int) -> torch.Tensor:
    return torch.from_numpy(rng.standard_normal(shape).astype(np.float32))


def _sentences(rng: np.random.Generator) -> Iterator[dict[str, str]]:
    """Random words, 1 to 3 triggers of the label, and 0 to 2 of another; no sentence twice."""
    seen = set()
    for split, each in SPLITS.items():
        for k, label in enumerate(LABELS):
            for _ in range(each):
                text = ""
                while not text or text in seen:
                    other = LABELS[(k + rng.integers(1, _L)) % _L]
                    words = [
                        *rng.choice(_FILLERS, rng.integers(5, 9)),
                        *rng.choice(_TRIGGERS[label], rng.integers(1, 4)),
                        *rng.choice(_TRIGGERS[other], rng.integers(0, 3)),
                    ]
                    text = " ".join(rng.permutation(words))
                seen.add(text)
                yield {"text": text, "label": label, "task": TASK, "split": split}

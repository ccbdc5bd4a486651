"""Training of the demo's model from scratch: ``python -m affectron.demo.train [--out FOLDER]``.

The script trains a byte-level BPE tokenizer and a small Llama on the train split of :mod:`affectron.demo.corpus` alone.
Each sentence is shown twice for each of its labels: with the label last, ``{bos}{text}\\nEmotion: anger{eos}`` (or
``\\nDevice: ...``), so that the model classifies, and with the label first, ``{bos}Emotion: anger\\n{text}{eos}``, so
that it writes. The same options, versions and processor give the same weights. ``training.json``, beside the weights,
records how they were made.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from affectron._internal.files import write_json
from affectron.demo import MODEL, PROMPTS
from affectron.demo.corpus import TASKS, generate
from affectron.models import load_model

BOS, EOS, PAD = "<|bos|>", "<|eos|>", "<|pad|>"
Record = Mapping[str, Any]


@dataclass(frozen=True)
class Options:
    """Options of the training. With the corpus and the library versions they determine the weights."""

    seed: int = 0
    vocabulary: int = 1536
    hidden: int = 128
    intermediate: int = 448
    layers: int = 5
    heads: int = 4
    kv_heads: int = 2
    positions: int = 128
    epochs: int = 3
    batch: int = 64  # sequences
    learning_rate: float = 2e-3  # peak; linear warm-up, then a cosine down to a tenth
    warmup: int = 60  # steps
    weight_decay: float = 0.1
    answer_weight: float = 1.0  # the mean loss of the answers is added to that of all tokens, this many times
    threads: int = 2


def label_of(record: Record, task: str) -> str | None:
    """Return the record's label in ``task``, or None if it has none."""
    labels, tasks = record["label"], record["task"]
    if isinstance(labels, str):
        labels, tasks = [labels], [tasks]
    return next((label for label, its_task in zip(labels, tasks, strict=True) if its_task == task), None)


def train_tokenizer(texts: Sequence[str], vocabulary: int) -> Any:
    """Train a byte-level BPE tokenizer that adds no special token by itself.

    Every label, with its leading space, is one token.

    Raises:
        RuntimeError: a label takes several tokens, so the vocabulary is too small.
    """
    model = Tokenizer(BPE())
    model.pre_tokenizer = ByteLevel(add_prefix_space=False)
    model.decoder = ByteLevelDecoder()
    trainer = BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[BOS, EOS, PAD],
        initial_alphabet=sorted(ByteLevel.alphabet()),
        show_progress=False,
    )
    model.train_from_iterator(texts, trainer)
    fast: Any = PreTrainedTokenizerFast
    tokenizer = fast(
        tokenizer_object=model, bos_token=BOS, eos_token=EOS, pad_token=PAD, clean_up_tokenization_spaces=False
    )
    for label in (label for labels in TASKS.values() for label in labels):
        if len(tokenizer.encode(" " + label, add_special_tokens=False)) != 1:
            raise RuntimeError(f"label {label!r} is not one token in a vocabulary of {vocabulary}")
    return tokenizer


@dataclass(frozen=True)
class Example:
    """Training sequence. ``answer`` is the position of the label's token if the label comes last, else -1."""

    ids: list[int]
    answer: int


def examples(records: Sequence[Record], tokenizer: Any) -> list[Example]:
    """Make the training sequences of ``records``: two for each label, with the label last and with the label first."""
    texts: list[tuple[str, bool]] = []
    for record in records:
        for task, prompt in PROMPTS.items():
            label = label_of(record, task)
            if label is None:
                continue
            name = prompt.rsplit("\n", 1)[1]
            texts.append((prompt.format(bos=BOS, text=record["text"]) + f" {label}{EOS}", True))
            texts.append((f"{BOS}{name} {label}\n{record['text']}{EOS}", False))
    encoded = tokenizer([text for text, _ in texts], add_special_tokens=False)["input_ids"]
    return [Example(ids, len(ids) - 2 if last else -1) for ids, (_, last) in zip(encoded, texts, strict=True)]


def pad(rows: Sequence[Sequence[int]], value: int) -> torch.Tensor:
    """Pad ``rows`` on the right with ``value``: int64 [rows, longest]."""
    width = max(map(len, rows))
    return torch.tensor([[*row, *[value] * (width - len(row))] for row in rows])


def losses(model: Any, batch: Sequence[Example], pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute the mean cross-entropy (nats) over all tokens after the first, and over the answers alone.

    No attention mask is needed: the padding is on the right, where no real token of a causal model attends to it.
    """
    ids = pad([sequence.ids for sequence in batch], pad_id)
    logits = model(input_ids=ids[:, :-1], use_cache=False).logits.float()
    entropies = cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
    real = (ids[:, 1:] != pad_id).float()
    answered = [(row, s.answer - 1) for row, s in enumerate(batch) if s.answer >= 0]
    rows, columns = torch.tensor(answered).T
    return (entropies * real).sum() / real.sum(), entropies[rows, columns].mean()


def epoch(data: Sequence[Example], batch: int, rng: random.Random) -> Iterator[list[Example]]:
    """Yield the batches of one epoch in random order, each of sequences of similar length from a pool of 16 batches."""
    order = sorted(range(len(data)), key=lambda _: rng.random())
    batches: list[list[int]] = []
    for start in range(0, len(order), batch * 16):
        pool = sorted(order[start : start + batch * 16], key=lambda i: len(data[i].ids))
        batches += [pool[i : i + batch] for i in range(0, len(pool), batch)]
    for chosen in sorted(batches, key=lambda _: rng.random()):
        yield [data[i] for i in chosen]


def train_model(data: Sequence[Example], tokenizer: Any, options: Options) -> tuple[Any, dict[str, float]]:
    """Train a LlamaForCausalLM in float32; return it and the last epoch's mean losses in nats, "token" and "answer"."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=options.hidden,
        intermediate_size=options.intermediate,
        num_hidden_layers=options.layers,
        num_attention_heads=options.heads,
        num_key_value_heads=options.kv_heads,
        max_position_embeddings=options.positions,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model: Any = LlamaForCausalLM(config)
    matrices = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": options.weight_decay}, {"params": others, "weight_decay": 0.0}],
        lr=options.learning_rate,
        betas=(0.9, 0.98),
    )
    steps = options.epochs * sum(
        math.ceil(min(options.batch * 16, len(data) - start) / options.batch)
        for start in range(0, len(data), options.batch * 16)
    )

    def rate(step: int) -> float:
        if step < options.warmup:
            return (step + 1) / options.warmup
        done = (step - options.warmup) / max(1, steps - options.warmup)
        return 0.1 + 0.45 * (1 + math.cos(math.pi * done))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    rng = random.Random(options.seed)
    means: dict[str, float] = {}
    model.train()
    for number in range(options.epochs):
        started = time.perf_counter()
        seen = []
        for batch in epoch(data, options.batch, rng):
            token, answer = losses(model, batch, tokenizer.pad_token_id)
            optimizer.zero_grad()
            total: Any = token + options.answer_weight * answer
            total.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            seen.append((token.item(), answer.item()))
        token_mean, answer_mean = (sum(column) / len(seen) for column in zip(*seen, strict=True))
        means = {"token": round(token_mean, 4), "answer": round(answer_mean, 4)}
        seconds = time.perf_counter() - started
        print(f"epoch {number + 1}/{options.epochs}: loss {means} in {seconds:.0f} s", flush=True)
    return model.eval(), means


@torch.inference_mode()
def accuracy(model: Any, tokenizer: Any, records: Sequence[Record], batch: int = 128) -> dict[str, dict[str, Any]]:
    """Compute the share of ``records`` whose label is the likeliest of its task's labels after the task's prompt.

    Returns:
        {task: {"sentences": n, "accuracy": share, "labels": {label: share of that label's sentences}}}.
    """
    result: dict[str, dict[str, Any]] = {}
    for task, labels in TASKS.items():
        answers = torch.tensor([tokenizer.encode(" " + label, add_special_tokens=False)[0] for label in labels])
        asked = [(record["text"], label_of(record, task)) for record in records]
        prompts = [PROMPTS[task].format(bos=BOS, text=text) for text, label in asked if label is not None]
        truth = [labels.index(label) for _, label in asked if label is not None]
        rows = tokenizer(prompts, add_special_tokens=False)["input_ids"]
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        right = [False] * len(rows)
        for start in range(0, len(order), batch):
            chosen = order[start : start + batch]
            last = torch.tensor([len(rows[i]) - 1 for i in chosen])
            ids = pad([rows[i] for i in chosen], tokenizer.pad_token_id)
            hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[torch.arange(len(chosen)), last]
            guesses = model.lm_head(hidden).float()[:, answers].argmax(1).tolist()
            for i, guess in zip(chosen, guesses, strict=True):
                right[i] = guess == truth[i]
        by_label = {
            label: [hit for hit, true in zip(right, truth, strict=True) if true == index]
            for index, label in enumerate(labels)
        }
        result[task] = {
            "sentences": len(right),
            "accuracy": round(sum(right) / len(right), 4),
            "labels": {label: round(sum(hits) / len(hits), 4) for label, hits in by_label.items()},
        }
    return result


def save(model: Any, tokenizer: Any, out: Path) -> None:
    """Write the weights (bfloat16 safetensors), the configuration and the tokenizer to the folder ``out``."""
    model.to(torch.bfloat16).save_pretrained(out)
    tokenizer.save_pretrained(out)
    # transformers 5 writes a class name that transformers 4 does not have; both have this one.
    path = out / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    write_json(path, {**settings, "tokenizer_class": "PreTrainedTokenizerFast"})


@torch.inference_mode()
def mean_losses(model: Any, tokenizer: Any, records: Sequence[Record], batch: int = 128) -> dict[str, float]:
    """Average :func:`losses` over the batches of ``records``: "token" and "answer", in nats."""
    data = examples(records, tokenizer)
    starts = range(0, len(data), batch)
    parts = [losses(model, data[start : start + batch], tokenizer.pad_token_id) for start in starts]
    token, answer = (sum(part[i].item() for part in parts) / len(parts) for i in (0, 1))
    return {"token": round(token, 4), "answer": round(answer, 4)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Train and save the model, then measure the saved bfloat16 weights in float32 arithmetic."""
    parser = argparse.ArgumentParser(prog="python -m affectron.demo.train", description="Train the demo's model.")
    parser.add_argument("--out", type=Path, default=MODEL, help="folder to write (default: the package's own)")
    out: Path = parser.parse_args(arguments).out
    options = Options()
    torch.set_num_threads(options.threads)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(options.seed)

    started = time.perf_counter()
    records = generate(options.seed)
    splits = {split: [r for r in records if r["split"] == split] for split in ("train", "dev", "test")}
    questions = [prompt.rsplit("\n", 1)[1] for prompt in PROMPTS.values()]
    tokenizer = train_tokenizer(
        [r["text"] for r in splits["train"]]
        + [f"\n{q} {label}" for q, task in zip(questions, PROMPTS, strict=True) for label in TASKS[task]] * 400,
        options.vocabulary,
    )
    data = examples(splits["train"], tokenizer)
    print(f"{len(data)} sequences, {sum(len(s.ids) for s in data)} tokens, vocabulary {len(tokenizer)}", flush=True)
    model, means = train_model(data, tokenizer, options)
    parameters = sum(p.numel() for p in model.parameters())
    out.mkdir(parents=True, exist_ok=True)
    save(model, tokenizer, out)
    seconds = time.perf_counter() - started

    model, tokenizer = load_model(out, dtype=torch.float32)  # float32 arithmetic: few CPUs are fast in bfloat16
    loss = {"train (last epoch)": means}
    loss.update({split: mean_losses(model, tokenizer, splits[split]) for split in ("dev", "test")})
    scores = {split: accuracy(model, tokenizer, rows) for split, rows in splits.items()}
    record = {
        "options": asdict(options),
        "parameters": parameters,
        "sequences": len(data),
        "tokens_an_epoch": sum(len(s.ids) for s in data),
        "seconds": round(seconds, 1),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "tokenizers": tokenizers.__version__,
        },
        "loss": loss,
        "accuracy": scores,
    }
    write_json(out / "training.json", record)
    for split, tasks in scores.items():
        for task, figures in tasks.items():
            print(f"{split} {task}: {figures['accuracy']:.3f} {figures['labels']}")
    print(f"{out}: {parameters} parameters in {seconds:.0f} s")


if __name__ == "__main__":
    main()

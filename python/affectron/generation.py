"""Generation: continuations of prompts under programs, all in one batch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor
from transformers.generation.streamers import BaseStreamer

from affectron._internal.arguments import checked_arguments
from affectron._internal.display import Shown
from affectron.corpus.special_tokens import Frame
from affectron.errors import InputError
from affectron.interventions import Program, Schedule
from affectron.models import intervene, max_length
from affectron.models.tables import distinct

#: Texts that are written at a time: more take more memory, and on a CPU no less time each.
_TEXTS_ON_CPU, _TEXTS = 128, 512


@dataclass(frozen=True)
class Continuations(Shown):
    """Continuations of one prompt.

    Attributes:
        texts: one text for each program.
        tokens: number of tokens in all texts; a token that ends a text counts.
        seconds: duration of the generation.
    """

    texts: list[str]
    tokens: int
    seconds: float


@checked_arguments
def continuations(
    model: Any,
    tokenizer: Any,
    prompt: str,
    programs: Sequence[Program | Schedule | None],
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    seed: int = 0,
    chat: bool = False,
    watch: Callable[[list[str]], None] | None = None,
) -> Continuations:
    """Continue ``prompt`` under each program; the texts do not contain the prompt.

    All texts are generated in one batch. They have the same prompt, so none is padded.

    Args:
        model: a transformers language model.
        tokenizer: its tokenizer.
        prompt: the text to continue (:func:`prompt_ids`).
        programs: one for each text; None gives the unsteered text.
        max_new_tokens: largest number of tokens to generate; the model may end a text earlier.
        temperature: 0 takes the likeliest token at each step; a positive value samples from all tokens.
        seed: seed of the samples. All texts use the same random numbers, so that they differ by the programs alone.
        chat: put the prompt into the tokenizer's chat template, as the user's turn.
        watch: called after every token with the texts so far.

    Raises:
        InputError: as :func:`prompt_ids`, or prompt and continuation are longer than the model reads.
    """
    ids = prompt_ids(model, tokenizer, prompt, chat)
    told = None if watch is None else lambda texts: watch(decoded(tokenizer, texts))
    start = time.perf_counter()
    written = _write(model, tokenizer, [ids], programs, max_new_tokens, temperature, [seed], told)
    seconds = time.perf_counter() - start
    return Continuations(decoded(tokenizer, written), sum(map(len, written)), seconds)


def write(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    programs: Sequence[Program | Schedule | None],
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    seeds: Sequence[int],
    advance: Callable[[int], None] = lambda texts: None,
) -> list[list[list[int]]]:
    """Continue each of B prompts under each of P programs.

    Prompts of one number of tokens share a batch, so that none is padded.

    Args:
        model, tokenizer, programs, max_new_tokens, temperature: as for :func:`continuations`.
        prompts: the tokens of each prompt.
        seeds: a seed for each prompt: its texts use the same random numbers under all programs.
        advance: called with the number of texts that a batch has added.

    Returns:
        [P][B] the tokens of each text, that which ends it included.

    Raises:
        InputError: a prompt and its continuation are longer than the model reads.
    """
    texts: list[list[list[int]]] = [[[] for _ in prompts] for _ in programs]
    most = _TEXTS_ON_CPU if model.device.type == "cpu" else _TEXTS
    for first in range(0, len(programs), most):
        some = programs[first : first + most]
        for batch in _batches(list(map(len, prompts)), max(1, most // len(some))):
            rows = [prompts[row] for row in batch]
            drawn = [seeds[row] for row in batch]
            written = iter(_write(model, tokenizer, rows, some, max_new_tokens, temperature, drawn, None))
            for of_program in texts[first : first + most]:
                for row in batch:
                    of_program[row] = next(written)
            advance(len(some) * len(batch))
    return texts


def _batches(lengths: Sequence[int], most: int) -> Iterator[list[int]]:
    """Positions of prompts of one length, at most so many at a time."""
    for length in sorted(set(lengths)):
        rows = [row for row, of_row in enumerate(lengths) if of_row == length]
        for first in range(0, len(rows), most):
            yield rows[first : first + most]


def _write(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    programs: Sequence[Program | Schedule | None],
    max_new_tokens: int,
    temperature: float,
    seeds: Sequence[int],
    watch: Callable[[list[list[int]]], None] | None,
) -> list[list[int]]:
    """The tokens of P B texts: those of B prompts of one length under the first program, then under the next."""
    ids = torch.tensor(prompts, dtype=torch.int64, device=model.device).repeat(len(programs), 1)
    limit = max_length(model)
    if limit is not None and ids.shape[1] + (0 if model.config.is_encoder_decoder else max_new_tokens) > limit:
        raise InputError(
            f"prompt has {ids.shape[1]} tokens and max_new_tokens is {max_new_tokens}, but the model reads {limit}"
        )
    ends = model.generation_config.eos_token_id
    texts = _GeneratedTexts({ends} if isinstance(ends, int) else set(ends or ()), len(ids), watch)
    with intervene(model, programs, capacity=max(1, len(distinct(programs)))):
        model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=max_new_tokens,
            pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id,
            do_sample=False,
            logits_processor=[_GumbelNoise(temperature, seeds)] if temperature > 0 else [],
            streamer=texts,
        )
    return texts.ids


def prompt_ids(model: Any, tokenizer: Any, prompt: str, chat: bool = False) -> list[int]:
    """Tokenise a prompt that a model is to continue.

    Args:
        model: a transformers language model.
        tokenizer: its tokenizer.
        prompt: the text. If it contains {bos}, that stands for the beginning-of-sequence token, and no other special
            token is added. Any other prompt gets the tokenizer's special tokens, except those after the text if a
            decoder is to continue it. Either begins with the beginning-of-sequence token, if there is one.
        chat: put the prompt into the tokenizer's chat template, as the user's turn.

    Raises:
        InputError: the tokenizer has no token for {bos}, or no chat template, or the prompt has no token.
    """
    if chat and not tokenizer.chat_template:
        raise InputError("chat is asked for, but the tokenizer has no chat template")
    explicit_bos = "{bos}" in prompt
    if explicit_bos and tokenizer.bos_token is None:
        raise InputError(f"prompt is {prompt!r}, but the tokenizer has no beginning-of-sequence token for {{bos}}")
    text = prompt.replace("{bos}", tokenizer.bos_token or "")
    if chat:
        turn = [{"role": "user", "content": text}]
        text, frame = tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=False), Frame()
    else:
        frame = Frame.of_prompt(tokenizer, text) if explicit_bos else Frame.of_text(tokenizer)
        if not model.config.is_encoder_decoder:
            frame = frame._replace(after=())
    ids: list[int] = frame.around(tokenizer(text, add_special_tokens=False)["input_ids"])
    if not ids:
        raise InputError(f"prompt is {prompt!r}, expected text with at least one token")
    return ids


def decoded(tokenizer: Any, texts: Sequence[Sequence[int]]) -> list[str]:
    """Decode texts, without special tokens."""
    return [tokenizer.decode(ids, skip_special_tokens=True) for ids in texts]


class _GumbelNoise(LogitsProcessor):
    """Noise that turns the choice of the likeliest token into a sample.

    The maximum of logits / temperature + Gumbel noise is a sample of softmax(logits / temperature) (Gumbel-max trick).
    There is a generator for each of B seeds; of P B texts, text ``p B + b`` has the noise of seed b.
    """

    def __init__(self, temperature: float, seeds: Sequence[int]) -> None:
        self.temperature = temperature
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        noise = torch.empty(len(self.generators), scores.shape[1])
        for row, generator in zip(noise, self.generators, strict=True):
            row.exponential_(generator=generator)
        noise = -noise.log_().to(scores.device)
        return scores.float() / self.temperature + noise.repeat(len(scores) // len(noise), 1)


class _GeneratedTexts(BaseStreamer):
    """Tokens of each text, up to the one that ends it. The streamers of transformers take a single text."""

    def __init__(self, ends: set[int], texts: int, watch: Callable[[list[list[int]]], None] | None) -> None:
        self.ends, self.watch = ends, watch
        self.ids: list[list[int]] = [[] for _ in range(texts)]
        self.begun = False

    def put(self, value: Tensor) -> None:
        if not self.begun:  # the first call has the prompts
            self.begun = True
            return
        for ids, token in zip(self.ids, value.reshape(-1).tolist(), strict=True):
            if not ids or ids[-1] not in self.ends:
                ids.append(token)
        if self.watch is not None:
            self.watch(self.ids)

    def end(self) -> None:
        pass

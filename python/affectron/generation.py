"""Generation: continuations of one prompt under several programs, in one batch."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor
from transformers.generation.streamers import BaseStreamer

from affectron.corpus.special_tokens import Frame
from affectron.errors import InputError
from affectron.interventions import Program, Schedule
from affectron.models import intervene, max_length


@dataclass(frozen=True)
class Continuations:
    """Continuations of one prompt.

    Attributes:
        texts: one text for each program.
        tokens: number of tokens in all texts; a token that ends a text counts.
        seconds: duration of the generation.
    """

    texts: list[str]
    tokens: int
    seconds: float


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
        prompt: the text to continue. If it contains {bos}, that stands for the beginning-of-sequence token, and no
            other special token is added. Any other prompt gets the tokenizer's special tokens, except those after the
            text if a decoder is to continue it. Either begins with the beginning-of-sequence token, if there is one.
        programs: one for each text; None gives the unsteered text.
        max_new_tokens: largest number of tokens to generate; the model may end a text earlier.
        temperature: 0 takes the likeliest token at each step; a positive value samples from all tokens.
        seed: seed of the samples. All texts use the same random numbers, so that they differ by the programs alone.
        chat: put the prompt into the tokenizer's chat template, as the user's turn.
        watch: called after every token with the texts so far.

    Raises:
        InputError: the tokenizer has no token for {bos}, or no chat template; the prompt has no token, or prompt and
            continuation are longer than the model reads.
    """
    ids = _prompt_ids(model, tokenizer, prompt, chat)
    if not ids.shape[1]:
        raise InputError(f"prompt is {prompt!r}, expected text with at least one token")
    limit = max_length(model)
    if limit is not None and ids.shape[1] + (0 if model.config.is_encoder_decoder else max_new_tokens) > limit:
        raise InputError(
            f"prompt has {ids.shape[1]} tokens and max_new_tokens is {max_new_tokens}, but the model reads {limit}"
        )
    ends = model.generation_config.eos_token_id
    texts = _GeneratedTexts(tokenizer, {ends} if isinstance(ends, int) else set(ends or ()), len(programs), watch)
    ids = ids.expand(len(programs), -1)
    start = time.perf_counter()
    with intervene(model, programs):
        model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=max_new_tokens,
            pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id,
            do_sample=False,
            logits_processor=[_GumbelNoise(temperature, seed)] if temperature > 0 else [],
            streamer=texts,
        )
    return Continuations(texts.decode(), sum(map(len, texts.ids)), time.perf_counter() - start)


def _prompt_ids(model: Any, tokenizer: Any, prompt: str, chat: bool) -> Tensor:
    """Encode the prompt: int64 [1, T], on the model's device."""
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
    ids = frame.around(tokenizer(text, add_special_tokens=False)["input_ids"])
    return torch.tensor([ids], dtype=torch.int64, device=model.device)


class _GumbelNoise(LogitsProcessor):
    """Noise that turns the choice of the likeliest token into a sample.

    The maximum of logits / temperature + Gumbel noise is a sample of softmax(logits / temperature) (Gumbel-max trick).
    All texts get the same noise at a step.
    """

    def __init__(self, temperature: float, seed: int) -> None:
        self.temperature = temperature
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        noise = -torch.empty(scores.shape[1]).exponential_(generator=self.generator).log()
        return scores.float() / self.temperature + noise.to(scores.device)


class _GeneratedTexts(BaseStreamer):
    """Tokens of each text, up to the one that ends it. The streamers of transformers take a single text."""

    def __init__(self, tokenizer: Any, ends: set[int], texts: int, watch: Callable[[list[str]], None] | None) -> None:
        self.tokenizer, self.ends, self.watch = tokenizer, ends, watch
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
            self.watch(self.decode())

    def end(self) -> None:
        pass

    def decode(self) -> list[str]:
        """Decode the texts so far, without special tokens."""
        return [self.tokenizer.decode(ids, skip_special_tokens=True) for ids in self.ids]

"""Text that a model writes after a prompt under several programs at once; apart because the command line and the demo
both show it."""

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
    """What was written after one prompt: a text for each program, the tokens in all of them (a token that ends a text
    counts), and the seconds that it took."""

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
    """What the model writes after ``prompt`` under each program, without the prompt: one batch, so that no text waits
    for another and none is padded.

    Args:
        prompt: a text. With {bos} in it, it is read as it stands, with the beginning-of-sequence token there; any
            other gets the special tokens of this model: those that the tokenizer adds, but for one that ends a text
            which a decoder is to continue. Either begins with the beginning-of-sequence token, where there is one.
        programs: one a text; None writes the unsteered one.
        max_new_tokens: tokens to write at most; fewer where the model ends its text.
        temperature: 0 takes the likeliest token each time, more draws from all tokens.
        seed: of the draws. All texts are drawn with the same random numbers, so that they differ by the programs.
        chat: put the prompt into the tokenizer's chat template, as the user's turn.
        watch: is given the texts so far after every token.

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
    written = _Written(tokenizer, {ends} if isinstance(ends, int) else set(ends or ()), len(programs), watch)
    ids = ids.expand(len(programs), -1)
    start = time.perf_counter()
    with intervene(model, programs):
        model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=max_new_tokens,
            pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id,
            do_sample=False,
            logits_processor=[_Draws(temperature, seed)] if temperature > 0 else [],
            streamer=written,
        )
    return Continuations(written.texts(), sum(map(len, written.ids)), time.perf_counter() - start)


def _prompt_ids(model: Any, tokenizer: Any, prompt: str, chat: bool) -> Tensor:
    """int64 [1, T], on the model's device."""
    if chat and not tokenizer.chat_template:
        raise InputError("chat is asked for, but the tokenizer has no chat template")
    written = "{bos}" in prompt
    if written and tokenizer.bos_token is None:
        raise InputError(f"prompt is {prompt!r}, but the tokenizer has no beginning-of-sequence token for {{bos}}")
    text = prompt.replace("{bos}", tokenizer.bos_token or "")
    if chat:
        turn = [{"role": "user", "content": text}]
        text, frame = tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=False), Frame()
    else:
        frame = Frame.of_prompt(tokenizer, text) if written else Frame.of_text(tokenizer)
        if not model.config.is_encoder_decoder:
            frame = frame._replace(after=())
    ids = frame.around(tokenizer(text, add_special_tokens=False)["input_ids"])
    return torch.tensor([ids], dtype=torch.int64, device=model.device)


class _Draws(LogitsProcessor):
    """Turns the choice of the likeliest token into a draw: the maximum of logits / temperature plus Gumbel noise is a
    sample of their softmax. The noise of a step is one and the same for all texts."""

    def __init__(self, temperature: float, seed: int) -> None:
        self.temperature = temperature
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        noise = -torch.empty(scores.shape[1]).exponential_(generator=self.generator).log()
        return scores.float() / self.temperature + noise.to(scores.device)


class _Written(BaseStreamer):
    """The tokens of each text, up to the one that ends it. Transformers' own streamers take one text only."""

    def __init__(self, tokenizer: Any, ends: set[int], texts: int, watch: Callable[[list[str]], None] | None) -> None:
        self.tokenizer, self.ends, self.watch = tokenizer, ends, watch
        self.ids: list[list[int]] = [[] for _ in range(texts)]
        self.begun = False

    def put(self, value: Tensor) -> None:
        if not self.begun:  # the first are the prompts
            self.begun = True
            return
        for ids, token in zip(self.ids, value.reshape(-1).tolist(), strict=True):
            if not ids or ids[-1] not in self.ends:
                ids.append(token)
        if self.watch is not None:
            self.watch(self.texts())

    def end(self) -> None:
        pass

    def texts(self) -> list[str]:
        return [self.tokenizer.decode(ids, skip_special_tokens=True) for ids in self.ids]

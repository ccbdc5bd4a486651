"""Text that a model writes after a prompt; apart because the command line and the demo both show it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from affectron.errors import InputError


def continuations(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    seed: int = 0,
    chat: bool = False,
) -> list[str]:
    """What the model writes after each prompt, without the prompt; one at a time, so that none is padded.

    Args:
        prompts: texts. One with {bos} in it is read as it stands, with the beginning-of-sequence token there; any
            other gets the special tokens that the tokenizer adds for this model.
        max_new_tokens: tokens to write at most; fewer where the model ends its text.
        temperature: 0 takes the likeliest token each time, more draws from all tokens.
        seed: of the draws, set anew for each prompt.
        chat: put the prompt into the tokenizer's chat template, as the user's turn.

    Raises:
        InputError: the tokenizer has no token for {bos}, or no chat template.
    """
    if chat and not tokenizer.chat_template:
        raise InputError("chat is asked for, but the tokenizer has no chat template")
    written = []
    for prompt in prompts:
        raw = "{bos}" in prompt
        if raw and tokenizer.bos_token is None:
            raise InputError(f"prompt is {prompt!r}, but the tokenizer has no beginning-of-sequence token for {{bos}}")
        text = prompt.replace("{bos}", tokenizer.bos_token or "")
        if chat:
            turn = [{"role": "user", "content": text}]
            text, raw = tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=False), True
        inputs = tokenizer(text, add_special_tokens=not raw, return_tensors="pt").to(model.device)
        length = inputs["input_ids"].shape[1]
        if not length:
            raise InputError(f"prompt is {prompt!r}, expected text with at least one token")
        drawn = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            output = model.generate(
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                max_new_tokens=max_new_tokens,
                pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id,
                **(drawn if temperature > 0 else {"do_sample": False}),
            )
        written.append(tokenizer.decode(output[0, length:], skip_special_tokens=True))
    return written

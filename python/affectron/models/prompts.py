"""Where in a text a forward of the model is: the length of the prompt that ``generate`` goes on from, and of a cache.

Apart from intervention.py, which steers by it: here is what has to be known of transformers' ``generate``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers.generation.utils import ALL_CACHE_NAMES

from affectron.models.swap import swap_attribute

#: Names of the argument by which a model is given a cache or a state.
CACHES: tuple[str, ...] = tuple(ALL_CACHE_NAMES)

Generating = Callable[[int, bool, bool], AbstractContextManager[None]]
"""``generating(length, drafts, counts)``: a context that is open while ``generate`` runs, whose prompt has ``length``
positions. ``drafts``: it writes a draft for the ``generate`` that it runs inside of, so that the prompt is that one's.
``counts``: it begins without a state that has read something, so that its tokens can be counted."""

# Whom a model's generate tells of its run, and the way back to what it was.
_TOLD: WeakKeyDictionary[nn.Module, tuple[list[Generating], ExitStack]] = WeakKeyDictionary()


def tell_the_prompt(model: Any, generating: Generating) -> Callable[[], None]:
    """Let ``model.generate`` open the context ``generating`` while it runs; returns what ends it, in any order."""
    if model not in _TOLD:
        _TOLD[model] = [], ExitStack()
        swap_attribute(model, "generate", _telling_the_prompt(model, model.generate, _TOLD[model][0]), _TOLD[model][1])
    told, undo = _TOLD[model]
    told.append(generating)

    def remove() -> None:
        told[:] = [other for other in told if other is not generating]
        if not told:
            _TOLD.pop(model, None)
            undo.close()

    return remove


def _telling_the_prompt(model: Any, generate: Any, told: list[Generating]) -> Any:
    @functools.wraps(generate)
    def telling(*args: Any, **kwargs: Any) -> Any:
        length = _length_of_prompt(model, args, kwargs)
        drafts = getattr(kwargs.get("generation_config"), "is_assistant", False)
        counts = all(kwargs.get(name) is None or cache_length(kwargs[name]) is not None for name in CACHES)
        with ExitStack() as undo:
            for generating in tuple(told):
                undo.enter_context(generating(length, drafts, counts))
            return generate(*args, **kwargs)

    return telling


def _length_of_prompt(model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """Positions of the prompt that ``model.generate`` goes on from; in an encoder-decoder model the decoder's."""
    if getattr(model.config, "is_encoder_decoder", False):
        given = kwargs.get("decoder_input_ids")
        if given is None and model.main_input_name != "input_ids":
            given = kwargs.get("input_ids")
        if given is None:
            return 1
        # transformers puts the start token before a prompt that does not begin with it.
        config = kwargs.get("generation_config") or model.generation_config
        start = kwargs.get("decoder_start_token_id", config.decoder_start_token_id)
        start = config.bos_token_id if start is None else start
        own = model.config.model_type in ("whisper", "vision-encoder-decoder") or start is None
        return int(given.shape[1]) + (not own and bool((given[:, 0] != torch.as_tensor(start).to(given.device)).all()))
    candidates = kwargs.get("inputs_embeds"), *args[:1], kwargs.get("inputs"), kwargs.get("input_ids")
    prompt = next((tensor for tensor in candidates if tensor is not None), None)
    length = 1 if prompt is None else int(prompt.shape[1])  # without a prompt generate begins with one token
    mask = kwargs.get("attention_mask")
    if mask is not None and mask.dim() == 2:  # wider where the prompt goes on from a cache
        length = max(length, int(mask.shape[1]))
    # PEFT puts its virtual tokens before the prompt, by a method of its own for the time.
    wrapper = getattr(model.prepare_inputs_for_generation, "__self__", None)
    adapter: Any = getattr(wrapper, "active_peft_config", None)
    return length + (int(adapter.num_virtual_tokens) if getattr(adapter, "is_prompt_learning", False) else 0)


def cache_length(cache: Any) -> int | Tensor | None:
    """Tokens that a cache holds; None where it does not tell, as states do not."""
    layers = getattr(getattr(cache, "self_attention_cache", cache), "layers", None)
    if layers:
        # In a hybrid model some layers keep a state, and some caches have a layer of keys there that stays empty.
        filled = (layer for layer in layers if _has_keys(layer) and getattr(layer, "is_initialized", True))
        first = next(filled, None)
        if first is not None:
            return first.get_seq_length()  # type: ignore[no-any-return]
        return 0 if any(map(_has_keys, layers)) else None
    find = getattr(cache, "get_seq_length", None)
    return None if find is None else find()


def _has_keys(layer: Any) -> bool:
    return hasattr(layer, "get_seq_length")

"""The position of a forward in its text: the length of the prompt that ``generate`` goes on from, and of a cache.

This module holds all that the package has to know of transformers' ``generate``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from torch import Tensor, nn
from transformers.generation.utils import ALL_CACHE_NAMES

from affectron.errors import InputError
from affectron.models.swapping import swap_attribute

#: Names of the argument by which a model is given a cache or a state.
CACHES: tuple[str, ...] = tuple(ALL_CACHE_NAMES)


class Listener(Protocol):
    """Listens to a model's ``generate``; :class:`affectron.models.Steering` is one."""

    prompt_length: int | None

    @property
    def scheduled(self) -> bool:
        """Return whether the position in the text matters."""

    def generating(self, counts: bool) -> AbstractContextManager[None]:
        """Open a context around a call of ``generate``; ``counts``: its tokens can be counted from the first."""


# Of each model the calls of generate that run, and the way back to what the model was.
_GENERATIONS: WeakKeyDictionary[nn.Module, tuple[_Generations, ExitStack]] = WeakKeyDictionary()


def tell_the_prompt(model: Any, listener: Listener) -> Callable[[], None]:
    """Let ``model.generate`` set ``listener.prompt_length`` while it runs.

    Returns the function that ends it. Several listeners may leave in any order.
    """
    if model not in _GENERATIONS:
        generations, undo = _GENERATIONS[model] = _Generations(model), ExitStack()

        @functools.wraps(model.generate)
        def generate(*args: Any, **kwargs: Any) -> Any:
            return generations.generate(*args, **kwargs)

        swap_attribute(model, "generate", generate, undo)
        swap_attribute(model, _Generations.PREPARE, generations.prepare, undo)
    generations, undo = _GENERATIONS[model]
    generations.listeners.append(listener)

    def remove() -> None:
        generations.listeners[:] = [other for other in generations.listeners if other is not listener]
        if not generations.listeners:
            _GENERATIONS.pop(model, None)
            undo.close()

    return remove


class _Generations:
    """The calls of a model's ``generate`` that run, one inside another.

    Attributes:
        listeners: in order of arrival.
        drafts: for each call, whether it drafts for the text of the call around it and shares its prompt.
    """

    # The method that makes the decoder's prompt in an encoder-decoder model: transformers, and some classes, put tokens
    # before the given ones.
    PREPARE = "_prepare_decoder_input_ids_for_generation"

    def __init__(self, model: Any) -> None:
        self.inner_generate, self.inner_prepare = model.generate, getattr(model, self.PREPARE)
        self.model = model
        self.listeners: list[Listener] = []
        self.drafts: list[bool] = []

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        configs = kwargs.get("generation_config"), *args[1:2], getattr(self.model, "generation_config", None)
        config = next((candidate for candidate in configs if candidate is not None), None)
        guidance = kwargs.get("guidance_scale", getattr(config, "guidance_scale", None))
        if guidance not in (None, 1) and any(listener.scheduled for listener in self.listeners):
            raise InputError(
                f"guidance_scale is {guidance} and a schedule is set: expected none, as the text without the prompt "
                "has positions of its own"
            )
        counts = all(kwargs.get(name) is None or cache_length(kwargs[name]) is not None for name in CACHES)
        drafts = bool(self.drafts) and getattr(config, "is_assistant", False)
        with ExitStack() as undo:
            self.drafts.append(drafts)
            undo.callback(self.drafts.pop)
            for listener in self.listeners:
                undo.enter_context(listener.generating(counts))
            if not getattr(self.model.config, "is_encoder_decoder", False):
                self.tell(_prompt_length(self.model, args, kwargs))
            return self.inner_generate(*args, **kwargs)

    def prepare(self, *args: Any, **kwargs: Any) -> Any:
        prepared = self.inner_prepare(*args, **kwargs)
        self.tell(prepared[0].shape[1])
        return prepared

    def tell(self, length: int) -> None:
        if self.drafts and not self.drafts[-1]:
            for listener in self.listeners:
                listener.prompt_length = length


def _prompt_length(model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """Positions of the prompt that ``model.generate`` goes on from, in a model without an encoder."""
    candidates = kwargs.get("inputs_embeds"), *args[:1], kwargs.get("inputs"), kwargs.get("input_ids")
    prompt = next((tensor for tensor in candidates if tensor is not None), None)
    length = 1 if prompt is None else int(prompt.shape[1])  # without a prompt generate begins with one token
    mask = kwargs.get("attention_mask")
    if mask is not None and mask.dim() == 2:  # wider if the prompt goes on from a cache
        length = max(length, int(mask.shape[1]))
    # PEFT puts its virtual tokens before the prompt, by a method of its own that it sets for the time.
    wrapper = getattr(model.prepare_inputs_for_generation, "__self__", None)
    adapter: Any = getattr(wrapper, "active_peft_config", None)
    return length + (int(adapter.num_virtual_tokens) if getattr(adapter, "is_prompt_learning", False) else 0)


def cache_length(cache: Any) -> int | Tensor | None:
    """Number of tokens that a cache holds; None if it does not tell, as a state does not."""
    layers = getattr(getattr(cache, "self_attention_cache", cache), "layers", None)
    if layers:
        # In a hybrid model some layers keep a state, and some caches have a layer of keys there that stays empty.
        filled = next((layer for layer in layers if _has_keys(layer) and _is_filled(layer)), None)
        if filled is not None:
            return filled.get_seq_length()  # type: ignore[no-any-return]
        return 0 if any(map(_has_keys, layers)) else None
    keys = getattr(cache, "key_cache", None)
    if isinstance(keys, list):  # of a hybrid model; a layer that no attention has filled has tensors of two dimensions
        return next((int(tensor.shape[-2]) for tensor in keys if tensor.dim() == 4), 0)
    find = getattr(cache, "get_seq_length", None)
    return None if find is None else find()


def _has_keys(layer: Any) -> bool:
    return hasattr(layer, "get_seq_length")


def _is_filled(layer: Any) -> bool:
    # transformers 4.56 has no is_initialized; other layers have no keys.
    return getattr(layer, "is_initialized", True) and getattr(layer, "keys", layer) is not None

"""Where in a text a forward of the model is: the length of the prompt that ``generate`` goes on from, and of a cache.

Separate from intervention.py, which steers by it: this module holds what has to be known of transformers' ``generate``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from torch import Tensor, nn
from transformers.generation.utils import ALL_CACHE_NAMES

from affectron.errors import InputError
from affectron.models.attaching import swap_attribute

if TYPE_CHECKING:
    from affectron.models.steering import Steering

#: Names of the argument by which a model is given a cache or a state.
CACHES: tuple[str, ...] = tuple(ALL_CACHE_NAMES)

# What a model's generate tells of its runs, and the way back to what it was.
_TOLD: WeakKeyDictionary[nn.Module, tuple[_Runs, ExitStack]] = WeakKeyDictionary()


def tell_the_prompt(model: Any, steering: Steering) -> Callable[[], None]:
    """Let ``model.generate`` set ``steering.prompt_length`` while it runs; returns what ends it, in any order."""
    if model not in _TOLD:
        runs, undo = _TOLD[model] = _Runs(model), ExitStack()

        @functools.wraps(model.generate)
        def generate(*args: Any, **kwargs: Any) -> Any:
            return runs.generate(*args, **kwargs)

        swap_attribute(model, "generate", generate, undo)
        swap_attribute(model, _Runs.PREPARE, runs.prepare, undo)
    runs, undo = _TOLD[model]
    runs.told.append(steering)

    def remove() -> None:
        runs.told[:] = [other for other in runs.told if other is not steering]
        if not runs.told:
            _TOLD.pop(model, None)
            undo.close()

    return remove


class _Runs:
    """The runs of a model's ``generate`` that are under way, one inside of another.

    Attributes:
        told: what is told of the prompt, beginning with the first context that was opened.
        drafts: of each run, whether it writes a draft for the text of the run around it, whose prompt is its own too.
    """

    # The decoder's prompt in an encoder-decoder model, with what transformers and a class of its own put before it.
    PREPARE = "_prepare_decoder_input_ids_for_generation"

    def __init__(self, model: Any) -> None:
        self.own_generate, self.own_prepare, self.model = model.generate, getattr(model, self.PREPARE), model
        self.told: list[Steering] = []
        self.drafts: list[bool] = []

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        configs = kwargs.get("generation_config"), *args[1:2], getattr(self.model, "generation_config", None)
        config = next((given for given in configs if given is not None), None)
        guidance = kwargs.get("guidance_scale", getattr(config, "guidance_scale", None))
        if guidance not in (None, 1) and any(steering.scheduled for steering in self.told):
            raise InputError(
                f"guidance_scale is {guidance} and a schedule is set: expected none, as the text without the prompt "
                "has positions of its own"
            )
        counts = all(kwargs.get(name) is None or cache_length(kwargs[name]) is not None for name in CACHES)
        drafts = bool(self.drafts) and getattr(config, "is_assistant", False)
        with ExitStack() as undo:
            self.drafts.append(drafts)
            undo.callback(self.drafts.pop)
            for steering in self.told:
                undo.enter_context(steering.generating(counts))
            if not getattr(self.model.config, "is_encoder_decoder", False):
                self.tell(_length_of_prompt(self.model, args, kwargs))
            return self.own_generate(*args, **kwargs)

    def prepare(self, *args: Any, **kwargs: Any) -> Any:
        found = self.own_prepare(*args, **kwargs)
        self.tell(found[0].shape[1])
        return found

    def tell(self, length: int) -> None:
        if self.drafts and not self.drafts[-1]:
            for steering in self.told:
                steering.prompt_length = length


def _length_of_prompt(model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """Positions of the prompt that ``model.generate`` goes on from, in a model without an encoder."""
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
        first = next((layer for layer in layers if _has_keys(layer) and _is_filled(layer)), None)
        if first is not None:
            return first.get_seq_length()  # type: ignore[no-any-return]
        return 0 if any(map(_has_keys, layers)) else None
    keys = getattr(cache, "key_cache", None)
    if isinstance(keys, list):  # of a hybrid model; what no layer of attention has filled yet has two dimensions
        return next((int(held.shape[-2]) for held in keys if held.dim() == 4), 0)
    find = getattr(cache, "get_seq_length", None)
    return None if find is None else find()


def _has_keys(layer: Any) -> bool:
    return hasattr(layer, "get_seq_length")


def _is_filled(layer: Any) -> bool:
    # transformers 4.56 has no is_initialized; other layers have no keys.
    return getattr(layer, "is_initialized", True) and getattr(layer, "keys", layer) is not None

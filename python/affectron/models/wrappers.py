"""Wrappers of models and modules: ``torch.compile`` and the adapters of PEFT."""

from __future__ import annotations

from typing import Any

from torch import nn

from affectron.errors import InputError
from affectron.models.layout import sizes


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the model inside ``torch.compile`` and PEFT. Its sites have the same names with and without an adapter."""
    inner: Any = model
    while True:
        if hasattr(inner, "_orig_mod"):
            inner = inner._orig_mod
        elif callable(getattr(inner, "get_base_model", None)):
            inner = inner.get_base_model()
        else:
            return inner  # type: ignore[no-any-return]


def active_module(module: nn.Module) -> tuple[str, nn.Module]:
    """Return (name inside ``module``, the module that does its work) for a wrapper, ("", ``module``) for any other.

    Wrappers are that of ``torch.compile`` and two of PEFT: the one with a copy of a module for each adapter
    (``modules_to_save``), and the one that changes the parameters of a module other than a linear layer
    (``target_parameters``).
    """
    path: list[str] = []
    while True:
        children = module._modules
        if "_orig_mod" in children:
            name = "_orig_mod"
        elif "modules_to_save" in children and "original_module" in children:
            wrapper: Any = module
            active = wrapper.active_adapter
            chosen = active if isinstance(active, str) else next(iter(active), None)
            copied = not wrapper.disable_adapters and chosen in wrapper.modules_to_save
            name = f"modules_to_save.{chosen}" if copied else "original_module"
        elif "base_layer" in children and sizes(module) is None:
            name = "base_layer"
        else:
            return ".".join(path), module
        path.append(name)
        module = module.get_submodule(name)


def has_adapter(model: Any) -> bool:
    """Return whether ``model`` is a PEFT model around another one."""
    return callable(getattr(getattr(model, "_orig_mod", model), "get_base_model", None))


def check_adapter(model: Any) -> None:
    """Refuse an active PEFT adapter that the model inside does not compute: a learned prompt, whose virtual tokens
    stand before the text, or weights that apply from certain tokens of the text on.

    Raises:
        InputError: the model has such an adapter.
    """
    if not has_adapter(model):
        return
    for name in model.active_adapters:
        config = model.peft_config[name]
        if config.is_prompt_learning or getattr(config, "alora_invocation_tokens", None):
            kind = "a learned prompt" if config.is_prompt_learning else "activated by tokens of the text"
            raise InputError(
                f"adapter {name!r} ({config.peft_type.value}) is {kind}, expected one that changes weights: what reads "
                "the text is the model inside, model.get_base_model()"
            )

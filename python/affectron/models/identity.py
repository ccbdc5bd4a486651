"""The identity of a model and a tokenizer: hashes by which results remember them, and whether the two fit."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from affectron._internal.arguments import checked_arguments
from affectron._internal.files import digest
from affectron.errors import InputError
from affectron.models.load import stored_weights
from affectron.models.parallel import named_weights

# Values of a parameter that the fingerprint reads: enough to show what training, pruning or an adapter changes, and so
# few that the 8 billion parameters of a large model take a fraction of a second.
_FINGERPRINT_VALUES = 1024

# Fields of a config about the library, the place and the moment, not about what the model computes.
_VOLATILE = frozenset({"transformers_version", "dtype", "torch_dtype", "architectures", "use_cache", "auto_map"})


def fingerprint(model: nn.Module) -> str:
    """Hash of a model's weights: of each parameter the name, the shape and up to 1024 evenly spaced values, as float32.

    Weights saved in 16 bits have one fingerprint, whatever the dtype in which they are loaded.
    """
    return _fingerprint((name, weight, weight.dtype) for name, weight in named_weights(model))


def stored_fingerprint(path: str | Path, dtype: str | torch.dtype) -> str:
    """:func:`fingerprint` of the model that ``load_model(path, dtype)`` gives, from its files: the model is not loaded,
    and of the weights only the values that count are read.

    Raises:
        InputError: there is no such model, its config or weights are missing or unusable, dtype is none of float32,
            bfloat16 and float16, or the parameters are not simply the stored weights in that dtype (stacked experts,
            quantised weights).
    """
    return _fingerprint(stored_weights(path, dtype))


def _fingerprint(weights: Iterable[tuple[str, Tensor, torch.dtype]]) -> str:
    """Fingerprint of (name, weight, dtype in which its values count)."""
    chunks = []
    for name, weight, dtype in weights:
        flat = weight.reshape(-1)
        step = max(1, flat.numel() // _FINGERPRINT_VALUES)
        # A copy: NumPy would fix the size of the weight's own storage, which FSDP frees after a backward pass.
        values = flat[::step][:_FINGERPRINT_VALUES].to(dtype).to("cpu", torch.float32, copy=True)
        chunks += [f"{name} {list(weight.shape)}".encode(), values.numpy().tobytes()]
    return digest(*chunks)


def config_hash(model: Any) -> str:
    """Hash of the architecture in ``model.config``. The folder and the dtype of loading do not count."""
    return digest(_canonical(_lasting(model.config.to_dict())))


def tokenizer_hash(tokenizer: Any) -> str:
    """Hash of how a tokenizer turns text into ids. Padding and truncation, which calls set, do not count."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        state = {
            "class": type(tokenizer).__name__,
            "vocabulary": tokenizer.get_vocab(),
            "special": tokenizer.special_tokens_map,
        }
    else:
        state = json.loads(backend.to_str())
        state.pop("padding", None)
        state.pop("truncation", None)
    return digest(_canonical(state))


@checked_arguments
def check_tokenizer(model: Any, tokenizer: Any) -> None:
    """Refuse a tokenizer that has tokens which the model does not know. A padding token may be the tokenizer's alone.

    Raises:
        InputError: it has such tokens; the message names one.
    """
    embeddings = model.get_input_embeddings()
    known = getattr(embeddings, "num_embeddings", None)
    if known is None:
        return
    beyond = {
        token: number
        for token, number in tokenizer.get_vocab().items()
        if number >= known and token != tokenizer.pad_token
    }
    if beyond:
        token, number = max(beyond.items(), key=lambda item: item[1])
        raise InputError(
            f"the tokenizer does not fit the model: its token {token!r} is number {number:,}, the model knows {known:,}"
        )


def _lasting(value: Any) -> Any:
    """A config without the fields that do not count."""
    if not isinstance(value, dict):
        return value
    return {
        str(key): _lasting(inner)
        for key, inner in value.items()
        if key not in _VOLATILE and not str(key).startswith("_")
    }


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, default=str).encode()

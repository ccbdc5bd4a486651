"""Provenance of results: the model and the tokenizer by their hashes, and the versions in use."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import torch
import transformers

from affectron import __version__
from affectron.models.identity import config_hash, fingerprint, tokenizer_hash
from affectron.models.load import is_hub_name


def made_with(model: Any, tokenizer: Any) -> dict[str, Any]:
    """The provenance of a result, as JSON: name, hashes, dtype and kind of device of the model (and ``revision``, the
    commit, if it is from the hub), the hash of the tokenizer, and the versions."""
    name = getattr(model, "name_or_path", "") or type(model).__name__
    commit = getattr(model.config, "_commit_hash", None)
    origin = {"model": name, "revision": commit} if commit and is_hub_name(name) else {"model": Path(name).name}
    return {
        "affectron": __version__,
        **origin,
        "model_hash": config_hash(model),
        "weights": fingerprint(model),
        "tokenizer": tokenizer_hash(tokenizer),
        "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
        "device": next(model.parameters()).device.type,
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """The versions of the software that results depend on."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }

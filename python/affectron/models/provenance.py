"""What results say of how they were made: the model and the tokenizer by their hashes, and the versions in use.

Apart from those who measure, all of whom say it in the same words.
"""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import torch
import transformers

from affectron import __version__
from affectron.models import config_hash, fingerprint, tokenizer_hash
from affectron.models.load import is_hub_name

#: What says that two results are of the same model.
SAME_MODEL = ("model_hash", "weights", "tokenizer")


def made_with(model: Any, tokenizer: Any) -> dict[str, Any]:
    """The model's name, of one from the hub its commit too (``revision``), its hashes and those of the tokenizer, its
    dtype, the kind of device, and the versions, as JSON."""
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
    """The versions of what results depend on."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }

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

#: What says that two results are of the same model.
SAME_MODEL = ("model_hash", "weights", "tokenizer")


def made_with(model: Any, tokenizer: Any) -> dict[str, Any]:
    """The model's name, its hashes and those of the tokenizer, its dtype, and the versions, as JSON."""
    return {
        "affectron": __version__,
        "model": Path(getattr(model, "name_or_path", "") or type(model).__name__).name,
        "model_hash": config_hash(model),
        "weights": fingerprint(model),
        "tokenizer": tokenizer_hash(tokenizer),
        "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """The versions of what results depend on."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }

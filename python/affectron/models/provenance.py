"""Provenance of results: the model and the tokenizer by their hashes, and the versions in use."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers

from affectron import __version__
from affectron._internal.artifacts import SAME_MODEL
from affectron._internal.warning import warn
from affectron.errors import InputError, Note
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


def check_made_with(made: Mapping[str, Any], name: str, provenance: Mapping[str, Any]) -> None:
    """Check that what is called ``name`` was made with the model of which ``made`` is :func:`made_with`.

    Raises:
        InputError: it was made with another one; names the field.
    """
    for field in SAME_MODEL:
        recorded, value = provenance.get(field), made[field]
        if recorded is not None and recorded != value:
            types = [side.get("dtype") for side in (provenance, made)]
            rounded = field == "weights" and None not in types and types[0] != types[1]
            raise InputError(
                f"the {name} are of another model: {field} is {recorded} there and {value} here"
                + (f"; dtype is {types[0]} there and {types[1]} here, which may round the weights" if rounded else "")
            )


def check_weights(made: Mapping[str, Any], name: str, provenance: Mapping[str, Any]) -> None:
    """Check the weights alone, as :func:`check_made_with` does.

    Raises:
        InputError: what is called ``name`` was made with other weights.
    """
    check_made_with(made, name, {field: provenance.get(field) for field in ("weights", "dtype")})


def note_other_weights(model: Any, tokenizer: Any, name: str, provenance: Mapping[str, Any]) -> None:
    """Note where what is called ``name`` was made with other weights or another configuration than the model's.

    The tokenizer is not compared: steering does not read it.
    """
    recorded = {field: provenance.get(field) for field in ("model_hash", "weights", "dtype")}
    try:
        check_made_with(made_with(model, tokenizer), name, recorded)
    except InputError as other:
        warn(str(other), Note)


def versions() -> dict[str, str]:
    """The versions of the software that results depend on."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }

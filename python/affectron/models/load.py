"""Loading of a model and its tokenizer from a folder or by name from the hub.

Files from elsewhere are read here and nowhere else: each fault in them ends in one line.
"""

from __future__ import annotations

import json
import os
import re
from collections import defaultdict
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError, StrictDataclassError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined] # documented there
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from affectron._internal.files import load_json
from affectron._internal.hub import refusal
from affectron._internal.wording import count
from affectron.errors import InputError
from affectron.models.discovery.sites import find_sites

_DTYPES: dict[str, str | torch.dtype] = {
    "auto": "auto",
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
# Dtypes of safetensors in which a stored weight is the number itself.
_FLOATS = ("F32", "BF16", "F16", "F64")
#: Suffixes of a model's files. Python files are run with ``trust_remote_code`` only.
MODEL_FILES = (".json", ".safetensors", ".model", ".txt", ".tiktoken", ".jinja", ".py")
# Not downloaded: other formats of the same weights.
_OTHER_WEIGHTS = ("*/*", "consolidated*", "model.*.safetensors", "*-of-*.*.safetensors")
_TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.*", "spiece.model")

# Exceptions of transformers and the libraries below it for unusable files.
_UNUSABLE = (
    OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError, MemoryError, OverflowError, SafetensorError,
    StrictDataclassError,
)  # fmt: skip

# Ends of the names of counts in a config, of things that each take memory even without weights. The limit is far above
# any model, and keeps as many layers without weights below 200 MB.
_COUNTS = ("layer", "layers", "experts", "labels")
_MAX_COUNT = 2048


def load_model(
    path: str | Path,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device | None = None,
    trust_remote_code: bool = False,
) -> tuple[Any, Any]:
    """Load a causal language model and its tokenizer: (model in evaluation mode, tokenizer).

    Weights are read from safetensors only, never from pickle.

    Args:
        path: a folder, or a name on the Hugging Face hub (``gpt2``, ``owner/name``). A text that is no folder and has
            the form of a name is looked up as transformers does: in the cache (HF_HOME), and downloaded into it unless
            HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set; name and commit go into the provenance. A Path, and a text
            such as ``./gpt2``, is never looked up.
        dtype: auto, float32, bfloat16 or float16; None means auto: the dtype in which the weights were saved, but
            float32 in place of a 16-bit one on a CPU without fast arithmetic for it.
        device: a torch device, or ``auto`` (cuda if there is one, else cpu); None means the CPU.
        trust_remote_code: run Python files of the folder.

    Raises:
        InputError: the folder, its config, weights or tokenizer is missing or unusable, weights are incomplete or
            stored as integers or 8-bit floats that the config does not explain, the model has no known MLP, dtype or
            device is not one that is there, or the device cannot hold the model; there is no model of that name, no
            access to it, or no network.
    """
    chosen_dtype = _dtype(dtype)
    chosen_device = _device(device)
    folder = model_folder(path, trust_remote_code)
    _check_weights(folder)
    if not any(any(folder.glob(pattern)) for pattern in _TOKENIZERS):
        raise InputError(f"{folder} has no tokenizer: expected {' or '.join(_TOKENIZERS[:2])}")
    options: Any = {"trust_remote_code": trust_remote_code, "local_files_only": True}
    try:
        config = _config(folder, trust_remote_code)
        if not trust_remote_code:
            skeleton = _skeleton(config)
            _check_size(folder, skeleton)
            _check_stored(folder, skeleton)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder, config=config, dtype=chosen_dtype, use_safetensors=True, output_loading_info=True, **options
        )
        model, report = loaded
        tokenizer = _load_tokenizer(folder, options)
    except _UNUSABLE as error:
        raise InputError(f"cannot load the model in {folder}: {_reason(error, trust_remote_code)}") from error
    # transformers fills missing weights with random numbers, and only warns.
    absent = sorted(report["missing_keys"])
    if absent:
        raise InputError(f"{folder}: the weights lack {count(len(absent), 'parameter')}, among them {absent[0]}")
    _check_unread(folder, model, report["unexpected_keys"])
    find_sites(model)
    store = folder.parent.parent.name.split("--")  # in the hub's cache: models--owner--name/snapshots/commit
    if store[0] == "models" and folder.parent.name == "snapshots":
        model.name_or_path, model.config._commit_hash = "/".join(store[1:]), folder.name
    if chosen_dtype == "auto" and chosen_device.type == "cpu" and _slow_at_16_bits(model.dtype):
        model.float()  # every 16-bit value is a float32 value: only the arithmetic changes
    try:
        model.to(chosen_device)
    except (RuntimeError, TypeError) as error:
        raise InputError(f"cannot put the model in {folder} on {chosen_device}: {_first_line(error)}") from error
    return model.eval(), tokenizer


def load_skeleton(path: str | Path, trust_remote_code: bool = False) -> Any:
    """Make the model of a folder or name (see :func:`load_model`) on the device ``meta``, as its config describes it:
    without weights, which are not downloaded.

    Raises:
        InputError: there is no such folder or name, or its config is missing or unusable.
    """
    folder = model_folder(path, trust_remote_code, weights=False)
    try:
        return _skeleton(_config(folder, trust_remote_code), trust_remote_code)
    except _UNUSABLE as error:
        raise InputError(f"cannot read the model in {folder}: {_reason(error, trust_remote_code)}") from error


def stored_weights(path: str | Path, dtype: str | torch.dtype) -> list[tuple[str, Tensor, torch.dtype]]:
    """Map the weights of a model from its files, without loading it: (name, stored weight, dtype of the loaded one) of
    each parameter that :func:`load_model` would give in ``dtype``, in the order of the model.

    The weights are memory-mapped: only the values that are used are read.

    Raises:
        InputError: there is no such folder or name, its config or weights are missing or unusable, dtype is none of
            float32, bfloat16 and float16, or the parameters are not simply the stored weights in that dtype: loading
            converts them, dequantises them or runs code of the folder.
    """
    chosen = _dtype(dtype)
    if not isinstance(chosen, torch.dtype):
        raise InputError(f"dtype is {dtype!r}, expected one of {', '.join(name for name in _DTYPES if name != 'auto')}")
    folder = model_folder(path)
    _check_weights(folder)
    try:
        config = _config(folder, trust_remote_code=False)
        if _quantised(config):
            raise InputError("its config has a quantization_config")
        if getattr(config, "transformers_weights", None):
            raise InputError(f"its config names {config.transformers_weights} as the weights")
        config.dtype = chosen
        skeleton = _skeleton(config)
        skeleton.tie_weights()  # transformers 5.0 leaves it out on the device meta
        _check_stored(folder, skeleton)
        return _map_weights(folder, skeleton, chosen)
    except _UNUSABLE as error:
        reason = _first_line(error)
        raise InputError(f"the weights in {folder} cannot be compared without loading the model: {reason}") from error


def _map_weights(folder: Path, skeleton: Any, dtype: torch.dtype) -> list[tuple[str, Tensor, torch.dtype]]:
    """Map the parameters of a skeleton that was made in ``dtype``."""
    parameters, there = dict(skeleton.named_parameters(remove_duplicate=False)), skeleton.state_dict()
    stored: dict[int, list[tuple[str, Tensor]]] = defaultdict(list)  # several, if tied parameters are all stored
    unread = []
    for file in _weight_files(folder):
        with safe_open(file, framework="pt") as opened:
            for key, name in _names_in_model(skeleton, opened.keys()).items():
                if name in parameters:
                    stored[id(parameters[name])].append((key, opened.get_tensor(key)))
                elif name not in there:
                    unread.append(name)
    absent = [name for name, parameter in skeleton.named_parameters() if id(parameter) not in stored]
    if absent:
        raise InputError(f"no weight has the name of {count(len(absent), 'parameter')}, among them {absent[0]}")
    _check_unread(folder, skeleton, unread)
    # Versions of transformers differ in which of these they keep in float32 under which dtype.
    kept = *(skeleton._keep_in_fp32_modules or ()), *(skeleton._keep_in_fp32_modules_strict or ())
    mapped = []
    for name, parameter in skeleton.named_parameters():
        (_, weight), *others = stored[id(parameter)]
        if weight.shape != parameter.shape:
            raise InputError(f"{name} is stored as {list(weight.shape)}, expected {list(parameter.shape)}")
        if not all(torch.equal(weight.to(parameter.dtype), other.to(parameter.dtype)) for _, other in others):
            keys = " and ".join(key for key, _ in stored[id(parameter)])
            raise InputError(f"{keys} are one parameter of the model, and have different values")
        if weight.dtype != dtype != torch.float32 and any(re.search(part.replace("*", ".*"), name) for part in kept):
            raise InputError(f"{name} is stored as {weight.dtype}, and may be kept in float32 in a model in {dtype}")
        mapped.append((name, weight, parameter.dtype))
    return mapped


def _names_in_model(skeleton: Any, stored: Collection[str]) -> dict[str, str]:
    """Stored name -> the name by which transformers looks for a place in the model.

    Raises:
        InputError: it would convert a weight of the model, which then has other values.
    """
    if transformers.__version__.startswith("4."):  # converts none, and has no list of what it renames
        return {key: key for key in stored}
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, rename_source_key

    changes: Any = get_model_conversion_mapping(skeleton)
    converters = [change for change in changes if isinstance(change, WeightConverter)]
    renamings = [change for change in changes if not isinstance(change, WeightConverter)]
    there, prefix = skeleton.state_dict(), skeleton.base_model_prefix
    names = {}
    for key in stored:
        name, converter = rename_source_key(key, renamings, converters, prefix, there)
        if name not in there and key in there:  # what renames an older name has met a newer one
            name, converter = rename_source_key(key, [], [], prefix, there)
        if name in there and converter is not None:
            raise InputError(f"transformers converts {key} when it loads it")
        names[key] = name
    return names


def _config(folder: Path, trust_remote_code: bool) -> Any:
    path = folder / "config.json"
    for name, value in _numbers(load_json(path)):  # transformers makes lists of that length
        if name.endswith(_COUNTS) and value > _MAX_COUNT:
            raise InputError(f"{path}: {name} is {value:,}, expected at most {_MAX_COUNT:,}")
    return AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code, local_files_only=True)


def _numbers(values: Any) -> Iterator[tuple[str, int]]:
    """(name, value) of each whole number in nested JSON objects."""
    for name, value in values.items() if isinstance(values, dict) else ():
        if isinstance(value, int):
            yield name, value
        yield from _numbers(value)


def _skeleton(config: Any, trust_remote_code: bool = False) -> Any:
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)


def _check_weights(folder: Path) -> None:
    """Refuse a folder without safetensors."""
    if not any(folder.glob("*.safetensors")):
        raise InputError(f"{folder} has no weights: expected *.safetensors (pickled weights are not read)")


def _check_size(folder: Path, skeleton: nn.Module) -> None:
    """Refuse a config of more parameters than the weights beside it can hold at one bit each: transformers would make
    all of them before it finds them missing."""
    described = sum(parameter.numel() for parameter in skeleton.parameters())
    stored = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    if described > 8 * stored:
        raise InputError(
            f"{folder / 'config.json'} describes {described:,} parameters, expected what the weights hold, which are "
            f"{stored:,} bytes"
        )


def _quantised(config: Any) -> bool:
    configs = config, config.get_text_config()
    return any(getattr(part, "quantization_config", None) is not None for part in configs)


def _check_stored(folder: Path, skeleton: Any) -> None:
    """Refuse weights that are stored as integers or 8-bit floats if the config names no quantisation, because
    transformers would take them for the numbers themselves, without their scales. Reads headers and no weights."""
    if _quantised(skeleton.config):
        return
    parameters = {name for name, _ in skeleton.named_parameters()}
    for file in _weight_files(folder):
        with safe_open(file, framework="pt") as stored:
            for name in stored.keys():  # noqa: SIM118, as it is no mapping
                kind = stored.get_slice(name).get_dtype()
                if kind in _FLOATS or not (name.endswith("weight") or _named_in(name, parameters)):
                    continue
                raise InputError(
                    f"{file}: {name} is stored as {kind}, expected {', '.join(_FLOATS)}: the config has no "
                    "quantization_config that tells what these numbers stand for"
                )


def _weight_files(folder: Path) -> list[Path]:
    """The files that transformers reads, in its order of preference."""
    whole, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if whole.is_file() or not index.is_file():
        return [whole] if whole.is_file() else []
    return sorted({folder / name for name in json.loads(index.read_text("utf-8"))["weight_map"].values()})


def _named_in(name: str, names: Collection[str]) -> bool:
    """Return whether ``name`` is one of ``names``, with or without the name of the body in a model with a head."""
    return any(other == name or other.endswith(f".{name}") or name.endswith(f".{other}") for other in names)


def _check_unread(folder: Path, model: Any, unread: Collection[str]) -> None:
    """Refuse weights of a layer of the model that the layer has no place for: scales, or a bias that the config denies.
    Weights of other layers, such as another head, are no part of the model."""
    if _quantised(model.config):
        return
    layers = {name.rpartition(".")[0] for name, _ in model.named_parameters()}
    for name in sorted(unread):
        layer, _, _ = name.rpartition(".")
        if layer in layers or f"{model.base_model_prefix}.{layer}" in layers:
            raise InputError(
                f"{folder}: the weights hold {name}, which the config gives {type(model).__name__} no place for, "
                "expected what its layers compute with"
            )


def _load_tokenizer(folder: Path, options: dict[str, Any]) -> Any:
    kind: Any = AutoTokenizer
    path = folder / "tokenizer_config.json"
    config = load_json(path) if path.is_file() else {}
    if not isinstance(config, dict):
        raise InputError(f"{path} is a JSON {type(config).__name__}, expected an object")
    named = config.get("tokenizer_class")
    if named == "TokenizersBackend" and not hasattr(transformers, named):  # transformers 5's name of a class of 4
        kind = transformers.PreTrainedTokenizerFast
    try:
        return kind.from_pretrained(folder, **options)
    except Exception as error:
        if type(error) is Exception:  # as tokenizers raises
            raise ValueError(str(error)) from error
        raise


def _dtype(dtype: str | torch.dtype | None) -> str | torch.dtype:
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype is not None and dtype not in _DTYPES:
        raise InputError(f"dtype is {dtype!r}, expected one of {', '.join(_DTYPES)}")
    return _DTYPES[dtype or "auto"]


def model_folder(
    path: str | Path, trust_remote_code: bool = False, weights: bool = True, revision: str | None = None
) -> Path:
    """The folder of a model: ``path``, or the snapshot of a name on the hub (see :func:`load_model`), of its default
    branch or of another ``revision``.

    The snapshot has the files to load the model (Python files only with ``trust_remote_code``), or with
    ``weights=False`` those to read its config.

    Raises:
        InputError: there is no such folder or name, or the folder has no config.json.
    """
    folder, there = Path(path), os.path.exists(path)
    if not os.path.isdir(path or "."):
        if there or isinstance(path, Path) or not is_hub_name(path):
            reason = "is a file" if there else "does not exist"
            raise InputError(f"model folder {folder} {reason}; expected one with config.json, weights, tokenizer")
        suffixes = [suffix for suffix in MODEL_FILES if trust_remote_code or suffix != ".py"]
        patterns = [f"*{suffix}" for suffix in suffixes if weights or suffix in (".json", ".py")]
        folder = _snapshot(path, patterns, revision)
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder} is not a model folder: it has no config.json")
    return folder


def is_hub_name(text: str) -> bool:
    """Return whether the text has the form of a model's name on the hub: ``name`` or ``owner/name``."""
    try:
        validate_repo_id(text)
    except HFValidationError:
        return False
    return True


def _snapshot(name: str, patterns: list[str], revision: str | None) -> Path:
    """The folder with a model's files in the hub's cache; missing ones are downloaded."""
    ignored = list(_OTHER_WEIGHTS)
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns, ignore_patterns=ignored))
    except Exception as error:
        missing = isinstance(error, LocalEntryNotFoundError)
        config = try_to_load_from_cache(name, "config.json", revision=revision) if missing else None
        if isinstance(config, str):  # some files are missing, but perhaps none that loading needs
            return Path(config).parent
        raise InputError(f"{name} is no folder here: {refusal(error, name, 'model')}") from error


def _slow_at_16_bits(dtype: torch.dtype) -> bool:
    """Return whether this CPU is far slower at matrix products of this dtype than of float32 (ten times, with AVX2)."""
    return dtype in (torch.bfloat16, torch.float16) and "AVX512" not in torch.backends.cpu.get_cpu_capability()


def _device(device: str | torch.device | None) -> torch.device:
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device("cpu" if device is None else device)
        torch.zeros(1, device=chosen).item()
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = _first_line(error).partition(". ")[0]
        raise InputError(f"device is {str(device)!r}, which is not there: {reason}") from error
    return chosen


def _reason(error: BaseException, trust_remote_code: bool) -> str:
    if not trust_remote_code and "trust_remote_code" in str(error):
        return "it needs Python code from the folder; pass trust_remote_code=True if you trust it"
    return _first_line(error)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__

"""The configurations of vLLM and the programs that cannot be served; each is refused at the start."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from affectron.errors import InputError
from affectron.interventions import Program
from affectron.models.discovery.sites import find_sites
from affectron.models.identity import stored_fingerprint
from affectron.models.layout import Site
from affectron.models.load import load_skeleton, model_folder
from affectron.vllm.internals import value
from affectron.vllm.library import Library

#: Attribute of a VllmConfig -> the values that can be served, and the reason in words.
_LIMITS: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "model_config.runner_type": (("generate",), "only models that generate text are steered"),
    "model_config.is_encoder_decoder": ((False,), "encoders see other tokens than the decoder"),
    "model_config.is_diffusion": ((False,), "tokens have no order in which they are generated"),
    "model_config.model_impl": (("auto", "vllm"), "other models have other activation modules"),
    "load_config.load_format": (("auto", "hf", "safetensors"), "programs are compared with weights in safetensors"),
    "parallel_config.use_ubatching": ((False,), "the model would see slices of a batch"),
    "parallel_config.prefill_context_parallel_size": ((1,), "the model would see slices of a batch"),
    "parallel_config.use_sequence_parallel_moe": ((False,), "the model would see slices of a batch"),
    "cache_config.kv_sharing_fast_prefill": ((False,), "some layers would see a part of a batch"),
    "kv_transfer_config": ((None,), "keys and values of other servers carry no program"),
}
_ADAPTIVE = "speculative_config.enable_adaptive_verification"


def check_config(config: Any) -> None:
    """Refuse a ``VllmConfig`` under which the program of a token would not be known.

    Raises:
        InputError: names the field.
        Unsupported: this vLLM lacks a field.
    """
    limits = dict(_LIMITS)
    if value(config, "speculative_config") is not None:
        limits[_ADAPTIVE] = (False,), "the tokens of a request would be known on the device only"
    for field, (served, reason) in limits.items():
        given = value(config, field)
        if given not in served:
            expected = " or ".join(map(str, served))
            shown = given if isinstance(given, (str, int)) else f"a {type(given).__name__}"
            raise InputError(f"{field} is {shown}, expected {expected} with programs: {reason}")


def optimistic(config: Any) -> bool:
    """Return whether positions are unknown when a step begins, because drafts may have been rejected."""
    drafts, asynchronous = value(config, "speculative_config"), value(config, "scheduler_config.async_scheduling")
    return drafts is not None and bool(asynchronous)


def sites_of(model_config: Any) -> dict[str, Site]:
    """The sites of the language model that vLLM serves, by name, on the device ``meta``; no weights are read.

    Raises:
        InputError: as :func:`affectron.models.load_skeleton`.
    """
    skeleton = load_skeleton(_folder(model_config, weights=False), model_config.trust_remote_code)
    return {site.name: site for site in find_sites(skeleton)}


def steerable(site: Site) -> bool:
    """Return whether vLLM computes h of a site by one module, for all tokens of a batch in their order."""
    gated = site.layout in ("gated", "gate_up") and site.act in ("silu", "gelu", "gelu_tanh")
    return gated and site.path == "fused" and site.expert is None and site.owner is None


def check_programs(library: Library, model_config: Any) -> None:
    """Check that each program was made for the model's weights, and touches sites that can be steered.

    Raises:
        InputError: names the program and the reason.
    """
    folder = _folder(model_config, weights=True)
    _check_files(folder)
    sites = sites_of(model_config)
    fingerprints: dict[str, str] = {}
    for name, served in library.items():
        for program in served.programs:
            for site, touched in program.sites.items():
                if not len(touched.index):
                    continue
                if site not in sites:
                    raise InputError(f"program {name!r} touches {site}, expected a site of {model_config.model}")
                if not steerable(sites[site]):
                    raise InputError(
                        f"program {name!r} touches {site}, {_kind(sites[site])}; expected dense gated MLPs with the "
                        "activation silu, gelu or gelu_tanh"
                    )
                program.table(site, sites[site].neurons)
            _check_weights(name, program, folder, fingerprints)


def _check_files(folder: Path) -> None:
    """Refuse a folder of which vLLM would read other weights than those that are compared.

    vLLM reads the files of an index where there is one, else every file. transformers prefers ``model.safetensors``.
    """
    files = {file.name for file in folder.glob("*.safetensors")}
    index = (folder / "model.safetensors.index.json").is_file()
    if files and (index == ("model.safetensors" in files) or not (index or len(files) == 1)):
        raise InputError(
            f"{folder} has the weights {', '.join(sorted(files)[:4])}{' and an index' if index else ''}, expected "
            "model.safetensors alone or the files of model.safetensors.index.json"
        )


def _check_weights(name: str, program: Program, folder: Path, fingerprints: dict[str, str]) -> None:
    provenance = {} if program.origin is None else program.origin.provenance
    weights, dtype = provenance.get("weights"), provenance.get("dtype")
    if not isinstance(weights, str) or not isinstance(dtype, str):
        raise InputError(
            f"program {name!r} does not tell the one model that it was made for; affectron export writes it"
        )
    if dtype not in fingerprints:
        fingerprints[dtype] = stored_fingerprint(folder, dtype)
    if weights != fingerprints[dtype]:
        raise InputError(
            f"program {name!r} was made for other weights: their fingerprint is {weights} there and "
            f"{fingerprints[dtype]} in {folder}"
        )


def _kind(site: Site) -> str:
    if site.expert is not None or site.owner is not None:
        return "an expert of a mixture"
    return f"an MLP of the form {site.layout} with the activation {site.act}"


def _folder(model_config: Any, weights: bool) -> Path:
    return model_folder(model_config.model, model_config.trust_remote_code, weights, model_config.revision)

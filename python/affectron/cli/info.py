"""``affectron info``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Annotated, Any

import typer

import affectron
from affectron._internal.options import described
from affectron._internal.wording import count
from affectron.cli.options import JsonOption
from affectron.cli.output import print_json, print_table
from affectron.options import Load

if TYPE_CHECKING:
    from affectron.models import Site


def info(
    model: Annotated[
        str | None,
        typer.Argument(metavar="[MODEL]", help="Also describe this model: its folder, or its name on the hub."),
    ] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help=described(Load)["trust_remote_code"].help)
    ] = Load.trust_remote_code,
    as_json: JsonOption = False,
) -> None:
    """Versions, which backend serves each op on each device, and the MLP sites of a model. Loads no weights."""
    import platform

    import torch
    import transformers

    from affectron.ops import backend_for
    from affectron.ops._backends import KERNELS
    from affectron.ops.backends import native

    devices, accelerator = ["cpu"], torch.accelerator.current_accelerator()
    if accelerator is not None:
        devices += [f"{accelerator.type}:{number}" for number in range(torch.accelerator.device_count())]
    backends = {
        device: {op: dict(zip(("backend", "reason"), backend_for(op, device), strict=True)) for op in KERNELS}
        for device in devices
    }
    facts: dict[str, Any] = {
        "affectron": affectron.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "threads": torch.get_num_threads(),
        "instruction_set": native.isa_level(),
        "backends": backends,
    }
    if model is not None:
        skeleton = affectron.models.load_skeleton(model, trust_remote_code=trust_remote_code)
        sites = affectron.find_sites(skeleton)
        facts["model"] = {
            "folder": model,
            "class": type(skeleton).__name__,
            "parameters": sum(parameter.numel() for parameter in skeleton.parameters()),
            "neurons": sum(site.neurons for site in sites),
            "sites": [
                {key: getattr(site, key) for key in ("name", "layout", "act", "neurons", "path")} for site in sites
            ],
        }
    if as_json:
        print_json(facts)
        return
    for key in ("affectron", "python", "torch", "transformers", "threads"):
        print(f"{key:<16}{facts[key]}")
    print(f"{'cpu kernels':<16}{facts['instruction_set']}")
    served = [
        (device, op, choice["backend"], choice["reason"])
        for device, choices in backends.items()
        for op, choice in choices.items()
    ]
    print_table("backends", ("device", "op", "backend", "reason"), served)
    if model is not None:
        described_model = facts["model"]
        sizes = ", ".join(count(described_model[key], key.removesuffix("s"), key) for key in ("parameters", "neurons"))
        print_table(
            f"{described_model['class']}, {sizes}",
            ("site", "layout", "activation", "neurons", "path"),
            [(name, s.layout, s.act, s.neurons, s.path) for name, s in _experts_together(sites)],
        )


def _experts_together(sites: Sequence[Site]) -> Iterator[tuple[str, Site]]:
    """Each site with its name; of a layer's experts, where they are alike, only the first, with all their numbers."""

    def kind(site: Site) -> Any:
        holder = site.module if site.expert is not None else site.owner
        return site.name if holder is None else (id(holder), site.name.rpartition(".")[0], site.structure)

    for _, group in groupby(sites, kind):
        first, *others = group
        yield f"{first.name} to {others[-1].name.rpartition('.')[2]}" if others else first.name, first

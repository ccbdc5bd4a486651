"""Find the MLP sites of a model, and let a kernel compute their activation for a while.

Apart because screening and steering use the same mechanism with different kernels.
"""

from __future__ import annotations

import re
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from affectron.errors import InputError
from affectron.models import attaching as swap
from affectron.models.discovery import probe
from affectron.models.experts import described as experts
from affectron.models.experts import stacked as stacks
from affectron.models.layout import CHUNK_SIZE, Given, Kernel, KernelOrGiven, Needed, Site, Structure, running, sizes

_DECLARED: dict[type[nn.Module], tuple[str, str | None]] = {}


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside ``torch.compile`` and PEFT: its sites have the same names with an adapter and without."""
    inner: Any = model
    while True:
        if hasattr(inner, "_orig_mod"):
            inner = inner._orig_mod
        elif callable(getattr(inner, "get_base_model", None)):
            inner = inner.get_base_model()
        else:
            return inner  # type: ignore[no-any-return]


def has_adapter(model: Any) -> bool:
    """Whether ``model`` is one by PEFT around another."""
    return callable(getattr(getattr(model, "_orig_mod", model), "get_base_model", None))


def check_adapter(model: Any) -> None:
    """Refuse a model with an adapter of PEFT that goes by more than the model inside: a learned prompt, whose virtual
    tokens stand before the text, or weights that hold from certain tokens of the text on.

    Raises:
        InputError: it has one that is active.
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


def declare_mlp(block: type[nn.Module], *, last: str, activation: str | None = None) -> None:
    """Say where the neurons of a class of blocks are, where they are not found or are to be others.

    Args:
        block: the class; its instances are the sites.
        last: name, inside the block, of the module whose first argument is the activation h [..., F]: the last
            linear layer, or an ``nn.Identity`` put there for the purpose. It must have ``in_features``.
        activation: name of the module whose output is act(gate), which tells whether a neuron is active; without it
            a neuron is active where h > 0.
    """
    _DECLARED[block] = (last, activation)


def find_sites(model: nn.Module) -> list[Site]:
    """The MLPs of ``model`` in the order in which its modules are declared, which is forward order.

    Nothing is known by name: an MLP is a block that treats each token by itself, from one linear layer to another
    (see probe.py). Each kind of block is looked at once, with a stand-in that has no weights, so that this takes
    as long for a large model as for a small one, and works for a model on the device ``meta``.

    Raises:
        InputError: the model has no MLP that can be found, or experts that an adapter changes in a way that does not
            show.
    """
    found: dict[int, list[Site]] = {}  # by the block's place in the order of declaration
    known: dict[Any, Structure | None] = {}
    attached = swap.attached()
    lasts: dict[int, int] = {}
    blocks: set[str] = set()  # those in which an MLP was found
    missed: dict[str, str] = {}  # an example of each kind of block in which experts may be that were not found
    _check_parameters(unwrapped(model))
    candidates = list(probe.named_blocks(unwrapped(model)))
    by_name = {name: block for _, name, block in candidates}
    for place, name, block in candidates:
        if experts.stacked(block):
            each = experts.structure(block)
            numbers = range(experts.number(block))
            owner = _router(name, by_name)
            found[place] = [Site(f"{name}.{expert}", block, each, expert, owner) for expert in numbers]
            continue
        layers = probe.linears(block)
        if type(block) in _DECLARED:
            structure: Structure | None = _declared(name, block)
        elif id(block) in attached:
            structure = attached[id(block)]
        elif stacks.unknown(block):
            missed[type(block).__name__] = name
            continue
        else:
            closed = frozenset(key for key in layers if any(f"{name}.{part}" in blocks for part in _above(key)))
            # What lies in one child only was looked at there.
            if len({key.partition(".")[0] if "." in key else key for key in layers if key not in closed}) < 2:
                continue
            key = (probe.signature(block), closed)
            if key not in known:
                known[key] = probe.structure(block, closed)
            structure = known[key]
        if structure is None:
            continue
        blocks.add(name)
        last = id(block.get_submodule(structure.last))
        if last in lasts:  # two blocks share the layer, and with it the neurons: one site, at both places
            shared = found[lasts[last]]
            found[lasts[last]] = [replace(s, structure=replace(s.structure, whole=False)) for s in shared]
            continue
        lasts[last] = place
        owner, chunking = _owner(name, by_name), _chunking(name, by_name)
        found[place] = [Site(name, block, structure, owner=owner, chunking=chunking)]
    sites = [site for place in sorted(found) for site in found[place]]
    for kind, name in missed.items():
        warnings.warn(
            f"{kind} ({name} and the like) stacks the weights of several experts in a form that is not known: they are "
            "neither measured nor steered; affectron.declare_mlp says where their activation is",
            stacklevel=2,
        )
    if not sites:
        raise InputError(
            f"{type(model).__name__} has no MLP that can be found: expected blocks in which one linear layer feeds "
            "another by way of an activation function; affectron.declare_mlp says where others have theirs"
        )
    slow = {type(site.module).__name__: site for site in sites if site.path == "fallback"}
    for kind, site in slow.items():
        warnings.warn(
            f"{kind} ({site.name} and the like) is measured and steered at the input of its last linear layer: exact, "
            "but not fused" + ("" if _gate_known(site) else "; a neuron counts as active where h > 0"),
            stacklevel=2,
        )
    return sites


def _check_parameters(model: nn.Module) -> None:
    """Refuse an adapter around several parameters, or one of stacked experts, of a class that does not say of itself
    what it computes: its products are followed by its parameters, which are others in each forward."""
    for name, wrapper in model.named_modules():
        if "base_layer" not in wrapper._modules or sizes(wrapper) is not None:
            continue
        _, inner = running(wrapper)
        weights = [weight for weight in inner._parameters.values() if weight is not None]
        if not experts.described(inner) and (len(weights) > 2 or any(weight.dim() > 2 for weight in weights)):
            raise InputError(
                f"{name} is a {type(wrapper).__name__} around the parameters of {type(inner).__name__}, expected "
                "experts that say of themselves what they compute; merge the adapter (model.merge_and_unload())"
            )


def _owner(name: str, blocks: dict[str, nn.Module]) -> nn.Module | None:
    """The block that routes tokens to an expert: it holds, inside a layer, a list of several."""
    place, _, _ = name.rpartition(".")
    several = blocks.get(place)
    if not isinstance(several, (nn.ModuleList, nn.ModuleDict)) or len(several) < 2:
        return None
    return blocks.get(place.rpartition(".")[0])


def _router(name: str, blocks: dict[str, nn.Module]) -> nn.Module | None:
    """The block that routes tokens to stacked experts: the one that holds them, if that is not the layer itself."""
    above, _, own = name.rpartition(".")
    return None if own.isdigit() or above.rpartition(".")[2].isdigit() else blocks.get(above)


def _chunking(name: str, blocks: dict[str, nn.Module]) -> nn.Module | None:
    """The innermost block that hands the site its tokens in pieces: the site's own or one around it."""
    around = (blocks.get(part) for part in (name, *reversed(_above(name))))
    return next((block for block in around if block is not None and vars(block).get(CHUNK_SIZE)), None)


def _above(name: str) -> list[str]:
    """The names of the modules that the module of this name is in."""
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts))]


def _gate_known(site: Site) -> bool:
    return site.layout != "other" or site.structure.activation is not None


def _declared(name: str, block: nn.Module) -> Structure:
    last, activation = _DECLARED[type(block)]
    for path in filter(None, (last, activation)):
        try:
            block.get_submodule(path)
        except AttributeError as error:
            raise InputError(f"{name}: {type(block).__name__} was declared with {path!r}, which it lacks") from error
    width = getattr(block.get_submodule(last), "in_features", None)
    size = sizes(block.get_submodule(last))
    neurons = size[0] if size is not None else width
    if not isinstance(neurons, int):
        raise InputError(
            f"{name}: {last!r} of {type(block).__name__} has no in_features; expected the number of neurons"
        )
    shown = type(block.get_submodule(activation)).__name__ if activation else "?"
    return Structure("other", shown, neurons, last, activation=activation)


@contextmanager
def attach(
    sites: Sequence[Site], kernel: Kernel, given: Given | None = None, needed: Needed = lambda positions: True
) -> Iterator[None]:
    """Let ``kernel(position, gate, up, act)`` compute the activation h of ``sites[position]`` for a while.

    ``given(position, h, gate)`` takes its place where h is there already: at sites of the fallback path, and after
    another kernel on the same site. Without it the kernel is called with h as ``up`` and a gate of ones under relu,
    which is right for every kernel that maps h to h' (and only for those).

    At a site that is ``time_first`` the kernel sees [B, T, F] all the same. A block that hands its tokens to a site in
    pieces hands them over at once meanwhile, which changes no value beyond rounding.

    Experts that are stacked in one parameter are computed one by one for the kernel. ``needed(positions)`` is asked in
    each forward of them; where it is false the module computes them in its own way, all at once.

    Several of these contexts may be open at once; the kernel of each is given what those before it returned. They may
    be left in any order. With the last of them, also after an exception, everything is put back: the very objects that
    were there. Parameters, buffers and the keys of the state dict never change. A forward made under gradient
    checkpointing has to be differentiated before the context is left, since it is computed again then.

    A model that ``torch.compile`` has compiled before is compiled anew for the time, as the compiler sees the change.

    The context serves the thread that opened it. A forward of these sites in another one is refused: it would be
    measured or steered unasked, or, as it may have been meant to be, not at all.

    Raises:
        RuntimeError: in a forward, another thread runs a site.
    """
    given = given or swap.by_identity(kernel)
    if any(site.time_first for site in sites):
        kernel, given = _batch_first(sites, kernel), _batch_first(sites, given)
    with ExitStack() as undo:
        with _ATTACHING:
            stacked: dict[nn.Module, dict[int, int]] = {}
            owners: dict[nn.Module, nn.Module | None] = {}
            for position, site in enumerate(sites):
                if site.expert is not None:
                    stacked.setdefault(site.module, {})[site.expert] = position
                    owners[site.module] = site.owner
                else:
                    undo.callback(swap.add(site, swap.Link(position, kernel, given)))
            for module, positions in stacked.items():
                undo.callback(experts.add(module, owners[module], positions, kernel, given, needed))
        if sites:  # every forward passes the first
            undo.callback(sites[0].module.register_forward_pre_hook(_Owner()).remove)
        yield


def _batch_first(sites: Sequence[Site], kernel: KernelOrGiven) -> KernelOrGiven:
    """``kernel`` for sites some of which see [T, B, F]: there it is given, and returns, [B, T, F]."""

    def turned(position: int, *args: Any) -> Tensor:
        if not sites[position].time_first:
            return kernel(position, *args)
        # A kernel reads rows at one distance from one another: a copy.
        batch_first: list[Any] = [a.transpose(0, 1).contiguous() if isinstance(a, Tensor) else a for a in args]
        h = kernel(position, *batch_first)
        return h.transpose(0, 1)

    return turned


# Two threads that attach the same model at once do so one after the other.
_ATTACHING = threading.Lock()


class _Owner:
    """A forward pre-hook that lets the thread pass in which it was made."""

    def __init__(self) -> None:
        self.thread = threading.current_thread()

    def __call__(self, *_: Any) -> None:
        if torch.compiler.is_compiling() or threading.get_ident() == self.thread.ident:
            return
        # Autograd's own threads compute a checkpointed forward again.
        if torch._C._current_graph_task_id() != -1:
            return
        raise RuntimeError(
            f"thread {threading.current_thread().name!r} runs a model that thread {self.thread.name!r} measures or "
            "steers: open the context in the thread that runs the model, or give each thread a model of its own"
        )


# What configurations call the limit; attribute maps of transformers lead most other names to the first.
_LIMITS = ("max_position_embeddings", "max_seq_len", "max_sequence_length")


def max_length(model: Any) -> int | None:
    """The tokens that a model of transformers reads at most, of an encoder and a decoder the encoder; None without any
    limit, as where positions are relative to one another.

    The smaller of what the configuration says and what the model's tables of positions hold. These tell more: RoBERTa
    counts in ``max_position_embeddings`` two rows that no token reaches, OPT and BART leave them out.
    """
    bare: Any = unwrapped(model)
    config = bare.config
    if config.is_encoder_decoder:
        bare = bare.get_encoder()
        config = getattr(bare, "config", config)
    limits = [getattr(config.get_text_config(), name, None) for name in _LIMITS]
    limits += [_positions(table) for table in _position_tables(bare)]
    return min((limit for limit in limits if isinstance(limit, int) and limit > 0), default=None)


def _position_tables(model: Any) -> Iterator[Any]:
    """The tables of positions beside the tokens' embeddings: those of images are elsewhere."""
    try:
        tokens = model.get_input_embeddings()
    except (AttributeError, NotImplementedError):  # FSMT's encoder has none, CANINE hashes characters
        return
    for parent in model.modules():
        children = dict(parent.named_children())
        if any(child is tokens or getattr(child, "weight", 0) is tokens.weight for child in children.values()):
            for name, child in children.items():
                if hasattr(child, "padding_idx") and hasattr(child, "weight") and re.search("pos|wpe", name):
                    yield child


def _positions(table: Any) -> int:
    """The tokens that a table has rows for, behind the padding's row or the ``offset`` that the table names."""
    behind_padding = 0 if table.padding_idx is None else table.padding_idx + 1
    return len(table.weight) - int(getattr(table, "offset", behind_padding))


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Dropout off for a while, and each module's mode back as it was afterwards."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True

"""The MLP sites of a model: a walk over its blocks, each kind of which is recognised once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import nn

from affectron._internal.arguments import checked_arguments
from affectron._internal.warning import warn
from affectron.errors import InputError
from affectron.models.attaching import attached_structures
from affectron.models.discovery import recognise
from affectron.models.discovery.blocks import Block, linears, named_blocks, signature
from affectron.models.experts import followed, stacked
from affectron.models.experts.described import is_described
from affectron.models.layout import CHUNK_SIZE, Site, Structure, sizes
from affectron.models.wrappers import active_module, unwrapped

# (last, activation) of the classes that were declared.
_DECLARED: dict[type[nn.Module], tuple[str, str | None]] = {}


def declare_mlp(block: type[nn.Module], *, last: str, activation: str | None = None) -> None:
    """Declare the neurons of a class of blocks that :func:`find_sites` does not find, or in which it finds others.

    Args:
        block: the class; its instances are the sites.
        last: name, inside the block, of the module whose first argument is the activation h [..., F]: the last linear
            layer, or an ``nn.Identity`` put there for the purpose. It must have ``in_features``.
        activation: name of the module whose output is act(gate), which tells whether a neuron is active. Without it a
            neuron is active if h > 0.
    """
    _DECLARED[block] = (last, activation)


@checked_arguments
def find_sites(model: nn.Module) -> list[Site]:
    """List the MLPs of ``model`` in the order in which its modules are declared, which is forward order.

    Nothing is known by name: an MLP is a block that treats each token by itself, from one linear layer to another. Each
    kind of block is looked at once, with a stand-in that has no weights. So the search takes as long for a large model
    as for a small one, and works for a model on the device ``meta``.

    Raises:
        InputError: no MLP is found, or an adapter changes experts in a way that does not show.
    """
    inner = unwrapped(model)
    _check_parameters(inner)
    search = _Search(inner)
    for block in search.blocks:
        search.visit(block)
    sites = [site for number in sorted(search.sites) for site in search.sites[number]]
    for kind, name in search.missed.items():
        warn(
            f"{kind} ({name} and the like) stacks the weights of several experts in a form that is not known: they are "
            "neither measured nor steered; affectron.declare_mlp says where their activation is",
        )
    if not sites:
        raise InputError(
            f"{type(model).__name__} has no MLP that can be found: expected blocks in which one linear layer feeds "
            "another by way of an activation function; affectron.declare_mlp says where others have theirs"
        )
    slow = {type(site.module).__name__: site for site in sites if site.path == "fallback"}
    for kind, site in slow.items():
        warn(
            f"{kind} ({site.name} and the like) is measured and steered at the input of its last linear layer: exact, "
            "but not fused" + ("" if _gate_known(site) else "; a neuron counts as active where h > 0"),
        )
    return sites


def _gate_known(site: Site) -> bool:
    return site.layout != "other" or site.structure.activation is not None


def _check_parameters(model: nn.Module) -> None:
    """Refuse an adapter around several parameters, or around one of stacked experts, of a class that does not describe
    itself: its products are followed by its parameters, and an adapter makes new ones in each forward."""
    for name, wrapper in model.named_modules():
        if "base_layer" not in wrapper._modules or sizes(wrapper) is not None:
            continue
        _, inner = active_module(wrapper)
        weights = [weight for weight in inner._parameters.values() if weight is not None]
        if not is_described(inner) and (len(weights) > 2 or any(weight.dim() > 2 for weight in weights)):
            raise InputError(
                f"{name} is a {type(wrapper).__name__} around the parameters of {type(inner).__name__}, expected "
                "experts that say of themselves what they compute; merge the adapter (model.merge_and_unload())"
            )


class _Search:
    """The search of one model, block by block, inner blocks first.

    Attributes:
        blocks: the blocks to visit.
        sites: the sites of each block so far, by the block's number.
        missed: an example of each class that seems to hold experts in an unknown form.
    """

    def __init__(self, model: nn.Module) -> None:
        self.blocks = list(named_blocks(model))
        self.sites: dict[int, list[Site]] = {}
        self.missed: dict[str, str] = {}
        self._by_name = {block.name: block.module for block in self.blocks}
        self._attached = attached_structures()
        self._structures: dict[object, Structure | None] = {}  # of each kind of block
        self._names: set[str] = set()  # of the blocks in which an MLP was found
        self._lasts: dict[int, int] = {}  # number of the block that has a last linear layer, by the layer's identity

    def visit(self, block: Block) -> None:
        number, name, module = block
        experts = stacked.structures(module)
        if experts:
            owner = _stack_owner(name, self._by_name)
            self.sites[number] = [
                Site(f"{name}.{expert}", module, structure, expert, owner) for expert, structure in enumerate(experts)
            ]
            return
        structure = self._structure(name, module)
        if structure is None:
            return
        self._names.add(name)
        last = id(module.get_submodule(structure.last))
        if last in self._lasts:  # two blocks share the layer, and with it the neurons: one site, at both places
            first = self._lasts[last]
            self.sites[first] = [
                replace(site, structure=replace(site.structure, whole=False)) for site in self.sites[first]
            ]
            return
        self._lasts[last] = number
        owner, chunking = _list_owner(name, self._by_name), _chunking(name, self._by_name)
        self.sites[number] = [Site(name, module, structure, owner=owner, chunking=chunking)]

    def _structure(self, name: str, module: nn.Module) -> Structure | None:
        if type(module) in _DECLARED:
            return _declared_structure(name, module)
        if id(module) in self._attached:
            return self._attached[id(module)]
        if followed.is_unknown(module):
            self.missed[type(module).__name__] = name
            return None
        layers = linears(module)
        closed = frozenset(path for path in layers if any(f"{name}.{part}" in self._names for part in _parents(path)))
        # Layers that all lie in one child were looked at there.
        if len({path.partition(".")[0] if "." in path else path for path in layers if path not in closed}) < 2:
            return None
        kind = (signature(module), closed)
        if kind not in self._structures:
            self._structures[kind] = recognise.structure(module, closed)
        return self._structures[kind]


def _list_owner(name: str, blocks: Mapping[str, nn.Module]) -> nn.Module | None:
    """The block that routes tokens to an expert: it holds, inside a layer, a list of several."""
    list_name, _, _ = name.rpartition(".")
    experts = blocks.get(list_name)
    if not isinstance(experts, (nn.ModuleList, nn.ModuleDict)) or len(experts) < 2:
        return None
    return blocks.get(list_name.rpartition(".")[0])


def _stack_owner(name: str, blocks: Mapping[str, nn.Module]) -> nn.Module | None:
    """The block that routes tokens to stacked experts: the one that holds them, unless that is the layer itself."""
    parent, _, child = name.rpartition(".")
    return None if child.isdigit() or parent.rpartition(".")[2].isdigit() else blocks.get(parent)


def _chunking(name: str, blocks: Mapping[str, nn.Module]) -> nn.Module | None:
    """The innermost block that computes the tokens of the site in pieces: the site's own or one around it."""
    around = (blocks.get(part) for part in (name, *reversed(_parents(name))))
    return next((block for block in around if block is not None and vars(block).get(CHUNK_SIZE)), None)


def _parents(name: str) -> list[str]:
    """The names of the modules around the module of this name, outermost first."""
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts))]


def _declared_structure(name: str, block: nn.Module) -> Structure:
    last, activation = _DECLARED[type(block)]
    for path in filter(None, (last, activation)):
        try:
            block.get_submodule(path)
        except AttributeError as error:
            raise InputError(f"{name}: {type(block).__name__} was declared with {path!r}, which it lacks") from error
    size = sizes(block.get_submodule(last))
    neurons = getattr(block.get_submodule(last), "in_features", None) if size is None else size[0]
    if not isinstance(neurons, int):
        raise InputError(
            f"{name}: {last!r} of {type(block).__name__} has no in_features; expected the number of neurons"
        )
    shown = type(block.get_submodule(activation)).__name__ if activation else "?"
    return Structure("other", shown, neurons, last, activation=activation)

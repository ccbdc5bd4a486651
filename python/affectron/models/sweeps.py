"""Sweeps: the outputs of many programs from one forward.

Each row of a batch is computed once up to the first layer that a program touches, and from there once for each program.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from affectron.errors import InputError
from affectron.interventions import Program, Schedule
from affectron.models.discovery.sites import find_sites
from affectron.models.layers import layer_lists
from affectron.models.layout import Site
from affectron.models.steering import Steering, intervene
from affectron.models.wrappers import check_adapter, unwrapped


@contextmanager
def sweep(model: nn.Module, programs: Sequence[Program | Schedule | None]) -> Iterator[Steering | None]:
    """Let a forward of B rows give the outputs of P programs, P · B rows: row ``p B + b`` is row b under program p.

    The layers below the first one that any program touches, inside or at its output, are the same for all programs and
    run with B rows. The layers are those of the module list that holds the sites; each must take the hidden states
    [B, T, H] first, as the decoder layers of transformers do. A cache that the forward fills has B rows below and P · B
    rows above.

    The context yields the :class:`Steering`, of whose ``text`` a row is one of the B rows; None if there is no program.

    Raises:
        InputError: an adapter is a learned prompt, whose virtual tokens would move the text's positions, or the model
            has no list of layers.
        InputError, RuntimeError: as :func:`affectron.models.intervene`; in a forward, the layers are given other hidden
            states, such as [T, B, H].
    """
    check_adapter(model)
    repeat = _Repeat(len(programs))
    with ExitStack() as undo:
        if any(program is not None for program in programs):
            repeat.steering = undo.enter_context(intervene(model, programs))
            repeat.steering.repeats = len(programs)
        if len(programs) > 1:
            first, *others = _layers(unwrapped(model), [] if repeat.steering is None else repeat.steering.touched)
            for layer, hook in ((first, repeat.first), *((layer, repeat.other) for layer in others)):
                # Before all other hooks: the one by which intervene counts rows may be on the same module.
                undo.callback(layer.register_forward_pre_hook(hook, with_kwargs=True, prepend=True).remove)
        yield repeat.steering


def _layers(model: nn.Module, touched: Sequence[Site]) -> list[nn.Module]:
    """The layers from the first one on that a program touches; the last layer if none touches any."""
    lists = layer_lists(model, touched or find_sites(model))
    if not lists:
        raise InputError(
            f"{type(model).__name__} has no list of layers, expected one, as a sweep repeats its last layers"
        )
    layers, inside = list(next(iter(lists.values()))), {site.module for site in touched}
    return layers[next((n for n, layer in enumerate(layers) if not inside.isdisjoint(layer.modules())), -1) :]


class _Repeat:
    """Forward pre-hooks of layers that repeat the rows of the batch.

    Beside the hidden states a layer is given masks and positions, as tensors of B rows or of one row for all. Those of
    B rows are repeated for every layer, because the model gives all layers the same ones.
    """

    def __init__(self, times: int) -> None:
        self.times, self.rows = times, 0
        self.steering: Steering | None = None

    def first(
        self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        hidden, *rest = args  # [B, T, H]
        if self.steering is not None and not self.steering.is_batch_first(hidden.shape[:-1]):
            raise InputError(
                f"{type(layer).__name__} is given hidden states {list(hidden.shape)}, expected [batch, tokens, "
                "hidden], as the programs of a sweep are rows of the batch"
            )
        self.rows = hidden.shape[0]
        _, kwargs = self.other(layer, (), kwargs)
        return (hidden.repeat(self.times, 1, 1), *map(self._repeated, rest)), kwargs

    def other(
        self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return tuple(map(self._repeated, args)), {name: self._repeated(value) for name, value in kwargs.items()}

    def _repeated(self, value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(map(self._repeated, value))
        if isinstance(value, Tensor) and value.dim() > 1 and value.shape[0] == self.rows > 1:
            return value.repeat(self.times, *[1] * (value.dim() - 1))
        return value

"""Steered activations in models with vLLM's layers, against ``affectron.intervene`` on transformers' models with the
same weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import affectron
from affectron.interventions import Program
from affectron.models import find_sites, intervene
from affectron.vllm import activations
from affectron.vllm.activations import SteeredActivation
from affectron.vllm.library import Library, load
from affectron.vllm.rows import Rows
from affectron.vllm.settings import Settings
from tests.support.errors import message
from tests.support.tiny import HIDDEN, LAYERS, NEURONS, VOCABULARY, build, site_names
from tests.vllm import fakes
from tests.vllm.fakes import GatedMLP, GeluAndMul, PPMissingLayer, RowParallelLinear, SiluAndMul, served
from tests.vllm.programs import program

pytestmark = pytest.mark.usefixtures("vllm", "one_thread")

TEXTS, TOKENS = 5, 7
#: Place of each text's program.
PLACES = [1, -1, 0, 1, -1]


def library(folder: Path, programs: Sequence[Program], capacity: int = 3) -> Library:
    for place, one in enumerate(programs):
        one.save(folder / f"{place}.safetensors")
    return load(Settings(folder, capacity))


def rows_of(places: Sequence[int]) -> Rows:
    rows = Rows(64, torch.device("cpu"))
    rows.rows[: len(places)] = torch.tensor(places)
    return rows


def attach(model: nn.Module, plain: nn.Module, programs: Library, rows: Rows) -> int:
    return activations.attach(model, {site.name: site for site in find_sites(plain)}, programs, rows, torch.float32)


def tokens() -> Tensor:
    return torch.randint(3, VOCABULARY, (TEXTS, TOKENS), generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("family", ["llama", "gemma"])
@torch.no_grad()
def test_each_text_is_that_of_transformers_under_its_program(family: str, tmp_path: Path) -> None:
    plain = build(family)
    programs = [program(seed, family) for seed in range(2)]
    model = served(plain)
    torch.testing.assert_close(model(tokens()).logits, plain(tokens()).logits)
    assert attach(model, plain, library(tmp_path, programs), rows_of(np.repeat(PLACES, TOKENS))) == LAYERS
    with intervene(plain, [None if place < 0 else programs[place] for place in PLACES]):
        wanted = plain(tokens()).logits
    logits = model(tokens()).logits
    torch.testing.assert_close(logits, wanted, rtol=1e-4, atol=1e-5)
    moved = (logits - plain(tokens()).logits).abs().amax((1, 2))
    assert (moved[[0, 2, 3]] > 0.1).all()
    assert (moved[[1, 4]] < 1e-4).all()


@torch.no_grad()
def test_rows_are_read_at_each_forward_and_padding_is_unsteered(tmp_path: Path) -> None:
    plain = build("llama")
    model, rows = served(plain), rows_of([])
    attach(model, plain, library(tmp_path, [program()]), rows)
    block = model.model.layers[1].mlp
    x = torch.randn(9, HIDDEN)
    unsteered = block(x)
    rows.rows[2:5] = 0
    steered = block(x)
    assert [not torch.equal(*pair) for pair in zip(steered, unsteered, strict=True)] == [2 <= i < 5 for i in range(9)]


class Tower(nn.Module):
    """An image tower or projector with the parts of a language model's block."""

    def __init__(self, plain: Any, name: str) -> None:
        super().__init__()
        self.language = served(plain)
        self.model = self.language.model
        blocks = [GatedMLP(plain.model.layers[0].mlp, SiluAndMul()) for _ in range(2)]
        setattr(self, name, nn.ModuleDict({"layers": nn.ModuleList([nn.ModuleDict({"mlp": b}) for b in blocks])}))


@torch.no_grad()
def test_blocks_of_other_names_are_left_alone(tmp_path: Path) -> None:
    plain = build("llama")
    model = Tower(plain, "visual")
    assert attach(model, plain, library(tmp_path, [program()]), rows_of([0] * 9)) == LAYERS
    x = torch.randn(9, HIDDEN)
    for number in range(2):
        block = model.visual.layers[number].mlp
        assert type(block.act_fn) is SiluAndMul
        torch.testing.assert_close(block(x), plain.model.layers[0].mlp(x))
    assert sum(isinstance(module, SteeredActivation) for module in model.model.modules()) == LAYERS


@pytest.mark.parametrize("size", [2, 3])
@torch.no_grad()
def test_processes_that_share_the_neurons_sum_to_the_whole(size: int, tmp_path: Path) -> None:
    neurons = 6 * NEURONS
    plain = build("llama", intermediate_size=neurons)
    rng = np.random.default_rng(4)
    one = affectron.zero([(site, int(i)) for site in site_names("llama") for i in rng.choice(neurons, 60, False)])
    programs, x = library(tmp_path, [one]), torch.randn(9, HIDDEN)
    parts = []
    for rank in range(size):
        fakes.TENSOR_PARALLEL.__init__(rank=rank, size=size)
        model = served(plain)
        attach(model, plain, programs, rows_of([0, 0, -1] * 3))
        block = model.model.layers[1].mlp
        here = slice(rank * neurons // size, (rank + 1) * neurons // size)
        assert torch.equal(block.act_fn.table[0], torch.from_numpy(one.table(site_names("llama")[1], neurons)[:, here]))
        parts.append(block(x))
    with intervene(plain, [one, one, None] * 3):
        wanted = plain.model.layers[1].mlp(x[:, None])[:, 0]
    torch.testing.assert_close(sum(parts), wanted, rtol=1e-4, atol=1e-5)
    assert (parts[0] - wanted).abs().max() > 0.1


@torch.no_grad()
def test_a_layer_that_each_process_computes_whole_has_the_whole_table(tmp_path: Path) -> None:
    plain = build("llama")
    model = served(plain)
    fakes.TENSOR_PARALLEL.__init__(rank=1, size=2)
    down = RowParallelLinear(NEURONS, HIDDEN, bias=False, disable_tp=True)
    down.weight.copy_(plain.model.layers[0].mlp.down_proj.weight)
    model.model.layers[0].mlp.down_proj = down
    one = program()
    attach(model, plain, library(tmp_path, [one]), rows_of([0] * 9))
    table = model.model.layers[0].mlp.act_fn.table
    assert torch.equal(table[0], torch.from_numpy(one.table(site_names("llama")[0], NEURONS)))


@torch.no_grad()
def test_a_process_of_a_pipeline_steers_its_layers(tmp_path: Path) -> None:
    plain = build("llama")
    model = served(plain)
    model.model.layers[0] = model.model.layers[2] = PPMissingLayer()
    assert attach(model, plain, library(tmp_path, [program()]), rows_of([0])) == 1
    assert isinstance(model.model.layers[1].mlp.act_fn, SteeredActivation)
    model.model.layers[1] = PPMissingLayer()  # a process that has the embeddings alone
    assert attach(model, plain, library(tmp_path, [program()]), rows_of([0])) == 0


@torch.no_grad()
def test_the_table_takes_16_bytes_a_neuron_and_place(tmp_path: Path) -> None:
    plain = build("llama")
    model = served(plain)
    attach(model, plain, library(tmp_path, [program()], capacity=5), rows_of([0]))
    tables = [buffer for name, buffer in model.named_buffers() if name.endswith(".table")]
    assert sum(table.nbytes for table in tables) == 16 * LAYERS * NEURONS * 5
    assert model.state_dict().keys() == served(plain).state_dict().keys()  # weights may be loaded again


def refused(model: nn.Module, plain: nn.Module, tmp_path: Path, programs: Sequence[Program] = ()) -> str:
    programs = programs or [program()]
    return message(lambda: attach(model, plain, library(tmp_path, programs), rows_of([0])))


class Elsewhere(GatedMLP):
    """It computes its activation by itself, as blocks of other classes may."""

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up_proj(x).chunk(2, dim=-1)
        return self.down_proj(torch.nn.functional.silu(gate) * up)[0]


class Residual(GatedMLP):
    """Its output has a part that does not pass its activation."""

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


class Idle(GatedMLP):
    """Its output does not depend on hidden states."""

    def forward(self, x: Tensor) -> Tensor:
        return 0 * super().forward(x)


class Several(GatedMLP):
    """It returns more than hidden states."""

    def forward(self, x: Tensor) -> Any:
        return super().forward(x), None


class More(GatedMLP):
    """It needs more than hidden states."""

    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        return scale * super().forward(x)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (Elsewhere, "its output does not come from its activation module alone"),
        (Residual, "its output does not come from its activation module alone"),
        (Idle, "its output does not come from its activation module alone"),
        (Several, "its forward does not take hidden states [tokens, hidden] and return such ("),
        (More, "its forward does not take hidden states [tokens, hidden] and return such ("),
    ],
)
@torch.no_grad()
def test_a_block_of_another_computation_is_refused_and_left_as_it_was(
    kind: type[GatedMLP], reason: str, tmp_path: Path
) -> None:
    plain = build("llama")
    model = served(plain)
    block = model.model.layers[1].mlp = kind(plain.model.layers[1].mlp, SiluAndMul())
    assert refused(model, plain, tmp_path).startswith(
        f"model.layers.1.mlp cannot be steered in LlamaForCausalLM: {reason}"
    )
    assert type(block.act_fn) is SiluAndMul
    # Unless no program touches it.
    one = affectron.zero([("model.layers.0.mlp", 3)])
    assert attach(served(plain), plain, library(tmp_path, [one]), rows_of([0])) == LAYERS
    model = served(plain)
    model.model.layers[1].mlp = block
    assert attach(model, plain, library(tmp_path, [one]), rows_of([0])) == LAYERS - 1


class Derived(SiluAndMul):
    """Another activation: a class of its own."""


def test_other_parts_are_refused(tmp_path: Path) -> None:
    plain = build("llama")
    for part, value, told in (
        (
            "act_fn",
            Derived(),
            "its parts are RowParallelLinear, Linear, Derived, expected one SiluAndMul or GeluAndMul",
        ),
        ("other", SiluAndMul(), "its parts are RowParallelLinear, Linear, SiluAndMul, SiluAndMul, expected one "),
        ("down_proj", nn.Linear(NEURONS, HIDDEN), "its parts are Linear, Linear, SiluAndMul, expected one "),
        ("act_fn", GeluAndMul(), f"it has {NEURONS} neurons and gelu, expected {NEURONS} and silu"),
        ("act_fn", GeluAndMul("tanh"), f"it has {NEURONS} neurons and gelu_tanh, expected {NEURONS} and silu"),
        ("down_proj", RowParallelLinear(8, HIDDEN), f"it has 8 neurons and silu, expected {NEURONS} and silu"),
    ):
        model = served(plain)
        setattr(model.model.layers[2].mlp, part, value)
        assert refused(model, plain, tmp_path).startswith(
            f"model.layers.2.mlp cannot be steered in LlamaForCausalLM: {told}"
        )


def test_a_model_whose_modules_have_other_names_is_refused(tmp_path: Path) -> None:
    plain = build("llama")
    model = nn.ModuleDict({"language_model": served(plain)})
    assert refused(model, plain, tmp_path) == (
        "model.layers.0.mlp cannot be steered in ModuleDict: there is no such module"
    )
    assert refused(model, plain, tmp_path, [affectron.zero([])]) == "ModuleDict has no MLP that can be steered"


@torch.no_grad()
def test_layers_with_adapters_are_steered(tmp_path: Path) -> None:
    plain = build("llama")
    model, rows = served(plain), rows_of([])

    class Adapted(nn.Module):
        """It knows only from the first batch on what to add."""

        def __init__(self, base_layer: nn.Module) -> None:
            super().__init__()
            self.base_layer, self.batch = base_layer, False

        def forward(self, x: Tensor) -> Any:
            assert self.batch
            return self.base_layer(x)

    block, x = model.model.layers[0].mlp, torch.randn(9, HIDDEN)
    block.gate_up_proj, block.down_proj = adapters = Adapted(block.gate_up_proj), Adapted(block.down_proj)
    assert attach(model, plain, library(tmp_path, [program()]), rows) == LAYERS
    assert (block.gate_up_proj, block.down_proj) == adapters
    for adapter in adapters:
        adapter.batch = True
    unsteered = block(x)
    rows.rows[:4] = 0
    assert [not torch.equal(*pair) for pair in zip(block(x), unsteered, strict=True)] == [i < 4 for i in range(9)]

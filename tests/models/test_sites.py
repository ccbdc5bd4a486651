"""Sites are found in every layout, a kernel sees and replaces their activation, and nothing of it stays."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn
from transformers.activations import ACT2FN

from affectron.errors import InputError
from affectron.models import attach, find_sites
from tests.models.tiny import FAMILIES, LAYERS, NEURONS, SITES, batch, build, last_inputs, site_names, state

ACTIVATIONS = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
    "relu2": lambda x: F.relu(x) ** 2,
}


def plain_torch(position: int, gate: Tensor, up: Tensor | None, act: str) -> Tensor:
    h = ACTIVATIONS[act](gate)
    return h if up is None else h * up


@pytest.fixture(scope="module", params=FAMILIES)
def family(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def model(family: str) -> nn.Module:
    return build(family)


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model(**batch()).logits


def test_sites_are_in_forward_order(model: nn.Module, family: str) -> None:
    called: list[str] = []
    sites = find_sites(model)
    with last_inputs(model, family, lambda name, h: (called.append(name), h)[1]):
        logits(model)
    assert [site.name for site in sites] == called == site_names(family)
    for site in sites:
        assert (site.layout, site.act, site.neurons) == (*SITES[family][2:], NEURONS)
        assert site.module is model.get_submodule(site.name)


def test_a_kernel_in_plain_torch_reproduces_the_model(model: nn.Module, family: str) -> None:
    expected = logits(model)
    positions: list[int] = []

    def kernel(position: int, gate: Tensor, up: Tensor | None, act: str) -> Tensor:
        positions.append(position)
        assert gate.stride(-1) == 1
        assert gate.shape[-1] == NEURONS
        assert (up is None) == (SITES[family][2] == "plain")
        return plain_torch(position, gate, up, act)

    with attach(find_sites(model), kernel):
        torch.testing.assert_close(logits(model), expected, rtol=1e-5, atol=1e-5)
    assert positions == list(range(LAYERS))


def test_what_the_kernel_returns_is_what_the_last_linear_reads(model: nn.Module, family: str) -> None:
    given: dict[str, Tensor] = {}
    read: dict[str, Tensor] = {}
    sites = find_sites(model)[1:]

    def kernel(position: int, gate: Tensor, up: Tensor | None, act: str) -> Tensor:
        given[sites[position].name] = torch.full_like(gate, position + 0.5)
        return given[sites[position].name]

    with attach(sites, kernel), last_inputs(model, family, lambda name, h: read.setdefault(name, h)):
        logits(model)
    assert list(given) == site_names(family)[1:]
    for name, h in given.items():
        assert torch.equal(read[name], h)


def test_leaving_restores_everything(model: nn.Module) -> None:
    before, expected, keys = state(model), logits(model), list(model.state_dict())
    with attach(find_sites(model), lambda position, gate, up, act: torch.zeros_like(gate)):
        assert not torch.equal(logits(model), expected)
        assert list(model.state_dict()) == keys
        assert state(model) != before
    assert state(model) == before
    assert torch.equal(logits(model), expected)


class Boom(BaseException):
    """Not an Exception, as KeyboardInterrupt is not."""


def test_an_exception_in_the_body_restores_everything(model: nn.Module) -> None:
    before, expected = state(model), logits(model)

    def fail(position: int, gate: Tensor, up: Tensor | None, act: str) -> Tensor:
        raise Boom

    with pytest.raises(Boom), attach(find_sites(model), fail):
        logits(model)
    assert state(model) == before
    assert torch.equal(logits(model), expected)


def test_an_exception_in_the_setup_restores_everything(model: nn.Module) -> None:
    before = state(model)
    sites = find_sites(model)
    # The second site comes twice, so the third step fails with two sites swapped.
    with pytest.raises(RuntimeError, match="is attached already"), attach([*sites[:2], sites[1]], plain_torch):
        pytest.fail("the body must not run")
    assert state(model) == before


def test_a_model_is_attached_once_at_a_time(model: nn.Module) -> None:
    expected = logits(model)
    sites = find_sites(model)
    zeros = lambda position, gate, up, act: torch.zeros_like(gate)  # noqa: E731
    with attach(sites[:1], zeros):
        steered = logits(model)
        assert find_sites(model) == sites
        with pytest.raises(RuntimeError, match=f"{sites[0].name} is attached already"), attach(sites, zeros):
            pytest.fail("the body must not run")
        assert torch.equal(logits(model), steered)
    assert torch.equal(logits(model), expected)


def test_a_forward_that_someone_put_there_comes_back() -> None:
    model = build("llama")
    mlp = model.model.layers[1].mlp
    own = lambda x: 2 * type(mlp).forward(mlp, x)  # noqa: E731
    mlp.forward = own
    before, expected = state(model), logits(model)
    with attach(find_sites(model), plain_torch):
        assert not torch.equal(logits(model), expected)
    assert mlp.forward is own
    assert state(model) == before
    assert torch.equal(logits(model), expected)


def test_layers_that_share_one_activation_object_are_told_apart() -> None:
    model = build("neox")
    shared = model.gpt_neox.layers[0].mlp.act
    for layer in model.gpt_neox.layers:
        layer.mlp.act = shared
    expected, positions = logits(model), []

    def kernel(position: int, gate: Tensor, up: Tensor | None, act: str) -> Tensor:
        positions.append(position)
        return plain_torch(position, gate, up, act)

    with attach(find_sites(model), kernel):
        torch.testing.assert_close(logits(model), expected, rtol=1e-5, atol=1e-5)
    assert positions == [0, 1, 2]
    assert all(layer.mlp.act is shared for layer in model.gpt_neox.layers)


@pytest.mark.parametrize(
    ("name", "act"),
    [
        ("silu", "silu"),
        ("swish", "silu"),
        ("gelu", "gelu"),
        ("gelu_python", "gelu"),
        ("gelu_new", "gelu_tanh"),
        ("gelu_fast", "gelu_tanh"),
        ("gelu_accurate", "gelu_tanh"),
        ("gelu_pytorch_tanh", "gelu_tanh"),
        ("relu", "relu"),
        ("relu2", "relu2"),
    ],
)
def test_the_activation_is_known_by_what_it_computes(name: str, act: str) -> None:
    x = torch.linspace(-6, 6, 1001)
    (site, *_) = find_sites(build("llama", hidden_act=name))
    assert site.act == act
    torch.testing.assert_close(ACTIVATIONS[site.act](x), ACT2FN[name](x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("module", "act"), [(nn.GELU(), "gelu"), (nn.GELU("tanh"), "gelu_tanh")])
def test_the_two_forms_of_torch_gelu_are_told_apart(module: nn.Module, act: str) -> None:
    model = build("gpt2")
    model.transformer.h[0].mlp.act = module
    assert find_sites(model)[0].act == act


@pytest.mark.parametrize("family_name", ["llama", "gpt2"])
@pytest.mark.parametrize(("act", "shown"), [("quick_gelu", "QuickGELUActivation"), ("relu6", "ReLU6")])
def test_an_unknown_activation_is_named_with_its_site(family_name: str, act: str, shown: str) -> None:
    field = "hidden_act" if family_name == "llama" else "activation_function"
    model = build(family_name, **{field: act})
    with pytest.raises(InputError, match=f"{site_names(family_name)[0]}: activation function {shown}"):
        find_sites(model)


def test_an_mlp_that_computes_more_is_refused_by_name() -> None:
    class Clamped(type(build("llama").model.layers[0].mlp)):
        def forward(self, x: Tensor) -> Tensor:
            return self.down_proj(self.act_fn(self.gate_proj(x)).clamp(max=7) * self.up_proj(x))

    model = build("llama")
    model.model.layers[2].mlp.__class__ = Clamped
    with pytest.raises(InputError, match=r"model.layers.2.mlp: Clamped .* also uses clamp"):
        find_sites(model)


def test_a_model_without_a_known_mlp_is_refused() -> None:
    with pytest.raises(InputError, match="Sequential has no known MLP: expected gate_proj"):
        find_sites(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4)))


@pytest.mark.parametrize("name", ["Mistral", "Qwen2", "Qwen3", "Gemma2"])
def test_relatives_of_llama_are_known(name: str) -> None:
    torch.manual_seed(0)
    sizes = {"vocab_size": 97, "hidden_size": 24, "intermediate_size": 43, "num_hidden_layers": 2, "head_dim": 6}
    config = getattr(transformers, f"{name}Config")(
        **sizes, num_attention_heads=4, num_key_value_heads=2, pad_token_id=0
    )
    model = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    sites = find_sites(model)
    assert [(site.name, site.layout, site.neurons) for site in sites] == [
        (f"model.layers.{layer}.mlp", "gated", 43) for layer in range(2)
    ]
    expected = logits(model)
    with attach(sites, plain_torch):
        assert torch.equal(logits(model), expected)

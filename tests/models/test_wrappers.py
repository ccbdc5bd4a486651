"""Models that something else has changed already: adapters, quantisation, compilation, dispatch, shared modules.

Each is steered as the plain model is, against hooks on its last linear layers, and left as it was.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor, nn

from affectron import interventions
from affectron.models import find_sites, intervene, unwrapped
from affectron.screening.screen import screen
from tests.support import errors
from tests.support.corpora import CORPUS
from tests.support.families import FAMILIES, Mixture, available
from tests.support.tiny import HIDDEN, LAYERS, NEURONS, batch, build, make_tokenizer, site_names, state

pytestmark = pytest.mark.usefixtures("one_thread")

TOLERANCE = {"rtol": 2e-5, "atol": 2e-5}


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        return model(**batch()).logits


def program(family: str = "llama", factor: float = 3.0) -> interventions.Program:
    names = site_names(family)
    return interventions.amplify([(names[0], 1), (names[0], 5), (names[2], 40)], factor)


@contextmanager
def amplified(lasts: list[nn.Module], factor: float = 3.0) -> Iterator[None]:
    """Do what the program does with a hook before each last linear layer."""
    handles = []
    for layer, last in enumerate(lasts):
        index = {0: [1, 5], 2: [40]}.get(layer, [])

        def change(_module: nn.Module, args: tuple[Tensor, ...], index: list[int] = index) -> tuple[Tensor, ...]:
            h = args[0].clone()
            h[..., index] *= factor
            return (h,)

        handles.append(last.register_forward_pre_hook(change))
    yield
    for handle in handles:
        handle.remove()


def down(model: Any) -> list[nn.Module]:
    return [layer.mlp.down_proj for layer in unwrapped(model).model.layers]


def tensor_names(model: nn.Module) -> list[str]:
    """Parameters and buffers. Not by state_dict(), in which bitsandbytes quantises its scales anew with AVX-512."""
    return [name for name, _ in (*model.named_parameters(), *model.named_buffers())]


def agrees(model: Any) -> None:
    """Steered, screened and left: the names are those of the plain model, and no trace stays."""
    before, names, plain = state(model), tensor_names(model), logits(model)
    with amplified(down(model)):
        wanted = logits(model)
    assert [site.name for site in find_sites(model)] == site_names("llama")
    with intervene(model, program()):
        torch.testing.assert_close(logits(model), wanted, **TOLERANCE)
        assert tensor_names(model) == names
    assert (wanted - plain).abs().max() > 1e-3
    h: list[Tensor] = []
    # A sentence a batch and special tokens too: every token that is read counts. A batch of more tries the model.
    handle = down(model)[1].register_forward_pre_hook(
        lambda _module, args: h.append(args[0].double()) if len(args[0]) == 1 else None
    )
    stats = screen(model, make_tokenizer(), CORPUS, batch_tokens=1, count_special=True)
    handle.remove()
    rows = torch.cat([part.flatten(0, -2) for part in h])
    assert stats.sites == tuple(site_names("llama"))
    found = [stats.task_total(task)[site_names("llama")[1]] for task in stats.tasks]
    peak = torch.from_numpy(np.maximum(found[0].max, found[1].max)).double()
    torch.testing.assert_close(peak, rows.amax(0), **TOLERANCE)
    assert state(model) == before
    assert torch.equal(logits(model), plain)


def test_a_model_with_an_adapter() -> None:
    peft = pytest.importorskip("peft")
    base = build("llama")
    config = peft.LoraConfig(r=4, target_modules=["gate_proj", "down_proj", "q_proj"], init_lora_weights=False)
    model = peft.get_peft_model(base, config).eval()
    assert all(site.path == "fused" for site in find_sites(model))
    agrees(model)


def test_a_quantised_model() -> None:
    quantization = pytest.importorskip("torchao.quantization")
    model = build("llama")
    quantization.quantize_(model, quantization.Int8WeightOnlyConfig(version=2))
    assert type(model.model.layers[0].mlp.down_proj.weight) is not nn.Parameter
    assert all(site.path == "fused" for site in find_sites(model))
    agrees(model)


@pytest.mark.parametrize("bits", [8, 4])
def test_a_model_that_bitsandbytes_has_quantised(bits: int) -> None:
    bnb = pytest.importorskip("bitsandbytes")
    # In 4 bits, on a processor with AVX-512, its kernel takes blocks of 64 inputs and 32 outputs alone.
    model = build("llama", hidden_size=64, intermediate_size=128)
    for layer in model.model.layers:
        for name in ("gate_proj", "up_proj", "down_proj"):
            weight = getattr(layer.mlp, name).weight.data
            outputs, inputs = weight.shape
            if bits == 8:
                linear = bnb.nn.Linear8bitLt(inputs, outputs, bias=False, has_fp16_weights=False)
                linear.weight = bnb.nn.Int8Params(weight, requires_grad=False, has_fp16_weights=False)
            else:
                linear = bnb.nn.Linear4bit(inputs, outputs, bias=False, quant_type="nf4")
                linear.weight = bnb.nn.Params4bit(weight, requires_grad=False, quant_type="nf4")
            setattr(layer.mlp, name, linear.to("cpu"))
    logits(model.eval())  # the first forward changes how a layer keeps its weights
    assert model.model.layers[0].mlp.down_proj.weight.dtype in (torch.int8, torch.uint8)
    assert all(site.path == "fused" for site in find_sites(model))
    agrees(model)


@pytest.mark.parametrize("how", ["instance", "class"])
def test_a_model_that_liger_has_patched(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Liger's product is a Triton kernel for GPUs: torch's takes its place here. Its modules and its patch are real."""
    swiglu = pytest.importorskip("liger_kernel.transformers.swiglu")
    monkeypatch.setattr(
        swiglu.LigerSiLUMulFunction, "apply", lambda gate, up, *_multipliers: nn.functional.silu(gate) * up
    )
    model = build("llama")
    if how == "instance":
        patch = pytest.importorskip("liger_kernel.transformers.monkey_patch")
        for layer in model.model.layers:
            patch._patch_swiglu_module(layer.mlp, swiglu.LigerSwiGLUMLP)
    else:
        for layer in model.model.layers:
            block = swiglu.LigerSwiGLUMLP(model.config)
            block.load_state_dict(layer.mlp.state_dict())
            layer.mlp = block
    assert all((site.layout, site.act, site.path) == ("gated", "silu", "fused") for site in find_sites(model))
    agrees(model)


@pytest.mark.filterwarnings("ignore:.*exact, but not fused")
@pytest.mark.parametrize("how", ["fused", "fallback"])
def test_a_compiled_model(how: str) -> None:
    """Compiled before, steered by one program after another, and left: the compiler notices each time. Two layers are
    compiled and not the whole, which takes many times as long."""
    model = build("llama")
    if how == "fallback":
        for layer in model.model.layers:
            layer.mlp.forward = lambda x, mlp=layer.mlp: type(mlp).forward(mlp, x)
    eager = logits(model)
    for layer in (0, 2):
        model.model.layers[layer] = torch.compile(model.model.layers[layer], backend="eager")
    for wrapped in (model, torch.compile(model, backend="eager")):
        assert [(site.name, site.path) for site in find_sites(wrapped)] == [(name, how) for name in site_names("llama")]
    torch.testing.assert_close(logits(model), eager, **TOLERANCE)
    for factor in (3.0, -2.0):
        bare = build("llama")
        with amplified(down(bare), factor):
            wanted = logits(bare)
        with intervene(model, program(factor=factor) if factor > 1 else negated()):
            torch.testing.assert_close(logits(model), wanted, **TOLERANCE)
        torch.testing.assert_close(logits(model), eager, **TOLERANCE)


def negated() -> interventions.Program:
    """The same neurons times -2, which amplify does not make."""
    sites = {
        site: interventions.SiteProgram(part.index, -2 * part.scale / 3, part.damping, part.floor, part.shift)
        for site, part in program().sites.items()
    }
    return interventions.Program(sites, "negated")


def test_a_model_whose_weights_are_offloaded() -> None:
    """accelerate keeps the weights elsewhere and brings them in before each layer."""
    accelerate = pytest.importorskip("accelerate")
    model = accelerate.cpu_offload(build("llama"), execution_device="cpu")
    assert all(parameter.is_meta for parameter in model.model.layers[0].mlp.parameters())
    plain = build("llama")
    with amplified(down(plain)):
        wanted = logits(plain)
    before = state(model)
    with intervene(model, program()):
        torch.testing.assert_close(logits(model), wanted, **TOLERANCE)
    assert state(model) == before
    torch.testing.assert_close(logits(model), logits(plain), **TOLERANCE)


def test_layers_that_share_an_mlp_are_one_site() -> None:
    model = build("llama")
    model.model.layers[2].mlp = model.model.layers[0].mlp
    names = site_names("llama")
    assert [site.name for site in find_sites(model)] == names[:2]
    plain, steered = logits(model), interventions.amplify([(names[0], 1)], 3.0)
    calls: list[int] = []

    def change(_module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        calls.append(1)
        h = args[0].clone()
        h[..., 1] *= 3
        return (h,)

    handle = model.model.layers[0].mlp.down_proj.register_forward_pre_hook(change)
    wanted = logits(model)
    handle.remove()
    with intervene(model, steered):
        torch.testing.assert_close(logits(model), wanted, **TOLERANCE)
    assert len(calls) == 2
    assert torch.equal(logits(model), plain)


def test_blocks_that_share_a_last_layer_are_one_site() -> None:
    model = build("llama")
    model.model.layers[2].mlp.down_proj = model.model.layers[0].mlp.down_proj
    names = site_names("llama")
    with pytest.warns(UserWarning, match="not fused"):
        sites = find_sites(model)
    assert [(site.name, site.path) for site in sites] == [(names[0], "fallback"), (names[1], "fused")]
    handle = model.model.layers[0].mlp.down_proj.register_forward_pre_hook(lambda _m, args: (3 * args[0],))
    wanted = logits(model)
    handle.remove()
    context = intervene(model, interventions.amplify([(names[0], i) for i in range(NEURONS)], 3.0))
    with pytest.warns(UserWarning, match="not fused"):
        context.__enter__()
    torch.testing.assert_close(logits(model), wanted, **TOLERANCE)
    context.__exit__(None, None, None)


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt"])
def test_a_model_is_as_picklable_as_before(family: str) -> None:
    model = build(family)
    before = pickle.dumps(model)
    with intervene(model, interventions.amplify([(site_names(family)[LAYERS - 1], 3)], 2.0)):
        logits(model)
    assert pickle.dumps(model) == before
    assert torch.equal(logits(pickle.loads(before)), logits(model))


def _compile(model: Any, place: str) -> None:
    """Put torch.compile around one part of each layer."""
    for layer in next(module for module in model.modules() if isinstance(module, nn.ModuleList)):
        path, _, name = place.rpartition(".")
        setattr(layer.get_submodule(path), name, torch.compile(layer.get_submodule(place), backend="eager"))


@pytest.mark.parametrize(
    ("family", "place"),
    [
        ("llama", "mlp"),
        ("llama", "mlp.act_fn"),
        ("llama", "mlp.gate_proj"),
        ("llama", "mlp.down_proj"),
        ("gpt2", "mlp.act"),
        ("neox", "mlp"),
    ],
)
def test_a_compiled_part_is_seen_through(family: str, place: str) -> None:
    model, eager = build(family), build(family)
    _compile(model, place)
    before, plain = state(model), logits(eager)
    assert [(site.name, site.path) for site in find_sites(model)] == [(name, "fused") for name in site_names(family)]
    found, wanted = (screen(one, make_tokenizer(), CORPUS) for one in (model, eager))
    for site in wanted.sites:
        assert np.array_equal(found.label("joy")[site].mean, wanted.label("joy")[site].mean)
    with intervene(eager, program(family)):
        steered = logits(eager)
    with intervene(model, program(family)):
        torch.testing.assert_close(logits(model), steered, **TOLERANCE)
    assert (steered - plain).abs().max() > 1e-3
    assert state(model) == before
    torch.testing.assert_close(logits(model), plain, **TOLERANCE)


def test_compiled_experts_are_seen_through() -> None:
    """Those of a list, and the block that holds stacked ones."""
    models = {True: build("llama", num_hidden_layers=2), False: build("llama", num_hidden_layers=2)}
    config = transformers.LlamaConfig(hidden_size=HIDDEN, intermediate_size=NEURONS, num_attention_heads=4)
    for compiled, model in models.items():
        torch.manual_seed(3)
        for layer in model.model.layers:
            layer.mlp = Mixture([type(layer.mlp)(config) for _ in range(4)], flat=False).eval()
            for number in range(4 if compiled else 0):
                layer.mlp.experts[number] = torch.compile(layer.mlp.experts[number], backend="eager")
    pairs = [(models[True], models[False])]
    for name, place in (("mixtral", "mlp.experts"), ("jetmoe", "mlp")):
        if available(name):
            pairs.append((FAMILIES[name].build(), FAMILIES[name].build()))
            _compile(pairs[-1][0], place)
    for model, eager in pairs:
        names = [site.name for site in find_sites(eager)]
        assert [site.name for site in find_sites(model)] == names
        found, wanted = (screen(one, make_tokenizer(), CORPUS) for one in (model, eager))
        for name in names:
            ours, theirs = (stats.label("joy")[name] for stats in (found, wanted))
            assert ours.count == theirs.count
            np.testing.assert_allclose(ours.mean, theirs.mean, rtol=1e-5, atol=1e-6)


def test_a_weight_that_is_parametrised_is_computed_with() -> None:
    model = build("llama")
    for layer in model.model.layers:
        nn.utils.parametrizations.weight_norm(layer.mlp.up_proj)
        with torch.no_grad():
            layer.mlp.up_proj.parametrizations.weight.original0 *= 1.5
    agrees(model)


def test_a_model_inside_a_wrapper_of_torch_is_asked_for() -> None:
    wrapped = nn.DataParallel(build("llama"))
    message = errors.message(lambda: screen(wrapped, make_tokenizer(), CORPUS))
    assert message == "model is a DataParallel, expected one of transformers; a wrapper of torch holds it as its module"

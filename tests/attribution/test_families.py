"""Attribution of many families of models, of adapted, quantised and compiled ones: against autograd through each
model's own forward, or refused in a line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor, nn

from affectron import ActivationStats, attribute
from affectron.corpus import Corpus
from affectron.evaluation.linear_probe import LinearProbe
from affectron.models import Reader, find_sites
from tests.attribution.oracle import (
    PROMPTS,
    TOKENIZER,
    Plain,
    Truth,
    Watch,
    answers,
    check,
    make_corpus,
    same_bits,
    watching_family,
)
from tests.models.test_adapters import KINDS, adapted
from tests.support.errors import message
from tests.support.families import FAMILIES, HIDDEN, NEURONS, Family, Mixture, available
from tests.support.tiny import build, site_names, state

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore")]

CORPUS = make_corpus(9, ("way",), 7)
LABELS = CORPUS.tasks["way"]
LANGUAGE = [name for name, family in FAMILIES.items() if family.head == "ForCausalLM"]


def run(model: Any, **options: Any) -> ActivationStats:
    return attribute(model, TOKENIZER, CORPUS, **{"batch_tokens": 60, "prompts": {"way": PROMPTS["way"]}, **options})


def make(name: str) -> tuple[Family, Any]:
    if not available(name):
        pytest.skip(f"transformers has no such {name}")
    return FAMILIES[name], FAMILIES[name].build()


@pytest.mark.parametrize("name", LANGUAGE)
def test_the_answers_of_every_family(name: str) -> None:
    """The forwards of some experts of the tests take float32 alone."""
    family, model = make(name)
    truths = answers(Plain(model, watching_family(family), dtype=torch.float32), CORPUS, TOKENIZER)
    before = state(model)
    found = run(model)
    assert state(model) == before
    same_bits(run(model, recompute=True), found)
    described = {site: truth.value for site in family.names for truth in truths["way"] if site in truth.value}
    assert len(described) == len(family.names)  # each expert is reached by some sentence
    check(only(found, family.names), CORPUS, truths)


def only(stats: ActivationStats, sites: list[str]) -> ActivationStats:
    """The statistics of some of the sites: beside experts a model may have MLPs that the test does not describe."""
    arrays = {
        site: {
            name: getattr(stats, name)[site] for name in ("count", "active", "nonfinite", "mean", "m2", "min", "max")
        }
        for site in sites
    }
    return ActivationStats(stats.tasks, stats.segments, arrays, stats.provenance)


@pytest.mark.parametrize("name", ["bert", "roberta", "modernbert", "albert", "t5", "t5_gated", "bart", "mixtral"])
def test_the_margin_of_a_probe(name: str) -> None:
    """Of an encoder and a decoder the encoder is read."""
    family, model = make(name)
    probe = LinearProbe()
    found = attribute(model, TOKENIZER, CORPUS, evaluator=probe, batch_tokens=60)
    plain = Plain(model, watching_family(family), dtype=torch.float32)
    body = plain.model.get_encoder() if model.config.is_encoder_decoder else plain.model.base_model
    weights, intercept = (torch.from_numpy(part) for part in probe._fitted["way"])
    truths: list[Truth] = []
    for one in CORPUS:
        ids = TOKENIZER(one.text)["input_ids"]
        hidden = plain.forward(ids, range(1, len(ids)), body).last_hidden_state[0, 1:]
        scores = hidden.double().mean(0) @ weights + intercept
        own = LABELS.index(one.labels[0])
        truths.append(plain.attributed(scores[own] - scores[1 - own]))
    names = [site for site in found.sites if site in family.names]
    assert names == [name for name in family.names if "decoder" not in name]
    check(only(found, names), CORPUS, {"way": truths})


@pytest.mark.parametrize("name", ["bert", "t5", "bart"])
def test_likelihoods_of_a_model_that_writes_no_text_are_refused(name: str) -> None:
    family, model = make(name)
    wanted = f"model is a {family.model}{family.head}, expected a causal language model to read likelihoods from"
    assert message(lambda: run(model)) == wanted
    assert message(lambda: attribute(model, TOKENIZER, CORPUS, metric="text")) == wanted


def sees_later_tokens(model: Any) -> bool:
    ids = torch.tensor([[3, 5, 8, 13], [3, 5, 8, 21]])
    with torch.no_grad():
        first, second = model(input_ids=ids).logits[:, 0]
    return not torch.allclose(first, second)


@pytest.mark.parametrize("kind", ["bert", "roberta", "electra", "xlm-roberta", "bart"])
@pytest.mark.parametrize("is_decoder", [False, True])
def test_an_encoder_in_place_of_a_causal_language_model_is_refused(kind: str, is_decoder: bool) -> None:
    """What ``AutoModelForCausalLM`` makes of it sees later tokens, unless the config says that it is a decoder."""
    sizes = {
        "vocab_size": 97, "hidden_size": 24, "d_model": 24, "intermediate_size": 43, "num_hidden_layers": 2,
        "num_attention_heads": 4, "decoder_layers": 2, "decoder_attention_heads": 4, "decoder_ffn_dim": 43,
        "max_position_embeddings": 64,
    }  # fmt: skip
    config = transformers.AutoConfig.for_model(kind, **sizes, is_decoder=is_decoder)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    wanted = f"model is a {type(model).__name__}, expected a causal language model to read likelihoods from"
    if sees_later_tokens(model):
        assert message(lambda: run(model)) == wanted
        assert message(lambda: attribute(model, TOKENIZER, CORPUS, metric="text")) == wanted
    else:
        assert run(model).kind == "attribution"
    assert sees_later_tokens(model) == (kind != "bart" and not is_decoder)


def test_a_model_that_gives_no_final_states_to_probe_is_refused() -> None:
    _, model = make("llama4")
    line = message(lambda: attribute(model, TOKENIZER, CORPUS, evaluator="linear_probe"))
    assert line == "Llama4ForCausalLM does not give the final hidden states that a probe reads"


def watching_last(model: Any) -> Watch:
    """Of a Llama that is wrapped or changed: what each down projection reads."""

    @contextmanager
    def watch(change: Any) -> Iterator[None]:
        handles = []
        for path, module in model.named_modules():
            for name in site_names("llama"):
                if f"{name}." in path and path.endswith(".down_proj"):

                    def before(_module: nn.Module, args: tuple[Any, ...], name: str = name) -> tuple[Any, ...]:
                        return (change(name, args[0], None), *args[1:])

                    handles.append(module.register_forward_pre_hook(before))
        yield
        for handle in handles:
            handle.remove()

    return watch


def agrees(model: Any, **options: Any) -> None:
    """Attributions against autograd through the model itself, of which some cannot be copied; no trace stays."""
    before, trained = state(model), [parameter.requires_grad for parameter in model.parameters()]
    found = run(model, **options)
    assert state(model) == before
    assert [parameter.requires_grad for parameter in model.parameters()] == trained
    assert all(parameter.grad is None for parameter in model.parameters())
    same_bits(run(model, recompute=True, **options), found)
    plain = Plain(nn.Identity(), watching_last)
    plain.model, plain.watch = model, watching_last(model)
    handle = model.get_input_embeddings().register_forward_hook(lambda _m, _a, out: out.detach().requires_grad_())
    truths = answers(plain, CORPUS, TOKENIZER, {"way": PROMPTS["way"]})
    handle.remove()
    check(found, CORPUS, truths)


@pytest.mark.parametrize("kind", ["lora", "ia3", "copies of blocks", "parameters of linear layers"])
def test_models_with_adapters(kind: str) -> None:
    agrees(adapted(KINDS[kind]()))


def test_a_quantised_model() -> None:
    quantization = pytest.importorskip("torchao.quantization")
    model = build("llama")
    quantization.quantize_(model, quantization.Int8WeightOnlyConfig(version=2))
    agrees(model)


def test_quantised_activations_that_have_no_gradient_are_refused() -> None:
    """The gradient would pass the first layers by."""
    quantization = pytest.importorskip("torchao.quantization")
    model = build("llama")
    kind = quantization.Int8DynamicActivationInt8WeightConfig()
    quantization.quantize_(model, kind, lambda _, name: "layers.1.mlp.gate" in name or "layers.1.mlp.up" in name)
    line = "LlamaForCausalLM: torch cannot differentiate what model.layers.1.mlp reads"
    assert message(lambda: run(model)) == line
    model = build("llama")
    quantization.quantize_(model, kind)
    assert message(lambda: run(model)).startswith("LlamaForCausalLM: torch cannot differentiate what model.layers.0")


@pytest.mark.parametrize("metric", ["answer", "text"])
def test_an_mlp_whose_output_has_no_gradient_is_refused(metric: str) -> None:
    """The gradient would pass its own neurons by, which would all seem to do nothing."""
    quantization = pytest.importorskip("torchao.quantization")
    model = build("llama")
    kind = quantization.Int8DynamicActivationInt8WeightConfig()
    quantization.quantize_(model, kind, lambda _, name: name == "model.layers.1.mlp.down_proj")
    line = message(lambda: run(model) if metric == "answer" else attribute(model, TOKENIZER, CORPUS, metric="text"))
    assert line == "LlamaForCausalLM: torch cannot differentiate what model.layers.1.mlp gives"
    assert not any(module._forward_hooks for module in model.modules())


def quantise_by_bitsandbytes(model: Any) -> None:
    bnb = pytest.importorskip("bitsandbytes")
    for layer in model.model.layers:
        for name in ("gate_proj", "up_proj", "down_proj"):
            weight = getattr(layer.mlp, name).weight.data
            linear = bnb.nn.Linear8bitLt(*weight.shape[::-1], bias=False, has_fp16_weights=False)
            linear.weight = bnb.nn.Int8Params(weight, requires_grad=False, has_fp16_weights=False)
            setattr(layer.mlp, name, linear.to("cpu"))
    model.eval()(torch.tensor([[3, 4]]))  # the first forward changes how a layer keeps its weights


def test_a_model_that_bitsandbytes_has_quantised() -> None:
    model = build("llama", hidden_size=64, intermediate_size=128)
    quantise_by_bitsandbytes(model)
    agrees(model, batch_tokens=1)  # a difference by rounding alone may change the integer of an activation


def test_an_operation_without_a_gradient_is_refused_by_name() -> None:
    """As the product of bitsandbytes in 4 bits is on some CPUs: torch warns, and goes on with a gradient of zero."""
    with torch.library._scoped_library("affectron_test", "DEF") as library:
        library.define("product(Tensor x, Tensor w) -> Tensor")
        library.impl("product", lambda x, w: x @ w.T, "CPU")
        model = build("llama")
        plain = run(model)
        linear = model.model.layers[1].mlp.down_proj
        linear.forward = lambda x: torch.ops.affectron_test.product(x, linear.weight)
        for _ in range(2):
            line = message(lambda: run(model))
            assert line == "LlamaForCausalLM: torch cannot differentiate affectron_test::product"
        del linear.forward
        same_bits(run(model), plain)


def test_activations_that_are_computed_without_gradients_are_refused() -> None:
    model = build("llama")
    layer = model.model.layers[0]
    layer.forward = torch.no_grad()(layer.forward)
    assert message(lambda: run(model)) == "LlamaForCausalLM: torch cannot differentiate what model.layers.0.mlp reads"


def test_layers_that_share_an_mlp_are_one_site() -> None:
    model = build("llama")
    model.model.layers[2].mlp = model.model.layers[0].mlp
    assert len(find_sites(model)) == 2
    agrees(model)


def test_a_weight_that_is_parametrised_and_tied_embeddings() -> None:
    model = build("llama")
    for layer in model.model.layers:
        nn.utils.parametrizations.weight_norm(layer.mlp.up_proj)
    model.lm_head.weight = model.model.embed_tokens.weight
    agrees(model)


@pytest.mark.parametrize("flat", [True, False])
def test_experts_in_a_list(flat: bool) -> None:
    model = build("llama", num_hidden_layers=2)
    config = transformers.LlamaConfig(hidden_size=HIDDEN, intermediate_size=NEURONS, num_attention_heads=4)
    torch.manual_seed(3)
    for layer in model.model.layers:
        layer.mlp = Mixture([type(layer.mlp)(config) for _ in range(4)], flat).eval()

    def watching(copied: Any) -> Watch:
        @contextmanager
        def watch(change: Any) -> Iterator[None]:
            handles = []
            for site in find_sites(copied):
                mixture = copied.get_submodule(site.name.rpartition(".experts")[0])
                tokens: list[Tensor] = []  # of the expert that is called next
                number = int(site.name.rpartition(".")[2])

                def route(_m: Any, _a: Any, out: Tensor, number: int = number, tokens: list[Tensor] = tokens) -> None:
                    tokens[:] = [torch.where(number == out.softmax(-1).topk(2, dim=-1).indices.T)[1]]

                def before(_m: Any, args: Any, name: str = site.name, tokens: list[Tensor] = tokens) -> Any:
                    return (change(name, args[0], tokens[0]),)

                handles.append(mixture.router.register_forward_hook(route))
                handles.append(site.module.down_proj.register_forward_pre_hook(before))
            yield
            for handle in handles:
                handle.remove()

        return watch

    truths = answers(Plain(model, watching), CORPUS, TOKENIZER)
    reached = [len(truth.value) for truth in truths["way"]]
    assert min(reached) < 8  # some sentence has no token at some expert: its attribution is 0
    check(run(model), CORPUS, truths)


@pytest.mark.parametrize("how", ["model", "layers"])
def test_a_compiled_model(how: str) -> None:
    model, eager = build("llama"), run(build("llama"))
    compiled = torch.compile(model, backend="eager") if how == "model" else model
    for layer in model.model.layers if how == "layers" else ():
        layer.compile(backend="eager")
    compiled(torch.tensor([[3, 4, 5]]))
    found = run(compiled)
    same_bits(found, eager)


def test_a_model_with_weights_on_disk(tmp_path: Any) -> None:
    build("llama").save_pretrained(tmp_path / "model")
    places = {"model.embed_tokens": "cpu", "model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "cpu"}
    places |= {f"model.layers.{layer}": "disk" if layer == 1 else "cpu" for layer in range(3)}
    placed = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "model", device_map=places, offload_folder=tmp_path / "offload"
    )
    found, whole = run(placed), run(transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model"))
    same_bits(run(placed, recompute=True), found)
    for site in whole.sites:
        largest = np.abs(whole.mean[site]).max()
        np.testing.assert_allclose(found.mean[site], whole.mean[site], rtol=0, atol=1e-5 * largest)


def test_texts_of_one_length_for_a_model_that_reads_no_padding() -> None:
    """Labels of several rows of other lengths would need padding."""
    model = build("llama")
    for layer in model.model.layers:
        layer.self_attn.is_causal = False  # it then reads a sentence otherwise where padding follows it
    if Reader(model).padding:
        pytest.skip("this version of transformers keeps such a Llama causal")
    corpus = Corpus.from_records(
        {"text": "w1 w2", "label": label, "task": "kind"} for label in ("w50 w51", "w52 w50 w53") for _ in range(2)
    )
    line = message(lambda: attribute(model, TOKENIZER, corpus, prompts={"kind": PROMPTS["kind"]}))
    assert "its labels make rows of several lengths, which need padding" in line

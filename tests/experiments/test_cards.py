"""Cards: excerpts against a sort of all tokens that hooks see, and promoted tokens against plain float64."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
import transformers
from tokenizers import decoders, models, pre_tokenizers
from torch import nn

import affectron
from affectron.corpus import Corpus
from affectron.corpus.encoding import encode
from affectron.experiments.cards import describe
from affectron.experiments.results import LEVELS, Cards, NeuronCard
from affectron.experiments.vocabulary import token_text, vocabulary_effects
from affectron.models.directions import output_directions
from affectron.models.provenance import made_with
from affectron.neurons import NeuronList, NeuronSet
from affectron.screening.screen import screen
from affectron.stats import ActivationStats
from tests.support.attributions import attributions_by_autograd
from tests.support.errors import message
from tests.support.families import FAMILIES, available
from tests.support.tiny import NEURONS, build, last_inputs, make_tokenizer, site_names

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*exact, but not fused"),
]

TOKENIZER = make_tokenizer()
LABELS = {"mood": ("glad", "glum"), "tone": ("calm", "loud")}


def make_corpus(sentences: int = 29, most: int = 11) -> Corpus:
    """Sentences of different lengths, each with a label of a task, every fifth with one of the other task as well."""
    rng = np.random.default_rng(7)
    records = []
    for place in range(sentences):
        tasks = list(LABELS) if place % 5 == 0 else [list(LABELS)[place % 2]]
        labels = [LABELS[task][int(rng.integers(2))] for task in tasks]
        text = " ".join(f"w{w}" for w in rng.integers(0, 60, rng.integers(1, most)))
        records.append({"text": text, "label": labels, "task": tasks})
    return Corpus.from_records(records)


CORPUS = make_corpus()


def some_neurons(sites: Sequence[str], width: int, each: int = 5) -> NeuronSet:
    """Neurons of two labels of one task and one of another; the two share their first."""
    rng = np.random.default_rng(3)
    lists = []
    for label, task in (("glad", "mood"), ("glum", "mood"), ("loud", "tone")):
        drawn = {(str(rng.choice(sites)), int(rng.integers(width))): 0.0 for _ in range(each)}
        shared = {(sites[-1], 2): 0.0} if task == "mood" else {}
        lists.append(NeuronList(label, task, [(*neuron, 0.0) for neuron in shared | drawn]))
    return NeuronSet(lists, dict.fromkeys(sites, width))


def seen_tokens(model: Any, tokenizer: Any, family: str, texts: Sequence[str]) -> list[dict[str, np.ndarray]]:
    """h of each text's own tokens at each site, [T, F], as hooks see it: a text at a time, without padding."""
    found = []
    for text in texts:
        kept: dict[str, np.ndarray] = {}

        def keep(site: str, h: torch.Tensor, kept: dict[str, np.ndarray] = kept) -> torch.Tensor:
            kept[site] = h.reshape(-1, h.shape[-1]).double().numpy()
            return h

        with torch.no_grad(), last_inputs(model, family, keep):
            model(input_ids=torch.tensor([tokenizer(text)["input_ids"]]))
        found.append({site: h[-len(text.split()) :] for site, h in kept.items()})
    return found


def rounded(values: np.ndarray) -> np.ndarray:
    """To 12 bits: 2.5e-4 of the value."""
    mantissa, exponent = np.frexp(values)
    return np.ldexp(np.floor(mantissa * 4096 + 0.5), exponent - 12)


def check_side(
    shown: Sequence[Any], tokens: list[np.ndarray], words: list[list[str]], corpus: Corpus, sign: int, texts: int,
    window: int,
) -> None:  # fmt: skip
    """The excerpts of one neuron, of which ``tokens`` are h at every token of every text."""
    extremes = np.array([(sign * h).max() for h in tokens])
    # Of equal ones the longest text is read first, and of one length the first in the corpus.
    order = np.lexsort(([-len(h) for h in tokens], -rounded(extremes)))[:texts]
    assert len(shown) == min(texts, len(tokens))
    values = [one.activations[one.extreme] for one in shown]
    np.testing.assert_allclose(values, sign * extremes[order], rtol=6e-4, atol=1e-7)  # of four digits
    sentences = list(corpus)
    for one, row in zip(shown, order, strict=True):
        assert one.labels == sentences[row].labels
        place = int(rounded(sign * tokens[row]).argmax())
        first = place - one.extreme
        assert len(one.tokens) == min(window, len(words[row]))
        assert first == max(0, min(place - window // 2, len(words[row]) - window))
        stop = first + len(one.tokens)
        assert "".join(one.tokens).strip() == " ".join(words[row][first:stop])
        np.testing.assert_allclose(one.activations, tokens[row][first:stop], rtol=6e-4, atol=1e-6)
        assert one.cut == (first > 0, stop < len(words[row]))


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt"])
@pytest.mark.parametrize(("batch_tokens", "texts", "window"), [(8192, 5, 48), (31, 3, 4), (1, 7, 1), (60, 40, 5)])
def test_excerpts_are_those_of_a_sort_of_all_tokens(family: str, batch_tokens: int, texts: int, window: int) -> None:
    model, words = build(family), [one.text.split() for one in CORPUS]
    sites = site_names(family)
    tokens = seen_tokens(model, TOKENIZER, family, [one.text for one in CORPUS])
    cards = describe(
        model, TOKENIZER, CORPUS, some_neurons(sites, NEURONS), batch_tokens=batch_tokens, texts=texts, window=window
    )
    assert len(cards.neurons) > 10
    for card in cards.neurons:
        of_neuron = [h[card.site][:, card.index] for h in tokens]
        check_side(card.top, of_neuron, words, CORPUS, 1, texts, window)
        check_side(card.bottom, of_neuron, words, CORPUS, -1, texts, window)


def test_cards_are_of_the_first_neurons_in_the_order_of_the_model() -> None:
    sites = site_names("llama")
    neurons = some_neurons(sites, NEURONS)
    cards = describe(build("llama"), TOKENIZER, CORPUS, neurons, cards=2)
    of_label = {label: [neuron[:2] for neuron in neurons[label][:2]] for label in neurons}
    expected = sorted({one for few in of_label.values() for one in few}, key=lambda one: (sites.index(one[0]), one[1]))
    assert [(card.site, card.index) for card in cards.neurons] == expected
    for card in cards.neurons:
        assert card.labels == tuple(label for label in neurons if (card.site, card.index) in of_label[label])
    assert any(card.labels == ("glad", "glum") for card in cards.neurons)
    assert cards.options.count == 2
    assert describe(build("llama"), TOKENIZER, CORPUS, neurons, cards=0).neurons == ()


def test_the_side_that_a_tokenizer_pads_changes_nothing() -> None:
    model, neurons = build("llama"), some_neurons(site_names("llama"), NEURONS)
    left = make_tokenizer()
    left.padding_side = "left"
    assert describe(model, left, CORPUS, neurons).neurons == describe(model, TOKENIZER, CORPUS, neurons).neurons


def test_equal_activations_take_the_texts_that_are_read_first() -> None:
    """Longest first, and of one length in the order of the corpus: the same with any size of a batch."""
    model = build("llama")
    for layer in model.model.layers:  # each token by itself
        layer.self_attn.o_proj.weight.data.zero_()
    corpus = Corpus.from_records([{"text": "w5 w6", "label": "ab"[n % 2], "id": str(n)} for n in range(9)])
    neurons = NeuronSet(
        [NeuronList("a", "label", [(site_names("llama")[0], 4, 0.0)])], {site_names("llama")[0]: NEURONS}
    )
    for batch_tokens in (3, 7, 99):
        (card,) = describe(model, TOKENIZER, corpus, neurons, texts=4, batch_tokens=batch_tokens).neurons
        for side in (card.top, card.bottom):
            assert [one.labels for one in side] == [("a",), ("b",), ("a",), ("b",)]


@pytest.mark.parametrize("tokens", ["all", "last", "mean"])
def test_a_rule_of_one_token_has_its_extreme_there(tokens: str) -> None:
    model, words = build("llama"), [one.text.split() for one in CORPUS]
    seen = seen_tokens(model, TOKENIZER, "llama", [one.text for one in CORPUS])
    cards = describe(model, TOKENIZER, CORPUS, some_neurons(site_names("llama"), NEURONS), tokens=tokens)
    for card in cards.neurons:
        for one in (*card.top, *card.bottom):
            if tokens == "last":
                assert one.extreme == len(one.tokens) - 1
        largest = max(h[card.site][-1 if tokens == "last" else slice(None), card.index].max() for h in seen)
        assert card.top[0].activations[card.top[0].extreme] == pytest.approx(largest, rel=6e-4)
        rows = [row for row, one in enumerate(CORPUS) if "glum" in one.labels]
        if "glum" not in card.labels:
            continue
        means = [h[card.site][-1 if tokens == "last" else slice(None), card.index].mean() for h in seen]
        spread = card.activation["glum"]
        assert spread.sentences == len(rows)
        np.testing.assert_allclose(spread.quantiles, np.quantile([means[row] for row in rows], LEVELS), rtol=1e-4)
        assert set(card.activation) >= set(LABELS["mood"])
    assert max(map(len, words)) < 48


def test_a_template_and_special_tokens_are_not_shown() -> None:
    model = build("llama")
    neurons = some_neurons(site_names("llama"), NEURONS)
    corpus = Corpus.from_records([{"text": "w1 w2 </s> w3 w4 w5", "label": "glad", "task": "mood"}])
    for card in describe(model, TOKENIZER, corpus, neurons, template="{bos}w8 {text} w9").neurons:
        for one in (*card.top, *card.bottom):
            text = "".join(one.tokens).strip()
            assert text in ("w1 w2", "w3 w4 w5")
            assert one.cut == ((False, True) if text == "w1 w2" else (True, False))
            assert None not in one.activations


def test_an_excerpt_of_a_conversation_is_of_one_turn() -> None:
    tokenizer, site = make_tokenizer(), site_names("llama")[1]
    tokenizer.chat_template = "{{ bos_token }}{% for m in messages %} w40 {{ m['content'] }} w41{% endfor %}"
    turns = [
        {"role": role, "content": content}
        for role, content in (("user", "w1 w2"), ("assistant", "w3"), ("user", "w4 w5 w6"))
    ]
    corpus = Corpus.from_records([{"text": turns, "label": "glad", "task": "mood"}], turns="user")
    neurons = NeuronSet([NeuronList("glad", "mood", [(site, k, 0.0) for k in range(6)])], {site: NEURONS})
    shown = [one for card in describe(build("llama"), tokenizer, corpus, neurons).neurons for one in card.top]
    assert {("".join(one.tokens), one.cut) for one in shown} == {
        ("w1 w2", (False, True)), ("w4 w5 w6", (True, False))
    }  # fmt: skip


def test_activations_that_are_not_finite_are_none() -> None:
    model, site = build("llama"), site_names("llama")[-1]
    row = torch.zeros(24)
    row[5] = 3e38  # overflows at the tokens at which the normed state is large there
    model.get_submodule(site).up_proj.weight.data[3] = row
    seen = [h[site][:, 3] for h in seen_tokens(model, TOKENIZER, "llama", [one.text for one in CORPUS])]
    finite = [np.isfinite(h) for h in seen]
    assert 0 < sum(known.any() and not known.all() for known in finite) < len(seen)
    neurons = NeuronSet([NeuronList("glad", "mood", [(site, 3, 0.0)])], {site: NEURONS})
    (card,) = describe(model, TOKENIZER, CORPUS, neurons, texts=50).neurons
    for sign, side in ((1, card.top), (-1, card.bottom)):
        assert len(side) == sum(known.any() for known in finite)
        extremes = [(sign * h[known]).max() for h, known in zip(seen, finite, strict=True) if known.any()]
        values = [one.activations[one.extreme] for one in side]
        np.testing.assert_allclose(values, sign * np.sort(extremes)[::-1], rtol=6e-4)
        gaps = [[value is None for value in one.activations] for one in side]
        assert sorted(gaps) == sorted((~known).tolist() for known in finite if known.any())


def test_a_span_is_shown_alone_and_a_text_that_is_cut_goes_on() -> None:
    model, site = build("llama"), site_names("llama")[1]
    neurons = NeuronSet([NeuronList("glad", "mood", [(site, 3, 0.0)])], {site: NEURONS})
    span = {"start": 6, "end": 11, "label": "glad", "task": "mood"}
    corpus = Corpus.from_records([{"text": "w1 w2 w3 w4 w5", "spans": [span]}], span_column="spans")
    (card,) = describe(model, TOKENIZER, corpus, neurons).neurons
    assert ("".join(card.top[0].tokens), card.top[0].cut) == (" w3 w4", (True, True))
    short = make_tokenizer()
    short.model_max_length = 4
    corpus = Corpus.from_records([{"text": "w1 w2 w3 w4 w5", "label": "glad", "task": "mood"}])
    with pytest.warns(UserWarning, match="1 sentence of 1 cut to the model's maximum length"):
        (card,) = describe(model, short, corpus, neurons).neurons
    assert ("".join(card.top[0].tokens), card.top[0].cut) == ("w1 w2 w3", (False, True))


# --- pieces of a text --------------------------------------------------------------------------------------------

TEXTS = ["Grüße, 世界!  two  spaces", "naïve 🤗🤗 café", "\tcafe\u0301 \u200dx", "no", "  leading and trailing  "]


def byte_level() -> Any:
    """A tokenizer of bytes, of which several make a character."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = tokenizers.Tokenizer(models.BPE({one: id for id, one in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend)


def word_pieces() -> Any:
    backend = tokenizers.Tokenizer(
        models.WordPiece({"[UNK]": 0, "no": 1, "two": 2, "lead": 3, "##ing": 4}, unk_token="[UNK]")
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")


@pytest.mark.parametrize("make", [byte_level, word_pieces])
@pytest.mark.parametrize("template", ["{text}", "Text: {text} Answer:"])
def test_pieces_are_the_text_as_it_stands(make: Any, template: str) -> None:
    corpus = Corpus.from_records([{"text": text, "label": "a"} for text in TEXTS])
    for one in encode(make(), list(corpus), template, pieces=True):
        assert len(one.pieces) == len(one.input_ids)
        assert "".join(one.pieces) == one.sentence.text[: len("".join(one.pieces))]
        assert one.sentence.text.startswith("".join(one.pieces))
        assert one.sentence.text[len("".join(one.pieces)) :].strip() == ""
        assert all(not piece.strip() or counts for piece, counts in zip(one.pieces, one.counted, strict=True))
    assert all(not "".join(one.pieces) for one in encode(make(), list(corpus), template))


def test_pieces_of_a_tokenizer_without_offsets_are_what_it_decodes() -> None:
    tokenizer = transformers.ByT5Tokenizer()
    assert not tokenizer.is_fast
    corpus = Corpus.from_records([{"text": text, "label": "a"} for text in TEXTS])
    for one in encode(tokenizer, list(corpus), pieces=True):
        assert "".join(one.pieces) == one.sentence.text
        assert one.pieces[-1] == ""  # </s>


def test_tokens_are_shown_with_the_space_that_they_begin_with() -> None:
    tokenizer = byte_level()
    ids = tokenizer(" aé")["input_ids"]
    assert [token_text(tokenizer, id) for id in ids] == [" ", "a", "Ã", "©"]


# --- promoted and suppressed tokens --------------------------------------------------------------------------------

# Of each family: the final norm and the norm on the MLP's output, if there is one, as names and kinds.
DIRECT = {
    "llama": ("model.norm", None), "gpt2": ("transformer.ln_f", None), "opt": ("model.decoder.final_layer_norm", None),
    "neox": ("gpt_neox.final_layer_norm", None),
}  # fmt: skip
OTHERS = {
    "gemma2": ("model.norm", "post_feedforward_layernorm"), "gemma3": ("model.norm", "post_feedforward_layernorm"),
    "olmo2": ("model.norm", "post_feedforward_layernorm"), "glm4": ("model.norm", "post_mlp_layernorm"),
    "granite": ("model.norm", None), "cohere": ("model.norm", None), "stablelm": ("model.norm", None),
    "phi": ("model.final_layernorm", None), "gptj": ("transformer.ln_f", None), "falcon": ("transformer.ln_f", None),
    "bloom": ("transformer.ln_f", None), "gpt_neo": ("transformer.ln_f", None), "mpt": ("transformer.norm_f", None),
    "starcoder2": ("model.norm", None), "qwen3": ("model.norm", None),
}  # fmt: skip


def expected_effects(model: Any, site: str, last: str, norms: tuple[str, str | None], index: int) -> torch.Tensor:
    """logits(norm(v)) - logits(norm(0)) in float64, from the weights and modules of the model by their names."""
    config = model.config
    down = model.get_submodule(f"{site}.{last}")
    v = down.weight[index] if type(down).__name__ == "Conv1D" else down.weight[:, index]
    layer = model.get_submodule(site.rpartition(".")[0])

    def logits(hidden: torch.Tensor) -> torch.Tensor:
        found = model.get_output_embeddings()(model.get_submodule(norms[0])(hidden))
        found = found * getattr(config, "logit_scale", 1.0) if "Cohere" in type(model).__name__ else found
        found = found / config.logits_scaling if "Granite" in type(model).__name__ else found
        cap = getattr(config, "final_logit_softcapping", None)
        return torch.tanh(found / cap) * cap if cap else found

    bias = torch.zeros_like(v) if down.bias is None else down.bias
    direction = v if norms[1] is None else getattr(layer, norms[1])(v + bias) - getattr(layer, norms[1])(bias)
    return logits(direction * getattr(config, "residual_multiplier", 1.0)) - logits(torch.zeros_like(v))


def trained(model: Any) -> Any:
    """The model with norms and biases that are not 1 and 0."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return model


@pytest.mark.parametrize("name", [*DIRECT, *OTHERS])
def test_promoted_tokens_are_those_of_plain_float64(name: str) -> None:
    if name in DIRECT:
        model, sites = trained(build(name)), site_names(name)
        last = {"llama": "down_proj", "gpt2": "c_proj", "opt": "fc2", "neox": "dense_4h_to_h"}[name]
    else:
        if not available(name):
            pytest.skip(f"transformers {transformers.__version__} has no such {name}")
        family = FAMILIES[name]
        model, sites, last = trained(family.build()), family.names, family.last
    found = vocabulary_effects(model, TOKENIZER, {site: np.array([0, 7, 40]) for site in sites[::-1]}, 4)
    assert len(found) == 3 * len(sites)
    exact = model.double()
    size = min(len(TOKENIZER), model.get_output_embeddings().weight.shape[0])
    for (site, index), sides in found.items():
        with torch.no_grad():
            expected = expected_effects(exact, site, last, {**DIRECT, **OTHERS}[name], index)[:size]
        for sign, side in zip((1, -1), sides, strict=True):
            values, ids = (sign * expected).topk(4)
            assert [one.token for one in side] == [token_text(TOKENIZER, id) for id in ids.tolist()]
            np.testing.assert_allclose([sign * one.logit for one in side], values.numpy(), rtol=1e-3, atol=1e-4)


def test_an_adapter_is_part_of_the_direction() -> None:
    peft = pytest.importorskip("peft")
    plain = build("llama")
    site = site_names("llama")[1]
    adapted = peft.get_peft_model(build("llama"), peft.LoraConfig(r=2, target_modules=["down_proj"]))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(generator=torch.Generator().manual_seed(1))
    index = np.array([3, 41])
    found = output_directions(adapted, {site: index})[site]
    layer = adapted.get_base_model().get_submodule(site).down_proj
    weight = layer.base_layer.weight + layer.get_delta_weight("default")
    torch.testing.assert_close(found, weight[:, index].T.detach())
    assert not torch.allclose(found, output_directions(plain, {site: index})[site])


def test_quantised_weights_are_run_and_not_read() -> None:
    class Int8(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x @ (self.weight * self.scale).T

    model, sites = build("llama"), site_names("llama")
    for site in sites:
        quantised = Int8(NEURONS, 24, bias=False)
        quantised.weight = nn.Parameter(torch.randint(-127, 128, (24, NEURONS)).float(), requires_grad=False)
        quantised.scale = 0.01
        model.get_submodule(site).down_proj = quantised
    found = output_directions(model, {site: np.array([3, 41]) for site in sites})
    for site in sites:
        torch.testing.assert_close(found[site], model.get_submodule(site).down_proj.weight[:, [3, 41]].T * 0.01)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_directions_in_half_precision(dtype: torch.dtype) -> None:
    model, sites = build("llama").to(dtype), site_names("llama")
    found = output_directions(model, {site: np.arange(NEURONS) for site in sites})
    for site in sites:
        assert torch.equal(found[site], model.get_submodule(site).down_proj.weight.T)
    model = trained(FAMILIES["gemma2"].build())
    index = {site: np.array([1, 2]) for site in FAMILIES["gemma2"].names}
    exact, rounded = output_directions(model, index), output_directions(model.to(dtype), index)
    assert exact.keys() == rounded.keys() == index.keys()
    for site, directions in exact.items():
        torch.testing.assert_close(rounded[site].float(), directions, rtol=0.05, atol=0.02)


@pytest.mark.parametrize("name", ["bert", "t5", "bart"])
def test_a_model_without_a_next_token_promotes_none(name: str) -> None:
    family = FAMILIES[name]
    neurons = some_neurons(family.names[: family.layers], family.neurons)
    for card in describe(family.build(), TOKENIZER, CORPUS, neurons).neurons:
        assert card.promoted is None
        assert card.suppressed is None
        assert card.top


def test_a_norm_after_the_sum_leaves_no_direction() -> None:
    """The layers of GPT and OPT-350m end in a norm: what an MLP adds is no part of what the layer returns."""
    config = transformers.OpenAIGPTConfig(vocab_size=97, n_embd=24, n_layer=2, n_head=4, n_positions=64)
    gpt = transformers.OpenAIGPTLMHeadModel(config).eval()
    assert output_directions(gpt, {"transformer.h.1.mlp": np.array([1])}) == {}
    model = build("opt", do_layer_norm_before=False)
    site = site_names("opt")[0]
    assert output_directions(model, {site: np.array([1])}) == {}
    neurons = NeuronSet([NeuronList("glad", "mood", [(site, 1, 0.0)])], {site: NEURONS})
    (card,) = describe(model, TOKENIZER, CORPUS, neurons).neurons
    assert card.promoted is None


# --- attribution, and what is refused --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def attributions() -> ActivationStats:
    model = build("llama")
    labels = ("w50", "w51")
    corpus = Corpus.from_records(
        [{"text": f"w{k} w{k + 9}", "label": labels[k % 2], "task": "mood"} for k in range(13)]
    )
    measured = screen(model, TOKENIZER, corpus)
    return attributions_by_autograd(model, TOKENIZER, corpus, site_names("llama"), measured.provenance)


def test_attribution_is_that_of_the_statistics(attributions: ActivationStats) -> None:
    sites = site_names("llama")
    neurons = NeuronSet([NeuronList("w50", "mood", [(site, 5, 0.0) for site in sites])], attributions.widths)
    for card in describe(build("llama"), TOKENIZER, CORPUS, neurons, attributions=attributions).neurons:
        assert card.attribution is not None
        assert set(card.attribution) == {"w50", "w51"}
        for label, moments in card.attribution.items():
            of_site = attributions.label(label)[card.site]
            assert moments.sentences == (7 if label == "w50" else 6) == of_site.count
            assert moments.mean == of_site.mean[5]
            assert moments.std == pytest.approx(np.sqrt(of_site.m2[5] / moments.sentences))
            assert (moments.min, moments.max) == (of_site.min[5], of_site.max[5])
    assert all(
        card.attribution is None for card in describe(build("llama"), TOKENIZER, CORPUS, neurons).neurons
    )  # fmt: skip


def test_other_models_and_statistics_are_refused(attributions: ActivationStats) -> None:
    model, site = build("llama"), site_names("llama")[0]
    neurons = NeuronSet([NeuronList("w50", "mood", [(site, 5, 0.0)])], attributions.widths)
    other = NeuronSet(list(neurons.values()), neurons.widths, {"weights": "0"})
    assert "the neurons are of another model: weights is 0 there" in message(
        lambda: describe(model, TOKENIZER, CORPUS, other)
    )
    activity = screen(model, TOKENIZER, CORPUS)
    assert message(lambda: describe(model, TOKENIZER, CORPUS, neurons, attributions=activity)) == (
        "attributions are statistics of activations, expected of attributions"
    )
    assert "window is 0, expected an integer of at least 1" in message(
        lambda: describe(model, TOKENIZER, CORPUS, neurons, window=0)
    )
    if available("mixtral"):
        family = FAMILIES["mixtral"]
        expert = NeuronSet([NeuronList("w50", "mood", [(family.names[0], 5, 0.0)])], {family.names[0]: family.neurons})
        assert "is an expert, expected neurons of MLPs that every token passes" in message(
            lambda: describe(family.build(), TOKENIZER, CORPUS, expert)
        )


def test_screened_sentences_may_be_shown() -> None:
    model = build("llama")
    stats = screen(model, TOKENIZER, CORPUS)
    neurons = affectron.select(stats, count=2, score="mean_difference")
    cards = affectron.describe(model, TOKENIZER, CORPUS, neurons)
    assert all(isinstance(card, NeuronCard) for card in cards.neurons)
    assert Cards.from_json(cards.to_json()) == cards


def test_activations_that_are_read_otherwise_than_the_selecting_ones_are_said() -> None:
    model = build("llama")
    neurons = affectron.select(screen(model, TOKENIZER, CORPUS, tokens="last"), count=2, score="mean_difference")
    with pytest.warns(UserWarning, match="other activations than selected the neurons: tokens is 'all' and was 'last'"):
        describe(model, TOKENIZER, CORPUS, neurons)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        describe(model, TOKENIZER, CORPUS, neurons, tokens="last")


def of_model(model: Any, *labels: str) -> NeuronSet:
    """Some neurons of the labels, with the provenance of the model."""
    every = some_neurons(site_names("llama"), NEURONS)
    return NeuronSet([every[label] for label in labels], every.widths, made_with(model, TOKENIZER))


def test_cards_of_two_sets_are_those_of_both_together() -> None:
    model = build("llama")
    sets = [("glad", "loud"), ("glum",), ("glad", "glum", "loud")]
    first, second, told = (describe(model, TOKENIZER, CORPUS, of_model(model, *labels)) for labels in sets)
    of_both = {(card.site, card.index) for card in first.neurons} & {(card.site, card.index) for card in second.neurons}
    assert of_both
    joined = second.beside(first)
    assert [card.labels for card in joined.neurons] == [card.labels for card in told.neurons]
    for card, expected in zip(joined.neurons, told.neurons, strict=True):
        assert (card.top, card.bottom) == (expected.top, expected.bottom)
        # Sums over more neurons at once differ in the last bits.
        assert [token.token for token in card.promoted] == [token.token for token in expected.promoted]
        assert card.activation.keys() == expected.activation.keys()
        for label, spread in card.activation.items():
            assert spread.quantiles == pytest.approx(expected.activation[label].quantiles, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("change", [{"window": 7}, {"corpus": make_corpus(13)}, {"seed": 1}])
def test_cards_that_were_collected_otherwise_are_left_out(change: dict[str, Any]) -> None:
    model = build("llama")
    other = build("llama", change.get("seed", 0))
    mine = describe(model, TOKENIZER, CORPUS, of_model(model, "glum"))
    options = {name: value for name, value in change.items() if name == "window"}
    theirs = describe(other, TOKENIZER, change.get("corpus", CORPUS), of_model(other, "glad"), **options)
    assert mine.beside(theirs) == mine

"""A sentence is measured alike whatever stands beside it, in whatever way a model reads a batch; a
model that does not show which row is which token is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor, nn

from affectron import interventions
from affectron.corpus.encoding import encode
from affectron.corpus.pairs import Pair
from affectron.evaluation.batched import text_loss
from affectron.evaluation.linear_probe import LinearProbe
from affectron.experiments.activity import collect
from affectron.interventions import Program
from affectron.models import Reader, attach, find_sites, intervene
from affectron.neurons import NeuronList, NeuronSet
from affectron.screening.pairs import screen_pairs
from affectron.screening.screen import screen
from tests.support import errors
from tests.support.corpora import CORPUS
from tests.support.families import FAMILIES, HIDDEN, NEURONS, VOCABULARY, available
from tests.support.tiny import build, make_tokenizer, state

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore:.*exact, but not fused")]

_SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": NEURONS,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_TRANSLATOR = {
    "d_model": HIDDEN,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": NEURONS,
    "decoder_ffn_dim": NEURONS,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def _writer(kind: str, **more: Any) -> Callable[[], Any]:
    """A model with a language-model head as load_model makes it."""
    return lambda: transformers.AutoModelForCausalLM.from_config(getattr(transformers, f"{kind}Config")(**more))


def _named(kind: str, head: str, **more: Any) -> Callable[[], Any]:
    return lambda: getattr(transformers, kind + head)(getattr(transformers, f"{kind}Config")(**more))


_FSMT = {"langs": ["en", "de"], "src_vocab_size": VOCABULARY, "tgt_vocab_size": VOCABULARY}
#: Models that see what follows a token, though they have a head that writes.
BIDIRECTIONAL = {
    **{
        kind: _writer(kind, **_SMALL)
        for kind in ("Bert", "Roberta", "Electra", "XLMRoberta", "Camembert", "RemBert", "RoFormer", "MegatronBert")
    },
    "BigBird": _writer("BigBird", **_SMALL, attention_type="original_full"),
    "XLM": _writer("XLM", vocab_size=VOCABULARY, emb_dim=HIDDEN, n_layers=2, n_heads=4, max_position_embeddings=64),
    "Llama": _writer("Llama", **_SMALL, is_causal=False),
    "Gemma3": _writer("Gemma3Text", **_SMALL, head_dim=6, num_key_value_heads=2, use_bidirectional_attention=True),
}
CAUSAL = {
    "Bert": _writer("Bert", **_SMALL, is_decoder=True),
    "CTRL": _writer("CTRL", vocab_size=VOCABULARY, n_embd=HIDDEN, dff=NEURONS, n_layer=2, n_head=4, n_positions=64),
    "RWKV": _writer(
        "Rwkv", vocab_size=VOCABULARY, hidden_size=HIDDEN, attention_hidden_size=HIDDEN, intermediate_size=NEURONS,
        num_hidden_layers=2, context_length=64,
    ),
    "Lfm2": _writer("Lfm2", **_SMALL, num_key_value_heads=2, layer_types=["conv", "full_attention"]),
}  # fmt: skip
MASKED = {
    "Esm": _named("Esm", "ForMaskedLM", **_SMALL, mask_token_id=3),
    "MPNet": _named("MPNet", "ForMaskedLM", **_SMALL),
    "M2M100": _named("M2M100", "ForConditionalGeneration", vocab_size=VOCABULARY, **_TRANSLATOR),
    "Switch": _named(
        "SwitchTransformers", "ForConditionalGeneration", vocab_size=VOCABULARY, d_model=HIDDEN, d_kv=6, d_ff=NEURONS,
        num_layers=2, num_heads=4, num_experts=4,
    ),
}  # fmt: skip
TIME_FIRST = {
    "FSMT": _named("FSMT", "ForConditionalGeneration", **_FSMT, **_TRANSLATOR),
    "XLNet": _writer("XLNet", vocab_size=VOCABULARY, d_model=HIDDEN, n_layer=2, n_head=4, d_inner=NEURONS),
}
_CHUNKS = {"chunk_size_feed_forward": 1}
IN_PIECES = {
    "Bert": _named("Bert", "ForMaskedLM", **_SMALL, **_CHUNKS),
    "Albert": _named("Albert", "ForMaskedLM", **_SMALL, **_CHUNKS, embedding_size=8),
    "XLNet": _writer("XLNet", vocab_size=VOCABULARY, d_model=HIDDEN, n_layer=2, n_head=4, d_inner=NEURONS, **_CHUNKS),
}


def make(build_model: Callable[[], Any]) -> Any:
    """With weights large enough that what a token sees shows."""
    torch.manual_seed(0)
    model = build_model().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(6)
    return model


def independent(model: Any) -> None:
    """Statistics of padded batches against those of one sentence at a time, and the model left as it was."""
    tokenizer, before = make_tokenizer(), state(model)
    alone = screen(model, tokenizer, CORPUS, batch_tokens=1)
    padded = screen(model, tokenizer, CORPUS, batch_tokens=64)
    assert padded.provenance["padding"] > 0
    for site in alone.sites:
        for label in CORPUS.labels:
            one, other = (stats.label(label)[site] for stats in (alone, padded))
            assert one.count == other.count
            if one.count:
                np.testing.assert_allclose(one.mean, other.mean, rtol=1e-4, atol=1e-5 * np.abs(one.mean).max())
                np.testing.assert_allclose(one.min, other.min, rtol=1e-4, atol=1e-5 * np.abs(one.max).max())
    assert state(model) == before


@pytest.mark.parametrize("name", FAMILIES)
def test_the_batch_does_not_matter_in_any_family(name: str) -> None:
    if not available(name):
        pytest.skip(f"transformers {transformers.__version__} has no such {name}")
    model = FAMILIES[name].build()
    assert Reader(model).causal == (FAMILIES[name].head == "ForCausalLM")
    independent(model)


@pytest.mark.parametrize("name", BIDIRECTIONAL)
def test_padding_does_not_reach_the_text_where_tokens_see_what_follows(name: str) -> None:
    model = make(BIDIRECTIONAL[name])
    assert not Reader(model).causal
    independent(model)


@pytest.mark.parametrize("name", CAUSAL)
def test_a_causal_model_needs_no_mask(name: str) -> None:
    model = make(CAUSAL[name])
    assert Reader(model).causal
    independent(model)


@pytest.mark.parametrize("name", MASKED)
def test_a_masked_model_reads_no_padding(name: str) -> None:
    independent(make(MASKED[name]))


@pytest.mark.parametrize("name", IN_PIECES)
def test_a_model_that_hands_over_its_tokens_in_pieces(name: str) -> None:
    model, whole = make(IN_PIECES[name]), make(IN_PIECES[name])
    whole.config.chunk_size_feed_forward = 0
    for module in whole.modules():
        if hasattr(module, "chunk_size_feed_forward"):
            module.chunk_size_feed_forward = 0
    independent(model)
    found, wanted = (screen(one, make_tokenizer(), CORPUS) for one in (model, whole))
    for site in wanted.sites:
        assert np.array_equal(found.label("joy")[site].mean, wanted.label("joy")[site].mean)
    # Left in any order, the pieces are back with the last kernel only.
    sites = find_sites(model)
    first, second = (attach(sites, lambda position, gate, up, act: gate) for _ in range(2))
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert {block.chunking for block in find_sites(model)} == {None}
    second.__exit__(None, None, None)
    assert all(block.chunking is not None for block in find_sites(model))


def hooked(model: Any, sentences: Any) -> dict[str, list[Tensor]]:
    """Input of each site's last linear layer for each sentence alone, less <s>: [tokens, F]."""
    seen: dict[str, list[Tensor]] = {}
    handles = [
        site.module.get_submodule(site.structure.last).register_forward_pre_hook(
            lambda _module, args, name=site.name: seen.setdefault(name, []).append(
                args[0].detach().flatten(0, -2)[1:].double()
            )
        )
        for site in Reader(model).sites
    ]
    part = model.get_encoder() if model.config.is_encoder_decoder else model
    for sentence in sentences:
        with torch.no_grad():
            part(torch.tensor([make_tokenizer()(sentence.text)["input_ids"]]))
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize("name", TIME_FIRST)
@pytest.mark.parametrize("tokens", ["all", "last", "mean"])
def test_each_token_counts_for_its_own_sentence_where_time_comes_first(name: str, tokens: str) -> None:
    """Against hooks on one sentence at a time, where no order of rows can matter."""
    model = make(TIME_FIRST[name])
    assert all(site.time_first for site in Reader(model).sites)
    independent(model)
    sentences = list(CORPUS)
    seen = hooked(model, sentences)
    stats = screen(model, make_tokenizer(), CORPUS, tokens=tokens)
    for site, each in seen.items():
        rows = {"all": each, "last": [h[-1:] for h in each], "mean": [h.mean(0, keepdim=True) for h in each]}[tokens]
        for label in CORPUS.labels:
            mine = torch.cat([h for h, one in zip(rows, sentences, strict=True) if label in one.labels])
            found = stats.label(label)[site]
            assert found.count == len(mine)
            np.testing.assert_allclose(found.mean, mine.mean(0), rtol=1e-4, atol=1e-5 * mine.abs().max())


@pytest.mark.parametrize("name", TIME_FIRST)
def test_pairs_and_candidates_of_a_time_first_model(name: str) -> None:
    model, tokenizer = make(TIME_FIRST[name]), make_tokenizer()
    sentences = list(CORPUS)
    seen = hooked(model, sentences)
    site = list(seen)[1]
    means = torch.stack([h.mean(0) for h in seen[site]])
    widths = {one.name: one.neurons for one in find_sites(model)}
    neurons = NeuronSet([NeuronList("joy", "emotion", [(site, index, 0.0) for index in (3, 11)])], widths, {})
    with collect(model, tokenizer, CORPUS, neurons) as found:
        order = [sentences.index(one) for one in found.sentences]
        np.testing.assert_allclose(found.mean, means[order][:, [3, 11]], rtol=1e-4, atol=1e-5)
    pairs = [Pair("joy", a.text, b.text) for a, b in zip(sentences[::2], sentences[1::2], strict=True)]
    differences = (means[::2] - means[1::2]).mean(0)
    stats = screen_pairs(model, tokenizer, pairs)
    np.testing.assert_allclose(stats.label("joy")[site].mean, differences, rtol=1e-4, atol=1e-5)


def test_a_kernel_at_a_time_first_site_sees_sentences_first() -> None:
    """In a batch of as many sentences as tokens, too, whose shape would not tell; and what it returns is read so."""
    model = make(TIME_FIRST["FSMT"])
    sites, encoder = Reader(model).sites, model.get_encoder()
    ids = torch.randint(3, VOCABULARY, (4, 4), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        plain = encoder(ids).last_hidden_state

        def scaled(position: int, gate: Tensor, up: Tensor | None, act: str) -> Tensor:
            return nn.functional.relu(gate) * torch.tensor([1.0, 0.0, 1.0, 1.0]).view(4, 1, 1)

        with attach(sites, scaled):
            changed = encoder(ids).last_hidden_state
    torch.testing.assert_close(changed[[0, 2, 3]], plain[[0, 2, 3]], rtol=1e-5, atol=1e-5)
    assert (changed[1] - plain[1]).abs().max() > 1e-3


REFUSED = {
    "pads inside": _named(
        "LED", "ForConditionalGeneration", vocab_size=VOCABULARY, **_TRANSLATOR, attention_window=4
    ),
    "pools": _named(
        "Funnel", "ForMaskedLM", vocab_size=VOCABULARY, block_sizes=[1, 1], d_model=HIDDEN, n_head=4, d_head=6,
        d_inner=NEURONS, num_decoder_layers=1,
    ),
    "pads to chunks": _writer(
        "Reformer", vocab_size=VOCABULARY, hidden_size=HIDDEN, feed_forward_size=NEURONS, num_attention_heads=2,
        attention_head_size=12, attn_layers=["local", "local"], local_attn_chunk_length=4, axial_pos_embds=False,
        max_position_embeddings=64, is_decoder=True,
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_rows_that_are_not_the_tokens_are_refused(kind: str) -> None:
    model = make(REFUSED[kind])
    message = errors.message(lambda: screen(model, make_tokenizer(), CORPUS))
    assert "rows where the batch has 2 x 6 tokens, expected a row a token" in message
    assert type(model).__name__ in message


def test_rows_that_only_a_long_text_has_are_refused() -> None:
    """The tiny batch by which the model is tried has none of them."""
    model = build("gpt2")

    def pool(_module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (args[0][:, ::2] if args[0].shape[1] > 7 else args[0],)

    mlp = model.transformer.h[1].mlp
    mlp.register_forward_pre_hook(pool)
    mlp.register_forward_hook(lambda _m, args, out: out.repeat_interleave(2, 1)[:, :8] if len(out[0]) < 6 else out)
    assert Reader(model).causal
    reader = Reader(model)
    ids = np.full((3, 8), 5)
    with reader.attach(lambda position, gate, up, act: gate):
        message = errors.message(lambda: reader(ids, np.ones_like(ids)))
    assert message.startswith("transformer.h.1.mlp of GPT2LMHeadModel reads 12 rows where the batch has 3 x 8 tokens")


@pytest.mark.parametrize("time_first", [False, True])
def test_flat_rows_must_come_one_sentence_after_the_other(time_first: bool) -> None:
    """[B T, H] and [T B, H] have one shape: what changes with a sentence's tokens tells them apart."""
    model = build("gpt2")
    shapes: list[torch.Size] = []

    def flatten(_module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        x = args[0].transpose(0, 1) if time_first else args[0]
        shapes.append(x.shape)
        return (x.reshape(-1, x.shape[-1]),)

    def restore(_module: nn.Module, _args: Any, out: Tensor) -> Tensor:
        out = out.view(shapes.pop())
        return out.transpose(0, 1) if time_first else out

    mlp = model.transformer.h[1].mlp
    mlp.register_forward_pre_hook(flatten)
    mlp.register_forward_hook(restore)
    if time_first:
        message = errors.message(lambda: Reader(model))
        assert message.startswith("transformer.h.1.mlp of GPT2LMHeadModel reads the tokens of a batch in an order that")
    else:
        independent(model)


def _without_causal_attention() -> Any:
    """Attention that sees both sides in a batch without padding, and what precedes a token in one with a mask."""
    model = _writer("Llama", **_SMALL)()
    for layer in model.model.layers:
        layer.self_attn.is_causal = False
    return model


#: Models of which padding changes the numbers whatever the mask.
ONE_LENGTH = {
    "FNet": _named(
        "FNet", "ForMaskedLM", vocab_size=VOCABULARY, hidden_size=HIDDEN, num_hidden_layers=2,
        intermediate_size=NEURONS, max_position_embeddings=64,
    ),
    "is_causal": _without_causal_attention,
}  # fmt: skip


@pytest.mark.parametrize("name", ONE_LENGTH)
def test_a_model_that_padding_changes_whatever_the_mask_reads_one_length_at_a_time(name: str) -> None:
    model = make(ONE_LENGTH[name])
    assert not Reader(model).padding
    stats = screen(model, make_tokenizer(), CORPUS)
    site = stats.sites[1]
    each = hooked(model, [one for one in CORPUS if "joy" in one.labels])[site]
    np.testing.assert_allclose(stats.label("joy")[site].mean, torch.cat(each).mean(0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_mask_is_passed_only_where_it_matters(dtype: torch.dtype) -> None:
    given: list[bool] = []

    def look(_module: nn.Module, _args: Any, kwargs: dict[str, Any]) -> None:
        given.append(kwargs.get("attention_mask") is not None)

    for model, causal in ((build("llama"), True), (make(BIDIRECTIONAL["Bert"]), False)):
        reader = Reader(model.to(dtype))
        handle = reader.body.register_forward_pre_hook(look, with_kwargs=True)
        reader(np.full((2, 3), 5), np.array([[1, 1, 1], [1, 1, 0]]))
        handle.remove()
        assert given.pop() == (not causal)


def test_numbers_that_are_none_do_not_hide_what_padding_does() -> None:
    for model, causal in ((build("llama"), True), (make(BIDIRECTIONAL["Llama"]), False)):
        with torch.no_grad():
            model.model.layers[-1].mlp.up_proj.weight[5] = float("nan")
        assert Reader(model).causal == causal


@pytest.mark.parametrize("name", ["Bert", "Llama", "XLNet"])
def test_answers_of_a_model_that_sees_what_follows_do_not_depend_on_the_batch(name: str) -> None:
    """The loss of plain text and the states of a probe, unsteered and under two programs."""
    model, tokenizer = make({**BIDIRECTIONAL, **TIME_FIRST}[name]), make_tokenizer()
    sentences = list(CORPUS)[:12]
    site = find_sites(model)[0].name
    programs: list[Program | None] = [None, interventions.amplify([(site, i) for i in range(0, NEURONS, 2)], 4.0)]
    loss, _ = text_loss(model, tokenizer, sentences)
    together = loss(np.arange(12), programs)
    alone = np.concatenate([loss(np.array([row]), programs) for row in range(12)], axis=1)
    np.testing.assert_allclose(together, alone, rtol=1e-5)
    assert np.abs(together[1] / together[0] - 1).max() > 1e-3
    ids = [torch.tensor([one.input_ids]) for one in encode(tokenizer, sentences, "{bos}{text}")]
    with torch.no_grad(), intervene(model, [programs[1]]):
        wanted = [
            float(nn.functional.cross_entropy(model(row).logits[0, :-1], row[0, 1:], reduction="sum")) for row in ids
        ]
    np.testing.assert_allclose(together[1], wanted, rtol=1e-4)


def test_a_model_with_an_adapter_answers_as_it_does_by_itself() -> None:
    """Programs in layers below the last, of which several share a forward; and the states that a probe learns from."""
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=4, target_modules=["gate_proj", "q_proj"], init_lora_weights=False)
    model, tokenizer = peft.get_peft_model(build("llama"), config).eval(), make_tokenizer()
    sentences = list(CORPUS)[:12]
    sites = [site.name for site in find_sites(model)]
    programs = [None, *(interventions.amplify([(name, i) for i in range(0, NEURONS, 2)], 4.0) for name in sites)]
    loss, _ = text_loss(model, tokenizer, sentences)
    together = loss(np.arange(12), programs)
    for row, program in enumerate(programs):
        np.testing.assert_allclose(together[row], loss(np.arange(12), [program])[0], rtol=1e-5)
    assert all(np.abs(together[row] / together[0] - 1).max() > 1e-3 for row in (1, 2, 3))
    probe = LinearProbe()
    probe.fit(model, tokenizer, list(CORPUS)[:30], list(CORPUS)[30:], "emotion", CORPUS.tasks["emotion"])
    merged = LinearProbe()
    model.merge_adapter()
    merged.fit(model, tokenizer, list(CORPUS)[:30], list(CORPUS)[30:], "emotion", CORPUS.tasks["emotion"])
    assert probe.options == merged.options

"""The tokens that models of many families read at most: the limits are written down from the models' own code, and the
models themselves are run at them and beyond."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
import transformers

from affectron.corpus import Corpus
from affectron.models import max_length
from affectron.screening.screen import screen
from tests.support.tiny import build, make_tokenizer

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore:.*exact, but not fused")]

_SIZES = {
    "vocab_size": 97,
    "hidden_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "intermediate_size": 32,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
}
_BERT = {**_SIZES, "max_position_embeddings": 66}
_BART = {
    "vocab_size": 97,
    "d_model": 24,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
    "max_position_embeddings": 66,
}
_GPT = {"vocab_size": 97, "n_embd": 24, "n_layer": 1, "n_head": 4, "n_positions": 66}
_T5 = {"vocab_size": 97, "d_model": 24, "d_ff": 32, "d_kv": 6, "num_layers": 1, "num_heads": 4}


@dataclass(frozen=True)
class Case:
    """``limit``: the tokens read at most; ``hard``: whether one more cannot be read."""

    config: dict[str, Any]
    limit: int | None
    hard: bool = True

    def build(self, name: str) -> Any:
        torch.manual_seed(0)
        kind = getattr(transformers, name)
        return kind(kind.config_class(**self.config)).eval()


CASES = {
    # Rows 0 and 1 are before the first token, which stands behind the padding's row.
    **{
        f"{name}ForMaskedLM": Case(_BERT, 64)
        for name in (
            "Roberta",
            "XLMRoberta",
            "XLMRobertaXL",
            "Camembert",
            "Data2VecText",
            "RobertaPreLayerNorm",
            "IBert",
        )
    },
    "RobertaForCausalLM": Case({**_BERT, "is_decoder": True}, 64),
    "LongformerForMaskedLM": Case({**_BERT, "attention_window": 8}, 64),
    "MPNetForMaskedLM": Case(_BERT, 64),
    "XmodForMaskedLM": Case({**_BERT, "default_language": "en_XX"}, 64),
    "LukeForMaskedLM": Case({**_BERT, "entity_vocab_size": 9, "entity_emb_size": 8}, 64),
    "EsmForMaskedLM": Case({**_BERT, "mask_token_id": 3}, 64),
    # All rows are tokens'.
    **{
        f"{name}ForMaskedLM": Case(_BERT, 66)
        for name in ("Bert", "Electra", "Ernie", "MegatronBert", "FNet", "RoFormer")
    },
    "AlbertForMaskedLM": Case({**_BERT, "embedding_size": 8}, 66),
    "BigBirdForMaskedLM": Case({**_BERT, "attention_type": "original_full"}, 66),
    "NystromformerForMaskedLM": Case({**_BERT, "num_landmarks": 6, "segment_means_seq_len": 66}, 66),
    "GPT2LMHeadModel": Case(_GPT, 66),
    "OpenAIGPTLMHeadModel": Case(_GPT, 66),
    "GPTBigCodeForCausalLM": Case(_GPT, 66),
    "GPTJForCausalLM": Case({**_GPT, "rotary_dim": 4}, 66),
    "CTRLLMHeadModel": Case({**_GPT, "dff": 32}, 66),
    "MptForCausalLM": Case({"vocab_size": 97, "d_model": 24, "n_layers": 1, "n_heads": 4, "max_seq_len": 66}, 66),
    # The configuration counts the tokens, and the table has two rows more.
    "OPTForCausalLM": Case({**_BERT, "ffn_dim": 32, "word_embed_proj_dim": 24}, 66),
    "BioGptForCausalLM": Case(_BERT, 66),
    **{
        f"{name}ForConditionalGeneration": Case(_BART, 66)
        for name in ("Bart", "MBart", "PLBart", "Mvp", "Blenderbot", "BlenderbotSmall", "Pegasus", "BigBirdPegasus")
    },
    "MarianMTModel": Case(_BART, 66),
    "BartForCausalLM": Case(_BART, 66),
    # An encoder that reads more than the decoder.
    "LEDForConditionalGeneration": Case(
        {
            **{key: value for key, value in _BART.items() if key != "max_position_embeddings"},
            "max_encoder_position_embeddings": 64,
            "max_decoder_position_embeddings": 32,
            "attention_window": 8,
        },
        64,
    ),
    # Positions that are computed as far as they are needed, or relative: what the configuration says, if anything.
    "M2M100ForConditionalGeneration": Case(_BART, 66, hard=False),
    "LlamaForCausalLM": Case(_BERT, 66, hard=False),
    "DebertaV2ForMaskedLM": Case({**_BERT, "relative_attention": True, "position_biased_input": False}, 66, hard=False),
    "T5ForConditionalGeneration": Case(_T5, None, hard=False),
    "BloomForCausalLM": Case({"vocab_size": 97, "hidden_size": 24, "n_layer": 1, "n_head": 4}, None, hard=False),
    "XLNetLMHeadModel": Case(
        {"vocab_size": 97, "d_model": 24, "n_layer": 1, "n_head": 4, "d_inner": 32}, None, hard=False
    ),
}


def read(model: Any, length: int) -> None:
    ids = torch.randint(5, 97, (2, length), generator=torch.Generator().manual_seed(0))
    body = model.get_encoder() if model.config.is_encoder_decoder else model
    with torch.no_grad():
        body(input_ids=ids, attention_mask=torch.ones_like(ids))


@pytest.mark.parametrize("name", CASES)
def test_a_model_reads_as_many_tokens_as_it_can(name: str) -> None:
    if not hasattr(transformers, name):
        pytest.skip(f"transformers {transformers.__version__} has no {name}")
    case = CASES[name]
    model = case.build(name)
    assert max_length(model) == case.limit
    read(model, case.limit or 100)
    if case.hard:
        with pytest.raises((IndexError, RuntimeError)):
            read(model, case.limit + 1)


def test_the_limit_is_that_of_the_text_beside_images() -> None:
    """A tower of 16 patches has positions of its own."""
    vision = {
        "hidden_size": 24,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "image_size": 16,
        "patch_size": 4,
    }
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**vision),
        text_config=transformers.LlamaConfig(**_BERT),
        image_token_index=90,
    )
    assert max_length(transformers.LlavaForConditionalGeneration(config)) == 66


def test_the_table_that_the_model_has_tells_more_than_its_configuration() -> None:
    model = build("gpt2")  # 64 positions
    model.transformer.wpe = torch.nn.Embedding(40, 24)
    assert max_length(model) == 40


@pytest.mark.parametrize("long_texts", ["truncate", "windows"])
@pytest.mark.parametrize(
    "name", ["RobertaForMaskedLM", "MPNetForMaskedLM", "OPTForCausalLM", "BartForConditionalGeneration"]
)
def test_a_text_longer_than_the_model_reads_is_cut_or_read_in_pieces(name: str, long_texts: str) -> None:
    case = CASES[name]
    texts = [" ".join(f"w{place % 59}" for place in range(length)) for length in (case.limit - 1, case.limit, 300)]
    corpus = Corpus.from_records([{"text": text, "label": "x"} for text in texts])
    stats = screen(case.build(name), make_tokenizer(), corpus, long_texts=long_texts)
    counted = stats.label("x")[stats.sites[0]].count
    # <s> takes a place.
    assert counted == (3 * (case.limit - 1) if long_texts == "truncate" else 2 * case.limit - 1 + 300)

"""Small tokenizers, and the tokens of a text by their bytes, independently of character offsets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from affectron.corpus import Sentence
from affectron.corpus.encoding import Encoded, encode

# Without emoji, and with no language but English and German: other characters are spelled in bytes.
TRAINED_ON = ["the cat sat on the mat and said hello there", "Say: was für ein schöner Tag, sagte der Bär"] * 4


def byte_level(trim_offsets: bool = False) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE that puts <s> before and </s> after a text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TRAINED_ON, trainer)
    around = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)])
    offsets = processors.ByteLevel(trim_offsets=trim_offsets, add_prefix_space=False)
    tokenizer.post_processor = processors.Sequence([offsets, around])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", clean_up=False)


def word_piece() -> PreTrainedTokenizerFast:
    """Make a WordPiece that lowers case, drops control characters, and puts [CLS] before and [SEP] after a text."""
    words = ["[UNK]", "[CLS]", "[SEP]", "the", "cat", "say", "so", "hap", "##py", "##s", "!", ",", "ä", "##r"]
    tokenizer = Tokenizer(models.WordPiece({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(strip_accents=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, cls_token="[CLS]", sep_token="[SEP]", unk_token="[UNK]")


BPE, TRIMMED, WORDS = byte_level(), byte_level(trim_offsets=True), word_piece()
SPECIAL = {"<s>", "</s>", "<|bos|>", "<|eos|>"}


def encode_one(tokenizer: Any, text: str, *options: Any, **named: Any) -> Encoded:
    """Encode a single sentence of this text."""
    (encoded,) = encode(tokenizer, [Sentence(text, ("x",), None, "1")], *options, **named)
    return encoded


def byte_of() -> dict[str, int]:
    """Character of the byte-level alphabet -> byte: printable bytes stand for themselves, others for U+0100 and on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + number): byte for number, byte in enumerate(others)}


def own_by_bytes(tokens: Sequence[str], before: str, text: str) -> list[bool]:
    """Tell for each token whether it shares a byte with the text; the tokens spell before + text + a rest."""
    start, first, shares = len(before.encode()), 0, []
    stop = start + len(text.encode())
    for token in tokens:
        last = first + len(token)  # a character of a token is a byte; a special token spells its name
        shares.append(first < stop and last > start)
        first = last
    return shares


ALPHABET = byte_of()


def spelled(tokens: Sequence[str]) -> bytes:
    """Return the bytes that the tokens spell."""
    return b"".join(
        token.encode() if token in SPECIAL else bytes(ALPHABET[character] for character in token) for token in tokens
    )


PROMPT = "{bos}Say: {text}\nEmotion:"
TEXTS = st.text(st.sampled_from("thecatß 😀Tag\n!é👩🏽\u200dは<s>"), min_size=1, max_size=12) | st.text(min_size=1)

"""Tokens of sentences, against one sentence tokenised at a time. Which tokens are the text's own is told from bytes."""

from __future__ import annotations

import re
import warnings
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from affectron.corpus import Corpus
from affectron.corpus.encoding import added_bos, encode, split_template
from affectron.errors import InputError
from tests.support.errors import message
from tests.support.tokens import (
    BPE,
    PROMPT,
    SPECIAL,
    TEXTS,
    TRIMMED,
    WORDS,
    byte_level,
    encode_one,
    own_by_bytes,
    spelled,
)

# --- the text's own tokens -------------------------------------------------------------------------------------


@pytest.mark.parametrize("tokenizer", [BPE, TRIMMED], ids=["offsets", "trimmed-offsets"])
@given(text=TEXTS, before=st.sampled_from(["<s>Say: ", "Say ", "<s>", "é"]), after=st.sampled_from(["\nTag:", "", "h"]))
@example(text="😀", before="<s>", after="")
@example(text=" hello ", before="Say ", after="")
@example(text="<s>the</s>", before="<s>", after="</s>")
@example(text="the<s></s>cat", before="Say ", after="")
@example(text="{bos}{text}", before="<s>Say: ", after="\nTag:")
@settings(deadline=None)
def test_a_token_counts_where_it_shares_a_byte_with_the_text(
    tokenizer: Any, text: str, before: str, after: str
) -> None:
    template = before.replace("<s>", "{bos}") + "{text}" + after
    encoded = encode_one(tokenizer, text, template)
    tokens = tokenizer.convert_ids_to_tokens(encoded.input_ids)
    # <s> begins the sequence once, whether template, text or neither writes it.
    before = before.removeprefix("<s>")
    kept = text if before else without_first(text)
    rest = before + kept + after
    if not kept and not before:
        rest = without_first(rest)
    assert spelled(tokens) == f"<s>{rest}".encode()
    by_bytes = own_by_bytes(tokens, f"<s>{before}", kept)
    assert encoded.counted == [shared and token not in SPECIAL for shared, token in zip(by_bytes, tokens, strict=True)]
    assert not encoded.truncated


def without_first(text: str) -> str:
    while text.startswith("<s>"):
        text = text.removeprefix("<s>")
    return text


@given(text=TEXTS)
@example(text="<s>")
@example(text="<s><s>the cat</s>")
@example(text="the</s> <s>cat")
@settings(deadline=None)
def test_without_a_template_all_but_special_tokens_count(text: str) -> None:
    bare = without_first(text)
    while bare.endswith("</s>"):
        bare = bare.removesuffix("</s>")
    ids = [0, *BPE(bare, add_special_tokens=False)["input_ids"], 1]
    encoded = encode_one(BPE, text)
    assert encoded.input_ids == ids
    assert encoded.counted == [token > 1 for token in ids]
    assert spelled(BPE.convert_ids_to_tokens(encoded.input_ids[1:-1])) == bare.encode()
    encoded = encode_one(BPE, text, count_special=True)
    assert encoded.input_ids == ids
    assert all(encoded.counted)


def test_an_emoji_is_several_tokens_that_all_count() -> None:
    encoded = encode_one(BPE, "a😀", PROMPT)
    counted = [id for id, counts in zip(encoded.input_ids, encoded.counted, strict=True) if counts]
    assert BPE.convert_ids_to_tokens(counted) == ["a", *"ðŁĺĢ"]


@pytest.mark.parametrize(
    ("template", "special"),
    [(PROMPT, [0]), ("{bos}{text}", [0]), ("{bos}{bos} {text}{bos}!{bos}", [0, -3, -1]), ("Say {text}</s>", [0])],
)
def test_bos_counts_only_when_asked(template: str, special: list[int]) -> None:
    for text in ("the cat", "the <s>cat"):
        plain, counted = (encode_one(BPE, text, template, count_special) for count_special in (False, True))
        assert plain.input_ids == counted.input_ids
        flags = zip(plain.counted, counted.counted, strict=True)
        differ = [position for position, (without, with_special) in enumerate(flags) if without != with_special]
        in_text = [plain.input_ids.index(0, 2)] if "<s>" in text else []
        assert differ == sorted([*(position % len(plain.input_ids) for position in special), *in_text])
        assert all(plain.input_ids[position] == 0 and counted.counted[position] for position in differ)


def test_word_pieces() -> None:
    text = "The CATS, so happy!"
    pieces = ["the", "cat", "##s", ",", "so", "hap", "##py", "!"]
    for count_special in (False, True):
        encoded = encode_one(WORDS, text, count_special=count_special)
        assert WORDS.convert_ids_to_tokens(encoded.input_ids) == ["[CLS]", *pieces, "[SEP]"]
        assert encoded.counted == [count_special, *[True] * 8, count_special]
        encoded = encode_one(WORDS, text, "Say, {text} so!", count_special)
        assert WORDS.convert_ids_to_tokens(encoded.input_ids) == ["say", ",", *pieces, "so", "!"]
        assert encoded.counted == [False] * 2 + [True] * 8 + [False] * 2


def test_a_token_that_joins_text_and_template_counts() -> None:
    encoded = encode_one(WORDS, "hap", "the{text}py")
    assert (WORDS.convert_ids_to_tokens(encoded.input_ids), encoded.counted) == (["[UNK]"], [True])


def test_a_tokenizer_without_offsets_serves_plain_texts_only() -> None:
    slow = ByT5Tokenizer(extra_ids=0)
    encoded = encode_one(slow, "hé")
    assert encoded.input_ids == [byte + 3 for byte in "hé".encode()] + [slow.eos_token_id]
    assert encoded.counted == [True, True, True, False]
    expected = "template is 'Say {text}', but ByT5Tokenizer gives no character offsets"
    assert message(lambda: encode(slow, [], "Say {text}")).startswith(expected)


# --- special tokens --------------------------------------------------------------------------------------------


def framed(single: str, **named: str) -> PreTrainedTokenizerFast:
    """A word a token, each text in the frame ``single``; special tokens are of the form <name>."""
    words = ["<unk>", *re.findall("</?[a-z]+>", f"{single} <s> </s> <pad>"), "the", "cat", "a"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(dict.fromkeys(words))}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    around = [(word, tokenizer.token_to_id(word)) for word in re.findall("</?[a-z]+>", single)]
    tokenizer.post_processor = processors.TemplateProcessing(single=single, special_tokens=around)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", **named)


PAIR = {"bos_token": "<s>", "eos_token": "</s>"}
FRAMES = [
    # The tokenizer's own frame and special tokens, what is read, and the BOS token that it leaves out.
    ("<s> $A", PAIR, "<s> the cat", None),
    ("<s> $A </s>", PAIR, "<s> the cat </s>", None),
    ("$A", PAIR, "<s> the cat", "<s>"),
    ("$A </s>", PAIR, "<s> the cat </s>", "<s>"),
    ("$A", {"bos_token": "</s>", "eos_token": "</s>"}, "</s> the cat", "</s>"),  # as GPT-2
    ("</s> $A", {"bos_token": "</s>", "eos_token": "</s>"}, "</s> the cat", None),  # as OPT
    ("<s> $A </s>", {**PAIR, "cls_token": "<s>", "sep_token": "</s>"}, "<s> the cat </s>", None),  # as RoBERTa
    ("$A", {"eos_token": "</s>"}, "the cat", None),  # as Qwen
    ("$A </s>", {"eos_token": "</s>"}, "the cat </s>", None),  # as T5
    # Frames of another kind, in which BOS has no place.
    ("<cls> $A <sep>", {"cls_token": "<cls>", "sep_token": "<sep>"}, "<cls> the cat <sep>", None),
    ("<cls> $A <sep>", {**PAIR, "cls_token": "<cls>", "sep_token": "<sep>"}, "<cls> the cat <sep>", None),
    ("<eng> $A </s>", PAIR, "<eng> the cat </s>", None),
    ("$A </s> <eng>", PAIR, "the cat </s> <eng>", None),
    ("$A <sep> <cls>", {**PAIR, "cls_token": "<cls>", "sep_token": "<sep>"}, "the cat <sep> <cls>", None),
]


@pytest.mark.parametrize(("single", "named", "read", "added"), FRAMES)
def test_a_text_begins_with_bos_once(single: str, named: dict[str, str], read: str, added: str | None) -> None:
    tokenizer = framed(single, **named)
    corpus = Corpus.from_records([{"text": "the cat", "label": "x"}])
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        assert added_bos(corpus, tokenizer, "{text}") == added
    assert [str(note.message) for note in notes] == [
        f"the beginning-of-sequence token {added!r} is put before every text, since neither tokenizer nor template does"
    ] * (added is not None)
    expected = read.split()
    # The same where the text is written with its special tokens already, in whole or in part.
    before, _, after = read.partition("the cat")
    for text in ("the cat", read, f"{before}the cat", f"{before}{read}", f"the cat{after}"):
        for count_special in (False, True):
            encoded = encode_one(tokenizer, text, count_special=count_special)
            assert tokenizer.convert_ids_to_tokens(encoded.input_ids) == expected
            assert encoded.counted == [count_special or word in ("the", "cat") for word in expected]


@pytest.mark.parametrize(("single", "named", "read", "added"), FRAMES)
@pytest.mark.parametrize("write", ["a {text} a", "{text} a", "{bos}a {text}", "<bos> {text}", "<bos> <bos> a {text}"])
def test_a_template_begins_with_bos_once(
    single: str, named: dict[str, str], read: str, added: str | None, write: str
) -> None:
    tokenizer = framed(single, **named)
    bos = str(tokenizer.bos_token)
    starts = read.startswith(bos)
    template = write.replace("<bos>", bos)
    if tokenizer.bos_token is None or (not starts and "bos" in write):
        return  # nothing is asked of these
    filled = template.replace("{bos}", f"{bos} ").replace("{text}", "the cat").split()
    while starts and filled[:1] == [bos]:
        filled = filled[1:]
    for text in ("the cat", f"{bos} the cat") if template.startswith("{text}") and starts else ("the cat",):
        encoded = encode_one(tokenizer, text, template)
        assert tokenizer.convert_ids_to_tokens(encoded.input_ids) == [bos] * starts + filled
        assert encoded.counted == [False] * starts + [word in ("the", "cat") for word in filled]
    corpus = Corpus.from_records([{"text": "the cat", "label": "x"}])
    rendered = "bos" in write
    assert added_bos(corpus, tokenizer, template) == (bos if starts and not rendered else None)


@pytest.mark.parametrize("word", ["<s>", "</s>", "<pad>", "<extra>", "<unk>"])
def test_special_tokens_in_a_text_do_not_count(word: str) -> None:
    tokenizer = framed("<s> $A", **PAIR, pad_token="<pad>")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<extra>"]})
    tokenizer.add_tokens(["<plain>"])
    text = f"the {word} cat <plain> {word} a {word}"
    encoded = encode_one(tokenizer, text)
    assert tokenizer.convert_ids_to_tokens(encoded.input_ids) == ["<s>", *text.split()]
    assert encoded.counted == [False, *(part != word for part in text.split())]
    assert encode_one(tokenizer, text, count_special=True).counted == [True] * 8
    # In pieces too.
    corpus = Corpus.from_records([{"text": " ".join([text] * 5), "label": "x"}])
    pieces = encode(tokenizer, list(corpus), max_length=9, long_texts="windows")
    assert all(tokenizer.convert_ids_to_tokens(piece.input_ids[:1]) == ["<s>"] for piece in pieces)
    words = [tokenizer.convert_ids_to_tokens(piece.input_ids) for piece in pieces]
    read = [a for piece, part in zip(pieces, words, strict=True) for a, b in zip(part, piece.counted, strict=True) if b]
    assert read == [part for part in text.split() if part != word] * 5


def test_an_unknown_word_is_the_text_s_own() -> None:
    encoded = encode_one(framed("<s> $A", **PAIR), "the dog")
    assert encoded.counted == [False, True, True]
    gpt = framed("$A", bos_token="<unk>", eos_token="<unk>")  # one token for all purposes
    assert encode_one(gpt, "the dog").counted == [False, True, False]


def test_a_span_counts_without_the_special_tokens_in_it() -> None:
    rows = [{"text": "<s> the </s> cat a", "spans": [{"start": 0, "end": 16, "label": "x"}]}]
    (sentence,) = Corpus.from_records(rows, span_column="spans")
    tokenizer = framed("<s> $A </s>", **PAIR)
    (encoded,) = encode(tokenizer, [sentence])
    assert tokenizer.convert_ids_to_tokens(encoded.input_ids) == ["<s>", "the", "</s>", "cat", "a", "</s>"]
    assert encoded.counted == [False, True, False, True, False, False]


def test_a_tokenizer_without_offsets_is_given_bos_too() -> None:
    slow = ByT5Tokenizer(extra_ids=0, bos_token="<s>")
    for text in ("hé", "<s>hé", "<s>hé</s>"):
        encoded = encode_one(slow, text)
        assert encoded.input_ids == [slow.bos_token_id, *(byte + 3 for byte in "hé".encode()), slow.eos_token_id]
        assert encoded.counted == [False, True, True, True, False]


def test_bos_takes_its_place_of_the_maximum_length() -> None:
    tokenizer = framed("$A", **PAIR)
    encoded = encode_one(tokenizer, "the cat a the cat a", max_length=4)
    assert tokenizer.convert_ids_to_tokens(encoded.input_ids) == ["<s>", "the", "cat", "a"]
    assert encoded.truncated


# --- templates and lengths -------------------------------------------------------------------------------------


def test_split_template() -> None:
    assert split_template("{bos}Say {text} {now}{bos}") == ("{bos}Say ", " {now}{bos}")
    assert split_template("{bos}Say {text} {now}{bos}", BPE) == ("<s>Say ", " {now}<s>")
    assert split_template("{text}", WORDS) == ("", "")
    assert message(lambda: split_template("Say text")) == "prompt without {text}: template is 'Say text'"
    expected = "prompt with {text} more than once: template is '{text}, {text}'"
    assert message(lambda: split_template("{text}, {text}")) == expected
    expected = "template is '{bos}{text}', but the tokenizer has no beginning-of-sequence token for {bos}"
    assert message(lambda: split_template("{bos}{text}", WORDS)) == expected


@pytest.mark.parametrize("template", ["{text}", PROMPT])
@given(text=TEXTS, cut=st.integers(0, 12))
@settings(deadline=None)
def test_a_long_text_loses_its_last_tokens_and_nothing_else(template: str, text: str, cut: int) -> None:
    whole = encode_one(BPE, text, template)
    tokens = BPE.convert_ids_to_tokens(whole.input_ids)
    by_bytes = own_by_bytes(tokens, "<s>Say: ", text)
    removable = list(range(1, len(tokens) - 1))
    if template == PROMPT:
        removable = [position for position, shared in enumerate(by_bytes) if shared]
    limit = len(whole.input_ids) - cut
    if cut >= len(removable) or limit < 1:
        with pytest.raises(InputError):
            encode_one(BPE, text, template, max_length=limit)
        return
    kept = [position for position in range(len(whole.input_ids)) if position not in removable[len(removable) - cut :]]
    encoded = encode_one(BPE, text, template, max_length=limit)
    assert encoded.input_ids == [whole.input_ids[position] for position in kept]
    assert encoded.counted == [whole.counted[position] for position in kept]
    assert encoded.truncated == (cut > 0)


def test_the_smaller_of_the_model_s_and_the_tokenizer_s_limit_holds() -> None:
    tokenizer = byte_level()
    tokenizer.model_max_length = 5
    encoded = encode_one(tokenizer, "xxxxxxxxx")
    assert (len(encoded.input_ids), encoded.truncated) == (5, True)
    assert len(encode_one(tokenizer, "xxxxxxxxx", max_length=100).input_ids) == 5
    assert len(encode_one(tokenizer, "xxxxxxxxx", max_length=4).input_ids) == 4
    assert len(encode_one(BPE, "x" * 1000).input_ids) == 1002


def test_a_length_without_room_for_the_text_is_refused() -> None:
    expected = "max_length is 2, which leaves no room for the text beside the 2 other tokens of template '{text}'"
    assert message(lambda: encode_one(BPE, "xyz", max_length=2)) == expected
    expected = "max_length is 0, expected an integer of at least 1, below 2^32"
    assert message(lambda: encode(BPE, [], max_length=0)) == expected

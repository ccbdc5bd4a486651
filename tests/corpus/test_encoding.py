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
    one = encode_one(tokenizer, text, template)
    tokens = tokenizer.convert_ids_to_tokens(one.input_ids)
    # <s> begins the sequence once, whether template, text or neither writes it.
    before = before.removeprefix("<s>")
    own = text if before else without_first(text)
    rest = before + own + after
    if not own and not before:
        rest = without_first(rest)
    assert spelled(tokens) == f"<s>{rest}".encode()
    by_bytes = own_by_bytes(tokens, f"<s>{before}", own)
    assert one.counted == [mine and token not in SPECIAL for mine, token in zip(by_bytes, tokens, strict=True)]
    assert not one.truncated


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
    said = without_first(text)
    while said.endswith("</s>"):
        said = said.removesuffix("</s>")
    ids = [0, *BPE(said, add_special_tokens=False)["input_ids"], 1]
    one = encode_one(BPE, text)
    assert one.input_ids == ids
    assert one.counted == [token > 1 for token in ids]
    assert spelled(BPE.convert_ids_to_tokens(one.input_ids[1:-1])) == said.encode()
    one = encode_one(BPE, text, count_special=True)
    assert one.input_ids == ids
    assert all(one.counted)


def test_an_emoji_is_several_tokens_that_all_count() -> None:
    one = encode_one(BPE, "a😀", PROMPT)
    assert BPE.convert_ids_to_tokens([t for t, own in zip(one.input_ids, one.counted, strict=True) if own]) == [
        "a",
        *"ðŁĺĢ",
    ]


@pytest.mark.parametrize(
    ("template", "special"),
    [(PROMPT, [0]), ("{bos}{text}", [0]), ("{bos}{bos} {text}{bos}!{bos}", [0, -3, -1]), ("Say {text}</s>", [0])],
)
def test_bos_counts_only_when_asked(template: str, special: list[int]) -> None:
    for text in ("the cat", "the <s>cat"):
        plain, counted = (encode_one(BPE, text, template, count_special) for count_special in (False, True))
        assert plain.input_ids == counted.input_ids
        differ = [place for place, (a, b) in enumerate(zip(plain.counted, counted.counted, strict=True)) if a != b]
        in_text = [plain.input_ids.index(0, 2)] if "<s>" in text else []
        assert differ == sorted([*(place % len(plain.input_ids) for place in special), *in_text])
        assert all(plain.input_ids[place] == 0 and counted.counted[place] for place in differ)


def test_word_pieces() -> None:
    text = "The CATS, so happy!"
    own = ["the", "cat", "##s", ",", "so", "hap", "##py", "!"]
    for count_special in (False, True):
        one = encode_one(WORDS, text, count_special=count_special)
        assert WORDS.convert_ids_to_tokens(one.input_ids) == ["[CLS]", *own, "[SEP]"]
        assert one.counted == [count_special, *[True] * 8, count_special]
        one = encode_one(WORDS, text, "Say, {text} so!", count_special)
        assert WORDS.convert_ids_to_tokens(one.input_ids) == ["say", ",", *own, "so", "!"]
        assert one.counted == [False] * 2 + [True] * 8 + [False] * 2


def test_a_token_that_joins_text_and_template_counts() -> None:
    one = encode_one(WORDS, "hap", "the{text}py")
    assert (WORDS.convert_ids_to_tokens(one.input_ids), one.counted) == (["[UNK]"], [True])


def test_a_tokenizer_without_offsets_serves_plain_texts_only() -> None:
    slow = ByT5Tokenizer(extra_ids=0)
    one = encode_one(slow, "hé")
    assert one.input_ids == [byte + 3 for byte in "hé".encode()] + [slow.eos_token_id]
    assert one.counted == [True, True, True, False]
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
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert added_bos(corpus, tokenizer, "{text}") == added
    assert [str(note.message) for note in told] == [
        f"the beginning-of-sequence token {added!r} is put before every text, since neither tokenizer nor template does"
    ] * (added is not None)
    expected = read.split()
    # The same where the text is written with its special tokens already, in whole or in part.
    before, _, after = read.partition("the cat")
    for text in ("the cat", read, f"{before}the cat", f"{before}{read}", f"the cat{after}"):
        for count_special in (False, True):
            one = encode_one(tokenizer, text, count_special=count_special)
            assert tokenizer.convert_ids_to_tokens(one.input_ids) == expected
            assert one.counted == [count_special or word in ("the", "cat") for word in expected]


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
        one = encode_one(tokenizer, text, template)
        assert tokenizer.convert_ids_to_tokens(one.input_ids) == [bos] * starts + filled
        assert one.counted == [False] * starts + [word in ("the", "cat") for word in filled]
    corpus = Corpus.from_records([{"text": "the cat", "label": "x"}])
    rendered = "bos" in write
    assert added_bos(corpus, tokenizer, template) == (bos if starts and not rendered else None)


@pytest.mark.parametrize("word", ["<s>", "</s>", "<pad>", "<extra>", "<unk>"])
def test_special_tokens_in_a_text_do_not_count(word: str) -> None:
    tokenizer = framed("<s> $A", **PAIR, pad_token="<pad>")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<extra>"]})
    tokenizer.add_tokens(["<plain>"])
    text = f"the {word} cat <plain> {word} a {word}"
    one = encode_one(tokenizer, text)
    assert tokenizer.convert_ids_to_tokens(one.input_ids) == ["<s>", *text.split()]
    assert one.counted == [False, *(part != word for part in text.split())]
    assert encode_one(tokenizer, text, count_special=True).counted == [True] * 8
    # In pieces too.
    corpus = Corpus.from_records([{"text": " ".join([text] * 5), "label": "x"}])
    pieces = encode(tokenizer, list(corpus), max_length=9, long_texts="windows")
    assert all(tokenizer.convert_ids_to_tokens(piece.input_ids[:1]) == ["<s>"] for piece in pieces)
    words = [tokenizer.convert_ids_to_tokens(piece.input_ids) for piece in pieces]
    read = [a for piece, part in zip(pieces, words, strict=True) for a, b in zip(part, piece.counted, strict=True) if b]
    assert read == [part for part in text.split() if part != word] * 5


def test_an_unknown_word_is_the_text_s_own() -> None:
    one = encode_one(framed("<s> $A", **PAIR), "the dog")
    assert one.counted == [False, True, True]
    gpt = framed("$A", bos_token="<unk>", eos_token="<unk>")  # one token for all purposes
    assert encode_one(gpt, "the dog").counted == [False, True, False]


def test_a_span_counts_without_the_special_tokens_in_it() -> None:
    rows = [{"text": "<s> the </s> cat a", "spans": [{"start": 0, "end": 16, "label": "x"}]}]
    (sentence,) = Corpus.from_records(rows, span_column="spans")
    tokenizer = framed("<s> $A </s>", **PAIR)
    (one,) = encode(tokenizer, [sentence])
    assert tokenizer.convert_ids_to_tokens(one.input_ids) == ["<s>", "the", "</s>", "cat", "a", "</s>"]
    assert one.counted == [False, True, False, True, False, False]


def test_a_tokenizer_without_offsets_is_given_bos_too() -> None:
    slow = ByT5Tokenizer(extra_ids=0, bos_token="<s>")
    for text in ("hé", "<s>hé", "<s>hé</s>"):
        one = encode_one(slow, text)
        assert one.input_ids == [slow.bos_token_id, *(byte + 3 for byte in "hé".encode()), slow.eos_token_id]
        assert one.counted == [False, True, True, True, False]


def test_bos_takes_its_place_of_the_maximum_length() -> None:
    tokenizer = framed("$A", **PAIR)
    one = encode_one(tokenizer, "the cat a the cat a", max_length=4)
    assert tokenizer.convert_ids_to_tokens(one.input_ids) == ["<s>", "the", "cat", "a"]
    assert one.truncated


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
    own = [place for place, mine in enumerate(by_bytes) if mine] if template == PROMPT else range(1, len(tokens) - 1)
    limit = len(whole.input_ids) - cut
    if cut >= len(own) or limit < 1:
        with pytest.raises(InputError):
            encode_one(BPE, text, template, max_length=limit)
        return
    kept = [place for place in range(len(whole.input_ids)) if place not in own[len(own) - cut :]]
    one = encode_one(BPE, text, template, max_length=limit)
    assert one.input_ids == [whole.input_ids[place] for place in kept]
    assert one.counted == [whole.counted[place] for place in kept]
    assert one.truncated == (cut > 0)


def test_the_smaller_of_the_model_s_and_the_tokenizer_s_limit_holds() -> None:
    tokenizer = byte_level()
    tokenizer.model_max_length = 5
    one = encode_one(tokenizer, "xxxxxxxxx")
    assert (len(one.input_ids), one.truncated) == (5, True)
    assert len(encode_one(tokenizer, "xxxxxxxxx", max_length=100).input_ids) == 5
    assert len(encode_one(tokenizer, "xxxxxxxxx", max_length=4).input_ids) == 4
    assert len(encode_one(BPE, "x" * 1000).input_ids) == 1002


def test_a_length_without_room_for_the_text_is_refused() -> None:
    expected = "max_length is 2, which leaves no room for the text beside the 2 other tokens of template '{text}'"
    assert message(lambda: encode_one(BPE, "xyz", max_length=2)) == expected
    expected = "max_length is 0, expected an integer of at least 1, below 2^32"
    assert message(lambda: encode(BPE, [], max_length=0)) == expected

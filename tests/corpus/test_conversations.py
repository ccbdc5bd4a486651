"""Places of turns in rendered conversations, against the strings that the chat templates ought to give, put together
here by hand from what counts and what does not."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from affectron.corpus import Corpus
from affectron.corpus.conversations import render
from affectron.corpus.encoding import encode
from tests.support.errors import message
from tests.support.tokens import byte_level, own_by_bytes

#: (characters, whether they count), one after the other.
Pieces = list[tuple[str, bool]]
Turn = tuple[str, str]

SYSTEM = "You are a helpful assistant."

CHATML = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\n" + SYSTEM + "<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
    "{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}{% set ns = namespace(first='') %}{% for m in messages %}{% if m['role'] == 'system' %}"
    "{% set ns.first = m['content'] + '\n\n' %}{% else %}"
    "<start_of_turn>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n"
    "{{ ns.first }}{{ m['content'] | trim }}<end_of_turn>\n{% set ns.first = '' %}{% endif %}{% endfor %}"
)
MISTRAL = (
    "{{ bos_token }}{% set ns = namespace(system='', user=true) %}{% for m in messages %}"
    "{% if m['role'] == 'system' %}{% set ns.system = m['content'] + '\n\n' %}"
    "{% elif (m['role'] == 'user') != ns.user %}{{ raise_exception('roles must alternate') }}"
    "{% elif m['role'] == 'user' %}[INST] {{ ns.system + m['content'] }} [/INST]{% set ns.system = '' %}"
    "{% set ns.user = false %}{% else %} {{ m['content'] | trim }}</s>{% set ns.user = true %}{% endif %}{% endfor %}"
)
# As Qwen3: an answer's thinking is left out before the last question, and set anew behind it.
QWEN3 = (
    "{% set ns = namespace(last=0) %}{% for m in messages %}{% if m['role'] == 'user' and not "
    "(m['content'].startswith('<tool_response>') and m['content'].endswith('</tool_response>')) %}"
    "{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
    "{% for m in messages %}{% set content = m['content'] %}{% set thought = '' %}"
    "{% if m['role'] == 'assistant' and '</think>' in content %}"
    "{% set thought = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}"
    "{% set content = content.split('</think>')[-1].lstrip('\n') %}{% endif %}"
    "<|im_start|>{{ m['role'] }}\n{% if thought and loop.index0 > ns.last %}<think>\n{{ thought.strip('\n') }}\n"
    "</think>\n\n{% endif %}{{ content }}<|im_end|>\n{% endfor %}"
)
# As DeepSeek-R1.
DEEPSEEK = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}<|User|>{{ m['content'] }}{% else %}"
    "<|Assistant|>{{ m['content'].split('</think>')[-1] }}<|end|>{% endif %}{% endfor %}"
)
ESCAPED = "{% for m in messages %}<turn role={{ m['role'] }}>{{ m['content'] | e }}</turn>{% endfor %}"
AS_JSON = "{% for m in messages %}{{ {'role': m['role'], 'content': m['content']} | tojson }}\n{% endfor %}"
REVERSED = "{% for m in messages | reverse %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"


def tokenizer_of(template: str) -> PreTrainedTokenizerFast:
    tokenizer = byte_level()
    tokenizer.chat_template = template
    return tokenizer


def blanks_apart(content: str) -> Pieces:
    """A content that is shown as it stands."""
    return [(content, True)]


def trimmed(content: str) -> Pieces:
    return [(content.strip(), True)]


def chatml(turns: Sequence[Turn]) -> Pieces:
    pieces: Pieces = [] if turns[0][0] == "system" else [(f"<|im_start|>system\n{SYSTEM}<|im_end|>\n", False)]
    for role, content in turns:
        pieces += [(f"<|im_start|>{role}\n", False), *blanks_apart(content), ("<|im_end|>\n", False)]
    return pieces


def llama3(turns: Sequence[Turn]) -> Pieces:
    pieces: Pieces = [("<s>", False)]
    for role, content in turns:
        pieces += [(f"<|start_header_id|>{role}<|end_header_id|>\n\n", False), *trimmed(content), ("<|eot_id|>", False)]
    return pieces


def gemma(turns: Sequence[Turn]) -> Pieces:
    pieces: Pieces = [("<s>", False)]
    system: Pieces = []
    for role, content in turns:
        if role == "system":
            system = [(content, True), ("\n\n", False)]
            continue
        name = "model" if role == "assistant" else role
        pieces += [(f"<start_of_turn>{name}\n", False), *system, *trimmed(content), ("<end_of_turn>\n", False)]
        system = []
    return pieces


def mistral(turns: Sequence[Turn]) -> Pieces:
    pieces: Pieces = [("<s>", False)]
    system: Pieces = []
    for role, content in turns:
        if role == "system":
            system = [(content, True), ("\n\n", False)]
        elif role == "user":
            pieces += [("[INST] ", False), *system, (content, True), (" [/INST]", False)]
            system = []
        else:
            pieces += [(" ", False), *trimmed(content), ("</s>", False)]
    return pieces


def escaped(turns: Sequence[Turn]) -> Pieces:
    pieces: Pieces = []
    for role, content in turns:
        # Jinja writes quotation marks as &#34; and &#39;.
        shown = html.escape(content).replace("&quot;", "&#34;").replace("&#x27;", "&#39;")
        pieces += [(f"<turn role={role}>", False), (shown, bool(content.strip())), ("</turn>", False)]
    return pieces


def as_json(turns: Sequence[Turn]) -> Pieces:
    pieces: Pieces = []
    for role, content in turns:
        shown = json.dumps(content, ensure_ascii=False)[1:-1]
        pieces += [(f'{{"role": "{role}", "content": "', False), (shown, bool(content.strip())), ('"}\n', False)]
    return pieces


def last_first(turns: Sequence[Turn]) -> Pieces:
    return [piece for role, content in turns[::-1] for piece in ((f"{role}: ", False), (content, True), ("\n", False))]


TEMPLATES = {
    "chatml": (CHATML, chatml),
    "llama3": (LLAMA3, llama3),
    "gemma": (GEMMA, gemma),
    "mistral": (MISTRAL, mistral),
    "escaped": (ESCAPED, escaped),
    "json": (AS_JSON, as_json),
    "reversed": (REVERSED, last_first),
}


def text_of(pieces: Pieces) -> str:
    return "".join(characters for characters, _ in pieces)


def ranges_of(pieces: Pieces) -> list[tuple[int, int]]:
    ranges, at = [], 0
    for characters, counts in pieces:
        if counts and characters.strip():
            ranges.append((at, at + len(characters)))
        at += len(characters)
    return ranges


def sentence_of(turns: Sequence[Turn], which: str, span: tuple[int, int] | None = None) -> Any:
    rows = [{"text": [{"role": role, "content": content} for role, content in turns], "label": "x"}]
    (sentence,) = Corpus.from_records(rows, turns=which)
    return (
        sentence
        if span is None
        else type(sentence)(sentence.text, sentence.labels, sentence.split, sentence.id, span, sentence.messages)
    )


def rendered_ranges(
    template: str, turns: Sequence[Turn], which: str = "all", span: tuple[int, int] | None = None
) -> Any:
    text, ranges = render(tokenizer_of(template), sentence_of(turns, which, span))
    return text, sorted(ranges)


SAID = (
    st.sampled_from(
        ["You", "user", "assistant", "a", "system", "INST", "turn", "model", "content", "Hello there", "  yes "]
    )
    | st.sampled_from(
        ["\n", " ", "<s>", "</s>", "<|im_end|>", '& < "\'"', "é", "😀", "\\n", "900000000000000", "9", "0"]
    )
    | st.text(st.characters(codec="utf-8", exclude_characters="\r\x00"), min_size=1, max_size=8)
)


@pytest.mark.parametrize("name", TEMPLATES)
@given(
    contents=st.lists(SAID, min_size=1, max_size=5).filter(lambda contents: "".join(contents).strip()),
    system=st.none() | SAID,
)
@settings(deadline=None, max_examples=60)
def test_what_counts_is_what_was_said_wherever_the_same_letters_stand(
    name: str, contents: list[str], system: str | None
) -> None:
    template, expected = TEMPLATES[name]
    if system is not None and not system.strip():
        system = None
    turns = [("system", system)] if system is not None else []
    turns += [(("user", "assistant")[turn % 2], content) for turn, content in enumerate(contents)]
    pieces = expected(turns)
    text, ranges = rendered_ranges(template, turns)
    assert text == text_of(pieces)
    assert ranges == ranges_of(pieces)


@pytest.mark.parametrize("name", ["chatml", "llama3", "mistral"])
@given(contents=st.lists(SAID.filter(lambda text: text.strip() and "<" not in text), min_size=1, max_size=4))
@settings(deadline=None, max_examples=40)
def test_the_tokens_that_count_share_a_byte_with_the_turns(name: str, contents: list[str]) -> None:
    template, expected = TEMPLATES[name]
    turns = [(("user", "assistant")[turn % 2], content) for turn, content in enumerate(contents)]
    tokenizer = tokenizer_of(template)
    (encoded,) = encode(tokenizer, [sentence_of(turns, "user")])
    pieces = [
        (characters, counts and characters.strip() in {content.strip() for role, content in turns if role == "user"})
        for characters, counts in expected(turns)
    ]
    tokens = tokenizer.convert_ids_to_tokens(encoded.input_ids)
    counted = [False] * len(tokens)
    number, at = 0, ""
    for characters, counts in expected(turns):
        if counts:
            shared = own_by_bytes(tokens, at, characters) if turns[number][0] == "user" else counted
            counted = [a or b for a, b in zip(counted, shared, strict=True)]
            number += 1
        at += characters
    assert text_of(pieces) == at
    assert encoded.counted == counted


def test_a_turn_s_role_tells_which_of_the_same_words_count() -> None:
    turns = [("user", "user"), ("assistant", "user"), ("user", "user")]
    _, ranges = rendered_ranges(CHATML, turns, "assistant")
    pieces = chatml(turns)
    assert ranges == [ranges_of(pieces)[1]]


def test_an_empty_turn_counts_nothing() -> None:
    turns = [("user", "Hello"), ("assistant", ""), ("user", "  ")]
    text, ranges = rendered_ranges(LLAMA3, turns)
    assert text == text_of(llama3(turns))
    assert ranges == ranges_of(llama3(turns)[:3])


@pytest.mark.parametrize(
    ("template", "head"),
    [(QWEN3, "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"), (DEEPSEEK, "<s><|User|>Hi<|Assistant|>")],
)
@pytest.mark.parametrize("answer", ["Fine.", "\n\nFine, assistant\n> Fine.", "thinking</think> about"])
def test_thinking_that_is_left_out_does_not_count(template: str, head: str, answer: str) -> None:
    if answer.startswith("thinking"):
        answer = answer.partition("</think>")[2]
    turns = [("user", "Hi"), ("assistant", f"<think>\nFine, assistant\n</think>{answer}"), ("user", "And now?")]
    text, ranges = rendered_ranges(template, turns, "assistant")
    shown = answer.lstrip("\n") if template == QWEN3 else answer
    assert text.startswith(head + shown)
    assert ranges == [(len(head), len(head) + len(shown))]


def test_thinking_that_is_shown_counts() -> None:
    content = "<think>\nHm.\n</think>\n\nFine."
    turns = [("user", "Hi"), ("assistant", content)]
    head = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    text, ranges = rendered_ranges(QWEN3, turns, "assistant")
    assert text == f"{head}{content}<|im_end|>\n"
    assert ranges == [(len(head), len(head) + len(content))]


def test_a_tool_s_turn_on_which_the_template_depends_is_found() -> None:
    content = "<tool_response>4</tool_response>"
    turns = [("user", "2+2?"), ("assistant", "<think>\nx\n</think>\n\ncall"), ("user", content)]
    text, ranges = rendered_ranges(QWEN3, turns, "last")
    start = len(text) - len("<|im_end|>\n") - len(content)
    assert text[start:].startswith(content)
    assert ranges == [(start, start + len(content))]


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{{ m['content'] }} {{ m['content'] }}{% endfor %}",  # twice
        "{% for m in messages %}{{ m['role'] }}{% endfor %}",  # not at all
        "{% for m in messages %}{{ m['content'] | length }}{% endfor %}",  # something else
        "{% for m in messages %}{{ m['content'][:3] }}{% endfor %}",  # cut
        "{% for m in messages %}{{ m['content'] | replace('a', 'b') | replace('9', '') }}{% endfor %}",  # rewritten
    ],
)
def test_a_place_that_is_not_certain_is_refused(template: str) -> None:
    turns = [("user", "hello"), ("assistant", "alas, alas")]
    expected = (
        "sentence 1: turn 2 (assistant): the chat template leaves out or rewrites 'alas, alas', "
        "so that its place is not certain"
    )
    assert message(lambda: rendered_ranges(template, turns, "assistant")) == expected


def test_turns_that_the_template_refuses_are_named() -> None:
    line = message(lambda: rendered_ranges(MISTRAL, [("user", "a"), ("user", "b")], "last"))
    assert line == "sentence 1: the chat template does not take these turns: roles must alternate"


@pytest.mark.parametrize("certain", [True, False])
def test_a_template_may_write_the_time(certain: bool) -> None:
    tokenizer = tokenizer_of("[{{ now }}] {% for m in messages %}{{ m['content'] }}\n{% endfor %}")
    inner, seconds = tokenizer.apply_chat_template, iter([1, 2, 2, 2, 3, *([4] * 20)] if certain else range(1000))
    tokenizer.apply_chat_template = lambda turns, **named: inner(turns, now=next(seconds), **named)
    sentence = sentence_of([("user", "Hello"), ("assistant", "Yes")], "assistant")
    if not certain:
        assert "its place is not certain" in message(lambda: render(tokenizer, sentence))
        return
    text, ranges = render(tokenizer, sentence)
    assert text == "[4] Hello\nYes\n"
    assert ranges == [(10, 13)]


@pytest.mark.parametrize("name", TEMPLATES)
@given(data=st.data())
@settings(deadline=None, max_examples=40)
def test_a_span_is_found_in_the_turns(name: str, data: st.DataObject) -> None:
    """The characters of the span and no others, trimmed and escaped as the template does it."""
    template, expected = TEMPLATES[name]
    contents = data.draw(st.lists(st.sampled_from(["ab & c", " no, no ", "no", "no"]), min_size=1, max_size=4))
    turns = [(("user", "assistant")[turn % 2], content) for turn, content in enumerate(contents)]
    joined = "\n".join(contents)
    start = data.draw(st.integers(0, len(joined) - 1))
    stop = data.draw(st.integers(start + 1, len(joined)))
    trims = {"llama3": (0, 1), "gemma": (0, 1), "mistral": (1,)}.get(name, ())
    quoted, at = [], 0
    for turn, content in enumerate(contents):
        first, last = max(start - at, 0), min(stop - at, len(content))
        at += len(content) + 1
        if not content[first : max(last, 0)].strip():
            continue
        if turn % 2 in trims:
            first = max(first, len(content) - len(content.lstrip()))
            last = min(last, len(content.rstrip()))
        quoted.append(html.escape(content[first:last]) if name == "escaped" else content[first:last])
    text, ranges = rendered_ranges(template, turns, "all", (start, stop))
    shown = [text[slice(*shown_range)] for shown_range in ranges]
    assert text == text_of(expected(turns))
    assert shown == (quoted[::-1] if name == "reversed" else quoted)


def test_a_span_of_what_is_left_out_is_refused() -> None:
    turns = [("user", "Hi"), ("assistant", "<think>\nsad\n</think>\n\nFine."), ("user", "And now?")]
    line = message(lambda: rendered_ranges(QWEN3, turns, "assistant", (8, 11)))
    assert line.startswith("sentence 1: turn 2 (assistant): the chat template leaves out or rewrites 'sad'")

"""Events of a text against the functions of the package; and nothing of a request stays."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from torch import nn

import affectron
from affectron.chat import app
from affectron.chat.app import Chat
from affectron.chat.writer import Writer
from affectron.demo import PROMPTS
from affectron.evaluation.label_likelihood import label_probabilities
from affectron.generation import continuations
from tests.chat.conftest import Visitor
from tests.support.tiny import state

ANGER = {"label": "anger", "program": "contrast", "strength": 3.0}
STEERED = {"prompt": "Yesterday evening", "max_new_tokens": 24, "steered": [ANGER]}


@pytest.fixture
def slow(writer: Writer, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[dict[str, Any], list[float]]]:
    """A request for a text of 100 tokens, none of which ends it, and a time for each step that has begun."""
    monkeypatch.setattr(writer.model.generation_config, "eos_token_id", None)
    steps: list[float] = []

    def pause(module: nn.Module, args: object) -> None:
        steps.append(time.monotonic())
        time.sleep(0.02)

    handle = writer.model.model.register_forward_pre_hook(pause)
    yield {**STEERED, "max_new_tokens": 100}, steps
    handle.remove()


def whole(events: list[dict[str, Any]]) -> dict[str, Any]:
    (event,) = (event for event in events if "texts" in event)
    return event


def wait_for(condition: Any) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("asked", "make"),
    [
        ({}, lambda n, s: affectron.contrast(n, s, 4.0)),
        ({"strength": 3}, lambda n, s: affectron.contrast(n, s, 3.0)),
        ({"program": "induce", "strength": -1.5}, lambda n, s: affectron.induce(n, s, -1.5)),
        ({"program": "amplify", "strength": 4}, lambda n, s: affectron.amplify(n, 4.0)),
        ({"program": "attenuate"}, lambda n, s: affectron.attenuate(n, s, 0.5)),
        ({"program": "zero"}, lambda n, s: affectron.zero(n)),
        ({"program": "mean"}, lambda n, s: affectron.mean(n, s)),
        ({"program": "cross-signal", "signal": "metaphor"}, lambda n, s: affectron.cross_signal(n, s, "metaphor", 1.0)),
        ({"share": 0.1, "strength": 12}, lambda n, s: affectron.contrast(n.top(0.1), s, 12.0)),
    ],
)
def test_the_texts_are_those_of_the_program(visitor: Visitor, writer: Writer, asked: dict, make: Any) -> None:
    request = {**STEERED, "steered": [{"label": "anger", **asked}]}
    program = make(writer.neurons["anger"], writer.stats)
    expected = continuations(writer.model, writer.tokenizer, "Yesterday evening", [None, program], max_new_tokens=24)
    event = whole(visitor.events(request))
    assert (event["texts"], event["tokens"]) == (expected.texts, expected.tokens)
    assert (event["program"]["name"], event["program"]["neurons"]) == (program.name, len(program))
    assert event["program"]["dose"] > 0


def test_labels_compose_and_samples_follow_the_seed(visitor: Visitor, writer: Writer) -> None:
    steered = [ANGER, {"label": "simile", "program": "zero"}]
    program = affectron.compose(
        affectron.contrast(writer.neurons["anger"], writer.stats, 3.0), affectron.zero(writer.neurons["simile"])
    )
    texts = set()
    for seed in (1, 2):
        sampled = {"temperature": 0.8, "seed": seed}
        expected = continuations(
            writer.model, writer.tokenizer, "Yesterday evening", [None, program], max_new_tokens=24, **sampled
        ).texts
        event = whole(visitor.events({**STEERED, "steered": steered, **sampled}))
        assert event["texts"] == expected
        assert event["program"]["name"] == "contrast 3 anger + zero simile"
        texts |= set(expected)
    assert len(texts) == 4


def test_pieces_join_to_the_texts(visitor: Visitor) -> None:
    events = visitor.events({**STEERED, "temperature": 1.0, "max_new_tokens": 60})
    pieces = [event["pieces"] for event in events if "pieces" in event]
    event = whole(events)
    assert ["".join(column) for column in zip(*pieces, strict=True)] == event["texts"]
    assert len(pieces) > 5
    assert events.index(event) == len(pieces)


def test_a_character_of_several_tokens_is_sent_once_it_is_whole() -> None:
    sent = [""]
    assert [Writer._piece(sent, 0, text) for text in ("a", "a\ufffd", "a\ufffd", "aé", "aéb")] == [
        "a",
        "",
        "",
        "é",
        "b",
    ]


def test_without_a_label_there_is_one_text(visitor: Visitor, writer: Writer) -> None:
    event = whole(visitor.events({"prompt": "We", "max_new_tokens": 8}))
    assert event["texts"] == continuations(writer.model, writer.tokenizer, "We", [None], max_new_tokens=8).texts
    assert event["program"] is None


def test_the_model_as_it_is_judges_both_texts(visitor: Visitor, writer: Writer) -> None:
    events = visitor.events(STEERED)
    told = {event["task"]: event["probabilities"] for event in events if "task" in event}
    assert {task: tuple(of_task) for task, of_task in told.items()} == writer.neurons.tasks
    for task, labels in writer.neurons.tasks.items():
        expected = label_probabilities(writer.model, writer.tokenizer, whole(events)["texts"], task, labels, PROMPTS)
        np.testing.assert_allclose(np.array(list(told[task].values())).T, expected, rtol=1e-6, atol=1e-9)


def test_a_label_without_neurons_is_refused(chat: Chat, visitor: Visitor, writer: Writer) -> None:
    neurons = affectron.NeuronSet([affectron.NeuronList("anger", "emotion", [])], writer.neurons.widths)
    chat.writer = Writer(writer.model, writer.tokenizer, neurons, writer.stats, {})
    assert visitor.refused(STEERED) == "steered[0]: label 'anger' has no neurons"
    page = visitor.get("/").read().decode()
    slider = page.partition('data-label="anger" data-neurons="0">')[2].partition('class="slider"')[2]
    assert slider.partition(">")[0].endswith(" disabled")


def test_a_task_of_one_label_has_no_probability(chat: Chat, visitor: Visitor, writer: Writer) -> None:
    neurons = affectron.NeuronSet([writer.neurons["anger"]], writer.neurons.widths)
    chat.writer = Writer(writer.model, writer.tokenizer, neurons, writer.stats, {})
    (event,) = [event for event in visitor.events(STEERED) if "task" in event]
    assert event == {"task": "emotion", "left_out": "task 'emotion' has the labels anger, expected two or more"}


def test_a_second_request_is_told_and_the_first_goes_on(
    visitor: Visitor, slow: tuple[dict, list], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "PATIENCE", 0.01)
    response = visitor.post(slow[0])
    lines = [response.readline()]
    assert "another text is being written" in Visitor(visitor.port).refused(STEERED, 409)
    lines += list(response)
    assert len([line for line in lines if b"pieces" in line]) == 100


def test_a_request_waits_for_one_that_ends_soon(visitor: Visitor) -> None:
    alone = whole(visitor.events(STEERED))["texts"]
    other = {**STEERED, "steered": [{"label": "fear", "strength": 5.0}]}
    alone_other = whole(visitor.events(other))["texts"]
    assert alone != alone_other
    found: dict[str, list[str]] = {}

    def ask(name: str, request: dict) -> None:
        found[name] = whole(Visitor(visitor.port).events(request))["texts"]

    threads = [threading.Thread(target=ask, args=pair) for pair in (("one", STEERED), ("other", other))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == {"one": alone, "other": alone_other}


def test_a_browser_that_goes_away_ends_the_text(
    visitor: Visitor, chat: Chat, writer: Writer, slow: tuple[dict, list]
) -> None:
    """Far fewer steps are computed than were asked for, the model is as it was, and the next request is served."""
    request, steps = slow
    before = state(writer.model)
    response = visitor.post(request)
    response.readline()
    response.close()
    visitor.connection.close()
    wait_for(lambda: not chat.busy.locked())
    assert len(steps) < 50
    assert state(writer.model) == before
    plain = continuations(writer.model, writer.tokenizer, "We", [None], max_new_tokens=8).texts
    assert whole(visitor.events({"prompt": "We", "max_new_tokens": 8}))["texts"] == plain


@pytest.mark.parametrize("after", [0, 3])
def test_an_error_of_the_model_is_told_and_leaves_it_unsteered(
    visitor: Visitor, writer: Writer, after: int, caplog: pytest.LogCaptureFixture
) -> None:
    plain = continuations(writer.model, writer.tokenizer, "We", [None], max_new_tokens=8).texts
    before, seen = state(writer.model), []

    def fail(module: nn.Module, args: object) -> None:
        seen.append(1)
        if len(seen) > after:
            raise RuntimeError("out of\nmemory")

    handle = writer.model.model.layers[1].register_forward_pre_hook(fail)
    message = "the text could not be written: out of memory"
    if after:
        events = visitor.events(STEERED)
        assert [list(event) for event in events] == [["pieces"]] * after + [["error", "status"]]
        assert events[-1]["error"] == message
    else:
        assert visitor.refused(STEERED, 500) == message
    handle.remove()
    assert state(writer.model) == before
    assert whole(visitor.events({"prompt": "We", "max_new_tokens": 8}))["texts"] == plain


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", "request is not JSON: "),
        ([], "request: the file is [], expected an object"),
        ({}, "request: prompt is missing, expected text"),
        ({"prompt": ""}, None),
        ({"prompt": 3}, "request: prompt is 3, expected text"),
        ({"prompt": "We", "max_new_tokens": 0}, "request: max_new_tokens is 0, expected an integer of at least 1"),
        ({"prompt": "We", "temperature": -1}, "request: temperature is -1, expected a number >= 0"),
        (b'{"prompt": "\\ud800"}', "request: prompt holds half a surrogate pair"),
        ({"prompt": "We", "steered": [{**ANGER, "strength": 10**400}]}, "steered[0].strength has more than 64 bits"),
        (b'{"prompt": "We", "temperature": NaN}', "request: temperature is nan, expected"),
        ({"prompt": "We", "seed": 2**32}, "request: seed is 4294967296, expected an integer"),
        ({"prompt": "We", "mood": 1}, "request: mood is not a field, expected one of prompt, chat, "),
        ({"prompt": "We", "chat": True}, "chat is asked for, but the tokenizer has no chat template"),
        ({"prompt": "We", "steered": [{"label": "envy"}]}, "label 'envy' is not in the neuron set"),
        ({"prompt": "We", "steered": [{**ANGER, "program": "shout"}]}, "steered[0].program is 'shout', expected one"),
        ({"prompt": "We", "steered": [{**ANGER, "share": 0}]}, "steered[0].share is 0, expected a number in (0, 1]"),
        ({"prompt": "We", "steered": [{**ANGER, "program": "zero"}]}, "strength is 3.0, but the program zero has none"),
        (
            {"prompt": "We", "steered": [{"label": "anger", "program": "amplify", "strength": 0.5}]},
            "steered[0], label 'anger': factor is 0.5, expected a finite number of at least 1",
        ),
        (
            {"prompt": "We", "steered": [{"label": "anger", "program": "cross-signal"}]},
            "steered[0], label 'anger': signal is None, expected a label",
        ),
        (
            {"prompt": "We", "steered": [{"label": "anger", "program": "attenuate"}] * 2},
            "is touched by 'attenuate dynamic 0.5 anger' after another program, and the two do not combine",
        ),
        ({"prompt": "We " * 400}, "tokens and max_new_tokens is 40, but the model reads "),
    ],
)  # fmt: skip
def test_a_bad_request_names_the_field(visitor: Visitor, body: Any, message: str | None) -> None:
    if message is None:  # the beginning of a text is enough for a model that has a token for it
        assert whole(visitor.events(body))
    else:
        assert message in visitor.refused(body)
    assert json.loads(visitor.get("/neurons?label=anger").read())["neurons"]

"""Arguments in the wrong order are told by the names of their parameters, and anything that may be right is let in."""

from __future__ import annotations

import inspect
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas
import pytest
import torch

import affectron
from affectron._internal.arguments import TAKES, checked_arguments, kind_of
from affectron.attribution.pairs import attribute_pairs
from affectron.generation import continuations
from affectron.screening.pairs import screen_pairs
from tests.support.errors import message
from tests.support.results import make_neurons, make_stats
from tests.support.tiny import build

TASKS = {"emotion": ["joy", "love"]}
STATS, NEURONS = make_stats(TASKS), make_neurons(TASKS)
CORPUS = affectron.Corpus.from_records([{"text": "a", "label": "joy"}])
PROGRAM = affectron.zero(NEURONS["joy"])


class Tokenizer:
    def encode(self, text: str) -> list[int]:
        raise NotImplementedError

    def decode(self, ids: list[int]) -> str:
        raise NotImplementedError


class Processor:
    def decode(self, ids: list[int]) -> str:
        raise NotImplementedError

    def batch_decode(self, ids: list[list[int]]) -> list[str]:
        raise NotImplementedError


MODEL, TOKENIZER = torch.nn.Linear(1, 1), Tokenizer()
EXAM = affectron.Exam(MODEL, TOKENIZER, CORPUS)


def test_the_message_names_parameter_value_and_order() -> None:
    assert message(lambda: affectron.screen(TOKENIZER, MODEL, CORPUS)) == (
        "model is a tokenizer (Tokenizer), expected a model; tokenizer is a model (Linear), expected a tokenizer: the "
        "order is screen(model, tokenizer, corpus)"
    )
    assert message(lambda: affectron.select(NEURONS)) == "stats is a neuron set (NeuronSet), expected statistics"
    assert message(lambda: affectron.Exam("gpt2", TOKENIZER, CORPUS)) == (
        "model is 'gpt2', expected a model: the order is Exam(model, tokenizer, corpus)"
    )
    assert message(lambda: affectron.screen(MODEL, TOKENIZER, Path("data.jsonl"))).startswith(
        "corpus is PosixPath('data.jsonl'), expected a corpus"
    )


@pytest.mark.parametrize(
    ("function", "right"),
    [
        (affectron.screen, (MODEL, TOKENIZER, CORPUS)),
        (affectron.attribute, (MODEL, TOKENIZER, CORPUS)),
        (affectron.validate, (MODEL, TOKENIZER, CORPUS, NEURONS, STATS)),
        (affectron.Exam, (MODEL, TOKENIZER, CORPUS)),
        (affectron.choose_beta, (MODEL, TOKENIZER)),
        (affectron.intervene, (MODEL, PROGRAM)),
        (affectron.compact, (MODEL, NEURONS["joy"])),
        (affectron.associate, (NEURONS, STATS)),
        (affectron.ablate, (EXAM, NEURONS, STATS)),
        (affectron.compare_methods, (EXAM, NEURONS, STATS)),
        (affectron.compare_texts, (EXAM, STATS)),
        (affectron.check_estimate, (EXAM, NEURONS, STATS)),
        (affectron.mean, (NEURONS["joy"], STATS)),
        (affectron.attenuate, (NEURONS["joy"], STATS)),
        (affectron.induce, (NEURONS["joy"], STATS)),
        (affectron.contrast, (NEURONS["joy"], STATS)),
        (affectron.cross_signal, (NEURONS["joy"], STATS)),
        (affectron.models.check_tokenizer, (MODEL, TOKENIZER)),
        (screen_pairs, (MODEL, TOKENIZER)),
        (attribute_pairs, (MODEL, TOKENIZER)),
        (continuations, (MODEL, TOKENIZER)),
    ],
)
def test_any_two_arguments_in_each_others_place_are_refused(function: Any, right: tuple[Any, ...]) -> None:
    names = list(inspect.signature(function).parameters)
    for first in range(len(right)):
        for second in range(first):
            given = list(right)
            given[first], given[second] = given[second], given[first]
            text = message(lambda given=given: function(*given))
            for place in (first, second):
                assert f"{names[place]} is {kind_of(given[place])} ({type(given[place]).__name__}), expected " in text
            assert f": the order is {function.__name__}({', '.join(names[: len(right)])}" in text
            named = dict(zip(names, given, strict=False))
            assert message(lambda named=named: function(**named)) == text


@pytest.mark.parametrize(
    "call",
    [
        lambda: affectron.zero(STATS),
        lambda: affectron.amplify(PROGRAM, 2.0),
        lambda: affectron.residual(NEURONS, "layer", "joy"),
        lambda: affectron.schedule(NEURONS["joy"]),
        lambda: affectron.score(NEURONS, "hedges_g"),
        lambda: affectron.find_sites(TOKENIZER),
    ],
)
def test_a_single_argument_of_another_kind_is_refused(call: Any) -> None:
    assert ", expected " in message(call)


def test_a_neuron_set_and_the_list_of_a_label_are_told_apart() -> None:
    assert message(lambda: affectron.zero(NEURONS)) == "neurons is a neuron set (NeuronSet), expected a list of neurons"
    assert message(lambda: affectron.associate(NEURONS["joy"], STATS)).startswith(
        "neurons is a list of neurons (NeuronList), expected a neuron set: the order is associate(neurons, stats)"
    )
    assert repr(affectron.zero([("a", 1)])) == "Program(zero neurons; 1 neuron at 1 site)"


def test_each_of_several_programs_is_checked() -> None:
    for call in (lambda: affectron.compose(PROGRAM, NEURONS["joy"]), lambda: affectron.compose(PROGRAM, "joy.st")):
        assert message(call).startswith("programs[1] is ")
    for given in ([None, NEURONS["joy"]], (None, 2.0)):
        assert message(lambda given=given: affectron.intervene(MODEL, given)).startswith("program[1] is ")


@pytest.mark.parametrize("value", [[{"text": "a", "label": "b"}], pandas.DataFrame({"text": ["a"]}), 2.0, object()])
def test_what_only_this_package_makes_is_of_no_other_type(value: Any) -> None:
    kind = type(value).__name__
    told = f"corpus is of type {kind}, expected a corpus: the order is screen(model, tokenizer, corpus)"
    assert message(lambda: affectron.screen(MODEL, TOKENIZER, value)) == told
    assert message(lambda: affectron.induce(NEURONS["joy"], value, STATS)).startswith(
        f"stats is of type {kind}, expected statistics"
    )
    assert message(lambda: affectron.associate(value, STATS)).startswith(
        f"neurons is of type {kind}, expected a neuron set"
    )


def test_every_public_function_that_takes_these_is_checked() -> None:
    for name in affectron.__all__:
        function = getattr(affectron, name)
        if inspect.isfunction(function) and TAKES.keys() & inspect.signature(function).parameters.keys():
            assert hasattr(function, "__wrapped__"), name


def test_wrapped_and_unknown_models_and_processors_are_let_through() -> None:
    @checked_arguments
    def same(model: Any, tokenizer: Any) -> tuple[Any, Any]:
        return model, tokenizer

    class Compiled(torch.nn.Module):
        _orig_mod = MODEL

    class Decoding(torch.nn.Module):
        encode = decode = batch_decode = torch.nn.Module.forward

    peft = pytest.importorskip("peft")
    adapted = peft.get_peft_model(build("llama"), peft.LoraConfig(target_modules=["up_proj"]))
    for model in (MODEL, Compiled(), Decoding(), torch.compile(MODEL), adapted, SimpleNamespace(device="cpu"), None):
        for tokenizer in (TOKENIZER, Processor(), SimpleNamespace(), lambda text: text, None):
            assert same(model, tokenizer) == (model, tokenizer)
            assert same(tokenizer=tokenizer, model=model) == (model, tokenizer)
    with pytest.raises(TypeError, match=r"same\(\) missing 1 required positional argument: 'tokenizer'"):
        same(MODEL)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="takes 2 positional arguments but 3 were given"):
        same(MODEL, TOKENIZER, CORPUS)  # type: ignore[call-arg]

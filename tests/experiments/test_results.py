"""Results: each comes back from JSON as it was, and a field that is missing or wrong is named."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from affectron._internal.artifacts import KINDS, findings_file
from affectron.evaluation.verdicts import VERDICTS
from affectron.experiments import results
from affectron.experiments.results import RESULTS, Findings, Validation
from tests.support.errors import message
from tests.support.results import make_results

TASKS = {"tone": ["calm", "loud"], "mood": ["glum"]}
EXAMPLES = make_results(TASKS)

numbers = st.floats(allow_nan=False, allow_infinity=False)
counts = st.integers(0, 2**32 - 1)
texts = st.text(max_size=6)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts, lambda inner: st.lists(inner, max_size=2), max_leaves=3
)
# Names that no field has.
objects = st.dictionaries(texts.map("x{}".format), values, max_size=3)
intervals = st.tuples(numbers, numbers).map(sorted).map(tuple)


def maybe(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | strategy


def many(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(strategy, max_size=3).map(tuple)


def by_name(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.dictionaries(texts, strategy, max_size=3)


random_sets = st.builds(
    results.RandomSets, sets=counts, beyond=counts, p=numbers, ranked=counts, deltas=many(numbers), mean=numbers,
    interval=intervals, activity=maybe(numbers),
)  # fmt: skip
change = {
    "accuracy": numbers, "delta": numbers, "interval": intervals, "lost": counts, "gained": counts, "p": numbers,
    "others_delta": maybe(numbers), "others_interval": maybe(intervals), "specific_delta": maybe(numbers),
    "specific_interval": maybe(intervals), "specific_p": maybe(numbers), "answers_delta": numbers,
    "others_answers_delta": maybe(numbers), "answers_p": maybe(numbers), "relative_change": maybe(numbers),
}  # fmt: skip
judged = {
    **change, "random": maybe(random_sets), "adjusted_p": numbers, "specific_adjusted_p": maybe(numbers),
    "verdict": st.sampled_from(VERDICTS), "reason": texts,
}  # fmt: skip
effects = st.builds(results.Effect, **judged)
exams = st.builds(results.ExamOptions, texts, objects, texts, texts, maybe(counts), counts)


@st.composite
def validations(draw: st.DrawFn) -> Validation:
    rounds = st.builds(results.Round, texts, numbers, numbers, counts, numbers, numbers, maybe(numbers))
    masks = st.dictionaries(
        st.sampled_from(results.MASKS), st.builds(results.Mask, **judged, loss_delta=maybe(numbers))
    )
    label_results = st.builds(
        results.LabelResult, counts, many(rounds), texts, maybe(texts), numbers, numbers, counts, by_name(counts),
        numbers, counts, masks,
    )  # fmt: skip
    accuracies = by_name(st.builds(results.Accuracy, numbers, by_name(numbers)))
    labels = draw(st.lists(texts, unique=True, max_size=4))
    cut = draw(st.integers(0, len(labels)))
    tasks = {}
    for name, own in (("one", labels[:cut]), ("two", labels[cut:])):
        tested = draw(st.sets(st.sampled_from(own))) if own else set()
        of_label = {label: draw(label_results) for label in own if label in tested}
        tasks[name] = results.TaskResult(tuple(own), draw(counts), draw(accuracies), draw(counts), of_label)
    return Validation(draw(objects), draw(objects), tasks)


@st.composite
def inductions(draw: st.DrawFn) -> results.Induction:
    betas = draw(many(numbers))
    number = len(betas)

    def each(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        return st.lists(strategy, min_size=number, max_size=number).map(tuple)

    curves = st.builds(
        results.LabelInduction, counts, counts, numbers, each(numbers), each(intervals), maybe(each(numbers)),
        each(maybe(numbers)),
    )  # fmt: skip
    options = results.InductionOptions(draw(exams), betas, draw(counts))
    return results.Induction(draw(objects), options, draw(by_name(by_name(curves))))


@st.composite
def method_comparisons(draw: st.DrawFn) -> results.Methods:
    names = draw(st.lists(texts, unique=True, max_size=3))
    heights = st.builds(results.Heights, numbers, maybe(numbers), maybe(numbers))
    curves = st.builds(results.Curve, many(st.builds(results.CurvePoint, counts, heights)), maybe(heights))
    selected = st.builds(results.MethodResult, counts, maybe(effects), curves)
    labels = st.builds(
        results.LabelMethods, counts, st.fixed_dictionaries(dict.fromkeys(names, selected)), maybe(texts)
    )
    row = st.lists(maybe(numbers), min_size=len(names), max_size=len(names)).map(tuple)
    agreement = st.lists(row, min_size=len(names), max_size=len(names)).map(tuple)
    tasks = by_name(st.builds(results.TaskMethods, by_name(labels), agreement)) if names else st.just({})
    options = results.MethodsOptions(
        draw(exams), tuple(names), draw(numbers), draw(many(counts)), draw(maybe(counts)), draw(numbers)
    )
    return results.Methods(draw(objects), options, draw(tasks))


@st.composite
def signals(draw: st.DrawFn) -> results.CrossSignal:
    signal = st.builds(
        results.Signal, **change, random=maybe(random_sets), dev=many(numbers), omega=numbers,
        adjusted_p=maybe(numbers), helps=maybe(st.booleans()),
    )  # fmt: skip
    devices = dict.fromkeys(draw(st.lists(texts, unique=True, max_size=3)), signal)
    labels = st.builds(results.LabelSignals, counts, counts, st.fixed_dictionaries(devices))
    options = results.CrossSignalOptions(draw(exams), "a", "b", draw(many(numbers)), draw(maybe(counts)))
    return results.CrossSignal(draw(objects), options, draw(by_name(labels)))


@st.composite
def candidates(draw: st.DrawFn) -> results.Candidates:
    judged = st.tuples(numbers, intervals) | st.just((None, None))
    neurons = st.builds(
        lambda judged, **rest: results.CandidateNeuron(auroc=judged[0], interval=judged[1], **rest), judged,
        site=texts, index=counts, direction=st.sampled_from(["higher", "lower"]), p=maybe(numbers),
        redundancy=maybe(numbers), q=maybe(numbers),
    )  # fmt: skip
    labels = st.builds(results.LabelCandidates, texts, counts, counts, many(neurons))
    options = st.builds(
        results.CandidatesOptions, maybe(texts), texts, st.sampled_from(["rate", "mean"]),
        st.sampled_from(["all", "last", "mean"]), texts, counts, counts,
    )  # fmt: skip
    return results.Candidates(draw(objects), draw(options), draw(by_name(labels)))


@st.composite
def associations(draw: st.DrawFn) -> results.Associations:
    labels = draw(st.lists(texts, unique=True, min_size=1, max_size=4))
    pair = st.builds(
        results.AssociatedPair, st.sampled_from(labels), st.sampled_from(labels), st.booleans(), counts, numbers,
        maybe(numbers), maybe(numbers), maybe(numbers), maybe(numbers),
    )  # fmt: skip
    thirds = st.just({}) | st.fixed_dictionaries(dict.fromkeys(results.THIRDS, counts))
    layers = by_name(st.builds(results.LabelLayers, by_name(counts), thirds))
    options = results.AssociationsOptions(draw(texts))
    return results.Associations(
        draw(objects), options, draw(counts), {"one": tuple(labels)}, draw(many(pair)), draw(layers)
    )


@st.composite
def generations(draw: st.DrawFn) -> results.Generation:
    beginnings, each = draw(st.lists(texts, max_size=2)), draw(st.integers(0, 2))
    scores = st.builds(results.Score, numbers, numbers, maybe(numbers))
    settings = st.builds(results.Setting, maybe(numbers), maybe(numbers), maybe(texts), scores)
    versus = st.builds(results.Versus, numbers, intervals, numbers, numbers)
    size = len(beginnings) * each
    written = st.lists(st.builds(results.WrittenText, texts, maybe(texts)), min_size=size, max_size=size).map(tuple)
    methods = st.builds(
        results.MethodGeneration, maybe(counts), st.lists(settings, min_size=1, max_size=3).map(tuple), st.just(0),
        scores, intervals, numbers, many(texts), numbers, by_name(versus), written,
    )  # fmt: skip
    judges = st.builds(results.Judge, texts, numbers, counts)
    tasks = st.builds(
        results.TaskGeneration, judges, judges, numbers, st.just(tuple(beginnings)), by_name(by_name(methods))
    )
    options = st.builds(
        results.GenerationOptions, exams, many(numbers), many(numbers), numbers, many(texts), texts, counts,
        counts, st.just(each), counts, maybe(texts), numbers,
    )  # fmt: skip
    return results.Generation(draw(objects), draw(options), draw(by_name(tasks)))


@st.composite
def cards(draw: st.DrawFn) -> results.Cards:
    def excerpt(activations: list[float | None], extreme: int, labels: tuple[str, ...]) -> results.Excerpt:
        tokens = tuple(f" {value}" for value in activations)
        return results.Excerpt(labels, tokens, tuple(activations), extreme % len(tokens), (extreme > 0, False))

    excerpts = many(st.builds(excerpt, st.lists(maybe(numbers), min_size=1, max_size=4), counts, many(texts)))
    spreads = st.builds(results.Spread, counts, st.tuples(*[numbers] * len(results.LEVELS)))
    moments = st.builds(results.Moments, counts, *[numbers] * 4)
    tokens = maybe(many(st.builds(results.VocabularyToken, texts, numbers)))
    neurons = st.builds(
        results.NeuronCard, texts, counts, many(texts), excerpts, excerpts, by_name(spreads),
        maybe(by_name(moments)), tokens, tokens,
    )  # fmt: skip
    rules = st.sampled_from(["all", "last", "mean"])
    options = st.builds(results.CardsOptions, maybe(texts), rules, texts, *[counts] * 4)
    return results.Cards(draw(objects), draw(options), draw(many(neurons)))


frequencies = many(st.tuples(texts, st.integers(0, 99), numbers))
ANY = {
    "validation": validations(),
    "ablations": st.builds(
        results.Ablations, objects,
        st.builds(results.AblationsOptions, exams, texts, numbers, *[many(numbers)] * 3, objects, maybe(counts),
                  numbers),
        many(st.builds(results.Ablation, *[texts] * 3, texts | numbers | st.integers(-9, 9), numbers, counts, counts,
                       maybe(effects))),
    ),
    "associations": associations(),
    "candidates": candidates(),
    "cards": cards(),
    "cross_signal": signals(),
    "estimate": st.builds(
        results.Estimate, objects, st.builds(results.EstimateOptions, exams, counts),
        by_name(by_name(st.builds(
            results.LabelEstimate, counts,
            many(st.builds(results.EstimatedNeuron, texts, counts, st.booleans(), numbers, numbers)),
            *[maybe(numbers)] * 3,
        ))),
    ),
    "generation": generations(),
    "induction": inductions(),
    "methods": method_comparisons(),
    "responses": st.builds(
        results.Responses, objects, st.builds(results.ResponsesOptions, exams, counts, many(numbers)),
        by_name(st.builds(
            results.LabelResponses, texts, counts, numbers,
            many(st.builds(
                results.NeuronResponse, texts, counts,
                many(st.builds(results.ResponsePoint, maybe(numbers), maybe(intervals))),
            )),
        )),
    ),
    "stability": st.builds(
        results.Stability, objects, st.builds(results.StabilityOptions, counts, objects, counts, counts, counts),
        by_name(st.builds(results.LabelStability, texts, counts, frequencies, frequencies, maybe(numbers))),
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", RESULTS)
def test_every_result_comes_back_from_json(kind: str) -> None:
    @settings(max_examples=40, deadline=None)
    @given(ANY[kind])
    def comes_back(result: Findings) -> None:
        text = json.dumps(result.to_json(), allow_nan=False)
        assert type(result).from_json(json.loads(text)) == result

    comes_back()


def test_every_kind_has_a_file_and_an_example() -> None:
    assert set(RESULTS) == {"validation", *KINDS} == set(EXAMPLES) == set(ANY)


@pytest.mark.parametrize("kind", RESULTS)
def test_a_file_gives_the_result_back(kind: str, tmp_path: Path) -> None:
    result, path = EXAMPLES[kind], tmp_path / findings_file(kind)
    result.save(path)
    assert Findings.load(path, kind) == RESULTS[kind].load(path) == result
    content = json.loads(path.read_text())
    assert content == result.content
    assert (content["format"], content["version"]) == (f"affectron.{kind}", 1)
    assert result["provenance"] == result.provenance


def fields(record: Any, plain: Any, path: str) -> Iterator[tuple[dict[str, Any], str, str]]:
    """(object, name, the way to it) of every field of a result in its plain form."""
    if dataclasses.is_dataclass(record):
        for field in dataclasses.fields(record):
            value = getattr(record, field.name)
            if field.name in plain:
                way = f"{path}.{field.name}" if path else field.name
                yield plain, field.name, way
                yield from fields(value, plain[field.name], way)
            else:  # its names stand beside those of its owner
                yield from fields(value, plain, path)
    elif isinstance(record, dict):
        for key, value in record.items():
            yield from fields(value, plain.get(key), f"{path}.{key}" if path else key)
    elif isinstance(record, tuple):
        for position, value in enumerate(record):
            yield from fields(value, plain[position], f"{path}[{position}]")


@pytest.mark.parametrize("kind", RESULTS)
def test_a_field_that_is_missing_or_of_another_type_is_named(kind: str) -> None:
    result = EXAMPLES[kind]
    content = result.to_json()
    checked = 0
    for owner, name, way in fields(result, content, ""):
        value = owner.pop(name)
        line = message(lambda: type(result).from_json(content, "f.json"))
        assert line.startswith(f"f.json: {way} is missing, expected ")
        wrong = [3 if isinstance(value, (dict, list, str)) else "text", float("nan"), {"other": []}]
        if isinstance(value, dict):  # with other names it may be right
            del wrong[2]
        if name == "setting":  # text or a number
            wrong = [[], None, float("nan")]
        if name in ("judged", "layer"):  # text or nothing
            wrong = [3, [], float("nan")]
        for owner[name] in wrong:
            line = message(lambda: type(result).from_json(content, "f.json"))
            # A record that may be absent is read, and its field refused.
            assert line.startswith((f"f.json: {way} is ", f"f.json: {way}.other is not a field"))
            assert "expected" in line
        owner[name] = value
        checked += 1
    assert checked > 8
    assert type(result).from_json(content) == result


def at(content: Any, way: str) -> tuple[Any, Any]:
    """The object that has the field, and the field's key there."""
    *parents, last = way.split("/")
    for key in parents:
        content = content[int(key) if isinstance(content, list) else key]
    return content, int(last) if isinstance(content, list) else last


@pytest.mark.parametrize(
    ("kind", "way", "value", "line"),
    [
        ("validation", "format", "affectron.neurons", "format is 'affectron.neurons', expected 'affectron.validation'"),
        ("validation", "version", 2, "version is 2, expected 1"),
        ("validation", "tasks/tone/test_sentences", -1, "tasks.tone.test_sentences is -1, expected an integer of at"),
        ("validation", "tasks/tone/labels", ["calm", 3], "tasks.tone.labels[1] is 3, expected text"),
        (
            "validation", "tasks/tone/results/calm/masks/adaptive/interval", [0.1, -0.1],
            "tasks.tone.results.calm.masks.adaptive.interval is [0.1, -0.1], expected two numbers, low and high",
        ),
        ("validation", "tasks/tone/results/calm/masks/adaptive/interval", [0.1], "interval is [0.1], expected a list"),
        ("validation", "tasks/tone/results/calm/trace/0/alpha", True, "trace[0].alpha is True, expected a finite"),
        ("validation", "tasks/tone/results/calm/masks/zero/verdict", "no", "verdict is 'no', expected one of specific"),
        ("validation", "tasks/tone/results/calm/new", 1, "results.calm.new is not a field, expected one of selected"),
        ("ablations", "rows/0/new", 1, "rows[0].new is not a field, expected one of task"),
        ("ablations", "rows/0/setting", [1], "rows[0].setting is [1], expected text or a finite number"),
        ("associations", "pairs/0/second", "glad", "pairs[0].second is 'glad', expected one of calm, loud, glum"),
        ("associations", "layers/calm/thirds", {"top": 1}, "layers.calm.thirds is top, expected bottom, middle, top"),
        ("candidates", "labels/calm/neurons/0/interval", None, "labels.calm.neurons[0].interval is None, expected one"),
        ("cross_signal", "labels/glum/devices", {}, "labels.glum.devices"),
        ("generation", "options/texts", 1, "tasks.tone.labels.calm.unsteered.texts has 24 texts, expected 12"),
        ("generation", "tasks/mood/labels/glum/prompt/chosen", 1, "glum.prompt.chosen is 1, expected less than 1"),
        ("induction", "options/betas", [1.0], "tasks.tone.calm.share has 5 values, expected one for each of 1 betas"),
        ("methods", "options/methods", ["paper"], "tasks.tone.labels.calm.methods is paper, lee, expected paper"),
        ("methods", "tasks/mood/agreement", [[1.0, 1.0]], "tasks.mood.agreement: expected a row and a column for each"),
        ("stability", "labels/calm/neurons/0", ["site", 1], "labels.calm.neurons[0] is ['site', 1], expected a list"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named(kind: str, way: str, value: Any, line: str, tmp_path: Path) -> None:
    content = EXAMPLES[kind].to_json()
    if kind == "cross_signal":  # the same devices everywhere
        content["labels"]["joy"] = content["labels"]["glum"] | {}
    owner, key = at(content, way)
    owner[key] = value
    path = tmp_path / "f.json"
    path.write_text(json.dumps(content))
    text = message(lambda: Findings.load(path, kind))
    assert line in text
    assert text.startswith(f"{path}: ")
    assert text.endswith(f"; make the file anew with affectron {'validate' if kind == 'validation' else 'run'}")


@pytest.mark.parametrize(
    ("way", "value", "line"),
    [
        ("tasks/tone/results/calm/masks/other", "adaptive", "results.calm.masks is 'other', expected one of adaptive"),
        ("tasks/tone/results/odd", "calm", "tasks.tone.results is 'odd', expected one of calm, loud"),
        ("tasks/other", "tone", "tasks have label 'calm' twice, expected each label in one task"),
    ],
)
def test_a_name_that_does_not_belong_is_named(way: str, value: str, line: str) -> None:
    content = EXAMPLES["validation"].to_json()
    owner, key = at(content, way)
    owner[key] = owner[value]
    assert line in message(lambda: Validation.from_json(content))


@pytest.mark.parametrize(("text", "line"), [(None, "cannot read"), ("{", "is not JSON"), ("[]", "format is 'list'")])
def test_a_file_that_is_no_result_is_refused(text: str | None, line: str, tmp_path: Path) -> None:
    path = tmp_path / "validation.json"
    if text is not None:
        path.write_text(text)
    told = message(lambda: Validation.load(path))
    assert line in told
    assert told.endswith("make the file anew with affectron validate")


def test_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tables.json"
    assert "kind is 'tables', expected one of ablations" in message(lambda: Findings.load(path, "tables"))
    assert "kind is None, expected one of ablations" in message(lambda: Findings.load(path))
    assert "kind is 'methods', expected one of validation" in message(lambda: Validation.load(path, "methods"))


def test_a_fault_of_our_own_is_not_read_as_a_missing_field(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: object) -> None:
        raise KeyError("share")

    content = EXAMPLES["induction"].to_json()
    monkeypatch.setattr(results.Induction, "__post_init__", broken)
    with pytest.raises(KeyError):
        results.Induction.from_json(content)

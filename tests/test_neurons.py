"""NeuronList and NeuronSet: sequences and sets of neurons, and files that are checked field by field."""

from __future__ import annotations

import copy
import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from affectron.errors import InputError
from affectron.neurons import NeuronList, NeuronSet
from tests.support.raw_activations import PROVENANCE

# --- NeuronList ------------------------------------------------------------------------------------------

SITES = ["model.layers.0.mlp", "model.layers.1.mlp"]
widths = dict.fromkeys(SITES, 50)
neuron = st.tuples(st.sampled_from(SITES), st.integers(0, 49), st.floats(-10, 10))
items = st.lists(neuron, unique_by=lambda item: item[:2], max_size=30)


@settings(max_examples=60, deadline=None)
@given(given_items=items, share=st.floats(0, 1, exclude_min=True), cut=st.slices(30))
def test_a_list_is_a_sequence_that_keeps_its_label(given_items, share, cut):
    neurons = NeuronList("anger", "emotion", given_items)
    assert list(neurons) == given_items
    part = neurons[cut]
    assert (part.label, part.task, list(part)) == ("anger", "emotion", given_items[cut])
    top = neurons.top(share)
    assert list(top) == given_items[: len(top)]
    assert abs(len(top) - share * len(given_items)) <= 0.5 or len(top) == min(1, len(given_items))
    by_site = neurons.by_site()
    assert {(site, int(i)) for site, indices in by_site.items() for i in indices} == {item[:2] for item in given_items}
    for indices in by_site.values():
        assert indices.dtype == np.int64
        assert (np.diff(indices) > 0).all()


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ((3, 1, 0.5), "neuron 1: site is 3, expected text"),
        (("s", -1, 0.5), "neuron 1: index is -1, expected an integer of at least 0"),
        (("s", 1.0, 0.5), "neuron 1: index is 1.0, expected an integer of at least 0"),
        (("s", True, 0.5), "neuron 1: index is True"),
        (("s", "1", 0.5), "neuron 1: index is '1'"),
        (("s", None, 0.5), "neuron 1: index is None"),
        (("s", 1, math.nan), "neuron 1: score is nan, expected a finite number"),
        (("s", 1, -math.inf), "neuron 1: score is -inf"),
        (("s", 1, "0.5"), "neuron 1: score is '0.5'"),
        (("s", 1, None), "neuron 1: score is None"),
        (("s", 1, 10**400), "neuron 1: score is 1000000"),
        (("s", 1), r"neuron 1: \('s', 1\), expected \[site, index, score\]"),
        ("s10", "neuron 1: 's10', expected"),
        (("s", 0, 2.0), "neuron 0 of s is there twice"),
    ],
)
def test_a_list_refuses_what_is_no_neuron(item, message):
    with pytest.raises(InputError, match=f"label 'anger'.*{message}"):
        NeuronList("anger", "emotion", [("s", 0, 1.0), item])


def test_numbers_of_numpy_are_neurons_too():
    neurons = NeuronList("a", "t", [("s", np.int64(3), np.float32(0.5))])
    assert list(neurons) == [("s", 3, 0.5)]
    assert type(neurons[0][1]) is int
    assert type(neurons[0][2]) is float


# --- NeuronSet -------------------------------------------------------------------------------------------


def make(items_of: dict[str, list], **provenance) -> NeuronSet:
    task = {"anger": "emotion", "fear": "emotion", "irony": "rhetoric"}
    lists = [NeuronList(label, task[label], items) for label, items in items_of.items()]
    return NeuronSet(lists, widths, {**PROVENANCE, **provenance})


@settings(max_examples=40, deadline=None)
@given(a=items, b=items, c=items)
def test_overlap_is_jaccard_and_site_counts_add_up(a, b, c):
    neurons = make({"anger": a, "fear": b, "irony": c})
    labels, matrix = neurons.overlap()
    assert labels == ("anger", "fear", "irony")
    for (i, x), (j, y) in itertools.product(enumerate((a, b, c)), repeat=2):
        left, right = {item[:2] for item in x}, {item[:2] for item in y}
        if left | right:
            assert matrix[i, j] == len(left & right) / len(left | right)
        else:
            assert math.isnan(matrix[i, j])
    sites, counts = neurons.site_counts()
    assert sites == tuple(SITES)
    for row, neurons in enumerate((a, b, c)):
        for column, site in enumerate(sites):
            assert counts[row, column] == sum(item[0] == site for item in neurons)


@settings(max_examples=40, deadline=None)
@given(a=items, b=items)
def test_a_file_gives_back_the_same_set(tmp_path_factory, a, b):
    path = tmp_path_factory.mktemp("neurons") / "n.json"
    neurons = make({"irony": a, "anger": b}, select={"top": 0.01, "sign": None})
    neurons.save(path)
    loaded = NeuronSet.load(path)
    assert loaded == neurons
    assert list(loaded.widths) == list(neurons.widths)
    assert loaded.tasks == neurons.tasks
    assert dict(loaded) == {"irony": NeuronList("irony", "rhetoric", a), "anger": NeuronList("anger", "emotion", b)}


def test_an_unknown_label_is_named_with_the_known_ones():
    neurons = make({"anger": [], "irony": []})
    with pytest.raises(InputError, match=r"label 'hope' is not in the neuron set, which has anger, irony"):
        neurons["hope"]
    assert "hope" not in neurons
    assert "anger" in neurons
    assert neurons.get("hope") is None
    assert neurons.get("anger") == NeuronList("anger", "emotion", [])


def test_neurons_beyond_the_model_are_refused():
    neurons = make({"anger": [(SITES[0], 3, 1.0)], "fear": [(SITES[1], 49, 1.0)]})
    neurons.check(widths)
    with pytest.raises(
        InputError, match=r"'fear': neuron index beyond the model: index 49 of model.layers.1.mlp, which has 49"
    ):
        neurons.check({SITES[0]: 50, SITES[1]: 49})
    with pytest.raises(InputError, match=r"'fear': site 'model.layers.1.mlp' is not in the model"):
        neurons.check({SITES[0]: 50})
    with pytest.raises(InputError, match="index beyond the model"):
        NeuronSet([NeuronList("a", "t", [("s", 5, 0.0)])], {"s": 5})
    with pytest.raises(InputError, match="label 'a' is there twice"):
        NeuronSet([NeuronList("a", "t", []), NeuronList("a", "u", [])], {"s": 5})


def change(path: list, value):
    def apply(content):
        for key in path[:-1]:
            content = content[key]
        if value is None:
            del content[path[-1]]
        else:
            content[path[-1]] = value

    return apply


@pytest.mark.parametrize(
    ("apply", "message"),
    [
        (change(["format"], "affectron.stats"), "format is 'affectron.stats', expected 'affectron.neurons'"),
        (change(["version"], 2), "version is 2, expected 1"),
        (change(["provenance"], None), "provenance is None, expected an object"),
        (change(["labels"], []), r"labels is \[\], expected an object"),
        (change(["tasks"], "emotion"), "tasks is 'emotion', expected an object"),
        (change(["sites"], None), "sites is None, expected an object"),
        (change(["sites", SITES[0]], 0), r"sites: width of 'model.layers.0.mlp' is 0, expected an integer >= 1"),
        (change(["sites", SITES[0]], 2.5), "is 2.5, expected an integer"),
        (change(["sites", SITES[0]], 3), "label 'anger': neuron index beyond the model: index 3 "),
        (change(["sites", SITES[0]], None), "site 'model.layers.0.mlp' is not in the model"),
        (change(["tasks", "emotion"], "anger"), "tasks: 'emotion' is 'anger', expected a list of labels"),
        (change(["tasks", "emotion"], ["anger", 1]), r"expected a list of labels"),
        (change(["tasks", "emotion"], ["anger", "anger"]), "label 'anger' is there twice"),
        (change(["tasks", "emotion"], ["anger"]), "labels: 'fear' is in no task"),
        (change(["labels", "fear"], None), "labels: 'fear' is missing"),
        (change(["labels", "fear"], {}), "labels: 'fear' is {}, expected a list of neurons"),
        (change(["labels", "anger", 0, 0], 7), "label 'anger', neuron 0: site is 7, expected text"),
        (change(["labels", "anger", 0, 1], -3), "neuron 0: index is -3, expected an integer of at least 0"),
        (change(["labels", "anger", 0, 1], 3.0), "neuron 0: index is 3.0"),
        (change(["labels", "anger", 0, 2], math.nan), "neuron 0: score is nan, expected a finite number"),
        (change(["labels", "anger", 0], "x"), "neuron 0: 'x', expected"),
    ],
)
def test_every_field_of_a_file_is_checked(tmp_path, apply, message):
    path = tmp_path / "n.json"
    make({"anger": [(SITES[0], 3, 1.0)], "fear": [(SITES[1], 4, 2.0)]}).save(path)
    content = json.loads(path.read_text())
    apply(content)
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=message) as caught:
        NeuronSet.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_no_content_whatever_makes_loading_fail_in_another_way(tmp_path_factory, data):
    """A file with any part replaced by any other JSON value is loaded and valid, or raises an InputError."""
    base = tmp_path_factory.mktemp("neurons")
    path = base / "n.json"
    make({"anger": [(SITES[0], 3, 1.0)], "fear": []}).save(path)
    content = json.loads(path.read_text())
    anything = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
        max_leaves=4,
    )
    at = copy.copy(
        data.draw(
            st.sampled_from(
                [
                    ["labels"],
                    ["labels", "anger"],
                    ["labels", "anger", 0],
                    ["labels", "anger", 0, 0],
                    ["tasks"],
                    ["labels", "anger", 0, 1],
                    ["labels", "anger", 0, 2],
                    ["tasks", "emotion"],
                    ["sites"],
                    ["provenance"],
                    ["sites", SITES[0]],
                    ["format"],
                    ["version"],
                ]
            )
        )
    )
    inner = content
    for key in at[:-1]:
        inner = inner[key]
    inner[at[-1]] = data.draw(anything)
    path.write_text(json.dumps(content))
    try:
        loaded = NeuronSet.load(path)
    except InputError:
        return
    loaded.check(loaded.widths)
    for neurons in loaded.values():
        assert all(math.isfinite(value) and index >= 0 for _, index, value in neurons)

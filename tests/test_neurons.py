"""Selection against a plain loop over the definitions, and NeuronSet files that are checked field by field."""

from __future__ import annotations

import copy
import itertools
import json
import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from affectron.errors import InputError
from affectron.neurons import NeuronList, NeuronSet
from affectron.scores import SCORES, fdr, score
from affectron.selection import select
from affectron.stats import FIELDS, ActivationStats
from tests.support.errors import message
from tests.support.raw_activations import PROVENANCE, Raw, raw, starved

WIDTHS = (31, 17, 52)  # 100 neurons


@pytest.fixture(autouse=True)
def _no_warning_leaks():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def rates(data: Raw, task: str) -> list[tuple[str, int, list[float]]]:
    """(site, index, P of each label) of every neuron in order, token by token."""
    return [
        (site, f, [float(active[data.target(label), f].mean()) for label in sorted(data.tasks[task])])
        for site, active in data.active.items()
        for f in range(active.shape[1])
    ]


def recognise(data: Raw, task: str, top: float, filter_rate, assign: str, bar: float) -> dict[str, list]:
    """The methods of LAPE and Lee et al. written as loops, sorted() doing the ties."""
    neurons = rates(data, task)
    everything = [p for _, _, found in neurons for p in found]
    quantile = -1.0 if filter_rate is None else np.quantile(everything, filter_rate)
    scored = []
    for position, (site, index, found) in enumerate(neurons):
        if sum(found) > 0 and max(found) > quantile:
            shares = [p / sum(found) for p in found]
            entropy = -sum(p * math.log(p) for p in shares if p > 0)
            scored.append((round(entropy, 12), position, site, index, found))
    best = sorted(scored, key=lambda item: item[:2])[: max(1, round(top * len(neurons)))]
    lists = {}
    for row, label in enumerate(sorted(data.tasks[task])):
        if assign == "argmax":
            mine = [item for item in best if item[4].index(max(item[4])) == row]
        else:
            mine = [item for item in best if item[4][row] > np.quantile(everything, bar)]
        lists[label] = [(site, index) for _, _, site, index, _ in mine]
    return lists


def places(neurons: NeuronSet) -> dict[str, list[tuple[str, int]]]:
    return {label: [(site, index) for site, index, _ in found] for label, found in neurons.items()}


@pytest.mark.parametrize("task", ["emotion", "rhetoric"])
@pytest.mark.parametrize("assign", ["argmax", "bar"])
@pytest.mark.parametrize("filter_rate", [None, 0.5, 0.95])
@pytest.mark.parametrize("seed", [0, 1])
def test_recognition_by_entropy_is_the_recipe_of_the_papers(seed, filter_rate, assign, task):
    data = raw(seed, widths=WIDTHS)
    for site, active in data.active.items():  # dead neurons must not come first
        active[:, 3] = False
        active[:, 5] = data.target("anger") & (np.arange(len(active)) % 2 == 0) if "0" in site else active[:, 5]
    for top, bar in ((0.01, 0.95), (0.1, 0.7), (1.0, 0.5)):
        got = select(data.stats(), task, top=top, filter_rate=filter_rate, assign=assign, activation_bar_ratio=bar)
        assert places(got) == recognise(data, task, top, filter_rate, assign, bar)
        entropy = score(data.stats(), "entropy", task)
        for neurons in got.values():
            for site, index, value in neurons:
                assert value == entropy[site][0, index]


def test_defaults_are_the_published_ones():
    data = raw(2, widths=WIDTHS)
    assert places(select(data.stats(), "emotion")) == recognise(data, "emotion", 0.01, 0.95, "argmax", 0.95)


@pytest.mark.parametrize("name", [name for name, kind in SCORES.items() if kind.per_label and not kind.paired])
@pytest.mark.parametrize("sign", [None, "positive", "negative"])
def test_other_scores_take_each_labels_own_best(name, sign):
    stats = raw(3, widths=WIDTHS, bad=True).stats()
    values, difference = score(stats, name, "emotion"), score(stats, "mean_difference", "emotion")
    with pytest.warns(UserWarning, match=f"3 of 100 neurons, the first at {stats.sites[0]}, have no finite activation"):
        got = select(stats, "emotion", score=name, top=0.15, sign=sign)
    high = SCORES[name].better == "high" and not (SCORES[name].signed and sign == "negative")
    for row, label in enumerate(stats.tasks["emotion"]):
        order = sorted(
            (-values[site][row, f] if high else values[site][row, f], number, f)
            for number, site in enumerate(stats.sites)
            for f in range(stats.widths[site])
            if not math.isnan(values[site][row, f])
        )[:15]
        wanted = [(stats.sites[number], f) for _, number, f in order]
        if sign:
            keep = 1 if sign == "positive" else -1
            wanted = [(site, f) for site, f in wanted if keep * difference[site][row, f] > 0]
        assert places(got)[label] == wanted


SCREENS = {"sign": "positive", "min_effect": 0.2, "fdr": 0.01, "min_count": 40}


def screens(stats: ActivationStats, task: str, row: int, label: str):
    """Whether (site, index) passes each screen for one label, by the scores themselves."""
    difference = score(stats, "mean_difference", task)
    g, p = score(stats, "hedges_g", task), score(stats, "welch_p", task)
    flat = fdr(np.concatenate([p[site][row] for site in stats.sites]))
    adjusted = dict(zip(stats.sites, np.split(flat, np.cumsum(list(stats.widths.values()))[:-1]), strict=True))
    target = stats.label(label)
    return {
        "sign": lambda site, f: difference[site][row, f] > 0,
        "min_effect": lambda site, f: abs(g[site][row, f]) >= SCREENS["min_effect"],
        "fdr": lambda site, f: adjusted[site][f] <= SCREENS["fdr"],
        "min_count": lambda site, f: target[site].active[f] >= SCREENS["min_count"],
    }


@pytest.mark.parametrize(
    "options",
    [
        {"score": "entropy", "filter_rate": None, "assign": "bar", "activation_bar_ratio": 0.3},
        {"score": "mutual_information"},
    ],
)
def test_screens_remove_exactly_what_fails_them_in_any_combination(options):
    stats = raw(4, tokens=200, widths=WIDTHS).stats()
    options = {**options, "top": 0.6}
    everyone = places(select(stats, "emotion", **options))
    tests = {label: screens(stats, "emotion", row, label) for row, label in enumerate(stats.tasks["emotion"])}
    removed = dict.fromkeys(SCREENS, 0)
    for size in range(len(SCREENS) + 1):
        for chosen in itertools.combinations(SCREENS, size):
            got = places(select(stats, "emotion", **options, **{name: SCREENS[name] for name in chosen}))
            for label, found in everyone.items():
                expected = [place for place in found if all(tests[label][name](*place) for name in chosen)]
                assert got[label] == expected
                if size == 1:
                    removed[chosen[0]] += len(found) - len(expected)
    assert all(removed.values())  # each screen had something to do


def test_all_tasks_together_are_each_task_by_itself():
    stats = raw(5, widths=WIDTHS).stats()
    both = select(stats, top=0.1)
    assert both.labels == stats.labels
    assert both.tasks == stats.tasks
    for task in stats.tasks:
        alone = select(stats, task, top=0.1)
        assert alone.tasks == {task: stats.tasks[task]}
        for label in alone:
            assert both[label] == alone[label]
            assert both[label].task == task


def test_ties_go_by_site_in_forward_order_then_index():
    arrays = {}
    for site in ("model.layers.10.mlp", "model.layers.2.mlp"):  # forward order, which is not alphabetical
        arrays[site] = {name: np.ones((2, 4), kind) for name, kind in FIELDS.items()}
        arrays[site] |= {"count": np.array([10, 10]), "active": np.array([[5, 5, 0, 5], [0, 0, 0, 0]])}
    stats = ActivationStats({"t": ("a", "b")}, [("a",), ("b",)], arrays, PROVENANCE)
    got = select(stats, top=0.5, filter_rate=None)
    first, second = stats.sites
    assert list(got["a"]) == [(first, 0, 0.0), (first, 1, 0.0), (first, 3, 0.0), (second, 0, 0.0)]
    assert len(got["b"]) == 0
    by_label = select(stats, top=0.5, score="log_odds")
    assert places(by_label)["a"] == [(first, 0), (first, 1), (first, 3), (second, 0)]
    assert places(by_label)["b"] == [(first, 2), (second, 2), (first, 0), (first, 1)]


@pytest.mark.parametrize("assign", ["argmax", "bar"])
def test_a_label_without_tokens_gets_no_neurons_and_takes_none(assign):
    data = raw(6, widths=WIDTHS, both=False)
    keep = ~data.target("fear")
    got = select(data.stats(keep, sorted(set(data.labels))), "emotion", top=0.2, filter_rate=0.5, assign=assign)
    assert len(got["fear"]) == 0
    data.tasks = {"emotion": ("anger", "joy"), "rhetoric": data.tasks["rhetoric"]}
    data.labels = [("unlabelled",) if labels == ("fear",) else labels for labels in data.labels]
    without = select(data.stats(keep), "emotion", top=0.2, filter_rate=0.5, assign=assign)
    assert {label: got[label] for label in ("anger", "joy")} == dict(without)


@pytest.mark.parametrize(
    "options",
    [
        {"filter_rate": 0.5},
        {"filter_rate": None},
        {"assign": "bar", "activation_bar_ratio": 0.6, "filter_rate": 0.3},
        {"score": "raw_entropy"},
        *({"score": name} for name, kind in SCORES.items() if kind.per_label and not kind.paired),
        {"score": "hedges_g", "sign": "positive", "min_effect": 0.1, "fdr": 0.5, "min_count": 3},
    ],
    ids=str,
)
@pytest.mark.parametrize("lacking", [("anger", "joy"), ("anger", "fear", "joy")])
def test_sites_without_tokens_of_two_labels_take_no_part_and_are_named_once(options, lacking):
    whole = raw(8, widths=(20, 31, 17, 52, 80), both=False).stats()
    bare = list(whole.sites[1:4:2])
    stats = starved(whole, dict.fromkeys(bare, lacking))
    kept = [site for site in whole.sites if site not in bare]
    arrays = {site: {name: getattr(whole, name)[site] for name in FIELDS} for site in kept}
    without = ActivationStats(whole.tasks, whole.segments, arrays, whole.provenance)
    line = f"at 2 of 5 sites, the first {bare[0]}, fewer than two labels have tokens"
    with pytest.warns(UserWarning, match=line) as said:
        got = select(stats, "emotion", top=0.1, **options)  # 20 of 200 neurons
    assert dict(got) == dict(select(without, "emotion", top=20 / 117, **options))
    assert any(got.values())
    assert len(said) == 1


def test_a_neuron_without_numbers_under_a_label_is_no_neuron_of_another_and_is_counted():
    """Left in, it would have the lowest entropy of all: it is active under one label alone."""
    data = raw(8, widths=WIDTHS, both=False)
    site = "model.layers.1.mlp"
    data.active[site][:, 4] = data.target("anger")
    assert (site, 4) in places(select(data.stats(), "emotion", top=0.01, filter_rate=None))["anger"]
    data.values[site][~data.target("anger"), 4] = np.nan
    with pytest.warns(UserWarning, match=f"1 of 100 neurons, the first at {site}, have no finite activation") as said:
        found = select(data.stats(), "emotion", top=1.0, filter_rate=None)
    assert len(said) == 1
    assert all((site, 4) not in neurons for neurons in places(found).values())
    assert sum(map(len, found.values())) == 99


def test_no_neuron_with_a_score_is_an_error():
    data = raw(7, widths=(4,))
    for site in data.active:
        data.active[site][:] = False
    assert message(lambda: select(data.stats(), filter_rate=None)) == (
        "task 'emotion': no neuron has a score by entropy: too few tokens under its labels, or no neuron is active or "
        "finite"
    )
    assert len(select(data.stats(), "emotion", score="hedges_g", top=1.0)["anger"]) == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top": 0}, r"top is 0, expected a number in \(0, 1\]"),
        ({"top": 1.5}, r"top is 1.5, expected a number in \(0, 1\]"),
        ({"top": -0.1}, "top is -0.1"),
        ({"top": math.nan}, "top is nan"),
        ({"top": "1%"}, "top is '1%'"),
        ({"top": True}, "top is True"),
        ({"score": "auroc"}, "score is 'auroc', expected one of entropy"),
        ({"assign": "max"}, "assign is 'max', expected one of argmax, bar"),
        ({"assign": "bar", "score": "hedges_g"}, "assign is 'bar', which goes with an entropy"),
        ({"filter_rate": 0.5, "score": "hedges_g"}, "filter_rate is 0.5, which goes with an entropy"),
        ({"filter_rate": 1.1}, r"filter_rate is 1.1, expected a number in \[0, 1\]"),
        ({"activation_bar_ratio": -1}, "activation_bar_ratio is -1"),
        ({"sign": "up"}, "sign is 'up', expected one of positive, negative"),
        ({"min_effect": -1}, "min_effect is -1, expected a number >= 0"),
        ({"min_effect": math.inf}, "min_effect is inf"),
        ({"fdr": 0}, "fdr is 0, expected a number"),
        ({"min_count": 1.5}, "min_count is 1.5, expected an integer of at least 0"),
        ({"task": "mood"}, "'mood' is not in the statistics, which have emotion, rhetoric"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(InputError, match=message):
        select(raw(8, tokens=30).stats(), **options)


# --- NeuronList ------------------------------------------------------------------------------------------

SITES = ["model.layers.0.mlp", "model.layers.1.mlp"]
widths = dict.fromkeys(SITES, 50)
neuron = st.tuples(st.sampled_from(SITES), st.integers(0, 49), st.floats(-10, 10))
items = st.lists(neuron, unique_by=lambda item: item[:2], max_size=30)


@settings(max_examples=60, deadline=None)
@given(found=items, share=st.floats(0, 1, exclude_min=True), cut=st.slices(30))
def test_a_list_is_a_sequence_that_keeps_its_label(found, share, cut):
    neurons = NeuronList("anger", "emotion", found)
    assert list(neurons) == found
    part = neurons[cut]
    assert (part.label, part.task, list(part)) == ("anger", "emotion", found[cut])
    top = neurons.top(share)
    assert list(top) == found[: len(top)]
    assert abs(len(top) - share * len(found)) <= 0.5 or len(top) == min(1, len(found))
    by_site = neurons.by_site()
    assert {(site, int(i)) for site, where in by_site.items() for i in where} == {item[:2] for item in found}
    for where in by_site.values():
        assert where.dtype == np.int64
        assert (np.diff(where) > 0).all()


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


def make(found: dict[str, list], **provenance) -> NeuronSet:
    task = {"anger": "emotion", "fear": "emotion", "irony": "rhetoric"}
    lists = [NeuronList(label, task[label], found[label]) for label in found]
    return NeuronSet(lists, widths, {**PROVENANCE, **provenance})


@settings(max_examples=40, deadline=None)
@given(a=items, b=items, c=items)
def test_overlap_is_jaccard_and_site_counts_add_up(a, b, c):
    neurons = make({"anger": a, "fear": b, "irony": c})
    labels, matrix = neurons.overlap()
    assert labels == ("anger", "fear", "irony")
    for (i, x), (j, y) in itertools.product(enumerate((a, b, c)), repeat=2):
        one, other = {item[:2] for item in x}, {item[:2] for item in y}
        if one | other:
            assert matrix[i, j] == len(one & other) / len(one | other)
        else:
            assert math.isnan(matrix[i, j])
    sites, counts = neurons.site_counts()
    assert sites == tuple(SITES)
    for row, found in enumerate((a, b, c)):
        for column, site in enumerate(sites):
            assert counts[row, column] == sum(item[0] == site for item in found)


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


def test_a_file_tells_where_the_neurons_come_from(tmp_path):
    stats = raw(9, widths=WIDTHS).stats()
    select(stats, "emotion", top=0.05, min_count=3).save(tmp_path / "n.json")
    provenance = NeuronSet.load(tmp_path / "n.json").provenance
    assert provenance.pop("select") == {
        "task": "emotion",
        "top": 0.05,
        "score": "entropy",
        "filter_rate": 0.95,
        "assign": "argmax",
        "activation_bar_ratio": 0.95,
        "sign": None,
        "min_effect": None,
        "fdr": None,
        "min_count": 3,
    }
    assert provenance == stats.provenance


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
    """Any part of a file replaced by any other JSON value: loaded and valid, or an InputError."""
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

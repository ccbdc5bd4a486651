"""Selection against a plain loop over the definitions."""

from __future__ import annotations

import itertools
import math
import warnings

import numpy as np
import pytest

from affectron.errors import InputError, Note
from affectron.neurons import NeuronSet
from affectron.options import COUNT, TOP
from affectron.scores import SCORES, fdr, score
from affectron.selection import STEPS, select
from affectron.stats import FIELDS, ActivationStats
from tests.support.errors import message
from tests.support.raw_activations import PROVENANCE, Raw, raw, starved

WIDTHS = (31, 17, 52)  # 100 neurons


@pytest.fixture(autouse=True)
def _no_warning_leaks():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", Note)
        yield


def rates(data: Raw, task: str) -> list[tuple[str, int, list[float]]]:
    """(site, index, P of each label) of every neuron in order, computed from the tokens."""
    return [
        (site, f, [float(active[data.target(label), f].mean()) for label in sorted(data.tasks[task])])
        for site, active in data.active.items()
        for f in range(active.shape[1])
    ]


def by_definition(data: Raw, task: str, top: float, filter_rate, assign: str, bar: float) -> dict[str, list]:
    """Select by the methods of LAPE and Lee et al., written as loops; sorted() orders ties."""
    neurons = rates(data, task)
    all_rates = [p for _, _, of_labels in neurons for p in of_labels]
    quantile = -1.0 if filter_rate is None else np.quantile(all_rates, filter_rate)
    scored = []
    for position, (site, index, of_labels) in enumerate(neurons):
        if sum(of_labels) > 0 and max(of_labels) > quantile:
            shares = [p / sum(of_labels) for p in of_labels]
            entropy = -sum(p * math.log(p) for p in shares if p > 0)
            scored.append((round(entropy, 12), position, site, index, of_labels))
    best = sorted(scored, key=lambda item: item[:2])[: max(1, round(top * len(neurons)))]
    lists = {}
    for row, label in enumerate(sorted(data.tasks[task])):
        if assign == "argmax":
            chosen = [item for item in best if item[4].index(max(item[4])) == row]
        else:
            chosen = [item for item in best if item[4][row] > np.quantile(all_rates, bar)]
        lists[label] = [(site, index) for _, _, site, index, _ in chosen]
    return lists


def positions(neurons: NeuronSet) -> dict[str, list[tuple[str, int]]]:
    return {label: [(site, index) for site, index, _ in of_label] for label, of_label in neurons.items()}


@pytest.mark.parametrize("task", ["emotion", "rhetoric"])
@pytest.mark.parametrize("assign", ["argmax", "bar"])
@pytest.mark.parametrize("filter_rate", [None, 0.5, 0.95])
@pytest.mark.parametrize("seed", [0, 1])
def test_recognition_by_entropy_is_the_recipe_of_the_papers(seed, filter_rate, assign, task):
    data = raw(seed, widths=WIDTHS)
    for site, active in data.active.items():  # dead neurons must not rank first
        active[:, 3] = False
        active[:, 5] = data.target("anger") & (np.arange(len(active)) % 2 == 0) if "0" in site else active[:, 5]
    for top, bar in ((0.01, 0.95), (0.1, 0.7), (1.0, 0.5)):
        options = {"filter_rate": filter_rate, "assign": assign, "activation_bar_ratio": bar}
        got = select(data.stats(), task, top=top, score="entropy", **options)
        assert positions(got) == by_definition(data, task, top, filter_rate, assign, bar)
        entropy = score(data.stats(), "entropy", task)
        for neurons in got.values():
            for site, index, value in neurons:
                assert value == entropy[site][0, index]


def test_the_defaults_of_an_entropy_are_the_published_ones():
    data = raw(2, widths=WIDTHS)
    assert positions(select(data.stats(), "emotion", score="entropy")) == by_definition(
        data, "emotion", 0.01, 0.95, "argmax", 0.95
    )


@pytest.mark.parametrize(
    "name", [name for name, kind in SCORES.items() if kind.per_label and kind.kind == "activation"]
)
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
        assert positions(got)[label] == wanted


SCREENS = {"sign": "positive", "min_effect": 0.2, "fdr": 0.01, "min_count": 40}


def screens(stats: ActivationStats, task: str, row: int, label: str):
    """Screen -> predicate of (site, index): True where the neuron passes it for the label, by the scores themselves."""
    difference = score(stats, "mean_difference", task)
    g, p = score(stats, "hedges_g", task), score(stats, "permutation_p", task)
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
    stats = raw(4, tokens=200, widths=WIDTHS).stats(tokens="mean")
    options = {**options, "top": 0.6}
    unscreened = positions(select(stats, "emotion", **options))
    tests = {label: screens(stats, "emotion", row, label) for row, label in enumerate(stats.tasks["emotion"])}
    removed = dict.fromkeys(SCREENS, 0)
    for size in range(len(SCREENS) + 1):
        for chosen in itertools.combinations(SCREENS, size):
            got = positions(select(stats, "emotion", **options, **{name: SCREENS[name] for name in chosen}))
            for label, neurons in unscreened.items():
                expected = [neuron for neuron in neurons if all(tests[label][name](*neuron) for name in chosen)]
                assert got[label] == expected
                if size == 1:
                    removed[chosen[0]] += len(neurons) - len(expected)
    assert all(removed.values())  # each screen removed some neurons


@pytest.mark.parametrize(
    "options",
    [
        {"score": "entropy", "top": 0.3, "filter_rate": 0.5},
        {"score": "entropy", "count": 9, "filter_rate": 0.8, "assign": "bar", "activation_bar_ratio": 0.6},
        {"score": "mutual_information", "count": 60},
        {"top": 0.6},
    ],
    ids=str,
)
def test_each_neuron_is_selected_or_removed_by_one_step(options):
    data = raw(4, tokens=200, widths=WIDTHS)
    for active in data.active.values():
        active[:, 3] = False
    stats = data.stats(tokens="mean")
    # The screens one after the other: each removes what the selection without it has more.
    found = [
        select(stats, "emotion", **options, **dict(itertools.islice(SCREENS.items(), size)))
        for size in range(len(SCREENS) + 1)
    ]
    filtered = 0
    if "filter_rate" in options:
        known = rates(data, "emotion")
        bar = np.quantile([p for *_, of_labels in known for p in of_labels], options["filter_rate"])
        filtered = sum(0 < max(of_labels) <= bar for *_, of_labels in known)
    unscored = 3 if options.get("score") == "entropy" else 0
    for label, steps in found[-1].provenance["select"]["removed"].items():
        assert list(steps) == [step for step in STEPS if step in steps]
        assert sum(steps.values()) + len(found[-1][label]) == sum(WIDTHS)
        assert (steps["score"], steps.get("filter_rate", 0)) == (unscored, filtered)
        for before, after, step in zip(found, found[1:], SCREENS, strict=False):
            assert steps[step] == len(before[label]) - len(after[label])


def test_a_filter_that_removes_neurons_of_one_label_says_how_many():
    data = raw(2, widths=WIDTHS, both=False)
    site = data.active["model.layers.2.mlp"]
    for neuron, tokens in enumerate((9, 10, 20)):  # at 9 of the label's tokens it may be an accident
        site[:, neuron] = False
        site[np.flatnonzero(data.target("anger"))[:tokens], neuron] = True
    with pytest.warns(Note, match="^the activity filter removed 2 neurons active under one label almost alone") as told:
        select(data.stats(), "emotion", score="entropy")
    assert len(told) == 1
    assert "filter_rate 0 keeps them" in str(told[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        select(data.stats(), "emotion", score="entropy", filter_rate=0)
        select(data.stats(), "emotion")


@pytest.mark.parametrize("tokens", ["all", None, ["last", "mean"]])
def test_there_is_no_error_rate_over_tokens(tokens):
    stats = raw(4, widths=WIDTHS).stats(tokens=tokens)
    said = message(lambda: select(stats, "emotion", fdr=0.05))
    assert said.startswith(f"fdr is 0.05, and tokens of the statistics is {tokens!r}, expected one of mean, last: ")
    assert "screen with tokens mean or last" in said


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
    got = select(stats, top=0.5, score="entropy", filter_rate=None)
    first, second = stats.sites
    assert list(got["a"]) == [(first, 0, 0.0), (first, 1, 0.0), (first, 3, 0.0), (second, 0, 0.0)]
    assert len(got["b"]) == 0
    by_label = select(stats, top=0.5, score="log_odds")
    assert positions(by_label)["a"] == [(first, 0), (first, 1), (first, 3), (second, 0)]
    assert positions(by_label)["b"] == [(first, 2), (second, 2), (first, 0), (first, 1)]


@pytest.mark.parametrize("assign", ["argmax", "bar"])
def test_a_label_without_tokens_gets_no_neurons_and_takes_none(assign):
    data = raw(6, widths=WIDTHS, both=False)
    keep = ~data.target("fear")
    options = {"score": "entropy", "top": 0.2, "filter_rate": 0.5, "assign": assign}
    got = select(data.stats(keep, sorted(set(data.labels))), "emotion", **options)
    assert len(got["fear"]) == 0
    data.tasks = {"emotion": ("anger", "joy"), "rhetoric": data.tasks["rhetoric"]}
    data.labels = [("unlabelled",) if labels == ("fear",) else labels for labels in data.labels]
    without = select(data.stats(keep), "emotion", **options)
    assert {label: got[label] for label in ("anger", "joy")} == dict(without)


@pytest.mark.parametrize(
    "options",
    [
        {"score": "entropy", "filter_rate": 0.5},
        {"score": "entropy", "filter_rate": None},
        {"score": "entropy", "assign": "bar", "activation_bar_ratio": 0.6, "filter_rate": 0.3},
        {"score": "raw_entropy"},
        *({"score": name} for name, kind in SCORES.items() if kind.per_label and kind.kind == "activation"),
        {"score": "hedges_g", "sign": "positive", "min_effect": 0.1, "fdr": 0.5, "min_count": 3},
    ],
    ids=str,
)
@pytest.mark.parametrize("lacking", [("anger", "joy"), ("anger", "fear", "joy")])
def test_sites_without_tokens_of_two_labels_take_no_part_and_are_named_once(options, lacking):
    whole = raw(8, widths=(20, 31, 17, 52, 80), both=False).stats(tokens="last")
    bare = list(whole.sites[1:4:2])
    stats = starved(whole, dict.fromkeys(bare, lacking))
    kept = [site for site in whole.sites if site not in bare]
    arrays = {site: {name: getattr(whole, name)[site] for name in FIELDS} for site in kept}
    without = ActivationStats(whole.tasks, whole.segments, arrays, whole.provenance)
    line = f"at 2 of 5 sites, the first {bare[0]}, fewer than two labels have tokens"
    with pytest.warns(UserWarning, match=line) as warned:
        got = select(stats, "emotion", top=0.1, **options)  # 20 of 200 neurons
    assert dict(got) == dict(select(without, "emotion", top=20 / 117, **options))
    assert any(got.values())
    assert len([warning for warning in warned if warning.category is not Note]) == 1


def test_a_neuron_without_numbers_under_a_label_is_no_neuron_of_another_and_is_counted():
    """Otherwise the neuron, which is active under one label alone, would have the lowest entropy of all."""
    data = raw(8, widths=WIDTHS, both=False)
    site, options = "model.layers.1.mlp", {"score": "entropy", "top": 0.01, "filter_rate": None}
    data.active[site][:, 4] = data.target("anger")
    assert (site, 4) in positions(select(data.stats(), "emotion", **options))["anger"]
    data.values[site][~data.target("anger"), 4] = np.nan
    with pytest.warns(UserWarning, match=f"1 of 100 neurons, the first at {site}, have no finite activation") as warned:
        selected = select(data.stats(), "emotion", **{**options, "top": 1.0})
    assert len(warned) == 1
    assert all((site, 4) not in neurons for neurons in positions(selected).values())
    assert sum(map(len, selected.values())) == 99


def test_no_neuron_with_a_score_is_an_error():
    data = raw(7, widths=(4,))
    for site in data.active:
        data.active[site][:] = False
    assert message(lambda: select(data.stats(), score="entropy", filter_rate=None)) == (
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


def test_a_file_tells_where_the_neurons_come_from(tmp_path):
    stats = raw(9, widths=WIDTHS).stats()
    select(stats, "emotion", top=0.05, min_count=3).save(tmp_path / "n.json")
    provenance = NeuronSet.load(tmp_path / "n.json").provenance
    assert provenance.pop("select") == {
        "task": "emotion",
        "top": 0.05,
        "count": None,
        "score": "hedges_g",
        "filter_rate": 0.95,
        "assign": "argmax",
        "activation_bar_ratio": 0.95,
        "sign": None,
        "min_effect": None,
        "fdr": None,
        "min_count": 3,
        "removed": {label: {"score": 0, "top": 95, "min_count": 0} for label in ("anger", "fear", "joy")},
    }
    assert provenance == stats.provenance


def attributions(seed: int = 0, **options) -> tuple[Raw, ActivationStats]:
    data = raw(seed, widths=WIDTHS, **options)
    return data, data.stats(kind="attribution", tokens="sentence", active="product")


def ranked(values: dict[str, np.ndarray], row: int, wanted: int) -> list[tuple[str, int]]:
    """The neurons of the highest values; sorted() orders ties by site and index."""
    neurons = [(site, f) for site, of_site in values.items() for f in range(of_site.shape[1])]
    known = [one for one in neurons if not math.isnan(values[one[0]][row, one[1]])]
    return sorted(known, key=lambda one: -values[one[0]][row, one[1]])[:wanted]


def test_attributions_are_selected_by_a_number_of_neurons_and_the_moderated_t() -> None:
    data, stats = attributions()
    found = select(stats, "emotion")
    values = score(stats, "attribution_t", "emotion")
    for row, label in enumerate(sorted(data.tasks["emotion"])):
        assert positions(found)[label] == ranked(values, row, COUNT)
    recorded = found.provenance["select"]
    assert (recorded["score"], recorded["count"], recorded["top"]) == ("attribution_t", COUNT, None)


def test_activations_are_selected_by_a_share_of_neurons_and_the_effect_size() -> None:
    recorded = select(raw(0, widths=WIDTHS).stats(), "emotion").provenance["select"]
    assert (recorded["score"], recorded["count"], recorded["top"]) == ("hedges_g", None, TOP)


@pytest.mark.parametrize("count", [1, 7, 100, 1000])
@pytest.mark.parametrize("name", ["hedges_g", "attribution"])
def test_a_number_of_neurons_is_of_each_label(name: str, count: int) -> None:
    data, stats = attributions()
    stats = stats if SCORES[name].kind == "attribution" else data.stats()
    values = score(stats, name, "emotion")
    found = positions(select(stats, "emotion", score=name, count=count))
    for row, label in enumerate(sorted(data.tasks["emotion"])):
        assert found[label] == ranked(values, row, count)
        assert len(found[label]) == min(count, 100)


@pytest.mark.parametrize("count", [1, 7, 20])
def test_a_number_of_neurons_by_entropy_is_assigned_to_all_labels_together(count: int) -> None:
    data = raw(0, widths=WIDTHS)
    found = select(data.stats(), "emotion", count=count, score="entropy", filter_rate=None)
    assert positions(found) == by_definition(data, "emotion", 3 * count / 100, None, "argmax", 0.95)
    assert sum(len(neurons) for neurons in found.values()) == 3 * count


@pytest.mark.parametrize("sign", ["positive", "negative"])
def test_the_screens_of_attributions_are_the_contrast_with_the_rest(sign: str) -> None:
    data, stats = attributions(1)
    for row, label in enumerate(sorted(data.tasks["emotion"])):
        found = select(stats, "emotion", count=100, sign=sign, min_effect=0.3, fdr=0.2, score="attribution")[label]
        contrast, effect, p = (
            np.concatenate([part[row] for part in score(stats, f"attribution_{name}", "emotion").values()])
            for name in ("contrast", "g", "p")
        )
        names = [(site, f) for site, width in stats.widths.items() for f in range(width)]
        keep = ((contrast > 0) == (sign == "positive")) & (np.abs(effect) >= 0.3) & (fdr(p) <= 0.2)
        assert {(site, f) for site, f, _ in found} == {name for name, kept in zip(names, keep, strict=True) if kept}
        values = [value for _, _, value in found]
        assert values == sorted(values, reverse=sign == "positive")
        assert 0 < len(found) < 100


def test_a_share_and_a_number_are_refused_together() -> None:
    _, stats = attributions()
    assert message(lambda: select(stats, top=0.1, count=3)) == "top is 0.1 and count 3, expected one of them"
    assert message(lambda: select(stats, count=0)).startswith("count is 0, expected")
    assert message(lambda: select(stats, score="entropy")).startswith(
        "score is 'entropy', expected one of attribution,"
    )

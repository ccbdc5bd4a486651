"""Scores, each against scipy or a direct float64 computation on the tokens behind the statistics."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats as sps

from affectron.errors import InputError
from affectron.scores import SCORES, fdr, frequency, score, unscored
from affectron.stats import FIELDS, ActivationStats
from tests.support.raw_activations import Raw, raw, starved

NAMES = [name for name, kind in SCORES.items() if kind.kind == "activation"]
CASES = [(seed, bad) for seed in range(3) for bad in (False, True)]


@pytest.fixture(autouse=True)
def _no_warning_leaks():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def per_neuron(data: Raw, task: str, function) -> dict[str, np.ndarray]:
    """Apply ``function`` to every label and neuron: its finite activations under target, rest and total."""
    expected = {}
    for site, values in data.values.items():
        rows = []
        for label in sorted(data.tasks[task]):
            sides = (data.target(label), data.rest(label), data.having(data.tasks[task]))
            row = []
            for f in range(values.shape[1]):
                columns = [values[side, f].astype(np.float64) for side in sides]
                row.append(function(*(column[np.isfinite(column)] for column in columns)))
            rows.append(row)
        expected[site] = np.array(rows)
    return expected


def per_count(data: Raw, task: str, function) -> dict[str, np.ndarray]:
    """Apply ``function`` to every label and neuron: active tokens and tokens of target, then of rest, as Python's ints.

    NaN for a neuron without a finite activation under one of the labels.
    """
    expected = {}
    for site, active in data.active.items():
        finite = np.isfinite(data.values[site])
        rows = []
        for label in sorted(data.tasks[task]):
            target, rest = active[data.target(label)], active[data.rest(label)]
            rows.append(
                [
                    function(int(target[:, f].sum()), len(target), int(rest[:, f].sum()), len(rest))
                    if all(finite[data.target(other), f].any() for other in data.tasks[task])
                    else np.nan
                    for f in range(active.shape[1])
                ]
            )
        expected[site] = np.array(rows)
    return expected


def assert_scores(got: dict[str, np.ndarray], expected: dict[str, np.ndarray], rtol: float = 1e-10) -> None:
    assert list(got) == list(expected)
    for site, values in got.items():
        assert values.dtype == np.float64
        np.testing.assert_allclose(values, expected[site], rtol=rtol, atol=1e-13, equal_nan=True)


def pooled_d(target, rest, _total):
    if not target.size or not rest.size:
        return np.nan
    squares = ((target - target.mean()) ** 2).sum() + ((rest - rest.mean()) ** 2).sum()
    return (target.mean() - rest.mean()) / math.sqrt(squares / (target.size + rest.size - 2))


def hedges(target, rest, total):
    freedom = target.size + rest.size - 2
    return pooled_d(target, rest, total) * (1 - 3 / (4 * freedom - 1))


def welch(field):
    def function(target, rest, _total):
        if target.size < 2 or rest.size < 2:
            return np.nan
        return getattr(sps.ttest_ind(target, rest, equal_var=False), field)

    return function


def differential(target, rest, total):
    if not total.size:
        return np.nan
    return abs(target.mean() - rest.mean()) / max(abs(total.mean()), 0.1 * math.sqrt((total**2).mean()))


def permutation(target, rest, _total):
    """The bound, written out."""
    if not target.size or not rest.size:
        return np.nan
    n, n_t = target.size + rest.size, target.size
    both = np.concatenate([target, rest])
    deviation, squares = (target - both.mean()).sum(), ((both - both.mean()) ** 2).sum()
    same = math.comb(n, n_t) * (n_t / n) ** n_t * (1 - n_t / n) ** (n - n_t)
    odds = math.log((n - n_t) / n_t)
    kappa = (1 - 2 * n_t / n) / (2 * odds) if odds else 0.25
    return min(1, 2 * math.exp(-(1 - same) * deviation**2 / (2 * kappa * squares))) if squares else np.nan


def difference(target, rest, _total):
    return target.mean() - rest.mean() if target.size and rest.size else np.nan


@pytest.mark.parametrize(("seed", "bad"), CASES)
@pytest.mark.parametrize(
    ("name", "oracle"),
    [
        ("differential", differential),
        ("mean_difference", difference),
        ("cohens_d", pooled_d),
        ("hedges_g", hedges),
        ("welch_t", welch("statistic")),
        ("welch_p", welch("pvalue")),
        ("permutation_p", permutation),
    ],
)
def test_contrasts_of_activations(seed, bad, name, oracle):
    data = raw(seed, bad=bad)
    for task in data.tasks:
        assert_scores(score(data.stats(), name, task), per_neuron(data, task, oracle), 1e-8)


def information(a, n, b, m):
    """Sum the mutual information over the four cells of the contingency table."""
    cells = {(1, 1): a, (1, 0): n - a, (0, 1): b, (0, 0): m - b}
    total = n + m
    result = 0.0
    for (side, on), count in cells.items():
        row = sum(c for (s, _), c in cells.items() if s == side)
        column = sum(c for (_, o), c in cells.items() if o == on)
        if count:
            result += count / total * math.log(count * total / (row * column))
    return result


@pytest.mark.parametrize(("seed", "bad"), CASES)
@pytest.mark.parametrize(
    ("name", "oracle"),
    [
        ("frequency_difference", lambda a, n, b, m: a / n - b / m),
        ("log_odds", lambda a, n, b, m: math.log(((a + 0.5) / (n - a + 0.5)) / ((b + 0.5) / (m - b + 0.5)))),
        ("mutual_information", information),
    ],
)
def test_contrasts_of_counts(seed, bad, name, oracle):
    data = raw(seed, bad=bad)
    for task in data.tasks:
        assert_scores(score(data.stats(), name, task), per_count(data, task, oracle))
    if name == "mutual_information":
        for values in score(data.stats(), name, "emotion").values():
            assert ((values[:, :-1] >= 0) & (values[:, :-1] <= math.log(2))).all()


@pytest.mark.parametrize("seed", range(3))
def test_entropies(seed):
    data = raw(seed)
    for site in data.active:
        data.active[site][:, 0] = False
    only = data.target("anger")
    data.active["model.layers.0.mlp"][:, 1] = only & ~data.target("fear")
    for task, labels in data.tasks.items():
        for site, active in data.active.items():
            rates = np.array([active[data.target(label)].mean(axis=0) for label in sorted(labels)])
            np.testing.assert_array_equal(frequency(data.stats(), task)[site], rates)
            renormalised = score(data.stats(), "entropy", task)[site]
            printed = score(data.stats(), "raw_entropy", task)[site]
            assert renormalised.shape == printed.shape == (1, active.shape[1])
            for f in range(active.shape[1]):
                if not rates[:, f].any():
                    assert math.isnan(renormalised[0, f])
                    assert math.isnan(printed[0, f])
                    continue
                share = rates[:, f] / rates[:, f].sum()
                expected = sps.entropy(share)
                assert renormalised[0, f] == pytest.approx(expected, rel=1e-12, abs=1e-15)
                expected = -sum(p * math.log(p) for p in rates[:, f] if p)
                assert printed[0, f] == pytest.approx(expected, rel=1e-12, abs=1e-15)
    dead = score(data.stats(), "entropy", "emotion")["model.layers.1.mlp"]
    assert math.isnan(dead[0, 0])


def test_a_neuron_active_for_one_label_alone_has_entropy_zero():
    data = raw(5, both=False)
    data.active["model.layers.0.mlp"][:, 1] = data.target("anger")
    assert score(data.stats(), "entropy", "emotion")["model.layers.0.mlp"][0, 1] == 0


def test_differential_of_a_mean_near_zero_is_over_a_tenth_of_the_root_mean_square():
    data = raw(6, both=False)
    site = data.values["model.layers.0.mlp"]
    site[:, :2] = 0
    site[data.target("anger").argmax(), 0] = 3
    site[data.target("fear").argmax(), 0] = -3  # the overall mean is 0
    values = score(data.stats(), "differential", "emotion")["model.layers.0.mlp"]
    anger, rest = data.target("anger").sum(), data.rest("anger").sum()
    assert values[0, 0] == pytest.approx((3 / anger + 3 / rest) / (0.1 * math.sqrt(18 / (anger + rest))), rel=1e-12)
    assert np.isnan(values[:, 1]).all()  # never active


@pytest.mark.parametrize("name", NAMES)
def test_a_label_without_tokens_has_no_score_and_leaves_the_others_as_they_are(name):
    data = raw(7, both=False)
    keep = ~data.target("fear")
    segments = sorted(set(data.labels))
    absent = score(data.stats(keep, segments), name, "emotion")
    without = raw(7, both=False)
    without.tasks = {"emotion": ("anger", "joy"), "rhetoric": data.tasks["rhetoric"]}
    without.labels = [("joy",) if labels == ("fear",) else labels for labels in data.labels]
    expected = score(without.stats(keep), name, "emotion")
    for site, values in absent.items():
        if SCORES[name].per_label:
            assert np.isnan(values[1]).all()
            np.testing.assert_allclose(values[[0, 2]], expected[site], rtol=1e-12)
        else:
            np.testing.assert_allclose(values, expected[site], rtol=1e-12)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("lacking", [("anger", "joy"), ("anger", "fear", "joy")])
def test_a_site_without_tokens_of_two_labels_has_no_score_and_leaves_the_others_as_they_are(name, lacking):
    whole = raw(7, both=False).stats()
    first, middle, last = whole.sites
    stats = starved(whole, {middle: lacking})
    expected = score(whole, name, "emotion")
    got = score(stats, name, "emotion")
    assert got[middle].shape == expected[middle].shape
    assert np.isnan(got[middle]).all()
    assert np.isnan(frequency(stats, "emotion")[middle]).all()
    for site in (first, last):
        np.testing.assert_array_equal(got[site], expected[site])
    assert unscored(stats, ["emotion", "rhetoric"]) == (
        f"task 'emotion': at 1 of 3 sites, the first {middle}, fewer than two labels have tokens: no score for their "
        "neurons"
    )
    assert unscored(whole, ["emotion", "rhetoric"]) is None


@pytest.mark.parametrize("name", NAMES)
def test_a_site_with_tokens_of_two_of_three_labels_contrasts_these(name):
    whole = raw(7, both=False).stats()
    stats = starved(whole, {whole.sites[1]: ["fear"]})
    two = raw(7, both=False)
    two.tasks = {**two.tasks, "emotion": ("anger", "joy")}
    two.labels = [("unlabelled",) if labels == ("fear",) else labels for labels in two.labels]
    expected = score(two.stats(~two.having(["unlabelled"])), name, "emotion")[whole.sites[1]]
    got = score(stats, name, "emotion")[whole.sites[1]]
    if SCORES[name].per_label:
        assert np.isnan(got[1]).all()
        got = got[[0, 2]]
    np.testing.assert_allclose(got, expected, rtol=1e-12)
    assert f"at 1 of 3 sites, the first {whole.sites[1]}, labels without tokens are left out" in str(
        unscored(stats, ["emotion"])
    )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_neuron_without_a_finite_activation_under_one_label_has_no_score(name, value):
    data = raw(7, both=False)
    expected = score(data.stats(), name, "emotion")
    site = "model.layers.1.mlp"
    data.values[site][data.target("fear"), 2] = value
    data.active[site][data.target("fear"), 2] = value > 0  # as the kernel counts act(g) > 0
    stats = data.stats()
    got = score(stats, name, "emotion")
    assert np.isnan(got[site][:, 2]).all()
    expected[site][:, 2] = np.nan
    for other, values in got.items():
        np.testing.assert_array_equal(values, expected[other])
    assert unscored(stats, ["emotion"]) == (
        f"task 'emotion': 1 of 15 neurons, the first at {site}, have no finite activation under a label: no score for "
        "them"
    )


@pytest.mark.parametrize("name", NAMES)
def test_nothing_but_zeros_or_no_number_at_all_gives_no_contrast_and_no_warning(name):
    for fill in (0.0, np.nan):
        data = raw(8, tokens=30)
        for site in data.values:
            data.values[site][:] = fill
            data.active[site][:] = False
        for values in score(data.stats(), name, "emotion").values():
            if math.isnan(fill):
                assert np.isnan(values).all()
            elif name in ("frequency_difference", "mutual_information", "mean_difference"):
                assert (values == 0).all()
            elif name == "log_odds":
                assert np.isfinite(values).all()
            else:
                assert np.isnan(values).all()


@pytest.mark.parametrize("name", NAMES)
def test_single_tokens_neither_warn_nor_give_an_infinite_score(name):
    data = raw(9, tokens=7)
    for task in data.tasks:
        for values in score(data.stats(), name, task).values():
            assert not np.isinf(values).any()


@pytest.mark.parametrize("name", NAMES)
def test_a_label_in_every_sentence_has_no_rest(name):
    data = raw(10, both=False)
    data.labels = [("anger", *labels) if labels[0] in ("fear", "joy") else labels for labels in data.labels]
    for values in score(data.stats(), name, "emotion").values():
        if SCORES[name].per_label and name != "mutual_information":
            assert np.isnan(values[0]).all()
            assert np.isfinite(values[1:]).all()


@pytest.mark.parametrize("name", ["welch_t", "welch_p", "permutation_p", "hedges_g", "cohens_d", "differential"])
@settings(max_examples=25, deadline=None)
@given(power=st.integers(-30, 30))
def test_effects_do_not_depend_on_the_unit_of_the_activations(name, power):
    data = raw(11, tokens=50)
    scaled = raw(11, tokens=50)
    scaled.values = {site: np.ldexp(values, power) for site, values in scaled.values.items()}
    expected = score(data.stats(), name, "emotion")
    assert_scores(score(scaled.stats(), name, "emotion"), expected, 1e-12)


def test_many_tokens_and_tiny_p_values_match_scipy():
    """Half a million tokens a side, given by summary statistics; the largest effect's p value is below 1e-300."""
    n = np.array([[500_000], [400_000]])
    mean = np.array([[1.0, 1.0, 1.0, 1.0], [1.0, 1.001, 1.01, 1.1]])
    var = np.array([[1.0, 2.0, 1.0, 0.5], [1.0, 1.0, 3.0, 0.5]])
    arrays = {name: np.zeros((2, 4), kind) for name, kind in FIELDS.items()}
    arrays |= {"count": n[:, 0], "mean": mean, "m2": var * (n - 1)}
    stats = ActivationStats({"t": ("a", "b")}, [("a",), ("b",)], {"s": arrays})
    expected = sps.ttest_ind_from_stats(mean[0], np.sqrt(var[0]), n[0], mean[1], np.sqrt(var[1]), n[1], equal_var=False)
    np.testing.assert_allclose(score(stats, "welch_t")["s"][0], expected.statistic, rtol=1e-12)
    np.testing.assert_allclose(score(stats, "welch_p")["s"][0], expected.pvalue, rtol=1e-9)
    np.testing.assert_array_equal(score(stats, "welch_t")["s"][0], -score(stats, "welch_t")["s"][1])


def test_frequencies_are_exact_beyond_32_bits():
    arrays = {name: np.zeros((2, 1), kind) for name, kind in FIELDS.items()}
    arrays["count"] = np.array([2**40, 2**40 + 2])
    arrays["active"] = np.array([[2**39], [2**39 + 1]])
    stats = ActivationStats({"t": ("a", "b")}, [("a",), ("b",)], {"s": arrays})
    assert score(stats, "frequency_difference")["s"][0, 0] == 0
    assert score(stats, "entropy")["s"][0, 0] == pytest.approx(math.log(2), rel=1e-15)
    assert 0 <= score(stats, "mutual_information")["s"][0, 0] < 1e-15


@settings(max_examples=60, deadline=None)
@given(
    p=hnp.arrays(
        np.float64,
        hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=6),
        elements=st.one_of(st.floats(0, 1), st.just(np.nan)),
    )
)
def test_fdr_is_benjamini_and_hochberg_step_up_over_all_tests(p):
    adjusted = fdr(p)
    assert adjusted.shape == p.shape
    np.testing.assert_array_equal(np.isnan(adjusted), np.isnan(p))
    tests = np.sort(p[~np.isnan(p)])
    for value, result in zip(p.flat, adjusted.flat, strict=True):
        if not math.isnan(value):
            expected = min(
                (tests.size * q / (i + 1) for i, q in enumerate(tests) if q >= value and tests.size),
                default=1,
            )
            assert result == pytest.approx(min(1, expected), rel=1e-12, abs=1e-300)


@pytest.mark.parametrize("p", [[0.1, 1.5], [-0.1]])
def test_fdr_refuses_what_is_no_p_value(p):
    with pytest.raises(InputError, match="outside"):
        fdr(p)


def test_bad_names_and_tasks_without_a_contrast_are_refused():
    data = raw(12, both=False)
    stats = data.stats()
    with pytest.raises(InputError, match=r"score is 'auc', expected one of entropy, raw_entropy"):
        score(stats, "auc", "emotion")
    with pytest.raises(InputError, match=r"'mood'.*emotion, rhetoric"):
        score(stats, "entropy", "mood")
    with pytest.raises(InputError, match=r"task is not given, expected one of emotion, rhetoric"):
        score(stats, "entropy")
    single = raw(12, tasks={"emotion": ("anger", "fear"), "other": ("thing",)}, both=False).stats()
    for name in NAMES:
        with pytest.raises(InputError, match=r"task 'other': of its labels only 'thing' has tokens"):
            score(single, name, "other")
    lone = data.stats(data.target("anger"), sorted(set(data.labels)))
    with pytest.raises(InputError, match=r"task 'emotion': of its labels only 'anger' has tokens"):
        score(lone, "entropy", "emotion")
    with pytest.raises(InputError, match=r"task 'rhetoric': of its labels none has tokens"):
        score(lone, "hedges_g", "rhetoric")


def attributions(seed: int, bad: bool = False) -> tuple[Raw, ActivationStats]:
    """Numbers of sentences, as attributions are."""
    data = raw(seed, tokens=60, bad=bad)
    return data, data.stats(kind="attribution", tokens="sentence", active="product")


def target_mean(target, _rest, _total):
    return target.mean() if target.size else np.nan


@pytest.mark.parametrize(("seed", "bad"), CASES)
@pytest.mark.parametrize(
    ("name", "oracle"),
    [
        ("attribution", target_mean),
        ("attribution_contrast", difference),
        ("attribution_g", hedges),
        ("attribution_t", welch("statistic")),
        ("attribution_p", permutation),
    ],
)
def test_scores_of_attributions(seed, bad, name, oracle):
    data, stats = attributions(seed, bad)
    for task in data.tasks:
        expected = per_neuron(data, task, oracle)
        if name == "attribution":  # none where a label of the task has no finite attribution
            for values in expected.values():
                values[:, np.isnan(values).any(axis=0)] = np.nan
        assert_scores(score(stats, name, task), expected, 1e-8)


@pytest.mark.parametrize(("seed", "bad"), CASES)
def test_the_moderated_t_of_attributions(seed, bad):
    """The offset is a quantile of a label's errors over the neurons of all sites."""
    data, stats = attributions(seed, bad)

    def standard_error(target, rest, _total):
        return np.hypot(sps.sem(target), sps.sem(rest)) if min(target.size, rest.size) > 1 else np.nan

    for task in data.tasks:
        value, error = per_neuron(data, task, difference), per_neuron(data, task, standard_error)
        expected = {site: np.full(values.shape, np.nan) for site, values in value.items()}
        for row, _ in enumerate(data.tasks[task]):
            errors = np.concatenate([error[site][row] for site in error])
            offset = np.quantile(errors[errors > 0], 0.9)
            for site, values in expected.items():
                values[row] = value[site][row] / (error[site][row] + offset)
        defined = {site: ~np.isnan(per_neuron(data, task, target_mean)[site]).any(axis=0) for site in expected}
        for site, values in expected.items():
            values[:, ~defined[site]] = np.nan
        assert_scores(score(stats, "attribution_moderated", task), expected, 1e-8)


def test_a_label_of_one_sentence_has_no_moderated_t():
    values = np.array([[1.0, 2.0], [3.0, 3.5], [2.0, 5.0], [7.0, 7.0], [7.0, 7.0]])
    labels = [("a",), ("a",), ("b",), ("c",), ("c",)]
    data = Raw({"t": ("a", "b", "c")}, labels, {"s": values}, {"s": values > 0})
    found = score(data.stats(kind="attribution"), "attribution_moderated")["s"]
    assert np.isfinite(found[[0, 2]]).all()
    assert np.isnan(found[1]).all()


def test_sentences_that_agree_are_ranked_by_their_contrast():
    values = np.array([[1.0, 2.0], [1.0, 2.0], [4.0, 0.0], [4.0, 0.0]])
    data = Raw({"t": ("a", "b")}, [("a",), ("a",), ("b",), ("b",)], {"s": values}, {"s": values > 0})
    stats = data.stats(kind="attribution")
    np.testing.assert_array_equal(score(stats, "attribution_moderated")["s"], score(stats, "attribution_contrast")["s"])


def test_text_attribution_multiplies_two_contrasts():
    _, gradients = attributions(3)
    activations = attributions(4)[0].stats()
    for task in gradients.tasks:
        found = score(gradients, "text_attribution", task, activations)
        contrasts = score(gradients, "attribution_contrast", task), score(activations, "mean_difference", task)
        for site, values in found.items():
            np.testing.assert_array_equal(values, contrasts[0][site] * contrasts[1][site])
    of_answers = attributions(3)[0].stats(kind="attribution", metric="answer")
    with pytest.raises(InputError, match="the metric of the attributions 'answer', expected 'text'"):
        score(of_answers, "text_attribution", "emotion", activations)
    for name, unfit in (("text_attribution", None), ("text_attribution_t", None), ("attribution", activations)):
        with pytest.raises(InputError, match=f"score is '{name}' and activations are"):
            score(gradients, name, "emotion", unfit)


def test_text_attribution_t_is_the_product_over_its_deviation_under_resampling():
    """The deviation of the product of two contrasts over bootstrap resamples of the sentences, against the formula."""
    rng = np.random.default_rng(8)
    labels = [("a",), ("b",)]
    at = np.repeat([0, 1], 150)
    # Contrasts well above their errors, where the first order holds.
    effects = {name: rng.choice([-1, 1], 6) * rng.uniform(0.7, 2, 6) for name in ("c", "g")}
    values = {name: rng.normal(size=(300, 6)) + np.outer(at, effect) for name, effect in effects.items()}

    def stats(rows: np.ndarray, name: str, kind: str):
        of_rows = [labels[label] for label in at[rows]]
        return Raw({"t": ("a", "b")}, of_rows, {"s": values[name][rows]}, {"s": values[name][rows] > 0}).stats(
            kind=kind
        )

    def product(rows: np.ndarray) -> np.ndarray:
        found = score(stats(rows, "g", "attribution"), "text_attribution", "t", stats(rows, "c", "activation"))
        return found["s"]

    resamples = (np.concatenate([rng.choice(np.flatnonzero(at == label), 150) for label in (0, 1)]) for _ in range(400))
    deviation = np.std([product(rows) for rows in resamples], axis=0)
    whole = np.arange(300)
    found = score(stats(whole, "g", "attribution"), "text_attribution_t", "t", stats(whole, "c", "activation"))["s"]
    np.testing.assert_allclose(product(whole) / found, deviation, rtol=0.15)


def test_scores_of_the_other_kind_of_statistics_are_refused():
    data, stats = attributions(0)
    with pytest.raises(InputError, match="score is 'entropy', expected one of attribution, .* of attributions"):
        score(stats, "entropy", "emotion")
    for name, kind in SCORES.items():
        if kind.kind == "attribution":
            with pytest.raises(InputError, match=f"score is '{name}', expected one of entropy, .* of activations"):
                score(data.stats(), name, "emotion")

"""Programs against their definitions, computed from the tokens behind the statistics."""

from __future__ import annotations

from functools import partial
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from affectron import interventions
from affectron.errors import InputError
from affectron.interventions import Program, Schedule, SiteProgram, schedule
from affectron.neurons import NeuronList
from tests.support.errors import message
from tests.support.raw_activations import raw

SITE = "model.layers.0.mlp"
TOKENS = raw(seed=3)
STATS = TOKENS.stats()
LAYERS = TOKENS.stats(kind="residual")
SITES = tuple(TOKENS.values)
ANGER = NeuronList("anger", "emotion", [(SITES[1], 4, 0.1), (SITES[0], 6, 0.2), (SITES[0], 2, 0.3)])
H = np.random.default_rng(0).standard_normal(211) * 3


def apply(row: np.ndarray, h: np.ndarray) -> np.ndarray:
    scale, damping, floor, shift = (float(value) for value in row)
    return h * np.maximum(scale - damping * np.abs(h), floor) + shift


def under(label: str, site: str, index: int) -> np.ndarray:
    return TOKENS.values[site][TOKENS.target(label), index].astype(np.float64)


def zero(site, index, h):
    return np.zeros_like(h)


def mean(site, index, h):
    tokens = TOKENS.values[site][TOKENS.having(TOKENS.tasks["emotion"]), index]
    return np.full_like(h, tokens.astype(np.float64).mean())


MAGNITUDES = {site: np.random.default_rng(4).uniform(0.1, 0.9, TOKENS.values[site].shape[1]) for site in SITES}
REFERENCES = {
    "max": lambda site, index: max(abs(x) for x in under("anger", site, index)),
    "rms": lambda site, index: (
        sum(x**2 for x in under("anger", site, index)) ** 0.5 / len(under("anger", site, index)) ** 0.5
    ),
    "given": lambda site, index: MAGNITUDES[site][index],
}


def attenuate_static(site, index, h, reference="max"):
    mean = abs(under("anger", site, index).mean())
    return h * (1 - 0.7 * min(mean / REFERENCES[reference](site, index), 1.0))


def attenuate_dynamic(site, index, h, reference="max"):
    return np.array([x * (1 - 0.7 * min(abs(x) / REFERENCES[reference](site, index), 1.0)) for x in h])


def induce(site, index, h):
    return h + 2.5 * under("anger", site, index).mean()


def contrast(site, index, h):
    rest = TOKENS.values[site][TOKENS.rest("anger"), index].astype(np.float64)
    return h + 2.5 * (under("anger", site, index).mean() - rest.mean())


def cross_signal(site, index, h):
    return h + 0.3 * under("metaphor", site, index).mean()


def amplify(site, index, h):
    return 1.5 * h


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        (interventions.zero(ANGER), zero),
        (interventions.mean(ANGER, STATS), mean),
        (interventions.attenuate(ANGER, STATS, 0.7, dynamic=False), attenuate_static),
        (interventions.attenuate(ANGER, STATS, 0.7), attenuate_dynamic),
        *(
            (interventions.attenuate(ANGER, STATS, 0.7, dynamic, reference=given), partial(how, reference=name))
            for name, given in (("rms", "rms"), ("given", MAGNITUDES))
            for dynamic, how in ((True, attenuate_dynamic), (False, attenuate_static))
        ),
        (interventions.induce(ANGER, STATS, 2.5), induce),
        (interventions.contrast(ANGER, STATS, 2.5), contrast),
        (interventions.cross_signal(ANGER, STATS, "metaphor", 0.3), cross_signal),
        (interventions.amplify(ANGER, 1.5), amplify),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_each_kind_does_what_its_definition_says(program: Program, expected) -> None:
    touched = {(site, index) for site, index, _ in ANGER}
    assert len(program) == len(touched)
    for site in SITES:
        table = program.table(site, STATS.widths[site])
        assert table.dtype == np.float32
        for index in range(STATS.widths[site]):
            wanted = expected(site, index, H) if (site, index) in touched else H
            np.testing.assert_allclose(apply(table[:, index], H), wanted, rtol=3e-6, atol=3e-6)


@pytest.mark.parametrize("layer", SITES)
def test_a_difference_of_means_moves_every_dimension_of_one_layer(layer: str) -> None:
    program = interventions.residual(LAYERS, layer, "anger", 2.5)
    assert list(program.sites) == [layer]
    table = program.table(layer, LAYERS.widths[layer])
    for index, row in enumerate(table.T):
        np.testing.assert_allclose(apply(row, H), contrast(layer, index, H), rtol=3e-6, atol=3e-6)


def test_the_neutral_row_keeps_every_bit() -> None:
    table = interventions.zero([(SITE, 1)]).table(SITE, 3)
    h = np.array([0.0, -0.0, 1.5, -3e38, 1e-45, np.inf, -np.inf], dtype=np.float32)
    for index in (0, 2):
        scale, damping, floor, shift = table[:, index]
        # |h| is clamped to a finite value, as in every backend, so that 0 · inf does not occur.
        kept = h * np.maximum(scale - damping * np.minimum(np.abs(h), np.finfo(np.float32).max), floor) + shift
        assert kept.tobytes() == h.tobytes()


def test_a_label_can_be_named_for_other_neurons() -> None:
    plain = [(site, index) for site, index, _ in ANGER]
    named = interventions.induce(plain, STATS, 1.0, label="anger").table(SITES[0], 7)
    default = interventions.induce(ANGER, STATS, 1.0).table(SITES[0], 7)
    other = interventions.induce(ANGER, STATS, 1.0, label="joy").table(SITES[0], 7)
    assert np.array_equal(named, default)
    assert default[3, 6] == np.float32(under("anger", SITES[0], 6).mean())
    assert other[3, 6] == np.float32(under("joy", SITES[0], 6).mean())


def test_mean_takes_the_task_from_wherever_it_is_known() -> None:
    unlabelled = [(site, index) for site, index, _ in ANGER]
    for neurons, task in ((ANGER, None), (unlabelled, "emotion")):
        table = interventions.mean(neurons, STATS, task=task).table(SITES[0], 7)
        np.testing.assert_allclose(table[3, 2], mean(SITES[0], 2, np.zeros(1))[0], rtol=1e-6)
    with pytest.raises(InputError, match="task is not given, expected one of emotion, rhetoric"):
        interventions.mean(unlabelled, STATS)


def test_a_neuron_that_is_always_zero_is_not_attenuated() -> None:
    silent = raw(seed=5)
    silent.values[SITES[0]][:, 2] = 0.0
    for dynamic, reference in product((True, False), ("max", "rms")):
        program = interventions.attenuate(ANGER, silent.stats(), 0.5, dynamic=dynamic, reference=reference)
        assert program.sites[SITES[0]].index.tolist() == [6]
        assert program.table(SITES[0], 7)[:, 2].tolist() == [1.0, 0.0, -np.inf, 0.0]


def test_a_subnormal_peak_attenuates_without_nan() -> None:
    faint = raw(seed=5)
    faint.values[SITES[0]][:, 2] = np.float32(1e-44)
    table = interventions.attenuate(ANGER, faint.stats(), 0.5).table(SITES[0], 7)
    out = apply(table[:, 2], np.array([0.0, 1.0, -2.0]))
    assert out.tolist() == [0.0, 0.5, -1.0]


def test_a_magnitude_below_the_mean_takes_off_no_more_than_alpha() -> None:
    small = {site: np.full(width, 1e-6) for site, width in STATS.widths.items()}
    for dynamic in (True, False):
        table = interventions.attenuate(ANGER, STATS, 0.7, dynamic=dynamic, reference=small).table(SITES[0], 7)
        np.testing.assert_allclose(apply(table[:, 2], H), 0.3 * H, rtol=1e-3, atol=1e-5)


# --- the relative change ---


def truly_changed(program: Program, label: str) -> float:
    changes = []
    for site, part in program.sites.items():
        for index in part.index:
            h = under(label, site, index)
            changes.append(np.sqrt(((apply(program.table(site, STATS.widths[site])[:, index], h) - h) ** 2).mean()))
            changes[-1] /= np.sqrt((h**2).mean())
    return float(np.median(changes))


@pytest.mark.parametrize(
    "program",
    [
        interventions.zero(ANGER),
        interventions.mean(ANGER, STATS),
        interventions.attenuate(ANGER, STATS, 0.7, dynamic=False),
        interventions.induce(ANGER, STATS, 2.5),
        interventions.amplify(ANGER, 1.5),
        interventions.zero([(SITES[2], 0), (SITES[2], 2)]),
    ],
)
@pytest.mark.parametrize("label", ["anger", "joy"])
def test_the_relative_change_is_exact_without_damping(program: Program, label: str) -> None:
    change = interventions.relative_change(program, STATS.label(label))
    assert change == pytest.approx(truly_changed(program, label), rel=1e-6)
    assert ("zero" in program.name) == (change == 1.0)


@pytest.mark.parametrize("alpha", [0.3, 1.0])
def test_the_relative_change_with_damping_is_that_of_a_steady_activation(alpha: float) -> None:
    steady = raw(seed=5)
    sign = np.where(np.arange(len(steady.labels)) % 2, 1, -1)[:, None]
    for values in steady.values.values():
        values[:] = sign * np.abs(values[:1])
    stats = steady.stats()
    for reference in ("max", "rms"):
        program = interventions.attenuate(ANGER, stats, alpha, reference=reference)
        assert interventions.relative_change(program, stats.label("anger")) == pytest.approx(alpha, rel=1e-6)
    doubled = {site: 2.0 * np.abs(values[0]) for site, values in steady.values.items()}
    program = interventions.attenuate(ANGER, stats, alpha, reference=doubled)
    assert interventions.relative_change(program, stats.label("anger")) == pytest.approx(alpha / 2, rel=1e-6)


def test_neurons_that_are_never_active_have_no_relative_change() -> None:
    silent = raw(seed=5)
    silent.values[SITES[0]][:, 2] = 0.0
    measured = silent.stats().label("anger")
    assert interventions.relative_change(interventions.zero([(SITES[0], 2)]), measured) is None
    assert interventions.relative_change(Program({}, "nothing"), measured) is None
    shifted = program(1.0, 0.0, -INF, 3.0, index=2)
    assert interventions.relative_change(shifted, measured) is None
    others = interventions.amplify([(SITES[0], 2), (SITES[0], 3)], 1.25)
    assert interventions.relative_change(others, measured) == pytest.approx(0.25)


# --- the dose ---


def true_dose(tokens: np.ndarray, site: str, program: Program) -> float:
    """sqrt(E |h' - h|²) / sqrt(E |h|²) over the rows of ``tokens``, float64."""
    h, table = tokens.astype(np.float64), program.table(site, tokens.shape[1])
    changed = np.stack([apply(table[:, index], h[:, index]) for index in range(h.shape[1])], axis=1)
    return float(np.sqrt(((changed - h) ** 2).sum(1).mean()) / np.sqrt((h**2).sum(1).mean()))


SHIFTS = {
    "induce": partial(interventions.induce, ANGER, STATS, -2.5),
    "contrast": partial(interventions.contrast, ANGER, STATS, 2.5),
    "cross-signal": partial(interventions.cross_signal, ANGER, STATS, "metaphor", 1.5),
}


@pytest.mark.parametrize(
    "program",
    [
        *(make() for make in SHIFTS.values()),
        interventions.zero(ANGER),
        interventions.mean(ANGER, STATS),
        interventions.amplify(ANGER, 1.5),
        interventions.attenuate(ANGER, STATS, 0.7, dynamic=False),
        interventions.zero([(SITES[2], index) for index in range(3)]),
    ],
    ids=lambda program: program.name,
)
def test_the_dose_is_the_size_of_the_change_relative_to_the_site(program: Program) -> None:
    for measured, rows in ((STATS.total(), slice(None)), (STATS.label("joy"), TOKENS.target("joy"))):
        found = interventions.doses(program, measured)
        assert found.keys() == program.sites.keys()
        for site, dose in found.items():
            assert dose == pytest.approx(true_dose(TOKENS.values[site][rows], site, program), rel=1e-6)


@pytest.mark.parametrize("make", SHIFTS.values(), ids=SHIFTS)
def test_a_shift_is_scaled_down_to_the_largest_dose_where_it_has_more(make) -> None:
    free = make()
    given = interventions.doses(free, STATS.total())
    least, most = sorted(given.values())
    for limit in (least / 3, (least + most) / 2, 2 * most):
        capped = make(max_dose=limit)
        for site, part in capped.sites.items():
            assert true_dose(TOKENS.values[site], site, capped) == pytest.approx(min(limit, given[site]), rel=1e-6)
            weight = min(1.0, limit / given[site])
            np.testing.assert_allclose(part.shift, free.sites[site].shift * np.float32(weight), rtol=3e-7)
            if given[site] <= limit:
                assert np.array_equal(part.shift, free.sites[site].shift)
        assert capped.name == f"{free.name}, dose at most {limit:g}"


def test_the_dose_of_neurons_without_finite_or_any_activation() -> None:
    bad = raw(seed=5, bad=True)
    bad.values[SITES[1]][:] = np.nan
    bad.values[SITES[2]][:] = 0.0
    everything = interventions.zero([(site, i) for site in SITES for i in range(bad.values[site].shape[1])])
    found = interventions.doses(everything, bad.stats().total())
    assert found == {SITES[0]: pytest.approx(1.0), SITES[2]: 0.0}  # none of the second site's activations is finite
    shifted = Program({SITES[2]: site_program((1.0, 0.0, -np.inf, 0.5))}, "shifted")
    assert interventions.doses(shifted, bad.stats().total()) == {SITES[2]: np.inf}


@pytest.mark.parametrize("limit", [0.0, -1.0, np.inf, np.nan, True])
def test_a_largest_dose_is_a_number_above_zero(limit: float) -> None:
    for make in SHIFTS.values():
        with pytest.raises(InputError, match=f"max_dose is {limit}, expected a number above 0"):
            make(max_dose=limit)


def test_statistics_of_pairs_have_no_dose() -> None:
    pairs = TOKENS.stats(tokens="pair")
    interventions.induce(ANGER, pairs)
    with pytest.raises(InputError, match="max_dose needs activations, and these statistics hold the differences"):
        interventions.induce(ANGER, pairs, max_dose=1.0)


# --- composition ---


def site_program(row: tuple[float, float, float, float], index: int = 0) -> SiteProgram:
    return SiteProgram(np.array([index]), *(np.array([value]) for value in row))


def program(*row: float, index: int = 0, name: str = "p") -> Program:
    return Program({SITE: site_program(row, index)}, name)


INF = float("inf")
strengths = st.floats(-2, 2, width=32).map(lambda x: float(np.round(x, 2)))
positive = st.floats(0, 2, width=32).map(lambda x: float(np.round(x, 2)))
rows = st.one_of(
    st.tuples(strengths, st.just(0.0), st.just(-INF), strengths),
    st.tuples(st.just(1.0), positive, strengths, st.one_of(st.just(-0.0), strengths)),
    st.sampled_from([(0.0, 0.0, -INF, 0.0), (1.0, 0.0, -INF, -0.0), (0.0, 0.0, -INF, 0.75)]),
)


@given(first=rows, second=rows)
def test_a_composition_does_both_or_refuses(first, second) -> None:
    a, b = program(*first), program(*second)
    try:
        both = interventions.compose(a, b)
    except InputError:
        # A refusal requires that one of the factors depends on h.
        assert first[1] > 0 or second[1] > 0
        return
    sequential = apply(b.table(SITE, 1)[:, 0], apply(a.table(SITE, 1)[:, 0], H))
    np.testing.assert_allclose(apply(both.table(SITE, 1)[:, 0], H), sequential, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ((1.0, 0.5, 0.25, -0.0), (1.0, 0.0, -INF, 0.5)),  # attenuate, then induce
        ((1.0, 0.5, 0.25, 2.0), (1.5, 0.0, -INF, -0.0)),  # damped and shifted, then amplified
        ((1.5, 0.0, -INF, -0.0), (1.0, 0.5, 0.25, -0.0)),  # amplified, then damped
        ((0.0, 0.0, -INF, 0.75), (1.0, 0.5, 0.25, 0.1)),  # mean, then damped
        ((1.0, 0.5, 0.25, 0.3), (0.0, 0.0, -INF, 0.0)),  # anything, then zero
        ((-1.0, 0.0, -INF, 0.3), (-0.5, 0.0, -INF, 0.1)),
    ],
)
def test_these_compose(first, second) -> None:
    both = interventions.compose(program(*first), program(*second)).table(SITE, 1)[:, 0]
    sequential = apply(np.array(second), apply(np.array(first), H))
    np.testing.assert_allclose(apply(both, H), sequential, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ((1.0, 0.5, 0.25, -0.0), (1.0, 0.5, 0.25, -0.0)),  # two dampings
        ((1.0, 0.0, -INF, 0.5), (1.0, 0.5, 0.25, -0.0)),  # a shift, then a damping
        ((1.0, 0.5, 0.25, -0.0), (-1.0, 0.0, -INF, -0.0)),  # max becomes min
    ],
)
def test_these_do_not_and_say_where(first, second) -> None:
    with pytest.raises(InputError, match=rf"neuron 4 of {SITE} is touched by 'late'"):
        interventions.compose(program(*first, index=4), program(*second, index=4, name="late"))


def test_composition_unites_what_does_not_meet() -> None:
    a = interventions.induce(ANGER, STATS, 1.0)
    b = interventions.zero([(SITES[0], 0), (SITES[2], 1)])
    both = interventions.compose(a, b)
    assert len(both) == 5
    assert both.name == "induce 1 anger + zero neurons"
    for site, owner in ((SITES[0], a), (SITES[1], a), (SITES[2], b)):
        for index in range(STATS.widths[site]):
            other = b if (site, index) == (SITES[0], 0) else owner
            assert np.array_equal(
                both.table(site, STATS.widths[site])[:, index],
                other.table(site, STATS.widths[site])[:, index],
            )


# --- bad input ---


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: interventions.attenuate(ANGER, STATS, -0.1), "alpha is -0.1"),
        (lambda: interventions.attenuate(ANGER, STATS, float("nan")), "alpha is nan"),
        (lambda: interventions.induce(ANGER, STATS, INF), "beta is inf"),
        (lambda: interventions.cross_signal(ANGER, STATS, "metaphor", -INF), "omega is -inf"),
        (lambda: interventions.residual(LAYERS, SITES[0], "anger", INF), "beta is inf"),
        (lambda: interventions.residual(LAYERS, SITES[0], "rage"), "label 'rage' is not in the statistics"),
        (lambda: interventions.residual(LAYERS, "lm_head", "anger"), f"layer is 'lm_head', expected one of {SITES[0]}"),
        (lambda: interventions.residual(STATS, SITES[0], "anger"), "residual needs the outputs of layers, and these"),
        (lambda: interventions.contrast(ANGER, LAYERS), "contrast needs activations, and these .* outputs of layers"),
        (lambda: interventions.amplify(ANGER, 0.5), "factor is 0.5, expected a finite number of at least 1"),
        (lambda: interventions.induce(ANGER, STATS, label="rage"), "label 'rage' is not in the statistics"),
        (lambda: interventions.induce([(SITES[0], 1)], STATS), "label is not given"),
        (lambda: interventions.mean(ANGER, STATS, task="mood"), "task 'mood' is not in the statistics"),
        (lambda: interventions.induce([("lm_head", 1)], STATS, label="joy"), "site 'lm_head' is not in"),
        (lambda: interventions.induce([(SITES[0], 7)], STATS, label="joy"), "neuron 7 .* beyond the 7"),
        (lambda: interventions.zero([(SITES[0], -1)]), "is -1, expected 0 or more"),
        (lambda: interventions.zero([(3, 1)]), "expected \\(site, index, ...\\)"),
        (lambda: interventions.zero([(SITES[0], 1.0)]), "expected \\(site, index, ...\\)"),
        (lambda: interventions.zero(ANGER).table(SITES[0], 6), "touches neuron 6 of .* has 6 neurons"),
        (lambda: program(1.0, -0.5, -INF, 0.0), "damping of neuron 0 is -0.5"),
        (lambda: program(1e39, 0.0, -INF, 0.0), "scale of neuron 0 is inf"),
        (lambda: program(1.0, 0.0, float("nan"), 0.0), "floor of neuron 0 is nan"),
        (lambda: program(1.0, 0.0, -INF, 0.0, index=-2), "not negative"),
    ],
)
def test_bad_input_is_named(call, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("q99", "reference is 'q99', expected max, rms or a magnitude of every neuron, by site"),
        ({}, f"reference has no neuron 4 of {SITES[1]}, expected a magnitude of every neuron"),
        ({SITES[1]: np.ones(4)}, f"reference has no neuron 4 of {SITES[1]}, expected a magnitude of every neuron"),
        ({SITES[1]: np.ones((1, 5))}, f"reference has no neuron 4 of {SITES[1]}, expected a magnitude of every neuron"),
        ({SITES[1]: -np.ones(5)}, f"reference of neuron 4 of {SITES[1]} is -1.0, expected a finite number of at leas"),
        ({SITES[1]: np.full(5, INF)}, f"reference of neuron 4 of {SITES[1]} is inf, expected a finite number of at l"),
        ({SITES[1]: np.full(5, np.nan)}, f"reference of neuron 4 of {SITES[1]} is nan, expected a finite number of a"),
    ],
)
def test_a_reference_that_is_none_is_refused(reference: object, message: str) -> None:
    with pytest.raises(InputError) as caught:
        interventions.attenuate(ANGER, STATS, 0.5, reference=reference)
    assert str(caught.value).startswith(message)


def test_a_relative_change_needs_statistics_of_every_neuron() -> None:
    with pytest.raises(InputError, match="neuron 9 .* beyond the 7"):
        interventions.relative_change(program(1.0, 0.0, -INF, 0.0, index=9), STATS.label("joy"))


def test_a_neuron_never_finite_under_the_label_is_refused() -> None:
    broken = raw(seed=1, bad=True).stats()
    last = NeuronList("anger", "emotion", [(SITES[0], 6, 0.1)])
    for make in (
        lambda: interventions.induce(last, broken),
        lambda: interventions.mean(last, broken),
        lambda: interventions.attenuate(last, broken, 0.5),
    ):
        with pytest.raises(InputError, match=f"neuron 6 of {SITES[0]} has no finite activation under"):
            make()


# --- schedules ---


def test_a_share_of_a_program_goes_that_share_of_the_way() -> None:
    rng = np.random.default_rng(0)
    fields = rng.uniform(-1, 1, (4, 9))
    fields[1] = abs(fields[1])
    fields[2, ::2] = -np.inf
    program = Program({"a": SiteProgram(np.arange(9), *fields)}, "some")
    h = rng.normal(size=9)

    def applied(program: Program) -> np.ndarray:
        scale, damping, floor, shift = program.table("a", 9).astype(np.float64)
        return h * np.maximum(scale - damping * abs(h), floor) + shift

    for weight in (0.1, 0.5, 1.0):
        np.testing.assert_allclose(applied(program.scaled(weight)), h + weight * (applied(program) - h), rtol=1e-5)
    for weight in (0.0, -1.0, 1.5, float("nan")):
        assert "expected a number in (0, 1]" in message(lambda weight=weight: program.scaled(weight))


def test_the_pieces_of_a_schedule() -> None:
    program = interventions.zero([("a", 1)])
    assert schedule(program).generated == ((0, program),)
    assert schedule(program, stop=0).generated == ((0, None),)
    later = schedule(program, prompt=False, start=3, stop=7)
    assert (later.prompt, later.generated) == (None, ((0, None), (3, program), (7, None)))
    fading = schedule(program, half_life=10, start=2, stop=30)
    starts = [start for start, _ in fading.generated]
    assert starts == [0, 2, 7, 12, 17, 22, 27, 30]
    scales = [1 - piece.sites["a"].scale[0] for _, piece in fading.generated if piece is not None]
    np.testing.assert_allclose(scales, 2.0 ** (-np.arange(6) / 2), rtol=1e-6)
    whole = schedule(program, half_life=1)
    assert [start for start, _ in whole.generated] == list(range(13))
    assert whole.generated[-1][1] is None
    assert whole.text is whole.prompt is program
    assert later.text is None
    assert Schedule(program, ((0, None),), "but the text", None).text is None


@pytest.mark.parametrize(
    ("where", "text", "prompt", "generated", "name"),
    [
        ("all", True, True, True, "zero neurons (prompt and generated 0 to end)"),
        ("text", True, False, False, "zero neurons (text)"),
        ("prompt", False, True, False, "zero neurons (prompt without text)"),
        ("generated", False, False, True, "zero neurons (generated 0 to end)"),
    ],
)
def test_the_positions_of_a_schedule(where: str, text: bool, prompt: bool, generated: bool, name: str) -> None:
    program = interventions.zero([("a", 1)])
    made = schedule(program, where=where)
    pieces = (made.text, made.prompt, made.generated[-1][1])
    assert pieces == tuple(program if acts else None for acts in (text, prompt, generated))
    assert len(made.generated) == 1
    assert made.name == name
    assert repr(made) == f"Schedule({name}; 1 piece)"
    assert schedule(program, where="generated", start=3, stop=5).generated == ((0, None), (3, program), (5, None))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"start": -1}, "start is -1"),
        ({"start": 4, "stop": 4}, "stop is 4, expected more than start, 4"),
        ({"where": "generated", "stop": 0}, "stop is 0, expected more than start, 0"),
        ({"prompt": False, "stop": 0}, "stop is 0, expected more than start, 0"),
        ({"half_life": 0.5}, "half_life is 0.5, expected a finite number of at least 1"),
        ({"where": "label"}, "where is 'label', expected one of all, text, prompt, generated"),
        ({"where": "text", "half_life": 3}, "where is 'text' beside prompt True, start 0, stop None, half_life 3"),
        ({"where": "prompt", "stop": 0}, "expected 'all' or 'generated' beside these"),
        ({"where": "prompt", "prompt": False}, "where is 'prompt' beside prompt False"),
        ({"where": "text", "start": 1}, "where is 'text' beside prompt True, start 1"),
    ],
)
def test_schedules_that_cannot_be(options: dict, expected: str) -> None:
    assert expected in message(lambda: schedule(interventions.zero([("a", 1)]), **options))


def test_a_schedule_of_ones_own_ascends_from_the_first_token() -> None:
    assert "expected ascending numbers from 0" in message(lambda: Schedule(None, ((1, None),), "late"))
    assert "expected ascending numbers from 0" in message(lambda: Schedule(None, ((0, None), (0, None)), "twice"))
    many = tuple((k, None) for k in range(16))
    assert "holds 16 programs, expected at most 15" in message(lambda: Schedule(None, many, "long"))

"""The page of the studies: each verdict on each claim is reached by some result, and the page shows what is there."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tools.claims import CLAIMS, FAILS, HOLDS, OPEN, VERDICTS, Answer, Part, answered, judge
from tools.study_page import Study, page

from affectron.evaluation.verdicts import NO_EFFECT
from affectron.experiments.results import Ablations, CrossSignal, Validation
from affectron.neurons import NeuronList, NeuronSet
from affectron.report.pieces import Pieces
from affectron.runs import load_config
from affectron.stats import ActivationStats
from tests.support.results import (
    PROVENANCE,
    SITES,
    WIDTH,
    make_ablations,
    make_cross_signal,
    make_effect,
    make_neurons,
    make_results,
    make_run,
    make_stats,
    make_validation,
)

ROOT = Path(__file__).resolve().parents[2]
EMOTIONS = ("anger", "disgust", "fear", "happiness", "sadness", "surprise")
TASKS = {"emotion": EMOTIONS, "rhetoric": ("hyperbole", "sarcasm")}
UP, DOWN, MIXED = (0.1,) * 6, (-0.1,) * 6, (0.1, -0.1, 0.1, -0.1, 0.1, -0.1)


def validation(adaptive: tuple[float, ...] = UP, zero: tuple[float, ...] = UP, baseline: float = 0.8) -> Validation:
    """A validation of the emotions, with these changes under two masks."""
    made = make_validation({"emotion": EMOTIONS}, make_neurons({"emotion": EMOTIONS}))
    task = made.tasks["emotion"]
    results = {}
    for place, (label, result) in enumerate(task.results.items()):
        masks = {
            name: replace(mask, delta={"adaptive": adaptive, "zero": zero}.get(name, UP)[place])
            for name, mask in result.masks.items()
        }
        results[label] = replace(result, baseline=baseline, masks=masks)
    return replace(made, tasks={"emotion": replace(task, results=results)})


def ablations(whole: float, top: float | None, bottom: float) -> Ablations:
    """Ablations of parts of the sites that drop every emotion by so much; None for a part without neurons."""
    made = make_ablations({"emotion": EMOTIONS})
    drops = {"all": whole, "top": top, "middle": None, "bottom": bottom}
    effect = make_effect()
    rows = []
    for row in made.rows:
        if row.sweep == "sites":
            drop = drops[row.setting]
            row = replace(row, effect=None if drop is None else replace(effect, delta=-drop))
        rows.append(row)
    return replace(made, rows=tuple(rows))


def neurons(late: int, of: int = 10) -> NeuronSet:
    """Neurons of each emotion: ``late`` of them at the last of the six sites, the others at the first."""
    lists = [
        NeuronList(label, "emotion", [(SITES[-1 if number < late else 0], number, 0.1) for number in range(of)])
        for label in EMOTIONS
    ]
    return NeuronSet(lists, dict.fromkeys(SITES, WIDTH), PROVENANCE)


def statistics(site: str) -> ActivationStats:
    """Statistics in which five neurons of one site are active under each emotion alone."""
    segments = [(label,) for label in EMOTIONS]
    arrays = {}
    for name in SITES:
        active = np.full((6, WIDTH), 500)
        if name == site:
            active[:, :30] = 1  # a hundredth of all neurons
            for row in range(6):
                active[row, 5 * row : 5 * row + 5] = 990
        arrays[name] = {
            "count": np.full(6, 1000), "active": active, "nonfinite": np.zeros((6, WIDTH), np.int64),
            "mean": np.zeros((6, WIDTH)), "m2": np.ones((6, WIDTH)),
            "min": np.full((6, WIDTH), -1, np.float32), "max": np.full((6, WIDTH), 1, np.float32),
        }  # fmt: skip
    return ActivationStats({"emotion": EMOTIONS}, segments, arrays, PROVENANCE)


def crossed(
    hyperbole: tuple[float, ...] = UP, sarcasm: tuple[float, ...] = UP, random: float = 0.0, **fields: Any
) -> CrossSignal:
    """Signals of two devices at each emotion, with these changes, and one change at random neurons."""
    made = make_cross_signal(("hyperbole", "sarcasm"), EMOTIONS)
    labels = {}
    for place, (label, signals) in enumerate(made.labels.items()):
        devices = {}
        for device, changes in (("hyperbole", hyperbole), ("sarcasm", sarcasm)):
            signal = signals.devices[device]
            assert signal.random is not None
            gained = round(100 * changes[place])
            devices[device] = replace(
                signal, delta=changes[place], gained=max(gained, 0), lost=max(-gained, 0),
                random=replace(signal.random, mean=random), **fields,
            )  # fmt: skip
        labels[label] = replace(signals, sentences=100, devices=devices)
    return replace(made, options=replace(made.options, source="rhetoric", target="emotion"), labels=labels)


def peak(label: str, high: float = 0.4) -> tuple[float, ...]:
    return tuple(high if label == emotion else 0.02 for emotion in EMOTIONS)


KNOWN = validation()
#: Number of the claim -> results with which it has each verdict, several ways to one of them.
CASES: list[tuple[int, str, Pieces]] = [
    (0, HOLDS, Pieces(validation=validation(DOWN, UP))),
    (0, FAILS, Pieces(validation=validation(DOWN, DOWN))),
    (0, FAILS, Pieces(validation=validation(UP, UP))),
    (0, OPEN, Pieces(validation=validation(DOWN, MIXED))),
    (0, OPEN, Pieces(validation=validation(DOWN, UP, baseline=0.1))),
    (1, HOLDS, Pieces(validation=KNOWN, ablations=ablations(0.3, 0.2, 0.1))),
    (1, FAILS, Pieces(validation=KNOWN, ablations=ablations(0.3, 0.1, 0.2))),
    (1, FAILS, Pieces(validation=KNOWN, ablations=ablations(0.3, None, 0.2))),
    (1, OPEN, Pieces(validation=KNOWN, ablations=ablations(0.3, 0.3, 0.2))),
    (1, OPEN, Pieces(validation=KNOWN)),
    (2, HOLDS, Pieces(neurons=neurons(8))),
    (2, FAILS, Pieces(neurons=neurons(2))),
    (2, OPEN, Pieces(neurons=neurons(5))),
    (3, HOLDS, Pieces(stats=statistics(SITES[-1]))),
    (3, FAILS, Pieces(stats=statistics(SITES[0]))),
    (3, OPEN, Pieces(stats=make_stats({"tone": ("calm", "rude")}))),
    (4, HOLDS, Pieces(validation=KNOWN, cross_signal=crossed())),
    (4, FAILS, Pieces(validation=KNOWN, cross_signal=crossed(DOWN, DOWN))),
    (4, FAILS, Pieces(validation=KNOWN, cross_signal=crossed(random=0.2))),
    (4, FAILS, Pieces(validation=KNOWN, cross_signal=crossed(others_delta=-0.5))),
    (4, OPEN, Pieces(validation=KNOWN, cross_signal=crossed(MIXED, MIXED))),
    (4, OPEN, Pieces(validation=KNOWN, cross_signal=replace(crossed(), labels={}))),
    (5, HOLDS, Pieces(validation=KNOWN, cross_signal=crossed(UP, DOWN))),
    (5, FAILS, Pieces(validation=KNOWN, cross_signal=crossed((*UP[:5], -0.1), p=0.001))),
    (5, FAILS, Pieces(validation=KNOWN, cross_signal=crossed(DOWN, p=0.9))),
    (5, OPEN, Pieces(validation=KNOWN, cross_signal=crossed((*UP[:5], -0.1), p=0.9))),
    (6, HOLDS, Pieces(validation=KNOWN, cross_signal=crossed(sarcasm=peak("sadness")))),
    (6, FAILS, Pieces(validation=KNOWN, cross_signal=crossed(sarcasm=peak("fear")))),
    (6, OPEN, Pieces(validation=KNOWN, cross_signal=crossed(sarcasm=UP))),
]  # fmt: skip


@pytest.mark.parametrize(("number", "verdict", "pieces"), CASES)
def test_each_claim_has_the_verdict_that_its_results_bear_out(number: int, verdict: str, pieces: Pieces) -> None:
    answer = CLAIMS[number].judged(pieces)
    assert answer.verdict == verdict, answer.reason
    assert answer.reason


def test_every_verdict_on_every_claim_has_a_case() -> None:
    assert {(number, verdict) for number, verdict, _ in CASES} == {
        (number, verdict) for number in range(len(CLAIMS)) for verdict in VERDICTS
    }


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.text)
def test_what_was_not_measured_cannot_be_told(claim: Any) -> None:
    answer = claim.judged(Pieces())
    assert answer.verdict == OPEN
    assert answer.reason.endswith("was not measured")


def of(values: tuple[float, ...]) -> dict[str, float]:
    return {f"l{place}": value for place, value in enumerate(values)}


@pytest.mark.parametrize(("up", "down", "zero"), [(6, 0, 0), (5, 0, 3), (9, 1, 0), (8, 2, 4), (2, 9, 1), (0, 0, 5)])
def test_the_sign_test(up: int, down: int, zero: int) -> None:
    part = Part("rises", of((0.1,) * up + (-0.2,) * down + (0.0,) * zero))
    told = up + down
    # By definition: twice the chance of so few of the rarer sign, at most 1.
    p = min(1.0, 2 * sum(comb(told, k) for k in range(min(up, down) + 1)) / 2**told)
    assert part.p == pytest.approx(p)
    assert part.shown == (p <= 0.05 and up > down)
    assert part.opposed == (p <= 0.05 and down > up)


def test_a_claim_needs_all_of_its_parts() -> None:
    def verdict(*values: tuple[float, ...], every: bool = False) -> str:
        return judge([Part("rises", of(of_part), every) for of_part in values]).verdict

    assert verdict(UP, UP) == HOLDS
    assert verdict(UP, MIXED) == OPEN
    assert verdict(UP, DOWN) == verdict(MIXED, DOWN) == FAILS
    many = (*UP, *UP, -0.1)
    assert (verdict(many), verdict(many, every=True)) == (HOLDS, OPEN)
    assert judge([Part("rises", of(UP), True, ("l2",))]) == Answer(
        FAILS, "rises: 6 of 6 labels, p 0.0312, mean +10.0 (against it: l2)"
    )
    assert judge([Part("rises", of(UP[:5]))]).reason.endswith("; 5 labels cannot show it, as the test takes 6")


def test_labels_near_chance_are_left_out() -> None:
    labels, note = answered(validation(baseline=0.8))
    assert (tuple(labels), note) == (EMOTIONS, "")
    labels, note = answered(validation(baseline=0.15))
    assert (labels, note) == ([], f"near chance and left out: {', '.join(EMOTIONS)}")


ALL = ("ablations", "cross_signal", "estimate", "generation", "methods", "stability")
TITLES = [
    "Verdicts", "Ways to select", "Dose", "Estimate", "Induction", "Generated texts",
    "Neurons beside other ways to steer", "Texts", "Cross-signal",
]  # fmt: skip


def rows_of(text: str, title: str) -> list[list[str]]:
    """The cells of the first table after a heading."""
    after = text.split(f"# {title}\n", 1)[1]
    (table,) = re.findall(r"(?:^\|.*\n)+", after, re.MULTILINE)[:1]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines()]


def test_the_page_has_a_part_for_each_result(tmp_path: Path) -> None:
    make_run(tmp_path, TASKS, *ALL)
    study = Study("small", Pieces.read(tmp_path), {"screen": (12.0, 2**30), "validate": (5400.0, 3 * 2**30)})
    text = page([study, Study("without emotions", Pieces(), {})])
    assert re.findall("^### (.*)$", text, re.MULTILINE) == TITLES
    for title in TITLES:
        rows = rows_of(text, title)
        assert {len(row) for row in rows} == {len(rows[0])}
    assert "| validate | 90 min | 3.0 GiB |\n| all | 90 min | 3.0 GiB |\n" in text
    claims = rows_of(text, "The claims of the paper")
    assert [row[0] for row in claims[2:]] == [claim.text for claim in CLAIMS]
    assert claims[0] == ["claim", "small"]
    results = make_results(TASKS)
    shown = {row[0]: row[4:7] for row in rows_of(text, "Verdicts")[2:]}
    for label, result in results["validation"].results.items():  # type: ignore[attr-defined]
        assert [cell.split(", ", 1)[1] for cell in shown[label]] == [mask.verdict for mask in result.masks.values()]
    texts = {row[0]: row[1:] for row in rows_of(text, "Generated texts")[2:]}
    assert texts["anger"] == [f"{share}\u00a0%, +0.25" for share in ("12.5", "75.0", "12.5", "37.5", "66.7")]
    assert texts["mean success"] == [cell.split(",")[0] for cell in texts["anger"]]
    against = rows_of(text, "Neurons beside other ways to steer")[2:]
    assert against[:3] == [
        ["anger", "neurons 5 %", "random 5 %", "+40.0", "+20.0 to +60.0", "0.004"],
        ["anger", "neurons 5 %", "residual", "+40.0", "+20.0 to +60.0", "0.004"],
        ["anger", "neurons 5 %", "prompt", "+5.0", "−10.0 to +20.0", "1"],
    ]
    assert rows_of(text, "Texts")[2][:2] == ["beginning 0", "anger text 0"]
    # Means over labels of one effect: that of setting 0.5 is -4 points, and nothing is masked in the middle.
    dose = {(row[0], row[1]): row for row in rows_of(text, "Dose")[2:]}
    assert dose["alpha", "0.5"][3:5] == ["−4.0", "0.0"]
    assert dose["alpha", "0.5"][6] == f"8 {NO_EFFECT}"
    assert dose["sites", "middle"][2:] == ["0", "–", "–", "–", "–"]
    bare = page([Study("bare", Pieces(neurons=make_neurons(TASKS)), {})])
    assert "###" not in bare


def test_a_label_of_two_studies_of_one_model(tmp_path: Path) -> None:
    def study(name: str, made: NeuronSet) -> Study:
        return Study(name, Pieces(neurons=made), {})

    one, same, other = neurons(8), neurons(5), neurons(8)
    other.provenance["weights"] = "other"
    text = page([study("a", one), study("b", same), study("c", other)])
    rows = rows_of(text, "The same label in two studies")[2:]
    assert [row[:4] for row in rows] == [[label, "as in the run", "a", "b"] for label in EMOTIONS]
    # Of ten neurons each, the last two and the first five are at the same places.
    assert {tuple(row[4:8]) for row in rows} == {("10, 10", "7", "0.0", "0.54")}
    assert "in two studies" not in page([study("a", one), study("c", other)])
    measured = [
        Study(name, Pieces(neurons=neurons(8), stats=make_stats({"emotion": EMOTIONS})), {}) for name in ("a", "b")
    ]
    rows = [row for row in rows_of(page(measured), "The same label in two studies") if row[1] == "`hedges_g`"]
    assert {tuple(row[4:8]) for row in rows} == {("50, 50", "50", "0.8", "1.00")}


def test_sources_are_shown_where_there_are_several() -> None:
    stats = make_stats(TASKS)
    several = {"anger": {"x": 3, "y": 1}, "fear": {"x": 2}}
    for sources, shown in ((several, True), ({"anger": {"x": 3}}, False), ({}, False)):
        stats.provenance = {**PROVENANCE, "sources": sources}
        text = page([Study("a", Pieces(stats=stats), {})])
        assert ("### Sources" in text) == shown
        if shown:
            assert rows_of(text, "Sources")[2:] == [["anger", "3", "1"], ["fear", "2", "0"]]


def test_a_study_is_read_by_its_configuration(tmp_path: Path) -> None:
    (tmp_path / "small.toml").write_text('model = "m"\ncorpus = "c.jsonl"\noutput = "out"\n', encoding="utf-8")
    make_run(tmp_path / "out", TASKS, *ALL)
    record = {
        "format": "affectron.run",
        "version": 1,
        "stages": {"screen": {"key": "", "files": {}, "seconds": 2.5, "peak_bytes": 2**30}},
    }
    (tmp_path / "out" / "run.json").write_text(json.dumps(record), encoding="utf-8")
    study = Study.read(tmp_path / "small.toml")
    assert (study.name, study.stages) == ("small", {"screen": (2.5, 2**30)})
    assert study.pieces.validation is not None


@pytest.mark.parametrize("config", sorted((ROOT / "examples" / "studies").glob("*.toml")), ids=lambda path: path.stem)
def test_the_studies_have_configurations_that_can_be_read(config: Path) -> None:
    read = load_config(config)
    assert read.output.resolve() == ROOT / "run" / "studies" / config.stem

"""The search for the strongest dose within a budget, on scripted divergences and on a model."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import pytest
import transformers

import affectron
from affectron.corpus import Sentence
from affectron.errors import InputError, Note
from affectron.evaluation.divergence import Divergence
from affectron.experiments.doses import dose_curve, neutral_text, strongest
from affectron.experiments.results import BetaChoice, Dose
from affectron.interventions import Program, contrast
from tests.support.corpora import CORPUS
from tests.support.errors import message
from tests.support.tiny import build, make_tokenizer

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore::affectron.errors.Note")]

MODEL, TOKENIZER = build("llama"), make_tokenizer()
STATS = affectron.screen(MODEL, TOKENIZER, CORPUS.where(split="train"))
NEURONS = affectron.select(STATS, "emotion", top=0.2)["joy"]
NEUTRAL = [sentence for sentence in CORPUS.where(split="dev") if "joy" not in sentence.labels]

BUDGETS = (0.1, 0.4, 0.8)


class Scripted:
    """A divergence that is a function of the strength, which the program's name tells."""

    def __init__(self, of: Callable[[float], float]) -> None:
        self.of, self.sweeps = of, 0

    def __call__(self, programs: Sequence[Program]) -> np.ndarray:
        self.sweeps += 1
        return np.array([self.of(float(program.name)) for program in programs])


def make(beta: float) -> Program:
    return Program({}, repr(beta))


@pytest.mark.parametrize("scale", [1e-4, 0.02, 1.0, 30.0, 2e4])
@pytest.mark.parametrize("power", [1.5, 2.0, 2.6])
def test_the_dose_is_close_to_the_budget_whatever_the_scale(scale: float, power: float) -> None:
    script = Scripted(lambda beta: (beta * scale) ** power)
    curve = dose_curve(script, make, BUDGETS)
    for budget in BUDGETS:
        assert 0.85 * budget <= strongest(curve, budget).rise <= budget
    assert script.sweeps <= 7
    assert [dose.beta for dose in curve] == sorted(dose.beta for dose in curve)


def test_it_saturates_and_breaks_off() -> None:
    """A divergence that rises fast and is then not finite: the dose before is found."""
    curve = dose_curve(Scripted(lambda beta: beta**2 if beta < 0.5 else math.inf), make, [0.6])
    found = strongest(curve, 0.6)
    assert 0 < found.beta < 0.5
    assert found.rise <= 0.6
    assert curve[-1].rise is None


def test_the_strongest_has_no_stronger_one_beyond_the_budget_before_it() -> None:
    curve = [Dose(beta, rise) for beta, rise in ((1, 0.1), (2, 0.5), (3, 0.2), (4, 0.9))]
    assert strongest(curve, 0.3) == Dose(1, 0.1)
    assert strongest(curve, 0.6) == Dose(3, 0.2)
    assert strongest(curve, 5) == Dose(4, 0.9)


@pytest.mark.parametrize("rise", [lambda beta: 0.0, lambda beta: min(beta, 2.0) ** 2 / 40])
def test_a_program_that_can_no_more_gets_the_largest_strength_that_was_tried(rise: Callable[[float], float]) -> None:
    """One that does nothing, and one whose dose is limited."""
    script = Scripted(rise)
    curve = dose_curve(script, make, [0.3])
    assert strongest(curve, 0.3) == curve[-1]
    assert curve[-1].beta >= 4
    assert script.sweeps <= 4


def test_a_budget_that_nothing_is_within_is_refused() -> None:
    with pytest.raises(InputError, match=r"budget is 0\.3 nats a token, and beta .*, the smallest that was tried, is"):
        strongest(dose_curve(Scripted(lambda beta: 2.0), make, [0.3]), 0.3)


@pytest.mark.parametrize("budgets", [[], [0.0], [-1.0], [math.nan]])
def test_budgets_are_above_zero(budgets: list[float]) -> None:
    with pytest.raises(InputError, match="budgets"):
        dose_curve(Scripted(lambda beta: beta), make, budgets)


def shifted(beta: float) -> Program:
    return contrast(NEURONS, STATS, beta)


@pytest.mark.parametrize("budget", [0.003, 0.05])
def test_the_choice_is_the_strongest_within_the_budget(budget: float) -> None:
    choice = affectron.choose_beta(MODEL, TOKENIZER, NEUTRAL, shifted, budget=budget)
    measure = Divergence(MODEL, TOKENIZER, NEUTRAL)
    rises = measure([shifted(dose.beta) for dose in choice.curve])
    np.testing.assert_allclose([dose.rise for dose in choice.curve], rises, rtol=1e-3, atol=1e-7)
    at, beyond = measure([shifted(choice.beta), shifted(1.1 * choice.beta)])
    assert 0.85 * budget <= at <= budget < beyond
    assert choice.bounded


def test_a_limited_dose_is_said() -> None:
    limited = lambda beta: contrast(NEURONS, STATS, beta, max_dose=0.01)  # noqa: E731
    with pytest.warns(Note, match="the largest that was tried, is beyond the budget"):
        choice = affectron.choose_beta(MODEL, TOKENIZER, NEUTRAL, limited, budget=2.0)
    assert not choice.bounded


def test_what_cannot_be_measured_is_refused() -> None:
    def line(model=MODEL, sentences=NEUTRAL, **options) -> str:
        return message(lambda: affectron.choose_beta(model, TOKENIZER, sentences, shifted, **options))

    for budget in (0.0, -0.1, math.nan, math.inf):
        assert line(budget=budget) == f"budget is {budget}, expected a number above 0"
    assert "0 neutral texts are given" in line(sentences=[])
    assert "1 neutral texts are given" in line(sentences=[Sentence("", ("anger",), "dev", "a")])
    config = transformers.BertConfig(
        vocab_size=97, hidden_size=24, num_hidden_layers=1, num_attention_heads=4, intermediate_size=43
    )
    assert "expected a causal language model" in line(transformers.BertModel(config))


def test_the_model_and_its_mode_are_left_as_they_were() -> None:
    model = build("llama", attention_dropout=0.5).train()
    affectron.choose_beta(model, TOKENIZER, NEUTRAL, shifted, budget=0.05)
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("others", [5, 32, 45, 131])
def test_neutral_text_is_that_of_other_labels_or_of_the_neutral_one(others: int) -> None:
    rows = [{"text": f"w{i}", "label": "joy" if i % 3 == 0 else "calm", "split": "dev"} for i in range(3 * others)]
    rows += [
        {"text": "w1", "label": "calm", "split": "train"},
        {"text": "w2", "label": "dull", "task": "tone", "split": "dev"},
    ]
    rows = [{"task": "mood", **row} for row in rows]
    corpus = affectron.Corpus.from_records(rows)
    for found, label in (
        (neutral_text(corpus, "joy", "mood"), "calm"),
        (neutral_text(corpus, "joy", "mood", neutral="joy"), "joy"),
    ):
        every = [row["text"] for row in rows if (row["label"], row["split"]) == (label, "dev")]
        places = [every.index(sentence.text) for sentence in found]
        assert len(places) == min(32, len(every))
        steps = {after - before for before, after in pairwise(places)}
        assert max(steps) - min(steps) <= 1
        assert places[0] == 0
    assert [sentence.text for sentence in neutral_text(corpus, "joy", "mood", neutral="dull")] == ["w2"]
    with pytest.raises(InputError, match="every sentence of task 'tone' in split 'dev' has label 'dull'"):
        neutral_text(corpus, "dull", "tone")
    with pytest.raises(InputError, match="split 'test' is not in records"):
        neutral_text(corpus, "joy", "mood", split="test")


def test_a_choice_comes_back_from_json() -> None:
    curve = (Dose(0.5, 0.02), Dose(1.0, 0.1), Dose(2.0, None))
    choice = BetaChoice(1.0, 0.3, curve)
    assert choice.bounded
    assert BetaChoice.from_json(json.loads(json.dumps(choice.to_json(), allow_nan=False))) == choice
    for beta, points in ((3.0, curve), (1.0, curve[::-1]), (1.0, (curve[1], curve[1]))):
        with pytest.raises(InputError, match="expected ascending numbers"):
            BetaChoice(beta, 0.3, points)
    with pytest.raises(InputError, match=r"curve\[0\].rise is 'high'"):
        BetaChoice.from_json({**choice.to_json(), "curve": [{"beta": 1.0, "rise": "high"}]})

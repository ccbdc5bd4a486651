"""Options of what is asked of a model, and of each experiment."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from affectron._internal.checks import SHARE, UNIT, Each, Finite, OneOf, Positive, Whole, check, check_template
from affectron._internal.names import (
    CALIBRATIONS,
    EVALUATORS,
    LABEL_LIKELIHOOD,
    LINEAR_PROBE,
    POSITIONS,
    REFERENCES,
    RMS,
    TRAIN,
)
from affectron._internal.options import Options, option, same
from affectron.errors import InputError
from affectron.options.inputs import NOTES
from affectron.options.measures import METHODS, TOP, Select
from affectron.scores import SCORES


@dataclass(frozen=True)
class Ask(Options):
    """Questions to a model about the label of a sentence."""

    evaluator: str | Any = option(
        LABEL_LIKELIHOOD,
        "Reader of the answer: label_likelihood, or linear_probe for models without prompts.",
    )
    prompts: dict[str, str] = option(
        {}, "Question for a task's label, with {text} and perhaps {bos} in it; \\n is a line break. One a task; "
        "without: in words.", flag="prompt", metavar="TASK=TEMPLATE", template=True,
    )  # fmt: skip
    calibrate: str = option(
        "none", "Subtract from each label's score its mean over texts without content (content_free), or over "
        "sentences of the train split, in attribution of the corpus (train).",
        OneOf(CALIBRATIONS), origin="Zhao et al. 2021: content_free",
    )  # fmt: skip

    def check_together(self) -> None:
        if isinstance(self.evaluator, str):
            check("evaluator", self.evaluator, OneOf(EVALUATORS))
        for task, prompt in self.prompts.items():
            check_template(f"prompts.{task}", prompt)
        if self.prompts and self.evaluator != LABEL_LIKELIHOOD:
            raise InputError(f"prompts go with {LABEL_LIKELIHOOD!r}, and the evaluator is {self.evaluator!r}")
        if self.calibrate != Ask.calibrate and self.evaluator != LABEL_LIKELIHOOD:
            raise InputError(
                f"calibrate is {self.calibrate!r}, which goes with {LABEL_LIKELIHOOD!r}, and the evaluator is "
                f"{self.evaluator!r}"
            )


@dataclass(frozen=True)
class Evaluate(Ask):
    """Asking a model for the label of a sentence."""

    dev: str = option("dev", "Split that choices are made on.", origin=NOTES)
    test: str = option("test", "Split that is reported.", origin=NOTES)
    train: str = option("train", "Split that a probe is fitted on, or the labels are calibrated on.")
    limit: int | None = option(
        None, "Sentences of a label in a split at most, drawn at random; default: all.", Whole(1)
    )
    where: str = option(
        "all", "Positions at which masks act: all, the text's own tokens, or the rest of the prompt.", OneOf(POSITIONS)
    )

    def check_together(self) -> None:
        super().check_together()
        if len(set(self.splits.values())) < len(self.splits):
            given = ", ".join(f"{name} {split!r}" for name, split in self.splits.items())
            raise InputError(f"the splits are {given}; expected different ones")

    @property
    def splits(self) -> dict[str, str]:
        """Role -> split, of the splits that the evaluator reads."""
        trains = getattr(self.evaluator, "trains", self.evaluator == LINEAR_PROBE or self.calibrate == TRAIN)
        return {"dev": self.dev, "test": self.test} | ({"train": self.train} if trains else {})


#: Most random sets of a mask where p adjusted over the labels does not need more.
DEFAULT_SETS = 99


@dataclass(frozen=True)
class Controls(Options):
    """Controls that an effect is judged by."""

    random_sets: int | None = option(
        None, "Most random sets of a mask, matched by site and activity; default: as many as p adjusted over the "
        f"labels needs, {DEFAULT_SETS} or more.", Whole(),
    )  # fmt: skip
    smallest_effect: float = option(
        0.05, "Change of accuracy, a fraction, that the verdict 'no effect' excludes.", SHARE
    )


@dataclass(frozen=True)
class Validate(Options):
    """Validation: the feedback loop that settles each label's mask on dev."""

    reference: tuple[str, ...] = option(
        (RMS,), "Magnitude of a neuron's activation under the label that α is relative to: the largest (max), its 0.99 "
        "quantile (q99) or its root mean square (rms); of several (A,B), the loop goes through all rounds with each.",
        Each(OneOf(REFERENCES), least=1), origin=f"{NOTES}: max",
    )  # fmt: skip
    alpha: float = option(0.3, "Strength α of the attenuation in the first round.", SHARE)
    alpha_step: float = option(0.1, "Each round adds this to α.", UNIT)
    alpha_cap: float = option(1.0, "Largest α.", SHARE)
    share: float = option(0.1, "Share τ of a label's neurons in the first round.", SHARE, origin=f"{NOTES}: 0.1")
    share_step: float = option(0.1, "Each round adds this to the share.", UNIT)
    share_cap: float = option(1.0, "Largest share.", SHARE)
    min_drop: float = option(0.05, "Drop of dev accuracy, a fraction, at which the loop stops.", SHARE)
    random_sets: int | None = same(Controls, "random_sets")
    smallest_effect: float = same(Controls, "smallest_effect")
    neutral: str | None = option(None, "Label whose text the loss is taken on; default: text without the label.")

    def check_together(self) -> None:
        for name in ("alpha", "share"):
            start, cap = getattr(self, name), getattr(self, f"{name}_cap")
            if start > cap:
                raise InputError(f"{name} is {start}, which is above {name}_cap, {cap}")

    def rounds(self) -> list[tuple[str, float, float]]:
        """(reference, alpha, share) of each round of the feedback loop.

        With each reference in turn, alpha and share rise until both are at their caps or no step is left.
        """
        return [(reference, alpha, share) for reference in self.reference for alpha, share in self._strengths()]

    def _strengths(self) -> list[tuple[float, float]]:
        rounds: list[tuple[float, float]] = []
        while True:
            # Rounded: 0.3 + 3 steps of 0.1 is meant to be 0.6.
            alpha, share = (
                min(round(start + len(rounds) * step, 10), cap)
                for start, step, cap in (
                    (self.alpha, self.alpha_step, self.alpha_cap),
                    (self.share, self.share_step, self.share_cap),
                )
            )
            if rounds and (alpha, share) == rounds[-1]:
                return rounds
            rounds.append((alpha, share))


@dataclass(frozen=True)
class Stability(Options):
    """Stability: which neurons are selected again under resampling."""

    resamples: int = option(100, "Bootstrap resamples of the folds.", Whole(1))
    splits: int = option(20, "Random halves of the folds that are compared.", Whole(1))


@dataclass(frozen=True)
class Candidates(Options):
    """Candidates: the selected neurons one by one, in every sentence of a split."""

    permutations: int = option(1000, "Permutations of the labels behind each p value.", Whole(1))


@dataclass(frozen=True)
class Describe(Options):
    """Cards of the selected neurons."""

    cards: int = option(50, "Neurons of a label that have a card at most, best first.", Whole())
    texts: int = option(
        5, "Texts of a neuron's largest activations on its card at most, and as many of its smallest.", Whole(1)
    )
    window: int = option(48, "Tokens of a text that are shown, around the largest or smallest activation.", Whole(1))
    vocabulary: int = option(10, "Tokens that a neuron promotes on its card, and as many that it suppresses.", Whole())


@dataclass(frozen=True)
class Methods(Controls):
    """Methods: ways to select, by what zeroing their neurons does."""

    methods: tuple[str, ...] | None = option(
        None, "The ways to select; default: all that the statistics serve.", Each(OneOf(tuple(METHODS)), least=1)
    )
    top: float = same(
        Select, "top", default=TOP, help="Share of all neurons to select for all labels of a task together."
    )
    counts: tuple[int, ...] = option(
        (4, 8, 16, 32, 64, 128), "Numbers of a label's best neurons to zero, for the curve.", Each(Whole(1), least=1)
    )


@dataclass(frozen=True)
class Estimate(Options):
    """Estimate: attributions of single neurons, beside the effect of zeroing each alone."""

    neurons: int = option(50, "Selected neurons of a label to test at most, and as many random ones.", Whole(1))


@dataclass(frozen=True)
class Responses(Options):
    """Responses: P of a label as each of its neurons alone is turned down or up."""

    neurons: int = option(5, "Neurons of a label at most, best first.", Whole(1))
    factors: tuple[float, ...] = option(
        (0.0, 0.5, 1.0, 2.0, 4.0, 8.0), "What the neuron's activation is multiplied by.",
        Each(Positive(zero_too=True), least=1),
    )  # fmt: skip


@dataclass(frozen=True)
class Ablate(Controls):
    """Ablations: parts of a label's neurons, at several strengths."""

    reference: str = option(
        RMS, "Magnitude of a neuron's activation under the label that α is relative to.", OneOf(REFERENCES)
    )
    alpha: float = option(1.0, "Strength α of the attenuation where it is not swept.", SHARE)
    alphas: tuple[float, ...] = option((0.25, 0.5, 0.75, 1.0), "Strengths to sweep.", Each(SHARE))
    shares: tuple[float, ...] = option((0.1, 0.25, 0.5, 1.0), "Shares of a label's neurons to sweep.", Each(SHARE))
    model_shares: tuple[float, ...] = option(
        (0.01, 0.02, 0.03, 0.04, 0.05), "Shares of the whole model to select and sweep.", Each(SHARE)
    )


@dataclass(frozen=True)
class Induce(Options):
    """Induction: sentences pushed towards a label."""

    random_sets: int = option(5, "Random neuron sets to compare with, matched by site and activity.", Whole())
    betas: tuple[float, ...] = option(
        (1.0, 2.0, 4.0, 8.0), "Shifts to sweep, in mean activations under the label.", Each(Finite())
    )


@dataclass(frozen=True)
class Generate(Options):
    """Generation: texts under the programs of a label, as a judge of texts sees them."""

    task: str | None = option(None, "Texts for the labels of this task; default: of every task.")
    shares: tuple[float, ...] = option(
        (0.05, 0.01), "Shares of all neurons that are shifted, those of the largest text attribution.",
        Each(SHARE, least=1),
    )  # fmt: skip
    budgets: tuple[float, ...] = option(
        (0.2, 0.4, 0.8), "Doses to choose from on dev: divergences from the unsteered model on neutral text, in nats "
        "a token.", Each(Positive(), least=1),
    )  # fmt: skip
    most_rise: float = option(
        0.5, "Rise of the unsteered model's loss on the texts that a chosen dose may have, in nats a token.",
        Positive(),
    )  # fmt: skip
    layers: tuple[int, ...] | None = option(
        None, "Layers to choose from for the shift of the residual stream, counted from 0; default: five in the middle "
        "of the model.", Each(Whole(), least=1),
    )  # fmt: skip
    instruction: str | None = option(
        None, "Prompt that asks for the label, with {label} and, where the text begins, {text}; default: in words.",
        template=True,
    )  # fmt: skip
    beginnings: Path | None = option(
        None, "File with a beginning on each line, of which every second one is for dev; default: the first words of "
        "sentences of either split.",
    )  # fmt: skip
    words: int = option(4, "Words of a sentence that are a beginning.", Whole(1))
    tried: int = option(32, "Beginnings on dev at most.", Whole(1))
    count: int = option(40, "Beginnings on test at most.", Whole(1))
    texts: int = option(1, "Texts of each beginning on test.", Whole(1))
    max_new_tokens: int = option(24, "Tokens of a text at most.", Whole(1))
    stop: str | None = option(None, "A text ends before this, such as a line break.", template=True)
    temperature: float = option(0.7, "Temperature of the samples; 0 always writes the likeliest token.",
                                Positive(zero_too=True))  # fmt: skip

    def check_together(self) -> None:
        if self.instruction is not None:
            check_template("instruction", self.instruction)
        if self.temperature == 0 and self.texts > 1:
            raise InputError(f"texts is {self.texts}, expected 1 with temperature 0, at which all would be the same")


@dataclass(frozen=True)
class CrossSignal(Options):
    """Cross-signal: the mean activation of one task's labels at the neurons of another's."""

    random_sets: int | None = same(Controls, "random_sets")
    omegas: tuple[float, ...] = option(
        (0.5, 1.0, 2.0, 4.0), "Shifts to choose from on dev, in mean activations under the source label.",
        Each(Finite(), least=1),
    )  # fmt: skip


@dataclass(frozen=True)
class Associate(Options):
    """Associations: which labels share neurons, and which go together over all neurons."""

    score: str = option("hedges_g", "Score whose correlation over all neurons is taken.", OneOf(tuple(SCORES)))

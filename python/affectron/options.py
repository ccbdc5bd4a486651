"""Every option once: a frozen dataclass for each step, whose fields carry help, default, bound and origin.

The functions of the package take their defaults from these classes. The command line, the tables of ``affectron run``
and the notes of the report are made from them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from affectron._internal.checks import SHARE, UNIT, Between, Each, Finite, OneOf, Positive, Whole, check, check_template
from affectron._internal.names import (
    ACTIVE_RULES,
    BASELINES,
    CALIBRATIONS,
    DEFAULT_TASK,
    DTYPES,
    EVALUATORS,
    LABEL_LIKELIHOOD,
    LINEAR_PROBE,
    LONG_TEXTS,
    MEASURED,
    METRICS,
    NEURONS,
    ON_BAD_LINE,
    PAIR_BASELINES,
    POSITIONS,
    REFERENCES,
    RMS,
    TOKEN_RULES,
    TRAIN,
)
from affectron._internal.options import REQUIRED, Options, option, same
from affectron.errors import InputError
from affectron.scores import SCORES

_NOTES = "published notes"


# --- what is read -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Inputs(Options):
    """The model and the corpus."""

    model: Path | str = option(
        REQUIRED, "A transformers causal language model: its folder, or its name on the Hugging Face hub."
    )
    corpus: Path | str = option(
        REQUIRED,
        "Labelled sentences: .jsonl, .ndjson, .csv, .tsv, .parquet; or a Hugging Face dataset: its folder, or "
        "hf://datasets/OWNER/NAME.",
    )


@dataclass(frozen=True)
class Columns(Options):
    """Reading the rows of a corpus."""

    text: str = option("text", "Column of the sentence.", parameter="text_column")
    label: str | tuple[str, ...] = option(
        "label", "Column of the label, or list of labels; several columns (A,B) are as many tasks.",
        parameter="label_column",
    )  # fmt: skip
    indicators: str | tuple[str, ...] | None = option(
        None, "Columns of 0 and 1 (A,B) in place of a label column: each is a label of one task, named as the column."
    )
    without: str = option("none", "Label of a sentence whose indicators are all 0.")
    task: str = option("task", "Column of the task; may be absent.", parameter="task_column")
    split: str = option("split", "Column of the split; may be absent.", parameter="split_column")
    held_out: float | None = option(
        None, "Share of the sentences of a source without splits that goes to dev, and as much to test, the rest to "
        "train; equal texts go together.", Between(0, 0.5, above=True),
    )  # fmt: skip
    id: str = option("id", "Column of the sentence's id; may be absent.", parameter="id_column")
    span: str | None = option(
        None, "Column of spans with start, end and label: only their tokens count for a label.",
        parameter="span_column",
    )  # fmt: skip
    turns: str | None = option(None, "The text is a list of messages; count those of this role, the last, or all.")
    label_separator: str | None = option(None, "Stands between the labels of a field; default: | in CSV and TSV.")
    quoting: bool | None = option(None, "Fields of a table may be quoted as in CSV; default: in CSV but not in TSV.")
    on_bad_line: Literal["error", "skip"] = option(
        "error", "Stop at a line that cannot be used, or count and skip it.", OneOf(ON_BAD_LINE)
    )

    def check_together(self) -> None:
        if self.indicators is None:
            if self.without != Columns.without:
                raise InputError(f"without is {self.without!r}, which goes with indicators, and there are none")
            return
        for name in ("label", "span"):
            if getattr(self, name) != getattr(Columns, name):
                raise InputError(f"indicators and {name}_column are both given, expected one of them")
        if self.without in self.indicator_columns:
            raise InputError(f"without is {self.without!r}, a column of indicators; expected another name")

    @property
    def indicator_columns(self) -> tuple[str, ...]:
        """The columns of indicators; empty if there are none."""
        return (self.indicators,) if isinstance(self.indicators, str) else self.indicators or ()


@dataclass(frozen=True)
class Load(Options):
    """Loading a model."""

    dtype: str = option("auto", "Type of the weights; auto: as saved, but float32 on a CPU that is slow at 16 bits.",
                        OneOf(DTYPES))  # fmt: skip
    device: str = option("auto", "Where the model runs: cpu, cuda, cuda:1; auto: a GPU if there is one.")
    trust_remote_code: bool = option(False, "Let Python code in the model's folder run.")


@dataclass(frozen=True)
class Common(Options):
    """Options of several steps."""

    task: str | None = option(None, "Only this task's labels; without a task column, the name of the one task.")
    seed: int = option(0, "Of random sets, resamples and limited sentences.", Whole())
    allow_overlap: bool = option(False, "Test sentences that were screened too, and state it; else they are refused.")


# --- what is measured and selected --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Read(Options):
    """Reading sentences: the tokens that count, and the batches."""

    tokens: str = option(
        "all", "Tokens that count: all of a sentence, its last, or mean: one observation a sentence.",
        OneOf(TOKEN_RULES), origin=_NOTES,
    )  # fmt: skip
    active: str = option("gate", "A neuron is active where act(g) > 0 (gate) or h > 0 (product).", OneOf(ACTIVE_RULES))
    template: str = option(
        "{text}", "Text that the model reads, with {text} and perhaps {bos} in it; \\n is a line break.", template=True
    )
    count_special: bool = option(False, "Special tokens count too.")
    batch_tokens: int = option(8192, "Tokens in a batch at most, padding included.", Whole(1))

    def check_together(self) -> None:
        check_template("template", self.template)


@dataclass(frozen=True)
class ScreenPairs(Options):
    """Screening of contrastive pairs."""

    template: str = same(Read, "template")
    batch_tokens: int = same(Read, "batch_tokens")
    task: str = option(DEFAULT_TASK, "The task of the pairs' labels.")

    def check_together(self) -> None:
        check_template("template", self.template)


@dataclass(frozen=True)
class Sharded(Options):
    """A pass over a corpus in shards, which can be interrupted and shared out."""

    shards: int | None = option(
        None, "Runs of sentences measured apart; default: one for 8192 of them, 64 at most.", Whole(1)
    )
    checkpoint: Path | None = option(
        None, "Folder that keeps what is done until all is; on the command line OUTPUT.shards by default.", counts=False
    )
    checkpoint_minutes: float = option(5.0, "Save what is done as often as this, in minutes.", Positive(), counts=False)
    resume: bool = option(False, "Go on from what the checkpoint folder holds.", counts=False)
    log: Path | None = option(
        None,
        "Append progress, checkpoints and a summary to this file, a JSON object a line.",
        flag="log_json",
        counts=False,
    )


@dataclass(frozen=True)
class Screen(Sharded, Read):
    """Screening: statistics of every neuron for each label."""

    at: str = option(NEURONS, "Measure neurons of MLPs, or outputs of layers (active: h > 0).", OneOf(MEASURED))
    long_texts: str = option(
        "truncate", "Cut a text that is longer than the model reads, or read it in overlapping windows.",
        OneOf(LONG_TEXTS),
    )  # fmt: skip

    def check_together(self) -> None:
        super().check_together()
        if self.long_texts == "windows" and self.tokens != "all":
            raise InputError(
                f"long_texts is 'windows' and tokens {self.tokens!r}; expected tokens 'all', as a text has several "
                "windows"
            )


#: Share of all neurons that is selected, and number of neurons of a label by attribution, unless others are asked for.
TOP, COUNT = 0.01, 50


@dataclass(frozen=True)
class Select(Options):
    """Selection: which neurons belong to a label."""

    top: float | None = option(
        None, "Share of all neurons to select: 0.01 is 1 in 100; default: 0.01, and of attributions a count.", SHARE,
        origin=f"{_NOTES}: 0.01",
    )  # fmt: skip
    count: int | None = option(
        None, f"Neurons of a label to select, in place of a share; default: of attributions {COUNT}.", Whole(1)
    )
    score: str | None = option(
        None, "Score that neurons are ranked by, such as entropy; default: by what the statistics are of, "
        "hedges_g, attribution_t, paired_t or paired_difference.", OneOf(tuple(SCORES)),
        origin=f"{_NOTES}: entropy",
    )  # fmt: skip
    filter_rate: float | None = option(
        0.95, "Of entropy: some P of a neuron must exceed this quantile of all P; 0 keeps all neurons.", UNIT,
        origin="LAPE (Tang et al. 2024): 0.95",
    )  # fmt: skip
    assign: Literal["argmax", "bar"] = option(
        "argmax", "Of entropy: a neuron goes to the label of highest P (argmax), or to every label above a bar (bar).",
        OneOf(("argmax", "bar")), origin="Lee et al. 2025: argmax; LAPE: bar",
    )  # fmt: skip
    activation_bar_ratio: float = option(0.95, "The quantile of all P that is the bar.", UNIT, origin="LAPE: 0.95")
    sign: Literal["positive", "negative"] | None = option(
        None, "Keep one sign of the contrast: positive or negative.", OneOf(("positive", "negative"))
    )
    min_effect: float | None = option(
        None, "Keep an absolute Hedges g (of pairs: Cohen's d) of at least this.", Positive(zero_too=True)
    )
    fdr: float | None = option(
        None, "Keep neurons found at this false discovery rate: of sentences by permutation, of pairs by sign; over "
        "tokens there is none.", SHARE,
    )  # fmt: skip
    min_count: int | None = option(None, "Keep neurons active at this many of the label's tokens or more.", Whole())

    def check_together(self) -> None:
        if self.top is not None and self.count is not None:
            raise InputError(f"top is {self.top} and count {self.count}, expected one of them")
        if self.score is not None and SCORES[self.score].per_label:
            for name, usual in (("assign", "argmax"), ("filter_rate", Select.filter_rate)):
                value = getattr(self, name)
                if value not in (None, 0, usual):
                    raise InputError(f"{name} is {value!r}, which goes with an entropy and not with {self.score!r}")


@dataclass(frozen=True)
class SelectTask(Options):
    """The task of a selection."""

    task: str | None = option(None, "Contrast the labels of this task; default: every task.", origin=_NOTES)


@dataclass(frozen=True)
class KeepStable(Options):
    """A screen of the selected neurons by their stability."""

    min_frequency: float | None = option(
        None, "Keep neurons that stability selects with this frequency or more.", SHARE
    )


@dataclass(frozen=True)
class Method:
    """A published or standard way to select."""

    description: str
    options: Select


#: Ways to select that ``compare_methods`` compares.
METHODS: dict[str, Method] = {
    "attribution": Method(
        "largest t of the attributions under the label and under the rest", Select(score="attribution_t")
    ),
    "attribution_moderated": Method(
        "the same with a moderated t, which asks for larger attributions", Select(score="attribution_moderated")
    ),
    "paper": Method(
        "entropy of P, activity filter at 0.95, to the label of highest P (Zheng et al. 2026)", Select(score="entropy")
    ),
    "paper_raw": Method("the same with the entropy as printed, not renormalised", Select(score="raw_entropy")),
    "lee": Method(
        "entropy of P, no filter, to the label of highest P (Lee et al. 2025)",
        Select(score="entropy", filter_rate=None),
    ),
    "lape": Method(
        "entropy of P, activity filter at 0.95, to every label above the bar (LAPE, Tang et al. 2024)",
        Select(score="entropy", assign="bar"),
    ),
    "npti": Method("largest P_t - P_r (NPTI, Deng et al. 2024)", Select(score="frequency_difference", sign="positive")),
    "effect_size": Method("largest Hedges g", Select(score="hedges_g", sign="positive")),
    "mutual_information": Method(
        "largest mutual information of active with label, mean above the rest's",
        Select(score="mutual_information", sign="positive"),
    ),
}


# --- what is asked ------------------------------------------------------------------------------------------------


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
class Attribute(Sharded):
    """Attribution: what each neuron does to a number of each sentence, to first order."""

    metric: str = option(
        "answer", "Number of a sentence that is differentiated: log P of its label among the task's (answer), or the "
        "mean log-likelihood of its tokens (text), of which the gradient itself is kept.", OneOf(METRICS),
    )  # fmt: skip
    positions: str = option(
        "all", "Tokens whose activations are attributed: all of a prompt, the text's own, or the rest (prompt).",
        OneOf(POSITIONS),
    )  # fmt: skip
    baseline: str = option(
        "zero", "Value that a neuron is set to, to first order: zero, or its mean over the task's tokens, from "
        "statistics.",
        OneOf(BASELINES),
    )  # fmt: skip
    batch_tokens: int = same(Read, "batch_tokens", default=4096)
    recompute: bool | None = option(
        None, "Compute each layer again for the backward pass, which saves memory; default: where a batch would take "
        "more than half of the free memory.", counts=False,
    )  # fmt: skip

    def check_together(self) -> None:
        if self.metric == "text" and self.baseline != "zero":
            raise InputError(f"baseline is {self.baseline!r}, and the metric 'text' keeps the gradient, which has none")


@dataclass(frozen=True)
class AttributePairs(ScreenPairs):
    """Attribution within contrastive pairs."""

    baseline: str = option(
        "other", "Value that a neuron is set to, to first order: its activation in the other text, token by token, or "
        "zero.", OneOf(PAIR_BASELINES),
    )  # fmt: skip


@dataclass(frozen=True)
class Evaluate(Ask):
    """Asking a model for the label of a sentence."""

    dev: str = option("dev", "Split that choices are made on.", origin=_NOTES)
    test: str = option("test", "Split that is reported.", origin=_NOTES)
    train: str = option("train", "Split that a probe is fitted on, or the labels are calibrated on.")
    limit: int | None = option(None, "Sentences of a label in a split at most.", Whole(1))
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


@dataclass(frozen=True)
class Controls(Options):
    """Controls that an effect is judged by."""

    random_sets: int | None = option(
        None, "Most random sets of a mask, matched by site and activity; default: as many as p adjusted over the "
        "labels needs, 99 or more.", Whole(),
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
        Each(OneOf(REFERENCES), least=1), origin=f"{_NOTES}: max",
    )  # fmt: skip
    alpha: float = option(0.3, "Strength α of the attenuation in the first round.", SHARE)
    alpha_step: float = option(0.1, "Each round adds this to α.", UNIT)
    alpha_cap: float = option(1.0, "Largest α.", SHARE)
    share: float = option(0.1, "Share τ of a label's neurons in the first round.", SHARE, origin=f"{_NOTES}: 0.1")
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
    examples: int = option(5, "Sentences that are shown of each neuron.", Whole())


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

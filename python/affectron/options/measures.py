"""Options of what is measured and selected."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from affectron._internal.checks import SHARE, UNIT, OneOf, Positive, Whole, check_template
from affectron._internal.names import (
    ACTIVE_RULES,
    BASELINES,
    DEFAULT_TASK,
    LONG_TEXTS,
    MEASURED,
    METRICS,
    NEURONS,
    PAIR_BASELINES,
    POSITIONS,
    TOKEN_RULES,
)
from affectron._internal.options import Options, option, same
from affectron.errors import InputError
from affectron.options.inputs import NOTES
from affectron.scores import SCORES

#: Sentences that are sorted by length and cut into batches together, as many as a shard has by default; and the most
#: shards that a corpus has by default: enough for many processes, and few enough that their files and their merge cost
#: nothing beside the forwards.
POOL, MOST_SHARDS = 8192, 64


@dataclass(frozen=True)
class Read(Options):
    """Reading sentences: the tokens that count, and the batches."""

    tokens: str = option(
        "all", "Tokens that count: all of a sentence, its last, or mean: one observation a sentence.",
        OneOf(TOKEN_RULES), origin=NOTES,
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
        None, f"Runs of sentences measured apart; default: one for {POOL} of them, {MOST_SHARDS} at most.", Whole(1)
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


@dataclass(frozen=True)
class ScreenSites(Screen):
    """Screening with a choice of what is measured."""

    at: str = option(NEURONS, "Measure neurons of MLPs, or outputs of layers (active: h > 0).", OneOf(MEASURED))


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


#: Share of all neurons that is selected, and number of neurons of a label by attribution, unless others are asked for.
TOP, COUNT = 0.01, 50


@dataclass(frozen=True)
class Select(Options):
    """Selection: which neurons belong to a label."""

    top: float | None = option(
        None, "Share of all neurons to select: 0.01 is 1 in 100; default: 0.01, and of attributions a count.", SHARE,
        origin=f"{NOTES}: 0.01",
    )  # fmt: skip
    count: int | None = option(
        None, f"Neurons of a label to select, in place of a share; default: of attributions {COUNT}.", Whole(1)
    )
    score: str | None = option(
        None, "Score that neurons are ranked by, such as entropy; default: by what the statistics are of, "
        "hedges_g, attribution_t, paired_t or paired_difference.", OneOf(tuple(SCORES)),
        origin=f"{NOTES}: entropy",
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

    task: str | None = option(None, "Contrast the labels of this task; default: every task.", origin=NOTES)


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

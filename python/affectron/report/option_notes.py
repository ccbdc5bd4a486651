"""Meaning and origin of the options that the report lists, with the value that the source names."""

from __future__ import annotations

NOTES, OURS = "published notes", "ours"

VALIDATION_OPTIONS = {
    "evaluator": ("how the model's answer is read", OURS),
    "prompts": ("prompt of each task; {text} is the sentence", OURS),
    "alpha": ("α in the first round", OURS),
    "alpha_step": ("what each round adds to α", OURS),
    "alpha_cap": ("largest α", OURS),
    "share": ("share τ of the label's neurons in the first round", f"{NOTES}: 0.1"),
    "share_step": ("what each round adds to the share", OURS),
    "share_cap": ("largest share", OURS),
    "min_drop": ("drop of dev accuracy (a fraction) at which the loop stops", OURS),
    "random_sets": ("random neuron sets for comparison", OURS),
    "bootstrap": ("resamples behind each interval", OURS),
    "seed": ("of random sets and resamples", OURS),
    "dev": ("split that the loop sees", NOTES),
    "test": ("split that is reported", NOTES),
    "limit": ("most sentences of a label in a split", OURS),
    "neutral": ("text for the loss without any label", OURS),
}
SELECT_OPTIONS = {
    "task": ("contrasts within this task; none given: every task", NOTES),
    "top": ("share of all neurons that is taken", f"{NOTES}: 0.01"),
    "score": ("what neurons are ranked by", NOTES),
    "filter_rate": ("activity filter: some P must exceed this quantile of all P", "LAPE (Tang et al. 2024): 0.95"),
    "assign": (
        "argmax: to the label of highest P; bar: to every label above the bar",
        "Lee et al. 2025: argmax; LAPE: bar",
    ),
    "activation_bar_ratio": ("quantile of all P that is the bar", "LAPE: 0.95"),
    "sign": ("keep one sign of the contrast only", OURS),
    "min_effect": ("least absolute Hedges g; of pairs, Cohen's d", OURS),
    "fdr": ("false discovery rate on Welch's t test; of pairs, on Student's", OURS),
    "min_count": ("least active tokens of the label", OURS),
    "min_frequency": ("least frequency of being selected under resampling", OURS),
}

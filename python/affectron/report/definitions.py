"""Definitions of the page: the terms of the method, and the decisions that the published notes leave open."""

from __future__ import annotations

from affectron.scores import Score
from affectron.stats import ATTRIBUTION, PAIRS

_ACTIVE = {
    "gate": "the gate's activation is above 0, act(g) > 0; in a plain MLP, act(z) > 0 (rule “gate”)",
    "product": "its activation is above 0, h > 0 (rule “product”)",
}
_TOKENS = {
    "all": "Every token of a sentence is counted",
    "last": "Only a sentence's last token is counted",
    "mean": "A sentence is one observation, the mean over its tokens",
    PAIRS: "A pair is one observation, the difference of the means over the tokens of its two texts",
}
_ATTRIBUTION = (
    "Attribution",
    "Of a neuron in one sentence: the sum over the tokens of (h − b) · ∂m/∂h, m a metric of the model's answer and b "
    "the baseline. To first order it is what m loses when the neuron is set to b. A sentence is one observation.",
)
_VALIDATED = [
    ("Adaptive mask", "The best share τ of the label's neurons is attenuated by α: those with the largest |mean under "
     "the label − mean of the rest| / |mean of all|, but the first ones of neurons that were selected by attribution. "
     "If the label's accuracy on dev has not dropped by the wanted amount, α and τ are raised, up to their caps; the "
     "last setting is used on test."),
    ("Attenuation", "h′ = h · max(1 − α·|h|/M, 1 − α), by each token's own activation. M is a magnitude of the "
     "activation under the label, its reference: the largest (max), its 0.99 quantile (q99) or its root mean square "
     "(rms)."),
    ("Zero and mean mask", "The same neurons set to 0, or to their mean over all tokens of the task."),
    ("Random sets", "As many neurons at each site, of similar RMS activation under the label, drawn from those that "
     "were not selected for it and treated in the same way as the mask treats the label's: what losing any such "
     "neurons costs. “0 of 219” is the number of sets under which accuracy falls at least as much, of those that were "
     "ranked; more than the first ones are drawn only where the verdict depends on them."),
    ("Δ others", "Change of accuracy on the sentences of the task's other labels: how specific the mask is."),
    ("Δh", "Relative change of a typical activation of the masked neurons under the label. Where it is small, the mask "
     "hardly acts, and that accuracy stays shows nothing."),
    ("Loss Δ", "Change of next-token loss on neutral text, in nats a token: what else the mask breaks."),
    ("p and adjusted p", "p: of no change of accuracy on the label's own sentences, McNemar's exact test, two-sided. "
     "Adjusted: over all labels of the mask (Holm 1979); each mask is judged by itself."),
    ("Intervals", "95 %: of a change on the same sentences by Tango (1998), of the difference between own and others "
     "by Zou and Donner (2008)."),
]  # fmt: skip


def definitions(
    *, active: str, tokens: str, score: tuple[str, Score] | None, validated: bool, induced: bool
) -> list[tuple[str, str]]:
    """(term, meaning) of what the page uses.

    Args:
        active, tokens: the rules of the statistics.
        score: name and description of the score that selected the neurons.
        validated: whether a label was validated.
        induced: whether there is an induction.
    """
    terms = [
        (
            "Neuron",
            "The i-th input of an MLP block's last linear layer. Its activation at a token is h = act(g)·u in a gated "
            "MLP, h = act(z) in a plain one. A site is one MLP block.",
        ),
        ("Active", f"A neuron is active at a token where {_ACTIVE.get(active, 'the rule of the statistics says so')}."),
        ("Tokens", f"{_TOKENS.get(tokens, 'The rule is that of the statistics')}; padding and prompt templates are "
         "never counted. P = active / counted tokens, for each neuron and label."),
        ("Label and task", "A sentence carries one or more labels; a label belongs to one task, and labels are "
         "contrasted within their task only."),
    ]  # fmt: skip
    if score is not None:
        name, described = score
        terms.append((f"Score “{name}”", f"{described.description}."))
        if described.kind == ATTRIBUTION:
            terms.append(_ATTRIBUTION)
    if validated:
        terms += _VALIDATED
    if induced:
        terms.append(("Induction", "h′ = h + β · mean activation under the label, at the label's neurons."))
    return terms


def decisions(*, selected: bool, validated: bool) -> list[str]:
    """The choices that the published notes leave open and this run had to make."""
    choices = ["The activity rule and the token rule, as stored with the statistics; both are options."]
    if selected:
        choices.append("The optional screens of the selection (sign, effect size, false discovery rate, least count).")
    if validated:
        choices += [
            "Whether attenuation is static or by each token, and what it is relative to: the notes leave it open.",
            "Where α starts, its step and cap, the step and cap of the share, and the drop at which the loop stops.",
            "The most random sets, the smallest effect that matters, the prompts, and the neutral text.",
        ]
    return choices

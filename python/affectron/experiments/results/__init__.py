"""Results of the experiments: one frozen dataclass each, written to JSON and read back in one way.

A result knows its ``kind``, which names its format (``affectron.<kind>``) and its file in a run folder. Accuracies and
their changes are fractions, losses are nats a token, and None stands for what was not measured.
"""

from affectron.evaluation.verdicts import Change, Effect, Interval, RandomSets
from affectron.experiments.results.ablations import THIRDS, Ablation, Ablations, AblationsOptions
from affectron.experiments.results.associations import (
    AssociatedPair,
    Associations,
    AssociationsOptions,
    LabelLayers,
)
from affectron.experiments.results.candidates import CandidateNeuron, Candidates, CandidatesOptions, LabelCandidates
from affectron.experiments.results.cards import (
    LEVELS,
    Cards,
    CardsOptions,
    Excerpt,
    Moments,
    NeuronCard,
    Spread,
    VocabularyToken,
)
from affectron.experiments.results.cross_signal import CrossSignal, CrossSignalOptions, LabelSignals, Signal
from affectron.experiments.results.doses import BetaChoice, Dose
from affectron.experiments.results.estimate import Estimate, EstimatedNeuron, EstimateOptions, LabelEstimate
from affectron.experiments.results.findings import RESULTS, ExamOptions, Findings
from affectron.experiments.results.generation import (
    Generation,
    GenerationOptions,
    Judge,
    MethodGeneration,
    Score,
    Setting,
    TaskGeneration,
    Versus,
    WrittenText,
)
from affectron.experiments.results.induction import Induction, InductionOptions, LabelInduction
from affectron.experiments.results.methods import (
    Curve,
    CurvePoint,
    Heights,
    LabelMethods,
    MethodResult,
    Methods,
    MethodsOptions,
    TaskMethods,
)
from affectron.experiments.results.responses import (
    LabelResponses,
    NeuronResponse,
    ResponsePoint,
    Responses,
    ResponsesOptions,
)
from affectron.experiments.results.stability import LabelStability, Stability, StabilityOptions
from affectron.experiments.results.validation import MASKS, Accuracy, LabelResult, Mask, Round, TaskResult, Validation

__all__ = [
    "LEVELS",
    "MASKS",
    "RESULTS",
    "THIRDS",
    "Ablation",
    "Ablations",
    "AblationsOptions",
    "Accuracy",
    "AssociatedPair",
    "Associations",
    "AssociationsOptions",
    "BetaChoice",
    "CandidateNeuron",
    "Candidates",
    "CandidatesOptions",
    "Cards",
    "CardsOptions",
    "Change",
    "CrossSignal",
    "CrossSignalOptions",
    "Curve",
    "CurvePoint",
    "Dose",
    "Effect",
    "Estimate",
    "EstimateOptions",
    "EstimatedNeuron",
    "ExamOptions",
    "Excerpt",
    "Findings",
    "Generation",
    "GenerationOptions",
    "Heights",
    "Induction",
    "InductionOptions",
    "Interval",
    "Judge",
    "LabelCandidates",
    "LabelEstimate",
    "LabelInduction",
    "LabelLayers",
    "LabelMethods",
    "LabelResponses",
    "LabelResult",
    "LabelSignals",
    "LabelStability",
    "Mask",
    "MethodGeneration",
    "MethodResult",
    "Methods",
    "MethodsOptions",
    "Moments",
    "NeuronCard",
    "NeuronResponse",
    "RandomSets",
    "ResponsePoint",
    "Responses",
    "ResponsesOptions",
    "Round",
    "Score",
    "Setting",
    "Signal",
    "Spread",
    "Stability",
    "StabilityOptions",
    "TaskGeneration",
    "TaskMethods",
    "TaskResult",
    "Validation",
    "Versus",
    "VocabularyToken",
    "WrittenText",
]

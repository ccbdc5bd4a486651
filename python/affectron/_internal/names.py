"""Values of options that are chosen by name."""

from __future__ import annotations

#: Sites that are measured: the MLPs, with their neurons, or the outputs of the layers.
NEURONS, LAYERS = MEASURED = ("neurons", "layers")
#: Which tokens of a sentence count: all, the last, or one observation a sentence, the mean.
TOKEN_RULES = ("all", "last", "mean")
#: Where a neuron is active: act(g) > 0, or h > 0.
ACTIVE_RULES = ("gate", "product")
#: Treatment of a text longer than the model reads.
LONG_TEXTS = ("truncate", "windows")
#: Method by which a model is asked for a label.
LABEL_LIKELIHOOD, LINEAR_PROBE = EVALUATORS = ("label_likelihood", "linear_probe")
#: Texts over which a label's offset is its mean score: none, texts without content, or sentences of the train split.
CONTENT_FREE, TRAIN = ("content_free", "train")
CALIBRATIONS = ("none", CONTENT_FREE, TRAIN)
#: Number of a sentence that attribution differentiates: of the label that is asked for, or of the text itself.
METRICS = ("answer", "text")
#: Given tokens of a model: all, the text's own inside a prompt, or the rest of the prompt.
POSITIONS = ("all", "text", "prompt")
#: Value that a neuron is set to, to first order, when it is attributed.
BASELINES = ("zero", "mean")
#: The same within a pair: the activation in the other text, or zero.
PAIR_BASELINES = ("other", "zero")
#: Magnitude of activations under a label that attenuation is relative to: the largest, the 0.99 quantile, the root mean
#: square.
MAX, Q99, RMS = REFERENCES = ("max", "q99", "rms")
#: Treatment of a corpus line that cannot be used.
ON_BAD_LINE = ("error", "skip")
#: The types that a model is loaded in; ``auto`` is the saved one, but float32 on a CPU that is slow at 16 bits.
DTYPES = ("auto", "float32", "bfloat16", "float16")
#: The task of all labels where nothing names one.
DEFAULT_TASK = "label"

"""Torch custom ops of gated MLPs, one file each: schema, shape rule, autograd rule and checks.

The device decides which backend computes an op (``_backends``): Triton kernels (affectron.kernels), the compiled module
(backends/native.py) or plain torch (backends/reference.py).
"""

from affectron.ops._registry import backend_for, use_backend
from affectron.ops.buffers import StatsBuffers
from affectron.ops.glu import glu
from affectron.ops.glu_attribution import glu_attribution
from affectron.ops.glu_stats import glu_stats
from affectron.ops.glu_steer import glu_steer
from affectron.ops.masked_mlp import MLP_ROWS, masked_mlp, neuron_major
from affectron.ops.neuron_stats import neuron_stats
from affectron.ops.segments import SegmentPlan

__all__ = [
    "MLP_ROWS",
    "SegmentPlan",
    "StatsBuffers",
    "backend_for",
    "glu",
    "glu_attribution",
    "glu_stats",
    "glu_steer",
    "masked_mlp",
    "neuron_major",
    "neuron_stats",
    "use_backend",
]

"""The kernels in Triton, one file each, for CUDA and HIP tensors. A function here takes the arguments of its op in
affectron.ops, which has checked them; nothing else imports this package, so that Triton loads only where it serves."""

from affectron.kernels.glu import glu
from affectron.kernels.glu_backward import glu_backward
from affectron.kernels.glu_stats import glu_stats
from affectron.kernels.glu_steer import glu_steer
from affectron.kernels.masked_mlp import masked_mlp
from affectron.kernels.neuron_stats import neuron_stats

__all__ = ["glu", "glu_backward", "glu_stats", "glu_steer", "masked_mlp", "neuron_stats"]

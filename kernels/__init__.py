"""The kernels in Triton, one file each, for CUDA and HIP tensors; installed as affectron.kernels.

A function here takes the arguments of its op in affectron.ops, which has checked them. affectron.ops imports this
package when Triton serves its first call, so that Triton is loaded only then. Imports within the package are relative:
type checkers know the folder as ``kernels``.
"""

from .glu import glu
from .glu_backward import glu_backward
from .glu_stats import glu_stats
from .glu_steer import glu_steer
from .masked_mlp import masked_mlp
from .neuron_stats import neuron_stats

__all__ = ["glu", "glu_backward", "glu_stats", "glu_steer", "masked_mlp", "neuron_stats"]

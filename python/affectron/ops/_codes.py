"""Activations and dtypes of the ops, in the order of their codes in the compiled module (csrc/common/types.h)."""

from __future__ import annotations

import torch

ACTIVATIONS = ("silu", "gelu", "gelu_tanh", "relu", "relu2")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)

ACTIVATION_CODES = {act: code for code, act in enumerate(ACTIVATIONS)}
DTYPE_CODES = {dtype: code for code, dtype in enumerate(DTYPES)}

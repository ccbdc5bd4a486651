"""Kernels of which two forms stand side by side until a GPU has decided between them: the Triton side of
csrc/cuda/forms.h. The values here are the choice."""

# Statistics in one pass about a pivot instead of two centred ones: kept if glu_stats is faster with it.
single_pass = True

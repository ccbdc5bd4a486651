"""Choice between two forms of a kernel, until a GPU has decided: the Triton side of csrc/cuda/forms.h."""

# Statistics in one pass about a pivot instead of two centred passes: kept if glu_stats is faster with it.
single_pass = True

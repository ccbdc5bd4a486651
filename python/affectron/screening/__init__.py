"""Screening: statistics of every neuron over a labelled corpus, in one pass."""

"""Mixtures of experts: each expert is a site of its own."""

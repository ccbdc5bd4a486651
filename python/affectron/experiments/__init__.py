"""Experiments on the neurons of labels, one module each, and their results."""

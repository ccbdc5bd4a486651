"""Find, test and steer the MLP neurons of a language model."""

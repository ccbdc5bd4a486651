"""Find, test and steer the MLP neurons of a language model."""

from importlib.metadata import version

__version__ = version("affectron")

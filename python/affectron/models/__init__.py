"""Models of transformers: where their MLP neurons are, how to measure and steer them, how to load them."""

from affectron.models.compaction import compact
from affectron.models.intervention import Steering, intervene
from affectron.models.layout import Kernel, Site
from affectron.models.load import config_hash, fingerprint, load_model, load_skeleton, tokenizer_hash
from affectron.models.sites import attach, evaluating, find_sites, max_length
from affectron.models.sweeps import sweep

__all__ = [
    "Kernel",
    "Site",
    "Steering",
    "attach",
    "compact",
    "config_hash",
    "evaluating",
    "find_sites",
    "fingerprint",
    "intervene",
    "load_model",
    "load_skeleton",
    "max_length",
    "sweep",
    "tokenizer_hash",
]
